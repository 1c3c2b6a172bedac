"""What a training run will be, said before it starts: weights, clips, departures, memory, time. Needs no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cookbook import hardware
from cookbook.engine.distributed import mesh_shape
from cookbook.errors import UserError, count
from cookbook.models import hub, sizes
from cookbook.profiles import Profile, Recipe
from cookbook.train.recipes import departures

# FLOP per second that training was measured to sustain, three forwards counted per step.
H100 = 406e12  # 2B, 31,104 tokens, blocks compiled, activation_checkpointing 0.25: 2.54 s a step on a busy host (docs/gpu_figures.md)
TWO_CORES = 80e9  # 9.9 M parameters, 420 tokens, batch 2, float32 on two CPU cores: 0.72 s a step
LARGE = 1e9  # parameters from which a plan assumes a GPU, whatever this machine has

NODE = 8  # GPUs of one machine
WITHIN, BETWEEN = 300e9, 40e9  # bytes per second and GPU: NVLink, 400 Gb/s network. ASSUMED, not measured

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


@dataclass(frozen=True)
class Plan:
    """The numbers behind the printed plan; sizes in GB per process, times in seconds."""

    parameters: int
    trained: int
    tokens: int
    clips: int | None
    heldout: int | None
    steps: int
    clips_per_step: int
    copies: tuple[int, int]  # copies of the trained weights, processes that split each
    epochs: float | None
    memory_gb: dict[str, float]
    checkpoint_gb: float
    step_seconds: float
    seconds: float
    basis: str


def divide(recipe: Recipe, clips: int, size: int) -> Recipe:
    """The recipe with `clips` per optimizer step of all processes together, accumulated where a batch holds fewer.

    Raises:
        UserError: the processes cannot have equal shares.
    """
    if clips < 1 or clips % size:
        raise UserError(f"{clips} clips per step cannot be shared by {size} process(es) equally; choose a multiple")
    share = clips // size
    batch = max(n for n in range(1, min(recipe.batch, share) + 1) if share % n == 0)
    return replace(recipe, batch=batch, accumulate=share // batch)


def make(profile: Profile, size: int, clips: int | None, heldout: int | None, cache: bool = True) -> Plan:
    """Count everything on shapes alone. `clips` are the ones trained on, None where the data is not there yet; without
    `cache` the encoders stay in memory: what a download holds beside the network, 2 bytes a number."""
    recipe, settings, tokens = profile.recipe, sizes.config(profile.world), profile.clip.tokens
    network = sizes.on_meta(settings)
    parameters = sum(p.numel() for p in network.parameters())
    if recipe.lora_rank:
        add_lora(network, recipe)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    gpu = torch.cuda.is_available() or parameters > LARGE
    speed, where = (H100, "one H100, measured") if gpu else (TWO_CORES, "two CPU cores, measured")
    per_process = recipe.batch * recipe.accumulate
    step = 3 * per_process * sizes.forward_flop(settings, parameters, tokens) / speed
    per_step, split, compute = per_process * size, mesh_shape(size, recipe.shard), 2 if gpu else 4
    parts = memory(settings, recipe, parameters, trained, tokens, split[1], compute)
    beside = profile.world.gigabytes - 2 * parameters / 1e9
    if not cache and beside > 0:
        parts["VAE and text encoder"] = round(beside, 2)
    return Plan(
        parameters=parameters,
        trained=trained,
        tokens=tokens,
        clips=clips,
        heldout=heldout,
        steps=recipe.steps,
        clips_per_step=per_step,
        copies=split,
        epochs=round(recipe.steps * per_step / clips, 1) if clips else None,
        memory_gb=parts,
        checkpoint_gb=checkpoint_gb(recipe, trained, compute),
        step_seconds=step,
        seconds=step * recipe.steps,
        basis=f"3 forwards of a step's clips at {speed:.3g} FLOP/s ({where})",
    )


def _bytes(recipe: Recipe, compute: int) -> int:
    """Of one trained weight, where the computation has `compute`."""
    return 4 if recipe.master_weights or recipe.lora_rank else compute


def checkpoint_gb(recipe: Recipe, trained: int, compute: int) -> float:
    """GB of one checkpoint: trained weights, two moments of Adam in the same dtype, the average in float32."""
    return trained * (3 * _bytes(recipe, compute) + (4 if recipe.ema_rate else 0)) / 1e9


def memory(
    settings: dict, recipe: Recipe, parameters: int, trained: int, tokens: int, width: int, compute: int
) -> dict[str, float]:
    """GB per process by part; `width` processes split the trained weights, `compute` is the bytes of a number in use.

    Activations, in tensors of tokens x width: a block that keeps all has 33, so that a quarter of them makes the sums
    equal what was measured for 2B on an H100 (all weights 61.5 GB, LoRA 35.6 GB: docs/gpu_figures.md). Otherwise a
    block keeps its input (selective: also the outputs of its two attentions; products: and of its MLP), and 21 more
    are at work in one block at a time; not measured. Gradients come while activations go: the larger counts.
    """
    channels = settings["num_attention_heads"] * settings["attention_head_dim"]
    layers, size = settings["num_layers"], recipe.batch * tokens * compute
    weight_bytes = _bytes(recipe, compute)
    kept = {"none": 33, "blocks": 1, "selective": 3, "products": 4}
    each = (
        kept[recipe.activation_checkpointing]
        if recipe.activation_checkpointing in kept
        else 33 * float(recipe.activation_checkpointing)
    )
    work = 21 if recipe.activation_checkpointing in ("blocks", "selective", "products") else 0
    cast = 2 * parameters / layers * compute  # the weights of a block and the next, gathered and in bf16
    parts = {
        "frozen weights": (parameters - trained) * compute if recipe.lora_rank else 0,
        "weights": trained * weight_bytes / width,
        "Adam": 2 * trained * weight_bytes / width,
        "EMA": 4 * trained / width if recipe.ema_rate else 0,
        "weights in use": 0 if recipe.lora_rank or weight_bytes == compute and width == 1 else cast,
        "activations, then gradients": max(each * layers * size * channels, trained * weight_bytes / width)
        + work * size * channels,
    }
    return {name: round(part / 1e9, 2) for name, part in parts.items() if part}


def add_lora(network: torch.nn.Module, recipe: Recipe) -> None:
    """Freeze the network and put trainable low-rank adapters on its attention and MLP projections (peft)."""
    from peft import LoraConfig

    network.requires_grad_(False)
    network.add_adapter(LoraConfig(r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=list(LORA_TARGETS)))
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@dataclass(frozen=True)
class Scale:
    """A run on `gpus` H100s, by the same counting; `exchange` is what a step sends, in seconds if nothing hid it."""

    gpus: int
    memory_gb: float
    clips_per_step: int
    exchange: float
    step_seconds: float
    hours: float
    seen: int  # clips, of all steps

    def describe(self, clips: int | None = None) -> str:
        """One line: machines, memory, seconds a step, hours, clips seen, and how often each of `clips` is."""
        epochs = f" = {self.seen / clips:.1f} epochs" if clips else ""
        where = f"{self.gpus} H100" if self.gpus <= NODE else f"{self.gpus // NODE} machines of {NODE} H100"
        fits = "" if self.memory_gb < 80 else " (does not fit: 80)"
        return (
            f"{where}: {self.memory_gb:.1f} GB each{fits}, {self.step_seconds:.2f} s a step of {self.clips_per_step} "
            f"(exchange {self.exchange:.2f} s), {self.hours:.1f} h = {self.gpus * self.hours:.1f} GPU hours, "
            f"{self.seen} clips seen{epochs}"
        )


def at_scale(profile: Profile, gpus: int, cache: bool = True) -> Scale:
    """The recipe's steps on so many GPUs, each with the recipe's batch.

    Weights are gathered for the forward and the backward pass and gradients scattered in float32 within a copy, then
    summed over copies. FSDP2 does this beside the computation, so a step takes the longer of the two.
    """
    plan, recipe = make(profile, gpus, None, None, cache), profile.recipe
    replicas, width = plan.copies
    weights = 2 * plan.trained * (2 + 2)  # twice gathered in bf16, once scattered in float32
    inside = weights * (width - 1) / width / (WITHIN if width <= NODE else BETWEEN)
    across = 2 * 4 * plan.trained / width * (replicas - 1) / replicas / (WITHIN if gpus <= NODE else BETWEEN)
    step = max(plan.step_seconds, inside + across)
    memory_gb, seen = sum(plan.memory_gb.values()), plan.clips_per_step * recipe.steps
    return Scale(gpus, memory_gb, plan.clips_per_step, inside + across, step, step * recipe.steps / 3600, seen)


def describe(
    plan: Plan,
    profile: Profile,
    size: int,
    device: torch.device,
    data: Path | str,
    base: Path | None = None,
    cache: bool = True,
) -> str:
    """The plan as the lines that are printed."""
    recipe, clip = profile.recipe, profile.clip
    parts = " + ".join(f"{name} {gb:g}" for name, gb in plan.memory_gb.items())
    what = f"{plan.trained / 1e6:.1f} M in LoRA of rank {recipe.lora_rank}" if recipe.lora_rank else "all of them"
    dtype = str(hardware.compute_dtype(device)).removeprefix("torch.")
    counted = (
        f"{plan.clips} to train, {plan.heldout} held out" if plan.clips else "none yet: `cookbook prepare` comes first"
    )
    each = f"{recipe.batch} per process" + (f", {recipe.accumulate} times" if recipe.accumulate > 1 else "")
    split = f", {plan.copies[0]} copies of the weights, each split over {plan.copies[1]}" if size > 1 else ""
    epochs = f" = {plan.epochs:g} epochs" if plan.epochs else ""
    lines = [
        f"train: profile {profile.name}, recipe {recipe.name}, {size} process(es) on {device.type} in {dtype}{split}",
        f"  base weights  {base or _origin(profile)}",
        f"  clips         {data}: {counted}",
        f"  network       {plan.parameters / 1e6:.1f} M parameters, training {what}",
        f"  sequence      {clip.frames} frames at {clip.fps}/s, {clip.height}x{clip.width} -> {plan.tokens} tokens",
        f"  work          {plan.steps} steps of {count(plan.clips_per_step, 'clip')} ({each}){epochs}",
        f"  departures    {'; '.join(departures(profile))}",
        f"  memory        {sum(plan.memory_gb.values()):.2f} GB per process = {parts}",
        f"  disk          {plan.checkpoint_gb:.2f} GB a checkpoint, {recipe.keep} kept and one more being written",
        f"  time          {plan.seconds / 60:.1f} min = {plan.steps} x {plan.step_seconds:.2f} s; {plan.basis}",
    ]
    if plan.parameters > LARGE:
        scales = [at_scale(profile, gpus, cache) for gpus in (1, NODE, 4 * NODE)]
        lines += [f"  on paper      {scale.describe(plan.clips)}" for scale in scales]
        lines += ["                the steps stay the same: more GPUs see more clips in them, and take no less time"]
    return "\n".join(lines)


def _origin(profile: Profile) -> str:
    source = profile.world
    if source.ships:
        return f"{source.location}, ships with the cookbook, {source.licence}"
    where = hub.local(source)
    state = f"found in {where}" if where else f"about {source.gigabytes:g} GB to download"
    gate = f"; gated: accept it at https://huggingface.co/{source.location}" if source.gated else ""
    return f"{source.location}@{source.revision}, {state}, {source.licence}{gate}"
