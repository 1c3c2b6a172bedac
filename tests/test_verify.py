"""`cookbook verify`: the shipped nano models pass every check; what is broken fails by name and stops the rest."""

from __future__ import annotations

import pytest
import tiny

from cookbook import profiles, verify


def test_nano_passes_every_check_in_a_folder_that_is_gone_afterwards(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(verify.tempfile, "tempdir", str(tmp_path))
    assert verify.verify("nano") is True
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("| ")][1:]
    assert len(lines) == len(verify.STAGES) and all(line.endswith("| pass |") for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first_loss, failing", [(0.7, "first loss"), (None, "one clip")])
def test_untrained_weights_fail_and_the_rest_is_not_run(first_loss, failing, tiny_world, monkeypatch, tmp_path):
    """Random weights are stopped by their first loss; where any is allowed, by a clip that is not like its photo."""
    monkeypatch.setitem(
        profiles.PROFILES, "tiny", lambda: tiny.profile(tiny_world, first_loss=first_loss, learning_rate=1e-4)
    )
    rows = verify.check(profiles.get("tiny"), tmp_path)
    states = {row.check: row.good for row in rows}
    names = list(states)
    place = names.index(failing)
    assert states[failing] is False
    assert all(states[name] for name in names[:place]) and all(states[name] is None for name in names[place + 1 :])
    assert f"| {failing} | " in verify.table("tiny", rows) and "**FAIL**" in verify.table("tiny", rows)
