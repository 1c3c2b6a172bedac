"""Training an inverse dynamics model on episodes: `cookbook actions-train`.

A third of the samples have passed through the world model's autoencoder, as all videos to decode have: its blur is in
every generated picture. Brightness, colour, noise and sharpness vary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cookbook import engine, hardware, profiles, runs, storage, video
from cookbook.actions import clips
from cookbook.actions.decode import decode_pictures
from cookbook.actions.episodes import Episode, EpisodeSet
from cookbook.actions.frames import read_both
from cookbook.actions.model import ActionSpec, InverseDynamics, neighbours, scaled
from cookbook.engine.loop import LOG
from cookbook.errors import UserError, last_line, require_whole
from cookbook.generate.planning import parameters
from cookbook.models import hub

DISTANCE = 0.125  # seconds between the three frames, or the nearest that the data's rate has
ENCODED = 4  # one episode of so many is also encoded and decoded, which takes seconds each on a CPU
HELD_OUT = 0.03  # share of the episodes that is measured on and never trained on
WIDTHS = (40, 80, 160, 192, 192)  # of the stages of the backbone without a name


@dataclass(frozen=True)
class Samples:
    """Frames in memory, and the values to predict from them, in two parts: as filmed, and after the autoencoder."""

    pictures: Tensor  # uint8 [M, 3, H, W], on the device that trains
    triples: tuple[Tensor, Tensor]  # int64 [N, 3] each: the pictures before, at and after a time
    wanted: tuple[Tensor, Tensor]  # [N, 2, J] each: normalised joints and targets
    chances: tuple[Tensor, Tensor]  # [N] each: the sum, up to each sample, of how often they are drawn; ends at 1


@runs.releasing
def train_actions(
    data: tuple[Path, ...],
    out: Path,
    weights: tuple[float, ...] | None = None,
    profile: str = "nano",
    backbone: str | None = None,
    height: int = 48,
    steps: int = 3000,
    batch: int = 128,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    camera: str | None = None,
    key: str | None = None,
    redo: bool = False,
) -> dict:
    """Train an inverse dynamics model on videos with joints; a stopped run continues where it stopped.

    Args:
        data: LeRobot data sets, or folders of `python -m simulator make`, of the same robot and rate.
        out: the model's folder.
        weights: how often each data set is drawn from, relative to the others; by its episodes if not given.
        profile: the world model with whose autoencoder a third of the pictures are encoded and decoded.
        backbone: a pretrained image backbone of transformers (name or folder); a small one from random weights if not
            given.
        height: of the pictures that the network reads.
        batch: frames per step.
        camera: of a LeRobot data set with several, its key, such as observation.images.front.
        key: of a LeRobot data set with only one of them, action or observation.state.

    Returns:
        The manifest; `joint_error` and `joint_error_vae` are held-out mean absolute errors in degrees.
    """
    require_whole(1, steps=steps, batch=batch, height=height)
    require_whole(0, seed=seed)
    chosen, sets = profiles.get(profile), [clips.read(folder, camera, key) for folder in data]
    require_alike(sets)
    shares, models = parse_weights(sets, weights), hub.locate(chosen.world)
    group = engine.Group(0, 1, hardware.device())
    inputs = {str(number): runs.fingerprint(Path(folder)) for number, folder in enumerate(data)}
    inputs["vae"] = runs.fingerprint(models / "vae")
    settings = {"backbone": backbone, "height": height, "steps": steps, "batch": batch, "seed": seed}
    settings |= {"learning_rate": learning_rate, "weights": shares}
    out = storage.absolute(out)
    stage = runs.enter(out, "actions-train", chosen.name, inputs, settings, redo)
    if stage.done:
        return stage.manifest
    torch.manual_seed(seed)
    fps, (used, held) = sets[0].fps, split([episode for part in sets for episode in part.episodes])
    model = build(sets[0], video.probe(used[0].video), backbone, height)
    model.set_statistics(*(np.concatenate(part) for part in zip(*(_rows(e, fps) for e in used), strict=True)))
    chances = frame_chances(sets, shares, used)
    encoded = [int(storage.digest_of(_name(e))[-8:], 16) % ENCODED == 0 for e in used] + [True] * len(held)
    encoded[int(np.argmax(chances))] = True  # at least one that is drawn
    pictures = read_both([*used, *held], encoded, model.spec, chosen, models, out / "cache")
    samples = gather(model, used, pictures[: len(used)], chances, group.device)
    print(f"actions-train: {len(used)} episodes, {len(held)} held out")
    recipe = replace(
        chosen.recipe, name="actions", steps=steps, batch=batch, learning_rate=learning_rate, warmup=min(100, steps),
        start_factor=0.01, peak_factor=1.0, end_factor=0.01, cycle=steps, weight_decay=0.05, betas=(0.9, 0.99),
        clip_norm=1.0, ema_rate=None, lora_rank=None, save_every=500, keep=1,
    )  # fmt: skip
    model.to(group.device).train()
    batch_at, precision = batches(samples, batch, seed), hardware.convolution_dtype(group.device)
    trained = engine.fit(model, loss, batch_at, recipe, out / "checkpoints", seed, group, precision)
    outputs = model.eval().save(out)
    facts = {"frames": sum(map(len, samples.triples)), "episodes": len(used)}
    facts |= held_out_error(model, held, pictures[len(used) :])
    facts["loss_last"] = trained.ends()["loss_last"]
    print(f"actions-train: joint error {facts['joint_error']:.2f} deg, {facts['joint_error_vae']:.2f} after the VAE")
    return stage.finish([*outputs, out / "checkpoints" / LOG], parameters=parameters(model), **facts)


def require_alike(sets: Sequence[EpisodeSet]) -> None:
    """Refuse folders of different robots or rates: their joints would be mixed up."""
    for part in sets[1:]:
        for field in ("joint_names", "fps"):
            if getattr(part, field) != getattr(sets[0], field):
                raise UserError(f"{sets[0].name} and {part.name} differ in {field}: train a model on each")
    if sum(len(part.episodes) for part in sets) < 2:
        raise UserError("training needs two episodes")


def parse_weights(sets: Sequence[EpisodeSet], weights: Sequence[float] | None) -> tuple[float, ...]:
    """How often each data set is drawn from; by its episodes if `weights` is None."""
    shares = tuple(map(float, weights or (len(part.episodes) for part in sets)))
    if len(shares) != len(sets) or min(shares) < 0 or not sum(shares):
        raise UserError(f"{len(shares)} weights for {len(sets)} data sets: give each one that is not negative")
    return shares


def frame_chances(sets: Sequence[EpisodeSet], shares: Sequence[float], used: Sequence[Episode]) -> list[float]:
    """How often a frame of each of the `used` episodes is drawn, so that each data set has its share."""
    owner = {id(episode): number for number, part in enumerate(sets) for episode in part.episodes}
    numbers = [owner[id(episode)] for episode in used]
    frames = np.bincount(numbers, [len(episode.joints) for episode in used], len(sets))
    return [shares[number] / frames[number] for number in numbers]


def _name(episode: Episode) -> str:
    """A name of its own for each episode; a file of LeRobot 3.0 holds several."""
    return f"{episode.video.stem}{episode.start or ''}"


def split(episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode]]:
    """Episodes to train on and held-out ones; those of one scene stay together. Chosen by a hash of the name."""
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(str(episode.facts.get("scene") or _name(episode)), []).append(episode)
    held: list[Episode] = []
    for name in sorted(groups, key=storage.digest_of)[:-1]:
        if len(held) >= max(1, HELD_OUT * len(episodes)):
            break
        held += groups[name]
    names = {id(episode) for episode in held} or {id(episodes[-1])}
    return [e for e in episodes if id(e) not in names], [e for e in episodes if id(e) in names]


def build(part: EpisodeSet, film: video.Video, name: str | None, height: int) -> InverseDynamics:
    """An untrained model for the episodes of `part`, one of whose videos is `film`."""
    from transformers import AutoBackbone, AutoConfig

    try:  # by its own class: AutoBackbone.from_pretrained asks the Hub even for a folder
        kind = type(AutoBackbone.from_config(AutoConfig.from_pretrained(name))) if name else None
        pretrained = kind.from_pretrained(name) if kind else None
    except (OSError, ValueError) as error:
        raise UserError(f"--backbone {name}: not an image backbone of transformers ({last_line(error)})") from None
    config = pretrained.config.to_diff_dict() | {"num_channels": 3} if pretrained else small(height)
    step = max(1, round(DISTANCE * part.fps))
    size = (height, 16 * max(1, round(height * film.width / film.height / 16)))
    shape = (film.height, film.width)
    spec = ActionSpec(part.robot, part.joint_names, part.fps, step / part.fps, shape, size, config)
    return InverseDynamics(spec, pretrained)


def small(height: int) -> dict:
    """The backbone without a name; its last features are about three rows high. At 48 rows it trains on a CPU."""
    widths = list(WIDTHS[: max(3, round(math.log2(height / 6)))])
    kind = {"model_type": "resnet", "num_channels": 9, "layer_type": "basic"}  # the three frames, stacked
    return kind | {"embedding_size": widths[0], "hidden_sizes": widths, "depths": [1] * len(widths)}


def _rows(episode: Episode, fps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return episode.joints, episode.targets, np.diff(episode.targets, axis=0) * fps


def gather(
    model: InverseDynamics,
    episodes: Sequence[Episode],
    pictures: Sequence[np.ndarray],
    chances: Sequence[float],
    device: torch.device,
) -> Samples:
    """The training samples of episodes.

    Args:
        pictures: as `read_both` returns them.
        chances: how often a frame of each episode is drawn, relative to the others.
    """
    known, step = model.statistics(), max(1, round(model.spec.distance * model.spec.fps))
    parts: tuple[list, list] = ([], [])  # of triples, wanted and chances
    count = 0
    for episode, versions, chance in zip(episodes, pictures, chances, strict=True):
        rows = (np.stack([episode.joints, episode.targets], 1) - known["mean"]) / known["scale"]
        for part in range(len(versions)):
            triples = count + neighbours(len(rows), step)
            parts[part].append((triples, rows.astype(np.float32), np.full(len(rows), chance)))
            count += len(rows)
    joined = [[torch.from_numpy(np.concatenate(x)) for x in zip(*part, strict=True)] for part in parts]
    every, wanted, each = zip(*joined, strict=True)
    ladders = tuple(x.cumsum(0) / x.sum() for x in each)
    frames = torch.from_numpy(np.concatenate([x for versions in pictures for x in versions])).to(device)
    return Samples(frames, every, wanted, ladders)


def batches(samples: Samples, size: int, seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """number -> frames float [B, 3, 3, H, W] and the values to predict; a pure function of seed and number."""
    device = samples.pictures.device

    def at(number: int) -> tuple[Tensor, Tensor]:
        chance = torch.Generator().manual_seed((seed << 32) + number)
        triples, wanted = [], []
        for part, share in enumerate((size - size // 3, size // 3)):
            drawn = torch.rand(share, generator=chance, dtype=torch.float64)
            rows = torch.searchsorted(samples.chances[part], drawn, right=True).clamp(max=len(samples.wanted[part]) - 1)
            triples.append(samples.triples[part][rows])
            wanted.append(samples.wanted[part][rows])
        frames = scaled(samples.pictures[torch.cat(triples).to(device)])
        return augment(frames, chance), torch.cat(wanted).to(device)

    return at


def augment(frames: Tensor, chance: torch.Generator, cover: float = 0.2) -> Tensor:
    """Vary contrast, brightness, colour, sharpness and noise of [B, T, 3, H, W], the same for the T frames.

    A rectangle shows another clip, so that no single thing on the table gives away from which clip a picture is. Half
    of its sides are at most `cover` of the picture's.
    """
    count, (height, width), device = len(frames), frames.shape[-2:], frames.device

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return (torch.rand(count, 1, channels, 1, 1, generator=chance) * (high - low) + low).to(device)

    frames = frames * draw(0.8, 1.2) * draw(0.9, 1.1, 3) + draw(-0.15, 0.15)
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    middle, half = draw(0, 1, 2), draw(0, cover, 2)
    inside = ((rows / height - middle[:, :, :1]).abs() < half[:, :, :1]) & (
        (columns / width - middle[:, :, 1:]).abs() < half[:, :, 1:]
    )
    frames = torch.where(inside, frames.roll(1, 0), frames)
    blurred = (torch.rand(count, generator=chance) < 0.3).to(device)
    frames[blurred] = F.avg_pool2d(frames[blurred].flatten(0, 1), 3, 1, 1).view_as(frames[blurred])
    many = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=chance)))  # where frames are
    return frames + (torch.rand(frames.shape, generator=many, device=device) - 0.5) * draw(0, 0.2)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Smooth L1 of normalised joints and targets, and the likelihood of the joints' errors under the deviation."""
    frames, wanted = batch
    joints, targets, log = model(frames).float().unbind(1)
    error = (joints - wanted[:, 0]).detach()
    log = log.clamp(-8, 4)
    likelihood = (log + 0.5 * error.square() * (-2 * log).exp()).mean()
    return F.smooth_l1_loss(torch.stack([joints, targets], 1), wanted, beta=0.05) + 0.02 * likelihood


def held_out_error(model: InverseDynamics, episodes: Sequence[Episode], pictures: Sequence[np.ndarray]) -> dict:
    """Mean absolute error of the joints that move, in degrees: of held-out videos as filmed and after the autoencoder.

    `within_deviation` is the share of errors below the predicted standard deviation, 0.68 for a normal distribution.
    """
    moving = model.statistics()["scale"] > np.radians(2)
    facts: dict = {"held_out_episodes": len(episodes)}
    for version, name in enumerate(("joint_error", "joint_error_vae")):
        decoded = [decode_pictures(model, both[version], model.spec.fps) for both in pictures]
        errors = [np.abs(d.joints - e.joints)[:, moving] for d, e in zip(decoded, episodes, strict=True)]
        facts[name] = round(float(np.degrees(np.concatenate(errors).mean())), 3)
        inside = np.concatenate(errors) < np.concatenate([d.deviation[:, moving] for d in decoded])
        facts[name.replace("joint_error", "within_deviation")] = round(float(inside.mean()), 3)
    return facts
