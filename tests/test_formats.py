"""docs/formats.md against a run at tiny size: every documented field is written, every written one documented."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors import safe_open
from torch.distributed.checkpoint import FileSystemReader

from cookbook import profiles, results, runs, storage, video
from cookbook.actions.clips import robot_joints
from cookbook.actions.execute import execute
from cookbook.actions.export import export_actions
from cookbook.actions.model import ActionSpec, InverseDynamics
from cookbook.actions.stage import actions
from cookbook.actions.training import small
from cookbook.convert.stage import convert
from cookbook.generate.requests import ALLOWED
from cookbook.generate.stage import generate
from cookbook.judge.filter import filter_clips
from cookbook.judge.stage import judge
from cookbook.prepare.stage import prepare
from cookbook.profiles import Source
from cookbook.train.stage import train

PAGE = Path(__file__).resolve().parents[1] / "docs" / "formats.md"
SHIPPED = runs.ASSETS / profiles.nano().calibration.location
PROMPT = "Use the right hand to pick up red apple from table to white plate."
TYPES = {"text": str, "whole number": int, "number": (int, float), "yes or no": bool, "list": list, "object": dict}


def write_assets(root: Path) -> Path:
    """A critic, labelled calibration clips, and two photos with ground truth, where the profile looks for them."""
    tiny.build_critic(root / "nano" / "critic")
    spec = ActionSpec("gr1", robot_joints(), 8.0, 0.125, (32, 48), (16, 24), small(48), hidden=16)
    InverseDynamics(spec).save(root / "nano" / "actions")
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 48, 3), dtype=np.uint8)
    tiny.make_calibration(root / "simulator/calibration", [PROMPT], [np.roll(frames, index, 0) for index in range(6)])
    mask = np.zeros((32, 48), bool)
    mask[10:16, 10:16] = True
    (root / "simulator" / "eval" / "ground_truth").mkdir(parents=True)
    for index in range(2):
        facts = {"masks_items": mask[None], "masks_receptacles": np.roll(mask, 20, 1)[None]}
        facts |= {"hand": "right", "item": 0, "place": 0, "seed": (0, 0)}
        np.savez(root / "simulator" / "eval" / "ground_truth" / f"{index}.npz", **facts)
        photo = root / "simulator" / "eval" / "gr1_object" / f"{index}_{PROMPT}.png"
        photo.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 48, 3), 90 * index, np.uint8)).save(photo)
        photo.with_suffix(".txt").write_text(PROMPT)
    return root


def write_clips(folder: Path) -> Path:
    """Clips with captions, one of them too short."""
    tiny.make_clips(folder / "train")
    video.write_video(folder / "train" / "videos" / "short.mp4", np.zeros((3, 32, 48, 3), np.uint8), 8)
    (folder / "train" / "metas" / "short.txt").write_text("Wave.")
    return folder


def small_profile(world: Path, steps: int = 6) -> profiles.Profile:
    """The profile `tiny` with the labelled clips of `write_assets`, and few videos of few steps."""
    full, clips = tiny.profile(world, steps), Source("simulator/calibration", kind="dataset")
    sampling = replace(full.sampling, steps=2, seeds=2, base_seeds=1)
    return replace(full, calibration=clips, calibration_clips=6, sampling=sampling)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_world) -> Path:
    """Every stage of a run, by the real stages, with untrained models."""
    root, profile = tmp_path_factory.mktemp("formats"), small_profile(tiny_world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ASSETS", write_assets(root / "assets"))
        patch.setitem(profiles.PROFILES, "tiny", lambda: profile)
        clips, folder = write_clips(root / "clips"), root / "run"
        prepare("tiny", run=folder, train=clips / "train", skip_bad=True)
        train("tiny", run=folder)
        convert("tiny", run=folder)
        for model in ("base", "tuned"):
            generate("tiny", run=folder, model=model)
        for number, row in enumerate(storage.read_rows(folder / "generated/tuned/generated.jsonl")):
            rating = {"file": f"generated/tuned/{row['file']}", "sha256": row["sha256"], "prompt": row["prompt"]}
            rating |= {"question": "physics", "rating": 1 + number % 5, "rater": "somebody"}
            storage.append_row(folder / "ratings.jsonl", rating)
        judge("tiny", run=folder)
        filter_clips("tiny", run=folder, threshold=1.0, top=1)
        actions("tiny", run=folder)
        execute("tiny", run=folder, workers=1)
        export_actions("tiny", run=folder)
    return folder


# The page


def sections() -> dict[str, dict[str, list[str]]]:
    """Heading -> field -> the other cells of its row."""
    tables: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").strip()
        elif line.startswith("| `"):
            field, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            tables.setdefault(heading, {})[field.strip("` ")] = cells
    return tables


SECTIONS = sections()
ROWS = {
    "`data/skipped.jsonl`": ["data/skipped.jsonl"],
    "`checkpoints/log.jsonl`": ["checkpoints/log.jsonl"],
    "`generated/<model>/requests.jsonl`": ["generated/base/requests.jsonl", "generated/tuned/requests.jsonl"],
    "`generated/<model>/generated.jsonl`": ["generated/base/generated.jsonl", "generated/tuned/generated.jsonl"],
    "`verdicts/verdicts.jsonl`": ["verdicts/verdicts.jsonl"],
    "`verdicts/calibration_clips.jsonl`": ["verdicts/calibration_clips.jsonl"],
    "`verdicts/ground_truth.jsonl`": ["verdicts/ground_truth.jsonl"],
    "`ratings.jsonl`": ["ratings.jsonl"],
    "`kept/kept.jsonl` and `kept/dropped.jsonl`": ["kept/kept.jsonl", "kept/dropped.jsonl"],
    "`actions/actions.jsonl`": ["actions/actions.jsonl"],
    "`executed/executed.jsonl`": ["executed/executed.jsonl"],
}
NOT_RUN = ("generate-base", "generate-no_text", "report")
STAGES = {name: place for name, place in runs.FOLDERS.items() if name not in NOT_RUN}


def walk(value: dict, documented: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of an object as the page names it: `a.b`, or `a.<word>` if the page has a word for the key."""
    word = next((field for field in documented if re.fullmatch(re.escape(prefix) + r"<\w+>", field)), None)
    for key, child in value.items():
        path = prefix + key if prefix + key in documented else word or prefix + key
        yield path, child
        if isinstance(child, dict) and any(field.startswith(path + ".") for field in documented):
            yield from walk(child, documented, path + ".")


def problems(objects: list[dict], documented: dict[str, list[str]]) -> list[str]:
    """The differences between the objects and the page."""
    assert objects, "nothing was written"
    differences, always = [], {field for field, cells in documented.items() if not cells[2].startswith("Only")}
    for value in objects:
        fields = list(walk(value, documented))
        differences += [f"{field} is not documented" for field, _ in fields if field not in documented]
        differences += [f"{field} is not written" for field in always - {field for field, _ in fields}]
        differences += [
            f"{field} is {v!r}" for field, v in fields if field in documented and not fits(v, *documented[field][:2])
        ]
    return sorted(set(differences))


def fits(value: Any, kind: str, limits: str) -> bool:
    """Whether a value is of the documented type and within the documented range."""
    if value is None:
        return kind.endswith(" or null")
    wanted = TYPES[kind.removesuffix(" or null")]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        return False
    if edges := re.match(r"(\d+) to (\d+)", limits):
        return int(edges[1]) <= value <= int(edges[2])
    least = re.match(r"at least (\d+)", limits)
    return not least or value >= int(least[1])


@pytest.mark.parametrize("heading", ROWS)
def test_rows_are_as_documented(run, heading):
    assert problems([row for file in ROWS[heading] for row in storage.read_rows(run / file)], SECTIONS[heading]) == []


def test_every_field_of_a_request_is_documented():
    """Also those that no run of ours writes: the check of a user's file defines what is allowed."""
    assert set(SECTIONS["`generated/<model>/requests.jsonl`"]) == set(ALLOWED)


def test_calibration_is_as_documented(run):
    calibration = json.loads((run / "verdicts" / "calibration.json").read_text())
    assert problems([calibration], SECTIONS["`verdicts/calibration.json`"]) == []


@pytest.mark.parametrize("stage", STAGES)
def test_manifests_are_as_documented(run, stage):
    documented = SECTIONS["`manifest.json`"] | SECTIONS[f"Facts of `{stage}`"]
    assert problems([runs.read_manifest(run / STAGES[stage])], documented) == []


def test_every_file_is_listed_and_every_listed_file_is_written(run):
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    listed = {pattern: set(run.glob(pattern)) for pattern in SECTIONS["Everything in a run"]}
    assert [pattern for pattern, matches in listed.items() if not matches] == []
    assert sorted(str(path.relative_to(run)) for path in set(files).difference(*listed.values())) == []


def test_the_shipped_calibration_clips_are_as_documented():
    text = " ".join(PAGE.read_text().split())
    described = re.search(r"calibration_clips.jsonl` with the fields (.*?)\.", text)[1]
    rows = storage.read_rows(SHIPPED / "calibration_clips.jsonl")
    assert set(re.findall(r"`(\w+)`", described)) == set(rows[0])


def test_checkpoint_keys_are_as_documented(run):
    folder = run / "checkpoints" / (run / "checkpoints" / "latest_checkpoint.txt").read_text().strip()
    page = re.search(r"## Checkpoints\n(.*?)\n## ", PAGE.read_text(), re.S)[1]
    keys = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.M)
    patterns = {(part, re.escape(key).replace("<name>", ".+").replace("<key>", r"\w+")) for part, key in keys}
    for part in sorted({part for part, _ in keys}):
        written = set(FileSystemReader(folder / part).read_metadata().state_dict_metadata)
        mine = [pattern for name, pattern in patterns if name == part]
        assert all(any(re.fullmatch(pattern, key) for pattern in mine) for key in written)
        assert all(any(re.fullmatch(pattern, key) for key in written) for pattern in mine)


@pytest.mark.slow
def test_the_adapter_file_is_as_documented(tiny_profile, tiny_clips, tmp_path):
    tiny_profile(steps=1, lora_rank=4)
    train("tiny", run=tmp_path, data=tiny_clips)
    convert("tiny", run=tmp_path)
    page = re.search(r"## The adapter file\n(.*?)\n## ", PAGE.read_text(), re.S)[1]
    with safe_open(tmp_path / re.match(r"\s*`([^`]+)`", page)[1], "pt") as file:
        facts = json.loads(file.metadata()["lora_adapter_metadata"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    keys = dict(re.findall(r"^\| `([^`]+)` \| \[(.*?)\] \|", page, re.M))
    assert set(facts) <= set(re.findall(r"`(transformer\.\w+)`", page)) and facts["transformer.r"] == 4
    modules = facts["transformer.target_modules"]
    assert {key.replace("<module>", module) for key in keys for module in modules} == set(tensors)
    for key, tensor in tensors.items():
        side = next(shape for pattern, shape in keys.items() if key.endswith(pattern.split(">")[1])).split(", ")
        assert tensor.dtype == torch.float32 and tensor.shape[side.index("r")] == 4


def test_each_result_has_its_expected_range(run, tiny_world):
    checks = {check.what: check.ok for check in results.checks(run, tiny.profile(tiny_world))}
    video = checks.pop("first frame of a video against its photo")
    assert not video, "the world model is not trained"
    assert len(checks) == 3 and all(checks.values())
