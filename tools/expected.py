"""The figures of the published run, and the range to expect in another run.

`tools.publish` writes them from a finished run into assets/figures.json, and from there into the notebooks, before the
results.
"""

from __future__ import annotations

from pathlib import Path

from cookbook import results, runs, storage
from cookbook.judge.rows import QUESTIONS

FIGURES = runs.ASSETS / "figures.json"
TOLERANCE = 0.1  # relative, of a loss: digits repeat on one kind of machine, others round differently
RANGES = {  # part of the notebooks -> how its ranges are chosen
    "held-out loss": "Expect 10 % to each side: digits repeat on one kind of machine, others round differently.",
    "critic": "Expect its 95 % CI over scenes. Below the lower end, suspect the critic's files.",
    "actions": "Expect the 95 % CI over photos: other machines round differently, so that their videos differ.",
    "verdicts": "Expect the 95 % CI over prompts: other machines round differently, so that their videos differ.",
}

Row = tuple[str, float, float, float]  # name of a figure, its value, and the ends of its range


def figures(run: Path) -> dict[str, list[Row]]:
    """The figures of a finished run, by part (the keys of `RANGES`), without those that have no range.

    Raises:
        UserError: a stage is not finished.
    """
    train, judged = runs.manifest_of(run, "train"), runs.manifest_of(run, "judge")
    critic, gain, moved = results.calibration(run), results.gain(run), results.executed(run)
    losses = {"zero velocity": "zero_velocity", "before": "before", "after": "after"}
    shares = {"instruction followed, by the critic": "follow_rate", "success rate, by the ground truth": "success_rate"}
    heldout = {f"held-out loss, {name}": train[f"heldout_{key}"] for name, key in losses.items()}
    parts = {
        "held-out loss": [(n, loss, [(1 - TOLERANCE) * loss, (1 + TOLERANCE) * loss]) for n, loss in heldout.items()],
        "critic": [(f"{name}: AUC", critic[name]["auc"], critic[name]["auc_interval"]) for name in QUESTIONS],
        "actions": [
            (f"executed with success, {name}", moved[f"executed_rate_{name}"], moved[f"executed_rate_{name}_interval"])
            for name in ("tuned", "kept")
        ],
        "verdicts": [
            *((f"tuned: {n}", judged[f"{key}_tuned"], judged[f"{key}_tuned_interval"]) for n, key in shares.items()),
            ("gain: followed, tuned minus base, by the critic", gain["gain"], gain["interval"]),
        ],
    }
    return {
        part: [(name, value, *(round(edge, 4) for edge in edges)) for name, value, edges in rows if edges]
        for part, rows in parts.items()
    }


def block(part: str, profile: str) -> str:
    """The figures of one part as a Markdown table, with the machine, the command, and how the range is chosen."""
    run = storage.read_json(FIGURES)[profile]
    lines = ["", "| figure | published run | expect |", "|---|---|---|"]
    lines += [f"| {name} | {value:.3g} | {low:.3g} to {high:.3g} |" for name, value, low, high in run["figures"][part]]
    machine = f"`cookbook run` at `{profile}`, {run['device']}, {run['processor']}, {run['date']}."
    return "\n".join([*lines, "", machine, RANGES[part], ""])
