"""What `--fast` leaves out. Each shortcut changes the clip, so none is taken by default.

`guidance`  The negative prompt is evaluated at every second step only. In between, the difference between the two
            velocities is extrapolated linearly from its last two values.
`cache`     The network is not evaluated where the velocity is expected to have changed by less than CHANGE of its norm
            since the last evaluation, if it keeps changing with the noise level at its last rate. It is then
            extrapolated linearly from the last two evaluations. At most SKIPS steps in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from cookbook.flow import Velocity

NAMES = ("guidance", "cache")
CHANGE, SKIPS = 0.05, 2


def choose(names: Iterable[str] | None) -> frozenset[str]:
    """The shortcuts of `--fast`: None for none, the flag without names for both."""
    return frozenset() if names is None else frozenset(names) or frozenset(NAMES)


class Extrapolator:
    """A quantity that changes with the noise level, extrapolated linearly from its last two values."""

    def __init__(self) -> None:
        self.points: list[tuple[torch.Tensor, torch.Tensor]] = []  # the last two (sigma, value)

    def add(self, sigma: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Note a value, and return it."""
        self.points = [*self.points[-1:], (sigma, value)]
        return value

    def at(self, sigma: torch.Tensor) -> torch.Tensor:
        """The value on the straight line through the last two, or the only one."""
        (before, older), (last, newer) = self.points[0], self.points[-1]
        return newer if len(self.points) == 1 else newer + (newer - older) * (sigma - last) / (last - before)

    def change(self, sigma: torch.Tensor) -> float:
        """The distance from the last value to that at `sigma`, relative to the norm of the last; needs two values."""
        (before, older), (last, newer) = self.points
        return float((newer - older).norm() / newer.norm() * (last - sigma) / (before - last))


def velocity_field(
    network: Callable[..., list[torch.Tensor]], guidance: float, fast: frozenset[str] = frozenset()
) -> Velocity:
    """v_text + guidance * (v_text - v_negative) of one clip, to be called once per step, from noise to clip.

    Args:
        network: (latents, sigma, texts) -> velocities under the first `texts` texts: the prompt, the negative prompt.
        guidance: 0 leaves out the negative prompt.
        fast: of NAMES; empty for the exact field.
    """
    differences, skip = Extrapolator(), False  # v_text - v_negative; whether this step skips the negative prompt

    def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal skip
        if not guidance:
            return network(latents, sigma, 1)[0]
        if skip:
            with_text, difference = network(latents, sigma, 1)[0], differences.at(sigma)
        else:
            with_text, without = network(latents, sigma, 2)
            difference = differences.add(sigma, with_text - without)
        skip = "guidance" in fast and not skip
        return with_text + guidance * difference

    return cached(velocity) if "cache" in fast else velocity


def cached(velocity: Velocity) -> Velocity:
    """`velocity`, extrapolated in steps where it is expected to change little."""
    velocities, skipped = Extrapolator(), 0

    def extrapolated(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal skipped
        if skipped < SKIPS and len(velocities.points) == 2 and velocities.change(sigma) < CHANGE:
            skipped += 1
            return velocities.at(sigma)
        skipped = 0
        return velocities.add(sigma, velocity(latents, sigma))

    return extrapolated
