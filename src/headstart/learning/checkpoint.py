"""The state of a fit in epochs ⇄ one safetensors file in the cache, so that a killed training goes on where it was.

The file is named by the digest of everything that decides the fit (features, labels, rows, settings): whatever is
found under that name belongs to this very fit. One that cannot be read is passed over.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from headstart.arrays import parts, release
from headstart.records import Floats, Integers
from headstart.storage import remove_stale, storage_errors, write_whole


class Checkpoint:
    """Where the state of one fit is kept; with `folder` None nowhere."""

    def __init__(
        self, folder: Path | None, identity: Mapping[str, Any], arrays: Mapping[str, Floats | Integers]
    ) -> None:
        """Name the place.

        Args:
            folder: `fits` of the cache folder, or None.
            identity: Plain values that decide the fit.
            arrays: Arrays that do.
        """
        self._path: Path | None = None
        if folder is None:
            return
        versions = [importlib.metadata.version("headstart"), torch.__version__]
        digest = hashlib.sha256(json.dumps([versions, identity], sort_keys=True).encode())
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            for part in parts(len(array)):
                digest.update(np.ascontiguousarray(array[part]).data)
                release(array)
        self._path = folder / f"{digest.hexdigest()[:32]}.safetensors"

    def load(self) -> tuple[dict[str, Tensor], Any] | None:
        """Return the tensors and plain values that were kept last; None if there are none."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
                if _digest(tensors, metadata["state"]) != metadata["digest"]:
                    return None
                return tensors, json.loads(metadata["state"])
        except (SafetensorError, OSError, KeyError, ValueError):
            return None

    def save(self, tensors: Mapping[str, Tensor], told: Any) -> None:
        """Keep tensors and plain values in the place of what was kept before.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        if self._path is None:
            return
        state, tensors = json.dumps(told), {name: tensor.contiguous() for name, tensor in tensors.items()}
        content = save(tensors, {"state": state, "digest": _digest(tensors, state)})
        with storage_errors(self._path, "Make room, name another folder with HEADSTART_CACHE, or use --no-cache."):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            remove_stale(self._path.parent, ".*.safetensors.*.tmp")  # states stay: somebody may come back to them
            write_whole(self._path, content)

    def remove(self) -> None:
        """Forget what was kept: the fit is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
