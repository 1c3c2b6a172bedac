"""The training engine: division of the work, checkpoints, activation checkpointing, learning rate and averages."""

from __future__ import annotations

import os
import threading
import types
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import ALONE, Kernels, free_port, python
from hypothesis import given
from hypothesis import strategies as st
from tiny import losses
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import SDPBackend

from cookbook import engine, hardware, profiles, runs, storage
from cookbook.engine import checkpoint
from cookbook.engine.activations import ATTENTION, CHOICES
from cookbook.engine.distributed import mesh_shape
from cookbook.engine.optim import PowerEma, ema_exponent, rate_factor
from cookbook.errors import UserError
from cookbook.models import world
from cookbook.train.objective import batches, flow_loss
from cookbook.train.stage import train

RUNS = ("whole", "run")
KEYS = ("heldout_before", "heldout_after", "weights_changed", "loss_first", "loss_last")

# work divided and accumulated


@pytest.fixture
def alone(arena, tiny_profile):
    """Losses and manifest of one process with batches of four, 4 steps."""
    tiny_profile(steps=4, batch=4)
    manifest = train("tiny", run=arena[0] / "alone", data=arena[0] / "clips")
    return losses(arena[0] / "alone"), manifest


def assert_alike(folder: Path, alone) -> None:
    manifest = runs.read_manifest(folder / "checkpoints")
    assert losses(folder) == pytest.approx(alone[0], rel=1e-5)
    assert [manifest[key] for key in KEYS] == pytest.approx([alone[1][key] for key in KEYS], rel=1e-3)


def test_accumulation_equals_a_large_batch(arena, alone, tiny_profile, capsys):
    tiny_profile(steps=4, batch=1, accumulate=4)
    manifest = train("tiny", run=arena[0] / "run", data=arena[0] / "clips")
    assert "4 steps of 4 clips (1 per process, 4 times)" in capsys.readouterr().out
    assert manifest["recipe"]["accumulate"] == 4
    assert_alike(arena[0] / "run", alone)


@pytest.mark.parametrize(
    ("size", "recipe"),
    [
        pytest.param(4, {"shard": 2}, marks=pytest.mark.slow),  # two replicas of two shards
        (2, {"shard": 1, "accumulate": 2}),  # two replicas; upstream does not synchronise these
        pytest.param(2, {"accumulate": 2, "activation_checkpointing": "selective"}, marks=pytest.mark.slow),
        # compiled blocks under FSDP2, as on GPUs
        pytest.param(
            2, {"accumulate": 2, "activation_checkpointing": "selective", "compiled": True}, marks=pytest.mark.slow
        ),
    ],
)
def test_every_mesh_gives_the_losses_of_one_process(size, recipe, ranks, arena, alone):
    assert ranks(size, 4, 1, **recipe)
    assert_alike(arena[0] / "run", alone)


@pytest.mark.slow
def test_torchrun_starts_two_processes_with_the_losses_of_one(arena, alone):
    folder, _ = arena
    command = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}", tiny.__file__]
    variables = os.environ | {"PYTHONPATH": str(runs.ASSETS.parent), "OMP_NUM_THREADS": "1"}
    done = python(*command, folder, "4", "2", env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es) on cpu" in done.stdout and "4 steps of 4 clips (2 per process)" in done.stdout
    assert_alike(folder / "run", alone)
    shards = {path.name for path in (folder / "run/checkpoints/iter_000000004/model").glob("*.distcp")}
    assert shards == {"__0_0.distcp", "__1_0.distcp"}


def test_a_mesh_that_would_not_synchronise_gradients_is_refused(tiny_world, tmp_path):
    message = "12 processes are not a multiple of the recipe's shard, 8; .*one of 1, 2, 3, 4, 6$"
    with pytest.raises(UserError, match=message):
        mesh_shape(12, 8)
    recipe, pair = tiny.profile(tiny_world).recipe, replace(ALONE, size=2)
    with pytest.raises(UserError, match="not distributed over the 2 processes.*not be synchronised"):
        engine.fit(world.load_transformer(tiny_world), flow_loss, None, recipe, tmp_path, 0, pair, torch.float32)


# checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [((2, 4, 2), (1, 4, 4)), ((1, 4, 4), (2, 4, 2))])
def test_a_run_continues_with_another_number_of_processes(first, then, ranks, arena, alone):
    folder = arena[0] / "run"
    assert not ranks(*first, 6)  # killed before a rename: started.json, the log, three of iter 2, first of iter 4
    assert (folder / "checkpoints/latest_checkpoint.txt").read_text() == "iter_000000002\n"
    before = losses(folder)[:2]
    assert ranks(*then)
    assert losses(folder)[:2] == before
    assert_alike(folder, alone)


def state_of(value: float) -> checkpoint.State:
    return {part: {"x": torch.full((1000,), value)} for part in checkpoint.PARTS}


def saver_in(folder: Path, keep: int = 2) -> checkpoint.Saver:
    return checkpoint.Saver(folder, replace(profiles.recommended_recipe(), keep=keep), ALONE)


def test_a_checkpoint_written_beside_training_holds_the_moment_of_its_save(tmp_path, monkeypatch):
    hold, write = threading.Event(), storage.write_json
    monkeypatch.setattr(storage, "write_json", lambda *arguments: (hold.wait(30), write(*arguments)))
    saver, state = saver_in(tmp_path), state_of(1.0)
    saver.save(1, state)
    for part in state.values():
        part["x"].zero_()  # training continues
    assert checkpoint.find_latest(tmp_path) is None
    hold.set()
    saver.close()
    loaded = state_of(2.0)
    checkpoint.load(checkpoint.find_latest(tmp_path), loaded, ALONE)
    assert all(torch.equal(part["x"], torch.ones(1000)) for part in loaded.values())


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_checkpoints_are_kept(keep, tmp_path, capsys):
    saver = saver_in(tmp_path, keep)
    for step in range(1, 6):
        saver.save(step, state_of(step))
    saver.close()
    assert capsys.readouterr().out.splitlines()[-1] == f"checkpoint: {tmp_path / 'iter_000000005'}"
    kept = [f"iter_00000000{step}" for step in range(1, 6)][-keep:]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*kept, checkpoint.POINTER]


def test_a_full_disk_is_reported_before_the_first_step_and_each_checkpoint(tmp_path, monkeypatch, tiny_world):
    recipe = tiny.profile(tiny_world).recipe
    disk = types.SimpleNamespace(free=10**6)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: disk)
    with pytest.raises(UserError, match=r"has 0.00 GB free and needs 0.00 GB for 3 checkpoint\(s\); free some"):
        engine.fit(world.load_transformer(tiny_world), flow_loss, None, recipe, tmp_path, 0, ALONE, torch.float32)
    disk.free = 1000
    with pytest.raises(UserError, match=r"for 1 checkpoint"):
        saver_in(tmp_path).save(1, state_of(1))
    assert not list(tmp_path.glob("iter_*"))


def test_a_checkpoint_that_cannot_be_written_is_reported_at_the_next(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_json", full)
    saver = saver_in(tmp_path)
    saver.save(1, state_of(1))
    with pytest.raises(UserError, match="could not be written .*No space left on device"):
        saver.save(2, state_of(2))
    assert checkpoint.find_latest(tmp_path) is None


# LoRA


@pytest.mark.parametrize("name", ["smoke", "nano", "2b", "14b"])
def test_lora_is_one_flag_and_changes_nothing_else(name):
    full, lora = profiles.get(name).recipe, profiles.get(name, "lora").recipe
    apart = {field for field, value in vars(full).items() if value != getattr(lora, field)}
    assert lora.lora_rank and apart <= {"name", "lora_rank", "learning_rate", "activation_checkpointing"}


LORA = {"lora_rank": 4, "learning_rate": 3e-2}


@pytest.mark.slow
def test_lora_killed_and_resumed_ends_as_if_unbroken(ranks, arena):
    assert ranks(1, 4, 2, run="whole", **LORA)
    assert not ranks(1, 4, 2, 6, **LORA)
    assert ranks(1, 4, 2, **LORA)
    unbroken, resumed = ((losses(arena[0] / run), runs.read_manifest(arena[0] / run / "checkpoints")) for run in RUNS)
    assert unbroken[0] == resumed[0]
    for key in KEYS[:3]:
        # another process may round differently: once, before the first step, the eighth digit differed
        assert unbroken[1][key] == pytest.approx(resumed[1][key], rel=1e-6)
    assert unbroken[1]["heldout_after"] < unbroken[1]["heldout_before"]


@pytest.mark.slow
@pytest.mark.parametrize("bf16, tolerance", [(False, 1e-5), (True, 2e-2)])
def test_lora_on_two_processes_gives_the_losses_of_one(bf16, tolerance, ranks, arena):
    """With frozen weights in bf16 and adapters in float32, as on a GPU, and with all in float32."""
    assert ranks(1, 4, 4, run="whole", bf16=bf16, **LORA)
    assert ranks(2, 4, 2, bf16=bf16, **LORA)
    single, shared = (losses(arena[0] / run) for run in RUNS)
    assert shared == pytest.approx(single, rel=tolerance)


# activation checkpointing


def test_activation_checkpointing_changes_no_bit_and_keeps_attention(tiny_world, cached):
    batch = batches(cached, tiny.profile(Path()).recipe, 0, ALONE)(0)

    results = {}
    for choice in (*CHOICES, "0.4"):
        model = world.load_transformer(tiny_world).train()
        engine.checkpoint_activations(model, choice)
        with Kernels() as ran:
            loss = flow_loss(model, batch)
            loss.backward()
        assert sum(kernel in ATTENTION for kernel in ran.kernels) == 2 * 2, "self and cross attention of two blocks"
        results[choice] = [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    assert len(results["none"]) > 30
    for tensors in results.values():
        assert all(torch.equal(one, other) for one, other in zip(results["none"], tensors, strict=True))
    for wrong in ("all", "1.5"):
        with pytest.raises(UserError, match="activation_checkpointing is .*; it must be none, selective or a share"):
            engine.checkpoint_activations(model, wrong)


# the learning rate over the steps, and the average of the weights (EMA)


def test_upstream_schedule_is_one_long_ramp():
    recipe = profiles.Recipe()
    assert rate_factor(0, recipe) == 1e-6
    assert rate_factor(500, recipe) == pytest.approx(0.25, rel=1e-5)
    assert recipe.learning_rate * rate_factor(999, recipe) == pytest.approx(2.16e-5, rel=2e-3)


@given(step=st.integers(0, 5000))
def test_recommended_schedule_rises_then_falls_and_stays(step):
    recipe = profiles.recommended_recipe()
    now, later = rate_factor(step, recipe), rate_factor(step + 1, recipe)
    assert 0 < now <= recipe.peak_factor
    assert later > now if step + 1 < recipe.warmup else later <= now
    assert rate_factor(recipe.cycle, recipe) == pytest.approx(recipe.end_factor)


def test_power_ema_has_karras_exponent_and_upstream_decay():
    assert ema_exponent(0.10) == pytest.approx(6.937, abs=2e-3)
    ema = PowerEma([("w", torch.zeros(1, dtype=torch.bfloat16))], 0.10)
    assert ema.weights["w"].dtype == torch.float32, "training in low precision keeps a precise average"
    assert ema.beta(0) == 0 and ema.beta(1000) == pytest.approx(0.9921, abs=1e-4)


@given(values=st.lists(st.floats(-3, 3), min_size=1, max_size=30))
def test_power_ema_is_the_weighted_mean_that_it_claims(values):
    ema = PowerEma([("w", torch.zeros(1))], 0.10)
    for step, value in enumerate(values):
        ema.update([torch.tensor([value])], step)
    weights = (np.arange(len(values)) + 1.0) ** (ema.gamma + 1) - np.arange(len(values)) ** (ema.gamma + 1.0)
    expected = np.average(values, weights=weights)
    assert float(ema.weights["w"]) == pytest.approx(expected, abs=1e-4)


# compiled blocks and the choice of attention kernel: another speed, not another result


@pytest.fixture
def no_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss_and_gradients(model, batch):
    loss = flow_loss(model, batch)
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("choice", ["none", *(pytest.param(c, marks=pytest.mark.slow) for c in ("selective", "0.4"))])
def test_blocks_compiled_once_give_the_plain_losses_and_gradients(
    choice, tiny_world, cached, monkeypatch, no_compiled_code
):
    """Also with activation checkpointing inside."""
    batch = batches(cached, tiny.profile(tiny_world).recipe, 0, ALONE)(0)
    model = world.load_transformer(tiny_world).train()
    expected, names = loss_and_gradients(model, batch), list(model.state_dict())
    model.zero_grad()
    compiler = CompileCounterWithBackend("aot_eager" if choice == "none" else "aot_eager_decomp_partition")
    monkeypatch.setattr(hardware, "compile_blocks", partial(hardware.compile_blocks, backend=compiler))
    engine.checkpoint_activations(model, choice, compiled=True)
    results = loss_and_gradients(model, batch)
    assert results.keys() == expected.keys() and len(results) > 30
    for name, value in expected.items():
        assert float((results[name] - value).abs().max()) <= 1e-5 * float(value.abs().max()), name
    assert compiler.frame_count == 1 and len(model.transformer_blocks) == 2
    assert list(model.state_dict()) == names


def test_attention_kernels_are_chosen_within_the_block_and_on_gpus_only():
    device, order = torch.device("cuda"), torch._C._get_sdp_priority_order
    before = order()
    with hardware.fast_attention(torch.device("cpu")):
        assert order() == before
    with hardware.fast_attention(device):
        assert order()[0] == hardware.attention_kernels(device)[0].value == SDPBackend.CUDNN_ATTENTION.value
    assert order() == before
