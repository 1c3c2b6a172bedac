"""Speed and memory of a training step: ours beside a plain diffusers step, full fine-tuning and LoRA, in one run.

    python benchmarks/train.py --out DIR                             one GPU, Cosmos Predict 2.5 2B
    torchrun --nproc_per_node=2 benchmarks/train.py                  ours on several GPUs, for clips per second
    python benchmarks/train.py --profile 14b --trained lora          14B; --layers N takes as many blocks as fit

Weights, latents and text embeddings are random, in the exact configuration; so nothing is downloaded, and nothing is
encoded, as in training with a full cache. A step is forward, backward, clipping and AdamW; ours also averages (EMA).
Each method is printed as a line of JSON as soon as it is measured, and DIR/train.jsonl and DIR/train.md are kept up to
date, so that a run that is cut short keeps what it has.

Figures from an H100, and what was not run: docs/gpu_figures.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
import tyro
from diffusers import CosmosTransformer3DModel
from measuring import fresh_peak, markdown

from cookbook import engine, hardware, profiles, runs
from cookbook.engine.loop import Training
from cookbook.engine.optim import trainable
from cookbook.errors import UserError, report_user_errors
from cookbook.models import sizes
from cookbook.profiles import Profile, Recipe
from cookbook.train.network import add_lora, ready
from cookbook.train.objective import Batch, flow_loss

PEAK = 989e12  # FLOP per second of an H100 in bf16, dense
PLAIN = "diffusers"
METHODS = (PLAIN, "selective", "0.25")  # the plain step, and values of the recipe's activation_checkpointing
TRAINED = ("all", "lora")

Step = Callable[[], tuple[float, float]]  # -> the loss and the norm of its gradients


@dataclass(frozen=True)
class Row:
    """One method. None in `seconds` means that it did not fit."""

    method: str
    trained: str
    first_loss: float | None
    first_norm: float | None  # of its gradients, before clipping
    first_step: float | None  # seconds, compilation included
    seconds: float | None  # per step, median
    timed: int  # steps
    clips_per_second: float | None
    mfu: float | None  # of an H100; None on other devices
    peak_gib: float | None  # of the allocator, largest of all processes; None on a CPU


def random_network(profile: Profile, layers: int | None, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The profile's network, or its first `layers` blocks, with weights of deviation 0.02."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # a 14B network in float32 would leave no room to make it smaller
    try:
        with device:
            torch.manual_seed(0)
            network = CosmosTransformer3DModel.from_config(configuration(profile, layers))
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.02)
    finally:
        torch.set_default_dtype(usual)
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
    if recipe.lora_rank:
        add_lora(network, recipe)
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
    training = Training(ready(network, recipe, 0, group), recipe, 0, group, hardware.compute_dtype(group.device), str)

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
    trained, gpu, first = f"LoRA {recipe.lora_rank}" if lora else "all", device.type == "cuda", (None, None)
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
        return Row(name, trained, *first, None, None, 0, None, None, None)
    second = median(taken)
    settings = configuration(profile, layers)
    parameters = sum(p.numel() for p in sizes.on_meta(settings).parameters())
    flop = 3 * recipe.batch * sizes.forward_flop(settings, parameters, profile.clip.tokens)
    h100 = gpu and any(card in torch.cuda.get_device_name() for card in ("H100", "H200"))
    peak = group.largest(torch.cuda.max_memory_allocated() / 2**30) if gpu else None
    rate = recipe.batch * group.size / second
    return Row(name, trained, *first, slow, second, len(taken), rate, flop / second / PEAK if h100 else None, peak)


def timed(step: Step, gpu: bool) -> tuple[tuple[float, float], float]:
    """What a step returns, and its seconds."""
    start = time.perf_counter()
    result = step()
    if gpu:
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def table(profile: Profile, rows: list[Row], group: engine.Group, layers: int | None) -> str:
    """The rows in Markdown, under a line that names sizes, device and versions."""
    machine, clip = runs.environment(), profile.clip
    shape = f"{clip.height}x{clip.width}, {clip.frames} frames, {clip.tokens} tokens"
    part = f" ({layers} blocks of it)" if layers else ""
    facts = (
        f"{profile.world.location}{part}, random weights: {shape}, batch {profile.recipe.batch} per process, "
        f"{group.size} process(es) on {machine['device']}, torch {machine['versions']['torch']}, "
        f"diffusers {machine['versions']['diffusers']}; medians; {time.strftime('%Y-%m-%d')}"
    )
    heads = (
        "method", "trained", "first loss", "norm", "first step, s", "s per step", "of steps", "clips/s", "MFU",
        "peak GiB",
    )  # fmt: skip
    full = "out of memory"
    return markdown(facts, heads, [(asdict(row) | {"seconds": row.seconds or full}).values() for row in rows])


def main(
    profile: str = "2b",
    methods: tuple[str, ...] = METHODS,
    trained: tuple[str, ...] = TRAINED,
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
        out: folder for the rows and the table.
    """
    chosen, rows = profiles.get(profile), []
    if steps < 1 or (layers or 1) < 1:
        raise UserError("steps and layers must be at least 1")
    if unknown := set(trained) - set(TRAINED):
        raise UserError(f"trained is {', '.join(unknown)}; it must be all, lora or both")
    with engine.processes() as group:
        for kind, method in ((k, m) for k in trained for m in methods if m != PLAIN or group.size == 1):
            rows.append(measure(chosen, method, kind == "lora", group, steps, seconds, layers))
            text = table(chosen, rows, group, layers)
            group.print(json.dumps(asdict(rows[-1]) | {"processes": group.size}))
            if out and group.main:
                runs.append_row(out / "train.jsonl", asdict(rows[-1]) | {"processes": group.size})
                (out / "train.md").write_text(text + "\n")
        group.print(text)
    return rows


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main)
