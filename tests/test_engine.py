"""The training engine: what is computed again, how the work is split, what a checkpoint survives."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from conftest import ALONE
from torch.utils._python_dispatch import TorchDispatchMode

from cookbook import engine
from cookbook.engine.memory import ATTENTION, CHOICES
from cookbook.errors import UserError
from cookbook.models import world
from cookbook.train.objective import batches, flow_loss

# activations computed again


def test_recomputed_activations_change_no_bit_and_attention_runs_as_often_as_said(tiny_world, cached):
    batch = batches(cached, tiny.profile(Path()).recipe, 0, ALONE)(0)

    class Count(TorchDispatchMode):
        attention = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.attention += func in ATTENTION
            return func(*args, **(kwargs or {}))

    seen = {}
    for choice in CHOICES:
        model = world.load_transformer(tiny_world).train()
        engine.recompute(model, choice)
        with Count() as count:
            loss = flow_loss(model, batch)
            loss.backward()
        seen[choice] = [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)], count.attention
    plain = seen["none"][0]
    assert len(plain) > 30
    for tensors, _ in seen.values():
        assert all(torch.equal(one, other) for one, other in zip(plain, tensors, strict=True))
    layers = 2 * 2  # self and cross attention of two blocks
    assert {choice: runs for choice, (_, runs) in seen.items()} == {
        "none": layers,
        "blocks": 2 * layers,
        "selective": layers,
    }
    with pytest.raises(UserError, match="recompute is 'all'; it must be one of none, blocks, selective"):
        engine.recompute(model, "all")
