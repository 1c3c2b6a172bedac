"""Measuring and comparing recipes of post-training: tiny models, and clips in which a bar carries a square."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from safetensors.torch import save_file

from cookbook import runs, video
from cookbook.engine import Group
from cookbook.errors import UserError
from cookbook.generate.sampler import make_clip
from cookbook.models import autoencoder, world
from cookbook.train.dataset import CachedClip
from cookbook.train.objective import batches
from nano import ablate, evaluate, generate_clips, generator, variants
from nano.generator import CENTRE, NANO, BatchGenerator

ROOT = Path(__file__).resolve().parents[1]
ALONE = Group(0, 1, torch.device("cpu"))
SHORT = replace(CENTRE, steps=2)


def drawn(offset: int = 0, carried: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames [25, 96, 160, 3] in which a bar from the right carries a red square onto a blue pad, and both masks."""
    frames = np.full((25, 96, 160, 3), (200, 200, 190), np.uint8)
    frames[:, 50:80, 40:80] = (40, 70, 200)
    target, pad = np.zeros((96, 160), bool), np.zeros((96, 160), bool)
    target[55 + offset : 67 + offset, 110:122] = True
    pad[50:80, 40:80] = True
    for time, frame in enumerate(frames):
        left = 110 if not carried else round(110 - 56 * min(time, 16) / 16)
        frame[55 + offset : 67 + offset, left : left + 12] = (210, 30, 30)
        if 0 < time < 20:
            frame[58:63, left + 12 :] = (120, 120, 120)
    return frames, target, pad


def write_folder(folder: Path, tasks: tuple[str, ...]) -> Path:
    """A folder in the layout of `simulator.make`."""
    (folder / "ground_truth").mkdir(parents=True)
    rows = []
    for index, task in enumerate(tasks):
        name = f"{task}_{index}"
        frames, target, pad = drawn(index)
        video.write_video(folder / "videos" / f"{name}.mp4", frames, 8)
        np.savez(folder / "ground_truth" / f"{name}.npz", mask_target=target, mask_receptacle=pad)
        prompt = f"Use the right hand to pick up red box {index} from table to blue pad."
        rows.append({"id": name, "label": "real", "task": task, "prompt": prompt, "hand": "right", "sha256": name})
        rows.append(rows[-1] | {"id": f"{name}-vanish", "label": "vanish"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def heldout(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("evaluate") / "heldout", ("place", "place", "reach"))


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Path:
    """Four clips as `assets/simulator/train` has them."""
    folder = tmp_path_factory.mktemp("evaluate") / "train"
    for index in range(4):
        video.write_video(folder / "gr1" / f"{index}.mp4", drawn(index)[0], 8)
    lines = [f"{index}.mp4,Use the right hand to pick up red box {index} from table to blue pad." for index in range(4)]
    (folder / "metadata.csv").write_text("\n".join(["file,prompt", *lines]) + "\n")
    return folder


@pytest.fixture
def folders(tiny_world, heldout, training, tmp_path) -> dict:
    """The folders that `ablate` and `generate_clips` take."""
    return {"models": tiny_world, "train": training, "data": (heldout,), "out": tmp_path}


def typed(**flags: object) -> list[str]:
    """Flags on the command line: those given, little of everything, and two processes that judge."""
    words = ["--prompts=1", "--seeds=1", "--workers=2"]
    for name, value in flags.items():
        words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def test_rules_judge_clips_after_h264(heldout):
    clip = generator.read_scenes((heldout,), 1)[0]
    placed, left = (evaluate.judge(drawn(carried=carried)[0], clip) for carried in (True, False))
    assert (placed["outcome"], placed["passed"]) == ("placed", True), placed
    assert (left["outcome"], left["passed"]) == ("not placed", False)


def test_clips_are_real_and_limited_per_task(heldout):
    assert [scene.row["id"] for scene in generator.read_scenes((heldout,), 1)] == ["place_0", "reach_2"]
    assert len(generator.read_scenes((heldout, heldout), 9)) == 6


def test_missing_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.jsonl lists no clips"):
        generator.read_scenes((tmp_path,), 1)


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_batched_clips_equal_the_generate_stage(tiny_world, heldout, guidance):
    batches = BatchGenerator(tiny_world, generator.read_scenes((heldout,), 2)[:2], batch=3)
    model = generator.load_model(tiny_world, batches.device)
    videos = list(batches.generate(model, replace(SHORT, guidance=guidance), range(2)))
    assert [video[:2] for video in videos] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    index, seed, frames = videos[3]
    first = autoencoder.to_tensor(batches.clips[index][:1])
    text, empty = batches.text[index][None], batches.empty[None]
    settings = (NANO.clip.latent, SHORT.steps, guidance, SHORT.shift, seed)
    alone = autoencoder.to_frames(make_clip(model, batches.vae, first, text, empty, *settings))
    assert np.abs(frames.astype(int) - alone.astype(int)).max() <= 1  # rounding to 8 bits


def test_zeros_instead_of_the_empty_prompt_change_the_clip(tiny_world, heldout):
    batches = BatchGenerator(tiny_world, generator.read_scenes((heldout,), 1)[:1])
    model = generator.load_model(tiny_world, batches.device)
    with torch.no_grad():  # untrained, the text hardly changes the network's output
        for block in model.transformer_blocks:
            block.attn2.to_out[0].weight.mul_(30)
    settings = (replace(SHORT, guidance=4.0, negative=negative) for negative in ("empty prompt", "zeros"))
    one, other = (next(batches.generate(model, setting, range(1)))[2] for setting in settings)
    assert (one != other).any()


def test_evaluation_writes_rows_summary_and_sheet(tiny_world, heldout, tmp_path, capsys):
    folders = {"data": (heldout,), "base": tiny_world, "tuned": tiny_world, "out": tmp_path}
    args = evaluate.Args(**folders, seeds=2, prompts=2, steps=1, workers=1)
    evaluate.main(args)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 3 * 2 + 3
    assert {"model", "prompt", "seed", "task", "outcome", "reason", "visible", "passed"} <= rows[0].keys()
    models = json.loads((tmp_path / "summary.json").read_text())
    assert models["gain"] == {"gain": 0.0, "interval": [0.0, 0.0]}  # the same weights twice
    facts = models["models"]["tuned"]["place"]
    assert (facts["clips"], facts["prompts"], sum(facts["reason"].values())) == (4, 2, 4)
    assert models["models"]["simulator"]["reach"]["rate"] == 0.0  # undetermined is failure
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert "place" in capsys.readouterr().out


def test_gain_pairs_clips_and_intervals_cluster_prompts():
    base = [{"prompt": f"p{index // 4}", "passed": index % 4 == 0, "outcome": "", "reason": ""} for index in range(16)]
    tuned = [row | {"passed": True} for row in base]
    assert evaluate.gain(base, tuned)["gain"] == 0.75
    assert evaluate.tally(base)["interval"] == [0.25, 0.25]  # every prompt has one in four


def test_grid_skips_finished_settings(tiny_world, heldout, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "GRID", (SHORT, replace(SHORT, guidance=0.0)))
    folders = {"data": (heldout,), "base": tiny_world, "tuned": tiny_world, "out": tmp_path}
    args = evaluate.Args(**folders, seeds=1, prompts=1, workers=1, grid=True)
    evaluate.main(args)
    rows = [json.loads(line) for line in (tmp_path / "grid.jsonl").read_text().splitlines()]
    assert [row["network_evaluations"] for row in rows] == [4, 2] and all("rate" in row for row in rows)
    monkeypatch.setattr(BatchGenerator, "generate", lambda *_: pytest.fail("generated again"))
    evaluate.main(args)


def test_variants_are_parsed():
    assert (ablate.parse("").name, ablate.parse("steps=0").name) == ("nano", "steps=0")
    assert ablate.parse("steps=200").recipe().cycle == 200
    assert variants.make().recipe().learning_rate == NANO.recipe.learning_rate
    variant = ablate.parse("learning_rate=1e-3, ema_rate=null, clips=40, frozen=attn2+norm2")
    assert (variant.recipe().learning_rate, variant.recipe().ema_rate, variant.clips) == (1e-3, None, 40)
    assert variant.frozen == ("attn2", "norm2") and ablate.parse("") == variants.make()
    with pytest.raises(UserError, match="has no 'speed'"):
        ablate.parse("speed=2")


def test_clips_in_memory_give_the_batches_of_the_cache(tmp_path):
    latents, text = torch.randn(3, 16, 2, 4, 4), torch.randn(5, 8)
    save_file({"latents": latents}, tmp_path / "latents")
    save_file({"text": text}, tmp_path / "text")
    recipe = replace(NANO.recipe, batch=3)
    pairs = [
        vars(batches([clip], recipe, 0, ALONE)(2))
        for clip in (CachedClip(tmp_path / "latents", tmp_path / "text"), variants.Resident(latents, text))
    ]
    assert all(torch.equal(one, other) for one, other in zip(*(pair.values() for pair in pairs), strict=True))


def test_fewer_clips_are_spread():
    clips = list(range(9))
    assert variants.choose(clips, 3) == [0, 4, 8]
    assert variants.choose(clips, None) == clips == variants.choose(clips, 20)


@pytest.mark.slow
def test_sweep_trains_keeps_the_best_and_continues(folders, tiny_world, tmp_path, monkeypatch, capsys):
    short = "steps=2,batch=1,learning_rate=1e-2,warmup=1"
    only = ("steps=0", f"{short},lora_rank=2", f"{short},frozen=attn2,clips=2,ema_rate=null")
    settings = {"prompts": 1, "seeds": 1, "workers": 1, "keep_best": True}
    monkeypatch.setattr(ablate, "CENTRE", SHORT)
    args = ablate.Args(**folders, only=only, **settings)
    ablate.main(args)
    rows = [json.loads(line) for line in (tmp_path / "ablation.jsonl").read_text().splitlines()]
    assert [row["differs"]["steps"] for row in rows] == [0, 2, 2]
    assert [row["heldout_after"] == row["heldout_before"] for row in rows[:2]] == [True, False]
    best = world.load_transformer(tmp_path / "best").state_dict()
    kept = json.loads((tmp_path / "best" / "row.json").read_text())
    assert kept["name"] == max(rows[1:], key=ablate.quality)["name"]
    start = world.load_transformer(tiny_world).state_dict()
    moved = {name for name in start if not torch.equal(start[name], best[name])}
    assert moved and ("lora_rank" in kept["differs"] or not any("attn2" in name for name in moved))
    monkeypatch.setattr(ablate, "post_train", lambda *_: pytest.fail("trained again"))
    ablate.main(args)
    assert capsys.readouterr().out.count("steps=0 ") == 3  # when it was computed, and in two tables


def test_gradients_that_are_not_finite_are_a_row(folders, monkeypatch):
    def diverge(*_):
        raise UserError("step 1: gradients are not finite")

    monkeypatch.setattr(ablate, "post_train", diverge)
    args = ablate.Args(**folders, only=("",), prompts=1, seeds=1)
    row, model = ablate.Bench(args, ALONE, None, [], [], None).row(variants.make())
    assert model is None and row["rate"] is None and "not finite" in ablate.line(row)


@pytest.mark.slow
def test_generated_videos_are_kept_with_their_labels(folders, heldout, tmp_path, monkeypatch):
    monkeypatch.setattr(generate_clips, "NANO", replace(NANO, recipe=replace(NANO.recipe, steps=3)))
    monkeypatch.setattr(generate_clips, "CENTRE", SHORT)
    generate_clips.main(tyro.cli(generate_clips.Args, args=typed(**folders, batch=2)))
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["id"][:9] for row in rows] == ["steps0000"] * 2 + ["steps0001"] * 2 + ["steps0003"] * 2
    clips = {clip.row["id"]: clip for clip in generator.read_scenes((heldout,), 1)}
    for row in rows:
        frames, _ = video.read_video(tmp_path / "videos" / f"{row['id']}.mp4")
        masks = clips[row["source_clip"]].ground_truth()
        judgement = evaluate.judge_task(
            frames, masks["mask_target"], masks["mask_receptacle"], row["hand"], row["task"]
        )
        assert row["instruction"] == (judgement.outcome in evaluate.rules.SUCCESS) and row["reason"] == judgement.reason
        assert row["physics"] == (
            1 if row["instruction"] else 0 if judgement.reason in generate_clips.VIOLATIONS else -1
        )


def run(program: str, **flags: object) -> str:
    """What a program of nano/ prints on the command line."""
    command = [sys.executable, "-m", f"nano.{program}", *typed(**flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_ablate_runs_from_the_command_line(folders, tiny_world, tmp_path):
    printed = run("ablate", **folders, only="steps=2,batch=1,learning_rate=1e-2,ema_rate=null")
    (row,) = runs.read_rows(tmp_path / "ablation.jsonl")
    assert row["differs"] == {"steps": 2, "batch": 1, "learning_rate": 0.01, "ema_rate": None}
    assert (row["clips"], row["prompts"], sum(row["outcome"].values())) == (2, 2, 2), "one of each task"
    assert row["base"] == world.weights_fingerprint(tiny_world) and row["measured"] == "2 prompts x 1 seeds"
    assert row["heldout_after"] != row["heldout_before"] and row["steps_per_second"] > 0
    assert printed.count(ablate.line(row)) == 2, "when it was computed, and in the table"


@pytest.mark.slow
def test_evaluate_runs_from_the_command_line(heldout, tiny_world, tmp_path):
    printed = run("evaluate", data=heldout, base=tiny_world, tuned=tiny_world, out=tmp_path, steps=1)
    rows = runs.read_rows(tmp_path / "rows.jsonl")
    assert [(row["model"], row["clip"]) for row in rows] == [
        (model, clip) for model in ("base", "tuned", "simulator") for clip in ("place_0", "reach_2")
    ]
    placed = next(row for row in rows if row["model"] == "simulator")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["models"]["simulator"]["place"]["outcome"] == {placed["outcome"]: 1}
    assert summary["gain"]["gain"] == 0.0 and "simulator  place" in printed
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.slow
def test_commands_of_the_recipe_parse():
    """bash accepts nano/remake.sh, and each Python program has the flags that the script passes."""
    script = ROOT / "nano" / "remake.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text().replace("\\\n", " ")
    commands = re.findall(r"python3? -m ((?:nano|simulator)\S*(?: make| train)?) (-.*)", text)
    assert len(commands) == 8
    for program, flags in commands:
        command = [sys.executable, "-m", *program.split(), "--help"]
        usage = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert set(re.findall(r"--[a-z][a-z-]*", flags)) <= set(re.findall(r"--[a-z][a-z-]*", usage)), program
