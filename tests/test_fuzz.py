"""A short run of `python -m tools.fuzz`, and what longer runs found."""

from __future__ import annotations

import pytest

from cookbook import layout, video
from cookbook.errors import UserError
from tools import fuzz


def test_hostile_texts_are_read_as_written_or_refused():
    fuzz.texts(10, start=1)


def test_a_cut_video_is_read_as_written_or_refused():
    counts = fuzz.videos(8, start=1)
    assert {outcome for (_, kind, outcome) in counts if kind == "cut"} <= {"refused", "as written"}


def test_an_avi_without_times_of_display_has_its_rate(tmp_path):
    fuzz.film(tmp_path / "a.avi", "libx264", 0)
    film = video.probe(tmp_path / "a.avi")
    assert (film.frames, film.fps) == (fuzz.FRAMES, 10)


def test_a_name_with_a_space_before_it_is_written_and_read(tmp_path):
    fuzz.check_names(tmp_path, [" a"])


def test_a_name_that_a_table_cannot_hold_is_refused(tmp_path):
    (tmp_path / "a\r0.mp4").touch()
    with pytest.raises(UserError, match=r"the name 'a\\r0.mp4' has a line break; rename the file"):
        layout.find_clips(tmp_path)
