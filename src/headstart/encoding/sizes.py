"""A network and a factor → the side of pictures, in pixels, that is that much larger than what it was trained on.

Convolutions take any size, and a network that was trained on random crops sees things larger in training than in whole
pictures, so that larger pictures suit it better (Touvron et al. 2019). Networks of a fixed size are left alone.
"""

from __future__ import annotations

from headstart.encoding import network as networks
from headstart.encoding.network import Network

STEP = 32  # the sides that networks divide without a rest


def trained_on(network: Network) -> int:
    """Return the side in pixels that a network was trained on, or that it is used at where that is smaller."""
    size = network.preprocess.size
    return min(size, networks.free_size(network.name) or size)


def scaled(name: str, factor: float) -> int | None:
    """Return the side; None: what the network was trained on, since it takes no other or is to be read from a folder.

    >>> scaled("lite2", 1.25), scaled("lite0", 1.0), scaled("vit_base_patch16_224", 1.25)
    (320, None, None)
    """
    native = None if factor == 1 else networks.free_size(name)
    return None if native is None else round(native * factor / STEP) * STEP
