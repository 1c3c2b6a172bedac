"""Stage `convert`: written files, verification of every kind of damage, refused input, and loading."""

from __future__ import annotations

import shutil

import pytest
import tiny
import torch
from conftest import ALONE
from diffusers import Cosmos2_5_PredictBasePipeline
from generators import NoGuardrail
from safetensors.torch import load_file, save_file

from cookbook import engine, profiles, runs, storage
from cookbook.convert import stage, verify, weights
from cookbook.convert.stage import convert, write
from cookbook.engine import checkpoint
from cookbook.errors import UserError
from cookbook.models import names, world
from cookbook.train.network import adapt
from cookbook.train.stage import train

BESIDE = 16  # entries of NVIDIA's network that are no weights: counters, tables, extra states


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


def test_a_folder_without_checkpoint_is_refused(tiny_profile, tmp_path):
    tiny_profile()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        convert("tiny", run=tmp_path, checkpoint=tmp_path / "empty")
    with pytest.raises(UserError, match="lost.pt: no such file or folder"):
        convert("tiny", run=tmp_path, checkpoint=tmp_path / "lost.pt")


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
    pipeline = Cosmos2_5_PredictBasePipeline.from_pretrained(path, safety_checker=NoGuardrail())
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
    adapt(adapted, recipe)
    run = engine.loop.Training(adapted, recipe, 0, ALONE, torch.float32, names.to_native)
    checkpoint.load(tmp_path / "checkpoints/iter_000000002", run.state(), ALONE)
    run.adopt_averages()
    pipeline = Cosmos2_5_PredictBasePipeline.from_pretrained(tiny_world, safety_checker=NoGuardrail())
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
    copy, original = (folder / "vae/config.json" for folder in (tmp_path / "export/diffusers", tiny_world))
    assert storage.digest(copy) == storage.digest(original)


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
    with monkeypatch.context() as patch, pytest.raises(UserError, match="its disk is full"):
        patch.setattr(stage, "write_diffusers", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        convert("tiny", run=tmp_path / "run", redo=True)
    assert runs.read_manifest(export / storage.EARLIER) == first
    assert all((export / storage.EARLIER / name).exists() for name in first["outputs"])
    second = convert("tiny", run=tmp_path / "run")
    assert second["outputs"].keys() == first["outputs"].keys() and not (export / storage.EARLIER).exists()
