"""The features of some network, each picture encoded when it is first asked for; nothing is kept beyond memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headstart.encoding import features
from headstart.encoding.runtime import Encoder
from headstart.errors import DataError
from headstart.records import Dataset, Floats, Integers, Progress, listing, silence


class OnDemand:
    """What a network sees in the pictures of a dataset.

    Attributes:
        encoder: The engine that was taken in the end.
        epochs: For how many the network was trained.
        of: So many it would have been at most, over which its learning rate falls.
    """

    def __init__(
        self,
        dataset: Dataset,
        digests: Sequence[str],
        encoder: Encoder,
        *,
        epochs: int = 0,
        of: int = 0,
        progress: Progress = silence,
    ) -> None:
        """Know nothing yet.

        Args:
            dataset: N samples.
            digests: (N,) SHA-256 of their bytes.
            encoder: That computes the features.
            epochs: See the class.
            of: See the class.
            progress: Hears of every picture.
        """
        self.encoder, self.epochs, self.of = encoder, epochs, of
        self._dataset, self._digests, self._progress = dataset, tuple(digests), progress
        self._values: Floats = np.zeros((len(dataset), encoder.dim), dtype=np.float32)
        self._known = np.zeros(len(dataset), dtype=bool)

    def table(self, rows: Integers) -> Floats:
        """Return (N, D) features, of which those of these rows are computed.

        Raises:
            DataError: A picture can no longer be used, or has changed since it was first read.
        """
        missing = np.unique(rows)
        missing = missing[~self._known[missing]]
        if len(missing):
            part, digests = self._dataset.select(missing), [self._digests[row] for row in missing]
            table, self.encoder, _ = features.extract(part, digests, self.encoder, progress=self._progress)
            if lost := sorted({part[row].name for row in table.failures} | set(table.changed)):
                raise no_longer(lost)
            self._values[missing], self._known[missing] = table.values[:, 0], True
        return self._values


def no_longer(names: Sequence[str]) -> DataError:
    """Return the error that says that pictures are not what they were when the training began."""
    return DataError(
        f"{len(names)} picture(s) changed, or can no longer be read, while they were learned from: {listing(names)}.",
        "Leave the pictures as they are until the training is done, and begin again.",
    )
