"""`python -m cookbook.publish [RUN ...]`: what was run and measured, brought into the files that readers see.

The outputs of a nano run go into notebooks/, without anything of the machine they were made on. The times of every run
go to assets/timings.json and from there into the table at the top of each notebook and into the README. Without a run
only those tables are written again.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from cookbook import budget, preflight, profiles, results, store
from cookbook.errors import UserError
from cookbook.notebooks import FURTHER, NOTEBOOKS, ROOT, own, select

SHOWN = "nano"  # the profile whose outputs readers see
BLOCK = re.compile(r"(<!-- measured -->\n).*?(\n(?:# )?<!-- /measured -->)", re.S)


def publish(*runs: Path | str) -> None:
    """Take over what finished runs left, then write all tables.

    Raises:
        UserError: a run without times, or one whose notebooks are not those of this checkout.
    """
    for run in map(Path, runs):
        told = results.read_json(run / "notebooks" / "timings.json")
        if told["profile"] == SHOWN:
            outputs(run.absolute())
        store.write_json(budget.TIMINGS, budget.timings() | {told["profile"]: told})
    for path in select():
        table, twin = block(path.stem), path.with_suffix(".py")
        book = nbformat.read(path, as_version=4)
        book.cells[0].source = _replaced(book.cells[0].source, table)
        nbformat.write(book, path)
        comment = "\n".join(f"# {line}".rstrip() for line in table.split("\n"))
        twin.write_text(_replaced(twin.read_text(), comment))
    readme = ROOT / "README.md"
    readme.write_text(with_times(readme.read_text()))


def outputs(folder: Path) -> None:
    """The outputs of a run's executed copies into notebooks/, of further notebooks where they were executed."""
    made = folder / "notebooks"
    further = [
        path for number in FURTHER for path in NOTEBOOKS.glob(f"{number}_*.ipynb") if (made / path.name).exists()
    ]
    for source in select() + further:
        executed = nbformat.read(made / source.name, as_version=4)
        cells = list(filter(own, executed.cells))
        book = nbformat.read(source, as_version=4)
        if [_untimed(c.source) for c in cells] != [_untimed(c.source) for c in book.cells]:
            raise UserError(f"{source.name} has changed since {folder} was made; run it again before publishing")
        count = 0
        for cell, done in zip(book.cells, cells, strict=True):
            if cell.cell_type == "code":
                count += 1
                cell.execution_count = count
                cell.outputs = [anonymous(output, folder, count) for output in done.outputs]
        nbformat.write(book, source)


def _untimed(source: str) -> str:
    return BLOCK.sub("", source)


def _replaced(text: str, block: str) -> str:
    return BLOCK.sub(lambda found: f"{found[1]}{block}{found[2]}", text)


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
    told = budget.timings()
    lines = ["", "| profile | time | memory | writes | download, licence | how known |", "|" + "---|" * 6]
    for profile in profiles.PROFILES:
        row = told.get(profile, {}).get("notebooks", {}).get(name)
        cells = _measured(row, told[profile]["date"]) if row else _calculated(profile, name[:2])
        lines.append(f"| `{profile}` | {' | '.join(cells)} |")
    if SHOWN in told:
        lines += ["", _verified(told[SHOWN])]
    return "\n".join([*lines, ""])


def _measured(row: dict, date: str) -> tuple[str, ...]:
    written = f"{row['written_gb'] * 1000:.0f} MB" if row["written_gb"] < 1 else f"{row['written_gb']:.1f} GB"
    return budget.spell(row["seconds"]), f"{row['peak_memory_gb']:.1f} GB", written, "nothing, none", f"measured {date}"


def _calculated(profile: str, number: str) -> tuple[str, ...]:
    p = profiles.get(profile)
    work = [stage for stage in budget.stages(p) if stage.notebook == number]
    if p.world.ships:
        return "not measured", "not measured", "not measured", "nothing, none", "-"
    if not work:
        return "seconds", "no GPU", "nothing", "nothing, none", "as at `nano`"
    known = [stage.seconds for stage in work if stage.seconds]
    unknown = [stage.stage for stage in work if stage.seconds is None]
    time = " and ".join([*map(budget.spell, known), *(f"{stage}: not measured" for stage in unknown)])
    peak = max((stage.gpu_gb or 0 for stage in work), default=0)
    gpus = preflight.NEEDS[profile].gpus
    disk = sum(stage.disk_gb or 0 for stage in work)
    places = {place.location: place for stage in work for place in stage.needs}
    return (
        time,
        f"{peak:.0f} GB on {'one GPU' if gpus == 1 else f'each of {gpus} GPUs'}" if peak else "no GPU",
        f"{disk:.1f} GB" if disk else "little",
        "; ".join(map(_place, places.values())),
        "calculated",
    )


def _place(place: profiles.Source) -> str:
    kind = "datasets/" if place.kind == "dataset" else ""
    size = f"{place.gigabytes:g} GB" if place.gigabytes else "size on its page"
    link = f"[{place.location.split('/')[1]}](https://huggingface.co/{kind}{place.location})"
    return f"{link} {size}{', gated' if place.gated else ''}"


def _verified(told: dict) -> str:
    versions = ", ".join(
        f"{name} {told['versions'][name]}" for name in ("python", "torch", "diffusers", "transformers")
    )
    return (
        f"**Last verified** {told['date']} at `{told['profile']}`: {versions}; {told['device']}, {told['processor']}.\n"
        "*Measured* is `cookbook run`; *calculated* rests on [figures from an H100](../docs/gpu_figures.md) with\n"
        "random weights; `cookbook train --profile 2b --plan` says more."
    )


def with_times(readme: str) -> str:
    """The README with the times of the shown run: a column of its table, and the sum below it."""
    told = budget.timings().get(SHOWN)
    if not told:
        return readme
    for name, row in told["notebooks"].items():
        line = re.compile(rf"^(\| {name[:2]} \|[^|]*\|[^|]*\|)[^|]*\|", re.M)
        readme = line.sub(lambda found, row=row: f"{found[1]} {budget.spell(row['seconds'])} |", readme)
    rows = told["notebooks"].values()
    total, peak = sum(row["seconds"] for row in rows), max(row["peak_memory_gb"] for row in rows)
    where = f"{told['device']}, {told['processor']}, PyTorch {told['versions']['torch']}, {told['date']}"
    text = (
        f"Times: `make run` after the install, {where}: {budget.spell(total)} in all, {peak:.1f} GB at most; seconds "
        "and memory of every cell are in [assets/timings.json](assets/timings.json)."
    )
    return _replaced(readme, text)


if __name__ == "__main__":
    try:
        publish(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"cookbook: {error}")
