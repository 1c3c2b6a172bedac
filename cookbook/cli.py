"""The `cookbook` command: one verb per stage, its flags taken from the stage function's own signature.

Only the verb that is asked for is imported, so `cookbook --help` answers at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from cookbook import __version__
from cookbook.errors import StaleStage, UserError, closest

# verb -> (module, function, what it does)
VERBS = {
    "doctor": ("cookbook.doctor", "doctor", "what this machine can run, and what is missing for each profile"),
    "prepare": (
        "cookbook.prepare.stage",
        "prepare",
        "01  collect and check training clips, captions and held-out photos",
    ),
    "plan": ("cookbook.train.planning", "plan", "02  what a training will need: memory, disk, time, downloads"),
    "explain": ("cookbook.train.recipes", "explain", "02  a recipe beside the published one, with reasons"),
    "train": ("cookbook.train.stage", "train", "02  post-train the world model on the clips"),
    "convert": ("cookbook.convert.stage", "convert", "03  turn the checkpoint into weight files, and verify them"),
    "generate": ("cookbook.generate.stage", "generate", "03  make videos from held-out photos and instructions"),
    "judge": ("cookbook.judge.stage", "judge", "04  let the critic score each video, after calibrating the critic"),
    "calibrate": ("cookbook.judge.calibration", "calibrate", "04  measure the critic on clips with known faults"),
    "filter": ("cookbook.judge.filter", "filter_clips", "04  keep the plausible videos as a training folder"),
    "run": ("cookbook.notebooks", "run_all", "execute the notebooks 00 to 04 and write the report"),
    "report": ("cookbook.report", "write_report", "write the report of a finished run"),
}


def usage() -> str:
    """The help page."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, _, text) in VERBS.items()]
    return "\n".join(
        [
            "usage: cookbook VERB [flags]     cookbook VERB --help shows the flags",
            "",
            "From one robot photo and one instruction to a filtered set of robot videos.",
            "",
            *lines,
            "",
            "Start with: cookbook doctor, then cookbook run (profile nano: two CPU cores, offline).",
        ]
    )


def find(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb at the start of the words, and the flags after it."""
    for length in (2, 1):
        if (verb := " ".join(words[:length])) in VERBS:
            return verb, list(words[length:])
    near = closest(" ".join(words[:2]), VERBS) or closest(words[0], VERBS)
    raise UserError(
        f"no verb {words[0]!r}" + (f"; did you mean `cookbook {near}`?" if near else "; see `cookbook --help`")
    )


def function(verb: str) -> Callable[..., Any]:
    """The function behind a verb."""
    module, name, _ = VERBS[verb]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cookbook"):
            raise
        raise UserError(
            f'`cookbook {verb}` needs {error.name}: pip install -c constraints.txt -e ".[dev,sim]"'
        ) from None


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb. Exit status 0 done, 1 a check failed, 2 a mistake of the user's (one line, no traceback)."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    import tyro

    try:
        verb, flags = find(words)
        result = tyro.cli(function(verb), prog=f"cookbook {verb}", args=flags, config=(tyro.conf.FlagCreatePairsOff,))
    except StaleStage as error:
        anew = f"{error.problem}. To make it anew: `{shlex.join(['cookbook', *words, '--redo'])}`"
        print(f"cookbook: {error if verb == 'run' else anew}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"cookbook: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cookbook: stopped; the same command continues where it was", file=sys.stderr)
        return 130
    return 1 if result is False else 0


if __name__ == "__main__":
    sys.exit(main())
