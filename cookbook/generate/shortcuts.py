"""What `--fast` leaves out. Each shortcut changes the clip and none is taken unless asked for; together they halve the
time that the exact clip takes, or better.

`guidance`  The negative prompt is asked at every second evaluation only; in between, its last difference from the
            prompt stays in use.
`cache`     A step in which the velocity will hardly change does not ask the network: where the last two evaluations
            differed by less than CHANGE of their size, the next step takes the straight line through them. Never two
            steps in a row.
`fp8`       The large linear layers compute in 8 bits (`models.fp8`); NVIDIA GPUs from Hopper on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from cookbook.errors import UserError
from cookbook.flow import Velocity
from cookbook.models import fp8

NAMES = ("guidance", "cache", "fp8")
CHANGE = 0.2


def choose(wanted: Iterable[str] | None, device: torch.device) -> frozenset[str]:
    """The shortcuts of `--fast`: None for none, nothing behind the flag for all that this device can.

    Raises:
        UserError: fp8 is asked for by name and the device has none.
    """
    if wanted is None:
        return frozenset()
    chosen = frozenset(wanted)
    if "fp8" in chosen and not fp8.available(device):
        raise UserError("--fast fp8 needs an NVIDIA GPU of compute capability 9.0 or more (H100); leave fp8 out")
    return chosen or frozenset(NAMES if fp8.available(device) else NAMES[:2])


def shortened(
    only: Velocity,
    difference: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    guidance: float,
    fast: frozenset[str],
) -> Velocity:
    """The velocity field of one clip, called once per step from noise to clip.

    Args:
        only: v_text.
        difference: v_text and v_text - v_negative.
        guidance: 0 leaves out the negative pass.
    """
    kept: list[torch.Tensor] = []  # the last difference, until it has been used once

    def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if not guidance:
            return only(latents, sigma)
        if kept:
            return only(latents, sigma) + guidance * kept.pop()
        with_text, apart = difference(latents, sigma)
        if "guidance" in fast:
            kept.append(apart)
        return with_text + guidance * apart

    return cached(velocity) if "cache" in fast else velocity


def cached(velocity: Velocity) -> Velocity:
    """`velocity`, not asked in a step where it will hardly change."""
    known: list[tuple[torch.Tensor, torch.Tensor]] = []  # (sigma, velocity) of the last two evaluations
    still = False

    def extrapolated(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal still
        if still:
            still = False
            (before, older), (last, newer) = known
            return newer + (newer - older) * (sigma - last) / (last - before)
        known.append((sigma, velocity(latents, sigma)))
        if len(known) > 1:
            older, newer = known[-2][1], known[-1][1]
            still = bool((newer - older).norm() < CHANGE * newer.norm())
            del known[:-2]
        return known[-1][1]

    return extrapolated
