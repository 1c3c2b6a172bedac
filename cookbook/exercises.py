"""Checks of the exercises against the cookbook's own code. A check never raises and never shows the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cookbook import flow, layout, profiles, runs, video
from cookbook.engine.optim import PowerEma
from cookbook.judge.rubrics import expected
from cookbook.judge.statistics import auc

Case = tuple[tuple, Any]  # arguments, expected result


def _check(name: str, answer: Callable, cases: Sequence[Case], hint: str) -> bool:
    """Try an answer on each case; print one line, with the hint if it is not right yet."""
    problem = next((text for case in cases if (text := _problem(answer, *case))), None)
    print(f"exercise {name}: " + (f"{problem}. Hint: {hint}" if problem else "right"))
    return problem is None


def _problem(answer: Callable, arguments: tuple, expected: Any) -> str | None:
    """What is wrong with an answer in one case."""
    call = f"not yet. For ({', '.join(map(_short, arguments))}) it"
    try:
        result = answer(*arguments)
    except Exception as error:  # a learner's code may raise anything
        return f"{call} stops with {type(error).__name__}: {error}"
    if result is None or result is ...:
        return "not solved yet"
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


def check_00_1(answer: Callable[[float], float]) -> bool:
    """GB for five float32 numbers per weight."""
    cases = [((count,), 20 * count / 1e9) for count in (9.9e6, 2.1e9, 14e9)]
    return _check("00.1", answer, cases, "a float32 number has 4 bytes, and 1 GB is 1e9 bytes")


def check_00_2(answer: Callable[[float, float], float]) -> bool:
    """GB with frozen bf16 weights and trained adapters."""
    cases = [((count, some), (2 * count + 20 * some) / 1e9) for count, some in ((2e9, 1e7), (14e9, 5e7), (1e9, 0))]
    return _check("00.2", answer, cases, "frozen weights need no gradient, no Adam and no average")


def check_00_3(answer: Callable[[str], set[str]]) -> bool:
    """Stages to rebuild."""
    cases = [((first,), set(runs.downstream([first]))) for first in runs.FOLDERS]
    hint = "a stage that reads a stale folder is stale too; runs.READS is in the order of the stages"
    return _check("00.3", answer, cases, hint)


def check_01_1(answer: Callable[[int, int, int], int]) -> bool:
    """Tokens of a clip."""
    shapes = ((25, 96, 160), (93, 432, 768), (1, 64, 64))
    cases = [((t, h, w), profiles.Geometry(t, 8, h, w).tokens) for t, h, w in shapes]
    return _check("01.1", answer, cases, "count latent frames first; then patches of 16 x 16 pixels in each")


def check_01_2(answer: Callable[[int, float, float], int]) -> bool:
    """Frames of a file that one window spans."""
    rates = ((25, 8, 30.0), (93, 16, 16.0), (93, 16, 25.0), (25, 8, 12.5))
    clips = [profiles.Geometry(t, fps, 16, 16) for t, fps, _ in rates]
    cases = [(rate, video.needed_frames(rate[2], clip, True)) for rate, clip in zip(rates, clips, strict=True)]
    return _check("01.2", answer, cases, "T frames have T - 1 gaps between them; the last needed frame counts, too")


def check_01_3(answer: Callable[[str, str], str]) -> bool:
    """A row of metadata.csv."""
    prompts = ("Pick up the pear.", "Pick up lemon, ripe, from the tray.", 'Pick up the "red" cup, please.')
    cases = []
    with TemporaryDirectory() as folder:
        for prompt in prompts:
            layout.write_metadata(Path(folder) / "metadata.csv", [("7.mp4", prompt)])
            cases.append((("7.mp4", prompt), (Path(folder) / "metadata.csv").read_text().splitlines()[1]))
    hint = 'a cell with a comma or a quote is put in double quotes; a quote in it is doubled, ""'
    return _check("01.3", answer, cases, hint)


def check_02_1(answer: Callable) -> bool:
    """The clean clip, from a noised one and its velocity."""
    rng, cases = np.random.default_rng(0), []
    for sigma in (0.2, 0.9, 1.0):
        clean, noise = rng.normal(size=(2, 3)).round(2)
        cases.append((((1 - sigma) * clean + sigma * noise, noise - clean, sigma), clean))
    return _check("02.1", answer, cases, "v points from the clip to the noise; how far along it are you at sigma?")


def check_02_2(answer: Callable[[float], float]) -> bool:
    """The shift with a given median noise level."""
    shifts = (1.0, 3.0, 5.0, 9.0)
    cases = [((float(flow.shifted(torch.tensor(0.5, dtype=torch.float64), s)),), s) for s in shifts]
    return _check("02.2", answer, cases, "the median of t is 0.5; insert it into the formula and solve for s")


def check_02_3(answer: Callable[[Sequence[float], float], float]) -> bool:
    """The power EMA of a weight's values."""
    cases = []
    for values in ([3.0], [1.0, 2.0, 4.0], [0.0, 1.0, 1.0, 1.0, 5.0]):
        ema = PowerEma([("w", torch.zeros(1))], rate=0.1)
        for step, value in enumerate(values):
            ema.update([torch.tensor([value])], step)
        cases.append(((values, ema.gamma), float(ema.weights["w"])))
    return _check("02.3", answer, cases, "steps count from 0, and in step 0 the share of the old average is 0")


def check_03_1(answer: Callable) -> bool:
    """Guided velocity in NVIDIA's convention."""
    text, negative = np.array([1.0, -2.0]), np.array([0.5, 0.0])
    cases = [((text, negative, g), text + g * (text - negative)) for g in (0.0, 2.0, 7.0)]
    hint = "at g = 0 only the text counts; larger g goes farther away from the negative prompt"
    return _check("03.1", answer, cases, hint)


def check_03_2(answer: Callable) -> bool:
    """Euler's method along a velocity field."""
    target, noise, sigmas = np.array([2.0, -1.0]), np.array([0.3, 0.7]), [1.0, 0.8, 0.5, 0.0]
    turning = noise
    for now, then in zip(sigmas, sigmas[1:], strict=False):
        turning = turning + (then - now) * (turning * now)
    cases = [
        ((lambda x, sigma: np.ones(2), noise, sigmas), noise - 1),
        ((lambda x, sigma: (x - target) / sigma, noise, sigmas), target),
        ((lambda x, sigma: x * sigma, noise, sigmas), turning),
    ]
    hint = "one step goes (next sigma - sigma) times the velocity at the present x and sigma"
    return _check("03.2", answer, cases, hint)


def check_03_3(answer: Callable[[dict, dict], set[str]]) -> bool:
    """Names of tensors that differ between two files."""
    ones, twos = torch.ones(3), torch.full((3,), 2.0)
    cases = [
        (({"a": ones, "b": twos}, {"a": ones.clone(), "b": twos.clone()}), set()),
        (({"a": ones, "b": twos}, {"a": ones, "b": twos + 1e-6}), {"b"}),
        (({"a": ones, "b": twos}, {"a": ones}), {"b"}),
        (({"a": ones}, {"a": ones, "c": ones}), {"c"}),
        (({"a": ones, "b": twos}, {"a": twos, "b": ones}), {"a", "b"}),
        (({"a": ones}, {"a": ones.double()}), {"a"}),
    ]
    hint = "a name may be missing on either side; equal numbers of another dtype differ, too"
    return _check("03.3", answer, cases, hint)


def check_04_1(answer: Callable[[Sequence[float]], float]) -> bool:
    """The expected score of five probabilities."""
    rows = ([0, 0, 0, 0, 1], [0.2, 0.2, 0.2, 0.2, 0.2], [0.5, 0, 0, 0, 0.5], [0.1, 0.2, 0.3, 0.3, 0.1])
    cases = [((row,), expected(np.array(row))) for row in rows]
    return _check("04.1", answer, cases, "each digit counts as often as it is probable; the digits begin at 1")


def check_04_2(answer: Callable[[Sequence[float], Sequence[float]], float]) -> bool:
    """AUC by counting pairs."""
    pairs = (
        ([4, 5], [1, 2]),
        ([1, 2], [4, 5]),
        ([3.0, 4.5, 2.0], [2.5, 1.0]),
        ([3, 3], [3]),
        ([2, 3, 4], [3, 3, 1, 5]),
    )
    cases = []
    for valid, invalid in pairs:
        labels = np.array([1] * len(valid) + [0] * len(invalid))
        cases.append(((valid, invalid), auc(labels, np.array([*valid, *invalid], float))))
    return _check("04.2", answer, cases, "compare each valid clip with each invalid one; a tie counts half")


def check_04_3(answer: Callable[[int, int, int], float]) -> bool:
    """The chance that at least one of some drawn seeds is kept."""
    cases = []
    for kept, seeds, draws in ((0, 4, 2), (1, 4, 1), (1, 4, 2), (2, 5, 2), (3, 5, 3), (4, 4, 1)):
        drawn = list(combinations(range(seeds), draws))
        cases.append(((kept, seeds, draws), sum(min(draw) < kept for draw in drawn) / len(drawn)))
    hint = "it is easier to count the draws in which none is kept; math.comb(a, b) is 0 for b > a"
    return _check("04.3", answer, cases, hint)


def check_07_1(answer: Callable[[Sequence[float], int], float]) -> bool:
    """Cross-entropy of the right digit."""
    rows = (
        ([0.0] * 5, 3),
        ([2.0, 0.5, -1.0, 0.0, 1.0], 1),
        ([2.0, 0.5, -1.0, 0.0, 1.0], 5),
        ([900.0, 0, 0, 0, 890.0], 5),
    )
    cases = [
        ((row, digit), float(F.cross_entropy(torch.tensor([row]), torch.tensor([digit - 1])))) for row, digit in rows
    ]
    hint = "digit 1 has index 0; subtract the largest logit from all of them first, or exp overflows"
    return _check("07.1", answer, cases, hint)


def check_07_2(answer: Callable[[Sequence[int]], float]) -> bool:
    """Entropy of the digits."""
    counts = ([7, 0, 0, 0, 7], [4, 4, 4, 4, 4], [30, 0, 0, 0, 10], [0, 0, 5, 0, 0])
    cases = [((row,), float(torch.distributions.Categorical(torch.tensor(row).double()).entropy())) for row in counts]
    hint = "the best fixed probabilities are the shares of the digits; 0 log 0 counts as 0"
    return _check("07.2", answer, cases, hint)


def check_07_3(answer: Callable[[Sequence[dict], str], str]) -> bool:
    """The decision that two intervals support."""
    intervals = (
        ((0.1, 0.4), (-0.05, 0.02), "use it"),
        ((0.1, 0.4), (-0.20, -0.01), "keep the old one"),
        ((-0.1, 0.4), (-0.05, 0.02), "measure more"),
        ((-0.3, -0.1), (0.05, 0.2), "keep the old one"),
    )
    cases = []
    for new, old, decision in intervals:
        rows = [{"kind": "known faults", "gain_interval": list(old)}, {"kind": "softened", "gain_interval": list(new)}]
        cases.append(((rows, "softened"), decision))
    hint = "proven means that the whole interval lies on one side of 0; the new kind can get worse, too"
    return _check("07.3", answer, cases, hint)
