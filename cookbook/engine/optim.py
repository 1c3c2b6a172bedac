"""AdamW, the learning-rate schedule and the power EMA of a recipe."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cookbook.profiles import Recipe


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, of those that are trained. With LoRA these are the adapters, otherwise all."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a (possibly sharded) tensor; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def adamw(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.AdamW:
    """One group with weight decay on everything, as upstream; the fused kernel on a GPU. State starts at zero."""
    optimizer = torch.optim.AdamW(
        trainable(model).values(),
        lr=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=device.type == "cuda",
    )
    for parameter in optimizer.param_groups[0]["params"]:  # created now, because a checkpoint is loaded into it
        count = torch.zeros((), device=device if device.type == "cuda" else "cpu")
        moments = {name: torch.zeros_like(parameter.detach()) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": count, **moments}
    return optimizer


def rate_factor(step: int, recipe: Recipe) -> float:
    """The factor of the learning rate in step 0, 1, ...

    A ramp from `start_factor` to `peak_factor` over `warmup` steps, then the line that would run from `peak_factor` at
    step 0 to `end_factor` at step `cycle`, then `end_factor`. Source: upstream's `LambdaLinearScheduler`.
    """
    if step < recipe.warmup:
        return recipe.start_factor + (recipe.peak_factor - recipe.start_factor) * step / recipe.warmup
    left = max(0, recipe.cycle - step) / recipe.cycle
    return recipe.end_factor + (recipe.peak_factor - recipe.end_factor) * left


def ema_exponent(rate: float) -> float:
    """gamma of the power EMA with a window of the relative width `rate` (Karras et al. 2023, arXiv 2312.02696)."""
    return float(np.roots([1, 7, 16 - rate**-2, 12 - rate**-2]).real.max())


class PowerEma:
    """A float32 running average of the weights; its window grows with the length of training."""

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], rate: float):
        self.gamma = ema_exponent(rate)
        self.weights = {name: parameter.detach().float().clone() for name, parameter in parameters}

    def beta(self, step: int) -> float:
        """Share of the old average kept after step 0, 1, ...; step 0 copies the weights."""
        return (1 - 1 / (step + 1)) ** (self.gamma + 1)

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor], step: int) -> None:
        averages = [local(average) for average in self.weights.values()]
        current = [local(parameter.detach()).float() for parameter in parameters]
        torch._foreach_lerp_(averages, current, 1 - self.beta(step))
