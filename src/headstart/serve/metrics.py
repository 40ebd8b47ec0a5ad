"""What a server counts, for Prometheus; labels are of a fixed few values, whatever clients send."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from headstart.predictions import Prediction

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROUTES = ("/", "/predict", "/explain", "/model", "/metrics", "/health/live", "/health/ready", "/openapi.json")


class Metrics:
    """Counters and gauges of one server."""

    def __init__(self) -> None:
        """Begin at zero."""
        library: Any = importlib.import_module("prometheus_client")
        self._library = library
        library.disable_created_metrics()
        self.registry = library.CollectorRegistry()
        library.ProcessCollector(registry=self.registry)

        def made(kind: Any, name: str, about: str, labels: tuple[str, ...] = (), **more: Any) -> Any:
            return kind(f"headstart_{name}", about, labels, registry=self.registry, **more)

        counter, gauge, histogram = library.Counter, library.Gauge, library.Histogram
        self.requests = made(counter, "requests", "Requests by route and status.", ("route", "status"))
        self.seconds = made(histogram, "request_seconds", "From headers to answer.", ("route",), buckets=SECONDS)
        self.pictures = made(counter, "pictures", "Pictures that got an answer.", ("outcome",))
        self.batch = made(histogram, "batch_pictures", "Pictures computed together.", buckets=(1, 2, 4, 8, 16, 32, 64))
        self.waiting = made(gauge, "waiting_pictures", "Pictures that wait for their turn.")
        self.held = made(gauge, "held_bytes", "Of requests that are in memory.")
        self.ready = made(gauge, "ready", "1 where the model is loaded and the server is not about to stop.")
        self.begun = made(gauge, "process_begun", "How often the process that answers was begun.")
        for outcome in ("known", "unknown", "error"):
            self.pictures.labels(outcome)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        route = path if path in ROUTES else "other"
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def said(self, predictions: Iterable[Prediction]) -> None:
        """Count answers."""
        for one in predictions:
            outcome = "error" if one.error is not None else "unknown" if one.known is False else "known"
            self.pictures.labels(outcome).inc()

    def render(self) -> tuple[bytes, str]:
        """Return the text of all figures, and its media type."""
        return self._library.generate_latest(self.registry), self._library.CONTENT_TYPE_LATEST
