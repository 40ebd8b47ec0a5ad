"""Pictures by the million → rows on a pipe or in a file, block by block: memory holds one block, and a flag a picture.

A file is whole or not there. Until it is, its parts are kept beside it, see `parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart import storage
from headstart.config import EncoderConfig
from headstart.data.listings import Listing
from headstart.delivery import blocks, clustered, forms, workers
from headstart.delivery.blocks import Gauge
from headstart.delivery.forms import Form, Lines
from headstart.delivery.parts import Computed, Held, Parts, differing, job
from headstart.delivery.reports import Report, told
from headstart.model.classifier import Classifier
from headstart.records import Progress
from headstart.scale import address as addresses

SOON = 256  # pictures of a block whose rows somebody waits for
_HINT = "Make room, or name another file with --out; the same command then goes on from what is there."


@dataclass(frozen=True)
class Request:
    """What is asked, and who answers.

    Attributes:
        model: The directory of the model.
        asked: As it was asked for when the model was loaded, see `artifact.load_classifier`.
        classifier: The model.
        pictures: That are predicted.
        form: How answers are written.
        cache: As in `Classifier.predict_many`.
        processes: How many predict side by side.
        piped: The bytes of the only picture, where it is no file.
        cluster: Whose workers predict, as `scale.address.parse` takes it; None: this machine does.
    """

    model: Path
    asked: EncoderConfig | None
    classifier: Classifier
    pictures: Listing
    form: Form
    cache: Path | None = None
    processes: int = 1
    piped: bytes | None = None
    cluster: str | None = None

    def computed(self, numbers: Sequence[int], size: int, gauge: Gauge, *, in_order: bool) -> Iterator[Computed]:
        """Yield blocks of so many pictures as they are computed.

        Args:
            numbers: Which; of all that there are, if they shall come in order.
            size: Of a block.
            gauge: Hears of it.
            in_order: Whether they come one after the other.
        """
        if self.piped is not None:
            said = self.classifier.predict_many([self.piped], cache=self.cache)
            said = replace(said, names=tuple(self.pictures.names()))
            return gauge.watched([Computed(0, self.form.encode(said), told(said))])
        tasks, processes = blocks.tasks(self.pictures, numbers, size), min(self.processes, len(numbers))
        crew = workers.Job(self.model, self.asked, self.cache, self.form.encode, self.classifier.digest)
        if self.cluster is not None and numbers:
            place = addresses.parse(self.cluster)
            return gauge.watched(clustered.in_cluster(place, crew, self.classifier, tasks, gauge, in_order=in_order))
        if processes < 2:
            return gauge.watched(
                blocks.in_turn(self.classifier, tasks, self.form, cache=self.cache, progress=gauge.hear)
            )
        return gauge.watched(workers.in_parallel(processes, crew, tasks, hear=gauge.hear, in_order=in_order))


def to_stream(request: Request, write: Callable[[bytes], None], progress: Progress) -> Report:
    """Write answers as they are computed, or where their form does not allow it, at the end.

    Args:
        request: What is asked.
        write: Takes what is to be written.
        progress: Hears of every picture.

    Returns:
        What there is to tell.
    """
    form, pictures = request.form, len(request.pictures)
    size = SOON if isinstance(form, Lines) else forms.BLOCK
    report, held, gauge = Report(pictures), Held(), Gauge(progress, 0, pictures)
    for one in request.computed(range(-(-pictures // size)), size, gauge, in_order=True):
        report.add(one.told)
        if isinstance(form, Lines):
            write(one.part if one.number else form.head + one.part)
        else:
            held.put(one)
    if not isinstance(form, Lines):
        form.finish([held.part(number) for number in range(len(held))], write)
    return report


def to_file(
    request: Request,
    out: Path,
    progress: Progress,
    say: Callable[[str], None],
    send: Callable[[Path], None] | None = None,
) -> Report:
    """Keep the parts of blocks, and put the file together once all are there.

    Args:
        request: What is asked.
        out: The file, which is whole or not there.
        progress: Hears of every picture.
        say: Takes what a person should know of parts that were there.
        send: Brings the file where it shall lie, if that is elsewhere.

    Returns:
        What there is to tell.

    Raises:
        StorageError: The disk is full, a folder cannot be written, or the file not be sent; parts stay where they are.
    """
    pictures = len(request.pictures)
    belongs = job(request.classifier, request.pictures, request.form)
    report = Report(pictures)
    again = request.cache is not None  # where all others' features are
    with Parts(out, belongs, again) if request.piped is None else Held() as kept:
        for line in differing(kept.others()):
            say(line)
        if kept.done:
            say(f"Going on: {kept.done:,} of {pictures:,} pictures have their rows already.")
        numbers = [number for number in range(-(-pictures // forms.BLOCK)) if number not in kept]
        for one in request.computed(numbers, forms.BLOCK, Gauge(progress, kept.done, pictures), in_order=False):
            kept.put(one)
        with storage.storage_errors(out, _HINT), storage.whole(out, folder=kept.folder) as file:
            request.form.finish([kept.part(number) for number in range(len(kept))], file.write)
            for number in range(len(kept)):
                report.add(kept.told(number))
        if send is not None:
            send(out)
    return report
