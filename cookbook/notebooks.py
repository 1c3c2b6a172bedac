"""Executing the notebooks from the command line, strictly: whatever failed, was skipped or was misspelt is an error.

papermill alone lets three things pass: a parameter that no notebook knows, `sys.exit(0)` half-way, and cells that never
ran. Executed copies are kept in the run's `notebooks/`, also of a notebook that failed.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import nbformat
import papermill
import psutil
import tyro
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary
from papermill.exceptions import PapermillExecutionError

from cookbook import budget, doctor, profiles, results, runs
from cookbook.errors import UserError
from cookbook.machine import Machine

ROOT = runs.ASSETS.parent
NOTEBOOKS = ROOT / "notebooks"
CHECKING = "00"  # says what is missing, so it must run where anything is
FURTHER = {"05": "critic"}  # beyond the guide, executed only if asked for; and the folder that it makes
MADE = {
    "01": ["prepare"],
    "02": ["train"],
    "03": ["convert", "generate-base", "generate-tuned"],
    "04": ["judge", "filter"],
}


def run_all(
    profile: str = "nano",
    run: Path | str | None = None,
    only: str | None = None,
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    parameters: Annotated[
        tuple[tuple[str, str], ...],
        tyro.conf.arg(name="parameter", aliases=("-p",), metavar="NAME VALUE"),
        tyro.conf.UseAppendAction,
    ] = (),
    redo: str | None = None,
) -> dict:
    """Execute the notebooks in order, then write the report.

    Args:
        profile: smoke, nano, 2b or 14b.
        run: run folder; without it runs/<profile>.
        only: this notebook alone, by its number or name (02).
        start: this notebook and those after it.
        parameters: a notebook parameter and its value, as in -p steps 50; may be repeated.
        redo: remove this stage and all that follow from it first (one of the names that manifests carry).

    Returns:
        The report's summary, or an empty dict where stages for it are still missing.

    Raises:
        UserError: unknown parameter, a machine that cannot run the profile, a cell that failed or did not run.
    """
    settings = profiles.get(profile)
    folder = runs.run_folder(run, profile)
    chosen = select(only, start)
    given = match_parameters(chosen, {"profile": profile, "run": str(folder)}, parameters)
    _check_kernel()
    budget.plan(settings.name)
    if any(path.stem[:2] != CHECKING for path in chosen):
        doctor.able(settings.name)
    if redo:
        remove(folder, redo)
    before = _finished(folder)
    for number, source in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {source.stem} ... ", end="", flush=True)
        fresh = not any((folder / place).exists() for place in _makes(source.stem[:2]))
        disk = _written(folder)
        timing = execute(source, folder / "notebooks" / source.name, given[source])
        timing["written_gb"] = round(max(0, _written(folder) - disk) / 1e9, 3)
        # what was found or only continued would count as time that it does not take
        if fresh:
            _remember(folder, profile, source.stem, timing)
        print(f"{timing['seconds']:.0f} s, {timing['peak_memory_gb']:.1f} GB", flush=True)
    return _conclude(profile, folder, before)


def _makes(number: str) -> list[str]:
    """The folders of a run that a notebook makes."""
    return [FURTHER[number]] if number in FURTHER else [runs.FOLDERS[stage] for stage in MADE.get(number, ())]


def select(only: str | None = None, start: str | None = None) -> list[Path]:
    """The notebooks to execute, in order; further ones only if `only` or `start` names them."""
    every = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not every:
        raise UserError(f"no notebooks in {NOTEBOOKS}: `cookbook run` works from a clone, not from an installed wheel")

    def place(wanted: str) -> int:
        for index, path in enumerate(every):
            if wanted in (path.stem, path.name, path.stem[:2]):
                return index
        raise UserError(f"no notebook {wanted!r}; there are {', '.join(path.stem for path in every)}")

    if only is not None:
        return [every[place(only)]]
    first, *others = every[place(start) if start is not None else 0 :]
    return [first, *(path for path in others if path.stem[:2] not in FURTHER)]


def match_parameters(
    chosen: Sequence[Path], always: dict[str, str], given: Sequence[tuple[str, str]]
) -> dict[Path, dict[str, Any]]:
    """What each notebook is given: only parameters it declares, and each of `given` must be declared somewhere."""
    declared = {path: set(papermill.inspect_notebook(str(path))) for path in chosen}
    known = set().union(*declared.values())
    if unknown := [name for name, _ in given if name not in known]:
        books, takes = ", ".join(path.stem for path in chosen), "takes" if len(chosen) == 1 else "take"
        raise UserError(f"no notebook parameter {unknown[0]!r}; {books} {takes} {', '.join(sorted(known))}")
    values = {**always, **{name: _literal(text) for name, text in given}}
    return {path: {name: value for name, value in values.items() if name in names} for path, names in declared.items()}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check_kernel() -> None:
    """The kernel must be this very Python, or the notebooks would test another environment."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    try:
        interpreter = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        raise UserError(f"no Jupyter kernel python3 in this environment: {doctor.INSTALL}") from None
    if interpreter not in ("python", "python3", sys.executable):
        raise UserError(
            f"the kernel python3 is {interpreter}, not {sys.executable}; `jupyter kernelspec remove python3` mends it"
        )


def execute(source: Path, target: Path, parameters: dict[str, Any]) -> dict:
    """Execute one notebook into `target`, which is kept whatever happens.

    Returns:
        seconds, peak_memory_gb (largest resident memory of the kernel and its children) and `cells`: the same of each
        code cell of the source, in order.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(_moved(nbformat.read(source, as_version=4), target.parent), target)
    clock = time.monotonic()
    try:
        with _headless(), _memory() as samples:
            papermill.execute_notebook(
                str(target),
                str(target),
                parameters,
                kernel_name="python3",
                progress_bar=False,
                cwd=str(ROOT),
                extra_arguments=["--log-level=50"],
            )
    except PapermillExecutionError as error:
        reason = f"cell {error.exec_count} failed with {error.ename}: {_plain(error.evalue)}"
        raise UserError(f"{source.name}: {reason} (the executed copy: {target})") from None
    except DeadKernelError:
        raise UserError(
            f"{source.name}: the kernel died, most often for want of memory (the executed copy: {target})"
        ) from None
    book = nbformat.read(target, as_version=4)
    with suppress(OSError):  # a home that cannot be written to
        NotebookNotary().sign(book)  # its outputs are this user's own; without trust JupyterLab shows no videos
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    if idle := unexecuted(cells):
        raise UserError(f"{source.name}: code cell {idle[0]} of {len(cells)} did not run (the executed copy: {target})")
    return {
        "seconds": round(time.monotonic() - clock, 1),
        "peak_memory_gb": _peak(samples),
        "cells": [_cell_timing(cell, samples) for cell in cells if own(cell)],
    }


def _moved(book: NotebookNode, folder: Path) -> NotebookNode:
    """A notebook whose links and pictures beyond notebooks/ still lead there from the folder of its copy."""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../", f"]({Path(os.path.relpath(ROOT, folder)).as_posix()}/")
    return book


def own(cell: NotebookNode) -> bool:
    """Whether a cell of an executed copy is one of the notebook's, and not papermill's."""
    return "injected-parameters" not in cell.metadata.get("tags", [])


def _cell_timing(cell: NotebookNode, samples: Sequence[tuple[datetime, int]]) -> dict:
    """Seconds of an executed cell, and its peak memory: of the samples while it ran and the last one before."""
    times = [cell.metadata["papermill"][key] for key in ("start_time", "end_time")]
    if not all(times):  # an empty cell
        return {"seconds": 0.0, "peak_memory_gb": 0.0}
    start, end = map(datetime.fromisoformat, times)
    before = [sample for sample in samples if sample[0] <= start][-1:]
    during = [sample for sample in samples if start < sample[0] <= end]
    return {"seconds": round((end - start).total_seconds(), 2), "peak_memory_gb": _peak([*before, *during])}


def _peak(samples: Sequence[tuple[datetime, int]]) -> float:
    return round(max((size for _, size in samples), default=0) / 1e9, 2)


def unexecuted(cells: Sequence[NotebookNode]) -> list[int]:
    """Numbers (from 1) of code cells that hold code and never ran, or did not complete."""
    return [
        number
        for number, cell in enumerate(cells, 1)
        if cell.source.strip()
        and (
            cell.execution_count is None or cell.metadata.get("papermill", {}).get("status", "completed") != "completed"
        )
    ]


def _plain(text: str) -> str:
    """Without terminal colours; its lines stay lines."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()


@contextmanager
def _headless() -> Iterator[None]:
    """Nobody watches: no bars, no questions."""
    known = {name: os.environ.get(name) for name in ("HEADLESS", "TQDM_DISABLE")}
    os.environ.update({name: "1" for name in known})
    try:
        yield
    finally:
        for name, value in known.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _memory() -> Iterator[list[tuple[datetime, int]]]:
    """Within the block, the resident memory of all child processes twice a second: (when, bytes)."""
    samples, stop = [], threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            total = 0
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    total += child.memory_info().rss
            samples.append((datetime.now(UTC), total))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def remove(folder: Path, stage: str) -> None:
    """Remove a stage's folder and those of all stages that read it, directly or not."""
    if stage not in runs.FOLDERS:
        raise UserError(f"no stage {stage!r}; there are {', '.join(runs.FOLDERS)}")
    late = {stage}
    for name, reads in runs.READS.items():
        if late & set(reads):
            late.add(name)
    for name in runs.FOLDERS:
        if name in late and (path := folder / runs.FOLDERS[name]).exists():
            shutil.rmtree(path)
            print(f"removed {path}")


def _finished(folder: Path) -> dict[str, str]:
    manifests = {name: runs.read_manifest(folder / place) for name, place in runs.FOLDERS.items()}
    return {name: manifest["finished"] for name, manifest in manifests.items() if manifest}


def _written(folder: Path) -> int:
    """Bytes of a run folder; what has two names is counted once."""
    files = [path.lstat() for path in folder.rglob("*") if path.is_file()]
    return sum({file.st_ino: file.st_size for file in files}.values())


def _remember(folder: Path, profile: str, name: str, timing: dict) -> None:
    path = folder / "notebooks" / "timings.json"
    timings = results.read_json(path) if path.exists() else {}
    known = timings.get("notebooks", {})
    told = {"profile": profile, "date": time.strftime("%Y-%m-%d"), "commit": _commit()}
    told |= {"processor": Machine().processor, **runs.environment()}
    runs.write_json(path, {**told, "notebooks": {**known, name: timing}})


def _commit() -> str:
    """Which state of the checkout ran, as git names it."""
    git = [shutil.which("git") or "false", "-C", str(ROOT), "describe", "--always", "--exclude=*"]
    done = subprocess.run([*git, "--dirty= with changes"], capture_output=True, text=True)
    return done.stdout.strip() or "not recorded"


def _conclude(profile: str, folder: Path, before: dict[str, str]) -> dict:
    """Write the report where the run is complete, and print what was done."""
    from cookbook.report import write_report

    waiting = [name for name in runs.READS["report"] if runs.read_manifest(folder / runs.FOLDERS[name]) is None]
    if waiting:
        print(f"no report yet: {', '.join(waiting)} not run in {folder}")
        return {}
    write_report(profile, folder, redo="report" in runs.stale(folder))
    after, summary = _finished(folder), results.summary(folder)
    print(f"\n{'stage':<15}{'seconds':>9}  this time")
    for name, seconds in summary["seconds"].items():
        print(f"{name:<15}{seconds:>9.1f}  {'found, skipped' if before.get(name) == after[name] else 'made'}")
    if before == after:
        print("nothing had to be made: every stage was found finished")
    print(f"\n{results.table(summary)}\n\nreport: {folder / 'report' / 'report.html'}")
    return summary
