"""Speed and memory of a training step: ours beside a plain diffusers step, full fine-tuning and LoRA, in one run.

    python benchmarks/train.py                                       one GPU, Cosmos Predict 2.5 2B, the table
    torchrun --nproc_per_node=2 benchmarks/train.py                  ours on several GPUs, for clips per second

Weights are random in the exact configuration, latents and text embeddings are random and given, as training has them
from its cache; so nothing is downloaded. A step is forward, backward, clipping and AdamW; ours also averages (EMA).

The figures of this program HAVE NOT BEEN TAKEN YET on an H100: it has only run at nano size on a CPU, for its test.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
import tyro
from diffusers import CosmosTransformer3DModel

from cookbook import engine, profiles, store
from cookbook.engine.loop import Run, autocast
from cookbook.engine.optim import trainable
from cookbook.errors import UserError
from cookbook.models import sizes, world
from cookbook.profiles import Profile, Recipe
from cookbook.train import plan as planning
from cookbook.train import ready
from cookbook.train.objective import Batch, flow_loss

PEAK = 989e12  # FLOP per second of an H100 in bf16, dense
METHODS = tuple((who, lora) for lora in (False, True) for who in ("diffusers", "blocks", "selective"))


@dataclass(frozen=True)
class Row:
    """One method. `seconds` is the median; None in `seconds` means that it did not fit."""

    method: str
    trained: str
    first_loss: float | None
    seconds: float | None
    clips_per_second: float | None
    mfu: float | None  # of an H100; None on other devices
    peak_gib: float | None  # of the allocator; None on a CPU


def random_network(profile: Profile, device: torch.device) -> CosmosTransformer3DModel:
    """The profile's network with weights of deviation 0.02, float32."""
    with device:
        torch.manual_seed(0)
        network = CosmosTransformer3DModel.from_config(sizes.config(profile.world))
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.02)
    return network


def random_batch(profile: Profile, count: int, device: torch.device) -> Batch:
    """`count` clips of the profile's size; one latent frame is given."""
    settings, random = sizes.config(profile.world), torch.Generator().manual_seed(1)
    shape = (count, settings["out_channels"], *profile.clip.latent)
    text = (count, profile.text_tokens, settings["crossattn_proj_in_channels"])
    clean, noise, words = (torch.randn(size, generator=random) for size in (shape, shape, text))
    return Batch.stack([Batch(clean, noise, torch.full((count,), 0.7), torch.ones(count).long(), words)], device)


def plain_step(network: CosmosTransformer3DModel, recipe: Recipe, batch: Batch, device: torch.device) -> Callable:
    """What one writes by hand with diffusers: its checkpointing, autocast, fused AdamW, clipping."""
    compute = world.compute_dtype(device)
    if recipe.lora_rank:
        network.to(compute)
        planning.add_lora(network, recipe)
    network.train().enable_gradient_checkpointing()
    weights = list(trainable(network).values())
    optimizer = torch.optim.AdamW(weights, recipe.learning_rate, fused=device.type == "cuda")

    def step() -> float:
        with autocast(network, device, compute):
            loss = flow_loss(network, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def our_step(network: CosmosTransformer3DModel, recipe: Recipe, batch: Batch, group: engine.Group) -> Callable:
    """The step of `cookbook train`."""
    compute = world.compute_dtype(group.device)
    if recipe.lora_rank or not recipe.master_weights:
        network.to(compute)
    run = Run(ready(network, recipe, 0, group), recipe, 0, group, compute, str)
    return lambda: run.advance(flow_loss, lambda number: batch)["loss"]


def measure(profile: Profile, who: str, lora: bool, group: engine.Group, steps: int, warmup: int) -> Row:
    """Build one method from nothing, and time its steps."""
    recipe = profile.with_recipe("lora").recipe if lora else profile.recipe
    name, device = "plain diffusers" if who == "diffusers" else f"ours, {who}", group.device
    trained, seconds, first = f"LoRA {recipe.lora_rank}" if lora else "all", [], None
    gpu = device.type == "cuda"
    gc.collect()  # what the method before has left
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        network, batch = random_network(profile, device), random_batch(profile, recipe.batch, device)
        if who == "diffusers":
            step = plain_step(network, recipe, batch, device)
        else:
            step = our_step(network, replace(recipe, recompute=who), batch, group)
        for number in range(warmup + steps):
            if gpu:
                torch.cuda.synchronize()
            clock = time.perf_counter()
            loss = step()
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - clock)
            first = loss if number == 0 else first
    except torch.OutOfMemoryError:
        return Row(name, trained, first, None, None, None, None)
    taken = median(seconds[warmup:])
    settings = sizes.config(profile.world)
    parameters = sum(p.numel() for p in sizes.on_meta(settings).parameters())
    flop = 3 * recipe.batch * sizes.forward_flop(settings, parameters, profile.clip.tokens)
    h100 = gpu and "H100" in torch.cuda.get_device_name()
    peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else None
    return Row(
        name, trained, first, taken, recipe.batch * group.size / taken, flop / taken / PEAK if h100 else None, peak
    )


def table(profile: Profile, rows: list[Row], group: engine.Group, steps: int) -> str:
    """The rows in Markdown, under a line that says what was measured on what."""
    made, clip = store.environment(), profile.clip
    shape = f"{clip.height}x{clip.width}, {clip.frames} frames, {clip.tokens} tokens"
    lines = [
        f"{profile.world.location}, random weights: {shape}, batch {profile.recipe.batch} per process, "
        f"{group.size} process(es) on {made['device']}, "
        f"torch {made['versions']['torch']}, diffusers {made['versions']['diffusers']}; median of {steps} steps",
        "",
        "| method | trained | first loss | s per step | clips/s | MFU | peak GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = (row.first_loss, row.seconds, row.clips_per_second, row.mfu, row.peak_gib)
        cells = ["-" if value is None else f"{value:.4g}" for value in numbers]
        cells[1] = "out of memory" if row.seconds is None else cells[1]
        lines.append(f"| {row.method} | {row.trained} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(profile: str = "2b", steps: int = 20, warmup: int = 3) -> list[Row]:
    """Measure every method and print the table.

    Args:
        profile: whose network, clip size and recipes.
        steps: timed steps of each method.
        warmup: steps before them, not timed.
    """
    chosen = profiles.get(profile)
    if steps < 1:
        raise UserError(f"steps is {steps}; it must be at least 1")
    with engine.processes() as group:
        rows = []
        for who, lora in METHODS:
            if who == "diffusers" and group.size > 1:
                continue  # it has no way of its own to share the weights
            rows.append(measure(chosen, who, lora, group, steps, warmup))
            group.say(f"measured {rows[-1].method}, {rows[-1].trained}")
        group.say(table(chosen, rows, group, steps))
    return rows


if __name__ == "__main__":
    tyro.cli(main)
