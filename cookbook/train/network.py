"""The network to train: base weights checked, split over the processes, with what the recipe adds to it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import CosmosTransformer3DModel

from cookbook import engine, hardware
from cookbook.engine import Group
from cookbook.errors import UserError
from cookbook.models import sizes, world
from cookbook.profiles import Profile, Recipe
from cookbook.train import planning


def load(profile: Profile, models: Path, seed: int, group: Group, base: Path | None = None) -> CosmosTransformer3DModel:
    """The base network, every weight checked, ready to train on this group; only the main process reads weights.

    Weights that are trained are float32 (`master_weights`, LoRA's adapters) or, as upstream, in the dtype of the
    computation; frozen ones are in the dtype of the computation.

    Args:
        base: a native `.pt` file to take the weights from instead of `models`.
    """
    recipe = profile.recipe
    whole = recipe.master_weights and not recipe.lora_rank
    dtype = torch.float32 if whole else hardware.compute_dtype(group.device)
    model = group.from_main(lambda: world.load_transformer(models, dtype, base))
    if group.size == 1:
        return ready(model, recipe, seed, group)
    if model:
        adapt(model, recipe, seed)
    hollow = sizes.on_meta(CosmosTransformer3DModel.load_config(models / "transformer")).to(dtype)
    split = ready(hollow, recipe, seed, group)
    engine.fill(split, model.state_dict() if model else {}, group)
    return split


def ready(model: CosmosTransformer3DModel, recipe: Recipe, seed: int, group: Group) -> CosmosTransformer3DModel:
    """A network with what the recipe adds: adapters, recomputation, its share of the processes. On GPUs the blocks are
    compiled."""
    adapt(model, recipe, seed)
    engine.checkpoint_activations(model, recipe.activation_checkpointing, hardware.compiles(group.device))
    return engine.shard(model.train(), group, hardware.compute_dtype(group.device), recipe.shard)


def adapt(model: CosmosTransformer3DModel, recipe: Recipe, seed: int) -> None:
    """Add LoRA's adapters where the recipe has them, the same for the same seed."""
    if recipe.lora_rank:
        torch.manual_seed(seed)
        planning.add_lora(model, recipe)


def require_trained(before: float, still: float, limit: float | None, origin: Path) -> None:
    """Refuse base weights that predict hardly better than nothing, as those that were never loaded do.

    The measure is the loss of predicting no velocity on the same clips, which is about 1.6 for any profile. The 2B
    model is reported at about 0.03, or 3 where its weights were silently not loaded (predict2.5 issue 160); the shipped
    nano model has 0.37.
    """
    if limit is not None and not before <= limit * still:  # so that nan is refused too
        raise UserError(
            f"the loss before training is {before:.3f}, {before / still:.2f} times the {still:.3f} of no model at all; "
            f"trained weights stay below {limit:g} times. {origin} is not a trained base model of this kind, or the "
            "clips are not encoded as it expects; a recipe with first_loss=None trains any weights"
        )
