"""Blocks of pictures → their answers, computed by workers of a cluster, each with the model loaded for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from headstart.delivery.blocks import Gauge, Task
from headstart.delivery.parts import Computed
from headstart.delivery.reports import told
from headstart.delivery.workers import Job
from headstart.encoding.encoder import Encoder
from headstart.errors import ArtifactError
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.records import Dataset, Preprocess
from headstart.scale import crew as crews
from headstart.scale.address import Address
from headstart.scale.hand import Block, Done, Recipe, compared, recipe


@dataclass(frozen=True)
class Predicting:
    """The job of a worker that predicts."""

    job: Job

    def begin(self) -> Answering:
        """Load the model, and compare its engine.

        Raises:
            ArtifactError: It is not there, or damaged.
        """
        try:
            classifier = artifact.load_classifier(self.job.model, self.job.asked)
        except ArtifactError as error:
            raise ArtifactError(
                f"On a machine of the cluster: {error.message}",
                "The model must lie where all machines of the cluster have it under the same path.",
            ) from error
        return Answering(self.job, classifier)


class Answering:
    """A worker's model."""

    def __init__(self, job: Job, classifier: Classifier) -> None:
        """Keep the model, and what stays open between two blocks."""
        self._job, self._classifier = job, classifier
        self._next: list[Dataset] = []
        self._answers = classifier.predict_blocks(iter(self._next.pop, None), cache=job.cache)

    @property
    def recipe(self) -> Recipe:
        """See `Work`."""
        return _recipe([compared(one) for one in self._classifier.encoders], self._classifier.digest)

    @property
    def preprocesses(self) -> Sequence[Preprocess]:
        """See `Work`."""
        return [one.preprocess for one in self._classifier.encoders]

    def do(self, block: Block, deadly: Mapping[int, str]) -> Done:
        """Return the part of a block."""
        if deadly:
            said = self._classifier.predict_many(block.dataset, cache=self._job.cache, failures=deadly)
        else:
            self._next.append(block.dataset)
            said = next(self._answers)
        return Done(Computed(block.number, self._job.encode(said), told(said)), list(said.errors))


def in_cluster(
    address: Address, job: Job, classifier: Classifier, tasks: Iterator[Task], gauge: Gauge, *, in_order: bool
) -> Iterator[Computed]:
    """Yield blocks as the workers of a cluster compute them.

    Args:
        address: Which cluster.
        job: What each worker is told; its folders are seen by all of them.
        classifier: The model, as it is loaded here.
        tasks: The blocks, numbered one after the other if they shall be yielded in order.
        gauge: Hears of workers that begin.
        in_order: Whether a block waits for those before it.

    Raises:
        HeadstartError: See `Crew.work`.
    """
    ours = _recipe(classifier.encoders, job.digest)
    cache = None if job.cache is None else job.cache.resolve()
    sent = Predicting(replace(job, model=job.model.resolve(), cache=cache))
    graphics = classifier.encoders[0].plan.device == "cuda"
    blocks = (Block.of(number, dataset) for number, dataset in tasks)
    with (
        crews.opened(address, gauge.progress, graphics=graphics) as cluster,
        crews.gathered(cluster, sent, ours, gauge.progress) as crew,
    ):
        for answer in crew.work(blocks, in_order=in_order):
            yield answer.value


def _recipe(encoders: Sequence[Encoder], model: str) -> dict[str, str]:
    return recipe(encoders) | {"the model": model}
