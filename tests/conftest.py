"""Fixtures that several test files share. Nothing here needs trained weights, a GPU or the network."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402

from cookbook import engine, profiles  # noqa: E402
from cookbook.train import clips as footage  # noqa: E402

ALONE = engine.Group(0, 1, torch.device("cpu"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The models are so small that threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """A diffusers folder of the world model's classes at tiny sizes, random weights."""
    return tiny.build_world(tmp_path_factory.mktemp("tiny") / "world")


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory) -> Path:
    """Six short clips with captions in the layout of data/train."""
    return tiny.make_clips(tmp_path_factory.mktemp("tiny") / "clips")


@pytest.fixture(scope="session")
def cached(tiny_world, tiny_clips, tmp_path_factory) -> list[footage.Cached]:
    """The six tiny clips, encoded."""
    found = footage.read_clips(tiny_clips)
    return footage.cache(found, tiny.profile(tiny_world), tiny_world, tmp_path_factory.mktemp("cache"), ALONE)


@pytest.fixture
def tiny_profile(tiny_world, monkeypatch):
    """A function that registers the profile `tiny`, its recipe's fields given by name."""

    def register(steps: int = 6, **recipe) -> profiles.Profile:
        made = tiny.profile(tiny_world, steps, **recipe)
        monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: made)
        return made

    return register
