"""Training the nano critic on workshop clips and their twins: `python -m nano.critic train`.

Sound clips are answered with 5, broken ones with 1, by cross-entropy over the five digits behind the answer cue. What
makes so small a model learn from some thousand clips is that every pass over the frames answers much more than that:

* physics silently after each frame pair, turning from 5 to 1 where the fault begins;
* physics silently at each visual token, 1 where a twin differs from its original: the simulator knows where;
* the instruction, and another one that is wrong, mostly by one word;
* the words of the right instruction, each told from the clip and the words before it: to grade what was asked for, one
  must be able to tell what was done.

All of it is one forward pass of the real class, with a mask that keeps the questions from seeing each other.
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
from nano.critic_clips import Clips, Example, collect, disturb, gather, read_examples, soften
from nano.critic_draw import Batch, Draw
from nano.critic_forward import Reader

BATCH = 64
LEARNING_RATE = 1e-3
WARMUP = 100  # steps
AVERAGE = 0.998  # decay of the averaged weights, which are the ones that are kept
HELD_OUT_PERCENT = 12
JITTER = 0.3  # of standardised latents, in the round trips that are trained on
SHORT = 6  # every so many steps a batch of shortened clips, among which those with dropped frames are to be told
STATE = "training.pt"
QUICK = 256  # held-out clips looked at on the way; all of them at the end
WEIGHTS = {"physics": 1.0, "running": 1.0, "where": 0.5, "instruction": 1.0, "words": 0.2}


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(to train on, held out), whole scenes on one side, by a hash of the scene's name."""
    held = [int(runs.digest_of(example.scene)[7:15], 16) % 100 < HELD_OUT_PERCENT for example in examples]
    return [e for e, out in zip(examples, held, strict=True) if not out], [
        e for e, out in zip(examples, held, strict=True) if out
    ]


def balanced(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of digit logits [..., 5] with 5 for label 1 and 1 for label 0, both classes weighing the same.

    Label -1 has no answer.
    """
    each = F.cross_entropy(logits.flatten(0, -2), 4 * labels.clamp(min=0).flatten(), reduction="none")
    shares = [(labels == label).flatten().float() for label in (0, 1)]
    return sum((each * share).sum() / share.sum().clamp(min=1) for share in shares) / 2


def loss_on(reader: Reader, clips: Clips, batch: Batch) -> dict[str, torch.Tensor]:
    """The losses of a batch, each a mean."""
    frames = disturb(gather(clips, batch.view))
    read = reader.read(frames, torch.stack([batch.told, batch.strange], 1))
    told = read.answers[:, 1:]  # the instruction and the stranger's
    words = (reader.spoken[batch.told] & batch.describes[:, None])[:, 1:]
    spelled = F.cross_entropy(
        read.words[:, :-1].flatten(0, 1).float(), reader.endings[batch.told][:, 1:].flatten(), reduction="none"
    )
    return {
        "physics": balanced(read.answers[:, 0], batch.physics),
        "running": balanced(read.running, batch.running),
        "where": balanced(read.places, batch.where),
        "instruction": balanced(told, torch.stack([batch.instruction, batch.stranger], 1)),
        "words": (spelled * words.flatten()).sum() / words.sum().clamp(min=1),
    }


def rate(step: int, spent: float) -> float:
    """Learning rate: a linear warm-up in steps, then a cosine over the share of the time that is spent."""
    return LEARNING_RATE * min(1, (step + 1) / WARMUP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, spent))))


class Learner:
    """Weights, their running average and the optimizer: all that a piece of training leaves to the next."""

    def __init__(self, critic: Critic, device: torch.device) -> None:
        self.critic = critic
        critic.model.float().requires_grad_(True).train()
        self.average = copy.deepcopy(critic.model).requires_grad_(False).eval()
        # What is added to every token and what only scales are not pulled towards zero
        parts = [[p for p in critic.model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
        groups = [{"params": part, "weight_decay": decay} for part, decay in zip(parts, (0.05, 0.0), strict=True)]
        self.optimizer = torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.98), fused=device.type == "cuda")
        self.step, self.seconds = 0, 0.0

    def update(self, losses: dict[str, torch.Tensor], spent: float) -> None:
        """One optimizer step; the average follows, slower the longer there is something to average."""
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

    def keep(self, path: Path) -> None:
        weights = {"model": self.critic.model.state_dict(), "average": self.average.state_dict()}
        with runs.replacing(path) as temporary:
            torch.save(
                weights | {"optimizer": self.optimizer.state_dict(), "step": self.step, "seconds": self.seconds},
                temporary,
            )

    def resume(self, path: Path, device: torch.device) -> None:
        saved = torch.load(path, weights_only=True, map_location=device)
        self.critic.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        print(f"critic: continuing at step {self.step} after {self.seconds:.0f} s", flush=True)


def quicken(critic: Critic) -> None:
    """Compile what repeats, in place: layers this narrow spend their time between kernels, not in them."""
    for layer in (*critic.model.model.visual.blocks, *critic.model.model.language_model.layers):
        layer.compile()


def prepare(
    examples: Sequence[Example], critic: Critic, device: torch.device, vae: Path | None, jitter: float, keep: Path
) -> Clips:
    """The clips on the device and, with a VAE, their round trips, which are kept in the file `keep`."""
    clips = collect(examples, critic.token_edge, device)
    if vae is None:
        return clips
    if keep.exists():
        clips.pixels = torch.cat([clips.pixels, torch.from_numpy(np.load(keep)).to(device)])
        return clips
    folder = vae if (vae / "config.json").exists() else vae / "vae"
    if not (folder / "config.json").exists():
        raise UserError(f"{vae} holds no VAE: config.json is missing")
    model = channels_last(AutoencoderKLWan.from_pretrained(folder, torch_dtype=compute_dtype(device))).to(device).eval()
    soften(clips, model.requires_grad_(False), jitter=jitter)
    with runs.replacing(keep) as temporary, open(temporary, "wb") as file:
        np.save(file, clips.pixels[len(clips) :].cpu().numpy())
    return clips


def round_trips(folders: Sequence[Path], vae: Path | None, device: str) -> Path:
    """Where the round trips of these folders' clips are kept, without the ending."""
    made_from = [
        [runs.digest(folder / "manifest.jsonl") for folder in folders],
        vae and runs.fingerprint(vae),
        device,
    ]
    return folders[0] / f".round-trips-{runs.digest_of(made_from)[-12:]}"


def assess(critic: Path, held_out: tuple[Path, ...], vae: Path | None = None, device: str = "cpu") -> dict:
    """Measure a critic on clips that it never saw, and print what training prints at its end.

    Args:
        critic: a folder as `train` leaves it.
        held_out: folders made by simulator.make, with twins; dreams of nano.generate_clips, too.
        vae: the nano VAE; with it the clips' round trips are measured as well.
        device: `cpu`, `cuda` or `cuda:<n>`.
    """
    from nano.critic_measure import counts, dreams, measure, report

    loaded = load_critic(critic, torch.device(device))
    keep = round_trips(held_out, vae, device).with_suffix(".held.npy")
    clips = prepare(read_examples(held_out, loaded.token_edge), loaded, torch.device(device), vae, 0.0, keep)
    reader = Reader(loaded, clips.pixels.shape[1:4], sorted(set(clips.texts())))
    facts = {"critic": measure(reader, clips), "generated": dreams(reader, clips)} | counts(reader, clips)
    print(f"{report(facts['critic'])}\nclips: {facts['clips']}\n95 % intervals: {facts['intervals']}\n"
          f"dreams: {facts['generated']}", flush=True)  # fmt: skip
    return facts


def train(
    data: tuple[Path, ...],
    out: Path,
    minutes: float = 20,
    held_out: tuple[Path, ...] = (),
    vae: Path | None = None,
    tokenizer: Path | None = None,
    device: str = "cpu",
    batch: int = BATCH,
    piece: float | None = None,
    shuffled: bool = False,
) -> dict:
    """Train the critic in `out` (made first if there is none) for so many minutes in all, and save it there.

    A run that was stopped continues from `out/training.pt`, saved every half minute and at each measurement. The clock
    counts training alone, not loading and measuring.

    Args:
        data: folders made by simulator.make, with twins.
        held_out: such folders of other scenes and pairs, to measure on; without any, one scene in eight is held out.
        vae: the nano VAE; half of what is trained on went through it, and both are measured.
        tokenizer: for a new critic, a folder of `build_tokenizer`; None trains one.
        device: `cpu`, `cuda` or `cuda:<n>`.
        piece: stop after so many minutes, to be called again; the schedule is that of `minutes`.
        shuffled: give each clip's labels to another clip, as a control: nothing may be learned.

    Returns:
        The last held-out measurement.
    """
    from nano.critic import init, save
    from nano.critic_measure import baseline, check_saved, counts, dreams, measure, report

    on = torch.device(device)
    if not (out / "config.json").exists():
        init(out, tokenizer)
    critic = load_critic(out, on)
    started = time.monotonic()
    examples = read_examples(data, critic.token_edge)
    examples, held = (examples, read_examples(held_out, critic.token_edge)) if held_out else split(examples)
    if not held:
        raise UserError("no scene is held out to measure on: give --held-out, or more scenes")
    keep = round_trips((*data, *held_out), vae, device)
    clips = prepare(examples, critic, on, vae, JITTER, keep.with_suffix(".train.npy"))
    unknown = prepare(held, critic, on, vae, 0.0, keep.with_suffix(".held.npy"))
    if shuffled:
        mixed = torch.from_numpy(np.random.default_rng(5).permutation(len(clips))).to(on)
        clips.pixels = torch.cat([part[mixed] for part in clips.pixels.split(len(clips))])
        clips.faults.fill_(-1)
    print(f"critic: {len(clips)} clips to train on, {len(unknown)} held out, {minutes:g} minutes on {device}; "
          f"prepared in {time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    learner = Learner(critic, on)
    if on.type == "cuda":
        quicken(critic)
    if (out / STATE).exists():
        learner.resume(out / STATE, on)
    texts = sorted({text for part in (clips, unknown) for text in part.texts()})
    reader = Reader(critic, clips.pixels.shape[1:4], texts)
    averaged = Reader(replace(critic, model=learner.average), clips.pixels.shape[1:4], texts)
    draw = Draw(clips, reader.numbers, batch, np.random.default_rng([7, learner.step]))
    torch.manual_seed(learner.step)
    marks = [share for share in (0.25, 0.5, 0.75, 1.0) if 60 * minutes * share > learner.seconds]
    end = 60 * (minutes if piece is None else min(minutes, learner.seconds / 60 + piece))
    result, sums, counted, told = {}, {}, 0, learner.seconds
    while learner.seconds < end:
        begun = time.monotonic()
        losses = loss_on(reader, clips, draw(short=learner.step % SHORT == SHORT - 1))
        learner.update(losses, learner.seconds / 60 / minutes)
        sums = {name: sums.get(name, 0) + value.detach() for name, value in losses.items()}
        counted += 1
        if counted % 20 == 0:  # the device runs behind: wait, so that the clock is right
            _ = float(sums["physics"])
        learner.seconds += time.monotonic() - begun
        passed = [mark for mark in marks if learner.seconds >= 60 * minutes * mark]
        done = learner.seconds >= end
        if passed or done or learner.seconds - told > 30:
            means = {name: round(float(value) / counted, 4) for name, value in sums.items()}
            speed = counted / max(learner.seconds - told, 1e-9)
            sums, counted, told = {}, 0, learner.seconds
            marks = [mark for mark in marks if mark not in passed]
            row = {"step": learner.step, "seconds": learner.seconds, "steps_per_second": round(speed, 2), "loss": means}
            if passed or done:
                result = measure(averaged, unknown, None if done else QUICK)
                save(copy.deepcopy(learner.average).half(), critic.processor.tokenizer, out)
            learner.keep(out / STATE)
            runs.append_row(out / "train_log.jsonl", row | {"held_out": result if passed or done else None})
            print(f"step {learner.step} {learner.seconds:.0f} s {speed:.1f}/s loss {means}", flush=True)
            if passed or done:
                print(report(result), flush=True)
    if result:
        facts = {
            "critic": result,
            "pixel_statistics": baseline(clips, unknown),
            "saved": check_saved(out, averaged, unknown),
            "generated": dreams(averaged, unknown),
        }
        facts |= counts(averaged, unknown) | {"shuffled": shuffled, "step": learner.step}
        runs.write_json(out / "metrics.json", facts)
        print(
            f"pixel statistics: {facts['pixel_statistics']}\nsaved files: {facts['saved']}\n"
            f"clips: {facts['clips']}\n95 % intervals: {facts['intervals']}\ndreams: {facts['generated']}",
            flush=True,
        )
    return result
