"""The only door to Ray: a cluster is joined, or begun on this machine; workers are placed on it, asked and heard.

Ray is imported when a cluster is opened. It tells nobody of its use, asks everybody for a token, opens no dashboard,
and what is begun here listens on this machine alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart import storage
from headstart.data import limits
from headstart.errors import ConfigError, HeadstartError, MissingExtraError
from headstart.scale.address import Address
from headstart.scale.hand import Job, Station

SURROUNDINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # its workers would stand back behind all else on the machine
}
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # where Ray looks for a token before it looks in the home folder
HELD = 1 << 28  # bytes of what is sent to workers that a cluster of this machine keeps in memory
LOOPBACK = "127.0.0.1"
FOLDERS = "headstart-ray-"
MOST_NAMED, SHORT = 14, Path("/tmp")  # noqa: S108  # the path of a socket has 103 letters at most, 89 of them Ray's


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker can be.

    Attributes:
        name: By which it is known.
        node: Ray's name of the machine; empty: this one.
        processors: How many Ray counts for it.
        cores: Which it takes of the machine; empty: all.
        graphics: How many graphics processors it takes.
        address: Where other workers reach it.
    """

    name: str
    node: str
    processors: int
    cores: tuple[int, ...] = ()
    graphics: int = 0
    address: str = LOOPBACK


@dataclass(frozen=True, slots=True)
class Died:
    """What is heard of a worker that has gone, with what it was asked."""

    reason: str


class Worker:
    """A process somewhere that does one thing at a time, as who asks it sees it."""

    def __init__(self, place: Place, actor: Any) -> None:
        """Keep where it is, and Ray's name of it."""
        self.place, self.actor = place, actor
        self.asked: Any = None  # Ray's name of what it was asked last

    def ask(self, question: str, *arguments: Any) -> None:
        """Ask one of the methods of `Station`; the answer is heard by `Cluster.hear`."""
        self.asked = getattr(self.actor, question).remote(*arguments)


class Cluster:
    """Ray's cluster, which is this process's for as long as it is open."""

    def __init__(self, address: Address, *, graphics: bool = False) -> None:
        """Join the cluster, or begin one on this machine.

        Args:
            address: Which.
            graphics: Whether a worker needs a graphics processor.

        Raises:
            ConfigError: It cannot be joined.
            MissingExtraError: Ray is not installed.
        """
        self.address, self.graphics = address, graphics
        self._ray = _imported()
        self._closing = contextlib.ExitStack()
        self._folder: Path | None = None  # of a cluster that is begun here
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self._shared = self.free() < self.total()  # others work on it: no worker asks for a whole machine

    def total(self) -> float:
        """Return how many processors it has."""
        return float(self._ray.cluster_resources().get("CPU", 0))

    def free(self) -> float:
        """Return how many of them nobody asked for."""
        return float(self._ray.available_resources().get("CPU", 0))

    def places(self) -> list[Place]:
        """Return where workers can be now: one on each machine, or on each graphics processor; as many here as asked.

        A worker uses all processors of its machine, or its share of them.
        """
        if self.address.workers:
            return _slices(self.address.workers, graphics=self.graphics)
        found = []
        for one in self._ray.nodes():
            node, has = one["NodeID"], one["Resources"] if one["Alive"] else {}
            count = int(has.get("GPU", 0)) if self.graphics else 1
            for number in range(count if has.get("CPU", 0) >= 1 else 0):
                processors = 1 if self._shared else max(1, int(has["CPU"] / count))
                address = one["NodeManagerAddress"]
                graphics = int(self.graphics)
                found.append(Place(f"{node}.{number}", node, processors, graphics=graphics, address=address))
        return found

    def hire(self, place: Place) -> Worker:
        """Begin a worker; it comes once Ray finds the processors free that it counts for it."""
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        where = {"scheduling_strategy": strategy(place.node, soft=False)} if place.node else {}
        taken = {"num_cpus": place.processors, "num_gpus": place.graphics, "max_restarts": 0, "max_task_retries": 0}
        return Worker(place, self._ray.remote(Station).options(**taken, **where).remote(place.cores))

    def dismiss(self, worker: Worker) -> None:
        """End a worker, whatever it is doing."""
        self._ray.kill(worker.actor)

    def shared(self, job: Job) -> Any:
        """Return what stands for a job that is sent once to each machine, however many workers are told of it."""
        return self._ray.put(job)

    def hear(self, workers: Iterable[Worker], seconds: float) -> Iterator[tuple[Worker, Any]]:
        """Wait until one of the workers that were asked has an answer, and yield all answers that are there.

        Args:
            workers: Whom to listen to.
            seconds: How long to wait at most.

        Raises:
            HeadstartError: A worker failed by a mistake of ours.
        """
        if self._folder is not None:
            storage.keep_fresh(self._folder)
        asked = {worker.asked: worker for worker in workers if worker.asked is not None}
        if not asked:
            return
        with _interruptible():
            first, _ = self._ray.wait(list(asked), timeout=seconds)
            ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0) if first else ((), ())
        for one in ready:
            asked[one].asked = None
            yield asked[one], self._answer(one)

    def close(self) -> None:
        """Leave the cluster, and end it if it was begun here."""
        self._closing.close()

    def _answer(self, asked: Any) -> Any:
        errors = self._ray.exceptions
        try:
            with _interruptible():
                return self._ray.get(asked)
        except errors.RayTaskError as error:
            raise HeadstartError(f"A worker of the cluster failed: {_last_line(error)}") from error
        except errors.RayError as error:
            return Died(_last_line(error))

    def _open(self) -> None:
        if self._ray.is_initialized():  # by whoever called: theirs to end
            if self.address.workers:
                raise ConfigError("This process has joined a Ray cluster already.", "Name it: cluster='auto'.")
            return
        self._closing.enter_context(_variables_kept())
        os.environ.update({name: value for name, value in SURROUNDINGS.items() if name not in os.environ})
        # on stdout, where rows may go, it would tell of each worker that dies
        self._closing.enter_context(_changed(self._ray._private.worker, "print_to_stdstream", lambda *_, **__: None))
        quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
        try:
            with warnings.catch_warnings(), _signals_kept(), _interruptible():
                warnings.simplefilter("ignore")  # of a library's own future
                if self.address.workers:
                    self._begin(quiet)
                else:
                    _check_token()
                    self._heed_variables()
                    self._closing.callback(self._ray.shutdown)
                    self._ray.init(address=self.address.place, **quiet)
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise _refused(self.address, error) from error

    def _heed_variables(self) -> None:
        """Have Ray read the environment again, of which it knows what was there when it was imported."""
        self._ray._raylet.Config.initialize("")
        self._ray._raylet.AuthenticationTokenLoader.instance().reset_cache()

    def _begin(self, quiet: dict[str, Any]) -> None:
        parent = _short(Path(tempfile.gettempdir()))
        storage.remove_stale(parent, f"{FOLDERS}*")
        self._folder = folder = Path(tempfile.mkdtemp(prefix=FOLDERS, dir=parent))  # for its owner alone
        self._closing.callback(shutil.rmtree, folder, ignore_errors=True)
        self._closing.callback(self._ray.shutdown)  # comes first
        storage.write_whole(folder / "token", secrets.token_hex(32).encode(), mode=0o600)
        os.environ |= {"RAY_AUTH_MODE": "token", TOKENS[1]: str(folder / "token")}
        os.environ.pop(TOKENS[0], None)  # the token of another cluster
        self._heed_variables()
        # on Linux it would take 127.0.0.1 for the address by which other machines reach this one, and listen to them
        with _changed(self._ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False):
            self._ray.init(
                address="local",
                num_cpus=self.address.workers,
                include_dashboard=False,
                object_store_memory=HELD,
                _node_ip_address=LOOPBACK,
                _temp_dir=str(folder / "r"),  # which it opens to everybody; names of sockets are short
                **quiet,
            )
        if any(node["NodeManagerAddress"] != LOOPBACK for node in self._ray.nodes()):
            raise RuntimeError("It would listen to other machines.")


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", SURROUNDINGS["RAY_USAGE_STATS_ENABLED"])
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ModuleNotFoundError as error:
        raise MissingExtraError("A cluster", "ray", str(error.name)) from error
    return ray


def _short(folder: Path) -> Path:
    """Return a folder for temporary files whose path leaves room for the names of Ray's sockets."""
    return folder if len(str(folder)) <= MOST_NAMED or not SHORT.is_dir() else SHORT


def _slices(workers: int, *, graphics: bool) -> list[Place]:
    """Return places on this machine, each with its share of the processors."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(limits.available_cores())
    cores = sorted(allowed)
    return [
        Place(str(number), "", 1, tuple(cores[number % len(cores) :: workers]), int(graphics))
        for number in range(workers)
    ]


def _check_token() -> None:
    """Warn of a token that others may read.

    Warns:
        UserWarning: With the line that mends it.
    """
    path = Path(os.environ.get(TOKENS[1]) or Path.home() / ".ray" / "auth_token")
    if TOKENS[0] in os.environ or not path.is_file():
        return
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        warnings.warn(f"Others may read the cluster's token {path}: `chmod 600 {path}`.", stacklevel=2)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise what a signal's handler raised while Ray's own code ran, which makes another error of it."""
    try:
        yield
    except SystemError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


@contextlib.contextmanager
def _changed(module: Any, name: str, value: Any) -> Iterator[None]:
    """Change something of Ray's that it has no setting for."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Have signals do afterwards what they did before; Ray takes SIGTERM for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(ValueError, TypeError):  # another thread than the first may set none
                signal.signal(number, handler)


@contextlib.contextmanager
def _variables_kept() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (*SURROUNDINGS, *TOKENS)}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _refused(address: Address, error: Exception) -> ConfigError:
    """Return why a cluster cannot be joined, or begun; a token is never told."""
    reason = _last_line(error)
    if not address.workers:
        return ConfigError(
            f"The Ray cluster {address.place!r} cannot be joined: {reason}",
            "Run on a node of it (`ray status` says whether it is one), with the cluster's token in ~/.ray/auth_token "
            "or RAY_AUTH_TOKEN_PATH (mode 600); RAY_AUTH_MODE=disabled for a cluster that asks for none.",
        )
    return ConfigError(f"No cluster could be begun on this machine: {reason}", "Leave out --cluster, or try again.")


def _last_line(error: Exception) -> str:
    """Return what an error of Ray's comes to: it tells the traceback first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
