"""The nano VAE: first single frames, then whole clips.

`python -m nano.train_vae --data DIR [DIR ...] --out DIR` resumes where it stopped.
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

from cookbook import hardware, storage
from cookbook.engine.loop import autocast
from cookbook.errors import report_user_errors
from cookbook.models.autoencoder import channels_last, decode_whole, moments_whole, whole_clip
from nano import networks
from nano.training import draws, fit_from_scratch, load_clips, recipe

MOVED = 2 * 8 / 255  # a pixel in -1..1 has moved when it differs from frame 0 by more than 8 of 255 levels
KL_WEIGHT = 1e-6  # enough to keep latents bounded; more of it costs sharpness


@dataclass
class Args:
    data: tuple[Path, ...]
    """Folders of `python -m simulator make`."""
    out: Path
    """Checkpoints, logs, `vae/` and its figures on held-out clips, `quality.json`."""
    frame_steps: int = 1000
    clip_steps: int = 5500
    image_batch: int = 64
    clip_batch: int = 8
    learning_rate: float = 1e-3
    held_out: int = 24
    """Clips of the first folder kept for the report."""


def start_from_the_present(vae: AutoencoderKLWan) -> None:
    """Zero the taps of every causal convolution that look at the past, so that single frames teach whole clips."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3 and module.kernel_size[1] == 3:
            module.weight.data[:, :, :2] = 0


def moved(video: torch.Tensor) -> torch.Tensor:
    """Where a clip [B, 3, T, H, W] in -1..1 differs from its frame 0, bool [B, 1, T, H, W]."""
    return (video - video[:, :, :1]).abs().amax(1, keepdim=True) > MOVED


def reconstruction_loss(output: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error of pixels in -1..1, moving ones counting fourfold, and of their spatial differences.

    Few pixels move, and a world model must predict exactly those.
    """
    error = output.float() - true
    weight = 1 + 3 * moved(true).float()
    weight = weight / weight.mean()
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return (weight * error.abs()).mean() + 3 * (weight * error.square()).mean() + 0.3 * edges


def autoencoder_loss(vae: AutoencoderKLWan, video: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Reconstruction from a sampled latent, and the divergence of its distribution from the standard normal."""
    mean, log_variance = (part.float() for part in moments_whole(vae, video))
    log_variance = log_variance.clamp(-30, 20)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    output = decode_whole(vae, mean + (0.5 * log_variance).exp() * noise)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return reconstruction_loss(output, video) + KL_WEIGHT * divergence


def psnr(squared_error: torch.Tensor) -> float:
    """Decibels of the mean of squared errors of pixels in -1..1."""
    return float(10 * torch.log10(4 / squared_error.mean()))


@torch.no_grad()
def quality(vae: AutoencoderKLWan, clips: torch.Tensor) -> dict[str, float | list[float]]:
    """PSNR in dB over held-out clips uint8 [N, 3, T, H, W]: whole, of moved pixels, and per frame position.

    `copy_*` is the same for frame 0 repeated. Mean over clips of each clip's PSNR; per frame, over clips.
    """
    rows = []
    with whole_clip(), autocast(vae, clips.device, hardware.compute_dtype(clips.device)):
        for clip in clips:
            true = pixels(clip[None])
            output = decode_whole(vae, moments_whole(vae, true)[0]).float().clamp(-1, 1)
            where = moved(true).expand_as(true)
            errors = {"": (output - true).square(), "copy_": (true[:, :, :1] - true).square()}
            row = {}
            for name, error in errors.items():
                row[f"{name}psnr"], row[f"{name}psnr_moved"] = psnr(error), psnr(error[where])
            row["frames"] = [psnr(errors[""][:, :, t]) for t in range(true.shape[2])]
            rows.append(row)
    means = {key: round(float(np.mean([row[key] for row in rows])), 2) for key in rows[0] if key != "frames"}
    return means | {"psnr_per_frame": np.mean([row["frames"] for row in rows], 0).round(1).tolist()}


def pixels(clips: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 -> float32 -1..1, in the memory layout that is fastest for 3D convolutions on CPUs and GPUs."""
    return clips.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last_3d)


@torch.no_grad()
def set_latent_statistics(vae: AutoencoderKLWan, clips: torch.Tensor) -> None:
    """Measure each latent channel's mean and deviation and put them into the config, as the real VAE has them."""
    with whole_clip(), autocast(vae, clips.device, hardware.compute_dtype(clips.device)):
        latents = [moments_whole(vae, pixels(part))[0].float() for part in clips.split(8)]
    flat = torch.cat(latents).transpose(0, 1).flatten(1)
    vae.register_to_config(latents_mean=flat.mean(1).tolist(), latents_std=flat.std(1).tolist())


def main(args: Args) -> None:
    torch.manual_seed(0)
    device = hardware.device()
    frames, _ = load_clips(args.data)
    clips = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).contiguous().to(device)
    held_out, training = clips[: args.held_out], clips[args.held_out :]
    print(f"{len(training)} clips to train on, {len(held_out)} held out, on {device}", flush=True)
    vae = channels_last(networks.build_vae()).to(device)
    start_from_the_present(vae)

    def loss(model: AutoencoderKLWan, batch: tuple[torch.Tensor, torch.Generator]) -> torch.Tensor:
        return autoencoder_loss(model, pixels(batch[0]), batch[1])

    def draw_frames(number: int) -> tuple[torch.Tensor, torch.Generator]:
        chance = draws(number)
        clip = torch.randint(len(training), (args.image_batch,), generator=chance, device=device)
        frame = torch.randint(training.shape[2], (args.image_batch,), generator=chance, device=device)
        return training[clip, :, frame][:, :, None], chance

    def draw_clips(number: int) -> tuple[torch.Tensor, torch.Generator]:
        chance = draws(number)
        return training[torch.randint(len(training), (args.clip_batch,), generator=chance, device=device)], chance

    with whole_clip():
        for name, steps, batch, batch_at in (
            ("frames", args.frame_steps, args.image_batch, draw_frames),
            ("clips", args.clip_steps, args.clip_batch, draw_clips),
        ):
            if name == "clips" and device.type == "cuda":  # compiling takes more than it saves on single frames
                vae.encoder.compile(dynamic=False)
                vae.decoder.compile(dynamic=False)
            settings = recipe(name, steps, batch, args.learning_rate, 100, 1e-4)
            fit_from_scratch(vae, loss, batch_at, settings, args.out / name)
    set_latent_statistics(vae, training[:: max(1, len(training) // 256)])
    vae.save_pretrained(args.out / "vae")
    figures = quality(vae, held_out)
    storage.write_json(args.out / "quality.json", figures)
    print(figures)


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
