"""What a training run will need, computed before it starts: weights, clips, memory, disk, time. Loads no weights."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cookbook import engine, hardware, profiles, runs
from cookbook.engine.activations import share_of
from cookbook.engine.distributed import Group, mesh_shape
from cookbook.errors import count, require_whole
from cookbook.models import hub, sizes
from cookbook.profiles import Profile
from cookbook.train import dataset
from cookbook.train.network import adapt
from cookbook.train.recipes import ALWAYS, compare

# FLOP per second that training was measured to sustain, three forward passes counted per step.
H100 = 406e12  # 2B, 31,104 tokens, blocks compiled, a quarter of the activations kept: 2.54 s a step on a busy host
TWO_CORES = 80e9  # 9.6 M parameters, 420 tokens, batch 2, float32 on two CPU cores: 0.72 s a step
LARGE = 1e9  # parameters from which a plan assumes a GPU, whatever this machine has


@dataclass(frozen=True)
class Plan:
    """The numbers behind the printed plan; sizes in GB per process, times in seconds."""

    parameters: int
    trained: int
    tokens: int
    clips: int | None
    heldout: int | None
    clips_per_step: int
    epochs: float | None
    memory_gb: dict[str, float]
    checkpoint_gb: float
    step_seconds: float
    seconds: float
    basis: str


def plan(
    profile: str = "nano",
    run: Path | str | None = None,
    recipe: str | None = None,
    steps: int | None = None,
) -> Plan:
    """Print what `train` with the same flags would do. Nothing is downloaded, written or read but the list of clips.

    Args:
        run: the run's folder; `runs/<profile>` if not given.
        recipe: one of the profile's named recipes.
        steps: instead of the recipe's number of optimizer steps.
    """
    data = runs.run_folder(run, profile) / "data" / "train"
    with engine.processes() as group:
        return announce(choose(profile, recipe, steps), data, None, group)


def choose(profile: str, recipe: str | None, steps: int | None) -> Profile:
    """The profile with the recipe and the number of steps that the flags name."""
    chosen = profiles.get(profile, recipe)
    require_whole(1, steps=steps)
    return chosen if steps is None else replace(chosen, recipe=replace(chosen.recipe, steps=steps))


def announce(profile: Profile, data: Path, base: Path | None, group: Group) -> Plan:
    """Estimate, print, return.

    Args:
        data: training clips in the published layout; it need not exist yet.
        base: a `.pt` file with the weights to start from, instead of the profile's.
    """
    used, held, place = None, None, str(data)
    if data.is_dir():
        used, held = map(len, dataset.split(dataset.read_clips(data)))
    elif total := sizes.CLIPS.get(profile.train_data.location):
        held = max(1, round(dataset.HELD_OUT * total))
        used, place = total - held, f"{profile.train_data.location} (not here yet, {profile.train_data.gigabytes:g} GB)"
    estimated = estimate(profile, group.size, used, held)
    group.print(describe(estimated, profile, group, place, str(base or _origin(profile))))
    return estimated


def estimate(profile: Profile, size: int, clips: int | None, heldout: int | None) -> Plan:
    """The plan for `size` processes, from shapes alone. `clips` are those trained on, None where not there yet."""
    recipe, settings, tokens = profile.recipe, sizes.config(profile.world), profile.clip.tokens
    network = sizes.on_meta(settings)
    parameters = sum(p.numel() for p in network.parameters())
    adapt(network, recipe)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    gpu = torch.cuda.is_available() or parameters > LARGE
    speed, machine = (H100, "one H100") if gpu else (TWO_CORES, "two CPU cores")
    per_process = recipe.batch * recipe.accumulate
    step = 3 * per_process * sizes.forward_flop(settings, parameters, tokens) / speed
    _, shards = mesh_shape(size, recipe.shard)
    number = 2 if gpu else 4
    weight = 4 if recipe.master_weights or recipe.lora_rank else number
    return Plan(
        parameters=parameters,
        trained=trained,
        tokens=tokens,
        clips=clips,
        heldout=heldout,
        clips_per_step=per_process * size,
        epochs=round(recipe.steps * per_process * size / clips, 1) if clips else None,
        memory_gb=_memory(profile, settings, parameters, trained, shards, number, weight),
        checkpoint_gb=trained * (3 * weight + (4 if recipe.ema_rate else 0)) / 1e9,  # with both moments of Adam
        step_seconds=step,
        seconds=step * recipe.steps,
        basis=f"3 forward passes of a step's clips at {speed:.3g} FLOP/s ({machine}, measured)",
    )


def _memory(
    profile: Profile, settings: dict, parameters: int, trained: int, shards: int, number: int, weight: int
) -> dict[str, float]:
    """GB per process by part, the trained weights in `shards`; bytes of a `number` of the computation, and of a trained
    `weight`.

    Activations, in tensors of tokens x channels: a block that keeps all has 33, so that a quarter of them makes the
    sums equal what was measured for 2B on an H100 (all weights 61.5 GB, LoRA 35.6 GB: docs/gpu_figures.md). With
    `selective` a block keeps 3, its input and the outputs of its two attentions, and one block at a time has 21 more;
    that is not measured. Gradients come while activations go: the larger counts.
    """
    recipe, layers = profile.recipe, settings["num_layers"]
    channels = settings["num_attention_heads"] * settings["attention_head_dim"]
    tensor = recipe.batch * profile.clip.tokens * channels * number
    selective = recipe.activation_checkpointing == "selective"
    kept = 3 if selective else 33 * (share_of(recipe.activation_checkpointing) or 1)
    cast = 2 * parameters / layers * number  # the weights of a block and the next, gathered and in bf16
    sharded = trained * weight / shards
    parts = {
        "frozen weights": (parameters - trained) * number if recipe.lora_rank else 0,
        "weights": sharded,
        "Adam": 2 * sharded,
        "EMA": 4 * trained / shards if recipe.ema_rate else 0,
        "weights in use": 0 if recipe.lora_rank or weight == number and shards == 1 else cast,
        "activations, then gradients": max(kept * layers * tensor, sharded) + (21 * tensor if selective else 0),
    }
    return {name: round(part / 1e9, 2) for name, part in parts.items() if part}


def describe(plan: Plan, profile: Profile, group: Group, data: str, base: str) -> str:
    """The plan as the lines that are printed; `data` and `base` say where clips and base weights come from."""
    recipe, clip = profile.recipe, profile.clip
    parts = " + ".join(f"{name} {gb:g}" for name, gb in plan.memory_gb.items())
    network = f"{plan.trained / 1e6:.1f} M in LoRA of rank {recipe.lora_rank}" if recipe.lora_rank else "all"
    dtype = str(hardware.compute_dtype(group.device)).removeprefix("torch.")
    clips = f"{plan.clips} to train, {plan.heldout} held out" if plan.clips else "none yet; `cookbook prepare` first"
    batch = f"{recipe.batch} per process" + (f", {recipe.accumulate} times" if recipe.accumulate > 1 else "")
    replicas, shards = mesh_shape(group.size, recipe.shard)
    mesh = f", {count(replicas, 'replica')} of {count(shards, 'shard')}" if group.size > 1 else ""
    epochs = f" = {plan.epochs:g} epochs" if plan.epochs else ""
    differ = sum(bool(row.reason) for row in compare(profile)) + len(ALWAYS)
    processes = f"{group.size} process(es) on {group.device.type} in {dtype}{mesh}"
    return f"""train: profile {profile.name}, recipe {recipe.name}, {processes}
  base weights  {base}
  clips         {data}: {clips}
  network       {plan.parameters / 1e6:.1f} M parameters, training {network}
  sequence      {clip.frames} frames at {clip.fps}/s, {clip.height}x{clip.width} -> {plan.tokens} tokens
  work          {recipe.steps} steps of {count(plan.clips_per_step, "clip")} ({batch}){epochs}
  departures    {differ} from the published recipe; `cookbook explain --profile {profile.name}` gives the reasons
  memory        {sum(plan.memory_gb.values()):.2f} GB per process = {parts}
  disk          {plan.checkpoint_gb:.2f} GB a checkpoint, {recipe.keep} kept and one more being written
  time          {plan.seconds / 60:.1f} min = {recipe.steps} x {plan.step_seconds:.2f} s; {plan.basis}"""


def _origin(profile: Profile) -> str:
    """Where the profile's base weights come from, under which licence, and whether they are here."""
    source = profile.world
    if source.ships:
        return f"{source.location}, ships with the cookbook, {source.licence}"
    folder = hub.local(source)
    state = f"found in {folder}" if folder else f"about {source.gigabytes:g} GB to download"
    gate = f"; gated: accept it at {source.page}" if source.gated else ""
    return f"{source.location}@{source.revision}, {state}, {source.licence}{gate}"
