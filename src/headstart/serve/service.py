"""A model that is served: its processes, its queues, and whether it is ready. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from headstart.errors import HeadstartError
from headstart.predictions import Prediction
from headstart.serve import inference
from headstart.serve.inference import Served
from headstart.serve.limits import Limits
from headstart.serve.metrics import Metrics
from headstart.serve.processes import LostError, Process
from headstart.serve.queueing import Queue

EXPLAINED, PATIENCE = 8, 60.0  # pictures that may wait for a heat map, and for how many seconds


class Service:
    """A model that is served.

    Attributes:
        limits: What it bears.
        metrics: What it counts.
        predictions: The queue of pictures to predict.
        explanations: That of pictures to explain, which a process of its own does, begun when it is first asked.
        closing: It is about to stop.
        failure: Why nothing is answered any more.
    """

    def __init__(self, served: Served, limits: Limits, metrics: Metrics) -> None:
        """Prepare everything; `run` loads the model and answers."""
        self.limits, self.metrics = limits, metrics
        self._predictor, self._explainer = Process(served), Process(served)
        self.predictions = Queue(self._predict, limits.queue, limits.batch, inference.AT_ONCE, metrics.batch.observe)
        self.explanations = Queue(self._explain, EXPLAINED, 1)
        self.closing = False
        self._beginning = asyncio.Lock()
        self.failure: Exception | None = None

    @property
    def ready(self) -> bool:
        """Whether a picture that comes now is answered."""
        return self._predictor.ready.is_set() and not self.closing

    @property
    def told(self) -> dict[str, Any] | None:
        """What there is to tell of the model; None until it is loaded."""
        return self._predictor.told

    async def run(self, loaded: Callable[[], object], failed: Callable[[], object]) -> None:
        """Load the model, say so, and answer until cancelled; `failed` hears that nothing is answered any more."""
        try:
            await self._predictor.start()
            loaded()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.predictions.run())
                group.create_task(self.explanations.run())
        except Exception as error:  # it cannot be loaded; whatever else it is, a server that answers nothing must end
            self.failure = error
            failed()
        finally:
            self.stop()

    def stop(self) -> None:
        """End its processes, whatever they do."""
        self._predictor.stop()
        self._explainer.stop()

    def expect_explanations(self) -> None:
        """Begin the process that explains, which takes some seconds, before it is asked; where it can explain."""
        if self.ready and not self._explainer.begun and importlib.util.find_spec("torch") is not None:
            self._expected = asyncio.create_task(self._begin_to_explain())
            self._expected.add_done_callback(lambda task: task.cancelled() or task.exception())

    def observe(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.waiting.set(len(self.predictions))
        self.metrics.ready.set(self.ready)
        self.metrics.begun.set(self._predictor.begun)

    async def _predict(self, pictures: list[bytes]) -> Sequence[tuple[str, Prediction]]:
        digest, said = await self._predictor.ask(inference.predict, pictures)
        return [(digest, one) for one in said]

    async def _explain(self, pictures: list[bytes]) -> Sequence[tuple[str, dict[str, Any]]]:
        await self._begin_to_explain()
        return [await self._explainer.ask(inference.explain, picture) for picture in pictures]

    async def _begin_to_explain(self) -> None:
        async with self._beginning:
            if self._explainer.begun:
                return
            try:
                await self._explainer.start()
                await self._explainer.ask(inference.prepare_to_explain)
            except HeadstartError as error:
                self._explainer.begun = 0  # the next picture tries again
                raise LostError("The process that explains could not load the model.") from error
