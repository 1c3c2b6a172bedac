"""Compiled blocks and the choice of attention kernel: another speed, not another result."""

from __future__ import annotations

from functools import partial

import pytest
import tiny
import torch
from conftest import ALONE
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import SDPBackend

from cookbook import engine, hardware
from cookbook.models import world
from cookbook.train.objective import batches, flow_loss


def loss_and_gradients(model, batch):
    loss = flow_loss(model, batch)
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(results, expected, relative):
    assert results.keys() == expected.keys() and len(results) > 30
    for name, value in expected.items():
        assert float((results[name] - value).abs().max()) <= relative * float(value.abs().max()), name


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["selective", "0.4"])
def test_checkpointing_inside_compiled_blocks_gives_the_same(choice, tiny_world, cached, monkeypatch):
    batch = batches(cached, tiny.profile(tiny_world).recipe, 0, ALONE)(0)
    expected = loss_and_gradients(world.load_transformer(tiny_world).train(), batch)
    compiler, compile_blocks = CompileCounterWithBackend("aot_eager_decomp_partition"), hardware.compile_blocks
    monkeypatch.setattr(hardware, "compile_blocks", partial(compile_blocks, backend=compiler))
    model = world.load_transformer(tiny_world).train()
    engine.checkpoint_activations(model, choice, compiled=True)
    assert_alike(loss_and_gradients(model, batch), expected, 1e-5)
    assert compiler.frame_count == 1


def test_blocks_compiled_once_give_the_plain_losses_and_gradients(tiny_world, cached):
    batch = batches(cached, tiny.profile(tiny_world).recipe, 0, ALONE)(0)
    expected = loss_and_gradients(world.load_transformer(tiny_world).train(), batch)
    model, compiler = world.load_transformer(tiny_world).train(), CompileCounterWithBackend("aot_eager")
    names = list(model.state_dict())
    hardware.compile_blocks(model, backend=compiler)
    assert_alike(loss_and_gradients(model, batch), expected, 1e-5)
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


@pytest.fixture(autouse=True)
def no_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
