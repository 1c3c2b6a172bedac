"""Stage `convert`: a training checkpoint becomes the published files and a diffusers folder; writes `export/`.

model.pt holds `net.` and `net_ema.`; model_ema_fp32.pt and model_ema_bf16.pt hold the EMA renamed to `net.`, as
NVIDIA's `convert_distcp_to_pt.py` writes them; diffusers/ is a folder for `Cosmos2_5_PredictBasePipeline`. A LoRA
training is exported merged, and as a file of adapters. A native `.pt` file becomes diffusers/ alone.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cookbook import flow, profiles, runs, storage
from cookbook.convert import verify, weights
from cookbook.convert.weights import LORA, Weights
from cookbook.errors import UserError
from cookbook.models import hub, names, sizes, world

COPIED = ("vae", "text_encoder", "tokenizer")  # parts of the pipeline that training leaves as they are


@runs.releasing
def convert(
    profile: str = "nano", run: Path | str | None = None, checkpoint: Path | str | None = None, redo: bool = False
) -> dict[str, Any]:
    """Export the trained world model and verify that nothing was lost.

    Args:
        run: the run's folder; `runs/<profile>` if not given.
        checkpoint: an `iter_...` folder or a `checkpoints` folder; the run's newest checkpoint if not given. Or a
            native `.pt` file, NVIDIA's releases included: it becomes a diffusers folder.

    Returns:
        The stage's manifest, with `max_abs_diff` and the `checks` it comes from.

    Raises:
        UserError: training is not finished, the checkpoint is not whole or not of this network, or a file differs.
    """
    chosen = profiles.get(profile)
    folder = runs.run_folder(run, profile)
    trained = None if checkpoint else runs.manifest_of(folder, "train", profile)
    path = weights.find(storage.absolute(checkpoint) if checkpoint else folder / "checkpoints")
    models = hub.locate(chosen.world)
    content = storage.digest if path.is_file() else runs.fingerprint
    inputs = {"train": trained["fingerprint"]} if trained else {"checkpoint": content(path)}
    settings = {"base weights": world.weights_fingerprint(models), "shift": chosen.sampling.shift}
    stage = runs.enter(folder / "export", "convert", profile, inputs, settings, redo)
    if stage.done:
        return stage.manifest
    print(f"convert: {path} -> {stage.folder}, then compared with the checkpoint in a new process")
    if trained:
        _require_unchanged(path, folder / "checkpoints", trained)
    write(weights.read(path, models), stage.folder, models, chosen.sampling.shift)
    checks = verify.verify_in_new_process(stage.folder, path, models)
    print(verify.table(checks))
    if failed := [check for check in checks if check.problem]:
        flags = runs.flags(checkpoint=path if checkpoint else None, redo=True)
        again = runs.command("convert", folder, profile, *flags)
        raise UserError(f"{stage.folder / failed[0].file}: {failed[0].problem}; type {again} to write it again")
    return stage.finish(
        storage.contents(stage.folder),
        checkpoint=path.name,
        max_abs_diff=max(check.max_abs_diff for check in checks),
        checks=[asdict(check) for check in checks],
    )


def _require_unchanged(path: Path, root: Path, trained: dict[str, Any]) -> None:
    """Refuse a checkpoint with files that changed since training wrote them and their manifest, `trained`."""
    for name, digest in trained["outputs"].items():
        file = root / name
        if path in file.parents and storage.digest(file) != digest:
            again = runs.command("train", root.parent, None, *trained.get("flags", []), "--redo")
            raise UserError(f"{file} has changed since training wrote it; copy it again, or type {again}")


def write(trained: Weights, folder: Path, models: Path, shift: float) -> None:
    """All exported files, one after the other, each under a temporary name until it is whole.

    Only one of them is ever in memory.
    """
    for file, state in verify.expected(trained).items():
        target = folder / ("diffusers" if file == "diffusers/transformer" else file)
        with storage.replacing(target) as temporary:
            if target.name == "diffusers":
                write_diffusers(state, temporary, models, shift)
            elif file == verify.ADAPTER:
                write_adapter(state, temporary, *trained.lora)
            else:
                with open(temporary, "wb") as archive:  # given a path, the archive would hold the temporary name
                    torch.save(dict(state), archive)


def write_adapter(state: Mapping[str, Tensor], file: Path, rank: int, alpha: float) -> None:
    """LoRA matrices as a file for diffusers' `load_lora_weights` (names of peft's, rank and alpha in its metadata)."""
    from diffusers import Cosmos2_5_PredictBasePipeline

    tensors = {names.to_diffusers(name).replace(".default.", "."): tensor for name, tensor in state.items()}
    targets = sorted({name.split(LORA)[0] for name in tensors})
    metadata = {"r": rank, "lora_alpha": alpha, "target_modules": targets, "peft_type": "LORA"}
    Cosmos2_5_PredictBasePipeline.save_lora_weights(
        file.parent, tensors, weight_name=file.name, transformer_lora_adapter_metadata=metadata
    )


def write_diffusers(state: Mapping[str, Tensor], folder: Path, models: Path, shift: float) -> None:
    """A pipeline folder: the EMA weights in the dtype of training, the base model's other parts, our scheduler."""
    model = sizes.on_meta(sizes.read_config(models))
    model.load_state_dict(names.as_diffusers(dict(state)), assign=True)
    model.save_pretrained(folder / "transformer", max_shard_size="5GB")
    flow.scheduler(shift).save_pretrained(folder / "scheduler")
    for part in COPIED:
        shutil.copytree(models / part, folder / part)
    for place, _, _ in os.walk(folder):  # copied from assets/, which may be read-only
        os.chmod(place, os.stat(place).st_mode | 0o700)
    index = storage.read_json(models / "model_index.json")
    index |= {"_class_name": "Cosmos2_5_PredictBasePipeline", "scheduler": ["diffusers", "UniPCMultistepScheduler"]}
    storage.write_json(folder / "model_index.json", index)
