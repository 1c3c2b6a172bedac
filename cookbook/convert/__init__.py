"""Stage `convert`: a training checkpoint becomes the published files and a diffusers folder; writes `export/`.

model.pt holds `net.` and `net_ema.`; model_ema_fp32.pt and model_ema_bf16.pt hold the EMA renamed to `net.`, as
NVIDIA's `convert_distcp_to_pt.py` writes them; diffusers/ is a folder for `Cosmos2_5_PredictBasePipeline`.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import CosmosTransformer3DModel

from cookbook import flow, profiles, store
from cookbook.convert import proof, weights
from cookbook.convert.weights import Weights
from cookbook.errors import UserError
from cookbook.models import hub, names, world

COMPANIONS = ("vae", "text_encoder", "tokenizer")


def convert(
    profile: str = "nano", run: Path | str | None = None, checkpoint: Path | str | None = None, redo: bool = False
) -> dict[str, Any]:
    """Export the trained world model and prove that nothing was lost.

    Args:
        run: the run's folder; `runs/<profile>` if not given.
        checkpoint: an `iter_...` folder or a `checkpoints` folder; the run's newest checkpoint if not given.

    Returns:
        The stage's manifest, with `max_abs_diff` and the `checks` it comes from.

    Raises:
        UserError: training is not finished, the checkpoint is not whole or not of this network, or a file differs.
    """
    chosen = profiles.get(profile)
    folder = store.run_folder(run, profile)
    own = checkpoint is None
    trained = store.read_manifest(folder / "checkpoints")
    if own and trained is None:
        raise UserError(f"{folder / 'checkpoints'} is not finished; type `cookbook train --profile {profile}` first")
    path = weights.find(folder / "checkpoints" if own else Path(checkpoint).expanduser().absolute())
    models = hub.locate(chosen.world)
    inputs = {"train": trained["fingerprint"]} if own else {"checkpoint": store.fingerprint(path)}
    settings = {"base weights": world.weights_fingerprint(models), "shift": chosen.sampling.shift}
    stage = store.enter(folder / "export", "convert", profile, inputs, settings, redo)
    if stage.done:
        return stage.manifest
    print(f"convert: {path} -> {stage.folder}, to be compared with the checkpoint in a new process")
    if own:
        _check_unchanged(path, folder / "checkpoints", trained["outputs"])
    write(weights.read(path, models), stage.folder, models, chosen.sampling.shift)
    rows = proof.check_in_new_process(stage.folder, path, models)
    print(proof.table(rows))
    if bad := [row for row in rows if not row.good]:
        raise UserError(
            f"{stage.folder / bad[0].file}: {bad[0].problem}; type `cookbook convert --redo` to write it again"
        )
    outputs = [p for p in stage.folder.rglob("*") if p.is_file() and p.name not in (".lock", "started.json")]
    return stage.finish(
        outputs,
        checkpoint=path.name,
        max_abs_diff=max(row.max_abs_diff for row in rows),
        checks=[asdict(row) for row in rows],
    )


def _check_unchanged(path: Path, root: Path, hashes: dict[str, str]) -> None:
    """The checkpoint's files are those that training wrote."""
    for name, known in hashes.items():
        file = root / name
        if path in file.parents and store.digest(file) != known:
            raise UserError(f"{file} has changed since training wrote it; copy it again or --redo train")


def write(trained: Weights, folder: Path, models: Path, shift: float) -> None:
    """All exported files, each under a temporary name until it is whole."""
    for file, state in proof.expected(trained).items():
        if file.endswith(".pt"):
            with store.replacing(folder / file) as temporary:
                torch.save(state, temporary)
    shutil.rmtree(folder / "diffusers", ignore_errors=True)
    with store.replacing(folder / "diffusers") as temporary:
        write_diffusers(trained, temporary, models, shift)


def write_diffusers(trained: Weights, folder: Path, models: Path, shift: float) -> None:
    """A pipeline folder: the EMA weights in the dtype of training, the base model's companions, our scheduler."""
    model = CosmosTransformer3DModel.from_config(CosmosTransformer3DModel.load_config(models / "transformer"))
    world.load_strictly(model, names.as_diffusers(trained.ema), folder)
    model = model if trained.dtype == torch.float32 else model.to(trained.dtype)
    model.save_pretrained(folder / "transformer")
    flow.scheduler(shift).save_pretrained(folder / "scheduler")
    for part in COMPANIONS:
        shutil.copytree(models / part, folder / part, copy_function=_link)
    index = json.loads((models / "model_index.json").read_text())
    index |= {"_class_name": "Cosmos2_5_PredictBasePipeline", "scheduler": ["diffusers", "UniPCMultistepScheduler"]}
    store.write_json(folder / "model_index.json", index)


def _link(source: str, target: str) -> None:
    """The same bytes under a second name; a copy where the file system cannot link."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
