"""What `--fast` leaves out. Each shortcut changes the clip, and none is taken unless asked for.

`guidance`  The negative prompt is asked at every second evaluation only. In between, its difference from the prompt is
            taken from the straight line through its last two.
`cache`     The network is not asked where the velocity will have changed by less than CHANGE of its size since it was
            last asked, if it goes on changing with the noise level as it last did; it is then taken from the straight
            line through the last two answers. At most SKIPS steps in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from cookbook.flow import Velocity

NAMES = ("guidance", "cache")
CHANGE, SKIPS = 0.05, 2


def choose(wanted: Iterable[str] | None) -> frozenset[str]:
    """The shortcuts of `--fast`: None for none, nothing behind the flag for both."""
    return frozenset() if wanted is None else frozenset(wanted) or frozenset(NAMES)


class Line:
    """A quantity that changes with the noise level, from where it was last known."""

    def __init__(self) -> None:
        self.known: list[tuple[torch.Tensor, torch.Tensor]] = []  # (sigma, value) of the last two times

    def learn(self, sigma: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Note a value; it is given back."""
        self.known = [*self.known[-1:], (sigma, value)]
        return value

    def at(self, sigma: torch.Tensor) -> torch.Tensor:
        """The value on the straight line through the last two, or the only one."""
        last, newer = self.known[-1]
        before, older = self.known[0]
        return newer if len(self.known) == 1 else newer + (newer - older) * (sigma - last) / (last - before)

    def change(self, sigma: torch.Tensor) -> float:
        """How far from its last value, in sizes of that, it will be at `sigma`; it must be known twice."""
        last, newer = self.known[-1]
        before, older = self.known[0]
        return float((newer - older).norm() / newer.norm() * (last - sigma) / (before - last))


def shortened(
    network: Callable[..., list[torch.Tensor]], guidance: float, fast: frozenset[str] = frozenset()
) -> Velocity:
    """The velocity field of one clip, to be called once per step, from noise to clip.

    Args:
        network: (latents, sigma, texts) -> velocities under the first so many texts: the prompt, the negative prompt.
        guidance: 0 leaves out the negative prompt.
    """
    apart, alone = Line(), False  # v_text - v_negative, and whether the prompt is asked alone this time

    def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal alone
        if not guidance:
            return network(latents, sigma, 1)[0]
        if alone:
            with_text, difference = network(latents, sigma, 1)[0], apart.at(sigma)
        else:
            with_text, without = network(latents, sigma, 2)
            difference = apart.learn(sigma, with_text - without)
        alone = "guidance" in fast and not alone
        return with_text + guidance * difference

    return cached(velocity) if "cache" in fast else velocity


def cached(velocity: Velocity) -> Velocity:
    """`velocity`, not asked in steps where it will hardly have changed."""
    line, skipped = Line(), 0

    def extrapolated(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal skipped
        if skipped < SKIPS and len(line.known) == 2 and line.change(sigma) < CHANGE:
            skipped += 1
            return line.at(sigma)
        skipped = 0
        return line.learn(sigma, velocity(latents, sigma))

    return extrapolated
