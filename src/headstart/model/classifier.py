"""A `Classifier`: picture → preprocess → backbone → head → rules → class names, five hops without a branch on how
it was trained. It reads pictures and returns predictions; it trains nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from headstart.data import images, sources
from headstart.encoding import features
from headstart.encoding.backbone import Backbone
from headstart.encoding.features import Extraction
from headstart.encoding.runtime import Encoder
from headstart.errors import ConfigError, PictureError
from headstart.inspection import files
from headstart.learning import rules
from headstart.learning.heads import Head
from headstart.learning.rules import PredictionRules
from headstart.records import (
    ClassNames,
    Dataset,
    Floats,
    Prediction,
    Predictions,
    Preprocess,
    Progress,
    Provenance,
    silence,
)


@dataclass(frozen=True, slots=True)
class Classifier:
    """Everything that a prediction needs, in one piece.

    Attributes:
        backbone: Pictures → features, with its weights.
        encoder: The engine that runs it.
        head: Features → logits.
        rules: Logits → probabilities, sets of classes, "none of these".
        classes: K names, in the order of the head's outputs.
        provenance: Where it comes from; decides nothing.
    """

    backbone: Backbone
    encoder: Encoder
    head: Head
    rules: PredictionRules
    classes: ClassNames
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def temperature(self) -> float:
        """What the logits are divided by, > 0."""
        return self.rules.calibration.temperature

    @property
    def preprocess(self) -> Preprocess:
        """How pictures are prepared."""
        return self.backbone.preprocess

    def predict(self, picture: str | Path) -> Prediction:
        """Return what the model says of one picture file.

        Raises:
            PictureError: The file cannot be used; its text says why.
        """
        dataset = sources.read_pictures([picture])
        if len(dataset) != 1:
            raise ConfigError(f"{str(picture)!r} stands for {len(dataset)} pictures.", "predict_many takes them.")
        prediction = self.predict_many(dataset)[0]
        if prediction.error is not None:
            raise PictureError(f"{picture}: {prediction.error}")
        return prediction

    def predict_many(
        self,
        pictures: Dataset | Sequence[str | Path],
        *,
        cache: Path | None = None,
        progress: Progress = silence,
    ) -> Predictions:
        """Return calibrated probabilities of many pictures, in their order.

        A picture that cannot be used keeps its row, marked with the reason, and changes no other row.

        Args:
            pictures: A dataset, or files, folders and glob patterns.
            cache: A folder for features that are worth keeping; None: keep nothing.
            progress: Hears of every picture.
        """
        dataset = pictures if isinstance(pictures, Dataset) else sources.read_pictures(pictures)
        table = self.extract(dataset, cache=cache, progress=progress).table
        return self.judge(dataset, table.values[:, 0], table.failures)

    def predict_proba(self, pictures: Sequence[str | Path]) -> Floats:
        """Return (N, K) probabilities, rows sum to 1; NaN in rows of pictures that cannot be used."""
        return self.predict_many(pictures).probabilities.astype(np.float32)

    def embed(self, pictures: Sequence[str | Path], *, cache: Path | None = None) -> Floats:
        """Return (N, D) features; NaN in rows of pictures that cannot be used."""
        table = self.extract(sources.read_pictures(pictures), cache=cache).table
        values = table.values[:, 0]
        values[list(table.failures)] = np.nan
        return values

    def extract(self, dataset: Dataset, *, cache: Path | None = None, progress: Progress = silence) -> Extraction:
        """Return the features of a dataset as this classifier's encoder computes them."""
        with images.quiet_pillow():
            digests, _ = files.fingerprints(dataset, progress)
        return features.extract(dataset, digests, self.encoder, self.backbone, cache=cache, progress=progress)

    def judge(self, dataset: Dataset, values: Floats, failures: Mapping[int, str] | None = None) -> Predictions:
        """Return the predictions of features that were computed before: head, then rules.

        Args:
            dataset: N samples; their labels, where there are any, become the targets.
            values: (N, D).
            failures: Row → why its picture could not be used.
        """
        said = rules.apply(self.rules, self.head.logits(values), values)
        failures = dict(failures or {})
        unusable = list(failures)
        said.probabilities[unusable] = np.nan
        for known in (said.sets, said.known):
            if known is not None:
                known[unusable] = False
        if said.p_value is not None:
            said.p_value[unusable] = np.nan
        return Predictions(
            tuple(s.name for s in dataset),
            self.classes,
            said.probabilities,
            failures,
            dataset.labels if any(label is not None for label in dataset.labels) else None,
            sets=said.sets,
            p_value=said.p_value,
            known=said.known,
        )
