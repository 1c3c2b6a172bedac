"""The guardrail checks every clip, what it blocks is recorded, and only the flag with the clause switches it off."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cookbook import profiles, storage
from cookbook.cli import main
from cookbook.errors import UserError
from cookbook.generate.stage import generate


class Checker:
    """In place of NVIDIA's gated weights: blocks prompts with a knife, and every second video."""

    checked: list = []  # prompts and shapes of videos

    def check_text_safety(self, prompt):
        self.checked.append(prompt)
        return "knife" not in prompt

    def check_video_safety(self, frames):
        self.checked.append(frames.shape)
        return frames if sum(isinstance(item, tuple) for item in self.checked) % 2 else None


@pytest.fixture
def guarded(tmp_path, rows_file, tiny_profile, tiny_world, monkeypatch):
    """Arguments of `generate` for two prompts and two seeds, by a profile with a guardrail."""
    profile = replace(tiny_profile(), guardrail=True)
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: profile)
    bad = {"name": "bad", "prompt": "Take the knife.", "num_steps": 1}
    Checker.checked = []
    requests = rows_file({"name": "good", "num_steps": 1}, bad)
    return {"run": tmp_path / "run", "requests": requests, "weights": tiny_world, "seeds": 2}


def test_every_seed_is_checked_and_blocked_clips_are_recorded(guarded, monkeypatch):
    monkeypatch.setitem(sys.modules, "cosmos_guardrail", SimpleNamespace(CosmosSafetyChecker=Checker))
    manifest = generate("tiny", **guarded)
    assert (manifest["clips"], manifest["blocked"]) == (1, 3)
    rows = storage.read_rows(guarded["run"] / "generated/tuned/generated.jsonl")
    assert {row["file"]: row.get("reason") for row in rows} == {
        "good_seed0.mp4": None,
        "good_seed1.mp4": "guardrail: video",
        "bad_seed0.mp4": "guardrail: prompt",
        "bad_seed1.mp4": "guardrail: prompt",
    }
    assert [path.name for path in (guarded["run"] / "generated/tuned").glob("*.mp4")] == ["good_seed0.mp4"]
    assert Checker.checked.count("Take the knife.") == 2 and Checker.checked.count((9, 32, 48, 3)) == 2


def test_without_its_package_nothing_is_generated(guarded, monkeypatch):
    monkeypatch.setitem(sys.modules, "cosmos_guardrail", None)
    with pytest.raises(UserError, match="pip install 'cosmos_guardrail"):
        generate("tiny", **guarded)
    assert not list((guarded["run"] / "generated/tuned").glob("*.mp4"))


def test_the_flag_prints_the_clause_and_is_recorded(guarded, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cosmos_guardrail", None)
    manifest = generate("tiny", without_guardrail=True, **guarded)
    assert "NVIDIA Open Model License, section 2.1" in capsys.readouterr().out
    assert manifest["clips"] == 4 and manifest["settings"]["guardrail"] == "off"
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "NVIDIA Open Model License, section 2.1" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_the_flag_is_refused_without_a_guardrail(capsys):
    assert main(["generate", "--profile", "smoke", "--without-guardrail"]) == 2
    assert "profile smoke has none" in capsys.readouterr().err


def test_only_nvidias_weights_have_a_guardrail():
    assert {name for name, make in profiles.PROFILES.items() if make().guardrail} == {"2b-smoke", "2b", "14b"}
