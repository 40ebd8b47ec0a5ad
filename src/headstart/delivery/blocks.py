"""Pictures → blocks of them, and their answers one after the other, computed in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from headstart.data.listings import Listing
from headstart.delivery.forms import Form
from headstart.delivery.parts import Computed
from headstart.delivery.reports import told
from headstart.encoding.cache import CacheChoice
from headstart.model.classifier import Classifier
from headstart.records import Dataset, Progress

Task = tuple[int, Dataset]  # the number of a block, and its pictures


def tasks(pictures: Listing, numbers: Iterable[int], size: int) -> Iterator[Task]:
    """Yield the pictures of blocks, each when it is asked for."""
    return ((number, pictures.dataset(number * size, (number + 1) * size)) for number in numbers)


def in_turn(
    classifier: Classifier, asked: Iterable[Task], form: Form, *, cache: CacheChoice, progress: Progress
) -> Iterator[Computed]:
    """Yield blocks one after the other, computed in this process.

    Args:
        classifier: What is asked.
        asked: The blocks.
        form: How answers are written.
        cache: As in `Classifier.predict_many`.
        progress: Hears of every picture of a block, and of its end.
    """
    numbers: list[int] = []

    def pictures() -> Iterator[Dataset]:
        for number, dataset in asked:
            numbers.append(number)
            yield dataset

    for said in classifier.predict_blocks(pictures(), cache=cache, progress=progress):
        yield Computed(numbers.pop(), form.encode(said), told(said))


class Gauge:
    """A progress of blocks, told as one of all pictures."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        """Tell how far it is.

        Args:
            progress: Hears of it.
            done: Pictures that were done before.
            total: All pictures.
        """
        self.progress, self.done, self.total = progress, done, total
        self.now = 0
        self._tell()

    def hear(self, stage: str, done: int, total: int) -> None:
        """Hear how far the block is that is worked on."""
        self.now = done
        self._tell()

    def watched(self, computed: Iterable[Computed]) -> Iterator[Computed]:
        """Yield the blocks, and count each when it is there."""
        for one in computed:
            self.done, self.now = self.done + one.told.pictures, 0
            self._tell()
            yield one

    def _tell(self) -> None:
        self.progress("Predicting", min(self.done + self.now, self.total), self.total)
