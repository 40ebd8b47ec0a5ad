"""Networks and a factor → the sides of their pictures, in pixels, that are that much larger than in their training.

Convolutions take any size, and a network that was trained on random crops sees things larger in training than in whole
pictures, so that larger pictures suit it better (Touvron et al. 2019). Networks of a fixed size are left alone.
"""

from __future__ import annotations

from dataclasses import replace

from headstart.encoding import pretrained, wanted
from headstart.encoding.network import Network

STEP = 32  # the sides that networks divide without a rest


def trained_on(network: Network) -> int:
    """Return the side in pixels that a network was trained on, or that it is used at where that is smaller."""
    size = network.preprocess.size
    return min(size, pretrained.free_size(network.name) or size)


def scaled(text: str, factor: float) -> str:
    """Return the text that asks for the same networks, those that name no size at so many times their own.

    >>> scaled("lite2", 1.25), scaled("lite0", 1.0), scaled("lite2@384+lite1", 1.25)
    ('tf_efficientnet_lite2@320', 'tf_efficientnet_lite0', 'tf_efficientnet_lite2@384+tf_efficientnet_lite1@288')
    >>> scaled("vit_base_patch16_224", 1.25)
    'vit_base_patch16_224'
    """
    return "+".join(str(replace(one, size=one.size or _side(one.name, factor))) for one in wanted.parse(text))


def _side(name: str, factor: float) -> int | None:
    """Return the side; None: its own, since the network takes no other or is to be read from a folder."""
    native = None if factor == 1 else pretrained.free_size(name)
    return None if native is None else round(native * factor / STEP) * STEP
