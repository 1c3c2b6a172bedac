"""The `cookbook` command: one verb per stage, its flags taken from the stage function's own signature.

Only the module of the given verb is imported, and none for `--help`.
"""

import ast
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cookbook import __version__
from cookbook.errors import StaleStage, UserError, closest, last_line, shortage

CONFIG = (tyro.conf.FlagCreatePairsOff,)
ABOUT = "\nFrom one robot photo and one instruction to a filtered set of robot trajectories.\n"
START = "\nStart with: cookbook doctor, then cookbook run (profile nano: two CPU cores, offline)."

# verb -> (module, function, what it does)
VERBS = {
    "doctor": ("cookbook.doctor", "doctor", "what this machine can run, and what is missing for each profile"),
    "prepare": ("cookbook.prepare.stage", "prepare", "01  collect and check training clips and held-out photos"),
    "plan": ("cookbook.train.planning", "plan", "02  what a training will need: memory, disk, time, downloads"),
    "explain": ("cookbook.train.recipes", "explain", "02  a recipe beside the published one, with reasons"),
    "train": ("cookbook.train.stage", "train", "02  post-train the world model on the clips"),
    "convert": ("cookbook.convert.stage", "convert", "03  convert the checkpoint to weight files, and verify them"),
    "generate": ("cookbook.generate.stage", "generate", "03  generate videos from held-out photos and instructions"),
    "judge": ("cookbook.judge.stage", "judge", "04  let the critic score each video"),
    "calibrate": ("cookbook.judge.calibration", "calibrate", "04  measure the critic on clips with known faults"),
    "filter": ("cookbook.judge.filter", "filter_clips", "04  keep the plausible videos as a training folder"),
    "actions": ("cookbook.actions.stage", "actions", "05  decode videos to joint targets for the robot"),
    "actions-train": ("cookbook.actions.training", "train_actions", "05  train an inverse dynamics model on joints"),
    "actions-execute": ("cookbook.actions.execute", "execute", "05  replay the decoded actions in the simulator"),
    "actions-export": ("cookbook.actions.export", "export_actions", "05  write a LeRobot data set with the actions"),
    "policy-train": ("cookbook.policy.training", "train_policy", "06  train a policy on videos with joints"),
    "policy-rollout": ("cookbook.policy.rollout", "roll_out", "06  roll a policy out in the simulator, in closed loop"),
    "run": ("cookbook.notebooks", "run_all", "execute the notebooks 00 to 05 and write the report"),
    "report": ("cookbook.report", "write_report", "write the report of a finished run"),
}


def usage() -> str:
    """The help page."""
    lines = [f"  {verb:<{max(map(len, VERBS))}}  {text}" for verb, (_, _, text) in VERBS.items()]
    return "\n".join(["usage: cookbook VERB [flags]     cookbook VERB --help shows the flags", ABOUT, *lines, START])


def find(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb, and the flags after it."""
    verb, *flags = words
    if verb in VERBS:
        return verb, flags
    near = closest(verb, VERBS)
    raise UserError(f"no verb {verb!r}" + (f"; did you mean `cookbook {near}`?" if near else "; see `cookbook --help`"))


def function(verb: str) -> Callable[..., Any]:
    """The function of a verb."""
    module, name, _ = VERBS[verb]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cookbook"):
            raise
        raise UserError(
            f'`cookbook {verb}` needs {error.name}: pip install -c constraints.txt -e ".[dev,sim]"'
        ) from None


def signature(verb: str) -> Callable[..., Any]:
    """A verb's parameters and docstring, for `--help`: read from the source, as an import would load PyTorch."""
    module, name, _ = VERBS[verb]
    source = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    stub = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    stub.body, stub.returns, stub.decorator_list = stub.body[:1], None, []  # the docstring is all that is left of it
    names = {"Path": Path, "Annotated": Annotated, "Literal": Literal, "tyro": tyro}
    exec(ast.unparse(stub), names)
    return names[name]


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb. Exit status: 0 done, 1 a check failed, 2 a user error (one line, no traceback)."""
    words = list(sys.argv[1:] if words is None else words)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show ends no run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    status = 2
    try:
        verb, flags = find(words)
        called = signature(verb) if {"-h", "--help"} & set(flags) else function(verb)
        return int(tyro.cli(called, prog=f"cookbook {verb}", args=flags, config=CONFIG) is False)
    except UserError as error:
        message = str(error)
        if isinstance(error, StaleStage) and verb != "run":
            message = f"{error.problem}. To rebuild it, run `{shlex.join(['cookbook', *words, '--redo'])}`"
    except Exception as error:
        if (what := shortage(error)) is None:
            raise
        more = "free some space" if what == "disk" else "stop other programs, or raise the limit of `ulimit -v`"
        message = f"no {what} left ({last_line(error)}); {more}, then the same command continues"
    except KeyboardInterrupt:
        same = "the same command without --redo" if "--redo" in words else "the same command"
        message, status = f"stopped; {same} continues", 130
    print(f"cookbook: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
