"""The command line: its flags are frozen here, so that none comes by accident, and mistakes get one line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest
import tyro

from cookbook import cli
from cookbook.errors import StaleStage, UserError

STAGE = {"--profile", "--run"}
DRAWN = {"--task", "--twins", "--size", "--randomize", "--look"}
FLAGS = {
    "doctor": {"--profile"},
    "verify": {"--profile"},
    "prepare": STAGE | {"--train", "--eval", "--skip-bad", "--redo"},
    "plan": STAGE | {"--recipe", "--data", "--steps"},
    "explain": {"--profile", "--recipe"},
    "train": STAGE | {"--recipe", "--data", "--steps", "--seed", "--base", "--sample-every", "--redo"},
    "convert": STAGE | {"--checkpoint", "--redo"},
    "generate": STAGE
    | {"--model", "--requests", "--weights", "--seeds", "--ray", "--fast", "--without-guardrail", "--redo"},
    "calibrate": STAGE | {"--critic", "--ray"},
    "judge": STAGE | {"--clips", "--explain", "--critic", "--ray", "--redo"},
    "filter": STAGE | {"--threshold", "--top", "--redo"},
    "run": STAGE | {"--only", "--from", "-p", "--parameter", "--redo"},
    "report": STAGE | {"--redo"},
    "workshop make": {"--out", "--clips", "--seed", "--every", "--workers", "--pairs", "--failures", "--clean"} | DRAWN,
    "workshop show": {"--out"} | DRAWN,
}


@pytest.mark.filterwarnings("ignore:get_parser")
@pytest.mark.parametrize("verb", FLAGS)
def test_flags_are_frozen(verb):
    if verb.startswith("workshop") and find_spec("mujoco") is None:
        pytest.skip("NOT RUN: the workshop world needs the extra `sim`: pip install -e .[sim]")
    parser = tyro.extras.get_parser(cli.function(verb), config=(tyro.conf.FlagCreatePairsOff,))
    flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    assert flags == FLAGS[verb]


def test_every_verb_is_frozen():
    assert set(cli.VERBS) == set(FLAGS)


def test_help_names_every_verb_and_loads_nothing_heavy():
    script = "import sys; from cookbook import cli; cli.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=cli.__file__.rsplit("/", 2)[0]
    )
    assert done.returncode == 0, done.stderr
    for verb in cli.VERBS:
        assert verb in done.stdout


def test_a_verb_of_two_words_is_found():
    assert cli.find(["workshop", "make", "--clips", "3"]) == ("workshop make", ["--clips", "3"])
    assert cli.find(["train", "--steps", "3"]) == ("train", ["--steps", "3"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["trian"], "no verb 'trian'; did you mean `cookbook train`?"),
        (["doctor", "--profile", "3b"], "no profile '3b'; did you mean 2b? There are smoke, nano, 2b, 14b"),
        (["doctor", "--profile", "smoek"], "no profile 'smoek'; did you mean smoke? There are smoke, nano, 2b, 14b"),
        (["doctor", "--profile", "huge"], "no profile 'huge'; there are smoke, nano, 2b, 14b"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(words, message, capsys):
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"cookbook: {message}\n"


def test_what_was_made_from_something_else_is_made_anew_by_the_command_that_is_told(monkeypatch, capsys):
    def stage(run: str, redo: bool = False) -> None:
        if not redo:
            raise StaleStage("a/data was made from other inputs: clips", "redo=True")

    monkeypatch.setattr(cli, "function", lambda verb: stage)
    assert cli.main(["prepare", "--run", "my runs"]) == 2
    told = "a/data was made from other inputs: clips. To make it anew: `cookbook prepare --run 'my runs' --redo`"
    assert capsys.readouterr().err == f"cookbook: {told}\n"
    assert cli.main(shlex.split(told.split("`")[1])[1:]) == 0


@pytest.mark.parametrize(
    "verb, first",
    [("train", "prepare"), ("convert", "train"), ("generate", "convert"), ("judge", "generate"), ("filter", "judge")],
)
def test_a_stage_without_its_inputs_names_the_command_for_the_same_run(verb, first, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([verb, "--run", "runs/mine"]) == 2
    assert f"type `cookbook {first} --run runs/mine` first" in capsys.readouterr().err


def test_a_failed_check_gives_status_1(monkeypatch):
    monkeypatch.setattr(cli, "function", lambda verb: lambda: False)
    assert cli.main(["doctor"]) == 1
    monkeypatch.setattr(cli, "function", lambda verb: lambda: {"clips": 0})
    assert cli.main(["doctor"]) == 0


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "function", lambda verb: interrupted)
    assert cli.main(["train"]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch):
    def absent(name: str) -> None:
        raise ModuleNotFoundError("No module named 'mujoco'", name="mujoco")

    monkeypatch.setattr(cli, "import_module", absent)
    with pytest.raises(UserError, match="`python -m simulator make` needs mujoco: pip install"):
        cli.function("workshop make")


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("tools.publish nowhere", "cookbook: nowhere/notebooks/timings.json is missing"),
        ("nano.evaluate --grid --data a --base b --out c", "cookbook: --grid samples the tuned model"),
    ],
)
def test_other_programs_speak_in_a_line_too(program, sentence, tmp_path):
    done = subprocess.run([sys.executable, "-m", *program.split()], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(sentence) and "Traceback" not in done.stderr
