"""Executing the notebooks from the command line, strictly: whatever failed, was skipped or was misspelt is an error.

papermill alone lets three things pass: a parameter that no notebook declares, `sys.exit(0)` half-way, and cells that
never ran. Executed copies are kept in the run's `notebooks/`, also of a notebook that failed.
"""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import nbformat
import papermill
import psutil
import tyro
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary
from papermill.exceptions import PapermillExecutionError
from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError

from cookbook import budget, doctor, profiles, results, runs, storage
from cookbook.errors import StaleStage, UserError
from cookbook.machine import Machine
from cookbook.profiles import Profile
from cookbook.report import write_report

ROOT = runs.ASSETS.parent
NOTEBOOKS = ROOT / "notebooks"
PAPERMILL = {"kernel_name": "python3", "progress_bar": False, "extra_arguments": ["--log-level=50"]}
HEADLESS = {"HEADLESS": "1", "TQDM_DISABLE": "1", "JUPYTER_PREFER_ENV_PATH": "1"}  # no widgets, bars; this Python
NUMBER = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Annotation of a notebook's parameter -> how its text is read
KINDS = {"bool": bool, "int": NonNegativeInt, "float": NUMBER, "str": str}
CHECKING = "00"  # reports what is missing, so it must run on any machine
WRITES = {  # notebook -> the folders of a run that it writes
    "01": ["data"],
    "02": ["checkpoints"],
    "03": ["export", "generated/base", "generated/tuned", "generated/no_text"],
    "04": ["verdicts", "kept"],
    "05": ["actions", "executed", "lerobot"],
    "06": ["policy", "rollouts"],
    "07": ["critic"],
}
FURTHER = ("06", "07")  # beyond the guide; executed only on request
ACTIONS = "05"  # needs an inverse dynamics model of the profile's robot
POLICY = "06"  # needs the robot in a simulator


def run_all(
    profile: str = "nano",
    run: Path | str | None = None,
    only: str | None = None,
    parameters: Annotated[
        tuple[tuple[str, str], ...],
        tyro.conf.arg(name="parameter", aliases=("-p",), metavar="NAME VALUE"),
        tyro.conf.UseAppendAction,
    ] = (),
    redo: str | None = None,
) -> dict:
    """Execute the notebooks in order, then write the report.

    Args:
        profile: name of a profile; `cookbook doctor` lists them.
        run: run folder; without it runs/<profile>.
        only: this notebook alone, by its number or name (02).
        parameters: a notebook parameter and its value, as in -p steps 50; may be repeated. A folder is relative to
            where the command is typed.
        redo: first remove this stage and all stages that depend on it (one of the names in manifests).

    Returns:
        The report's summary, or an empty dict while stages for it are missing.

    Raises:
        UserError: a parameter that is unknown or of another type, a machine that cannot run the profile, a cell that
            failed or did not run.
    """
    own = {"profile": profile, "run": run} | dict(parameters)  # the same flag twice, where -p names one of these
    profile, run = own["profile"], own["run"]
    settings, folder = profiles.get(profile), runs.run_folder(run, profile)
    chosen = select(only, FURTHER if settings.actions else (*FURTHER, ACTIONS))
    parameters = [pair for pair in parameters if pair[0] not in ("profile", "run")]
    values = match_parameters(chosen, {"profile": profile, "run": str(folder)}, parameters)
    budget.plan(profile)
    if any(path.stem[:2] != CHECKING for path in chosen):
        doctor.able(profile)
    if redo:
        remove(folder, redo)
    before = runs.finished(folder)
    for number, source in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {source.stem} ... ", end="", flush=True)
        fresh = not any(runs.begun(folder / place) for place in WRITES.get(source.stem[:2], ()))
        disk = _written(folder)
        timing = execute(source, folder / "notebooks" / source.name, values[source])
        timing["written_gb"] = round(max(0, _written(folder) - disk) / 1e9, 3)
        if fresh:  # otherwise stages were skipped or continued, and the time would be too short
            _record(folder, profile, source.stem, timing)
        print(f"{timing['seconds']:.0f} s, {timing['peak_memory_gb']:.1f} GB", flush=True)
    return _conclude(settings, folder, before)


def select(only: str | None = None, without: Sequence[str] = FURTHER) -> list[Path]:
    """The notebooks to execute, in order: one by its number or name, or all but those `without`."""
    every = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not every:
        raise UserError(f"no notebooks in {NOTEBOOKS}: `cookbook run` works from a clone, not from an installed wheel")
    if only is None:
        return [path for path in every if path.stem[:2] not in without]
    if chosen := [path for path in every if only in (path.stem, path.name, path.stem[:2])]:
        return chosen
    raise UserError(f"no notebook {only!r}; there are {', '.join(path.stem for path in every)}")


def match_parameters(
    chosen: Sequence[Path], defaults: dict[str, str], parameters: Sequence[tuple[str, str]]
) -> dict[Path, dict[str, Any]]:
    """The parameters of each notebook: only those it declares, read by their annotations.

    Each of `parameters` must be declared somewhere.
    """
    declared = {path: papermill.inspect_notebook(str(path)) for path in chosen}
    every = set().union(*declared.values())
    if unknown := [name for name, _ in parameters if name not in every]:
        raise UserError(f"no notebook parameter {unknown[0]!r}; there are {', '.join(sorted(every))}")
    texts, kind = {**defaults, **dict(parameters)}, "inferred_type_name"
    return {
        path: {name: _parsed(name, texts[name], own[name][kind]) for name in own if name in texts}
        for path, own in declared.items()
    }


def _parsed(name: str, text: str, annotation: str) -> Any:
    try:
        return TypeAdapter(KINDS[annotation]).validate_strings(text)
    except ValidationError as error:
        raise UserError(f"-p {name} {text}: {error.errors()[0]['msg']}") from None


def execute(source: Path, target: Path, parameters: dict[str, Any]) -> dict:
    """Execute one notebook into `target`, which is kept even if a cell fails.

    Returns:
        seconds, peak_memory_gb (largest resident memory of the kernel and its children) and `cells`: the same of each
        code cell of the source, in order.
    """
    storage.refuse_links(target.parent, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    book = nbformat.read(source, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "markdown":  # relative links beyond notebooks/, as they are from the copy
            cell.source = cell.source.replace("](../", f"]({Path(os.path.relpath(ROOT, target.parent)).as_posix()}/")
    nbformat.write(book, target)
    clock, copy = time.monotonic(), f"(the executed copy: {target})"
    try:
        with patch.dict(os.environ, HEADLESS), _memory() as samples:
            papermill.execute_notebook(str(target), str(target), parameters, cwd=str(Path.cwd()), **PAPERMILL)
    except PapermillExecutionError as error:
        message = re.sub(r"\x1b\[[0-9;]*m", "", error.evalue).strip()  # without terminal colours
        raise UserError(f"{source.name}: cell {error.exec_count} failed with {error.ename}: {message} {copy}") from None
    except DeadKernelError:
        raise UserError(f"{source.name}: the kernel died, most likely out of memory {copy}") from None
    book = nbformat.read(target, as_version=4)
    with suppress(OSError):  # the home folder may not be writable
        NotebookNotary().sign(book)  # JupyterLab shows no videos of a notebook that is not trusted
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    if idle := unexecuted(cells):
        raise UserError(f"{source.name}: code cell {idle[0]} of {len(cells)} did not run {copy}")
    return {
        "seconds": round(time.monotonic() - clock, 1),
        "peak_memory_gb": _peak(samples),
        "cells": [_cell_timing(cell, samples) for cell in cells if own(cell)],
    }


def own(cell: NotebookNode) -> bool:
    """Whether a cell of an executed copy comes from the notebook, not from papermill."""
    return "injected-parameters" not in cell.metadata.get("tags", [])


def _cell_timing(cell: NotebookNode, samples: Sequence[tuple[datetime, int]]) -> dict:
    """Seconds and peak memory of an executed cell; memory from the samples while it ran and the last one before."""
    start, end = (datetime.fromisoformat(cell.metadata.papermill[key]) for key in ("start_time", "end_time"))
    before = [sample for sample in samples if sample[0] <= start][-1:]
    during = [sample for sample in samples if start < sample[0] <= end]
    return {"seconds": round((end - start).total_seconds(), 2), "peak_memory_gb": _peak([*before, *during])}


def _peak(samples: Sequence[tuple[datetime, int]]) -> float:
    return round(max((size for _, size in samples), default=0) / 1e9, 2)


def unexecuted(cells: Sequence[NotebookNode]) -> list[int]:
    """Numbers (from 1) of the code cells of an executed copy that did not run to their end."""
    done = [cell.execution_count is not None and cell.metadata.papermill.status == "completed" for cell in cells]
    return [number for number, completed in enumerate(done, 1) if not completed]


@contextmanager
def _memory() -> Iterator[list[tuple[datetime, int]]]:
    """Within the block, the resident memory of all child processes, twice a second: (time, bytes)."""
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
    """Empty a stage's folder and those of all stages that read it, directly or not."""
    if stage not in runs.FOLDERS:
        raise UserError(f"no stage {stage!r}; there are {', '.join(runs.FOLDERS)}")
    for name in runs.downstream([stage]):
        if (path := folder / runs.FOLDERS[name]).exists() and storage.set_aside(path):
            print(f"removed {path}; {path / storage.EARLIER} keeps its files until the new ones are finished")


def _written(folder: Path) -> int:
    """Bytes of a run folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _record(folder: Path, profile: str, name: str, timing: dict) -> None:
    """Add the timing of one notebook to timings.json, with the state of the checkout as git names it."""
    git = [shutil.which("git") or "false", "-C", str(ROOT), "describe", "--always", "--exclude=*"]
    done = subprocess.run([*git, "--dirty= with changes"], capture_output=True, text=True)
    path = folder / "notebooks" / "timings.json"
    earlier = storage.read_json(path)["notebooks"] if path.exists() else {}
    commit = done.stdout.strip() or "not recorded"
    facts = {"profile": profile, "date": time.strftime("%Y-%m-%d"), "commit": commit}
    facts |= {"processor": Machine().processor, **runs.environment()}
    storage.write_json(path, {**facts, "notebooks": {**earlier, name: timing}})


def _conclude(profile: Profile, folder: Path, before: dict[str, dict]) -> dict:
    """Write the report if the run is complete, and print times, results and their checks."""
    finished = runs.finished(folder)
    needed = [name for name in runs.READS["report"] if name not in runs.OPTIONAL]
    if waiting := [name for name in needed if name not in finished]:
        print(f"no report yet: {', '.join(waiting)} not run in {folder}")
        return {}
    try:
        write_report(profile.name, folder)
    except StaleStage:
        write_report(profile.name, folder, redo=True)
    after, summary = runs.finished(folder), results.summary(folder)
    print(f"\n{'stage':<15}{'seconds':>9}  this time")
    for name, seconds in summary["seconds"].items():
        print(f"{name:<15}{seconds:>9.1f}  {'found, skipped' if before.get(name) == after[name] else 'executed'}")
    if before == after:
        print("every stage was finished before")
    print(f"\n{results.table(summary['results'])}\n\nexpected of any trained weights:")
    for check in results.checks(folder, profile):
        print(f"  {'ok    ' if check.ok else 'FAILED'}  {check.what}: {check.result} (expected: {check.expected})")
    print(f"\nreport: {folder / 'report' / 'report.html'}")
    return summary
