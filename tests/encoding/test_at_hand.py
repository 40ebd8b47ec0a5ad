"""What can be tried without a download: which names, at which sizes, and that nobody is asked for a newer file."""

from __future__ import annotations

import socket
from pathlib import Path

import huggingface_hub.constants
import pytest

from headstart.encoding import at_hand
from headstart.errors import BackboneError, ConfigError


def test_the_hubs_cache_is_searched_for_weights_that_timm_would_take(hub: Path):
    assert at_hand.hub_names() == ["test_vit.r160_in1k"]
    assert at_hand.names() == ["lite0", "lite1", "lite2", "test_vit.r160_in1k"]


def test_without_a_cache_of_the_hub_the_installed_networks_are_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert at_hand.names() == ["lite0", "lite1", "lite2"]


def test_a_network_at_hand_is_loaded_though_nobody_may_be_asked(hub: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a name server was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    assert at_hand.load("test_vit.r160_in1k@96").preprocess.size == 96
    assert before == huggingface_hub.constants.HF_HUB_OFFLINE


def test_what_is_not_at_hand_is_not_fetched(hub: Path):
    with pytest.raises(BackboneError, match="cannot be had"):
        at_hand.load("test_resnet.r160_in1k")


@pytest.mark.parametrize(
    ("name", "tried"),
    [
        ("lite0", ["lite0@224", "lite0@288", "lite0@352"]),
        ("lite2", ["lite2@260", "lite2@320", "lite2@384"]),
        ("lite2@300", ["lite2@300"]),
        ("lite2@300/1.0", ["lite2@300/1.0"]),
        ("lite2@320+lite1", ["lite2@320+lite1"]),
    ],
)
def test_a_name_is_tried_at_three_sizes_unless_it_says_which(name: str, tried: list[str]):
    assert at_hand.candidates(name) == tried


def test_names_and_sizes_that_do_not_exist_are_refused():
    with pytest.raises(BackboneError, match=r"no backbone 'lite9'\. The closest names: lite"):
        at_hand.candidates("lite9")
    with pytest.raises(ConfigError, match="the size of 'lite2@5' is '5', not a whole number in 16 … 2048"):
        at_hand.candidates("lite2@5")
