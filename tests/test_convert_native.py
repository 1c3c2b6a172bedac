"""Stage `convert` on NVIDIA's own `.pt` files; names, shapes and memory at full size."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from conftest import python
from diffusers import CosmosTransformer3DModel

from cookbook.convert import weights
from cookbook.convert.stage import convert
from cookbook.errors import UserError
from cookbook.models import names, sizes, world


@pytest.fixture
def native(exported, tmp_path):
    """A file as NVIDIA releases them: bf16, `net.` alone, with entries of TransformerEngine's that are no tensors."""
    state = torch.load(exported[0] / "export/model_ema_bf16.pt", weights_only=True)
    torch.save(state | {"net.blocks.0.self_attn.attn_op._extra_state": io.BytesIO(b"")}, tmp_path / "native.pt")
    return tmp_path / "native.pt", state


@pytest.mark.slow
def test_a_native_file_becomes_a_diffusers_folder_and_a_damaged_one_is_refused(native, tiny_profile, tmp_path):
    tiny_profile()
    file, state = native
    manifest = convert("tiny", run=tmp_path / "run", checkpoint=file)
    assert {row["file"]: row["tensors"] for row in manifest["checks"]} == {"diffusers/transformer": 49}
    exported = world.load_transformer(tmp_path / "run/export/diffusers", torch.bfloat16).state_dict()
    assert all(torch.equal(exported[name], tensor) for name, tensor in names.as_diffusers(state).items())
    (tmp_path / "cut.pt").write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match="cut.pt is damaged"):
        convert("tiny", run=tmp_path / "cut", checkpoint=tmp_path / "cut.pt")


# full size


@pytest.fixture
def full_size(tmp_path):
    """A function: location -> (a native file with the names and shapes of that network and no numbers, its folder)."""

    def build(location: str) -> tuple[Path, Path]:
        network = sizes.on_meta(sizes.CONFIGS[location])
        folder = tmp_path / Path(location).name
        network.save_config(folder / "transformer")
        torch.save(names.as_native(network.state_dict()), folder / "model.pt")
        return folder / "model.pt", folder

    return build


@pytest.mark.parametrize(
    ("location", "width", "blocks", "billions"),
    [("nvidia/Cosmos-Predict2.5-2B", 2048, 28, 2.059), ("nvidia/Cosmos-Predict2.5-14B", 5120, 36, 14.3)],
)
def test_names_and_shapes_of_the_real_networks(full_size, location, width, blocks, billions):
    file, folder = full_size(location)
    tensors = weights.read(file, folder).net
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    assert all(tensor.is_meta for tensor in tensors.values()), "nothing may be allocated"
    # NVIDIA's MinimalV1LVGDiT (cosmos_v1_2B, cosmos_v1_14B): names and shapes from their network definition
    block = f"blocks.{blocks - 1}"
    assert f"blocks.{blocks}.self_attn.q_proj.weight" not in shapes
    assert shapes["x_embedder.proj.1.weight"] == [width, 72]
    assert shapes["crossattn_proj.0.weight"] == [1024, 100352] and shapes["crossattn_proj.0.bias"] == [1024]
    assert shapes["t_embedder.1.linear_2.weight"] == [3 * width, width]
    assert shapes["t_embedding_norm.weight"] == [width]
    assert shapes[f"{block}.self_attn.q_norm.weight"] == [128]
    assert shapes[f"{block}.cross_attn.k_proj.weight"] == [width, 1024]
    assert shapes[f"{block}.cross_attn.output_proj.weight"] == [width, width]
    assert shapes[f"{block}.mlp.layer1.weight"] == [4 * width, width]
    assert shapes[f"{block}.adaln_modulation_mlp.2.weight"] == [3 * width, 256]
    assert shapes["final_layer.adaln_modulation.2.weight"] == [2 * width, 256]
    assert shapes["final_layer.linear.weight"] == [64, width]
    assert sum(tensor.numel() for tensor in tensors.values()) / 1e9 == pytest.approx(billions, rel=0.01)


def test_the_file_of_one_real_network_is_refused_for_the_other(full_size):
    (small, _), (_, large) = (full_size(location) for location in sizes.CONFIGS)
    with pytest.raises(UserError, match="weights do not fit the network of .*14B"):
        weights.read(small, large)


MEASURE = """
import sys, torch, psutil
from pathlib import Path
from cookbook.convert import verify, weights
from cookbook.convert.stage import write
action, checkpoint, models, out = sys.argv[1], *map(Path, sys.argv[2:])
torch.set_num_threads(1)
weights.read(checkpoint, models)  # so that modules are loaded
before = psutil.Process().memory_info().rss
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
if action == "write":
    write(weights.read(checkpoint, models), out, models, 5.0)
else:
    assert not any(row.problem for row in verify.verify(out, checkpoint, models))
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024 - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="NOT RUN: peak memory is measured on Linux only")
@pytest.mark.slow
@pytest.mark.parametrize("source", ["checkpoint", "file"])
def test_peak_memory_is_bounded_by_the_size_of_the_files(tiny_world, tmp_path, source):
    models = Path(shutil.copytree(tiny_world, tmp_path / "models"))
    settings = CosmosTransformer3DModel.load_config(tiny_world / "transformer")
    network = CosmosTransformer3DModel.from_config(settings | {"num_attention_heads": 16, "num_layers": 10})
    network.save_pretrained(models / "transformer")
    state = names.as_native(network.state_dict())
    path = tmp_path / ("native.pt" if source == "file" else "iter_000000001")
    if source == "file":
        torch.save(state, path)
    else:
        both = state | names.as_native(network.state_dict(), prefix="net_ema.")
        dcp.save(both, checkpoint_id=path / "model", no_dist=True)
    used = {}
    for action in ("write", "check"):
        done = python("-c", MEASURE, action, path, models, tmp_path / "out")
        assert not done.returncode, done.stderr[-2000:]
        used[action] = int(done.stdout.split()[-1])
    largest = max(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
    if source == "file":  # the check maps it whole, beside its export, and mapped pages count
        largest += path.stat().st_size
    print(f"{source}: {largest / 1e6:.0f} MB, peak { ({k: round(v / 1e6) for k, v in used.items()}) } MB")
    assert largest > 2e8, "too small to measure"
    assert max(used.values()) <= 1.5 * largest  # 2: two files at once; what the allocator keeps varies by a third
