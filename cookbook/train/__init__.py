"""Stage `train`: post-train the world model on a folder of clips; writes `checkpoints/`.

The same command runs on one process (`cookbook train`) and on many (`torchrun ... -m cookbook.cli train`).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import CosmosTransformer3DModel

from cookbook import engine, profiles, store
from cookbook.engine import Group
from cookbook.engine.checkpoint import POINTER
from cookbook.engine.loop import LOG, autocast
from cookbook.errors import UserError
from cookbook.models import hub, names, sizes, world
from cookbook.profiles import Profile, Recipe
from cookbook.train import clips as footage
from cookbook.train import explain as reasons
from cookbook.train import plan as planning
from cookbook.train.clips import Cached, Clip
from cookbook.train.objective import batches, flow_loss, heldout_loss

# How a step's work is divided: a run may continue on other processes, which changes these but not its result.
DIVISION = ("batch", "accumulate", "shard", "recompute")


def train(
    profile: str = "nano",
    run: Path | str | None = None,
    recipe: str | None = None,
    data: Path | str | None = None,
    steps: int | None = None,
    clips_per_step: int | None = None,
    seed: int = 0,
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
        print(reasons.describe(chosen))
        return {"fields": [asdict(row) for row in reasons.compare(chosen)]}
    folder = store.run_folder(run, profile)
    source = Path(data).expanduser().absolute() if data else folder / "data" / "train"
    with engine.processes() as group:
        wanted = clips_per_step or group.share(None if redo else _begun_with(folder / "checkpoints"))
        if wanted is not None:
            chosen = replace(chosen, recipe=planning.divide(chosen.recipe, wanted, group.size))
        made = _plan(chosen, source, group)
        if plan:
            return asdict(made)
        if data is None and store.read_manifest(folder / "data") is None:
            raise UserError(f"{folder / 'data'} is not finished; type `cookbook prepare --profile {profile}` first")
        return _train(chosen, made, folder, source, data is None, seed, redo, group)


def _begun_with(folder: Path) -> int | None:
    """Clips per step of the run in a checkpoints folder, if there is one."""
    known = store.begun(folder)
    return known and known["settings"].get("clips per step")


def _plan(profile: Profile, source: Path, group: Group) -> planning.Plan:
    """Count, print, return."""
    if source.is_dir():
        used, held = map(len, footage.split(footage.read_clips(source)))
        shown: Path | str = source
    elif profile.train_data.location in sizes.CLIPS:
        total = sizes.CLIPS[profile.train_data.location]
        held = max(1, round(footage.HELD_OUT * total))
        used, shown = total - held, f"{profile.train_data.location} (not here yet, {profile.train_data.gigabytes:g} GB)"
    else:
        used, held, shown = None, None, source
    made = planning.make(profile, group.size, used, held)
    group.say(planning.describe(made, profile, group.size, group.device, shown))
    return made


def _train(
    profile: Profile, made: planning.Plan, folder: Path, source: Path, own: bool, seed: int, redo: bool, group: Group
) -> dict[str, Any]:
    models = group.share(group.from_main(lambda: hub.locate(profile.world)))
    stage = group.from_main(lambda: _enter(profile, folder, source, own, models, made, seed, redo))
    if manifest := group.share(stage.manifest if stage else None):
        return manifest
    used, held = footage.split(footage.read_clips(source))
    entries = footage.cache(used + held, profile, models, folder / "cache", group)
    facts = _fit(profile, folder / "checkpoints", models, entries[: len(used)], entries[len(used) :], seed, group)
    if stage:
        outputs = [path for path in stage.folder.glob("iter_*/**/*") if path.is_file()]
        outputs += [stage.folder / LOG, stage.folder / POINTER]
        manifest = stage.finish(outputs, **_facts(profile.recipe, used, held, made), **facts)
        _report(manifest)
    return group.share(manifest)


def _enter(
    profile: Profile, folder: Path, source: Path, own: bool, models: Path, made: planning.Plan, seed: int, redo: bool
) -> store.Stage:
    inputs = {"data": store.fingerprint(folder / "data")} if own else {"clips": store.fingerprint(source)}
    settings = {
        "recipe": {name: value for name, value in asdict(profile.recipe).items() if name not in DIVISION},
        "seed": seed,
        "clips per step": made.clips_per_step,
        "base weights": world.weights_fingerprint(models),
    }
    return store.enter(folder / "checkpoints", "train", profile.name, inputs, settings, redo)


def load(profile: Profile, models: Path, seed: int, group: Group) -> CosmosTransformer3DModel:
    """The base network, every weight checked, ready to train on this group.

    Weights that are trained are float32 (`master_weights`, LoRA's adapters) or, as upstream, in the dtype of the
    computation; frozen ones are in the dtype of the computation.
    """
    recipe, compute = profile.recipe, world.compute_dtype(group.device)
    whole = recipe.master_weights and not recipe.lora_rank
    return ready(world.load_transformer(models, torch.float32 if whole else compute), recipe, seed, group)


def ready(model: CosmosTransformer3DModel, recipe: Recipe, seed: int, group: Group) -> CosmosTransformer3DModel:
    """A loaded network with what the recipe adds: adapters, recomputation, its share of the processes. On GPUs the
    blocks are compiled."""
    if recipe.lora_rank:
        torch.manual_seed(seed)
        planning.add_lora(model, recipe)
    engine.recompute(model, recipe.recompute, group.device.type == "cuda")
    return engine.shard(model.train(), group, world.compute_dtype(group.device), recipe.shard)


def _fit(
    profile: Profile, folder: Path, models: Path, used: list[Cached], held: list[Cached], seed: int, group: Group
) -> dict[str, Any]:
    recipe, compute = profile.recipe, world.compute_dtype(group.device)
    model = load(profile, models, seed, group)
    with autocast(model, group.device, compute):
        before, still = heldout_loss(model, held, recipe.shift, group)
    group.from_main(lambda: _require_trained(before, still, recipe.first_loss, models))
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
    )
    with autocast(model, group.device, compute):
        after, _ = heldout_loss(model, held, recipe.shift, group)
    losses = [row["loss"] for row in trained.rows]
    tenth = max(1, len(losses) // 10)
    return {
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
        "heldout_before": before,
        "heldout_after": after,
        "heldout_zero_velocity": still,
        "weights_changed": trained.changed,
        "seconds_training": round(time.monotonic() - start, 1),
        "seconds_per_step": sorted(row["seconds"] for row in trained.rows)[len(losses) // 2],
    }


def _require_trained(before: float, still: float, limit: float | None, models: Path) -> None:
    """Refuse base weights that predict hardly better than nothing, as those that were never loaded do.

    The measure is the loss of predicting no velocity on the same clips, which is about 1.6 for any profile. The 2B
    model is reported at about 0.03, or 3 where its weights were silently not loaded (predict2.5 issue 160); the shipped
    nano model has 0.37.
    """
    if limit is not None and not before <= limit * still:  # so that nan is refused too
        raise UserError(
            f"the loss before training is {before:.3f}, {before / still:.2f} times the {still:.3f} of no model at all; "
            f"trained weights stay below {limit:g} times. {models} is not a trained base model of this kind, or the "
            "clips are not encoded as it expects; a recipe with first_loss=None trains any weights"
        )


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
