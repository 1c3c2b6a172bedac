"""CONTRIBUTING.md: the files and names it points to exist, and its example works."""

from __future__ import annotations

import re
from pathlib import Path

from cookbook import profiles, results, runs
from cookbook.judge import calibration_clips, scoring
from cookbook.models import sizes

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_files_it_names_exist():
    named = re.findall(r"`((?:cookbook|tests|notebooks|docs|\.ci)/[\w./]+)`", PAGE)
    assert len(named) >= 8
    assert [path for path in named if not (ROOT / path).exists() and "NN" not in path] == []


def test_the_example_of_a_profile_works(monkeypatch):
    monkeypatch.setattr(profiles, "PROFILES", dict(profiles.PROFILES))
    exec(re.search(r"```python\n(.*?)```", PAGE, re.S)[1], vars(profiles))  # as if it stood in that file
    made = profiles.get("long")
    assert made.clip.frames == 49 and made.clip.tokens > profiles.nano().clip.tokens
    assert sizes.config(made.world)["num_layers"] > 0
    del profiles.long


def test_the_names_it_explains_are_still_there():
    assert set(runs.READS) == set(runs.FOLDERS)
    assert scoring.QUESTIONS == results.QUESTIONS
    for question in scoring.QUESTIONS:
        text, cue = scoring.read_rubric(question)
        assert cue == "Score: " and (question == "physics" or "{instruction}" in text)
        assert question in calibration_clips.CalibrationClip.__dataclass_fields__
