"""Stage `train`: post-train the world model on a folder of clips; writes `checkpoints/`.

The same command runs on one process (`cookbook train`) and on many (`torchrun ... -m cookbook.cli train`).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from cookbook import engine, hardware, profiles, runs, show
from cookbook.engine import Group
from cookbook.engine.checkpoint import POINTER
from cookbook.engine.loop import LOG, autocast
from cookbook.errors import UserError
from cookbook.models import hub, names, sizes, world
from cookbook.profiles import Profile, Recipe
from cookbook.train import callbacks, dataset, planning, recipes
from cookbook.train.dataset import Clip, Entry
from cookbook.train.network import load, require_trained
from cookbook.train.objective import batches, flow_loss, heldout_loss, noise_levels

# How a step's work is divided: a run may continue on other processes, which changes these but not its result.
DIVISION = ("batch", "accumulate", "shard", "activation_checkpointing")


@dataclass(frozen=True)
class Options:
    """What the flags of the same names say, beside the recipe."""

    base: Path | None
    cache: bool
    sample_every: int | None
    tensorboard: bool


def train(
    profile: str = "nano",
    run: Path | str | None = None,
    recipe: str | None = None,
    data: Path | str | None = None,
    steps: int | None = None,
    clips_per_step: int | None = None,
    seed: int = 0,
    base: Path | str | None = None,
    cache: bool = True,
    sample_every: int | None = None,
    tensorboard: bool = False,
    plan: bool = False,
    explain: bool = False,
    redo: bool = False,
) -> dict[str, Any]:
    """Post-train the profile's world model; a run that was stopped continues where it was.

    Args:
        run: the run's folder; `runs/<profile>` if not given.
        recipe: one of the profile's named recipes.
        data: a folder in the published layout; the run's own `data/train` if not given.
        steps: instead of the recipe's number of optimizer steps.
        clips_per_step: of all processes together, in several passes where the recipe's batch is smaller. If not given:
            those that the run was begun with, on however many processes it continues; else one batch per process.
        base: a `.pt` file in NVIDIA's names (`net.*`) whose weights to start from, instead of the profile's.
        cache: latents and text embeddings are made once and kept on disk; with --no-cache both encoders stay in memory
            and make them anew in every step.
        sample_every: steps between sample clips of fixed seeds in `checkpoints/samples`; none if not given.
        tensorboard: also write the log for TensorBoard, which must be installed.
        plan: only say what would be done: nothing is downloaded, read or written but the list of clips.
        explain: only print every value of the recipe beside the published one, and why ours differs.

    Returns:
        The stage's manifest; with `plan` the plan's numbers, with `explain` the table's rows as `fields`.
    """
    chosen = profiles.get(profile, recipe)
    if steps is not None:
        if steps < 1:
            raise UserError(f"steps is {steps}; it must be at least 1")
        chosen = replace(chosen, recipe=replace(chosen.recipe, steps=steps))
    if explain:
        print(recipes.describe(chosen))
        return {"fields": [asdict(row) for row in recipes.compare(chosen)]}
    if sample_every is not None and sample_every < 1:
        raise UserError(f"sample_every is {sample_every}; it must be at least 1")
    if base and chosen.recipe.lora_rank:
        raise UserError("--base trains all weights: adapters (LoRA) are merged into the profile's own when converted")
    options = Options(Path(base).expanduser().absolute() if base else None, cache, sample_every, tensorboard)
    folder = runs.run_folder(run, profile)
    source = Path(data).expanduser().absolute() if data else folder / "data" / "train"
    with engine.processes() as group:
        wanted = clips_per_step or group.share(None if redo else _begun_with(folder / "checkpoints"))
        if wanted is not None:
            chosen = replace(chosen, recipe=planning.divide(chosen.recipe, wanted, group.size))
        made = _plan(chosen, source, options, group)
        if plan:
            return asdict(made)
        if data is None and runs.read_manifest(folder / "data") is None:
            raise UserError(f"{folder / 'data'} is not finished; type {runs.command('prepare', folder, profile)} first")
        return _train(chosen, made, folder, source, data is None, seed, redo, options, group)


def _begun_with(folder: Path) -> int | None:
    """Clips per step of the run in a checkpoints folder, if there is one."""
    known = runs.begun(folder)
    return known and known["settings"].get("clips per step")


def _plan(profile: Profile, source: Path, options: Options, group: Group) -> planning.Plan:
    """Count, print, return."""
    if source.is_dir():
        used, held = map(len, dataset.split(dataset.read_clips(source)))
        shown: Path | str = source
    elif profile.train_data.location in sizes.CLIPS:
        total = sizes.CLIPS[profile.train_data.location]
        held = max(1, round(dataset.HELD_OUT * total))
        used, shown = total - held, f"{profile.train_data.location} (not here yet, {profile.train_data.gigabytes:g} GB)"
    else:
        used, held, shown = None, None, source
    made = planning.make(profile, group.size, used, held, options.cache)
    group.say(planning.describe(made, profile, group.size, group.device, shown, options.base, options.cache))
    return made


def _train(
    profile: Profile,
    made: planning.Plan,
    folder: Path,
    source: Path,
    own: bool,
    seed: int,
    redo: bool,
    options: Options,
    group: Group,
) -> dict[str, Any]:
    models = group.share(group.from_main(lambda: hub.locate(profile.world)))
    inputs = (folder, source, own, models, made, seed, redo, options.base)
    stage = group.from_main(lambda: _enter(profile, *inputs))
    if manifest := group.share(stage.manifest if stage else None):
        return manifest
    used, held = dataset.split(dataset.read_clips(source))
    if options.cache:
        entries = dataset.cache(used + held, profile, models, folder / "cache", group)
    else:
        entries = dataset.online(used + held, profile, models, group)
    parts = entries[: len(used)], entries[len(used) :]
    facts = _fit(profile, folder / "checkpoints", models, *parts, seed, options, group)
    if stage:
        outputs = [path for path in stage.folder.glob("iter_*/**/*") if path.is_file()]
        outputs += [stage.folder / LOG, stage.folder / POINTER, *stage.folder.glob(f"{callbacks.SAMPLES}/*.mp4")]
        manifest = stage.finish(outputs, **_facts(profile.recipe, used, held, made), **facts)
        _report(manifest)
    return group.share(manifest)


def _enter(
    profile: Profile,
    folder: Path,
    source: Path,
    own: bool,
    models: Path,
    made: planning.Plan,
    seed: int,
    redo: bool,
    base: Path | None,
) -> runs.Stage:
    inputs = {"prepare": runs.fingerprint(folder / "data")} if own else {"clips": runs.fingerprint(source)}
    if base and not base.is_file():
        raise UserError(f"{base}: no such file; --base takes a .pt file")
    settings = {
        "recipe": {name: value for name, value in asdict(profile.recipe).items() if name not in DIVISION},
        "seed": seed,
        "clips per step": made.clips_per_step,
        "base weights": runs.digest(base) if base else world.weights_fingerprint(models),
    }
    return runs.enter(folder / "checkpoints", "train", profile.name, inputs, settings, redo)


def _fit(
    profile: Profile,
    folder: Path,
    models: Path,
    used: list[Entry],
    held: list[Entry],
    seed: int,
    options: Options,
    group: Group,
) -> dict[str, Any]:
    recipe, compute = profile.recipe, hardware.compute_dtype(group.device)
    watches = [callbacks.picture(folder)] if group.main and show.live() else []
    watches += [callbacks.curves(folder, group)] if options.tensorboard else []
    model = load(profile, models, seed, group, options.base)
    if options.sample_every:
        watches += [callbacks.samples(model, held, profile, models, folder, options.sample_every, group)]
    with autocast(model, group.device, compute):
        before, still = heldout_loss(model, held, recipe.shift, group)
    group.from_main(lambda: require_trained(mean(before), still, recipe.first_loss, options.base or models))
    start = time.monotonic()
    trained = engine.fit(
        model,
        flow_loss,
        batches(used, recipe, seed, group),
        recipe,
        folder,
        seed,
        group,
        compute,
        names.to_native,
        lambda step, row: [watch(step, row) for watch in watches],
    )
    with autocast(model, group.device, compute):
        after, _ = heldout_loss(model, held, recipe.shift, group)
    losses = [row["loss"] for row in trained.rows]
    tenth = max(1, len(losses) // 10)
    return {
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
        "heldout_before": mean(before),
        "heldout_after": mean(after),
        "heldout_levels": {"noise level": noise_levels(recipe.shift).tolist(), "before": before, "after": after},
        "heldout_zero_velocity": still,
        "weights_changed": trained.changed,
        "seconds_training": round(time.monotonic() - start, 1),
        "seconds_per_step": sorted(row["seconds"] for row in trained.rows)[len(losses) // 2],
    }


def _facts(recipe: Recipe, used: list[Clip], held: list[Clip], made: planning.Plan) -> dict[str, Any]:
    return {
        "steps": recipe.steps,
        "clips": len(used),
        "heldout_clips": [clip.video.name for clip in held],
        "tokens": made.tokens,
        **json.loads(json.dumps({"recipe": asdict(recipe), "plan": asdict(made)})),  # as it will be read again
    }


def _report(manifest: dict[str, Any]) -> None:
    print(
        f"train: loss {manifest['loss_first']:.4f} -> {manifest['loss_last']:.4f} in {manifest['steps']} steps, "
        f"held out {manifest['heldout_before']:.4f} -> {manifest['heldout_after']:.4f}; "
        f"weights moved by up to {manifest['weights_changed']:.2g}; {manifest['seconds_per_step']:.2f} s a step"
    )
    for name, values in manifest["heldout_levels"].items():
        print(f"  {name:<13} {'  '.join(f'{value:6.3f}' for value in values)}")
