"""Ground truth where the scene is known: drawn clips of one photo, judged by rules on pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny import ARM, BLUE, GREEN, ITEMS, PADS, RED, TABLE, WHITE, drawn, picture, things

from cookbook import profiles, runs, storage, video
from cookbook.judge import ground_truth, pixels, rules

CYAN = (20, 160, 160)
PAD = PADS[BLUE]
NAMED = {"hand": "right", "item": 0, "place": 0}


def judge(frames: np.ndarray) -> rules.Judgement:
    return rules.judge_clip(frames, things(), **NAMED)


@pytest.fixture
def clips(tmp_path, monkeypatch) -> list[dict]:
    """Three clips of photo 7, two of them successes, and one of an unknown photo."""
    monkeypatch.setattr(runs, "ASSETS", tmp_path)
    folder = tmp_path / "simulator/eval"
    (folder / "gr1_object").mkdir(parents=True)
    (folder / "ground_truth").mkdir()
    Image.fromarray(picture()).save(folder / "gr1_object/7_Do it..png")
    (folder / "gr1_object/7_Do it..txt").write_text("Do it.")
    masks = {f"masks_{name}": value for name, value in vars(things()).items()}
    np.savez(folder / "ground_truth/7.npz", **masks, **NAMED)
    photo, rows = storage.digest(folder / "gr1_object/7_Do it..png"), []
    models = (("tuned", True, photo), ("base", False, photo), ("no_text", True, photo), ("base", True, "sha256:other"))
    for model, carried, image in models:
        path = tmp_path / f"{len(rows)}.mp4"
        video.write_video(path, drawn(carried), 8)
        facts = {"model": model, "name": "000_7_Do_it", "prompt": "Do it.", "seed": len(rows), "image": image}
        rows.append({"file": path.name, "path": path, **facts})
    return rows


def test_clips_of_known_photos_are_judged_once(clips, tmp_path):
    outcomes = ground_truth.measure(profiles.nano(), clips, tmp_path / ground_truth.NAME)
    assert [row["passed"] for row in outcomes] == [True, False, True], outcomes
    assert outcomes[1]["reason"] == "the object is still in its place"
    assert outcomes[1]["shown"] == {"hand": "right", "item": None, "place": None}
    assert outcomes[0]["shown"] == outcomes[0]["named"] == NAMED
    assert ground_truth.measure(profiles.nano(), clips, tmp_path / ground_truth.NAME) == outcomes
    assert len(storage.read_rows(tmp_path / ground_truth.NAME)) == 3
    rates = ground_truth.rates(outcomes)
    assert (rates["success_rate_tuned"], rates["success_rate_base"]) == (1.0, 0.0)
    assert rates["obedience"] == {"no_text": {"hand": 1.0, "object": 1.0, "place": 1.0}}
    assert ground_truth.rates([])["success_rate_base"] is None
    (tmp_path / "simulator/eval/ground_truth/7.npz").unlink()
    for profile in (profiles.nano(), profiles.cosmos_2b()):  # the second has no masks at all
        assert ground_truth.measure(profile, clips, tmp_path / "none.jsonl") == []


def test_obedience_compares_videos_whose_instructions_differ_in_one_part():
    """Two photos: on the first every instruction is followed, on the second always the first of the three."""
    named = [NAMED, NAMED | {"item": 1}, NAMED | {"place": 1}]
    shown = {"one": [drawn(True, item=n["item"], place=n["place"]) for n in named], "two": [drawn(True)] * 3}
    rows = [
        {"model": "tuned", "image": image, "seed": 0, **ground_truth.facts(frames, things(), instruction)}
        for image, videos in shown.items()
        for frames, instruction in zip(videos, named, strict=True)
    ]
    result = ground_truth.obedience(rows)
    assert set(result) == {"object", "place"}  # no two of them differ in the hand alone
    for part in result.values():
        assert (part["clips"], part["own"], part["partner"], part["neither"]) == (4, 0.75, 0.25, 0.0)
    still = [row | ground_truth.facts(drawn(False), things(), row["named"]) for row in rows]
    assert [part["neither"] for part in ground_truth.obedience(still).values()] == [1.0, 1.0]


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_arm_that_crosses_the_picture_is_named_by_its_border(mirrored):
    frames = np.stack([picture()] * 5 + [picture(hand=(50, 160 - 8 * step)) for step in range(20)])
    assert frames[-1, 55, 10].tolist() == list(ARM)
    frames = frames[:, :, ::-1] if mirrored else frames
    assert pixels.acting_hand(frames) == ("left" if mirrored else "right")
    assert pixels.acting_hand(frames[:5]) is None


@pytest.mark.parametrize(
    ("colour", "reason"),
    [(GREEN, "another object changed"), (BLUE, "the receptacle changed"), (WHITE, "the other receptacle changed")],
)
def test_what_was_not_named_must_stay_what_it_was(colour, reason):
    frames, shaded = drawn(True), drawn(True)
    thing = np.all(frames == colour, -1)
    thing[:12] = False
    frames[thing] = TABLE  # it dissolves
    assert (judge(frames).outcome, judge(frames).reason) == ("not placed", reason)
    shaded[thing] = np.multiply(colour, 0.6)
    assert judge(shaded).outcome == "placed"


def test_the_other_hand_is_a_failure():
    flipped = drawn(True)[:, :, ::-1]
    known = things(flipped[0])
    assert rules.judge_clip(flipped, known, **NAMED).reason == "the other hand moved"
    assert rules.judge_clip(flipped, known, **NAMED | {"hand": "left"}).outcome == "placed"


@pytest.mark.parametrize(("colour", "same"), [((190, 50, 60), True), ((185, 45, 45), True), ((110, 160, 40), False)])
def test_a_slightly_faded_object_is_recognised(colour, same):
    """A VAE fades colours; a different colour is a different object."""
    frames = drawn(True)
    frames[8:][np.all(frames[8:] == RED, -1)] = colour
    assert (judge(frames).outcome == "placed") == same


def test_an_object_of_two_colours_keeps_both():
    """If all of it turns cyan, every pixel has a colour of the target, and yet it is another object."""
    frames = drawn(True)
    red = np.all(frames == RED, -1)
    frames[red & np.roll(red, 6, 1)] = CYAN  # its lower half
    assert judge(frames).outcome == "placed"
    frames[-3:][red[-3:]] = CYAN
    assert judge(frames).reason == "the object changed its colour"


TWICE = "the object is seen twice"


@pytest.mark.parametrize(("colour", "reason"), [((195, 90, 80), TWICE), ((120, 80, 60), TWICE), ((182, 158, 132), "")])
def test_a_faded_copy_in_its_first_place_is_a_copy(colour, reason):
    """A faded or brown remnant differs from the table around it; a slight shadow or stain does not."""
    frames, box = drawn(True), things().items[0]
    frames[8:, box] = np.where(np.all(frames[8:, box] == TABLE, -1, keepdims=True), colour, frames[8:, box])
    assert judge(frames).reason == reason


def test_a_hand_draws_back_from_an_object_that_it_let_go():
    """Beside the box, not around it, it must move away; if it ends on a fifth of the box, even farther."""
    went, stayed = (judge(drawn(True, 20, stays)) for stays in (False, True))
    assert (went.outcome, stayed.outcome, stayed.reason) == ("placed", "not placed", "the object is still in the hand")
    for gap, outcome in ((4, "placed"), (7, "not placed")):  # drawn back by eight columns and by five
        frames = drawn(True, gap)
        frames[-9:] = picture(ITEMS | {RED: (40, PAD[1] + 8)}, (46, PAD[1] + 8 + 12))
        assert judge(frames).outcome == outcome


def test_an_arm_may_have_gaps_but_reaches_the_border():
    """A carried object or a highlight separates hand and sleeve; a dark object on the table is no arm."""
    first, frame = picture(), picture(hand=(46, 90))
    frame[46:66, 120:124] = TABLE  # a gap of a carried object
    frame[10:40, 10:40] = ARM  # larger than the arm's hand, and nowhere near an edge
    robot = pixels.arm(frame, first)
    assert robot[50, 95] and robot[50, 150] and not robot[10:40, 10:40].any()
    frame[:, 120:] = TABLE
    assert not pixels.arm(frame, first).any(), "no sleeve reaches the border"


@pytest.mark.parametrize(
    ("item", "pad", "shade"),
    [((215, 215, 210), (30, 30, 34), (12, 12, 14)), ((100, 150, 90), WHITE, (120, 130, 112))],
)
def test_an_object_is_told_from_the_shadow_on_its_place(item, pad, shade):
    """A white thing on a black tray; a green one on a white tray, where a hand's shadow is a greenish grey."""
    first = picture({})
    first[np.all(first == BLUE, -1)] = pad
    place, target = things(picture({})).receptacles[0], things().items[0]
    moved, shaded = first.copy(), first.copy()
    first[target], shaded[place], moved[PAD[0] + 4 : PAD[0] + 16, PAD[1] + 8 : PAD[1] + 20] = item, shade, item
    model = pixels.Appearance(first, target)
    assert [model.arrived(np.stack([frame] * 3), place).sum() for frame in (moved, shaded, first)] == [144, 0, 0]


@pytest.mark.parametrize(
    ("height", "width", "reason"),
    [(12, 12, ""), (5, 12, ""), (3, 12, "too little of the object is seen"),
     (16, 16, "the object is too large: it hangs in the air")],
)  # fmt: skip
def test_an_object_keeps_its_size(height, width, reason):
    """Three tenths of it must be visible: the rest may lie anywhere."""
    frames = drawn(True)
    frames[-3:, 40:52, 68:80] = BLUE
    frames[-3:, 40 : 40 + height, 66 : 66 + width] = RED
    assert judge(frames).reason == reason


def test_a_long_object_may_stick_out_of_its_place():
    """It rests there if its middle and most of it are inside; not if its middle is outside."""
    place = np.zeros((96, 160), bool)
    place[40:60, 40:60] = True

    def rests(first: int, area: float = 76.0) -> bool:
        """A thing with its upper half in the place and its lower half 20 wide from column `first` on."""
        thing = np.zeros_like(place)
        thing[50:52, 42:60] = thing[52:54, first : first + 20] = True
        return pixels.rests_in(thing, place, area)

    assert [rests(first) for first in (40, 50, 58)] == [True, True, False]
    assert not rests(50, 300.0)  # only part of it is visible: the rest may lie beside
