"""`python -m tools.publish [RUN ...]`: write the results of finished runs into the files that readers see.

The outputs of a nano run go to notebooks/, without anything specific to the machine, its figures to
assets/figures.json, and the picture at the top of each notebook, an output of its cell tagged `picture`, to
assets/pictures/. The times of every run go to assets/timings.json. The tables in the notebooks and in the README are
written from these files. Without a run only tables and pictures are written again.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from cookbook import budget, profiles, storage
from cookbook.errors import UserError, report_user_errors
from cookbook.notebooks import FURTHER, NOTEBOOKS, POLICY, ROOT, own
from tools import expected

SHOWN = profiles.DEFAULT  # the profile of the committed outputs
BLOCK = re.compile(r"(<!-- (measured|figures: [\w -]+) -->\n).*?(\n(?:# )?<!-- /\2 -->)", re.S)
PICTURE = re.compile(r"!\[[^\]]+\]\(\.\./(assets/pictures/\w+\.(png|jpeg))\)")


def publish(*folders: Path | str) -> None:
    """Copy results of finished runs, then write all tables and pictures.

    Raises:
        UserError: a run without times, or with notebooks that differ from those of this checkout.
    """
    for run in map(Path, folders):
        timings = storage.read_json(run / "notebooks" / "timings.json")
        if timings["profile"] == SHOWN:
            outputs(run.absolute())
            machine = {key: timings[key] for key in ("date", "device", "processor")}
            storage.write_json(expected.FIGURES, {SHOWN: {**machine, "figures": expected.figures(run)}})
        storage.write_json(budget.TIMINGS, budget.timings() | {timings["profile"]: timings})
    for path in every():
        book, source = nbformat.read(path, as_version=4), path.with_suffix(".py")
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = filled(cell.source, path.stem)
            elif planned := re.search(r"budget\.plan\(profile(?:, \"(\d+)\")?\)", cell.source):
                with_this_run(cell, planned[1])
        nbformat.write(book, path)
        source.write_text(filled(source.read_text(), path.stem, lambda line: f"# {line}".rstrip()))
        if picture := picture_of(book):
            place = ROOT / PICTURE.search(book.cells[0].source)[1]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture)
    readme = ROOT / "README.md"
    readme.write_text(with_times(readme.read_text()))


def with_this_run(cell: NotebookNode, number: str | None) -> None:
    """Give the plan that a cell printed the times of the run that is published; it could only know the one before."""
    with redirect_stdout(io.StringIO()) as printed:
        budget.plan(SHOWN, number)
    line = re.compile(r"^  measured  .*$", re.M)
    for output in cell.outputs:
        if "text" in output:
            output.text = line.sub(line.search(printed.getvalue())[0], output.text)


def every() -> list[Path]:
    """All notebooks, those beyond the guide included."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def picture_of(book: NotebookNode) -> bytes | None:
    """The picture of a notebook, from its cell tagged `picture`. None if the notebook was not executed."""
    (cell,) = [cell for cell in book.cells if "picture" in cell.metadata.get("tags", [])]
    kind = f"image/{PICTURE.search(book.cells[0].source)[2]}"
    pictures = [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]
    return base64.b64decode(pictures[0]) if cell.execution_count else None


def outputs(folder: Path) -> None:
    """Copy the outputs of a run's executed notebooks into notebooks/."""
    for source in every():
        copy = folder / "notebooks" / source.name
        if source.stem[:2] in FURTHER and not copy.exists():
            continue
        book, executed = (nbformat.read(path, as_version=4) for path in (source, copy))
        cells = [cell for cell in book.cells if cell.cell_type == "code"]
        ran = [cell for cell in executed.cells if cell.cell_type == "code" and own(cell)]
        if [cell.source for cell in cells] != [cell.source for cell in ran]:
            raise UserError(f"{source.name} has changed since the run in {folder}; run it again before publishing")
        for count, (cell, done) in enumerate(zip(cells, ran, strict=True), 1):
            cell.execution_count = count
            cell.outputs = [anonymous(output, folder, count) for output in done.outputs]
        nbformat.write(book, source)


def filled(text: str, name: str, line: Callable[[str], str] = str) -> str:
    """A notebook's text with its tables filled in: the budget and the figures of the published run.

    Args:
        line: applied to each line of a table.
    """

    def table(match: re.Match) -> str:
        kind, _, part = match[2].partition(": ")
        text = expected.block(part, SHOWN) if kind == "figures" else block(name)
        return match[1] + "\n".join(map(line, text.split("\n"))) + match[3]

    return BLOCK.sub(table, text)


def anonymous(output: NotebookNode, folder: Path, count: int) -> NotebookNode:
    """An output with paths relative to the checkout."""
    text = json.dumps(output).replace(str(folder), f"runs/{folder.name}")
    for place in (ROOT, sys.prefix):
        text = text.replace(f"{place}{os.sep}", "").replace(str(place), ".")
    clean = nbformat.from_dict(json.loads(text))
    if "execution_count" in clean:
        clean.execution_count = count
    return clean


def block(name: str) -> str:
    """The budget of one notebook as a Markdown table, and when it was last verified."""
    published = budget.timings()
    lines = ["", "| profile | time | memory | writes | download, licence | source |", "|" + "---|" * 6]
    for profile in profiles.PROFILES:
        row = published.get(profile, {}).get("notebooks", {}).get(name)
        cells = _measured(row, published[profile]["date"]) if row else _calculated(profile, name[:2])
        lines.append(f"| `{profile}` | {' | '.join(cells)} |")
    if SHOWN in published and (name[:2] not in FURTHER or name in published[SHOWN]["notebooks"]):
        lines += ["", _verified(published[SHOWN])]
    return "\n".join([*lines, ""])


def _measured(row: dict, date: str) -> tuple[str, ...]:
    written = f"{row['written_gb'] * 1000:.0f} MB" if row["written_gb"] < 1 else f"{row['written_gb']:.1f} GB"
    time, memory = budget.format_duration(row["seconds"]), f"{row['peak_memory_gb']:.1f} GB"
    return time, memory, written, "nothing, none", f"measured {date}"


def _calculated(profile: str, number: str) -> tuple[str, ...]:
    p = profiles.get(profile)
    work = [stage for stage in budget.stages(p) if stage.notebook == number]
    if number == POLICY and not p.policies:
        return "not possible: no simulator of the robot", *["-"] * 4
    if number in FURTHER:
        needed = () if p.world.ships else (p.train_data, p.eval_data, p.critic)
        return *["not measured"] * 3, "; ".join(map(_link, needed)) or "nothing, none", "-"
    if p.world.ships:
        return "not measured", "not measured", "not measured", "nothing, none", "-"
    if not work:
        return "seconds", "no GPU", "nothing", "nothing, none", f"as at `{SHOWN}`"
    times = [budget.format_duration(stage.seconds) for stage in work if stage.seconds]
    times += [f"{stage.stage}: not measured" for stage in work if stage.seconds is None]
    memory, basis = (str(p.needs), "calculated") if any(stage.seconds for stage in work) else ("no GPU", "-")
    downloads = {source.location: source for stage in work for source in stage.sources}
    return " and ".join(times), memory, "not measured", "; ".join(map(_link, downloads.values())), basis


def _link(source: profiles.Source) -> str:
    size = f"{source.gigabytes:g} GB" if source.gigabytes else "size on its page"
    return f"[{source.location.split('/')[1]}]({source.page}) {size}{', gated' if source.gated else ''}"


def _verified(run: dict) -> str:
    packages = ("python", "torch", "diffusers", "transformers")
    versions = ", ".join(f"{name} {run['versions'][name]}" for name in packages)
    return (
        "<details><summary>Versions, machine, and where these numbers come from</summary>\n\n"
        f"**Last verified** {run['date']} at `{run['profile']}`, commit {run['commit']}: {versions}; "
        f"{run['device']}, {run['processor']}.\n"
        "*Measured* is `cookbook run`; *calculated* is from [measurements on an H100](../docs/gpu_figures.md) with\n"
        "random weights; `cookbook plan --profile 2b` has the details. Colab and Binder:\n"
        "[not tried](../setup.md#colab-and-binder), so there is no badge.\n\n</details>"
    )


def with_times(readme: str) -> str:
    """The README with the times of the published run: a column of its table, and the sum below it."""
    run = budget.timings().get(SHOWN)
    if not run:
        return readme
    for name, row in run["notebooks"].items():
        line = re.compile(rf"^(\| {name[:2]} \|[^|]*\|[^|]*\|)[^|]*\|", re.M)
        readme = line.sub(lambda match, row=row: f"{match[1]} {budget.format_duration(row['seconds'])} |", readme)
    rows = [row for name, row in run["notebooks"].items() if name[:2] not in FURTHER]
    total, peak = sum(row["seconds"] for row in rows), max(row["peak_memory_gb"] for row in rows)
    machine = f"{run['device']}, {run['processor']}, PyTorch {run['versions']['torch']}, {run['date']}"
    text = (
        f"Times: `make run` after the install, {machine}: {budget.format_duration(total)} in all, {peak:.1f} GB at "
        "most; seconds and memory of every cell are in [assets/timings.json](assets/timings.json)."
    )
    return BLOCK.sub(lambda match: f"{match[1]}{text}{match[3]}", readme)


if __name__ == "__main__":
    with report_user_errors():
        publish(*sys.argv[1:])
