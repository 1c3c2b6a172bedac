"""Stage `convert`: written files, verification of every kind of damage, refused input, and loading."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed.checkpoint as dcp
from conftest import ALONE
from diffusers import Cosmos2_5_PredictBasePipeline, CosmosTransformer3DModel
from safetensors.torch import load_file, save_file
from test_flow import PassThrough
from torch.distributed.checkpoint.metadata import Metadata

from cookbook import engine, profiles, runs
from cookbook.convert import stage, verify, weights
from cookbook.convert.stage import convert, write
from cookbook.convert.weights import EMA, NET
from cookbook.engine import checkpoint
from cookbook.errors import UserError
from cookbook.models import critic, names, world
from cookbook.train.network import add_lora
from cookbook.train.stage import train

BESIDE = 16  # entries of NVIDIA's network that are no weights: counters, tables, extra states


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the newest checkpoint, to be damaged."""
    return Path(shutil.copytree(exported[0] / "checkpoints/iter_000000004", tmp_path / "iter_000000004"))


def test_every_file_is_verified_and_a_second_conversion_does_nothing(exported, capsys):
    folder, manifest = exported
    assert manifest["max_abs_diff"] == 0
    assert {row["file"]: row["tensors"] for row in manifest["checks"]} == {
        "model.pt": 2 * (49 + BESIDE),
        "model_ema_fp32.pt": 49 + BESIDE,
        "model_ema_bf16.pt": 49 + BESIDE,
        "diffusers/transformer": 49,
    }
    assert not list((folder / "export").rglob(".model*"))
    assert convert("tiny", run=folder)["fingerprint"] == manifest["fingerprint"]
    assert "skipping" in capsys.readouterr().out


def test_files_have_the_published_names(exported):
    export = exported[0] / "export"
    both, fp32, bf16 = (
        torch.load(export / file, weights_only=True) for file in ("model.pt", "model_ema_fp32.pt", "model_ema_bf16.pt")
    )
    assert {name.split(".")[0] for name in both} == {"net", "net_ema"}
    assert fp32.keys() == bf16.keys() == {name for name in both if name.startswith("net.")}
    assert "net.blocks.1.cross_attn.output_proj.weight" in fp32 and "net.x_embedder.proj.1.weight" in fp32
    assert {t.dtype for name, t in bf16.items() if names.to_diffusers(name)} == {torch.bfloat16}
    assert any(not torch.equal(both[name], fp32[name]) for name in fp32), "weights and average must differ"


def test_the_buffers_of_nvidias_network_are_exported(exported):
    """A strict load into `MinimalV1LVGDiT` needs these; the values are those of a new one with this configuration."""
    state = torch.load(exported[0] / "export/model_ema_bf16.pt", weights_only=True)
    beside = {name.removeprefix("net."): t.tolist() for name, t in state.items() if names.to_diffusers(name) is None}
    counters = ("accum_video_sample_counter", "accum_image_sample_counter", "accum_iteration", "accum_train_in_hours")
    norms = [
        f"blocks.{block}.{kind}_attn.{part}_norm" for block in (0, 1) for kind in ("self", "cross") for part in "qk"
    ]
    extra = dict.fromkeys([f"{norm}._extra_state" for norm in (*norms, "t_embedding_norm")], [])  # TransformerEngine's
    assert len(beside) == BESIDE
    assert beside == dict.fromkeys(counters, 0) | extra | {
        "pos_embedder.seq": [float(n) for n in range(16)],  # the longest side of the largest clip, in patches
        "pos_embedder.dim_spatial_range": pytest.approx([0, 0.2, 0.4, 0.6, 0.8]),  # heads of 32: 10 for each side
        "pos_embedder.dim_temporal_range": pytest.approx([n / 6 for n in range(6)]),  # and 12 for time
    }


# verification


def flip_a_bit(state):
    weight = state["net.final_layer.linear.weight"]
    weight.view(torch.int16 if weight.dtype == torch.bfloat16 else torch.int32)[0, 0] ^= 1


def swap_two(state):
    one, other = "net.blocks.0.self_attn.q_proj.weight", "net.blocks.1.self_attn.q_proj.weight"
    state[one], state[other] = state[other], state[one]


def drop_one(state):
    del state["net.t_embedding_norm.weight"]


def negate_a_zero(state):
    state["net.crossattn_proj.0.bias"][0] *= -1


@pytest.mark.parametrize("file", ["model.pt", "model_ema_fp32.pt", "model_ema_bf16.pt", "diffusers/transformer"])
@pytest.mark.parametrize("damage", [flip_a_bit, swap_two, drop_one, negate_a_zero])
def test_any_damage_to_a_file_fails_the_check(exported, tiny_world, tmp_path, file, damage):
    folder, _ = exported
    wanted = verify.expected(weights.read(folder / "checkpoints/iter_000000004", tiny_world))[file]
    source, target = folder / "export" / file, tmp_path / file
    if source.is_dir():
        target.mkdir(parents=True)
        state = names.as_native(load_file(source / "diffusion_pytorch_model.safetensors"))
        damage(state)
        save_file(
            {k: v.clone() for k, v in names.as_diffusers(state).items()}, target / "diffusion_pytorch_model.safetensors"
        )
    else:
        state = torch.load(source, weights_only=True)
        damage(state)
        torch.save(state, target)
    assert verify.compare(file, wanted, verify.read_export(target)).problem
    assert not verify.compare(file, wanted, verify.read_export(source)).problem


def test_the_new_process_reports_a_damaged_file(exported, tiny_world, tmp_path):
    folder, _ = exported
    shutil.copytree(folder / "export", tmp_path / "export")
    state = torch.load(tmp_path / "export/model_ema_bf16.pt", weights_only=True)
    flip_a_bit(state)
    torch.save(state, tmp_path / "export/model_ema_bf16.pt")
    rows = verify.verify_in_new_process(tmp_path / "export", folder / "checkpoints/iter_000000004", tiny_world)
    (failed,) = [row for row in rows if row.problem]
    assert failed.file == "model_ema_bf16.pt" and 0 < failed.max_abs_diff < 0.01


# refused input


def test_a_run_and_a_folder_without_checkpoint_are_refused(tiny_profile, tmp_path):
    tiny_profile()
    with pytest.raises(UserError, match="type `cookbook train"):
        convert("tiny", run=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        convert("tiny", run=tmp_path, checkpoint=tmp_path / "empty")
    with pytest.raises(UserError, match="lost.pt: no such file or folder"):
        convert("tiny", run=tmp_path, checkpoint=tmp_path / "lost.pt")


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


def test_a_checkpoint_changed_after_training_is_refused(exported, tmp_path):
    folder, _ = exported
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    file = tmp_path / "checkpoints/iter_000000004/model/__0_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="has changed since training wrote it"):
        convert("tiny", run=tmp_path)


# loading


def forward_inputs():
    """What one forward of the tiny transformer takes, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(1, 16, 3, 4, 6, generator=generator),
        "condition_mask": torch.zeros(1, 1, 3, 4, 6),
        "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": torch.randn(1, 4, 64, generator=generator),
        "padding_mask": torch.zeros(1, 1, 32, 48),
    }


def test_diffusers_loads_the_export_and_computes_the_same(exported):
    folder, _ = exported
    path = folder / "export/diffusers"
    pipeline = Cosmos2_5_PredictBasePipeline.from_pretrained(path, safety_checker=PassThrough())
    assert pipeline.scheduler.config.flow_shift == 5.0 and not pipeline.scheduler.config.use_karras_sigmas
    inputs = forward_inputs()
    ema = torch.load(folder / "export/model_ema_fp32.pt", weights_only=True)
    model = world.load_transformer(path)
    model.load_state_dict(names.as_diffusers(ema))
    with torch.no_grad():
        assert torch.equal(pipeline.transformer(**inputs).sample, model(**inputs).sample)


@pytest.mark.slow
def test_lora_is_merged_and_both_exports_equal_the_adapted_network(tiny_world, tiny_clips, tiny_profile, tmp_path):
    recipe = tiny_profile(steps=2, lora_rank=4).recipe
    train("tiny", run=tmp_path, data=tiny_clips)
    manifest, adapter = convert("tiny", run=tmp_path), tmp_path / "export" / verify.ADAPTER
    assert manifest["max_abs_diff"] == 0
    checks = {row["file"]: row["tensors"] for row in manifest["checks"]}
    assert checks[verify.ADAPTER] == 2 * sum("lora_A" in name for name in load_file(adapter))
    adapted = world.load_transformer(tiny_world)
    add_lora(adapted, recipe)
    run = engine.loop.Training(adapted, recipe, 0, ALONE, torch.float32, names.to_native)
    checkpoint.load(tmp_path / "checkpoints/iter_000000002", run.state(), ALONE)
    run.adopt_averages()
    pipeline = Cosmos2_5_PredictBasePipeline.from_pretrained(tiny_world, safety_checker=PassThrough())
    pipeline.load_lora_weights(adapter)
    merged, base = world.load_transformer(tmp_path / "export/diffusers"), world.load_transformer(tiny_world)
    with torch.no_grad():
        want, *same, other = (net(**forward_inputs()).sample for net in (adapted, merged, pipeline.transformer, base))
    assert all(torch.allclose(want, one, atol=1e-5) for one in same) and not torch.allclose(want, other, atol=1e-4)


def test_bf16_training_is_exported_in_bf16(tiny_world, tmp_path):
    state = names.as_native(world.load_transformer(tiny_world).state_dict(), prefix="")
    trained = weights.Weights({name: t.bfloat16() for name, t in state.items()}, state)
    write(trained, tmp_path / "export", tiny_world, 5.0)
    saved = verify.read_export(tmp_path / "export/diffusers/transformer")
    assert not verify.compare("diffusers/transformer", verify.expected(trained)["diffusers/transformer"], saved).problem
    assert {t.dtype for t in saved.values()} == {torch.bfloat16}
    assert runs.digest(tmp_path / "export/diffusers/vae/config.json") == runs.digest(tiny_world / "vae/config.json")


def test_a_checkpoint_of_nvidias_trainer_is_read(copied, tiny_world):
    """Its folders hold bookkeeping beside the weights, and extra states that may be no tensors."""
    wanted = dict(weights.read(copied, tiny_world).ema)
    beside = names.bookkeeping(CosmosTransformer3DModel.load_config(tiny_world / "transformer"))
    beside |= {"accum_iteration": torch.tensor(200), "t_embedding_norm._extra_state": io.BytesIO(b"")}
    rewrite(copied, lambda state: state | {prefix + name: t for prefix in (NET, EMA) for name, t in beside.items()})
    state = weights.read(copied, tiny_world).ema
    assert state.keys() == wanted.keys() and all(torch.equal(state[name], tensor) for name, tensor in wanted.items())


def test_a_conversion_that_fails_loses_no_earlier_one_and_parts_of_a_read_only_model_can_be_replaced(
    tiny_world, tiny_clips, tmp_path, monkeypatch
):
    world = shutil.copytree(tiny_world, tmp_path / "world")
    for place in (world / "vae", world / "tokenizer"):
        place.chmod(0o555)
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: tiny.profile(world, 2))
    train("tiny", run=tmp_path / "run", data=tiny_clips)
    first = convert("tiny", run=tmp_path / "run")
    export = tmp_path / "run" / "export"
    assert all(path.stat().st_mode & 0o200 for path in export.rglob("*") if path.is_dir())
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(stage, "write_diffusers", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        convert("tiny", run=tmp_path / "run", redo=True)
    assert runs.read_manifest(export / runs.EARLIER) == first
    assert all((export / runs.EARLIER / name).exists() for name in first["outputs"])
    second = convert("tiny", run=tmp_path / "run")
    assert second["outputs"].keys() == first["outputs"].keys() and not (export / runs.EARLIER).exists()
