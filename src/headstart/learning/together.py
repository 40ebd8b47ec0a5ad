"""Processes that train one network together: who has which pictures, what all know, and what the first one decides.

They are a process group of PyTorch, made by whoever began them. One that is alone asks nobody anything, whatever group
its program may be in for other ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn

State = tuple[dict[str, Tensor], Any]  # tensors by name, and plain values


class Together:
    """The processes that train together, as one of them sees them; all of them call the same in the same order.

    Attributes:
        place: Of this one, from 0.
        count: How many there are.
    """

    def __init__(self, place: int = 0, count: int = 1) -> None:
        """Be one of so many, of PyTorch's group of this process; alone, of none."""
        self.place, self.count = place, count

    @property
    def is_first(self) -> bool:
        """Whether it decides, keeps and tells."""
        return self.place == 0

    def share(self, begin: int, end: int) -> slice:
        """Return which rows of a batch this process has; of a small batch perhaps none."""
        return slice(begin + self.place, end, self.count)

    def add_up(self, *tensors: Tensor) -> None:
        """Make of each tensor the sum over all processes, the same bits in all of them."""
        if self.count == 1:
            return
        flat = torch.cat([one.reshape(-1) for one in tensors])
        distributed.all_reduce(flat)
        for one, summed in zip(tensors, torch.split(flat, [one.numel() for one in tensors]), strict=True):
            one.copy_(summed.view_as(one))

    def add_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Make of each gradient the sum over all processes; who had no picture adds nothing."""
        if self.count == 1:
            return
        gradients: list[Tensor] = []
        for weight in weights:
            if weight.requires_grad:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                gradients.append(weight.grad)
        self.add_up(*gradients)

    def told(self, value: Any) -> Any:
        """Return the plain value that the first process has."""
        if self.count == 1:
            return value
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        size = torch.tensor([len(content)])
        distributed.broadcast(size, 0)
        content = content if self.is_first else torch.empty(int(size), dtype=torch.uint8)
        distributed.broadcast(content, 0)
        return json.loads(content.numpy().tobytes())

    def handed(self, state: State | None) -> State | None:
        """Return the state that the first process has; None where it has none."""
        if self.count == 1:
            return state
        kinds = {name: (str(one.dtype), list(one.shape)) for name, one in state[0].items()} if state else {}
        known = self.told([kinds, state[1]] if state else None)
        if known is None:
            return None
        tensors = state[0] if state else {}
        for name, (kind, shape) in known[0].items():
            if not self.is_first:
                tensors[name] = torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")))
            distributed.broadcast(tensors[name], 0)
        return tensors, known[1]


ALONE = Together()
