"""What a process does that trains networks together with others: it joins them, trains in a thread, and tells of it.

Pictures travel as names, networks as weights. The processes find one another at an address of the first one, and what
goes between them are numbers: nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from headstart.data import limits
from headstart.encoding import weights
from headstart.encoding.backbone import Backbone
from headstart.errors import HeadstartError
from headstart.learning import finetune
from headstart.learning.augment import Augmentation
from headstart.learning.clock import Limits
from headstart.learning.heads import Head, ignore
from headstart.learning.task import Rows, Task, Tuned
from headstart.learning.together import Together
from headstart.records import Preprocess, silence
from headstart.scale.hand import Block, Done, Recipe
from headstart.scale.shipped import Shipped

JOINING = timedelta(minutes=2)  # in which processes find one another
SILENT = timedelta(minutes=10)  # after which one that says nothing is given up by the others
OFTEN = 0.5  # seconds in which somebody who asks is answered
_ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR


class Join(NamedTuple):
    """Whom a process joins.

    Attributes:
        place: Its own among them, from 0.
        size: How many they are.
        own: Its address.
        first: That of the first one.
        port: Where the first one listens; 0: it takes a free one.
        left: Seconds until the deadline; None: there is none.
    """

    place: int
    size: int
    own: str
    first: str
    port: int
    left: float | None


class Look(NamedTuple):
    """How far is it? And is it enough?"""

    stop: bool


class Far(NamedTuple):
    """How far it is, as `Progress` hears it."""

    stage: str
    done: int
    total: int


class Lost(NamedTuple):
    """Why a process can train no more: another has gone, perhaps."""

    reason: str


class Learned(NamedTuple):
    """What a fine-tuning gave: the weights of each network, and what else `Tuned` holds."""

    weights: tuple[bytes, ...]
    told: Mapping[str, Any]

    @classmethod
    def of(cls, tuned: Tuned) -> Learned:
        """Return the same as it travels."""
        told = {one.name: getattr(tuned, one.name) for one in fields(tuned) if one.name != "backbone"}
        return cls(tuple(weights.content(one.module) for one in tuned.backbone.networks), told)


@dataclass(frozen=True)
class Training:
    """The job of a process that trains.

    Attributes:
        networks: That are trained.
        seen: How their pictures are read; its features have no values.
        asked: The other fields of `Task` that can travel.
        head, rows, start: As of `finetune.fit`.
    """

    networks: tuple[Shipped, ...]
    seen: Augmentation
    asked: Mapping[str, Any]
    head: Head
    rows: Rows
    start: tuple[float, float]

    @classmethod
    def of(cls, task: Task, head: Head, rows: Rows) -> Training:
        """Return the job of what `finetune.fit` is asked."""
        known = task.augmentation.features
        named = Block.of(0, known.dataset).dataset
        bare = replace(known, dataset=named, values=np.empty((len(known), 1, 0), np.float32))
        checkpoints = task.checkpoints and task.checkpoints.resolve()
        return cls(
            tuple(Shipped.trainable(one) for one in task.backbone.networks),
            replace(task.augmentation, features=bare),
            {"plan": task.plan, "device": task.device, "balanced": task.balanced, "checkpoints": checkpoints},
            replace(head),  # without what was made ready of it
            rows,
            finetune.began(task, head, rows),
        )

    def begin(self) -> Member:
        """Build the networks."""
        backbone = Backbone(tuple(one.network() for one in self.networks))
        return Member(self, Task(self.seen, backbone, **self.asked))


def recipe(backbone: Backbone) -> dict[str, str]:
    """Return what decides a training in this process, besides PyTorch and the pictures."""
    told = {f"the version of {name}": version(name) for name in ("timm", "torchvision")}
    weighed = enumerate(backbone.networks, start=1)
    return told | {f"the weights of network {number} ({one.name})": one.digest for number, one in weighed}


class Member:
    """One of those that train together."""

    def __init__(self, job: Training, task: Task) -> None:
        """Keep what is to be done; it begins with the word whom to join."""
        self._job, self._task = job, task
        self._enough = threading.Event()
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @property
    def recipe(self) -> Recipe:
        """See `Work`."""
        return recipe(self._task.backbone)

    @property
    def preprocesses(self) -> Sequence[Preprocess]:
        """See `Work`."""
        return ()

    def do(self, block: Block, deadly: Mapping[int, str]) -> Done:
        """Join the others, and say where the first one listens; or say what is new, the newest last.

        Raises:
            HeadstartError: The first one cannot be reached.
        """
        word: Join | Look = block.asked
        return Done(self._join(word) if isinstance(word, Join) else self._said(word))

    def _join(self, word: Join) -> int:
        try:
            store = _store(word)
        except (OSError, RuntimeError) as error:
            raise HeadstartError(
                f"A process at {word.own} cannot join the first one at {word.first}: {_line(error)}",
                "Machines that train together must reach one another: see “A cluster” in docs/guides/scale.md.",
            ) from error
        threading.Thread(target=self._train, args=(store, word), daemon=True).start()
        return int(store.port)

    def _said(self, word: Look) -> list[Any]:
        if word.stop:
            self._enough.set()
        news = []
        with contextlib.suppress(queue.Empty):
            news.append(self._news.get(timeout=OFTEN))
            while True:
                news.append(self._news.get_nowait())
        return news

    def _train(self, store: TCPStore, word: Join) -> None:
        """Train; the first one tells how far it is, and all tell what goes wrong."""
        job, is_first = self._job, word.place == 0
        deadline = None if word.left is None else time.monotonic() + word.left
        task = replace(
            self._task,
            limits=Limits(deadline, self._enough.is_set),
            progress=(lambda *far: self._news.put(Far(*far))) if is_first else silence,
        )
        try:
            torch.set_num_threads(limits.available_cores())
            backend = "cpu:gloo,cuda:nccl" if task.device == "cuda" else "gloo"
            distributed.init_process_group(backend, None, SILENT, word.size, word.place, store)
            listen = self._news.put if is_first else ignore
            together = Together(word.place, word.size)
            tuned = finetune.fit(task, job.head, job.rows, listen=listen, start=job.start, together=together)
            if is_first:
                self._news.put(Learned.of(tuned))
        except HeadstartError as error:
            self._news.put(error)
        except Exception as error:
            self._news.put(Lost(f"{type(error).__name__}: {_line(error)}"))


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _store(word: Join) -> TCPStore:
    """Return by what the processes find one another: the first one listens, at its own address alone."""
    if interface := _interface(word.own):
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", interface)
    if word.place:
        return TCPStore(word.first, word.port, word.size, False, JOINING, False)
    family = socket.AF_INET6 if ":" in word.own else socket.AF_INET
    listening = socket.create_server((word.own, 0), family=family)
    port = listening.getsockname()[1]
    return TCPStore(word.own, port, word.size, True, JOINING, False, master_listen_fd=listening.detach())


def _interface(address: str) -> str:
    """Return by which name the system knows what has this address; empty where it does not tell.

    Gloo would listen at the address of the machine's name, which others may not reach, or at which strangers may.
    """
    if sys.platform != "linux":
        return ""
    import fcntl  # not on all systems

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                said = fcntl.ioctl(asked, _ADDRESS_OF_INTERFACE, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(said[20:24]) == address:
                    return name
    return ""
