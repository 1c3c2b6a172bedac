"""The nano VAE: first single frames, then whole clips in crops that follow the motion.

`python -m cookbook.workshop.train_vae --data DIR [DIR ...] --out DIR --minutes M` continues where it stopped.
Windows shorter than the clip are never used: the causal decoder drifts beyond the length it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import AutoencoderKLWan
from torch import nn
from torch.nn import functional as F

from cookbook.models.vae import decode_whole, encode_whole, whole_clip
from cookbook.workshop import nano
from cookbook.workshop.pieces import load_clips, train_in_pieces


@dataclass
class Args:
    data: tuple[Path, ...]
    """Folders made by `cookbook workshop make`."""
    out: Path
    """State, log and, at the end of each piece, the model in `vae/`."""
    minutes: float = 10.0
    image_steps: int = 250
    clip_steps: int = 950
    learning_rate: float = 2e-3
    held_out: int = 24
    """Clips kept for the report."""


def start_from_the_present(vae: AutoencoderKLWan) -> None:
    """Zero the taps of every causal convolution that look at the past, so that single frames teach whole clips."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3 and module.kernel_size[1] == 3:
            module.weight.data[:, :, :2] = 0


def reconstruction_loss(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Error of pixels in -1..1, of their spatial differences (edges), and of the mean colour of 8 x 8 blocks.

    Without the last term a short training learns brightness alone: colour is a small part of the other two.
    """
    error = made - true
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    coarse = F.avg_pool3d(error, (1, 8, 8))
    colour = (coarse - coarse.mean(1, keepdim=True)).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.3 * edges + coarse.abs().mean() + 4 * colour


def motion_map(clips: np.ndarray, block: int = 8) -> np.ndarray:
    """How much each block x block cell moves, [N, H/block, W/block], averaged over a clip."""
    moved = np.stack([np.abs(c[::3].astype(np.int16) - c[:1]).mean((0, 3)) for c in clips])
    count, height, width = moved.shape
    return moved.reshape(count, height // block, block, width // block, block).mean((2, 4))


class Crops:
    """Random windows [B, 3, T, h, w] in -1..1, two thirds of them centred where something moves."""

    def __init__(self, clips: np.ndarray, height: int = 48, width: int = 80, block: int = 8):
        self.clips, self.size, self.block = clips, (height, width), block
        self.motion = torch.from_numpy(motion_map(clips, block)).flatten(1)
        self.columns = clips.shape[3] // block

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        crops = []
        for clip in torch.randint(len(self.clips), (count,), generator=generator).tolist():
            cell = torch.multinomial(self.motion[clip] + 1e-3, 1, generator=generator).item()
            centre = torch.tensor([cell // self.columns, cell % self.columns]) * self.block
            if torch.rand((), generator=generator) < 1 / 3:
                centre = (torch.rand(2, generator=generator) * torch.tensor(self.clips.shape[2:4])).int()
            limits = [self.clips.shape[2 + axis] - self.size[axis] for axis in range(2)]
            top, left = (
                int(min(max(centre[axis] - self.size[axis] // 2, 0), limits[axis]) // self.block * self.block)
                for axis in range(2)
            )
            window = self.clips[clip, :, top : top + self.size[0], left : left + self.size[1]]
            crops.append(torch.from_numpy(window).permute(3, 0, 1, 2))
        return torch.stack(crops).float().div(127.5).sub(1)


def quality(vae: AutoencoderKLWan, clips: np.ndarray) -> dict[str, float]:
    """PSNR in dB over held-out clips: whole, on pixels that moved, and of the copy of frame 0 on those pixels."""

    def psnr(error: torch.Tensor) -> float:
        return float(10 * torch.log10(4 / error.square().mean()))

    whole, moving, copying = [], [], []
    with torch.no_grad(), whole_clip():
        for clip in clips:
            true = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float().div(127.5).sub(1)
            made = decode_whole(vae, encode_whole(vae, true)).clamp(-1, 1)
            moved = ((true - true[:, :, :1]).abs().amax(1, keepdim=True) > 2 * 8 / 255).expand_as(true)
            whole.append(psnr(made - true))
            moving.append(psnr((made - true)[moved]))
            copying.append(psnr((true[:, :, :1] - true)[moved]))
    return {"psnr": float(np.mean(whole)), "psnr_moved": float(np.mean(moving)), "copy_moved": float(np.mean(copying))}


@torch.no_grad()
def set_latent_statistics(vae: AutoencoderKLWan, clips: np.ndarray) -> None:
    """Measure each latent channel's mean and deviation and put them into the config, as the real VAE has them."""
    with whole_clip():
        latents = [encode_whole(vae, torch.from_numpy(c).permute(3, 0, 1, 2)[None].float() / 127.5 - 1) for c in clips]
    flat = torch.cat(latents).transpose(0, 1).flatten(1)
    vae.register_to_config(latents_mean=flat.mean(1).tolist(), latents_std=flat.std(1).tolist())


def main(args: Args) -> None:
    torch.manual_seed(0)
    clips, _ = load_clips(list(args.data))
    held_out, training = (
        clips[:: len(clips) // args.held_out][: args.held_out],
        np.delete(clips, np.s_[:: len(clips) // args.held_out], axis=0),
    )
    print(f"{len(training)} clips to train on, {len(held_out)} held out", flush=True)
    vae = nano.build_vae().train()
    start_from_the_present(vae)
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):  # the fast layout on CPUs and GPUs alike
            module.to(memory_format=torch.channels_last_3d)
    crops = Crops(training)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        if step < args.image_steps:
            clip = torch.randint(len(training), (4,), generator=generator).numpy()
            frame = torch.randint(training.shape[1], (4,), generator=generator).numpy()
            video = torch.from_numpy(training[clip, frame]).permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
        else:
            video = crops.draw(2, generator)
        video = video.contiguous(memory_format=torch.channels_last_3d)
        latents = encode_whole(vae, video)
        jitter = 0.05 * torch.randn(latents.shape, generator=generator)  # the decoder will meet imperfect latents
        return reconstruction_loss(decode_whole(vae, latents + jitter), video) + 1e-4 * F.relu(latents.abs() - 3).mean()

    with whole_clip():
        average = train_in_pieces(
            vae,
            loss_of,
            args.out,
            steps=args.image_steps + args.clip_steps,
            minutes=args.minutes,
            learning_rate=args.learning_rate,
            weight_decay=1e-4,
            ema_decay=0.995,
            report=lambda model: quality(model, held_out),
        )
    set_latent_statistics(average, training[::4])
    average.save_pretrained(args.out / "vae")


if __name__ == "__main__":
    main(tyro.cli(Args))
