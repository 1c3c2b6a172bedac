"""Run folders and manifests: how stages exchange files, resume, and detect changed inputs.

A run is one folder with one subfolder per stage. A stage folder holds `started.json`, written first, and
`manifest.json`, written last and atomically, when it is finished. A folder without a manifest is continued, a folder
with one is skipped, and a folder built from different inputs or settings is refused with a list of what changed.
`redo` moves what the folder holds into its `.earlier/`, which is deleted when all new results are there.
Run folders may come from strangers: no symbolic link in them is followed when something is written or deleted.
"""

import fcntl
import json
import os
import shlex
import time
from collections.abc import Callable, Iterable, Set
from functools import wraps
from pathlib import Path
from typing import IO, Any

from cookbook import storage
from cookbook.environment import environment, peak_memory_gb
from cookbook.errors import StaleStage, UserError
from cookbook.profiles import DEFAULT

ASSETS = Path(__file__).resolve().parents[1] / "assets"
HOME = storage.absolute(os.environ.get("COOKBOOK_HOME") or ASSETS.parent)

# stage -> its folder in the run, and the stages that it reads from
STAGES = {
    "prepare": ("data",),
    "train": ("checkpoints", "prepare"),
    "convert": ("export", "train"),
    "generate-base": ("generated/base", "prepare"),
    "generate-tuned": ("generated/tuned", "prepare", "convert"),
    "generate-no_text": ("generated/no_text", "prepare", "convert"),
    "judge": ("verdicts", "generate-base", "generate-tuned", "generate-no_text"),
    "filter": ("kept", "judge"),
    "actions": ("actions", "generate-base", "generate-tuned"),
    "execute": ("executed", "actions"),
    "actions-export": ("lerobot", "actions", "execute", "judge", "filter"),
    "report": ("report", "train", "convert", "judge", "filter", "execute"),
}
FOLDERS = {name: folder for name, (folder, *_) in STAGES.items()}
READS = {name: tuple(reads) for name, (_, *reads) in STAGES.items()}
OPTIONAL = ("execute",)  # not in every run: it needs an inverse dynamics model and the simulator's robot
# Stages that use nothing of an unfinished attempt
REWRITTEN = ("prepare", "convert", "filter", "actions-export", "report")
STARTED = {"stage", "profile", "inputs", "settings"}  # fields of started.json, and the first of a manifest's
_LOCKS: dict[Path, Any] = {}  # folder -> lock file held by this process
_PROFILES: dict[Path, str] = {}  # run -> profile of the last call of this process for it


def run_folder(run: Path | str | None, profile: str) -> Path:
    """The folder of a run: as given, or `runs/<profile>` of this checkout (or of $COOKBOOK_HOME).

    Raises:
        UserError: an older version of the cookbook, with other names of files, wrote the folder.
    """
    folder = storage.absolute(run) if run else HOME / "runs" / profile
    try:
        above = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        raise UserError(f"--run {str(folder)[:60]}...: {error.strerror}; choose another folder") from None
    if not above.is_dir():
        raise UserError(f"--run {folder}: {above} is a file; choose another folder")
    if (folder / "dreams").exists() or (begun(folder / "data") or {}).get("stage") == "data":
        raise UserError(
            f"{folder} was written by an older version of the cookbook, with other file names; "
            f"choose another folder with --run, or delete it: `{shlex.join(['rm', '-r', str(folder)])}`"
        )
    _PROFILES[folder] = profile
    return folder


def command(verb: str, run: Path, profile: str | None = None, *more: str) -> str:
    """The command line for a verb in this run folder, in backquotes, with default arguments omitted.

    Args:
        profile: without it, that of the call in which this is said, or of the stages in the folder.
    """
    words, stages = ["cookbook", verb], (begun(run / folder) for folder in FOLDERS.values())
    profile = profile or _PROFILES.get(run) or next((stage["profile"] for stage in stages if stage), DEFAULT)
    if profile != DEFAULT:
        words += ["--profile", profile]
    if run != HOME / "runs" / profile:
        here = Path.cwd()
        words += ["--run", str(run.relative_to(here) if here in run.parents else run)]
    return f"`{shlex.join([*words, *more])}`"


def flags(**values: Any) -> list[str]:
    """The flags of a call, without those that have no value, so that a message can repeat the call."""
    words: list[str] = []
    for name, value in values.items():
        if value is not None and value is not False:
            several = value if isinstance(value, tuple) else () if value is True else (value,)
            texts = [str(v.absolute() if isinstance(v, Path) else v) for v in several]
            words += [f"--{name.replace('_', '-')}", *texts]
    return words


def releasing(function: Callable) -> Callable:
    """Decorator of stages: a call that fails, or is interrupted in a notebook, gives its stage folder back."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BaseException:
            while _LOCKS:
                _LOCKS.popitem()[1].close()
            raise

    return call


def fingerprint(folder: Path) -> str:
    """One hash over the names and contents of a folder's files, without manifests and hidden files."""
    if (manifest := read_manifest(folder)) is not None:
        return manifest["fingerprint"]
    files = storage.contents(folder)
    return storage.digest_of({path.relative_to(folder).as_posix(): storage.digest(path) for path in files})


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a finished stage folder, or None if the stage is unfinished or the manifest is damaged."""
    return _facts(folder / "manifest.json", STARTED | {"outputs", "fingerprint", "seconds", "finished"})


def manifest_of(run: Path, stage: str, profile: str | None = None) -> dict:
    """The manifest of a stage of a run.

    Raises:
        UserError: the stage is not finished.
    """
    if (manifest := read_manifest(run / FOLDERS[stage])) is None:
        verb, _, model = stage.partition("-")
        first = command(verb, run, profile, *(["--model", model] if model else []))
        raise UserError(f"{run / FOLDERS[stage]} is not finished: type {first} first")
    return manifest


def _facts(path: Path, fields: set[str]) -> dict | None:
    """The JSON object of a file; None where there is no file, or no object with these fields in it."""
    try:
        facts = storage.parse(path.read_bytes()) if path.exists() else None
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and fields <= facts.keys() else None


class Stage:
    """One stage folder, held by one process from `enter` to `finish`."""

    def __init__(self, folder: Path, name: str, started: dict, manifest: dict | None, lock: Any):
        self.folder, self.name, self.started, self.manifest = folder, name, started, manifest
        self._lock, self._clock = lock, time.monotonic()

    @property
    def done(self) -> bool:
        return self.manifest is not None

    def finish(self, outputs: Iterable[Path], **facts: Any) -> dict:
        """Hash the outputs, write the manifest with the `facts` (last, atomically), and release the folder."""
        hashes = {p.relative_to(self.folder).as_posix(): storage.digest(p) for p in sorted(outputs)}
        self.manifest = {
            **self.started,
            **facts,
            "outputs": hashes,
            "fingerprint": storage.digest_of(hashes),
            **environment(),
            "seconds": round(time.monotonic() - self._clock, 1),
            "peak_memory_gb": peak_memory_gb(),
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        storage.remove(self.folder / storage.EARLIER)
        storage.write_json(self.folder / "manifest.json", self.manifest)
        self.close()
        return self.manifest

    def close(self) -> None:
        """Release the folder for other processes."""
        self._lock.close()


def enter(
    folder: Path,
    name: str,
    profile: str,
    inputs: dict[str, str],
    settings: dict,
    redo: bool = False,
    mends: Callable[[Set[str]], bool] | None = None,
) -> Stage:
    """Open a stage folder for work, or find it finished.

    Args:
        folder: where the stage writes.
        inputs: name -> fingerprint of everything the stage reads.
        settings: what else determines the result (recipe, seed, sampler); must survive a round trip through JSON.
        redo: begin anew; what the folder holds is kept in its `.earlier/` until the stage is finished.
        mends: whether the caller replaces exactly the outputs that are lost or that depend on the inputs and settings
            of these names, which changed. The folder is then continued.

    Raises:
        UserError: another process is writing the folder.
        StaleStage: the folder was built from different inputs or settings, or an output is missing.
    """
    folder = folder.absolute()
    lock = _lock(folder, redo)
    facts = {"stage": name, "profile": profile, "inputs": inputs, "settings": settings}
    started = json.loads(json.dumps(facts, default=str))
    if (redo or _worthless(folder, started)) and storage.set_aside(folder):
        print(f"{name}: {folder / storage.EARLIER} keeps the earlier results until the new ones are finished")
    manifest, earlier = read_manifest(folder), begun(folder)
    changes = _changes(earlier, started) if earlier else {}
    lost = [path for path in manifest["outputs"] if not (folder / path).exists()] if manifest else []
    if changes or lost:
        more = f" and {len(lost) - 1} more" if lost[1:] else ""
        text = "; ".join(changes.values())
        problem = f"was built from different inputs: {text}" if changes else f"lost {lost[0]}{more}"
        if not (mends and mends(changes.keys())):
            lock.close()
            run = Path(folder.as_posix().removesuffix(f"/{FOLDERS.get(name)}"))
            again = f", or run {command('run', run, profile, '--redo', name)}" if run != folder else ""
            raise StaleStage(f"{folder} {problem}", f"pass redo=True{again}")
        print(f"{name}: {folder} {problem}; unaffected results are kept")
        storage.write_json(folder / "started.json", started)
        (folder / "manifest.json").unlink(missing_ok=True)
        manifest = None
    if manifest:
        lock.close()
        print(f"{name}: found {folder} ({manifest['finished']}, {manifest['seconds']} s), skipping; --redo repeats it")
    else:
        storage.sweep(folder)
        if not earlier:
            storage.write_json(folder / "started.json", started)
    return Stage(folder, name, started, manifest, lock)


def _lock(folder: Path, redo: bool) -> IO:
    """Make the folder, and lock it for this process."""
    paths = [folder / ".lock"]
    if redo or read_manifest(folder) is None:  # a finished folder is only read, so it may lie elsewhere
        paths += [folder, folder / storage.EARLIER]
        paths += () if redo else (path for path in folder.rglob("*") if storage.EARLIER not in path.parts)
    storage.refuse_links(*paths)
    if folder in _LOCKS:  # left by a failed attempt of this process, such as a notebook cell
        _LOCKS.pop(folder).close()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _LOCKS[folder] = open(folder / ".lock", "a", opener=storage.no_link)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); choose another folder with --run") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{folder} is being written by another process; wait for it or stop it") from None
    return lock


def _worthless(folder: Path, started: dict) -> bool:
    """Whether a folder holds nothing to continue: its inputs are unknown, or are others and gave no result yet.

    A damaged manifest alone costs nothing: `started.json` has the inputs, and the stage is finished again.
    """
    if read_manifest(folder):
        return False
    earlier, files = begun(folder), [folder / "manifest.json", folder / "started.json"]
    if damaged := [path for path in files if path.exists() and _facts(path, STARTED) is None]:
        again = "it" if earlier else f"all of {folder}"
        print(f"{started['stage']}: {damaged[0]} is damaged; {again} is computed again")
    if not earlier or not _changes(earlier, started):
        return bool(damaged) and not earlier
    kept = ("started.json", "requests.jsonl")
    results = [path for path in folder.iterdir() if path.name[0] != "." and path.name not in kept]
    return started["stage"] in REWRITTEN or not any(path.is_dir() or path.stat().st_size for path in results)


def begun(folder: Path) -> dict | None:
    """Inputs and settings of a stage folder, finished or not. None if the stage was never entered."""
    return read_manifest(folder) or _facts(folder / "started.json", STARTED)


def _changes(old: dict, new: dict) -> dict[str, str]:
    """How the inputs and settings of a folder differ from those of this call: name -> difference in words."""
    rows = [("profile", old["profile"], new["profile"])]
    for part in ("inputs", "settings"):
        keys = sorted(old[part].keys() | new[part].keys())
        rows += [(key, old[part].get(key), new[part].get(key)) for key in keys]
    return {key: f"{key} {_short(before)} -> {_short(after)}" for key, before, after in rows if before != after}


def _short(value: Any) -> str:
    text = str(value)
    return text[:19] + "…" if text.startswith("sha256:") else text if len(text) <= 60 else text[:57] + "…"


def downstream(stages: Iterable[str]) -> list[str]:
    """These stages and all that read them, directly or not, in order."""
    affected = set(stages)
    for name, reads in READS.items():
        if affected & set(reads):
            affected.add(name)
    return [name for name in READS if name in affected]


def finished(run: Path) -> dict[str, dict]:
    """The manifests of a run's finished stages, by stage."""
    manifests = {name: read_manifest(run / folder) for name, folder in FOLDERS.items()}
    return {name: manifest for name, manifest in manifests.items() if manifest}
