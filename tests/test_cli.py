"""The command line: its flags are frozen here, `--help` is fast, and a user error prints one line."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest
import tyro
from conftest import python

from cookbook import cli, profiles
from cookbook.errors import StaleStage, UserError

STAGE = {"--profile", "--run"}
TRAINING = {"--data", "--out", "--weights", "--profile", "--height", "--steps", "--batch", "--redo"}
TRAINING |= {"--learning-rate", "--seed", "--camera", "--key"}
FLAGS = {
    "doctor": {"--profile"},
    "prepare": STAGE | {"--train", "--eval", "--skip-bad", "--redo"},
    "plan": STAGE | {"--recipe", "--steps"},
    "explain": {"--profile", "--recipe"},
    "train": STAGE | {"--recipe", "--data", "--steps", "--seed", "--base", "--redo"},
    "convert": STAGE | {"--checkpoint", "--redo"},
    "generate": STAGE
    | {"--model", "--requests", "--weights", "--seeds", "--ray", "--fast", "--without-guardrail", "--redo"},
    "calibrate": STAGE,
    "judge": STAGE | {"--critic", "--ray", "--redo"},
    "filter": STAGE | {"--threshold", "--top", "--redo"},
    "actions": STAGE | {"--model-folder", "--videos", "--redo"},
    "actions-train": TRAINING | {"--backbone"},
    "actions-execute": STAGE | {"--workers", "--redo"},
    "actions-export": STAGE | {"--version", "--redo"},
    "policy-train": TRAINING,
    "policy-rollout": {"--policy", "--out", "--scenes", "--profile", "--limit", "--videos", "--workers", "--redo"},
    "run": STAGE | {"--only", "-p", "--parameter", "--redo"},
    "report": STAGE | {"--redo"},
}
NAMES = ", ".join(profiles.PROFILES)


def flags(function) -> dict[str, object]:
    """Flag -> its default."""
    parser = tyro.extras.get_parser(function, config=cli.CONFIG)
    actions = [action for action in parser._actions if action.dest != "help"]
    return {flag: action.default for action in actions for flag in action.option_strings}


@pytest.mark.filterwarnings("ignore:get_parser")
@pytest.mark.parametrize("verb", FLAGS)
def test_flags_are_frozen_and_help_shows_those_of_the_function(verb):
    assert set(flags(cli.function(verb))) == FLAGS[verb] and set(cli.VERBS) == set(FLAGS)
    assert flags(cli.signature(verb)) == flags(cli.function(verb))
    assert cli.signature(verb).__doc__ == cli.function(verb).__doc__
    assert cli.signature(verb).__defaults__[0] in (None, profiles.DEFAULT), "profile is the first parameter"


def test_help_imports_nothing_heavy():
    script = """
import sys
from cookbook import cli
cli.main(["--help"])
for verb in cli.VERBS:
    try:
        cli.main([verb, "--help"])
    except SystemExit:
        pass
sys.exit(bool({"torch", "diffusers", "pandas", "matplotlib"} & set(sys.modules)))
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    for verb in cli.VERBS:
        assert f"  {verb} " in done.stdout and f"usage: cookbook {verb} " in done.stdout


@pytest.mark.parametrize(
    "words, message",
    [
        (["trian"], "no verb 'trian'; did you mean `cookbook train`?"),
        (["doctor", "--profile", "3b"], f"no profile '3b'; did you mean 2b? There are {NAMES}"),
        (["doctor", "--profile", "huge"], f"no profile 'huge'; there are {NAMES}"),
    ],
)
def test_a_user_error_prints_one_line_with_status_2(words, message, capsys):
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"cookbook: {message}\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "two"}, "Recipe.steps is 'two' (Input should be a valid integer)"),
        ({"batch": 2.5}, "Recipe.batch is 2.5 (Input should be a valid integer)"),
        ({"save_every": -1}, "Recipe.save_every is -1 (Input should be greater than 0)"),
        ({"crop": "false"}, "Recipe.crop is 'false' (Input should be a valid boolean)"),
        ({"name": 123}, "Recipe.name is 123 (Input should be a valid string)"),
    ],
)
def test_a_field_of_a_profile_of_another_type_is_refused_by_name(change, message, monkeypatch, capsys):
    own = lambda: replace(profiles.nano(), recipe=replace(profiles.nano().recipe, **change))  # noqa: E731
    monkeypatch.setitem(profiles.PROFILES, "own", own)
    assert cli.main(["plan", "--profile", "own"]) == 2
    assert capsys.readouterr().err == f"cookbook: profile own: {message}\n"


def test_a_stale_stage_is_rebuilt_by_the_printed_command(monkeypatch, capsys):
    def stage(run: str, redo: bool = False) -> None:
        if not redo:
            raise StaleStage("a/data was built from different inputs: clips", "pass redo=True")

    monkeypatch.setattr(cli, "function", lambda verb: stage)
    assert cli.main(["prepare", "--run", "my runs"]) == 2
    fix = "To rebuild it, run `cookbook prepare --run 'my runs' --redo`"
    assert capsys.readouterr().err == f"cookbook: a/data was built from different inputs: clips. {fix}\n"
    assert cli.main(shlex.split(fix.split("`")[1])[1:]) == 0


@pytest.mark.parametrize(
    "verb, first",
    [words.split() for words in ("train prepare", "convert train", "generate convert", "filter judge", "report train")],
)
def test_a_stage_without_its_inputs_names_the_command_for_the_same_run(verb, first, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([verb, "--run", "runs/mine"]) == 2
    assert f"type `cookbook {first} --run runs/mine` first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "status", "line"),
    [
        (False, 1, None),
        ({"clips": 0}, 0, None),
        (KeyboardInterrupt(), 130, "cookbook: stopped; the same command continues"),
        (OSError(28, "No space left on device"), 2, "cookbook: no disk left .*free some space"),
        (MemoryError(), 2, "cookbook: no memory left .MemoryError.; stop other programs"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B"),
            2,
            "no memory left",
        ),
        (ImportError("libtorch.so: failed to map segment from shared object"), 2, "no memory left"),
    ],
)
def test_what_a_verb_returns_or_raises_is_a_status_and_at_most_one_line(result, status, line, monkeypatch, capsys):
    def verb() -> object:
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(cli, "function", lambda _: verb)
    assert cli.main(["doctor"]) == status
    printed = capsys.readouterr().err
    assert printed.count("\n") == bool(line) and re.search(line or "^$", printed)


def test_a_missing_package_is_named(monkeypatch):
    def absent(name: str) -> None:
        raise ModuleNotFoundError("No module named 'pandas'", name="pandas")

    monkeypatch.setattr(cli, "import_module", absent)
    with pytest.raises(UserError, match="`cookbook report` needs pandas: pip install"):
        cli.function("report")


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("tools.publish nowhere", "cookbook: nowhere/notebooks/timings.json is missing"),
        pytest.param(
            "nano.evaluate --grid --data a --base b --out c",
            "cookbook: --grid samples the tuned model",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_programs_print_one_line_too(program, sentence):
    done = python("-m", *program.split())
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(sentence) and "Traceback" not in done.stderr
