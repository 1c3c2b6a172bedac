"""Run folders and manifests: how stages hand files to one another, resume, and tell what is stale.

A run is one folder with one sub-folder per stage. A stage folder holds `started.json` while it is being made and
`manifest.json`, written last and atomically, once it is whole. So a folder without a manifest is unfinished and is
continued; a folder with one is skipped; a folder made from other inputs or settings is refused, saying what changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cookbook.errors import StaleStage, UserError

ASSETS = Path(__file__).resolve().parents[1] / "assets"
HOME = Path(os.environ.get("COOKBOOK_HOME", ASSETS.parent))

# stage -> its folder in the run, and the folders it reads
FOLDERS = {
    "prepare": "data",
    "train": "checkpoints",
    "convert": "export",
    "generate-base": "generated/base",
    "generate-tuned": "generated/tuned",
    "judge": "verdicts",
    "filter": "kept",
    "report": "report",
}
READS = {
    "prepare": (),
    "train": ("prepare",),
    "convert": ("train",),
    "generate-base": ("prepare",),
    "generate-tuned": ("prepare", "convert"),
    "judge": ("generate-base", "generate-tuned"),
    "filter": ("judge",),
    "report": ("train", "convert", "judge", "filter"),
}
_HELD: dict[Path, Any] = {}  # folder -> lock file, of this process
PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "huggingface_hub",
    "peft",
    "safetensors",
    "av",
    "numpy",
)


def run_folder(run: Path | str | None, profile: str) -> Path:
    """The folder of a run: as given, or `runs/<profile>` of this checkout (or of $COOKBOOK_HOME)."""
    return Path(run).expanduser().absolute() if run else HOME / "runs" / profile


def command(verb: str, run: Path, profile: str | None = None, *more: str) -> str:
    """What to type for that verb in this run folder, in backquotes; without what is taken anyhow.

    Args:
        profile: where it is None, that of the stages that are there.
    """
    words, stages = ["cookbook", verb], (begun(run / place) for place in FOLDERS.values())
    profile = profile or next((stage["profile"] for stage in stages if stage), "nano")
    if profile != "nano":
        words += ["--profile", profile]
    if run != run_folder(None, profile):
        here = Path.cwd()
        words += ["--run", str(run.relative_to(here) if here in run.parents else run)]
    return f"`{shlex.join([*words, *more])}`"


def digest(path: Path) -> str:
    """SHA-256 of one file, as `sha256:<hex>`."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of any JSON value, whatever the order of its keys."""
    return "sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint(folder: Path) -> str:
    """One hash over the names and contents of a folder's files (manifests and hidden files left out)."""
    if (manifest := read_manifest(folder)) is not None:
        return manifest["fingerprint"]
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _is_bookkeeping(p.relative_to(folder)))
    return digest_of({p.relative_to(folder).as_posix(): digest(p) for p in files})


def _is_bookkeeping(path: Path) -> bool:
    return path.name in ("manifest.json", "started.json") or any(part.startswith(".") for part in path.parts)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to the yielded temporary path; on success it takes the name `path` in one step, on failure it vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Delete what killed processes left under the temporary names of `replacing`."""
    for path in sorted(folder.rglob(".*")):
        if re.fullmatch(r"\..+\.\d+(\.\w+)?", path.name) and path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n")


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))


def append_row(path: Path, row: dict) -> None:
    """Append one line of JSON and force it to disk, so that a kill can cut at most the line being written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(row, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict]:
    """Rows of a jsonl file. A last line cut short by a kill is dropped; any other bad line is an error."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines) or line.endswith("\n"):
                raise UserError(f"{path}, line {number}: not JSON ({error.msg}); mend or delete that line") from None
            with replacing(path) as temporary:
                temporary.write_text("".join(lines[:-1]))
    return rows


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a finished stage folder, or None where the stage is unfinished."""
    path = folder / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else None


def peak_memory_gb() -> dict[str, float]:
    """Largest resident memory of this process and, with a GPU, the allocator's peak, in GB."""
    scale = 1e9 if sys.platform == "darwin" else 1e6  # ru_maxrss is bytes on macOS and kB elsewhere
    peaks = {"host": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 2)}
    if torch.cuda.is_available():
        peaks["gpu"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return peaks


def environment() -> dict[str, Any]:
    """Versions and device, for manifests."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {"versions": versions, "device": device}


class Stage:
    """One stage folder, held by one process from `enter` to `finish`."""

    def __init__(self, folder: Path, name: str, started: dict, manifest: dict | None, lock: Any):
        self.folder, self.name, self.started, self.manifest = folder, name, started, manifest
        self._lock, self._clock = lock, time.monotonic()

    @property
    def done(self) -> bool:
        return self.manifest is not None

    def finish(self, outputs: Iterable[Path], **facts: Any) -> dict:
        """Hash the outputs, write the manifest (last, atomically) with the `facts`, and let go of the folder."""
        hashes = {p.relative_to(self.folder).as_posix(): digest(p) for p in sorted(outputs)}
        self.manifest = {
            **self.started,
            **facts,
            "outputs": hashes,
            "fingerprint": digest_of(hashes),
            **environment(),
            "seconds": round(time.monotonic() - self._clock, 1),
            "peak_memory_gb": peak_memory_gb(),
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_json(self.folder / "manifest.json", self.manifest)
        (self.folder / "started.json").unlink(missing_ok=True)
        self.close()
        return self.manifest

    def forget(self) -> None:
        """Remove the folder of a stage that cannot begin: whoever mends its inputs is not held to the broken ones."""
        self.close()
        shutil.rmtree(self.folder)

    def close(self) -> None:
        """Let go of the folder; another process may have it."""
        self._lock.close()


def enter(folder: Path, name: str, profile: str, inputs: dict[str, str], settings: dict, redo: bool = False) -> Stage:
    """Open a stage folder for work, or find it done.

    Args:
        folder: where the stage writes.
        inputs: name -> fingerprint of everything the stage reads.
        settings: what else decides the result (recipe, seed, sampler); must survive a round trip through JSON.
        redo: empty the folder first.

    Raises:
        UserError: another process holds the folder, or it was made from other inputs or settings.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if abandoned := _HELD.pop(folder, None):  # by an attempt of this process that failed, as a notebook cell may
        abandoned.close()
    lock = _HELD[folder] = open(folder / ".lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{folder} is being written by another process; wait for it or stop it") from None
    if redo:
        for path in folder.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    started = json.loads(
        json.dumps({"stage": name, "profile": profile, "inputs": inputs, "settings": settings}, default=str)
    )
    manifest = read_manifest(folder)
    known = begun(folder)
    if known and (changes := _changes(known, started)):
        lock.close()
        raise StaleStage(f"{folder} was made from other inputs: {'; '.join(changes)}", _anew(folder, name, profile))
    if manifest and (lost := [p for p in manifest["outputs"] if not (folder / p).exists()]):
        lock.close()
        raise StaleStage(f"{folder} lost {lost[0]} and {len(lost) - 1} more files", _anew(folder, name, profile))
    if manifest:
        print(f"{name}: found {folder} ({manifest['finished']}, {manifest['seconds']} s), skipping; --redo repeats it")
    else:
        _sweep(folder)
        if not known:
            write_json(folder / "started.json", started)
    return Stage(folder, name, started, manifest, lock)


def _anew(folder: Path, name: str, profile: str) -> str:
    """How to make a stage folder anew where the command that was typed is not known."""
    place = Path(FOLDERS.get(name, "."))
    if folder.parts[-len(place.parts) :] != place.parts or not place.parts:
        return "redo=True"
    run = folder.parents[len(place.parts) - 1]
    return f"redo=True, or {command('run', run, profile, '--redo', name)}"


def begun(folder: Path) -> dict | None:
    """What a stage folder is made from, finished or not: inputs and settings. None where it was never entered."""
    path = folder / "started.json"
    return read_manifest(folder) or (json.loads(path.read_text()) if path.exists() else None)


def _changes(old: dict, new: dict) -> list[str]:
    """Human-readable differences between what made a folder and what is asked for now."""
    changes = [] if old["profile"] == new["profile"] else [f"profile {old['profile']} -> {new['profile']}"]
    for part in ("inputs", "settings"):
        for key in sorted(old[part].keys() | new[part].keys()):
            before, after = old[part].get(key), new[part].get(key)
            if before != after:
                changes.append(f"{key} {_short(before)} -> {_short(after)}")
    return changes


def _short(value: Any) -> str:
    text = str(value)
    return text[:19] + "…" if text.startswith("sha256:") else text if len(text) <= 60 else text[:57] + "…"


def stale(run: Path) -> list[str]:
    """Finished stages whose inputs have since been made anew, in order, each with what lies downstream of it."""
    late: list[str] = []
    for name, reads in READS.items():
        manifest = read_manifest(run / FOLDERS[name])
        if manifest is None:
            continue
        sources = {read: read_manifest(run / FOLDERS[read]) for read in reads}
        outdated = any(
            source and manifest["inputs"].get(read) not in (None, source["fingerprint"])
            for read, source in sources.items()
        )
        if outdated or any(read in late for read in reads):
            late.append(name)
    return late
