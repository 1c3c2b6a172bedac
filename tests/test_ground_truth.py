"""Ground truth where the scene is known: drawn clips of one photo, judged by rules on pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cookbook import profiles, runs, video
from cookbook.errors import UserError
from cookbook.judge import ground_truth, pixels, rules
from nano.task_rules import judge_task

RED, GREEN, BLUE, TABLE, ARM = (200, 30, 30), (30, 160, 30), (40, 60, 200), (190, 170, 140), (25, 25, 27)
HOME, PAD = (40, 110), (36, 60)  # top left of a red box, 12 pixels wide, and of its destination, a pad 28 wide


def picture(box: tuple[int, int] = HOME, hand: int | None = None) -> np.ndarray:
    """uint8 [96, 160, 3]: a pad, a box, and an arm that enters from the right up to column `hand`."""
    frame = np.full((96, 160, 3), TABLE, np.uint8)
    frame[PAD[0] : PAD[0] + 20, PAD[1] : PAD[1] + 28] = BLUE
    frame[box[0] : box[0] + 12, box[1] : box[1] + 12] = RED
    if hand is not None:
        frame[46:66, hand:] = ARM
    return frame


def drawn(carried: bool, gap: int = 4, stays: bool = False) -> np.ndarray:
    """uint8 [25, 96, 160, 3]: the arm enters, carries the box or does not, and leaves or stays.

    gap: columns from the box's left edge to the arm.
    """
    columns = np.linspace(HOME[1], PAD[1] + 8, 11).round().astype(int)
    rows = [(picture(), 5), *((picture((40, column) if carried else HOME, column + gap), 1) for column in columns)]
    end = (40, int(columns[-1])) if carried else HOME
    last = picture(end, int(columns[-1]) + gap if stays else None)
    return np.concatenate([np.repeat(frame[None], count, 0) for frame, count in [*rows, (last, 9)]])


@pytest.fixture
def rows(tmp_path, monkeypatch) -> list[dict]:
    """Two clips of photo 7, one of them a success, and one of an unknown photo."""
    monkeypatch.setattr(runs, "ASSETS", tmp_path)
    folder = tmp_path / "simulator/eval"
    (folder / "gr1_object").mkdir(parents=True)
    (folder / "ground_truth").mkdir()
    Image.fromarray(picture()).save(folder / "gr1_object/7_Do it..png")
    (folder / "gr1_object/7_Do it..txt").write_text("Do it.")
    box, pad = masks()
    np.savez(folder / "ground_truth/7.npz", mask_target=box, mask_receptacle=pad, hand="right")
    photo, clips = runs.digest(folder / "gr1_object/7_Do it..png"), []
    for model, carried, image in (("tuned", True, photo), ("base", False, photo), ("base", True, "sha256:other")):
        path = tmp_path / f"{len(clips)}.mp4"
        video.write_video(path, drawn(carried), 8)
        facts = {"model": model, "name": "000_7_Do_it", "prompt": "Do it.", "seed": len(clips), "image": image}
        clips.append({"file": path.name, "path": path, **facts})
    return clips


def test_clips_of_known_photos_are_judged_once(rows, tmp_path):
    outcomes = ground_truth.measure(profiles.nano(), rows, tmp_path / ground_truth.NAME)
    assert [(row["file"], row["passed"]) for row in outcomes] == [("0.mp4", True), ("1.mp4", False)], outcomes
    assert outcomes[1]["reason"] == "the object is still in its place"
    assert ground_truth.measure(profiles.nano(), rows, tmp_path / ground_truth.NAME) == outcomes
    assert len(runs.read_rows(tmp_path / ground_truth.NAME)) == 2
    rates = ground_truth.rates(outcomes)
    assert (rates["success_rate_tuned"], rates["success_rate_base"]) == (1.0, 0.0)


def test_without_masks_there_is_no_ground_truth(rows, tmp_path):
    for file in (tmp_path / "simulator/eval/ground_truth").iterdir():
        file.unlink()
    (tmp_path / "simulator/eval/ground_truth").rmdir()
    assert ground_truth.measure(profiles.nano(), rows, tmp_path / ground_truth.NAME) == []
    assert ground_truth.measure(profiles.cosmos_2b(), rows, tmp_path / ground_truth.NAME) == []
    assert ground_truth.rates([])["success_rate_base"] is None


def masks() -> tuple[np.ndarray, np.ndarray]:
    box, pad = (np.all(picture() == colour, -1) for colour in (RED, BLUE))
    return box, pad


@pytest.mark.parametrize(
    ("colour", "outcome"),
    [((190, 50, 60), "placed"), ((185, 45, 45), "placed"), ((110, 160, 40), "not placed"), (BLUE, "not placed")],
)
def test_a_slightly_faded_object_is_recognised(colour, outcome):
    """A VAE fades colours; a different colour is a different object."""
    frames = drawn(True)
    late = frames[8:]
    late[np.all(late == RED, -1)] = colour
    assert rules.judge_clip(frames, *masks(), "right").outcome == outcome


@pytest.mark.parametrize(("end", "reason"), [((RED, GREEN), ""), ((GREEN, GREEN), "the object changed its colour")])
def test_an_object_of_two_colours_keeps_both(end, reason):
    """If all of it turns green, every pixel has a colour of the target, and yet it is another object."""
    frames = drawn(True)
    for part, colours in ((frames[:-3], (RED, GREEN)), (frames[-3:], end)):
        for frame in part:
            rows = np.argwhere(np.all(frame == RED, -1))
            for (row, column), upper in zip(rows, rows[:, 0] < HOME[0] + 6, strict=True):
                frame[row, column] = colours[0] if upper else colours[1]
    assert rules.judge_clip(frames, *masks(), "right").reason == reason


TWICE = "the object is seen twice"


@pytest.mark.parametrize(("colour", "reason"), [((195, 90, 80), TWICE), ((120, 80, 60), TWICE), ((182, 158, 132), "")])
def test_a_faded_copy_in_its_first_place_is_a_copy(colour, reason):
    """A faded or brown remnant differs from the table around it; a slight shadow or stain does not."""
    frames = drawn(True)
    box, pad = masks()
    frames[8:, box] = np.where(np.all(frames[8:, box] == TABLE, -1, keepdims=True), colour, frames[8:, box])
    assert rules.judge_clip(frames, box, pad, "right").reason == reason


def test_a_hand_that_stays_holds_the_object():
    """It is beside the box, not around it, but never moves away from it."""
    went, stayed = (rules.judge_clip(drawn(True, 20, stays), *masks(), "right") for stays in (False, True))
    assert (went.outcome, stayed.outcome, stayed.reason) == ("placed", "not placed", "the object is still in the hand")


def test_a_hand_far_away_has_let_go_though_its_arm_is_near():
    """The arm is beside the box at the end, its fingers far above it."""
    box, pad = masks()
    frames = drawn(True)
    column = PAD[1] + 8 + 12  # the box's right edge
    frames[-3:, 5:60, column : column + 18] = frames[-3:, 46:60, column:] = ARM
    assert pixels.touch(np.all(frames[-1] == RED, -1), pixels.arm(frames[-1], frames[0])) > 0.15
    assert rules.judge_clip(frames, box, pad, "right").outcome == "placed"


@pytest.mark.parametrize(("gap", "outcome"), [(4, "placed"), (7, "not placed")])
def test_a_near_hand_must_have_drawn_back_farther(gap, outcome):
    """It ends beside the box, on a fifth of it, after drawing back by eight columns or by five."""
    frames = drawn(True, gap)
    frames[-9:] = picture((40, PAD[1] + 8), PAD[1] + 8 + 12)
    assert rules.judge_clip(frames, *masks(), "right").outcome == outcome


def test_an_object_that_overlaps_its_first_place_is_judged_in_full():
    """Four tenths of it stick out of the pad towards its first place: it was dropped across the edge."""

    def scene(column: int, hand: int | None = None) -> np.ndarray:
        frame = picture((40, column), hand)
        frame[np.all(frame == BLUE, -1)] = TABLE
        beside = frame[PAD[0] : PAD[0] + 20, 80:103]
        beside[np.all(beside == TABLE, -1)] = BLUE
        return frame

    moves = [scene(column, column + 4) for column in range(HOME[1], 97, -1)]
    frames = np.stack([scene(HOME[1])] * 4 + moves + [scene(98)] * 9)
    first = scene(HOME[1])
    verdict = rules.judge_clip(frames, np.all(first == RED, -1), np.all(first == BLUE, -1), "right")
    assert verdict.reason == "the object ended elsewhere"


def test_an_arm_enters_from_the_side_or_below_and_may_have_gaps():
    """A carried object or a highlight separates hand and sleeve; a dark object on the table is no arm."""
    first = picture()
    frame = picture(hand=90)
    frame[46:66, 120:124] = TABLE  # a gap of a carried object
    frame[10:40, 10:40] = ARM  # larger than the arm's hand, and nowhere near an edge
    robot = pixels.arm(frame, first)
    assert robot[50, 95] and robot[50, 150] and not robot[10:40, 10:40].any()
    frame[:, 120:] = TABLE
    assert not pixels.arm(frame, first).any(), "no sleeve reaches the border"


def test_a_bright_object_is_recognised_on_a_dark_place():
    """A white bottle on a black tray is brighter than the tray and its shadow."""
    white, black = (215, 215, 210), (30, 30, 34)

    def scene(corner: tuple[int, int]) -> np.ndarray:
        frame = picture()
        frame[np.all(frame == BLUE, -1)] = black
        frame[np.all(frame == RED, -1)] = TABLE
        frame[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = white
        return frame

    first, at_end = scene(HOME), scene((PAD[0] + 4, PAD[1] + 8))
    place, shadow = np.all(first == black, -1), first.copy()
    shadow[place] = (12, 12, 14)
    model = pixels.Appearance(first, np.all(first == white, -1))
    sizes = [model.arrived(np.repeat(frame[None], 3, 0), place).sum() for frame in (at_end, shadow, first)]
    assert sizes == [144, 0, 0]


@pytest.mark.parametrize(("colour", "size"), [((120, 130, 112), 0), ((100, 150, 90), 144)])
def test_a_tinted_shadow_is_not_an_object_of_that_colour(colour, size):
    """The shadow of a hand on a white tray may resemble the grayish green of a bottle."""
    white, first = (225, 225, 225), picture()
    first[np.all(first == BLUE, -1)] = white
    first[np.all(first == RED, -1)] = colour
    shaded, model = first.copy(), pixels.Appearance(first, np.all(first == colour, -1))
    shaded[PAD[0] + 4 : PAD[0] + 16, PAD[1] + 8 : PAD[1] + 20] = colour
    assert model.arrived(np.repeat(shaded[None], 3, 0), np.all(first == white, -1)).sum() == size


@pytest.mark.parametrize(("rows", "outcome"), [(12, "placed"), (5, "placed"), (3, "undetermined")])
def test_too_little_of_an_object_is_undetermined(rows, outcome):
    """Three tenths of it must be visible: the rest may lie anywhere."""
    frames = drawn(True)
    top, left = HOME[0], PAD[1] + 8
    frames[-3:, top + rows : top + 12, left : left + 12] = BLUE
    assert rules.judge_clip(frames, *masks(), "right").outcome == outcome


def test_a_long_object_may_stick_out_of_its_place():
    """It rests there if its middle and most of it are inside; not if its middle is outside."""
    place = np.zeros((96, 160), bool)
    place[40:60, 40:60] = True

    def bar(first: int) -> np.ndarray:
        """Its upper half in the place, its lower half 20 wide from column `first` on."""
        thing = np.zeros_like(place)
        thing[50:52, 42:60] = thing[52:54, first : first + 20] = True
        return thing

    assert pixels.base_share(bar(50), place) == 0.5
    assert [pixels.rests_in(bar(first), place, 76.0) for first in (40, 50, 58)] == [True, True, False]
    assert not pixels.rests_in(bar(50), place, 300.0)  # only part of it is visible: the rest may lie beside


def test_a_place_extends_upwards_by_the_object_height():
    box, pad = masks()
    model = pixels.Appearance(picture(), box)
    above, below = picture((PAD[0] - 10, 70)), picture((PAD[0] + 22, 70))
    sizes = [model.arrived(np.repeat(frame[None], 3, 0), pad).sum() for frame in (above, below)]
    assert sizes[0] > 60 and sizes[1] == 0


def test_a_move_is_judged_by_the_named_side():
    moved = {side: judge_task(drawn(True), *masks(), "right", "move", toward=side) for side in ("left", "right")}
    assert (moved["left"].outcome, moved["right"].reason) == ("done", "the object went elsewhere")
    with pytest.raises(UserError, match="toward is None: a `move` is judged by the named side, left or right"):
        judge_task(drawn(True), *masks(), "right", "move")
