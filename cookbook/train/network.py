"""The network to train: base weights checked, sharded over the processes, with what the recipe adds to it."""

from pathlib import Path

import torch
from torch import nn

from cookbook import engine, hardware
from cookbook.engine import Group
from cookbook.errors import UserError
from cookbook.models import sizes, world
from cookbook.profiles import Profile, Recipe

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


def load(profile: Profile, models: Path, seed: int, group: Group, base: Path | None = None) -> nn.Module:
    """The base network, every weight checked, ready to train on this group; only rank 0 reads weights.

    Weights that are trained are float32 (`master_weights`, LoRA's adapters) or, as upstream, in the dtype of the
    computation; frozen ones are in the dtype of the computation.

    Args:
        base: a native `.pt` file to take the weights from instead of `models`.
    """
    recipe = profile.recipe
    master = recipe.master_weights and not recipe.lora_rank
    dtype = torch.float32 if master else hardware.compute_dtype(group.device)
    model = group.on_rank_0(lambda: world.load_transformer(models, dtype, base))
    if group.size == 1:
        return ready(model, recipe, seed, group)
    if model:
        adapt(model, recipe, seed)
    sharded = ready(sizes.on_meta(sizes.read_config(models)).to(dtype), recipe, seed, group)
    engine.fill(sharded, model.state_dict() if model else {}, group)
    return sharded


def ready(model: nn.Module, recipe: Recipe, seed: int, group: Group) -> nn.Module:
    """A network with what the recipe adds: adapters, activation checkpointing, shards. On GPUs blocks are compiled."""
    adapt(model, recipe, seed)
    engine.checkpoint_activations(model, recipe.activation_checkpointing, hardware.compiles(group.device))
    return engine.shard(model.train(), group, hardware.compute_dtype(group.device), recipe.shard)


def adapt(network: nn.Module, recipe: Recipe, seed: int = 0) -> None:
    """For LoRA: freeze the network and put trainable low-rank adapters on its attention and MLP projections (peft),
    the same for the same seed."""
    if not recipe.lora_rank:
        return
    from peft import LoraConfig

    torch.manual_seed(seed)
    network.requires_grad_(False)
    network.add_adapter(LoraConfig(r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=list(LORA_TARGETS)))
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def require_trained(before: float, baseline: float, limit: float | None, origin: Path) -> None:
    """Refuse base weights that hardly predict better than zero velocity, as weights that were never loaded do.

    The zero-velocity baseline is about 1.6 for any profile. The 2B model's loss is reported as about 0.03, or 3 where
    its weights were silently not loaded (predict2.5 issue 160); the shipped nano model's is 0.18.
    """
    if limit is not None and not before <= limit * baseline:  # so that nan is refused too
        raise UserError(
            f"the held-out loss before training is {before:.3f}, {before / baseline:.2f} times the zero-velocity "
            f"baseline ({baseline:.3f}); pretrained weights stay below {limit:g} times. {origin} is not a pretrained "
            "model of this kind, or the clips are not encoded as it expects. A recipe with first_loss=None trains any "
            "weights"
        )
