"""What can be tried without a download: networks whose weights lie on this machine, each at a few sizes of picture.

A candidate is a text that a backbone is loaded by, e.g. `lite2@320`. Nothing is loaded here and nobody is asked: which
weights the hub's cache holds is read from its folder.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from headstart.encoding import backbone as backbones
from headstart.encoding import pretrained, wanted
from headstart.encoding.backbone import Backbone
from headstart.encoding.network import ONE_AT_A_TIME
from headstart.encoding.sizes import STEP

SIZES = (1.0, 1.25, 1.5)  # of the side that a network was trained on
_WEIGHTS = {"model.safetensors", "pytorch_model.bin"}  # what timm looks for in a repository


def names() -> list[str]:
    """Return the networks that work without a download: those installed, then those in the hub's cache."""
    return [*wanted.ALIASES, *hub_names()]


def hub_names() -> list[str]:
    """Return timm's names whose weights lie in the cache of the Hugging Face hub, bundled ones left out."""
    held, timm = _repositories(), importlib.import_module("timm")
    found: dict[str, str] = {}
    for name in timm.list_pretrained() if held else ():
        repository = str(timm.get_pretrained_cfg(name).hf_hub_id or "").partition("@")[0]
        own = repository.rpartition("/")[2] == name  # others, of another activation, may point to the same weights
        if repository in held and name.partition(".")[0] not in pretrained.BUNDLED and (own or repository not in found):
            found[repository] = name
    return sorted(found.values())


def candidates(text: str) -> list[str]:
    """Return what to try by a text as `wanted.parse` takes it: itself where it names a size or several networks, else
    the network at each of a few sizes.

    Raises:
        BackboneError: There is no such network.
        ConfigError: It is no such text.
    """
    asked, (first, *_) = wanted.parse(text), backbones.preprocessing(text)
    if len(asked) > 1 or asked[0].size is not None:
        return [text]
    return [f"{text}@{side}" for side in sides(first.size)]


def sides(native: int) -> list[int]:
    """Return the sides to try of a network that was trained on pictures of `native` pixels.

    >>> sides(260)
    [260, 320, 384]
    """
    return [native, *(STEP * int(native * factor / STEP + 0.5) for factor in SIZES[1:])]


def load(candidate: str, *, resize: str = "crop", download: bool = False) -> Backbone:
    """Return a candidate with its weights; arguments and errors are else those of `backbone.load`.

    Args:
        candidate: See `wanted.parse`.
        resize: The policy to put into its `Preprocess`.
        download: Whether weights that are not on this machine may be fetched.
    """
    with contextlib.nullcontext() if download else _offline():
        return backbones.load(candidate, resize=resize)


def _repositories() -> set[str]:
    """Return the repositories of the hub's cache that hold weights in a file that timm would take."""
    hub: Any = importlib.import_module("huggingface_hub")
    constants: Any = importlib.import_module("huggingface_hub.constants")
    try:
        cached = hub.scan_cache_dir(constants.HF_HUB_CACHE)
    except (hub.CacheNotFound, ValueError, OSError):  # no such folder, or none that can be read: nothing is at hand
        return set()
    return {repo.repo_id for repo in cached.repos if repo.repo_type == "model" and _holds_weights(repo.revisions)}


def _holds_weights(revisions: Sequence[Any]) -> bool:
    current = [one for one in revisions if "main" in one.refs]  # the one that is taken when nobody is asked
    return any(file.file_name in _WEIGHTS for one in current for file in one.files)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub's client from asking whether there is a newer file: it would fetch that."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    with ONE_AT_A_TIME:
        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before
