"""The nano critic, trained on the simulator's clips and injected faults.

    python -m nano.critic init --out assets/nano/critic
    python -m nano.critic train --data CLIPS --held-out OTHERS --vae assets/nano/world/vae --out critic
    python -m nano.critic measure --critic assets/nano/critic --held-out OTHERS --vae assets/nano/world/vae

The answer to a valid clip is 5, to an invalid one 1, by cross-entropy over the five digits after the answer cue. So
small a model learns from some thousand clips because every forward pass has many more targets:

* physics after each frame pair, turning from 5 to 1 where the fault begins;
* physics at each visual token, 1 where a clip differs from its original, which the simulator knows;
* the instruction, and another one that is wrong, mostly by one word;
* the words of the right instruction, each predicted from the clip and the words before it.

All of it is one forward pass of the real class, with a mask that keeps the questions from attending to each other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKLWan
from torch import nn
from torch.nn import functional as F

from cookbook import hardware, storage
from cookbook.errors import report_user_errors
from cookbook.models import world
from cookbook.models.autoencoder import channels_last
from cookbook.models.critic import Critic, load_critic
from nano.critic_clips import Clips, add_reconstructions, augment, gather, read_clips
from nano.critic_draw import Batch, Draw
from nano.critic_forward import BatchedCritic
from nano.critic_measure import baseline, counts, generated, measure, report
from nano.critic_model import init, save
from nano.training import fit_from_scratch, recipe

JITTER = 0.3  # of standardised latents, in the VAE reconstructions that are trained on
SHORT = 6  # steps from one batch of shortened clips to the next, some of which lack frames in the middle
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


def compile_layers(critic: Critic) -> None:
    """Compile the repeated layers in place: layers this narrow spend their time between kernels, not in them."""
    for layer in (*critic.model.model.visual.blocks, *critic.model.model.language_model.layers):
        layer.compile()


def load_labelled(folders: Sequence[Path], critic: Critic, vae: Path | None, jitter: float) -> Clips:
    """The clips on the critic's device and, with a VAE, their reconstructions."""
    device = critic.model.device
    clips = read_clips(folders, critic.token_edge, device)
    if vae:
        dtype = hardware.compute_dtype(device)
        model = channels_last(world.load_pretrained(AutoencoderKLWan, vae, world.DIFFUSERS, torch_dtype=dtype))
        add_reconstructions(clips, model.to(device).eval().requires_grad_(False), jitter=jitter)
    return clips


def assess(critic: Path, held_out: tuple[Path, ...], vae: Path | None = None) -> dict:
    """Measure a critic on held-out clips, and print the figures that training prints at its end.

    Args:
        critic: a folder that `train` wrote.
        held_out: folders of simulator.make, with faults, and of nano.generate_clips.
        vae: the nano VAE; with it the clips' VAE reconstructions are measured as well.
    """
    loaded = load_critic(critic, hardware.device())
    clips = load_labelled(held_out, loaded, vae, 0.0)
    batched = BatchedCritic(loaded, clips.pixels.shape[1:4], sorted(set(clips.texts())))
    figures = {"critic": measure(batched, clips), "generated": generated(batched, clips)} | counts(batched, clips)
    print_figures(figures)
    return figures


def print_figures(figures: dict) -> None:
    """The AUCs in a table, then all else."""
    print(report(figures["critic"]))
    for key in ("pixel_statistics", "clips", "intervals", "generated"):
        if key in figures:
            print(f"{key.replace('_', ' ')}: {figures[key]}", flush=True)


def train(
    data: tuple[Path, ...],
    out: Path,
    held_out: tuple[Path, ...],
    steps: int = 6000,
    vae: Path | None = None,
    tokenizer: Path | None = None,
    batch: int = 64,
) -> dict:
    """Train a new critic and save it in `out`; a run that was stopped resumes from its newest checkpoint there.

    Args:
        data: folders of simulator.make, with faults, and of nano.generate_clips.
        held_out: such folders of other scenes, to measure on.
        vae: the nano VAE; half of the training clips are its reconstructions, and both are measured.
        tokenizer: a folder of `build_tokenizer`; None trains one.

    Returns:
        The measurement on the held-out clips, which `metrics.json` holds too.
    """
    if not (out / "config.json").exists():
        init(out, tokenizer)
    device, started = hardware.device(), time.monotonic()
    critic = load_critic(out, device)
    critic.model.float().requires_grad_(True)
    clips = load_labelled(data, critic, vae, JITTER)
    held = load_labelled(held_out, critic, vae, 0.0)
    seconds = time.monotonic() - started
    print(f"critic: {len(clips)} clips to train on, {len(held)} held out; loaded in {seconds:.0f} s", flush=True)
    if device.type == "cuda":
        compile_layers(critic)
    texts = sorted({text for part in (clips, held) for text in part.texts()})
    batched = BatchedCritic(critic, clips.pixels.shape[1:4], texts)
    draw = Draw(clips, batched.numbers, batch)

    def loss(_: nn.Module, drawn: Batch) -> torch.Tensor:
        losses = loss_on(batched, clips, drawn)
        return sum(WEIGHTS[name] * value for name, value in losses.items())

    def batch_at(number: int) -> Batch:
        return draw(number, short=number % SHORT == SHORT - 1)

    fit_from_scratch(critic.model, loss, batch_at, recipe("critic", steps, batch, 1e-3, 100, 0.05), out / "training")
    critic.model.eval()
    measured = measure(batched, held)
    save(critic.model.half(), critic.processor.tokenizer, out)
    critic.model.float()
    figures = {
        "critic": measured,
        "pixel_statistics": baseline(clips, held),
        "generated": generated(batched, held),
        **counts(batched, held),
        "step": steps,
    }
    storage.write_json(out / "metrics.json", figures)
    print_figures(figures)
    return measured


if __name__ == "__main__":
    with report_user_errors():
        tyro.extras.subcommand_cli_from_dict(
            {"init": init, "train": train, "measure": assess}, prog="python -m nano.critic"
        )
