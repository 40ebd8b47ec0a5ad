"""Rows of features ⇄ a file that is named by what it holds.

A shard is a safetensors file with `keys` (n, 32) uint8, SHA-256 of the pictures' bytes, `values` (n, D) float32 and,
where anything was remarked, `remarks` (n,) int64. Its metadata holds the digest of the recipe and of the tensors, and
of the values one for every `CHUNK` rows, so that few rows of a large shard are read, and checked, by themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from headstart.arrays import parts
from headstart.records import Floats, Integers

CHUNK = 256  # rows that have a digest together; smaller shards are older than chunks, and have the same


class Rows(NamedTuple):
    """Rows of a shard: n keys, (n, D) values, and (n,) codes of remarks, 0 where nothing was remarked."""

    keys: list[bytes]
    values: Floats
    remarks: Integers


def encode(recipe: str, rows: Rows) -> tuple[str, bytes]:
    """Return the name of a shard and its bytes.

    Args:
        recipe: Digest of everything besides the pictures' bytes that decides the values.
        rows: What it holds.
    """
    tensors: dict[str, NDArray[Any]] = {
        "keys": np.frombuffer(b"".join(rows.keys), dtype=np.uint8).reshape(-1, 32),
        "values": np.ascontiguousarray(rows.values, dtype=np.float32),
    }
    if rows.remarks.any():
        tensors["remarks"] = rows.remarks
    digests = {name: _sha(tensor) for name, tensor in tensors.items() if name != "values"}
    sums = " ".join(_sha(tensors["values"][part]) for part in parts(len(rows.keys), CHUNK))
    metadata = {"recipe": recipe, "keys": digests["keys"], "values": sums, **digests}
    # named by what it holds, not by its bytes: safetensors writes the metadata in an order of its own
    name = hashlib.sha256("".join(metadata.values()).encode()).hexdigest()[:32] + ".safetensors"
    return name, save(tensors, metadata)


def read_keys(path: Path, recipe: str) -> list[bytes]:
    """Return the keys of a shard.

    Raises:
        ValueError: Its digests or its recipe do not agree.
        SafetensorError: It is no safetensors file.
        OSError: It cannot be read.
    """
    with safe_open(path, framework="numpy") as file:
        return _keys(file, file.metadata() or {}, recipe)


def read(path: Path, recipe: str, wanted: Container[bytes] | None = None) -> Rows:
    """Return the rows of a shard that are wanted (None: all); nothing is read of chunks that hold none of them.

    Raises:
        ValueError: Its digests or its recipe do not agree.
        SafetensorError: It is no safetensors file.
        OSError: It cannot be read.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        keys = _keys(file, metadata, recipe)
        places = np.array([place for place, key in enumerate(keys) if wanted is None or key in wanted], dtype=np.int64)
        if not len(places) and wanted is not None:
            return Rows([], np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64))
        values = _values(file, metadata, len(keys), places)
        remarks = _remarks(file, metadata, len(keys))[places]
    return Rows([keys[place] for place in places], values, remarks)


def _keys(file: Any, metadata: dict[str, str], recipe: str) -> list[bytes]:
    if metadata.get("recipe") != recipe:
        raise ValueError("it belongs to another recipe")
    return [key.tobytes() for key in _checked(file.get_tensor("keys"), metadata.get("keys"), "keys")]


def _values(file: Any, metadata: dict[str, str], count: int, places: Integers) -> Floats:
    stored = file.get_slice("values")
    shape, kind = stored.get_shape(), stored.get_dtype()
    sums = metadata.get("values", "").split(" ")
    if kind != "F32" or len(shape) != 2 or shape[0] != count or len(sums) != len(list(parts(count, CHUNK))):
        raise ValueError(f"its values are {kind} of shape {tuple(shape)} with {len(sums)} digests for {count} keys")
    values: Floats = np.empty((len(places), shape[1]), dtype=np.float32)
    for part, digest in zip(parts(count, CHUNK), sums, strict=True):
        own = slice(*np.searchsorted(places, [part.start, part.stop]))
        if own.stop > own.start:
            values[own] = _checked(stored[part], digest, "values")[places[own] - part.start]
    return values


def _remarks(file: Any, metadata: dict[str, str], count: int) -> Integers:
    if "remarks" not in metadata and "remarks" not in file.keys():  # noqa: SIM118  # a file is no dict
        return np.zeros(count, dtype=np.int64)
    remarks: Integers = _checked(file.get_tensor("remarks"), metadata.get("remarks"), "remarks")
    if remarks.dtype != np.int64 or remarks.shape != (count,):
        raise ValueError(f"its remarks are {remarks.dtype} of shape {remarks.shape} for {count} keys")
    return remarks


def _checked(tensor: Any, digest: str | None, name: str) -> Any:
    if _sha(tensor) != digest:
        raise ValueError(f"its {name} do not have the digest they should have")
    return tensor


def _sha(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
