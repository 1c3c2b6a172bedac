"""`python -m tools.publish [RUN ...]`: what was run and measured, brought into the files that readers see.

The outputs of a nano run go into notebooks/, without anything of the machine they were made on, its figures to
assets/figures.json, and the picture at the top of each notebook, an output of its cell tagged `picture`, to
assets/pictures/. The times of every run go to assets/timings.json. From there tables are written into the notebooks and
the README. Without a run only tables and pictures are written again.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from cookbook import budget, doctor, profiles, results, runs
from cookbook.errors import UserError, report_user_errors
from cookbook.notebooks import FURTHER, NOTEBOOKS, ROOT, own, select
from tools import expected

SHOWN = "nano"  # the profile whose outputs readers see
BLOCK = re.compile(r"(<!-- (measured|figures: [\w -]+) -->\n).*?(\n(?:# )?<!-- /\2 -->)", re.S)
PICTURE = re.compile(r"!\[[^\]]+\]\(\.\./(assets/pictures/\w+\.(png|jpeg))\)")


def publish(*folders: Path | str) -> None:
    """Take over what finished runs left, then write all tables and pictures.

    Raises:
        UserError: a run without times, or one whose notebooks are not those of this checkout.
    """
    for run in map(Path, folders):
        told = results.read_json(run / "notebooks" / "timings.json")
        if told["profile"] == SHOWN:
            outputs(run.absolute())
            where = {key: told[key] for key in ("date", "device", "processor")}
            runs.write_json(expected.FIGURES, {SHOWN: {**where, "figures": expected.figures(run)}})
        runs.write_json(budget.TIMINGS, budget.timings() | {told["profile"]: told})
    for path in every():
        book, twin = nbformat.read(path, as_version=4), path.with_suffix(".py")
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = filled(cell.source, path.stem)
        nbformat.write(book, path)
        twin.write_text(filled(twin.read_text(), path.stem, lambda line: f"# {line}".rstrip()))
        if picture := drawn(book):
            place = ROOT / PICTURE.search(book.cells[0].source)[1]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture)
    readme = ROOT / "README.md"
    readme.write_text(with_times(readme.read_text()))


def every() -> list[Path]:
    """All notebooks, those beyond the guide included."""
    return select() + [path for number in FURTHER for path in NOTEBOOKS.glob(f"{number}_*.ipynb")]


def drawn(book: NotebookNode) -> bytes | None:
    """The picture of a notebook: what its cell tagged `picture` shows. None where the notebook was not executed.

    Raises:
        UserError: the notebook names no picture at its top, or that cell shows none of its kind.
    """
    named = PICTURE.search(book.cells[0].source)
    (cell,) = [cell for cell in book.cells if "picture" in cell.metadata.get("tags", [])] or [None]
    if not named or cell is None:
        raise UserError(f"{book.cells[0].source.splitlines()[0]}: no picture at its top, or no cell tagged `picture`")
    if cell.execution_count is None:
        return None
    shown = [output.data[kind] for output in cell.outputs if (kind := f"image/{named[2]}") in output.get("data", {})]
    if not shown:
        raise UserError(f"{named[1]}: the cell tagged `picture` shows no {named[2]}")
    return base64.b64decode(shown[0])


def outputs(folder: Path) -> None:
    """The outputs of a run's executed copies into notebooks/, of further notebooks where they were executed."""
    made = folder / "notebooks"
    for source in every():
        if source not in select() and not (made / source.name).exists():
            continue
        book, executed = (nbformat.read(path, as_version=4) for path in (source, made / source.name))
        cells = [cell for cell in book.cells if cell.cell_type == "code"]
        ran = [cell for cell in executed.cells if cell.cell_type == "code" and own(cell)]
        if [cell.source for cell in cells] != [cell.source for cell in ran]:
            raise UserError(f"{source.name} has changed since {folder} was made; run it again before publishing")
        for count, (cell, done) in enumerate(zip(cells, ran, strict=True), 1):
            cell.execution_count = count
            cell.outputs = [anonymous(output, folder, count) for output in done.outputs]
        nbformat.write(book, source)


def filled(text: str, name: str, line: Callable[[str], str] = str) -> str:
    """A notebook's text with the tables that belong between its marks: its budget, or figures of the published run.

    Args:
        line: what becomes of each line of a table.
    """

    def table(found: re.Match) -> str:
        kind, _, part = found[2].partition(": ")
        told = expected.block(part, SHOWN) if kind == "figures" else block(name)
        return found[1] + "\n".join(map(line, told.split("\n"))) + found[3]

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
    told = budget.timings()
    lines = ["", "| profile | time | memory | writes | download, licence | how known |", "|" + "---|" * 6]
    for profile in profiles.PROFILES:
        row = told.get(profile, {}).get("notebooks", {}).get(name)
        cells = _measured(row, told[profile]["date"]) if row else _calculated(profile, name[:2])
        lines.append(f"| `{profile}` | {' | '.join(cells)} |")
    if SHOWN in told and (name[:2] not in FURTHER or name in told[SHOWN]["notebooks"]):
        lines += ["", _verified(told[SHOWN])]
    return "\n".join([*lines, ""])


def _measured(row: dict, date: str) -> tuple[str, ...]:
    written = f"{row['written_gb'] * 1000:.0f} MB" if row["written_gb"] < 1 else f"{row['written_gb']:.1f} GB"
    return budget.spell(row["seconds"]), f"{row['peak_memory_gb']:.1f} GB", written, "nothing, none", f"measured {date}"


def _calculated(profile: str, number: str) -> tuple[str, ...]:
    p = profiles.get(profile)
    work = [stage for stage in budget.stages(p) if stage.notebook == number]
    if number in FURTHER:
        needed = () if p.world.ships else (p.train_data, p.eval_data, p.critic)
        return *["not measured"] * 3, "; ".join(map(_place, needed)) or "nothing, none", "-"
    if p.world.ships:
        return "not measured", "not measured", "not measured", "nothing, none", "-"
    if not work:
        return "seconds", "no GPU", "nothing", "nothing, none", "as at `nano`"
    known = [stage.seconds for stage in work if stage.seconds]
    unknown = [stage.stage for stage in work if stage.seconds is None]
    time = " and ".join([*map(budget.spell, known), *(f"{stage}: not measured" for stage in unknown)])
    peak = max((stage.gpu_gb or 0 for stage in work), default=0)
    gpus = doctor.NEEDS[profile].gpus
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
        f"**Last verified** {told['date']} at `{told['profile']}`, commit {told['commit']}: {versions}; "
        f"{told['device']}, {told['processor']}.\n"
        "*Measured* is `cookbook run`; *calculated* rests on [figures from an H100](../docs/gpu_figures.md) with\n"
        "random weights; `cookbook train --profile 2b --plan` says more. Colab and Binder:\n"
        "[not tried](../setup.md#colab-and-binder), so there is no badge."
    )


def with_times(readme: str) -> str:
    """The README with the times of the shown run: a column of its table, and the sum below it."""
    told = budget.timings().get(SHOWN)
    if not told:
        return readme
    for name, row in told["notebooks"].items():
        line = re.compile(rf"^(\| {name[:2]} \|[^|]*\|[^|]*\|)[^|]*\|", re.M)
        readme = line.sub(lambda found, row=row: f"{found[1]} {budget.spell(row['seconds'])} |", readme)
    rows = [row for name, row in told["notebooks"].items() if name[:2] not in FURTHER]
    total, peak = sum(row["seconds"] for row in rows), max(row["peak_memory_gb"] for row in rows)
    where = f"{told['device']}, {told['processor']}, PyTorch {told['versions']['torch']}, {told['date']}"
    text = (
        f"Times: `make run` after the install, {where}: {budget.spell(total)} in all, {peak:.1f} GB at most; seconds "
        "and memory of every cell are in [assets/timings.json](assets/timings.json)."
    )
    return BLOCK.sub(lambda found: f"{found[1]}{text}{found[3]}", readme)


if __name__ == "__main__":
    with report_user_errors():
        publish(*sys.argv[1:])
