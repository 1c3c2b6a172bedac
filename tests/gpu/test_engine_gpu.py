"""The training engine at the 2B model's full width, few layers. Where there is no GPU these are listed as not run."""

import gc
from dataclasses import replace

import pytest
import torch
from conftest import ALONE
from diffusers import CosmosTransformer3DModel
from torch.utils._python_dispatch import TorchDispatchMode

from cookbook import engine, profiles
from cookbook.engine import checkpoint
from cookbook.engine.loop import Run
from cookbook.engine.memory import ATTENTION, CHOICES
from cookbook.models import fast, sizes
from cookbook.train.network import ready
from cookbook.train.objective import Batch, flow_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: needs an NVIDIA GPU"),
]
DEVICE = torch.device("cuda")
LAYERS = 2


@pytest.fixture(autouse=True)
def freed():
    yield
    gc.collect()
    torch.cuda.empty_cache()


def network() -> CosmosTransformer3DModel:
    """Two layers of Cosmos Predict 2.5 2B, random weights."""
    settings = sizes.CONFIGS["nvidia/Cosmos-Predict2.5-2B"] | {"num_layers": LAYERS}
    torch.manual_seed(0)
    with DEVICE:
        return CosmosTransformer3DModel.from_config(settings)


def batch() -> Batch:
    """One clip of 5 latent frames of 16 x 16."""
    random = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(1, 16, 5, 16, 16, generator=random) for _ in range(2))
    text = torch.randn(1, 16, 100_352, generator=random)
    return Batch.stack([Batch(clean, noise, torch.tensor([0.7]), torch.tensor([1]), text)], DEVICE)


class Count(TorchDispatchMode):
    """How often attention runs."""

    attention = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.attention += func in ATTENTION
        return func(*args, **(kwargs or {}))


def test_recomputation_changes_no_loss_and_selective_keeps_attention():
    model, clips, seen = network().train(), batch(), {}
    for choice in CHOICES:
        engine.recompute(model, choice)
        with Count() as count:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = flow_loss(model, clips)
            loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        seen[choice] = float(loss.detach()), float(norm), count.attention
    assert {choice: runs for choice, (_, _, runs) in seen.items()} == {
        "none": 2 * LAYERS,  # nought here: the backend in use is missing in ATTENTION, and `selective` keeps nothing
        "blocks": 4 * LAYERS,
        "selective": 2 * LAYERS,
        "products": 2 * LAYERS,
    }
    for loss, norm, _ in seen.values():
        assert loss == seen["none"][0] and norm == pytest.approx(seen["none"][1], rel=1e-3)


@pytest.mark.parametrize("choice", ["selective", "products", "0.25"])
def test_compiled_blocks_are_as_near_to_float32_as_plain_ones(choice):
    """Loss and gradients in bf16: how far from the plain network in float32, beside the plain network in bf16."""
    clips, found = batch(), {}
    for name in ("float32", "plain", "compiled"):
        torch._dynamo.reset()
        model, mixed = network().train(), name != "float32"
        if name == "compiled":
            engine.recompute(model, choice, compiled=True)
        with fast.kernels(DEVICE), torch.autocast(DEVICE.type, torch.bfloat16, enabled=mixed):
            loss = flow_loss(model, clips)
        loss.backward()
        found[name] = loss.detach().double(), [p.grad for p in model.parameters() if p.grad is not None]

    def distance(name: str) -> tuple[float, float]:
        (loss, gradients), (true_loss, true) = found[name], found["float32"]
        apart = sum(float((g - t).double().square().sum()) for g, t in zip(gradients, true, strict=True))
        return float(abs(loss / true_loss - 1)), (apart / sum(float(t.double().square().sum()) for t in true)) ** 0.5

    (plain_loss, plain), (loss, gradients) = distance("plain"), distance("compiled")
    assert len(found["plain"][1]) > 40 and 0 < plain < 0.1
    assert gradients <= 1.2 * plain and loss <= plain_loss + 1e-4


def test_attention_is_cudnns():
    query = torch.randn(1, 16, 512, 128, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    seen = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with fast.kernels(DEVICE), Names():
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert any("cudnn_attention" in name for name in seen), seen


@pytest.mark.parametrize("name", ["recommended", "lora"])
def test_a_run_resumed_from_a_checkpoint_made_beside_training_repeats_its_losses(name, tmp_path):
    recipe = replace(profiles.get("2b", name).recipe, warmup=1, save_every=2, steps=4, lora_rank=None)
    recipe = replace(recipe, lora_rank=4) if name == "lora" else recipe
    group, clips = replace(ALONE, device=DEVICE), batch()

    def start() -> Run:
        model = network() if name == "recommended" else network().to(torch.bfloat16)
        return Run(ready(model, recipe, 0, group), recipe, 0, group, torch.bfloat16, str)

    run, saver = start(), checkpoint.Saver(tmp_path, recipe, group)
    losses = []
    for step in range(1, 5):
        losses.append(run.advance(flow_loss, lambda number: clips)["loss"])
        if step == 2:
            saver.save(step, run.state())
    saver.close()
    del run
    again = start()
    again.resume(tmp_path)
    assert [again.advance(flow_loss, lambda number: clips)["loss"] for _ in range(2)] == pytest.approx(
        losses[2:], rel=1e-4
    )
