"""Weights that came from somebody else."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from conftest import ALONE
from diffusers import CosmosTransformer3DModel
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.metadata import Metadata

from cookbook.convert import verify, weights
from cookbook.convert.stage import convert, write
from cookbook.convert.weights import EMA, NET
from cookbook.engine import checkpoint
from cookbook.errors import UserError
from cookbook.models import critic, names, world


@pytest.mark.parametrize(("name", "problem"), [("__0_0.distcp", "is cut short: 100 of"), (".metadata", "is damaged")])
def test_truncated_and_missing_files_are_refused(copied, tiny_world, name, problem):
    file = copied / "model" / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{name} {problem}"):
        weights.read(copied, tiny_world)
    file.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        weights.read(copied, tiny_world)


def rewrite(path: Path, change) -> None:
    """Load the model part of a checkpoint, change its dictionary of tensors, save it in its place."""
    metadata = pickle.loads((path / "model/.metadata").read_bytes())
    state = {name: torch.empty(entry.size) for name, entry in metadata.state_dict_metadata.items()}
    dcp.load(state, checkpoint_id=path / "model", no_dist=True)
    shutil.rmtree(path / "model")
    dcp.save(change(state), checkpoint_id=path / "model", no_dist=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if n.startswith("net.")}, "no EMA weights"),
        (
            lambda s: {n: t for n, t in s.items() if n != "net.t_embedding_norm.weight"},
            "appear under only one of.*t_embedding_norm",
        ),
        (lambda s: {n: t for n, t in s.items() if "t_embedding_norm" not in n}, "missing t_embedding_norm.weight"),
        (lambda s: s | {"net.extra": torch.zeros(1), "net_ema.extra": torch.zeros(1)}, "unexpected extra"),
        (
            lambda s: {n: t[..., :-1] if "final_layer.linear" in n else t for n, t in s.items()},
            r"is \[64, 31\], expected",
        ),
    ],
)
def test_partial_and_foreign_checkpoints_are_refused(copied, tiny_world, change, message):
    rewrite(copied, change)
    with pytest.raises(UserError, match=message) as caught:
        weights.read(copied, tiny_world)
    assert "\n" not in str(caught.value)


def test_a_weight_that_is_not_finite_is_refused_by_name(copied, tiny_world, tmp_path):
    def spoil(state):
        state["net_ema.t_embedding_norm.weight"][0] = float("inf")
        return state

    rewrite(copied, spoil)
    with pytest.raises(UserError, match="iter_000000004: net_ema.t_embedding_norm.weight holds NaN or infinity"):
        write(weights.read(copied, tiny_world), tmp_path / "export", tiny_world, 5.0)


PARTS = {
    "transformer": (world.load_transformer, world.DIFFUSERS),
    "vae": (world.load_vae, world.DIFFUSERS),
    "text_encoder": (world.load_text_encoder, world.TRANSFORMERS),
    ".": (lambda folder: critic.load_critic(folder, torch.device("cpu")), world.TRANSFORMERS),
}


@pytest.mark.parametrize("part", PARTS)
def test_only_the_named_weights_are_loaded_whole_and_finite(tiny_world, critic_folder, tmp_path, part):
    """A backup beside them, a missing tensor (which the library would draw at random) and NaN are refused by name."""
    load, name = PARTS[part]
    models = Path(shutil.copytree(critic_folder if part == "." else tiny_world, tmp_path / "models"))
    file = models / part / f"{name}.safetensors"
    load(models)
    (file.parent / f"._{file.name}").write_bytes(b"of macOS")
    shutil.copy(file, file.with_name("backup.safetensors"))
    with pytest.raises(UserError, match=r"backup.safetensors is not what the model is loaded from"):
        load(models)
    (file.parent / "backup.safetensors").unlink()
    state = load_file(file)
    first = next(name for name, tensor in state.items() if tensor.is_floating_point() and name in sorted(state)[:40])
    save_file({n: t.clone().fill_(float("nan")) if n == first else t for n, t in state.items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"{re.escape(first)} holds NaN"):
        load(models)
    save_file({n: t for n, t in state.items() if n != first}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"missing.*{re.escape(first)}"):
        load(models)
    file.with_suffix(".safetensors.index.json").write_text('{"weight_map": {"a": "other.safetensors"}}')
    with pytest.raises(UserError, match="other.safetensors is missing"):
        load(models)


class Hostile:
    """Unpickled without care, it makes a folder."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


KEY = "net.t_embedding_norm.weight"


def hostile_table(path, evil):
    (path / "model/.metadata").write_bytes(pickle.dumps(evil))


def hostile_table_of_one_process(path, evil):
    (path / "model/.metadata").rename(path / "model/table")
    (path / "model/__0.metadata").write_bytes(pickle.dumps(evil))


def hostile_entry(path, evil):
    """Valid, but one value is no tensor: DCP unpickles those without any check."""
    rewrite(path, lambda state: state | {KEY: evil, KEY.replace("net.", "net_ema."): evil})


def hostile_tensor(path, evil):
    file, table, data = path / "model/__0_0.distcp", path / "model/.metadata", io.BytesIO()
    torch.save(evil, data)
    metadata, size = pickle.loads(table.read_bytes()), file.stat().st_size
    index = next(index for index in metadata.storage_data if index.fqn == KEY)
    metadata.storage_data[index] = replace(metadata.storage_data[index], offset=size, length=len(data.getvalue()))
    table.write_bytes(pickle.dumps(metadata))
    with open(file, "ab") as end:
        end.write(data.getvalue())


def changed_class(path, evil):
    """Sets an attribute of a class that the table may name."""
    names = b"ctorch.distributed.checkpoint.metadata\nMetadata\n"
    (path / "model/.metadata").write_bytes(names + b"(N}S'planner_data'\nS'x'\nstb.")


@pytest.mark.parametrize("read", ["convert", "resume"])
@pytest.mark.parametrize(
    "attack", [hostile_table, hostile_table_of_one_process, hostile_entry, hostile_tensor, changed_class]
)
def test_a_checkpoint_of_somebody_else_runs_no_code(copied, tiny_world, tmp_path, attack, read):
    attack(copied, Hostile(tmp_path / "owned"))
    with pytest.raises(UserError) as refused:
        if read == "convert":
            dict(weights.read(copied, tiny_world).net)
        else:
            state = {part: {} for part in checkpoint.PARTS} | {"model": {KEY: torch.zeros(32)}}
            checkpoint.load(copied, state, ALONE)
    assert "\n" not in str(refused.value) and not (tmp_path / "owned").exists()
    assert Metadata.planner_data is None


def test_a_native_file_runs_no_code(tmp_path):
    torch.save({"net.x": Hostile(tmp_path / "owned")}, tmp_path / "native.pt")
    with pytest.raises(UserError, match="is damaged or holds more than tensors"):
        world.read_native(tmp_path / "native.pt")
    assert not (tmp_path / "owned").exists()


def test_a_broken_checkpoint_binds_nothing_and_a_whole_one_gives_the_same_bytes_again(
    copied, exported, tiny_profile, tmp_path, monkeypatch
):
    profile, file = tiny_profile(4), copied / "model/__0_0.distcp"
    monkeypatch.setattr(verify, "verify_in_new_process", verify.verify)
    good = file.read_bytes()
    file.write_bytes(good[:-4000] + bytes(4000))
    with pytest.raises(UserError, match="is damaged"):
        convert("tiny", run=tmp_path / "run", checkpoint=copied)
    file.write_bytes(good)
    assert convert("tiny", run=tmp_path / "run", checkpoint=copied)["outputs"] == exported[1]["outputs"]
    inodes = {path.stat().st_ino for path in Path(profile.world.location).rglob("*") if path.is_file()}
    assert inodes.isdisjoint(path.stat().st_ino for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_a_checkpoint_of_nvidias_trainer_is_read(copied, tiny_world):
    """Its folders hold bookkeeping beside the weights, and extra states that may be no tensors."""
    wanted = dict(weights.read(copied, tiny_world).ema)
    beside = names.bookkeeping(CosmosTransformer3DModel.load_config(tiny_world / "transformer"))
    beside |= {"accum_iteration": torch.tensor(200), "t_embedding_norm._extra_state": io.BytesIO(b"")}
    rewrite(copied, lambda state: state | {prefix + name: t for prefix in (NET, EMA) for name, t in beside.items()})
    state = weights.read(copied, tiny_world).ema
    assert state.keys() == wanted.keys() and all(torch.equal(state[name], tensor) for name, tensor in wanted.items())
