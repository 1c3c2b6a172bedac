"""Training the nano critic on the simulator's clips and injected faults: `python -m nano.critic train`.

The answer to a valid clip is 5, to an invalid one 1, by cross-entropy over the five digits after the answer cue. So
small a model learns from some thousand clips because every forward pass has many more targets:

* physics after each frame pair, turning from 5 to 1 where the fault begins;
* physics at each visual token, 1 where a clip differs from its original, which the simulator knows;
* the instruction, and another one that is wrong, mostly by one word;
* the words of the right instruction, each predicted from the clip and the words before it.

All of it is one forward pass of the real class, with a mask that keeps the questions from attending to each other.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import nn
from torch.nn import functional as F

from cookbook import runs
from cookbook.errors import UserError
from cookbook.hardware import compute_dtype
from cookbook.models.autoencoder import channels_last
from cookbook.models.critic import Critic, load_critic
from nano.critic_clips import Clips, add_reconstructions, augment, collect, gather, read_labelled_clips
from nano.critic_draw import Batch, Draw
from nano.critic_forward import BatchedCritic
from nano.critic_measure import baseline, check_saved, counts, generated, measure, report
from nano.critic_model import init, save

BATCH = 64
LEARNING_RATE = 1e-3
WARMUP = 100  # steps
AVERAGE = 0.998  # decay of the averaged weights, which are saved
JITTER = 0.3  # of standardised latents, in the VAE reconstructions that are trained on
SHORT = 6  # steps from one batch of shortened clips to the next, some of which lack frames in the middle
STATE = "training.pt"
QUICK = 256  # held-out clips measured on the way; all of them at the end
WEIGHTS = {"physics": 1.0, "per_frame": 1.0, "per_token": 0.5, "instruction": 1.0, "words": 0.2}


def balanced(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of digit logits [..., 5] with 5 for label 1 and 1 for label 0, both classes weighing the same.

    Label -1 has no answer.
    """
    each = F.cross_entropy(logits.flatten(0, -2), 4 * labels.clamp(min=0).flatten(), reduction="none")
    shares = [(labels == label).flatten().float() for label in (0, 1)]
    return sum((each * share).sum() / share.sum().clamp(min=1) for share in shares) / 2


def loss_on(batched: BatchedCritic, clips: Clips, batch: Batch) -> dict[str, torch.Tensor]:
    """The losses of a batch, each a mean."""
    frames = augment(gather(clips, batch.view))
    outputs = batched.forward(frames, torch.stack([batch.own, batch.negative], 1))
    words = (batched.instruction_words[batch.own] & batch.describes[:, None])[:, 1:]
    next_words = F.cross_entropy(
        outputs.words[:, :-1].flatten(0, 1).float(), batched.endings[batch.own][:, 1:].flatten(), reduction="none"
    )
    return {
        "physics": balanced(outputs.answers[:, 0], batch.physics),
        "per_frame": balanced(outputs.per_frame, batch.per_frame),
        "per_token": balanced(outputs.per_token, batch.per_token),
        "instruction": balanced(outputs.answers[:, 1:], torch.stack([batch.instruction, batch.negative_label], 1)),
        "words": (next_words * words.flatten()).sum() / words.sum().clamp(min=1),
    }


def rate(step: int, spent: float) -> float:
    """Learning rate: a linear warm-up in steps, then a cosine over the share of the time that is spent."""
    return LEARNING_RATE * min(1, (step + 1) / WARMUP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, spent))))


class Learner:
    """Weights, their running average and the optimizer: the state from which training resumes."""

    def __init__(self, critic: Critic, device: torch.device) -> None:
        self.critic = critic
        critic.model.float().requires_grad_(True).train()
        self.average = copy.deepcopy(critic.model).requires_grad_(False).eval()
        # No weight decay on biases and scales
        parts = [[p for p in critic.model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
        groups = [{"params": part, "weight_decay": decay} for part, decay in zip(parts, (0.05, 0.0), strict=True)]
        self.optimizer = torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.98), fused=device.type == "cuda")
        self.step, self.seconds = 0, 0.0

    def update(self, losses: dict[str, torch.Tensor], spent: float) -> None:
        """One optimizer step. The decay of the average rises to `AVERAGE` over the first steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, spent)
        sum(WEIGHTS[name] * value for name, value in losses.items()).backward()
        nn.utils.clip_grad_norm_(self.critic.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.critic.model.parameters()), 1 - decay)
        self.step += 1

    def save(self, path: Path) -> None:
        parts = {"model": self.critic.model, "average": self.average, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}
        with runs.replacing(path) as temporary:
            torch.save(state | {"step": self.step, "seconds": self.seconds}, temporary)

    def resume(self, path: Path, device: torch.device) -> None:
        saved = torch.load(path, weights_only=True, map_location=device)
        self.critic.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        print(f"critic: resuming at step {self.step} after {self.seconds:.0f} s", flush=True)


def compile_layers(critic: Critic) -> None:
    """Compile the repeated layers in place: layers this narrow spend their time between kernels, not in them."""
    for layer in (*critic.model.model.visual.blocks, *critic.model.model.language_model.layers):
        layer.compile()


def load_labelled(folders: Sequence[Path], critic: Critic, vae: Path | None, jitter: float, cache: Path) -> Clips:
    """The clips on the critic's device and, with a VAE, their reconstructions, which are cached in a file."""
    device = critic.model.device
    clips = collect(read_labelled_clips(folders, critic.token_edge), critic.token_edge, device)
    if vae is None:
        return clips
    if cache.exists():
        clips.pixels = torch.cat([clips.pixels, torch.from_numpy(np.load(cache)).to(device)])
        return clips
    folder = vae if (vae / "config.json").exists() else vae / "vae"
    if not (folder / "config.json").exists():
        raise UserError(f"{vae} holds no VAE: config.json is missing")
    model = channels_last(AutoencoderKLWan.from_pretrained(folder, torch_dtype=compute_dtype(device))).to(device).eval()
    add_reconstructions(clips, model.requires_grad_(False), jitter=jitter)
    with runs.replacing(cache) as temporary, open(temporary, "wb") as file:
        np.save(file, clips.pixels[len(clips) :].cpu().numpy())
    return clips


def reconstruction_cache(folders: Sequence[Path], vae: Path | None, device: str) -> Path:
    """Where the VAE reconstructions of these folders' clips are cached, without the suffix."""
    inputs = [[runs.digest(folder / "manifest.jsonl") for folder in folders], vae and runs.fingerprint(vae), device]
    return folders[0] / f".reconstructions-{runs.digest_of(inputs)[-12:]}"


def assess(critic: Path, held_out: tuple[Path, ...], vae: Path | None = None, device: str = "cpu") -> dict:
    """Measure a critic on held-out clips, and print the figures that training prints at its end.

    Args:
        critic: a folder that `train` wrote.
        held_out: folders of simulator.make, with faults, and of nano.generate_clips.
        vae: the nano VAE; with it the clips' VAE reconstructions are measured as well.
        device: `cpu`, `cuda` or `cuda:<n>`.
    """
    loaded = load_critic(critic, torch.device(device))
    cache = reconstruction_cache(held_out, vae, device).with_suffix(".held.npy")
    clips = load_labelled(held_out, loaded, vae, 0.0, cache)
    batched = BatchedCritic(loaded, clips.pixels.shape[1:4], sorted(set(clips.texts())))
    figures = {"critic": measure(batched, clips), "generated": generated(batched, clips)} | counts(batched, clips)
    print(report(figures["critic"]))
    print_figures(figures)
    return figures


def print_figures(figures: dict) -> None:
    """All figures of a critic but the AUCs, which `report` prints."""
    for key in ("pixel_statistics", "saved", "clips", "intervals", "generated"):
        if key in figures:
            print(f"{key.replace('_', ' ')}: {figures[key]}", flush=True)


def train(
    data: tuple[Path, ...],
    out: Path,
    held_out: tuple[Path, ...],
    minutes: float = 20,
    vae: Path | None = None,
    tokenizer: Path | None = None,
    device: str = "cpu",
    batch: int = BATCH,
    budget: float | None = None,
) -> dict:
    """Train the critic in `out` (initialised if there is none) for `minutes` in all, and save it there.

    A run that was stopped resumes from `out/training.pt`, saved every half minute and at each measurement. The clock
    counts training alone, not loading and measuring.

    Args:
        data: folders of simulator.make, with faults, and of nano.generate_clips.
        held_out: such folders of other scenes and pairs, to measure on.
        vae: the nano VAE; half of the training clips are its reconstructions, and both are measured.
        tokenizer: for a new critic, a folder of `build_tokenizer`; None trains one.
        device: `cpu`, `cuda` or `cuda:<n>`.
        budget: minutes after which to stop, to be called again; the schedule is that of `minutes`.

    Returns:
        The last held-out measurement.
    """
    on = torch.device(device)
    if not (out / "config.json").exists():
        init(out, tokenizer)
    critic = load_critic(out, on)
    started = time.monotonic()
    cache = reconstruction_cache((*data, *held_out), vae, device)
    clips = load_labelled(data, critic, vae, JITTER, cache.with_suffix(".train.npy"))
    held = load_labelled(held_out, critic, vae, 0.0, cache.with_suffix(".held.npy"))
    print(f"critic: {len(clips)} clips to train on, {len(held)} held out, {minutes:g} minutes on {device}; "
          f"loaded in {time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    learner = Learner(critic, on)
    if on.type == "cuda":
        compile_layers(critic)
    if (out / STATE).exists():
        learner.resume(out / STATE, on)
    texts = sorted({text for part in (clips, held) for text in part.texts()})
    batched = BatchedCritic(critic, clips.pixels.shape[1:4], texts)
    averaged = BatchedCritic(replace(critic, model=learner.average), clips.pixels.shape[1:4], texts)
    end = minutes if budget is None else min(minutes, learner.seconds / 60 + budget)
    result = training_loop(learner, batched, averaged, (clips, held), out, (minutes, end), batch)
    if result:
        figures = {
            "critic": result,
            "pixel_statistics": baseline(clips, held),
            "saved": check_saved(out, averaged, held),
            "generated": generated(averaged, held),
            **counts(averaged, held),
            "step": learner.step,
        }
        runs.write_json(out / "metrics.json", figures)
        print_figures(figures)
    return result


def training_loop(
    learner: Learner,
    batched: BatchedCritic,
    averaged: BatchedCritic,
    data: tuple[Clips, Clips],
    out: Path,
    minutes: tuple[float, float],
    batch: int,
) -> dict:
    """The training loop; measures, saves and prints at each quarter of the schedule and at the end.

    Args:
        data: clips to train on, and held-out clips.
        minutes: of the whole schedule, and when to stop.

    Returns:
        The last measurement, empty if there was none.
    """
    (clips, held), (schedule, end) = data, minutes
    draw = Draw(clips, batched.numbers, batch, np.random.default_rng([7, learner.step]))
    torch.manual_seed(learner.step)
    quarters = [share for share in (0.25, 0.5, 0.75, 1.0) if 60 * schedule * share > learner.seconds]
    result, sums, steps, logged = {}, {}, 0, learner.seconds
    while learner.seconds < 60 * end:
        begun = time.monotonic()
        losses = loss_on(batched, clips, draw(short=learner.step % SHORT == SHORT - 1))
        learner.update(losses, learner.seconds / 60 / schedule)
        sums = {name: sums.get(name, 0) + value.detach() for name, value in losses.items()}
        steps += 1
        if steps % 20 == 0:  # the device runs behind: wait, so that the clock is right
            _ = float(sums["physics"])
        learner.seconds += time.monotonic() - begun
        left = [share for share in quarters if learner.seconds < 60 * schedule * share]
        stop = learner.seconds >= 60 * end
        if stop or left != quarters or learner.seconds - logged > 30:
            means = {name: round(float(value) / steps, 4) for name, value in sums.items()}
            speed = round(steps / max(learner.seconds - logged, 1e-9), 2)
            row = {"step": learner.step, "seconds": learner.seconds, "steps_per_second": speed, "loss": means}
            print(f"step {learner.step} {learner.seconds:.0f} s {speed:.1f}/s loss {means}", flush=True)
            measured = None
            if stop or left != quarters:
                result = measured = measure(averaged, held, None if stop else QUICK)
                save(copy.deepcopy(learner.average).half(), batched.critic.processor.tokenizer, out)
                print(report(result), flush=True)
            learner.save(out / STATE)
            runs.append_row(out / "train_log.jsonl", row | {"held_out": measured})
            quarters, sums, steps, logged = left, {}, 0, learner.seconds
    return result
