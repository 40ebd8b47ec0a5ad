"""A `Classifier`: picture → preprocess → backbone → head → rules → class names, five hops without a branch on how
it was trained. It takes pictures in whatever form a caller has them and returns predictions; it trains nothing, writes
nothing, and may be asked by several threads at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.data import pictures as forms
from headstart.data.pictures import AnyPicture, InMemory, Pictures
from headstart.encoding import cache as caches
from headstart.encoding import features
from headstart.encoding.backbone import Backbone
from headstart.encoding.cache import CacheChoice
from headstart.encoding.encoder import Encoder
from headstart.encoding.features import NOT_FINITE, VIEWS, Extraction
from headstart.encoding.opened import Opened
from headstart.errors import ConfigError, PictureError
from headstart.inspection import files
from headstart.learning import rules
from headstart.learning.heads import Head
from headstart.learning.rules import Applied, PredictionRules
from headstart.predictions import Prediction, Predictions
from headstart.records import (
    ClassNames,
    Dataset,
    Displayable,
    Finding,
    Floats,
    Preprocess,
    Progress,
    Provenance,
    silence,
)

OFTEN = 5.0  # seconds after which it is noted what was read


@dataclass(frozen=True, slots=True, repr=False)
class Classifier(Displayable):
    """Everything that a prediction needs, in one piece.

    A picture is the path of a file, the bytes of one, an image of Pillow, or a uint8 array: (H, W) or (H, W, 1) grey,
    (H, W, 3) RGB, (H, W, 4) RGB and opacity. One that is not a file is called `picture i` after its place in the list.

    Attributes:
        backbone: Pictures → features, with its weights.
        encoders: The engine of each of its networks.
        head: Features → logits.
        rules: Logits → probabilities, sets of classes, "none of these".
        classes: K names, in the order of the head's outputs.
        provenance: Where it comes from; decides nothing.
        views: Of each picture, from `features.VIEWS`: its features are the mean over them.
        digest: Of all that decides an answer, as its folder told when it was loaded; empty if it was not.
    """

    backbone: Backbone
    encoders: tuple[Encoder, ...]
    head: Head
    rules: PredictionRules
    classes: ClassNames
    provenance: Provenance = field(default_factory=Provenance)
    views: tuple[str, ...] = VIEWS[:1]
    digest: str = field(default="", repr=False, compare=False)

    @property
    def temperature(self) -> float:
        """What the logits are divided by, > 0."""
        return self.rules.calibration.temperature

    @property
    def preprocess(self) -> Preprocess:
        """How pictures are prepared for the first network; each has its own in `backbone.networks`."""
        return self.backbone.preprocess

    def __repr__(self) -> str:
        """Return one line: classes, networks, views where there are several, head, engine."""
        plan, kind = self.encoders[0].plan, self.head.shape.describe()["kind"]
        seen = self.backbone.description + (f", {' and '.join(self.views)}" if len(self.views) > 1 else "")
        return f"Classifier({len(self.classes)} classes, {seen}, {kind} head, {plan.engine} {plan.precision})"

    def predict(self, picture: AnyPicture) -> Prediction:
        """Return what the model says of one picture.

        Raises:
            PictureError: It cannot be used; the text says why.
            ConfigError: It is no picture, or stands for several.
        """
        dataset, memory = forms.gather([picture])
        if len(dataset) != 1:
            raise ConfigError(f"{str(picture)!r} stands for {len(dataset)} pictures.", "predict_many takes them.")
        prediction = self._predict(dataset, memory)[0]
        if prediction.error is not None:
            raise PictureError(f"{prediction.path}: {prediction.error}")
        return prediction

    def predict_many(
        self,
        pictures: Pictures,
        *,
        cache: CacheChoice = None,
        progress: Progress = silence,
        failures: Mapping[int, str] = MappingProxyType({}),
    ) -> Predictions:
        """Return calibrated probabilities of many pictures, in their order.

        A picture that cannot be used keeps its row, marked with the reason, and changes no other row.

        Args:
            pictures: A dataset, or pictures in any form, mixed as you like; paths may be files, folders, glob
                patterns, tars, and URIs of these. An array (N, H, W, channels) is N pictures.
            cache: A folder for features that are worth keeping, or `DEFAULT`; None: keep nothing.
            progress: Hears of every picture.
            failures: As in `features.extract`.

        Raises:
            ConfigError: Something is no picture, or a path stands for none.
        """
        return self._predict(*forms.gather(pictures), cache=cache, progress=progress, failures=failures)

    def predict_blocks(
        self, blocks: Iterable[Pictures], *, cache: CacheChoice = None, progress: Progress = silence
    ) -> Iterator[Predictions]:
        """Yield the predictions of blocks of pictures, one after the other, of however many there are.

        The answers are those of `predict_many`; in memory is one block at a time.

        Args:
            blocks: Each what `predict_many` takes; the next one is asked for when it is due.
            cache: As in `predict_many`.
            progress: Hears of every picture of each block.
        """
        with Opened() as opened:
            for block in blocks:
                said = self._predict(*forms.gather(block), cache=cache, progress=progress, opened=opened)
                opened.keep(after=OFTEN)  # who asked may end this process before it asks again
                yield said

    def predict_proba(self, pictures: Pictures) -> Floats:
        """Return (N, K) probabilities, rows sum to 1; NaN in rows of pictures that cannot be used."""
        return self.predict_many(pictures).probabilities.astype(np.float32)

    def embed(self, pictures: Pictures, *, cache: CacheChoice = None) -> Floats:
        """Return (N, D) features; NaN in rows of pictures that cannot be used. `cache` as in `predict_many`."""
        dataset, memory = forms.gather(pictures)
        table = self.extract(dataset, cache=cache, memory=memory).table
        values = table.values[:, 0]
        values[list(table.failures)] = np.nan
        return values

    def extract(
        self,
        dataset: Dataset,
        *,
        cache: CacheChoice = None,
        progress: Progress = silence,
        memory: Mapping[int, InMemory] | None = None,
        opened: Opened | None = None,
        failures: Mapping[int, str] = MappingProxyType({}),
    ) -> Extraction:
        """Return the features of a dataset as this classifier's encoders compute them; each file is read once.

        They are the mean over its views, so the table has one view, whatever their number.

        Args:
            dataset: N samples.
            cache: As in `predict_many`.
            progress: Hears of every picture.
            memory: Row → its picture, where that is not a file.
            opened: As in `features.extract`.
            failures: As in `features.extract`.
        """
        extraction = features.extract(
            dataset,
            None,
            self.encoders,
            views=self.views,
            cache=caches.resolve(cache),
            progress=progress,
            memory=memory,
            opened=opened,
            failures=failures,
        )
        table = extraction.table
        return extraction._replace(table=replace(table, values=features.mean(table.values)))

    def head_logits(self, values: ArrayLike) -> Floats:
        """Return (N, K) float32 logits of (N, D) features, e.g. those of `embed`; what is not finite stays so.

        Raises:
            ConfigError: The features have another shape.
        """
        return self.head.logits(self._features(values))

    def predict_features(
        self,
        values: ArrayLike,
        names: Sequence[str] | None = None,
        *,
        targets: Sequence[str | None] | None = None,
        failures: Mapping[int, str] | None = None,
        findings: Iterable[Finding] = (),
    ) -> Predictions:
        """Return the predictions of features that were computed before: head, then rules.

        A row with numbers that are not finite, or that come to such, is an error like a picture that cannot be used.

        Args:
            values: (N, D), e.g. those of `embed`.
            names: N names; None: `picture 0`, `picture 1`, …
            targets: N given labels, where there are any.
            failures: Row → why its picture could not be used.
            findings: What to tell of these pictures.

        Raises:
            ConfigError: Features, names or targets are not of the same number, or of the wrong width.
        """
        known = self._features(values)
        names = tuple(f"picture {row}" for row in range(len(known))) if names is None else tuple(names)
        targets = None if targets is None or all(label is None for label in targets) else tuple(targets)
        if {len(names), len(known if targets is None else targets)} != {len(known)}:
            raise ConfigError(
                f"{len(known)} rows of features came with {len(names)} names"
                + (f" and {len(targets)} targets." if targets is not None else "."),
                "Give one of each for every row.",
            )
        said, finite = self._apply(known)
        failures = dict.fromkeys(np.flatnonzero(~finite).tolist(), NOT_FINITE) | dict(failures or {})
        unusable = sorted(failures)
        said.probabilities[unusable] = np.nan
        for flags in (said.sets, said.known):
            if flags is not None:
                flags[unusable] = False
        if said.p_value is not None:
            said.p_value[unusable] = np.nan
        return Predictions(
            names,
            self.classes,
            said.probabilities,
            {row: failures[row] for row in unusable},
            targets,
            sets=said.sets,
            p_value=said.p_value,
            known=said.known,
            findings=tuple(findings),
        )

    def _predict(
        self,
        dataset: Dataset,
        memory: Mapping[int, InMemory],
        *,
        cache: CacheChoice = None,
        progress: Progress = silence,
        opened: Opened | None = None,
        failures: Mapping[int, str] = MappingProxyType({}),
    ) -> Predictions:
        table = self.extract(
            dataset, cache=cache, progress=progress, memory=memory, opened=opened, failures=failures
        ).table
        return self.predict_features(
            table.values[:, 0],
            dataset.names,
            targets=dataset.labels,
            failures=table.failures,
            findings=files.remarks(table.observations),
        )

    def _apply(self, values: Floats) -> tuple[Applied, NDArray[np.bool_]]:
        """Return what the rules make of (N, D) features, and which rows are finite from end to end."""
        logits = self.head.logits(values)
        finite = _finite(values) & _finite(logits)
        if not finite.all():  # the rules need not know such numbers
            values, logits = (np.where(finite[:, None], part, np.float32(0)) for part in (values, logits))
        said = rules.apply(self.rules, logits, values)
        return said, finite & _finite(said.probabilities)

    def _features(self, values: ArrayLike) -> Floats:
        known = np.ascontiguousarray(values, dtype=np.float32)
        if known.ndim != 2 or known.shape[1] != self.backbone.dim:
            raise ConfigError(
                f"Expected features of the shape (N, {self.backbone.dim}); got {known.shape}.",
                "`embed` gives them; one picture's are `features[None]`.",
            )
        return known


def _finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of a table are finite numbers."""
    return np.asarray(np.isfinite(values).all(axis=1), dtype=np.bool_)
