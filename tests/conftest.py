"""Fixtures that several test files share. Nothing here needs trained weights, a GPU or the network."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402

from cookbook import doctor, engine, profiles  # noqa: E402
from cookbook.convert.stage import convert  # noqa: E402
from cookbook.machine import Machine  # noqa: E402
from cookbook.models.critic import Critic, load_critic  # noqa: E402
from cookbook.train import dataset  # noqa: E402
from cookbook.train.stage import train  # noqa: E402

hypothesis.settings.register_profile("busy machine", deadline=None)  # a slow example is not a wrong one
hypothesis.settings.load_profile("busy machine")
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
def critic_folder(tmp_path_factory) -> Path:
    """An untrained critic with its own small tokenizer."""
    return tiny.build_critic(tmp_path_factory.mktemp("tiny") / "critic")


@pytest.fixture
def critic(critic_folder) -> Critic:
    return load_critic(critic_folder, torch.device("cpu"))


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory) -> Path:
    """Six short clips with captions in the layout of data/train."""
    return tiny.make_clips(tmp_path_factory.mktemp("tiny") / "clips")


@pytest.fixture(scope="session")
def cached(tiny_world, tiny_clips, tmp_path_factory) -> list[dataset.CachedClip]:
    """The six tiny clips, encoded."""
    clips = dataset.read_clips(tiny_clips)
    return dataset.cache(clips, tiny.profile(tiny_world), tiny_world, tmp_path_factory.mktemp("cache"), ALONE)


@pytest.fixture
def tiny_profile(tiny_world, monkeypatch):
    """A function that registers the profile `tiny`, its recipe's fields given by name."""

    def register(steps: int = 6, **recipe) -> profiles.Profile:
        profile = tiny.profile(tiny_world, steps, **recipe)
        monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: profile)
        return profile

    return register


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def exported(tiny_world, tiny_clips, tmp_path_factory):
    """A run trained for four steps and converted: its folder and the manifest of the conversion."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(profiles.PROFILES, "tiny", lambda: tiny.profile(tiny_world, 4))
        train("tiny", run=folder, data=tiny_clips)
        yield folder, convert("tiny", run=folder)


@pytest.fixture
def arena(tiny_world, tiny_clips, tmp_path, cached, monkeypatch):
    """A folder for `tiny.train_tiny`, latents already cached, and a function that runs it in a process of its own."""
    (tmp_path / "world").symlink_to(tiny_world)
    (tmp_path / "clips").symlink_to(tiny_clips)
    shutil.copytree(cached[0].latents.parent, tmp_path / "run/cache")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent)]))  # the fork server looks there only
    context = multiprocessing.get_context("forkserver")  # imports once, then forks: real processes, quick to start
    context.set_forkserver_preload(["tiny"])

    def start(*arguments):
        process = context.Process(target=tiny.train_tiny, args=(tmp_path, 6, 2, *arguments))
        process.start()
        return process

    return tmp_path, start


@pytest.fixture
def ranks(arena):
    """A function that trains in FOLDER/RUN on several processes; if one fails the others are killed. The exit codes."""
    context = multiprocessing.get_context("forkserver")

    def train_on(size: int, *arguments, **recipe) -> list[int]:
        port = free_port()
        processes = [
            context.Process(target=tiny.train_rank, args=(rank, size, port, arena[0], *arguments), kwargs=recipe)
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        while any(process.exitcode is None for process in processes):
            if any(process.exitcode for process in processes):
                for process in processes:
                    process.kill()
            time.sleep(0.05)
        for process in processes:
            process.join()
        return [process.exitcode for process in processes]

    return train_on


@pytest.fixture
def machine(monkeypatch):
    """A function that gives this process another machine: facts by name."""

    def pretend(**facts) -> None:
        full = dict(cores=64, memory_gb=512.0, disk_gb=2000.0, gpus=[("H100", 85.0)] * 8, driver=True)
        hub = dict(token=True, online=True, refused=False)
        for name, value in {**full, **hub, **facts}.items():
            monkeypatch.setattr(Machine, name, value, raising=False)
        monkeypatch.setattr(Machine, "has", lambda self, source: source.ships)
        monkeypatch.setattr(Machine, "may_download", lambda self, source: facts.get("accepted", True))
        monkeypatch.setattr(doctor, "find_spec", lambda name: True)

    return pretend
