"""Pictures of a run: the gallery's groups, painted masks, and one request at several checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from PIL import ImageColor

from cookbook import pictures, profiles, video
from cookbook.generate.requests import read_requests


def test_a_gallery_has_a_group_for_each_pair_of_facts():
    facts = [(True, True), (True, False), (False, False), (True, True), (True, True)]
    endings = [(tiny.clip(number)[-1], *pair) for number, pair in enumerate(facts)]
    picture = np.asarray(pictures.gallery(endings, columns=2, width=60))
    height, title = 40 + 2 * 3, 18  # of a tile of 64 x 96 made 60 wide, with its frame
    assert picture.shape == ((2 + 1 + 1) * height + 3 * title, 2 * 66, 3)
    for row, group in ((title, (True, True)), (2 * (title + height), (True, False))):
        colour = ImageColor.getrgb(pictures.GROUPS[group][1])
        assert (picture[row + 2 : row + height - 2, :3] == colour).all(), group


def test_only_the_mask_is_painted():
    frame, mask = np.full((4, 6, 3), 100, np.uint8), np.zeros((4, 6), bool)
    mask[1, 2] = True
    painted = pictures.paint(frame, mask, "red")
    assert painted[1, 2].tolist() == [177, 50, 50] and (painted[~mask] == 100).all() and (frame == 100).all()


@pytest.mark.slow
def test_a_request_is_generated_with_the_weights_of_each_checkpoint(exported, photos, tmp_path):
    profile = profiles.get("tiny")
    (checkpoint, *_) = sorted((exported[0] / "checkpoints").glob("iter_*"))
    request = read_requests(photos, profile)[0]
    files = pictures.at_checkpoints(profile, request, [None, checkpoint], tmp_path / "made")
    assert [file.name for file in files] == ["base.mp4", f"{checkpoint.name}.mp4"]
    base, trained = (video.read_video(file)[0] for file in files)
    assert base.shape == trained.shape and (base != trained).any()
    times = [file.stat().st_mtime_ns for file in files]
    assert pictures.at_checkpoints(profile, request, [None, checkpoint], tmp_path / "made") == files
    assert [file.stat().st_mtime_ns for file in files] == times
