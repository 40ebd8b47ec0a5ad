"""A text, `lite2@320+lite1@300/1.0` → the networks that it asks for, and back.

Names are joined by `+`; behind each may stand the side of its pictures and the share of the shorter side that its crop
keeps, where these are not its own. Nothing is loaded here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import ConfigError

ALIASES = {f"lite{n}": f"tf_efficientnet_lite{n}" for n in (0, 1, 2)}
MOST = 8  # networks
SIDES = range(16, 2049)  # pixels, as for pictures.size
LEAST_CROP = 0.01

_LOCAL = "local-dir:"
_SIZED = re.compile(r"(?P<name>.*)@(?P<size>[^@/]*)(?:/(?P<crop>[^@/]*))?")
_WHOLE, _SHARE = re.compile("[0-9]{1,4}"), re.compile(r"[0-9](\.[0-9]+)?")
_FORM = "NAME[@SIZE[/CROP]], several of them joined by +, e.g. lite2@320+lite1@300/1.0"


@dataclass(frozen=True, slots=True)
class Asked:
    """A network that is asked for.

    Attributes:
        name: As `pretrained.load` takes it, with aliases resolved.
        size: Side of its pictures in pixels; None: whatever holds for all.
        crop: The share of the shorter side that its crop keeps; None: its own.
    """

    name: str
    size: int | None = None
    crop: float | None = None

    def __str__(self) -> str:
        """Return the text that asks for it."""
        size = "" if self.size is None else f"@{self.size}"
        return self.name + size + ("" if self.crop is None else f"/{self.crop}")


def parse(text: str) -> tuple[Asked, ...]:
    """Return the networks that a text asks for.

    Args:
        text: `NAME[@SIZE[/CROP]]`, several joined by `+`. The folder of `local-dir:FOLDER` may have any name.

    Raises:
        ConfigError: It is no such text, asks for the same twice, or for more than `MOST`; all that is wrong is said.
    """
    wrong: list[str] = []
    asked = [_one(part, wrong) for part in _parts(text)]
    if len(asked) > MOST:
        wrong.append(f"{len(asked)} networks are asked for, at most {MOST} can be combined")
    wrong += [f"{one} is asked for twice" for place, one in enumerate(asked) if one in asked[:place]]
    if wrong:
        raise ConfigError(f"encoder.backbone is {text!r}: {'; '.join(wrong)}.", f"Expected {_FORM}.")
    return tuple(asked)


def refuse_contradictions(text: str, weights: str) -> None:
    """Refuse a text that asks for no networks, and one weights file for several, before anything is read or fetched.

    Raises:
        ConfigError: With what is wrong.
    """
    if len(parse(text)) > 1 and weights:
        raise ConfigError(
            f"encoder.weights is {weights!r}, and {text} asks for several networks: it could be of any of them.",
            "timm's `save_for_hf` puts a network and its weights into a folder, which local-dir:FOLDER asks for.",
        )


def _parts(text: str) -> list[str]:
    """Split a text at each `+`, but for those in the name of a folder that is there."""
    pieces, parts = text.split("+"), []
    while pieces:
        whole = (n for n in range(1, len(pieces) + 1) if _is_folder("+".join(pieces[:n])))
        count = next(whole, 1) if pieces[0].strip().startswith(_LOCAL) else 1
        parts.append("+".join(pieces[:count]).strip())
        del pieces[:count]
    return parts


def _is_folder(part: str, *, sized: bool = True) -> bool:
    """Return whether a part of a text asks for the folder of a network, possibly with a size behind its name."""
    match = _SIZED.fullmatch(part.strip()) if sized else None
    names = [part.strip(), *([match["name"]] if match else [])]
    return any(name.startswith(_LOCAL) and Path(name.removeprefix(_LOCAL), "config.json").is_file() for name in names)


def _one(part: str, wrong: list[str]) -> Asked:
    """Return the network that a part of a text asks for, noting what is wrong."""
    sized = None if _is_folder(part, sized=False) else _SIZED.fullmatch(part)
    name = (sized["name"] if sized else part).strip()
    name = ALIASES.get(name, name)
    if not name:
        wrong.append("a name is missing")
    if sized is None:
        return Asked(name)
    size, crop = sized["size"], sized["crop"]
    if not (_WHOLE.fullmatch(size) and int(size) in SIDES):
        wrong.append(f"the size of {part!r} is {size!r}, not a whole number in {SIDES[0]} … {SIDES[-1]}")
        return Asked(name)
    if crop is not None and not (_SHARE.fullmatch(crop) and LEAST_CROP <= float(crop) <= 1):
        wrong.append(f"the crop of {part!r} is {crop!r}, not a number in {LEAST_CROP} … 1")
        return Asked(name)
    return Asked(name, int(size), None if crop is None else float(crop))
