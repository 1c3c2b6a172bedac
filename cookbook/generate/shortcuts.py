"""What `--fast` leaves out. Each shortcut changes the clip and none is taken unless asked for; together they halve the
time that the exact clip takes, or better.

`guidance`  The negative prompt is asked at every second evaluation only; in between, its last difference from the
            prompt stays in use.
`cache`     The network is not asked where the velocity will have changed by less than CHANGE of its size since it was
            last asked, if it goes on changing with the noise level as it last did; it is then taken from the straight
            line through the last two answers. At most SKIPS steps in a row.
`fp8`       The large linear layers compute in 8 bits (`models.fp8`); NVIDIA GPUs from Hopper on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from cookbook.errors import UserError
from cookbook.flow import Velocity
from cookbook.models import fp8

NAMES = ("guidance", "cache", "fp8")
CHANGE, SKIPS = 0.05, 2


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
    """`velocity`, not asked in steps where it will hardly have changed."""
    known: list[tuple[torch.Tensor, torch.Tensor]] = []  # (sigma, velocity) of the last two answers
    rate, skipped = float("inf"), 0  # relative change per unit of sigma, between the two

    def extrapolated(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal rate, skipped
        if skipped < SKIPS and len(known) == 2 and rate * (known[1][0] - sigma) < CHANGE:
            skipped += 1
            (before, older), (last, newer) = known
            return newer + (newer - older) * (sigma - last) / (last - before)
        skipped = 0
        known.append((sigma, velocity(latents, sigma)))
        del known[:-2]
        if len(known) == 2:
            (before, older), (last, newer) = known
            rate = float((newer - older).norm() / newer.norm() / (before - last))
        return known[-1][1]

    return extrapolated
