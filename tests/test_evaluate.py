"""Measuring and comparing recipes of post-training: tiny models, and clips in which an arm carries a box."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import ALONE, python
from safetensors.torch import save_file

from cookbook import storage, video
from cookbook.errors import UserError
from cookbook.generate.generator import make_clip
from cookbook.judge import rules
from cookbook.judge.ground_truth import PARTS
from cookbook.judge.rules import Things, judge_clip
from cookbook.models import autoencoder, world
from cookbook.train.dataset import CachedClip
from cookbook.train.objective import batches
from nano import ablate, evaluate, generate_clips, generator, variants
from nano.generator import CENTRE, NANO, BatchGenerator

SHORT = replace(CENTRE, steps=2)


@pytest.fixture(scope="module")
def heldout(tmp_path_factory) -> Path:
    """Three scenes, each with two instructions."""
    return tiny.make_scenes(tmp_path_factory.mktemp("evaluate") / "heldout", ("place", "place", "carry"))


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Path:
    """Four clips as `assets/simulator/train` has them."""
    folder = tmp_path_factory.mktemp("evaluate") / "train"
    for index in range(4):
        video.write_video(folder / "gr1" / f"{index}.mp4", tiny.drawn(True) - np.uint8(index), 8)
    lines = [f"{index}.mp4,Use the right hand to pick up red box {index} from table to blue pad." for index in range(4)]
    (folder / "metadata.csv").write_text("\n".join(["file,prompt", *lines]) + "\n")
    return folder


@pytest.fixture
def folders(tiny_world, heldout, training, tmp_path) -> dict:
    """The folders that `ablate` and `generate_clips` take, and least sizes."""
    sizes = {"scenes": 1, "seeds": 1, "workers": 1}
    return {"models": tiny_world, "train": training, "data": (heldout,), "out": tmp_path, **sizes}


def test_rules_judge_clips_after_h264(heldout):
    blue, violet = generator.read_scenes((heldout,), 1)
    shown = tiny.drawn(True), tiny.drawn(True, place=1), tiny.drawn(False)
    placed, elsewhere, left = (evaluate.judge(frames, blue) for frames in shown)
    assert placed["passed"] and placed["shown"] == placed["named"] == {"hand": "right", "item": 0, "place": 0}
    assert not elsewhere["passed"] and elsewhere["shown"] == {part: violet.row[part] for part in PARTS}
    assert (left["outcome"], left["shown"]["item"]) == ("not placed", None)


def test_a_video_in_which_nothing_moves_executes_nothing(heldout):
    clip = generator.read_scenes((heldout,), 1)[0]
    frames = np.repeat(tiny.drawn(True)[:1], 9, 0)
    judged = evaluate.judge(frames, replace(clip, row=clip.row | {"seed": [5_000_000, 0]}), execute=True)
    assert judged["executed"]["reason"] == "not grasped"
    row = {"passed": False, "outcome": "", "reason": "", "image": "a", "model": "base", "seed": 0} | judged
    assert evaluate.tally([row, row | {"image": "b"}])["executed"] == 0


def test_all_real_clips_of_the_first_scenes_are_read(heldout, tmp_path):
    assert [clip.row["id"] for clip in generator.read_scenes((heldout,), 1)] == ["place_0_0", "place_0_1"]
    assert len(generator.read_scenes((heldout, heldout), 2)) == 8
    rows = storage.read_rows(heldout / "manifest.jsonl")
    storage.write_rows(tmp_path / "manifest.jsonl", [rows[0] | {"label": "vanish"}, *rows])
    assert [clip.row for clip in generator.read_scenes((tmp_path,), 9)] == rows
    storage.write_rows(tmp_path / "manifest.jsonl", [rows[0] | {"label": "vanish"}])
    with pytest.raises(UserError, match=r"manifest\.jsonl lists no clips"):
        generator.read_scenes((tmp_path,), 1)


@pytest.mark.parametrize(("guidance", "silent"), [(0.0, True), (2.0, False)])
def test_batched_clips_equal_the_generate_stage(tiny_world, heldout, guidance, silent):
    batches = BatchGenerator(tiny_world, generator.read_scenes((heldout,), 1), batch=3)
    model = generator.load_model(tiny_world, batches.device)
    videos = list(batches.generate(model, replace(SHORT, guidance=guidance), range(2), silent))
    assert [video[:2] for video in videos] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    index, seed, frames = videos[3]
    first, empty = autoencoder.to_tensor(batches.clips[index][:1]), batches.empty[None]
    text = empty if silent else batches.text[index][None]
    settings = (NANO.clip.latent, SHORT.steps, guidance, SHORT.shift, seed)
    alone = autoencoder.to_frames(make_clip(model, batches.vae, first, text, empty, *settings))
    assert np.abs(frames.astype(int) - alone.astype(int)).max() <= 1  # rounding to 8 bits


def test_evaluation_writes_rows_summary_and_sheet(tiny_world, heldout, tmp_path, monkeypatch, capsys):
    """The ceiling is measured on clips that were not encoded: the tiny VAE's weights are random."""
    monkeypatch.setattr(BatchGenerator, "ceiling", lambda self: ((k, 0, clip) for k, clip in enumerate(self.clips)))
    folders = {"data": (heldout,), "base": tiny_world, "tuned": tiny_world, "out": tmp_path}
    evaluate.main(evaluate.Args(**folders, seeds=1, scenes=2, steps=1, workers=1))
    rows = storage.read_rows(tmp_path / "rows.jsonl")
    counts = {model: sum(row["model"] == model for row in rows) for model in ("base", "tuned", "no text", "simulator")}
    assert counts == {"base": 4, "tuned": 4, "no text": 4, "simulator": 4}
    assert rows[0]["named"] == {"hand": "right", "item": 0, "place": 0} and rows[0]["shown"].keys() == set(PARTS)
    assert rows[0].keys() >= {"model", "clip", "prompt", "image", "seed", "outcome", "reason", "visible", "passed"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["gain"] == {"gain": 0.0, "interval": [0.0, 0.0]}  # the same weights twice
    ceiling, tuned = (summary["models"][model] for model in ("simulator", "tuned"))
    assert ceiling["rate"] == ceiling["obedience"]["place"]["own"] == ceiling["followed"]["hand"] == 1.0
    assert (tuned["clips"], sum(tuned["reason"].values()), tuned["obedience"]["place"]["clips"]) == (4, 4, 4)
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert "place: {'clips': 4, 'own': 1.0" in capsys.readouterr().out


def test_gain_pairs_clips_and_intervals_cluster_scenes():
    named = dict.fromkeys(PARTS, 0)
    common = {"model": "base", "outcome": "", "reason": "", "seed": 0, "named": named, "shown": named}
    base = [common | {"image": f"scene {index // 4}", "passed": index % 4 == 0} for index in range(16)]
    tuned = [row | {"passed": True} for row in base]
    assert evaluate.gain(base, tuned)["gain"] == 0.75
    assert evaluate.tally(base)["interval"] == [0.25, 0.25]  # every scene has one in four


def test_grid_skips_finished_settings(tiny_world, heldout, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "GRID", (SHORT, replace(SHORT, guidance=0.0)))
    folders = {"data": (heldout,), "base": tiny_world, "tuned": tiny_world, "out": tmp_path}
    args = evaluate.Args(**folders, seeds=1, scenes=1, workers=1, grid=True)
    evaluate.main(args)
    rows = storage.read_rows(tmp_path / "grid.jsonl")
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


@pytest.mark.slow
def test_sweep_trains_keeps_the_best_and_continues(folders, tiny_world, tmp_path, monkeypatch, capsys):
    short = "steps=2,batch=1,learning_rate=1e-2,warmup=1"
    only = ("steps=0", f"{short},lora_rank=2", f"{short},frozen=attn2,clips=2,ema_rate=null")
    monkeypatch.setattr(ablate, "CENTRE", SHORT)
    args = ablate.Args(**folders, only=only, keep_best=True)
    ablate.main(args)
    rows = storage.read_rows(tmp_path / "ablation.jsonl")
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
    args = ablate.Args(**folders, only=("",))
    row, model = ablate.Bench(args, ALONE, None, [], [], None).row(variants.make())
    assert model is None and row["rate"] is None and "not finite" in ablate.line(row)


@pytest.mark.slow
def test_generated_videos_are_kept_with_their_labels(folders, heldout, tmp_path, monkeypatch):
    monkeypatch.setattr(generate_clips, "NANO", replace(NANO, recipe=replace(NANO.recipe, steps=3)))
    monkeypatch.setattr(generate_clips, "CENTRE", SHORT)
    generate_clips.main(generate_clips.Args(**{**folders, "workers": 2}, batch=2))
    rows = storage.read_rows(tmp_path / "manifest.jsonl")
    assert [row["id"][:9] for row in rows] == ["steps0000"] * 2 + ["steps0001"] * 2 + ["steps0003"] * 2
    clips = {clip.row["id"]: clip for clip in generator.read_scenes((heldout,), 1)}
    for row in rows:
        frames, _ = video.read_video(tmp_path / "videos" / f"{row['id']}.mp4")
        source = clips[row["source_clip"]]
        masks, named = source.ground_truth(), {part: source.row[part] for part in PARTS}
        judgement = judge_clip(frames, Things(masks["masks_items"], masks["masks_receptacles"]), **named)
        done, reason = judgement.outcome == "placed", judgement.reason
        assert (row["instruction"], row["reason"], row["prompt"]) == (done, reason, source.row["prompt"])
        assert row["physics"] == (1 if done else 0 if reason in generate_clips.VIOLATIONS else -1)


def test_violations_are_reasons_of_the_rules():
    text = Path(rules.__file__).read_text()
    assert all(f'"{reason}"' in text for reason in generate_clips.VIOLATIONS)


@pytest.mark.slow
def test_commands_of_the_recipe_parse():
    """bash accepts nano/remake.sh, and each Python program has the flags that the script passes."""
    script = Path(evaluate.__file__).with_name("remake.sh")
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text().replace("\\\n", " ")
    commands = re.findall(r"python3? -m ((?:nano|simulator)\S*(?: make| train| clips)?) (-.*)", text)
    assert len(commands) == 9
    for program, flags in commands:
        usage = python("-m", *program.split(), "--help", check=True).stdout
        assert set(re.findall(r"--[a-z][a-z-]*", flags)) <= set(re.findall(r"--[a-z][a-z-]*", usage)), program
