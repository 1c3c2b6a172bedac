"""Checks of the exercises against the cookbook's own code. A check never raises and never shows the answer."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cookbook import flow, profiles, runs, video
from cookbook.actions.episodes import Episode
from cookbook.engine.optim import PowerEma
from cookbook.judge.rubrics import expected

Cases = Iterator[tuple[tuple, Any]]  # arguments, expected result
OPEN = "not solved yet"


def _exercise(hint: str) -> Callable[[Callable[..., Cases]], Callable[..., bool]]:
    """Decorator: cases, perhaps of the reader's own run, become a check, which prints one line about an answer.

    A wrong answer gets the hint, an unsolved exercise does not.
    """

    def decorate(cases: Callable[..., Cases]) -> Callable[..., bool]:
        @wraps(cases)
        def check(answer: Callable, *own: Any) -> bool:
            problem = next((text for case in cases(*own) if (text := _problem(answer, *case))), None)
            name = cases.__name__.removeprefix("check_").replace("_", ".")
            print(f"exercise {name}: {problem or 'right'}" + (f". Hint: {hint}" if problem not in (None, OPEN) else ""))
            return problem is None

        return check

    return decorate


def _problem(answer: Callable, arguments: tuple, expected: Any) -> str | None:
    """What is wrong with an answer in one case."""
    call = f"not yet. For ({', '.join(map(_short, arguments))}) it"
    try:
        result = answer(*arguments)
    except Exception as error:  # a learner's code may raise anything
        return f"{call} stops with {type(error).__name__}: {error}"
    if result is None or result is ...:
        return OPEN
    return None if _same(result, expected) else f"{call} gives {_short(result)}"


def _same(result: Any, expected: Any) -> bool:
    if isinstance(expected, (str, set, bool)):
        return type(result) is type(expected) and result == expected
    try:
        result, expected = np.asarray(result, dtype=float), np.asarray(expected, dtype=float)
    except (TypeError, ValueError):
        return False
    return result.shape == expected.shape and bool(np.allclose(result, expected, rtol=1e-4, atol=1e-6))


def _short(value: Any) -> str:
    if callable(value):
        return "a function"
    text = repr(value.tolist() if isinstance(value, (np.ndarray, torch.Tensor)) else value)
    return text if len(text) <= 60 else text[:57] + "..."


@_exercise("a float32 number has 4 bytes, and 1 GB is 1e9 bytes")
def check_00_1() -> Cases:
    """GB for five float32 numbers per weight."""
    for count in (9.9e6, 2.1e9, 14e9):
        yield (count,), 20 * count / 1e9


@_exercise("frozen weights need no gradient, no Adam and no average")
def check_00_2() -> Cases:
    """GB with frozen bf16 weights and trained adapters."""
    for count, some in ((2e9, 1e7), (14e9, 5e7), (1e9, 0)):
        yield (count, some), (2 * count + 20 * some) / 1e9


@_exercise("a stage that reads a stale folder is stale too; runs.READS is in the order of the stages")
def check_00_3() -> Cases:
    """Stages to rebuild."""
    for first in runs.FOLDERS:
        yield (first,), set(runs.downstream([first]))


@_exercise("count latent frames first; then patches of 16 x 16 pixels in each")
def check_01_1() -> Cases:
    """Tokens of a clip."""
    for t, h, w in ((25, 96, 160), (93, 432, 768), (1, 64, 64)):
        yield (t, h, w), profiles.Geometry(t, 8, h, w).tokens


@_exercise("T frames have T - 1 gaps between them; the last needed frame counts, too")
def check_01_2() -> Cases:
    """Frames of a file that one window spans."""
    for frames, fps, rate in ((25, 8, 30.0), (93, 16, 16.0), (93, 16, 25.0), (25, 8, 12.5)):
        yield (frames, fps, rate), video.needed_frames(rate, profiles.Geometry(frames, fps, 16, 16), True)


@_exercise("a set of words for each prompt; what is in the union of all sets but not in their intersection?")
def check_01_3(photos: list[Any]) -> Cases:
    """Words in which the instructions of one photo differ."""
    groups: dict[bytes, list[str]] = {}
    for photo in photos:
        groups.setdefault(photo.image.read_bytes(), []).append(photo.prompt)
    for prompts in [["Lift the pear, slowly.", "Lift the red lemon.", "Lift the pear."], *groups.values()]:
        words = [set(re.sub("[,.]", "", prompt.lower()).split()) for prompt in prompts]
        yield (prompts,), set.union(*words) - set.intersection(*words)


@_exercise("v points from the clip to the noise; how far along it are you at sigma?")
def check_02_1() -> Cases:
    """The clean clip, from a noised one and its velocity."""
    rng = np.random.default_rng(0)
    for sigma in (0.2, 0.9, 1.0):
        clean, noise = rng.normal(size=(2, 3)).round(2)
        yield ((1 - sigma) * clean + sigma * noise, noise - clean, sigma), clean


@_exercise("the median of t is 0.5; insert it into the formula and solve for s")
def check_02_2() -> Cases:
    """The shift with a given median noise level."""
    for shift in (1.0, 3.0, 5.0, 9.0):
        yield (float(flow.shifted(torch.tensor(0.5, dtype=torch.float64), shift)),), shift


@_exercise("steps count from 0, and in step 0 the share of the old average is 0")
def check_02_3() -> Cases:
    """The power EMA of a weight's values."""
    for values in ([3.0], [1.0, 2.0, 4.0], [0.0, 1.0, 1.0, 1.0, 5.0]):
        ema = PowerEma([("w", torch.zeros(1))], rate=0.1)
        for step, value in enumerate(values):
            ema.update([torch.tensor([value])], step)
        yield (values, ema.gamma), float(ema.weights["w"])


@_exercise("at g = 0 only the text counts; larger g goes farther away from the negative prompt")
def check_03_1() -> Cases:
    """Guided velocity in NVIDIA's convention."""
    text, negative = np.array([1.0, -2.0]), np.array([0.5, 0.0])
    for g in (0.0, 2.0, 7.0):
        yield (text, negative, g), text + g * (text - negative)


@_exercise("first an Euler step; then, from where it began, the same step with the mean of the velocities at both ends")
def check_03_2() -> Cases:
    """Heun's method along a velocity field."""
    noise, sigmas = np.array([0.3, 0.7]), [1.0, 0.8, 0.5, 0.0]
    for field in (lambda x, sigma: np.ones(2), lambda x, sigma: x * sigma, lambda x, sigma: sigma - x):
        x = noise
        for now, then in pairwise(sigmas):
            first = field(x, now)
            x = x + (then - now) * (first + field(x + (then - now) * first, then)) / 2
        yield (field, noise, sigmas), x


@_exercise("a name may be missing on either side; equal numbers of another dtype differ, too")
def check_03_3() -> Cases:
    """Names of tensors that differ between two files."""
    ones, twos = torch.ones(3), torch.full((3,), 2.0)
    yield ({"a": ones, "b": twos}, {"a": ones.clone(), "b": twos.clone()}), set()
    yield ({"a": ones, "b": twos}, {"a": ones, "b": twos + 1e-6}), {"b"}
    yield ({"a": ones, "b": twos}, {"a": ones}), {"b"}
    yield ({"a": ones}, {"a": ones, "c": ones}), {"c"}
    yield ({"a": ones, "b": twos}, {"a": twos, "b": ones}), {"a", "b"}
    yield ({"a": ones}, {"a": ones.double()}), {"a"}


@_exercise("each digit counts as often as it is probable; the digits begin at 1")
def check_04_1() -> Cases:
    """The expected score of five probabilities."""
    for row in ([0, 0, 0, 0, 1], [0.2, 0.2, 0.2, 0.2, 0.2], [0.5, 0, 0, 0, 0.5], [0.1, 0.2, 0.3, 0.3, 0.1]):
        yield (row,), expected(np.array(row))


@_exercise("first two shares: of the valid clips that pass, and of the invalid ones; a score at the threshold passes")
def check_04_2() -> Cases:
    """Precision at a threshold, if valid and invalid clips were equally many."""
    pairs = ([4, 5], [1, 2]), ([3.0, 4.5, 2.0], [2.5, 1.0]), ([4, 4, 1, 5], [3, 5]), ([2, 3, 4], [3, 3, 1, 5])
    for valid, invalid in pairs:
        passing = [float(np.mean(np.array(scores) >= 2.5)) for scores in (valid, invalid)]
        yield (valid, invalid, 2.5), passing[0] / sum(passing)


@_exercise("it is easier to count the draws in which none is kept; math.comb(a, b) is 0 for b > a")
def check_04_3() -> Cases:
    """The chance that at least one of some drawn seeds is kept."""
    for kept, seeds, draws in ((0, 4, 2), (1, 4, 1), (1, 4, 2), (2, 5, 2), (3, 5, 3), (4, 4, 1)):
        drawn = list(combinations(range(seeds), draws))
        yield (kept, seeds, draws), sum(min(draw) < kept for draw in drawn) / len(drawn)


@_exercise("np.diff takes the order as its second argument; each difference is divided by the time 1 / fps")
def check_05_1(rows: list[dict]) -> Cases:
    """Root mean square of the jerk of each decoded video: the figure of its row in actions.jsonl."""
    for row in rows:
        yield ({name: row[name] for name in ("targets", "fps")},), row["jerk"]


@_exercise("copy the targets with np.array; then targets[:, k] = targets[0, k] for each column k of the part")
def check_05_2(rows: list[dict], names: tuple[str, ...]) -> Cases:
    """Targets with a part of the robot held still."""
    for part in ("r_", "hl_", "torso"):
        moves = np.array([not name.startswith(part) for name in names])
        targets = np.array(rows[0]["targets"])
        yield (rows[0], names, part), np.where(moves, targets, targets[0])


@_exercise("positions count from 0; both facts must be true, and an episode may lack one")
def check_05_3(episodes: list[Episode]) -> Cases:
    """Positions of the episodes that were kept and executed with success, in the run and where each fact varies."""
    facts = [{"kept": True, "success": True}, {"kept": True}, {"kept": False, "success": True}, {"success": True}]
    for some in (episodes, [replace(episodes[0], facts=fact) for fact in facts]):
        yield (some,), [n for n, e in enumerate(some) if e.facts.get("kept") and e.facts.get("success")]


@_exercise("0 for the demonstrations themselves, 1 for the real trajectories; `rate` begins with the mean")
def check_06_1(measured: dict[str, dict]) -> Cases:
    """Which part of the distance from demonstrations to real trajectories a policy closes."""
    low, high = (measured[name]["rate"][0] for name in ("demonstrations", "+ real"))
    for name, row in measured.items():
        yield (measured, name), (row["rate"][0] - low) / (high - low)


@_exercise("collect each scene's outcomes first; any(part) and not all(part) is what is looked for")
def check_06_2(rows: list[dict]) -> Cases:
    """The share of scenes in which some instructions succeed and others do not, in the run and in made-up ones."""
    made = [{"scene": {"seed": [scene, 0]}, "success": bool(won)} for scene, won in ((1, 1), (2, 0), (1, 0), (2, 0))]
    for some in (rows, made, made + [{"scene": {"seed": [3, 0]}, "success": True}]):
        pairs = [(tuple(row["scene"]["seed"]), row["success"]) for row in some]
        outcomes = [[success for other, success in pairs if other == seed] for seed in dict(pairs)]
        yield (some,), float(np.mean([0 < sum(part) < len(part) for part in outcomes]))


@_exercise("the first is the standard deviation of first - second over the root of n; variances of two samples add up")
def check_06_3() -> Cases:
    """Standard errors of a difference, paired and not."""
    for first, second in (([1, 1, 0, 0], [1, 0, 0, 0]), ([1, 0, 1, 0, 1], [0, 1, 0, 1, 0]), ([1, 0, 0], [1, 0, 0])):
        one, two = np.array(first), np.array(second)
        edges = np.std(one - two, ddof=1), np.hypot(np.std(one, ddof=1), np.std(two, ddof=1))
        yield (first, second), np.array(edges) / np.sqrt(len(one))


@_exercise("digit 1 has index 0; subtract the largest logit from all of them first, or exp overflows")
def check_07_1() -> Cases:
    """Cross-entropy of the right digit."""
    flat, uneven, large = [0.0] * 5, [2.0, 0.5, -1.0, 0.0, 1.0], [900.0, 0, 0, 0, 890.0]
    for row, digit in ((flat, 3), (uneven, 1), (uneven, 5), (large, 5)):
        yield (row, digit), float(F.cross_entropy(torch.tensor([row]), torch.tensor([digit - 1])))


@_exercise("the best fixed probabilities are the shares of the digits; 0 log 0 counts as 0")
def check_07_2() -> Cases:
    """Entropy of the digits."""
    for row in ([7, 0, 0, 0, 7], [4, 4, 4, 4, 4], [30, 0, 0, 0, 10], [0, 0, 5, 0, 0]):
        yield (row,), float(torch.distributions.Categorical(torch.tensor(row).double()).entropy())


@_exercise("proven means that the whole interval lies on one side of 0; the new kind can get worse, too")
def check_07_3() -> Cases:
    """The decision that two intervals support."""
    intervals = (
        ((0.1, 0.4), (-0.05, 0.02), "use it"),
        ((0.1, 0.4), (-0.20, -0.01), "keep the old one"),
        ((-0.1, 0.4), (-0.05, 0.02), "measure more"),
        ((-0.3, -0.1), (0.05, 0.2), "keep the old one"),
    )
    for new, old, decision in intervals:
        rows = [{"kind": "known faults", "gain_interval": list(old)}, {"kind": "softened", "gain_interval": list(new)}]
        yield (rows, "softened"), decision
