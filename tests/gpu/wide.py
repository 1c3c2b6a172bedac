"""Training two layers of Cosmos Predict 2.5 2B at full width, random weights. As a program, one of several ranks:

torchrun --nproc_per_node=2 tests/gpu/wide.py FOLDER       continues FOLDER/one too, which one process wrote
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import CosmosTransformer3DModel

from cookbook import engine, hardware, profiles
from cookbook.engine import checkpoint
from cookbook.engine.loop import Training
from cookbook.models import sizes
from cookbook.profiles import Recipe
from cookbook.train.network import ready
from cookbook.train.objective import Batch, flow_loss

SETTINGS = sizes.CONFIGS["nvidia/Cosmos-Predict2.5-2B"] | {"num_layers": 2}
CLIPS, STEPS, SAVED = 2, 4, 2  # clips of a step, steps of a run, steps before its checkpoint
ROWS = "rows.json"


def recipe(name: str = "recommended") -> Recipe:
    """The recipe of 2B, with a rate at which four steps change the loss."""
    return replace(
        profiles.get("2b", name).recipe, learning_rate=3e-4, warmup=1, peak_factor=1.0, save_every=SAVED, steps=STEPS
    )


def network(device: torch.device) -> CosmosTransformer3DModel:
    torch.manual_seed(0)
    with device:
        return CosmosTransformer3DModel.from_config(SETTINGS)


def clip(number: int, device: torch.device) -> Batch:
    """Clip 0, 1, ... of 5 latent frames of 16 x 16. Neighbours differ in noise level, so in their gradients' size."""
    random = torch.Generator().manual_seed(number)
    clean, noise = (torch.randn(1, 16, 5, 16, 16, generator=random) for _ in range(2))
    text = torch.randn(1, 16, SETTINGS["crossattn_proj_in_channels"], generator=random)
    return Batch.stack([Batch(clean, noise, torch.tensor([(0.3, 0.95)[number % 2]]), torch.tensor([1]), text)], device)


def train(
    recipe: Recipe, group: engine.Group, folder: Path, after: Callable[[Training], None] = lambda training: None
) -> list[dict]:
    """Rows of the steps that are left: all, with a checkpoint on the way, or those after the one in `folder`."""
    shared = replace(recipe, accumulate=CLIPS // group.size)
    dtype = hardware.compute_dtype(group.device)
    model = network(group.device).to(dtype if recipe.lora_rank else torch.float32)
    training = Training(ready(model, shared, 0, group), shared, 0, group, dtype)
    saver = checkpoint.Saver(folder, shared, group)
    training.resume(folder)
    first, rows = training.step, []
    while training.step < STEPS:
        rows.append(training.train_step(flow_loss, lambda number: clip(number * group.size + group.rank, group.device)))
        after(training)
        if not first and training.step == SAVED:
            saver.save(training.step, training.state())
    saver.close()
    return rows


def main(folder: Path) -> None:
    """Weights in shards, as replicas, and in shards from the checkpoint of one process."""
    with engine.processes() as group:
        cases = {"shards": group.size, "replicas": 1, "one": group.size}
        rows = {name: train(replace(recipe(), shard=shard), group, folder / name) for name, shard in cases.items()}
        if group.main:
            (folder / ROWS).write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
