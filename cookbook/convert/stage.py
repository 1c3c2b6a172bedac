"""Stage `convert`: a training checkpoint becomes the published files and a diffusers folder; writes `export/`.

model.pt holds `net.` and `net_ema.`; model_ema_fp32.pt and model_ema_bf16.pt hold the EMA renamed to `net.`, as
NVIDIA's `convert_distcp_to_pt.py` writes them; diffusers/ is a folder for `Cosmos2_5_PredictBasePipeline`. A LoRA
training is exported merged, and as a file of adapters. The way back: a `.pt` becomes a checkpoint and diffusers/.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from diffusers import Cosmos2_5_PredictBasePipeline, CosmosTransformer3DModel
from torch import Tensor

from cookbook import flow, profiles, runs
from cookbook.convert import verify, weights
from cookbook.convert.weights import LORA, Weights
from cookbook.engine import checkpoint as saved
from cookbook.errors import UserError
from cookbook.models import hub, names, sizes, world

COMPANIONS = ("vae", "text_encoder", "tokenizer")


def convert(
    profile: str = "nano", run: Path | str | None = None, checkpoint: Path | str | None = None, redo: bool = False
) -> dict[str, Any]:
    """Export the trained world model and prove that nothing was lost.

    Args:
        run: the run's folder; `runs/<profile>` if not given.
        checkpoint: an `iter_...` folder or a `checkpoints` folder; the run's newest checkpoint if not given. Or a
            native `.pt` file, NVIDIA's releases included: it becomes a diffusers folder and a checkpoint.

    Returns:
        The stage's manifest, with `max_abs_diff` and the `checks` it comes from.

    Raises:
        UserError: training is not finished, the checkpoint is not whole or not of this network, or a file differs.
    """
    chosen = profiles.get(profile)
    folder = runs.run_folder(run, profile)
    own = checkpoint is None
    trained = runs.read_manifest(folder / "checkpoints")
    if own and trained is None:
        raise UserError(
            f"{folder / 'checkpoints'} is not finished; type {runs.command('train', folder, profile)} first"
        )
    path = weights.find(folder / "checkpoints" if own else Path(checkpoint).expanduser().absolute())
    models = hub.locate(chosen.world)
    known = runs.digest if path.is_file() else runs.fingerprint
    inputs = {"train": trained["fingerprint"]} if own else {"checkpoint": known(path)}
    settings = {"base weights": world.weights_fingerprint(models), "shift": chosen.sampling.shift}
    stage = runs.enter(folder / "export", "convert", profile, inputs, settings, redo)
    if stage.done:
        return stage.manifest
    print(f"convert: {path} -> {stage.folder}, to be compared with the checkpoint in a new process")
    if own:
        _check_unchanged(path, folder / "checkpoints", trained["outputs"])
    write(weights.read(path, models), stage.folder, models, chosen.sampling.shift, path.is_file())
    rows = verify.check_in_new_process(stage.folder, path, models)
    print(verify.table(rows))
    if bad := [row for row in rows if not row.good]:
        again = runs.command("convert", folder, profile, "--redo")
        raise UserError(f"{stage.folder / bad[0].file}: {bad[0].problem}; type {again} to write it again")
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
        if path in file.parents and runs.digest(file) != known:
            anew = runs.command("train", root.parent, None, "--redo")
            raise UserError(f"{file} has changed since training wrote it; copy it again, or train anew: {anew}")


def write(trained: Weights, folder: Path, models: Path, shift: float, back: bool = False) -> None:
    """All exported files, one after the other, each under a temporary name until it is whole.

    Only one of them is ever in memory. `back`: as in `proof.expected`.
    """
    for file, state in verify.expected(trained, back).items():
        target = folder / file
        if target.is_dir():
            shutil.rmtree(target)
        if file == "diffusers/transformer":
            shutil.rmtree(folder / "diffusers", ignore_errors=True)
            with runs.replacing(folder / "diffusers") as temporary:
                write_diffusers(state, temporary, models, shift)
            continue
        with runs.replacing(target) as temporary:
            if file == verify.CHECKPOINT:
                write_checkpoint(state, temporary)
            elif file == verify.ADAPTER:
                write_adapter(state, temporary, *trained.lora)
            else:
                torch.save(dict(state), temporary)
    if back:
        with runs.replacing(folder / "checkpoints" / saved.POINTER) as temporary:
            temporary.write_text(Path(verify.CHECKPOINT).parent.name + "\n")


def write_checkpoint(state: Mapping[str, Tensor], folder: Path) -> None:
    """The model part of a checkpoint, as training with NVIDIA's tools loads it (its `load_path`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DCP warns that one process needs no process group
        dcp.save(dict(state), checkpoint_id=folder, no_dist=True)


def write_adapter(state: Mapping[str, Tensor], file: Path, rank: int, alpha: float) -> None:
    """LoRA matrices as a file for diffusers' `load_lora_weights` (names of peft's, rank and alpha in its metadata)."""
    tensors = {names.to_diffusers(name).replace(".default.", "."): tensor for name, tensor in state.items()}
    targets = sorted({name.split(LORA)[0] for name in tensors})
    facts = {"r": rank, "lora_alpha": alpha, "target_modules": targets, "peft_type": "LORA"}
    Cosmos2_5_PredictBasePipeline.save_lora_weights(
        file.parent, tensors, weight_name=file.name, transformer_lora_adapter_metadata=facts
    )


def write_diffusers(state: Mapping[str, Tensor], folder: Path, models: Path, shift: float) -> None:
    """A pipeline folder: the EMA weights in the dtype of training, the base model's companions, our scheduler."""
    model = sizes.on_meta(CosmosTransformer3DModel.load_config(models / "transformer"))
    model.load_state_dict(names.as_diffusers(dict(state)), assign=True)
    model.save_pretrained(folder / "transformer", max_shard_size="5GB")
    flow.scheduler(shift).save_pretrained(folder / "scheduler")
    for part in COMPANIONS:
        shutil.copytree(models / part, folder / part, copy_function=_link)
    index = json.loads((models / "model_index.json").read_text())
    index |= {"_class_name": "Cosmos2_5_PredictBasePipeline", "scheduler": ["diffusers", "UniPCMultistepScheduler"]}
    runs.write_json(folder / "model_index.json", index)


def _link(source: str, target: str) -> None:
    """The same bytes under a second name; a copy where the file system cannot link."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
