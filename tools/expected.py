"""What the figures of a notebook were in the published run, and how far those of another run may be from them.

`tools.publish` takes them from a finished run into assets/figures.json, and from there to where the notebooks speak
of them, before the result.
"""

from __future__ import annotations

from pathlib import Path

from cookbook import results, runs

FIGURES = runs.ASSETS / "figures.json"
NEAR = 0.1  # share by which a loss may differ: on one kind of machine all digits repeat, another rounds otherwise
WHY = {
    "held-out loss": "Expect 10 % to each side: on one kind of machine all digits repeat, another rounds otherwise.",
    "critic": "Expect its 95 % interval over scenes. Below the lower end, suspect the critic's files.",
    "verdicts": "Expect the 95 % interval over prompts: another machine rounds otherwise, so that its clips differ.",
}

Row = tuple[str, float, float, float]  # figure in words, its value, and from where to where it may lie


def figures(run: Path) -> dict[str, list[Row]]:
    """The figures of a finished run, by the part of the notebooks they belong to (the keys of `WHY`); those without an
    interval, as of a single prompt, are left out.

    Raises:
        UserError: a stage has not been run.
    """
    train, judged = results.manifest(run, "train"), results.manifest(run, "judge")
    critic, gain = results.calibration(run), results.gain(run)
    losses = {"no model": "zero_velocity", "before": "before", "after": "after"}
    shares = {"instruction followed, says the critic": "follow_rate", "object placed, by the truth": "success_rate"}
    near = {f"held-out loss, {name}": train[f"heldout_{key}"] for name, key in losses.items()}
    parts = {
        "held-out loss": [(words, loss, [(1 - NEAR) * loss, (1 + NEAR) * loss]) for words, loss in near.items()],
        "critic": [(f"{name}: AUC", critic[name]["auc"], critic[name]["auc_interval"]) for name in results.QUESTIONS],
        "verdicts": [
            (f"tuned: {words}", judged[f"{key}_tuned"], judged[f"{key}_tuned_interval"])
            for words, key in shares.items()
        ],
    }
    parts["verdicts"].append(("gain: followed, tuned minus base, says the critic", gain["gain"], gain["interval"]))
    return {
        part: [(words, value, *(round(edge, 4) for edge in edges)) for words, value, edges in rows if edges]
        for part, rows in parts.items()
    }


def published() -> dict[str, dict]:
    """Profile -> its published run: date, device, processor, and `figures` as `figures` gives them."""
    return results.read_json(FIGURES)


def block(part: str, profile: str) -> str:
    """The figures of one part as a Markdown table, with the machine, the command, and why they may differ."""
    told = published()[profile]
    lines = ["", "| figure | published run | expect |", "|---|---|---|"]
    for words, value, low, high in told["figures"][part]:
        lines.append(f"| {words} | {value:.3g} | {low:.3g} to {high:.3g} |")
    made = f"`cookbook run` at `{profile}`, {told['device']}, {told['processor']}, {told['date']}."
    return "\n".join([*lines, "", made, WHY[part], ""])
