"""Speed and memory of a training step: ours beside a plain diffusers step, full fine-tuning and LoRA, in one run.

    python benchmarks/train.py                                       one GPU, Cosmos Predict 2.5 2B
    torchrun --nproc_per_node=2 benchmarks/train.py                  ours on several GPUs, for clips per second
    python benchmarks/train.py --profile 14b --trained lora          14B; --layers N takes as many blocks as fit

Weights, latents and text embeddings are random, in the exact configuration; so nothing is downloaded, and nothing is
encoded, as in training with a full cache. A step is forward, backward, clipping and AdamW; ours also averages (EMA).
Each method is printed as a line of JSON as soon as it is measured, so that a run that is cut short keeps what it has.

Figures from an H100, and what was not run: docs/gpu_figures.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import torch
import tyro
from diffusers import CosmosTransformer3DModel
from measuring import built_on, fresh_peak, peak, report

from cookbook import engine, hardware, profiles
from cookbook.engine.loop import Training
from cookbook.engine.optim import trainable
from cookbook.errors import UserError, report_user_errors
from cookbook.models import sizes
from cookbook.profiles import Profile, Recipe
from cookbook.train.network import adapt, ready
from cookbook.train.objective import Batch, flow_loss

PEAK = 989e12  # FLOP per second of an H100 in bf16, dense
PLAIN = "diffusers"
METHODS = (PLAIN, "selective", "0.25")  # the plain step, and values of the recipe's activation_checkpointing

Step = Callable[[], tuple[float, float]]  # -> the loss and the norm of its gradients


@dataclass(frozen=True)
class Row:
    """One method. Without timed steps it did not fit into the memory."""

    method: str
    trained: str
    first_loss: float | None = None
    first_norm: float | None = None  # of its gradients, before clipping
    first_step_s: float | None = None  # compilation included
    s_per_step: float | None = None  # median
    of_steps: int = 0
    clips_per_second: float | None = None
    mfu: float | None = None  # of an H100; None on other devices
    peak_gib: float | None = None  # of the allocator, largest of all processes; None on a CPU


def random_network(profile: Profile, layers: int | None, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The profile's network, or its first `layers` blocks, with weights of deviation 0.02."""
    with built_on(device, dtype):
        torch.manual_seed(0)
        network = CosmosTransformer3DModel.from_config(configuration(profile, layers))
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.02)
    return network


def configuration(profile: Profile, layers: int | None) -> dict:
    settings = sizes.config(profile.world)
    return settings | {"num_layers": layers or settings["num_layers"]}


def random_batch(profile: Profile, count: int, device: torch.device, seed: int = 1) -> Batch:
    """`count` clips of the profile's size; one conditioning frame each."""
    settings, random = sizes.config(profile.world), torch.Generator().manual_seed(seed)
    shape = (count, settings["out_channels"], *profile.clip.latent)
    text = (count, profile.text_tokens, settings["crossattn_proj_in_channels"])
    clean, noise, words = (torch.randn(size, generator=random) for size in (shape, shape, text))
    return Batch.stack([Batch(clean, noise, torch.full((count,), 0.7), torch.ones(count).long(), words)], device)


def plain_step(network: torch.nn.Module, recipe: Recipe, batch: Batch, device: torch.device) -> Step:
    """What one writes by hand with diffusers: its checkpointing, autocast, fused AdamW, clipping."""
    compute = hardware.compute_dtype(device)
    adapt(network, recipe)
    network.train().enable_gradient_checkpointing()
    weights = list(trainable(network).values())
    optimizer = torch.optim.AdamW(weights, recipe.learning_rate, fused=device.type == "cuda")

    def step() -> tuple[float, float]:
        with torch.autocast(device.type, compute, enabled=compute != torch.float32):
            loss = flow_loss(network, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)

    return step


def our_step(network: torch.nn.Module, recipe: Recipe, batch: Batch, group: engine.Group) -> Step:
    """The step of `cookbook train`."""
    training = Training(ready(network, recipe, 0, group), recipe, 0, group, hardware.compute_dtype(group.device))

    def step() -> tuple[float, float]:
        row = training.train_step(flow_loss, lambda number: batch)
        return row["loss"], row["grad_norm"]

    return step


def measure(
    profile: Profile, method: str, lora: bool, group: engine.Group, steps: int, seconds: float, layers: int | None
) -> Row:
    """Build one method from nothing, and time its steps: `steps`, or fewer in `seconds`, but at least 5."""
    recipe, device = (profile.with_recipe("lora") if lora else profile).recipe, group.device
    name = "plain diffusers" if method == PLAIN else f"ours, {method}"
    trained, gpu = f"LoRA {recipe.lora_rank}" if lora else "all", device.type == "cuda"
    compute = hardware.compute_dtype(device)
    torch._dynamo.reset()
    fresh_peak(device)
    try:
        dtype = compute if lora or not recipe.master_weights else torch.float32
        network, batch = random_network(profile, layers, dtype, device), random_batch(profile, recipe.batch, device)
        if method == PLAIN:
            step = plain_step(network, recipe, batch, device)
        else:
            step = our_step(network, replace(recipe, activation_checkpointing=method), batch, group)
        first, slow = timed(step, gpu)
        timed(step, gpu)  # a warm-up step more: the allocator settles in its second
        taken = []
        while len(taken) < steps and (len(taken) < 5 or group.largest(sum(taken)) < seconds):
            taken.append(timed(step, gpu)[1])
    except torch.OutOfMemoryError:
        return Row(name + ", out of memory", trained)
    second = median(taken)
    settings = configuration(profile, layers)
    parameters = sum(p.numel() for p in sizes.on_meta(settings).parameters())
    flop = 3 * recipe.batch * sizes.forward_flop(settings, parameters, profile.clip.tokens)
    h100 = gpu and any(card in torch.cuda.get_device_name() for card in ("H100", "H200"))
    most = group.largest(peak(device)) if gpu else None
    rate = recipe.batch * group.size / second
    return Row(name, trained, *first, slow, second, len(taken), rate, flop / second / PEAK if h100 else None, most)


def timed(step: Step, gpu: bool) -> tuple[tuple[float, float], float]:
    """What a step returns, and its seconds."""
    start = time.perf_counter()
    result = step()
    if gpu:
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def main(
    profile: str = "2b",
    methods: tuple[str, ...] = METHODS,
    trained: tuple[Literal["all", "lora"], ...] = ("all", "lora"),
    steps: int = 20,
    seconds: float = 60.0,
    layers: int | None = None,
    out: Path | None = None,
) -> list[Row]:
    """Measure the methods one after the other and print the table.

    Args:
        profile: name of the profile that sets network, clip size and recipes.
        methods: `diffusers` (one process only: it cannot shard weights), or what the recipe's
            `activation_checkpointing` may be: none, selective, or a share such as 0.25.
        trained: all, lora or both.
        steps: timed steps of each method, after two that are not.
        seconds: no new step of a method after this time, if there are five.
        layers: this many blocks instead of all.
        out: file that gets the table too, after each row.
    """
    chosen, rows, table = profiles.get(profile), [], ""
    if steps < 1 or (layers or 1) < 1:
        raise UserError("steps and layers must be at least 1")
    clip, part = chosen.clip, f" ({layers} blocks of it)" if layers else ""
    facts = (
        f"{chosen.world.location}{part}, random weights: {clip.height}x{clip.width}, {clip.frames} frames, "
        f"{clip.tokens} tokens, batch {chosen.recipe.batch} per process, "
    )
    with engine.processes() as group:
        for kind, method in ((k, m) for k in trained for m in methods if m != PLAIN or group.size == 1):
            rows.append(measure(chosen, method, kind == "lora", group, steps, seconds, layers))
            group.print(json.dumps(asdict(rows[-1]) | {"processes": group.size}))
            table = report(facts + f"{group.size} process(es); medians", rows, out if group.main else None)
        group.print(table)
    return rows


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main)
