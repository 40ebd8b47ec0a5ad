"""The features of some networks, each picture encoded when it is first asked for; nothing is kept beyond memory.

Behind them may stand features that are known already, of networks that are not asked again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headstart import arrays
from headstart.encoding import features
from headstart.encoding.backbone import Backbone
from headstart.encoding.encoder import Encoder
from headstart.errors import DataError
from headstart.records import Dataset, Floats, Integers, Progress, listing, numbered, silence


class OnDemand:
    """What networks see in the pictures of a dataset, and beside it what others have seen.

    Attributes:
        encoders: The engine of each that was taken in the end.
        epochs: For how many the networks were trained.
        of: So many it would have been at most, over which its learning rate falls.
    """

    def __init__(
        self,
        dataset: Dataset,
        digests: Sequence[str],
        encoders: Sequence[Encoder],
        *,
        beside: Floats | None = None,
        views: Sequence[str] = ("original",),
        epochs: int = 0,
        of: int = 0,
        progress: Progress = silence,
    ) -> None:
        """Know nothing yet.

        Args:
            dataset: N samples.
            digests: (N,) SHA-256 of their bytes.
            encoders: That compute the features, which stand side by side.
            beside: (N, E) what is known of all pictures and stands behind them; None: nothing.
            views: Of each picture, whose mean the features are.
            epochs: See the class.
            of: See the class.
            progress: Hears of every picture.
        """
        self.encoders, self.epochs, self.of = tuple(encoders), epochs, of
        self._dataset, self._digests, self._progress = dataset, digests, progress
        self._views = tuple(views)
        self._width = sum(encoder.dim for encoder in encoders)
        width = self._width + (0 if beside is None else beside.shape[1])
        self._values: Floats = arrays.zeros((len(dataset), width), None)
        for part, values in () if beside is None else arrays.blocks(beside):
            self._values[part, self._width :] = values
            arrays.release(self._values)
        self._known = np.zeros(len(dataset), dtype=bool)

    @property
    def backbone(self) -> Backbone:
        """The networks."""
        return Backbone(tuple(encoder.network for encoder in self.encoders))

    def table(self, rows: Integers) -> Floats:
        """Return (N, D + E) features, of which those of these rows are computed.

        Raises:
            DataError: A picture can no longer be used, or has changed since it was first read.
        """
        missing = np.unique(rows)
        missing = missing[~self._known[missing]]
        if len(missing):
            part, digests = self._dataset.select(missing), [self._digests[row] for row in missing]
            extracted = features.extract(part, digests, self.encoders, views=self._views, progress=self._progress)
            table, self.encoders, _ = extracted
            if lost := sorted({part[row].name for row in table.failures} | set(table.changed)):
                raise no_longer(lost)
            for some, values in arrays.blocks(features.mean(table.values)[:, 0]):
                self._values[missing[some], : self._width] = values
                arrays.release(self._values)
            self._known[missing] = True
        return self._values


def no_longer(names: Sequence[str]) -> DataError:
    """Return the error that says that pictures are not what they were when the training began."""
    return DataError(
        numbered("{n} [picture|pictures] changed, or can no longer be read, while being learned from: ", len(names))
        + f"{listing(names)}.",
        "Leave the pictures as they are until the training is done, and begin again.",
    )
