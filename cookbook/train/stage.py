"""Stage `train`: post-train the world model on a folder of clips; writes `checkpoints/`.

The same command runs in one process (`cookbook train`) and in many (`torchrun ... -m cookbook.cli train`).
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cookbook import engine, hardware, runs, storage
from cookbook.engine import Group
from cookbook.engine.checkpoint import POINTER
from cookbook.engine.loop import LOG, autocast
from cookbook.errors import UserError, require_whole
from cookbook.layout import Clip
from cookbook.models import hub, names, text, world
from cookbook.profiles import Profile
from cookbook.train import dataset, planning
from cookbook.train.dataset import CachedClip
from cookbook.train.network import load, require_trained
from cookbook.train.objective import batches, flow_loss, heldout_loss, noise_levels

# How a step's work is divided: a run may continue on other processes, which changes these but not its result.
DIVISION = ("batch", "accumulate", "shard", "activation_checkpointing")


@dataclass(frozen=True)
class TrainJob:
    """Everything that decides one training, and the processes that run it."""

    profile: Profile  # with the recipe and the number of steps of this run
    run: Path
    data: Path  # training clips in the published layout
    prepared: bool  # whether `data` is the run's own, from the stage `prepare`
    models: Path  # diffusers folder of the base model
    base: Path | None  # a `.pt` file; its weights replace those of `models`
    seed: int
    plan: planning.Plan
    group: Group
    flags: list[str]  # of the call


@runs.releasing
def train(
    profile: str = "nano",
    run: Path | str | None = None,
    recipe: str | None = None,
    data: Path | str | None = None,
    steps: int | None = None,
    seed: int = 0,
    base: Path | str | None = None,
    redo: bool = False,
) -> dict[str, Any]:
    """Post-train the profile's world model; a stopped run continues where it stopped.

    Args:
        run: the run's folder; `runs/<profile>` if not given.
        recipe: one of the profile's named recipes.
        data: a folder in the published layout; the run's own `data/train` if not given.
        steps: instead of the recipe's number of optimizer steps.
        base: a `.pt` file in NVIDIA's names (`net.*`); training starts from its weights, not the profile's.

    Returns:
        The stage's manifest.
    """
    chosen = planning.choose(profile, recipe, steps)
    require_whole(0, seed=seed)
    base = storage.absolute(base) if base else None
    if base and chosen.recipe.lora_rank:
        raise UserError("--base trains all weights: adapters (LoRA) are merged into the profile's own when converted")
    if base and not base.is_file():
        raise UserError(f"{base}: no such file; --base takes a .pt file")
    folder = runs.run_folder(run, profile)
    source = storage.absolute(data) if data else folder / "data" / "train"
    with engine.processes() as group:
        plan = planning.announce(chosen, source, base, group)
        if data is None:
            runs.manifest_of(folder, "prepare", profile)
        models = group.broadcast(group.on_rank_0(lambda: hub.locate(chosen.world)))
        given = runs.flags(recipe=recipe, data=source if data else None, steps=steps, seed=seed or None, base=base)
        job = TrainJob(chosen, folder, source, data is None, models, base, seed, plan, group, given)
        stage = group.on_rank_0(lambda: _enter(job, redo))
        if manifest := group.broadcast(stage.manifest if stage else None):
            return manifest
        used, held = dataset.split(dataset.read_clips(source))
        captions = {clip.video.name: clip.prompt for clip in used + held}
        unread = text.unread(world.load_tokenizer(models), captions, chosen.text_tokens) if stage else None
        clips = dataset.cache(used + held, chosen, models, folder / "cache", group)
        results = {"unread": unread, **_fit(job, clips[: len(used)], clips[len(used) :])}
        return group.broadcast(_finish(job, stage, used, held, results) if stage else None)


def _enter(job: TrainJob, redo: bool) -> runs.Stage:
    inputs = {"prepare": runs.fingerprint(job.run / "data")} if job.prepared else {"clips": runs.fingerprint(job.data)}
    settings = {
        "recipe": {name: value for name, value in asdict(job.profile.recipe).items() if name not in DIVISION},
        "seed": job.seed,
        "clips per step": job.plan.clips_per_step,
        "base weights": storage.digest(job.base) if job.base else world.weights_fingerprint(job.models),
    }
    return runs.enter(job.run / "checkpoints", "train", job.profile.name, inputs, settings, redo)


def _fit(job: TrainJob, used: list[CachedClip], held: list[CachedClip]) -> dict[str, Any]:
    """Train on the clips `used`; the results, with the held-out loss before and after."""
    profile, group, recipe, folder = job.profile, job.group, job.profile.recipe, job.run / "checkpoints"
    dtype = hardware.compute_dtype(group.device)
    model = load(profile, job.models, job.seed, group, job.base)
    with autocast(model, group.device, dtype):
        before, baseline = heldout_loss(model, held, recipe.shift, group)
    group.on_rank_0(lambda: require_trained(mean(before), baseline, recipe.first_loss, job.base or job.models))
    start, batch_at = time.monotonic(), batches(used, recipe, job.seed, group)
    trained = engine.fit(model, flow_loss, batch_at, recipe, folder, job.seed, group, dtype, names.to_native)
    with autocast(model, group.device, dtype):
        after, _ = heldout_loss(model, held, recipe.shift, group)
    return {
        **trained.ends(),
        "heldout_before": mean(before),
        "heldout_after": mean(after),
        "heldout_levels": {"noise level": noise_levels(recipe.shift).tolist(), "before": before, "after": after},
        "heldout_zero_velocity": baseline,
        "weights_changed": trained.changed,
        "seconds_training": round(time.monotonic() - start, 1),
        "seconds_per_step": sorted(row["seconds"] for row in trained.rows)[len(trained.rows) // 2],
    }


def _finish(job: TrainJob, stage: runs.Stage, used: list[Clip], held: list[Clip], results: dict) -> dict[str, Any]:
    """Write the manifest, print the results."""
    outputs = [path for path in stage.folder.glob("iter_*/**/*") if path.is_file()]
    outputs += [stage.folder / LOG, stage.folder / POINTER]
    recipe = job.profile.recipe
    facts = {
        "flags": job.flags,
        "steps": recipe.steps,
        "clips": len(used),
        "heldout_clips": [clip.video.name for clip in held],
        "tokens": job.plan.tokens,
        **json.loads(json.dumps({"recipe": asdict(recipe), "plan": asdict(job.plan)})),  # as it will be read again
    }
    manifest = stage.finish(outputs, **facts, **results)
    print(
        f"train: loss {manifest['loss_first']:.4f} -> {manifest['loss_last']:.4f} in {manifest['steps']} steps, "
        f"held out {manifest['heldout_before']:.4f} -> {manifest['heldout_after']:.4f}; "
        f"weights moved by up to {manifest['weights_changed']:.2g}; {manifest['seconds_per_step']:.2f} s a step"
    )
    for name, values in manifest["heldout_levels"].items():
        print(f"  {name:<13} {'  '.join(f'{value:6.3f}' for value in values)}")
    return manifest
