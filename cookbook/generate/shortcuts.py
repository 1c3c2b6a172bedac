"""What `--fast` leaves out. Each shortcut changes the clip, so none is taken by default.

`guidance`  The negative prompt is evaluated at every second step only. In between, the difference between the two
            velocities is extrapolated linearly from its last two values.
`cache`     The network is not evaluated where the velocity is expected to have changed by less than CHANGE of its norm
            since the last evaluation, if it keeps changing with the noise level at its last rate. It is then
            extrapolated linearly from the last two evaluations. At most SKIPS steps in a row.
"""

from collections import deque
from collections.abc import Callable

import torch

from cookbook.flow import Velocity

NAMES = ("guidance", "cache")
CHANGE, SKIPS = 0.05, 2

Points = deque[tuple[torch.Tensor, torch.Tensor]]  # the last two (sigma, value)


def line(points: Points, sigma: torch.Tensor) -> torch.Tensor:
    """The value at `sigma` on the straight line through the last two points, or the only value."""
    (before, older), (last, newer) = points[0], points[-1]
    return newer if len(points) == 1 else newer + (newer - older) * (sigma - last) / (last - before)


def change(points: Points, sigma: torch.Tensor) -> float:
    """The distance on that line from the last value to `sigma`, relative to the norm of the last; needs two points."""
    (before, older), (last, newer) = points
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
    differences: Points = deque(maxlen=2)  # v_text - v_negative
    skip = False  # whether this step skips the negative prompt

    def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal skip
        if not guidance:
            return network(latents, sigma, 1)[0]
        if skip:
            with_text, difference = network(latents, sigma, 1)[0], line(differences, sigma)
        else:
            with_text, without = network(latents, sigma, 2)
            difference = with_text - without
            differences.append((sigma, difference))
        skip = "guidance" in fast and not skip
        return with_text + guidance * difference

    return cached(velocity) if "cache" in fast else velocity


def cached(velocity: Velocity) -> Velocity:
    """`velocity`, extrapolated in steps where it is expected to change little."""
    points: Points = deque(maxlen=2)
    skipped = 0

    def extrapolated(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal skipped
        if skipped < SKIPS and len(points) == 2 and change(points, sigma) < CHANGE:
            skipped += 1
            return line(points, sigma)
        skipped = 0
        points.append((sigma, velocity(latents, sigma)))
        return points[-1][1]

    return extrapolated
