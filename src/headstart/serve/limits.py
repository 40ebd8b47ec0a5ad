"""What a server bears: every bound of it in one place, with what each is for. Nothing here knows HTTP or a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from headstart.errors import ConfigError

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a server; beyond them it refuses instead of growing.

    Attributes:
        most_bytes: Of a request, before anything of it is decoded.
        most_pictures: Of a request.
        queue: Pictures that wait for their turn; more are refused with 503.
        batch: Pictures that are computed together.
        deadline: Seconds until a request that is not answered is given up with 504.
        patience: Seconds that a client may be silent before it has sent its request, or leave its answer unread.
        slowest: Bytes a second below which a client that sends is dropped once these are over.
        held: Bytes of all requests that may be in memory at once; more are refused with 503.
        drain: Seconds between "not ready" and the end of listening when the server is told to stop.
        finish: Seconds that what is in flight then has to finish.
    """

    most_bytes: int = 32 * MEGABYTE
    most_pictures: int = 32
    queue: int = 128
    batch: int = 16
    deadline: float = 10.0
    patience: float = 10.0
    slowest: int = 20_000
    held: int = 512 * MEGABYTE
    drain: float = 0.5
    finish: float = 30.0

    def __post_init__(self) -> None:
        """Refuse bounds that leave nothing to serve.

        Raises:
            ConfigError: One of them is not positive, or a request that is allowed would never fit into the queue.
        """
        for one in fields(self):
            value = getattr(self, one.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and one.name != "drain"):
                raise ConfigError(f"--{one.name.replace('_', '-')} is {value:g}; more than 0 was expected.")
        if self.most_pictures > self.queue:
            raise ConfigError(
                f"A request may have {self.most_pictures} pictures but only {self.queue} may wait, so such a request "
                "would always be refused.",
                "Raise --queue or lower --most-pictures.",
            )

    def seconds_for(self, received: int) -> float:
        """Return how long a client may take to send that many bytes."""
        return self.patience + received / self.slowest
