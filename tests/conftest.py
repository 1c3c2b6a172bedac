"""Fixtures that several test files share. Nothing here needs trained weights, a GPU or the network."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from multiprocessing.context import BaseContext
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from cookbook import doctor, engine, profiles, video  # noqa: E402
from cookbook.convert.stage import convert  # noqa: E402
from cookbook.machine import Machine  # noqa: E402
from cookbook.models.critic import Critic, load_critic  # noqa: E402
from cookbook.train import dataset  # noqa: E402
from cookbook.train.stage import train  # noqa: E402

hypothesis.settings.register_profile("busy machine", deadline=None)  # a slow example is not a wrong one
hypothesis.settings.load_profile("busy machine")
ALONE = engine.Group(0, 1, torch.device("cpu"))


class Kernels(TorchDispatchMode):
    """Within the block: notes every kernel that runs."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.kernels.append(func)
        return func(*args, **(kwargs or {}))


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


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two photos with their instructions, in the layout of data/eval."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(np.full((40, 60, 3), 90 * index, np.uint8)).save(folder / f"{index}_Wave..png")
        (folder / f"{index}_Wave..txt").write_text("Wave.")
    return folder


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


def python(*words: str | Path, **options) -> subprocess.CompletedProcess:
    """Run this Python in the checkout; what it prints is kept. `options`: of `subprocess.run`."""
    options = {"cwd": Path(__file__).parents[1], "capture_output": True, "text": True} | options
    return subprocess.run([sys.executable, *words], **options)


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
def forkserver(monkeypatch) -> BaseContext:
    """A context whose processes import nothing, because their server has: real processes, quick to start."""
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent)]))  # the fork server looks there only
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny"])
    return context


@pytest.fixture
def arena(tiny_world, tiny_clips, tmp_path, cached, forkserver):
    """A folder for `tiny.train_tiny`, latents already cached, and a function that runs it in a process of its own."""
    (tmp_path / "world").symlink_to(tiny_world)
    (tmp_path / "clips").symlink_to(tiny_clips)
    shutil.copytree(cached[0].latents.parent, tmp_path / "run/cache")

    def start(*arguments):
        process = forkserver.Process(target=tiny.train_tiny, args=(tmp_path, 6, 2, *arguments))
        process.start()
        return process

    return tmp_path, start


@pytest.fixture
def ranks(arena):
    """A function that trains in FOLDER/RUN on several processes; if one fails the others are stopped. Their success."""

    def train_on(size: int, *arguments, **recipe) -> bool:
        everything = (size, free_port(), recipe, arena[0], *arguments)
        try:
            start_processes(tiny.train_rank, everything, size, start_method="forkserver")
        except (ProcessExitedException, ProcessRaisedException) as error:
            print(error)
            return False
        return True

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
        monkeypatch.setattr(doctor, "installed", lambda name: "1.0")

    return pretend


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the newest checkpoint, to be damaged."""
    return Path(shutil.copytree(exported[0] / "checkpoints/iter_000000004", tmp_path / "iter_000000004"))


@pytest.fixture
def rows_file(tmp_path):
    """A function that writes rows as jsonl, beside a photo `a.png`, a text that is no picture and a short video."""
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("not a picture")
    video.write_video(tmp_path / "short.mp4", np.zeros((3, 32, 48, 3), np.uint8), 8)

    def write(*changes: dict):
        lines = [json.dumps({**tiny.ROW, "name": f"row{index}"} | change) for index, change in enumerate(changes)]
        (tmp_path / "batch.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path / "batch.jsonl"

    return write
