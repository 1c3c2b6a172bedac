"""What dreams really did, where the scene is known: drawn dreams of one photo, judged without a critic."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cookbook import profiles, store, video
from cookbook.judge import outcomes

RED, BLUE, TABLE, ARM = (200, 30, 30), (40, 60, 200), (190, 170, 140), (25, 25, 27)
HOME, PAD = (40, 110), (36, 60)  # top left of a red box, 12 pixels wide, and of the pad it shall go to, 28 wide


def picture(box: tuple[int, int] = HOME, hand: int | None = None) -> np.ndarray:
    """uint8 [96, 160, 3]: a pad, a box, and an arm that comes in from the right up to column `hand`."""
    frame = np.full((96, 160, 3), TABLE, np.uint8)
    frame[PAD[0] : PAD[0] + 20, PAD[1] : PAD[1] + 28] = BLUE
    frame[box[0] : box[0] + 12, box[1] : box[1] + 12] = RED
    if hand is not None:
        frame[46:66, hand:] = ARM
    return frame


def dream(carried: bool) -> np.ndarray:
    """uint8 [25, 96, 160, 3]: the arm comes and goes, and takes the box along or does not."""
    columns = np.linspace(HOME[1], PAD[1] + 8, 11).round().astype(int)
    rows = [(picture(), 5), *((picture((40, column) if carried else HOME, column + 4), 1) for column in columns)]
    end = (40, int(columns[-1])) if carried else HOME
    return np.concatenate([np.repeat(frame[None], count, 0) for frame, count in [*rows, (picture(end), 9)]])


@pytest.fixture
def rows(tmp_path, monkeypatch) -> list[dict]:
    """Two dreams of photo 7, one that placed, and one of a photo that nobody knows."""
    monkeypatch.setattr(store, "ASSETS", tmp_path)
    folder = tmp_path / "workshop/eval"
    (folder / "gr1_object").mkdir(parents=True)
    (folder / "truth").mkdir()
    Image.fromarray(picture()).save(folder / "gr1_object/7_Do it..png")
    (folder / "gr1_object/7_Do it..txt").write_text("Do it.")
    box, pad = (np.all(picture() == colour, -1) for colour in (RED, BLUE))
    np.savez(folder / "truth/7.npz", mask_target=box, mask_receptacle=pad, hand="right")
    known, made = store.digest(folder / "gr1_object/7_Do it..png"), []
    for model, carried, image in (("tuned", True, known), ("base", False, known), ("base", True, "sha256:other")):
        path = tmp_path / f"{len(made)}.mp4"
        video.write_video(path, dream(carried), 8)
        facts = {"model": model, "name": "000_7_Do_it", "prompt": "Do it.", "seed": len(made), "image": image}
        made.append({"file": path.name, "path": path, **facts})
    return made


def test_dreams_of_known_photos_are_judged_once(rows, tmp_path):
    told = outcomes.measure(profiles.nano(), rows, tmp_path / outcomes.NAME)
    assert [(row["file"], row["passed"]) for row in told] == [("0.mp4", True), ("1.mp4", False)], told
    assert told[1]["reason"] == "the object is still in its place"
    assert outcomes.measure(profiles.nano(), rows, tmp_path / outcomes.NAME) == told
    assert len(store.read_rows(tmp_path / outcomes.NAME)) == 2
    rates = outcomes.rates(told)
    assert (rates["placed_rate_tuned"], rates["placed_rate_base"]) == (1.0, 0.0)


def test_without_a_truth_nothing_is_said(rows, tmp_path):
    for file in (tmp_path / "workshop/eval/truth").iterdir():
        file.unlink()
    (tmp_path / "workshop/eval/truth").rmdir()
    assert outcomes.measure(profiles.nano(), rows, tmp_path / outcomes.NAME) == []
    assert outcomes.measure(profiles.cosmos_2b(), rows, tmp_path / outcomes.NAME) == []
    assert outcomes.rates([])["placed_rate_base"] is None
