"""The critic's training clips: all as bytes on one device, and batches gathered there by indexing.

A batch is one gather: which clip, which frame, shifted by how much, mirrored or not. So corrupted copies (reversed,
spliced, ...; the table of `cookbook/judge/calibration_clips.py`) cost no more than the clips themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch.nn import functional as F

from cookbook import storage
from cookbook.errors import UserError
from cookbook.models import autoencoder
from cookbook.models.frames import sample_frames
from nano.training import read_frames
from simulator.scene import phrase

FPS, TOKENS = 8, 1024  # as the nano profile judges
# Kinds of fault that are never trained on. Each breaks a law that a trained kind breaks too, elsewhere in the clip, so
# they measure whether the law was learned and not the look of one fault: premove has its cousin in distractor_moves
# (things rest unless moved), float_release in levitate (things fall unless held), sink in vanish (things persist).
UNTRAINED = ("premove", "float_release", "sink")
SHIFT = 4  # pixels that the picture may be moved by
NEVER = 1_000_000  # as a frame number: physics holds throughout


def shows_its_instruction(row: dict) -> bool:
    return row["label"] == "real" or (row["label"] == "generated" and row["instruction"] == 1)


def negative_instructions(row: dict, prompts: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Eight instructions that differ from the row's own: in the hand, the object or the place, or altogether.

    Those that differ in one part teach most: whole other instructions name things that are not in the scene.
    """
    own = row["prompt"]
    texts = [other_hand(own)]
    for names, named in (("objects", row["item"]), ("places", row["place"])):
        if named is not None:
            mine = row[names][named]
            texts += [own.replace(mine, other, 1) for other in row[names] if other != mine]
    if row["task"] != "place" and None not in (row["item"], row["place"]):
        texts.append(phrase("place", row["hand"], row["objects"][row["item"]], row["places"][row["place"]]))
    others = [str(text) for text in rng.choice(prompts, 8) if text != own]
    return tuple((texts + others + texts)[:8])


def other_hand(prompt: str) -> str:
    """The instruction of the mirrored clip."""
    return re.sub(r"\b(left|right)\b", lambda side: "right" if side[0] == "left" else "left", prompt)


@dataclass
class Clips:
    """Clips on a device, with labels as arrays there (-1 no answer) and the rest as arrays here."""

    pixels: torch.Tensor  # uint8 [N or 2N, T, H, W, 3]: clips as they are, then their VAE reconstructions
    kinds: np.ndarray
    scenes: list[str]
    prompts: list[str]
    negatives: list[tuple[str, ...]]  # of each, instructions that it certainly does not show
    physics: np.ndarray  # int64 [N]; of a generated video -1 where the rules on pixels leave it open
    instruction: np.ndarray
    breaks: np.ndarray  # first invalid frame, or NEVER
    original: np.ndarray  # number of the valid clip that a fault was injected into, its own for others
    faults: torch.Tensor  # int8 [N, pairs, rows, columns]: 1 where a clip differs from its original, 0 not, -1 hardly

    def __len__(self) -> int:
        return len(self.kinds)

    def texts(self) -> set[str]:
        """All instructions, those of mirrored clips included."""
        texts = {*self.prompts, *(text for row in self.negatives for text in row)}
        return texts | {other_hand(text) for text in texts}

    @property
    def frames(self) -> int:
        return self.pixels.shape[1]

    @property
    def reconstructed(self) -> bool:
        return len(self.pixels) > len(self)


def read_clips(folders: Sequence[Path], edge: int, device: torch.device) -> Clips:
    """All clips of folders of `simulator.make` and `nano.generate_clips`, on the device.

    Raises:
        UserError: a folder without clips, or clips that are not all of one size and length.
    """
    jobs = []
    for folder in folders:
        rows = storage.read_rows(manifest := folder / "manifest.jsonl")
        if not rows:
            raise UserError(f"{manifest} is missing or empty: render clips with `python -m simulator make`")
        jobs += [(folder / "videos" / f"{row['id']}.mp4", row) for row in rows]
    paths, rows = zip(*jobs, strict=True)
    videos = zip(read_frames(paths), rows, strict=True)
    sampled = [sample_frames(frames, row["fps"], FPS, TOKENS, edge).frames for frames, row in videos]
    if len(shapes := {frames.shape for frames in sampled}) != 1:
        raise UserError(f"the critic's clips must be of one size and length, these are of {sorted(shapes)}")
    pixels = torch.from_numpy(np.stack(sampled)).to(device)
    kinds, prompts = np.array([row["label"] for row in rows]), sorted({row["prompt"] for row in rows})
    scenes = [row["id"] if row["label"] == "generated" else row["source_clip"] or row["id"] for row in rows]
    valid = {scenes[number]: number for number in np.flatnonzero(kinds == "real")}
    original = np.array([valid.get(scene, number) for number, scene in enumerate(scenes)])
    breaks = np.array([row["violation"][0] if row.get("violation") else NEVER for row in rows])
    known = [row["instruction"] if row["physics"] or row["label"] == "generated" else -1 for row in rows]
    return Clips(
        pixels,
        kinds,
        scenes,
        [row["prompt"] for row in rows],
        [
            negative_instructions(row, prompts, np.random.default_rng([number, 11]))
            if shows_its_instruction(row)
            else ()
            for number, row in enumerate(rows)
        ],
        np.array([row["physics"] for row in rows]),
        np.array(known),
        breaks,
        original,
        _faults(pixels, torch.from_numpy(original).to(device), torch.from_numpy(breaks).to(device), edge),
    )


def _faults(pixels: torch.Tensor, original: torch.Tensor, breaks: torch.Tensor, edge: int) -> torch.Tensor:
    """Where each clip differs from its original from its fault on: by 8 of 255 levels over a token, or under 3."""
    maps = []
    for rows in torch.arange(len(pixels), device=pixels.device).split(64):
        gap = (pixels[rows].float() - pixels[original[rows]].float()).abs().mean(-1)
        gap = F.pad(gap, (0, 0, 0, 0, 0, gap.shape[1] % 2))  # the last frame stands alone where T is odd
        gap = F.avg_pool2d(gap, edge).unflatten(1, (-1, 2)).amax(2)
        pairs = torch.arange(gap.shape[1], device=pixels.device)
        begun = (2 * pairs + 1 >= breaks[rows, None])[:, :, None, None]
        maps.append(torch.where((gap > 8) & begun, 1, torch.where((gap > 3) & begun, -1, 0)).to(torch.int8))
    return torch.cat(maps)


@torch.no_grad()
def add_reconstructions(
    clips: Clips, vae: AutoencoderKLWan, seed: int = 0, jitter: float = 0.0, batch: int = 16
) -> None:
    """Append every clip's VAE reconstruction, so that VAE artefacts carry no information about the labels.

    Args:
        jitter: half of the clips are decoded from latents with up to so much noise, like those of generated videos.
    """
    device, count = clips.pixels.device, len(clips)
    both = torch.empty((2 * count, *clips.pixels.shape[1:]), dtype=torch.uint8, device=device)
    both[:count] = clips.pixels[:count]
    generator = torch.Generator(device).manual_seed(seed)
    for rows in torch.arange(count).split(batch):
        video = both[rows].permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)
        latents = autoencoder.encode(vae, video)
        amount = (torch.rand(len(rows), generator=generator, device=device) - 0.5).clamp(min=0) * 2 * jitter
        noise = torch.randn(latents.shape, generator=generator, device=device)
        pixels = autoencoder.decode(vae, latents + amount[:, None, None, None, None] * noise)
        both[count + rows] = pixels.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
    clips.pixels = both


@dataclass
class View:
    """Which pixels a batch [B, T'] is gathered from; all tensors on the clips' device."""

    clip: torch.Tensor  # [B]
    other: torch.Tensor  # [B] clip that a splice or a paste takes from
    when: torch.Tensor  # [B, T'] frame
    box: torch.Tensor  # [B, 4] top, bottom, left, right of what the other clip replaces
    since: torch.Tensor  # [B] from this frame on
    shift: torch.Tensor  # [B, 2] rows, columns
    mirrored: torch.Tensor  # [B] bool

    def to(self, device: torch.device) -> View:
        return View(*(value.to(device, non_blocking=True) for value in vars(self).values()))


def plain_view(
    clips: Clips, rows: np.ndarray, when: np.ndarray | None = None, device: torch.device | None = None
) -> View:
    """The clips as they are; `device`: where its tensors are, by default with the clips."""
    device, count = device or clips.pixels.device, len(rows)
    when = np.broadcast_to(np.arange(clips.frames), (count, clips.frames)) if when is None else when
    number = torch.from_numpy(np.array(rows)).to(device)
    zeros = torch.zeros(count, 4, dtype=torch.long, device=device)
    late, unmirrored = torch.full_like(number, clips.frames), torch.zeros(count, dtype=torch.bool, device=device)
    return View(
        number, number.clone(), torch.from_numpy(when.copy()).to(device), zeros, late, zeros[:, :2].clone(), unmirrored
    )


def gather(clips: Clips, view: View) -> torch.Tensor:
    """Pixels uint8 [B, T', H, W, 3] of a view."""
    _, _, height, width, _ = clips.pixels.shape
    device = clips.pixels.device
    y = (torch.arange(height, device=device) + view.shift[:, :1]).clamp(0, height - 1)
    x = torch.arange(width, device=device).expand(len(y), -1)
    x = (torch.where(view.mirrored[:, None], width - 1 - x, x) + view.shift[:, 1:]).clamp(0, width - 1)
    top, bottom, left, right = view.box.T[..., None]
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None]
    late = torch.arange(view.when.shape[1], device=device) >= view.since[:, None]
    replaced = late[:, :, None, None] & inside[:, None]
    source = torch.where(replaced, view.other[:, None, None, None], view.clip[:, None, None, None])
    return clips.pixels[source, view.when[:, :, None, None], y[:, None, :, None], x[:, None, None, :]]


def augment(frames: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Another camera: brightness, colour, blur and noise for uint8 [B, T, H, W, 3]; float [B, T, 3, H, W] in 0..255."""
    count, device = len(frames), frames.device

    def draw(*shape: int, normal: bool = True) -> torch.Tensor:
        make = torch.randn if normal else torch.rand
        return make(shape, generator=generator, device=device)

    gain = (1 + 0.08 * draw(count, 1, 3, 1, 1)) * (1 + 0.1 * draw(count, 1, 1, 1, 1))
    picture = frames.permute(0, 1, 4, 2, 3).float() * gain + 8 * draw(count, 1, 1, 1, 1)
    # half of them softer, like the output of a small world model
    share = ((draw(count, normal=False) - 0.5) * 2).clamp(0, 1)[:, None, None, None, None]
    flat = F.pad(picture.flatten(0, 1), (2, 2, 2, 2), mode="replicate")
    soft = F.avg_pool2d(F.avg_pool2d(flat, 3, 1), 3, 1).view(picture.shape)
    picture = picture + share * (soft - picture)
    grain = 4 * draw(count, 1, 1, 1, 1, normal=False).square()
    picture = picture + grain * torch.randn(picture.shape, generator=generator, device=device)
    return picture.clamp_(0, 255)


def patches(frames: torch.Tensor, patch: int, merge: int) -> torch.Tensor:
    """Qwen3-VL's patches [B * patches, 3 * 2 * patch * patch] of float [B, T, 3, H, W] in 0..255."""
    if frames.shape[1] % 2:
        frames = torch.cat([frames, frames[:, -1:]], 1)
    count, length, _, height, width = frames.shape
    rows, columns = height // patch // merge, width // patch // merge
    cells = frames.div(127.5).sub(1).view(count, length // 2, 2, 3, rows, merge, patch, columns, merge, patch)
    return cells.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(-1, 3 * 2 * patch * patch)
