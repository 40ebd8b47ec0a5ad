"""What a worker does that encodes, or that reads files to know their digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from headstart.config import EncoderConfig
from headstart.encoding import features, runtime
from headstart.encoding.encoder import Encoder
from headstart.encoding.opened import Opened
from headstart.errors import StorageError
from headstart.inspection import files
from headstart.plans import EncoderPlan
from headstart.records import Preprocess
from headstart.scale.hand import Block, Done, Recipe, recipe
from headstart.scale.shipped import Shipped


@dataclass(frozen=True)
class Encoding:
    """The job of a worker that encodes; fields as the arguments of `features.extract`, and a file that all must see."""

    networks: tuple[Shipped, ...]
    plan: EncoderPlan
    views: tuple[str, ...]
    with_properties: bool
    cache: Path
    mark: str

    def begin(self) -> Encoders:
        """Look for the cache, and build the encoders.

        Raises:
            ConfigError: This machine cannot run them as asked.
            StorageError: The cache is not the one that everybody else sees.
        """
        if not (self.cache / self.mark).exists():
            raise StorageError(
                f"A machine of the cluster does not see the cache folder {self.cache}, or sees another one.",
                "Name a folder that all machines have under the same path with HEADSTART_CACHE.",
            )
        runtime.choose(EncoderConfig(**asdict(self.plan)))
        return Encoders(self, tuple(one.encoder(self.plan) for one in self.networks))


@dataclass
class Encoders:
    """A worker's encoders, and the stores that they fill."""

    job: Encoding
    encoders: tuple[Encoder, ...]
    opened: Opened = field(default_factory=Opened)

    @property
    def recipe(self) -> Recipe:
        """See `Work`."""
        return recipe(self.encoders)

    @property
    def preprocesses(self) -> Sequence[Preprocess]:
        """See `Work`."""
        return [one.preprocess for one in self.encoders]

    def do(self, block: Block, deadly: Mapping[int, str]) -> Done:
        """Commit the features of a block, and say how many were computed."""
        table = features.extract(
            block.dataset,
            block.digests,
            self.encoders,
            views=self.job.views,
            with_properties=self.job.with_properties,
            cache=self.job.cache,
            opened=self.opened,
            failures=deadly,
        ).table
        return Done(table.encoded, sorted(table.failures))


@dataclass(frozen=True)
class Hashing:
    """The job of a worker that reads files to know their digests; its own work, since there is nothing to load."""

    preprocesses: tuple[Preprocess, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """See `Work`."""
        return recipe(())

    def begin(self) -> Self:
        """Load nothing."""
        return self

    def do(self, block: Block, deadly: Mapping[int, str]) -> Done:
        """Return what `files.fingerprints` does."""
        digests, failures = files.fingerprints(block.dataset)
        return Done((digests, failures), sorted(failures))
