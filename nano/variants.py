"""A recipe that differs from the nano one, and its post-trained model, trained in memory by the project's engine.

Training is in float32 on a GPU too, as on two CPU cores: at this size kernel launches take the time, not arithmetic.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CosmosTransformer3DModel
from torch import Tensor

from cookbook import engine
from cookbook.engine import Group
from cookbook.errors import UserError
from cookbook.models import names, world
from cookbook.models.text import encode_prompts
from cookbook.prepare.stage import check_clips
from cookbook.profiles import Recipe
from cookbook.train import dataset
from cookbook.train.network import adapt
from cookbook.train.objective import batches, flow_loss
from nano.generator import NANO, BatchGenerator, Flags, captioned


@dataclass(frozen=True)
class Variant:
    """A recipe that differs from the nano one.

    changes: fields of the recipe; `steps` moves the end of the schedule along. frozen: parts of parameter names that
    are not trained. clips: how many of the training clips, None for all.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    clips: int | None = None
    frozen: tuple[str, ...] = ()
    seed: int = 0

    @property
    def name(self) -> str:
        words = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in self.differs]
        return " ".join(words) or "nano"

    @property
    def differs(self) -> list[tuple[str, Any]]:
        more = {"clips": self.clips, "frozen": "+".join(self.frozen) or None, "seed": self.seed or None}
        return [*self.changes.items(), *((name, value) for name, value in more.items() if value is not None)]

    def recipe(self) -> Recipe:
        """Only the last step is saved: the checkpoint is thrown away, and DCP would take longer than the steps."""
        changed = replace(NANO.recipe, **self.changes)
        cycle = self.changes.get("cycle", changed.steps)
        return replace(changed, cycle=cycle, save_every=max(1, changed.steps), keep=1)


def make(**changes: Any) -> Variant:
    own = {name: changes.pop(name) for name in ("clips", "frozen", "seed") if name in changes}
    return Variant(changes, **own)


@dataclass(frozen=True)
class Resident:
    """A clip for `train.objective`, in memory on the device: latents [windows, C, T, H, W], text [L, D]."""

    latents: Tensor
    embedding: Tensor

    def window(self, share: float) -> Tensor:
        return self.latents[int(share * len(self.latents))]

    def text(self) -> Tensor:
        return self.embedding


@torch.no_grad()
def training_clips(folder: Path, models: Path, generator: BatchGenerator) -> list[Resident]:
    """The clips that the train stage would train on (its own split), in memory on the device."""
    clips, problems = check_clips(folder, NANO)
    if problems:
        raise UserError(f"{folder}: {problems[0]['file']}: {problems[0]['reason']}")
    used, _ = dataset.split(clips)
    windows = [dataset.windows(clip.video, NANO.clip, NANO.recipe) for clip in used]
    latents = generator.encode([window for part in windows for window in part]).split([len(part) for part in windows])
    encoder, tokenizer = world.load_text_encoder(models)
    encoder.to(generator.device)
    texts = encode_prompts(encoder, tokenizer, [captioned(clip.prompt) for clip in used], NANO.text_tokens)
    return [Resident(*parts) for parts in zip(latents, texts, strict=True)]


def choose(clips: list[Resident], count: int | None) -> list[Resident]:
    """`count` of the clips, evenly spread, so that fewer are not just the first ones."""
    if count is None or count >= len(clips):
        return clips
    return [clips[index] for index in np.linspace(0, len(clips) - 1, count).round().astype(int)]


def post_train(
    variant: Variant, models: Path, clips: list[Resident], group: Group
) -> tuple[CosmosTransformer3DModel, float | None]:
    """The base model after this recipe, with the averaged weights and adapters merged; steps per second (median)."""
    recipe, seed, model = variant.recipe(), variant.seed, world.load_transformer(models)
    adapt(model, recipe, seed)
    for name, parameter in model.named_parameters():
        if any(part in name for part in variant.frozen):
            parameter.requires_grad_(False)
    model, speed = engine.shard(model.train(), group, torch.float32), None
    if recipe.steps:
        step = batches(choose(clips, variant.clips), recipe, seed, group)
        with tempfile.TemporaryDirectory() as folder:
            result = engine.fit(
                model, flow_loss, step, recipe, Path(folder), seed, group, torch.float32, names.to_native
            )
        speed = round(1 / max(1e-3, float(np.median([row["seconds"] for row in result.rows]))), 1)
    if recipe.lora_rank:
        model.fuse_lora()
        model.unload_lora()
    return model.eval(), speed


@dataclass(kw_only=True)
class TrainingFlags(Flags):
    """Flags of every program that post-trains before it generates."""

    models: Path
    """The base model: `vae/`, `text_encoder/`, `tokenizer/`, `transformer/`."""
    train: Path
    """Clips to post-train on, as `assets/simulator/train` or a run's `data/train`."""
