"""Training a policy from LeRobot data sets or clips of the simulator, by the training loop of the world model.

Each example is a moment of an episode: its picture, instruction and joint angles, and the targets from then on. A
quarter of the examples are first moments, where only the instruction says which task it is. Noise on the joint angles
keeps the policy from copying them instead of looking.

Joint targets alone say little about which thing in a picture a word means. The video says it: between now and its end,
the picture changes where the object was and where it is put. The policy also predicts where that will be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cookbook import engine, hardware, profiles, runs, show, storage, video
from cookbook.actions import clips
from cookbook.actions.episodes import EpisodeSet
from cookbook.actions.frames import read_pictures
from cookbook.actions.model import scaled
from cookbook.actions.training import augment, parse_weights, require_alike
from cookbook.engine.loop import LOG
from cookbook.errors import UserError, require_whole
from cookbook.generate.planning import parameters
from cookbook.policy.model import Policy, PolicySpec, split_words, vocabulary

CHUNK = 3.0  # seconds predicted at once: as long as a demonstration
FIRST = 0.25  # share of the examples that are the first moment of an episode
CHANGE = 10.0  # weight of the predicted change beside the error of the targets
SEEN = 24  # of 255: a change of the picture that counts
NOISE = 0.05  # on the joint angles, in standard deviations


@dataclass(frozen=True)
class Examples:
    """The episodes of all data sets, one after the other, on the device that trains."""

    pictures: Tensor  # uint8 [N, 3, H, W]
    words: Tensor  # of each episode, [E, L]
    joints: Tensor  # normalised [N, J]
    targets: Tensor  # normalised [N, J]
    first: np.ndarray  # index of each episode's first moment, and of its last, [E]
    last: np.ndarray
    shares: np.ndarray  # how often each episode is drawn from, [E]


def train_policy(
    data: tuple[Path, ...],
    out: Path,
    weights: tuple[float, ...] | None = None,
    profile: str = "nano",
    height: int = 48,
    steps: int = 1500,
    batch: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
    camera: str | None = None,
    key: str | None = None,
    redo: bool = False,
) -> dict:
    """Train a policy on videos with joints and instructions; a run that was stopped continues where it was.

    Args:
        data: LeRobot data sets, or folders of `python -m simulator make`, of the same robot and rate.
        out: the policy's folder.
        weights: how often each data set is drawn from, relative to the others; by its episodes if not given.
        height: of the pictures that the network reads.
        batch: examples per step.
        camera: of a LeRobot data set with several, its key, such as observation.images.front.
        key: of a LeRobot data set with only one of them, action or observation.state.

    Returns:
        The manifest; `loss_last` is the mean loss of the last tenth of the steps.
    """
    sets = [clips.read(folder, camera, key) for folder in data]
    return train_on(sets, out, weights, profile, height, steps, batch, learning_rate, seed, redo)


@runs.releasing
def train_on(
    sets: Sequence[EpisodeSet],
    out: Path,
    weights: Sequence[float] | None = None,
    profile: str = "nano",
    height: int = 48,
    steps: int = 1500,
    batch: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
    redo: bool = False,
    cache: Path | None = None,
) -> dict:
    """As `train_policy`, on data sets that were read, such as a part of one.

    Args:
        cache: where pictures are kept that several policies are trained on; in `out` if not given.
    """
    require_whole(1, steps=steps, batch=batch, height=height)
    require_whole(0, seed=seed)
    chosen, group, out = profiles.get(profile), engine.Group(0, 1, hardware.device()), storage.absolute(out)
    require_alike(sets)
    shares = parse_weights(sets, weights)
    settings = {"weights": shares, "height": height, "steps": steps, "batch": batch, "seed": seed}
    inputs = {str(number): mark(part) for number, part in enumerate(sets)}
    stage = runs.enter(out, "policy-train", chosen.name, inputs, settings | {"learning_rate": learning_rate}, redo)
    if stage.done:
        return stage.manifest
    torch.manual_seed(seed)
    model = build(sets, height)
    examples = gather(model, sets, shares, cache or out / "cache", group.device)
    recipe = replace(
        chosen.recipe, name="policy", steps=steps, batch=batch, learning_rate=learning_rate,
        warmup=min(200, 1 + steps // 10), start_factor=0.01, peak_factor=1.0, end_factor=0.01, cycle=steps,
        weight_decay=0.05, betas=(0.9, 0.99), clip_norm=1.0, ema_rate=0.05, lora_rank=None, save_every=500, keep=1,
    )  # fmt: skip
    model.to(group.device).train()
    batch_at = batches(examples, model.spec.chunk, batch, seed)
    trained = engine.fit(model, loss, batch_at, recipe, out / "checkpoints", seed, group, torch.float32)
    facts = {"episodes": [len(part.episodes) for part in sets], "parameters": parameters(model)}
    facts["loss_last"] = trained.ends()["loss_last"]
    print(f"policy-train: {sum(facts['episodes'])} episodes, loss {facts['loss_last']:.4f}")
    return stage.finish([*model.eval().save(out), out / "checkpoints" / LOG], **facts)


def mark(part: EpisodeSet) -> str:
    """One hash over what is learned from a data set."""
    rows = []
    for episode in part.episodes:
        numbers = hashlib.sha256(np.stack([episode.joints, episode.targets]).tobytes()).hexdigest()
        rows.append([storage.digest(episode.video), episode.start, episode.task, numbers])
    return storage.digest_of(rows)


def build(sets: Sequence[EpisodeSet], height: int) -> Policy:
    """An untrained policy for the robot, the rate and the words of data sets, with the statistics of their joints."""
    episodes = [episode for part in sets for episode in part.episodes]
    if empty := next((episode for episode in episodes if not split_words(episode.task)), None):
        raise UserError(f"{empty.video}: no instruction; a policy needs one for each episode")
    film = video.probe(episodes[0].video)
    size = tuple(2 * max(4, round(edge / 2)) for edge in (height, height * film.width / film.height))
    words, length = vocabulary(episode.task for episode in episodes)
    first = sets[0]
    spec = PolicySpec(first.robot, first.joint_names, first.fps, round(CHUNK * first.fps), size, words, length)
    model = Policy(spec)
    model.set_statistics(*(np.concatenate([getattr(e, name) for e in episodes]) for name in ("joints", "targets")))
    return model


def gather(
    model: Policy, sets: Sequence[EpisodeSet], shares: Sequence[float], cache: Path, device: torch.device
) -> Examples:
    """The examples of all data sets; `shares` is how often each is drawn from. Pictures are kept in `cache`."""
    episodes = [episode for part in sets for episode in part.episodes]
    pictures = [
        torch.from_numpy(read_pictures(episode, model.spec.fps, model.spec.size, cache)[0])
        for episode in show.progress(episodes, "policy-train: frames")
    ]
    words = torch.tensor([model.read_words(episode.task) for episode in episodes], device=device)
    joints, targets = (
        torch.from_numpy(model.normalised(np.concatenate([getattr(e, name) for e in episodes]))).to(device)
        for name in ("joints", "targets")
    )
    end = np.cumsum([len(part) for part in pictures])
    first = end - [len(part) for part in pictures]
    counts = [len(part.episodes) for part in sets]
    each = np.repeat(np.divide(shares, np.maximum(counts, 1)), counts)
    return Examples(torch.cat(pictures).to(device), words, joints, targets, first, end - 1, each / each.sum())


def batches(examples: Examples, chunk: int, size: int, seed: int) -> Callable[[int], tuple[Tensor, ...]]:
    """number -> pictures [B, 3, H, W], words [B, L], joints [B, J], targets [B, chunk, J] and `changes` [B, H/2, W/2].

    A pure function of seed and number. After the end of an episode its last target stays.
    """

    def at(number: int) -> tuple[Tensor, ...]:
        chance = np.random.default_rng([seed, number])
        episode = chance.choice(len(examples.shares), size, p=examples.shares)
        first, last = examples.first[episode], examples.last[episode]
        time = np.where(chance.random(size) < FIRST, first, chance.integers(first, last + 1))
        ahead = np.minimum(time[:, None] + np.arange(chunk), last[:, None])
        noise = torch.from_numpy(chance.standard_normal((size, examples.joints.shape[1]), np.float32))
        now, end = examples.pictures[time], examples.pictures[last]
        seen = augment(scaled(now[:, None]), torch.Generator().manual_seed((seed << 32) + number), cover=0)[:, 0]
        joints = examples.joints[time] + NOISE * noise.to(now.device)
        return seen, examples.words[episode], joints, examples.targets[ahead], changes(now, end)

    return at


def changes(now: Tensor, end: Tensor) -> Tensor:
    """Pictures uint8 [B, 3, H, W], now and at the end -> where they differ, 0 or 1 [B, H/2, W/2]."""
    return (F.avg_pool2d((end.float() - now.float()).abs().amax(1), 2) > SEEN).float()


def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Mean absolute error of the normalised targets, and cross-entropy of where the picture changes."""
    *read, targets, changed = batch
    guess, change = model(*read)
    error = F.l1_loss(guess.float(), targets)
    return error + CHANGE * F.binary_cross_entropy_with_logits(change.float(), changed)
