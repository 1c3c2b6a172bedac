"""The benchmark programs run, at tiny size on a CPU; their figures on GPUs are taken by hand."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import pytest
from test_cluster import new_cluster

from cookbook import profiles


@pytest.mark.slow
def test_training_table_has_every_method_at_equal_first_loss(tiny_profile, monkeypatch, capsys, tmp_path):
    program, profile = import_module("train"), tiny_profile()
    lora = replace(profile.recipe, name="lora", lora_rank=4)
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: replace(profile, alternatives=(lora,)))
    rows = program.main("tiny", steps=2, out=tmp_path / "train.md")
    assert [(row.method, row.trained) for row in rows] == [
        (method, trained)
        for trained in ("all", "LoRA 4")
        for method in ("plain diffusers", "ours, selective", "ours, 0.25")
    ]
    assert [row.first_loss for row in rows] == pytest.approx([rows[0].first_loss] * 6, rel=1e-6)
    assert [row.first_norm for row in rows[:3]] == pytest.approx([rows[0].first_norm] * 3, rel=1e-5)
    assert all(row.s_per_step > 0 and row.of_steps == 2 and row.peak_gib is None and row.mfu is None for row in rows)
    assert all(row.clips_per_second == pytest.approx(2 / row.s_per_step) for row in rows)
    printed = capsys.readouterr().out
    assert "18 tokens, batch 2 per process, 1 process(es)" in printed and printed.count("| ours, ") == 4
    assert (tmp_path / "train.md").read_text() in printed
    few = program.main("tiny", methods=("selective",), trained=("all",), steps=9, seconds=0.0, layers=1)
    assert [row.of_steps for row in few] == [5] and "(1 blocks of it)" in capsys.readouterr().out
    for wrong in ({"steps": 0}, {"methods": ("half",)}):
        with pytest.raises(program.UserError, match="must be"):
            program.main("tiny", **wrong)


def test_a_method_that_does_not_fit_is_a_row_and_not_the_end(tiny_profile, monkeypatch):
    program, _ = import_module("train"), tiny_profile()

    def full(*_):
        raise program.torch.OutOfMemoryError

    monkeypatch.setattr(program, "our_step", full)
    (row,) = program.main("tiny", methods=("selective",), trained=("all",))
    assert row.s_per_step is None and row.method == "ours, selective, out of memory"


@pytest.mark.slow
def test_the_generation_table_has_every_method_and_exact_clips(tiny_profile, monkeypatch, capsys, tmp_path):
    program, profile = import_module("generate"), tiny_profile()
    few = replace(profile, sampling=replace(profile.sampling, steps=4, guidance=2.0))  # diffusers ignores 1
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: few)
    small = {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 32, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    monkeypatch.setitem(program.TEXT, "text_config", small)
    monkeypatch.setitem(program.TEXT, "vision_config", {"depth": 1, "hidden_size": 16, "num_heads": 1})
    assert program.theirs(program.build(few, program.hardware.device()))(0, 4)[1:].std() > 1e-3, "flat: proves nothing"
    rows = program.main("tiny", out=tmp_path / "table.md")
    clips = {row.method: row for row in rows if row.evaluations}
    ours = "cookbook generate"
    assert list(clips) == [
        "diffusers' pipeline",
        ours,
        *(f"{ours} --fast {n}" for n in ("guidance", "cache, every skip taken", "all", "all, every skip taken")),
    ]
    assert clips["diffusers' pipeline"].evaluations == 8 and clips[ours].max_difference < 1e-4
    assert all(0 < row.frames_s and row.peak_gib is None for row in rows)
    assert [method for method, row in clips.items() if row.mp4_s] == [ours]
    table = (tmp_path / "table.md").read_text()
    assert "32x48, 9 frames, 4 steps (times of fewer are scaled), guidance 2, on CPU" in table
    assert table.count("\n| ") == 1 + len(rows) == 10 and table.strip() in capsys.readouterr().out
    scaled = program.main("tiny", steps=3, peer_steps=2, parts=False, fast=False)
    assert [row.steps_run for row in scaled if row.evaluations] == [2, 3] and scaled[-1].max_difference < 1e-4
    with pytest.raises(program.UserError, match="clips is 0"):
        program.main("tiny", clips=0)


def test_critic_table_has_every_method_with_equal_scores(monkeypatch, tmp_path, capsys):
    program = import_module("judge")
    for name, value in {"FRAMES": 6, "HEIGHT": 64, "WIDTH": 96, "TOKENS": 18}.items():
        monkeypatch.setattr(program, name, value)
    text = program.TEXT | {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 1, "head_dim": 32, "vocab_size": 700}
    text["rope_parameters"] = text["rope_parameters"] | {"mrope_section": [6, 5, 5]}
    vision = program.VISION | {"depth": 2, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2}
    vision |= {"out_hidden_size": 64, "deepstack_visual_indexes": [0]}
    monkeypatch.setattr(program, "TEXT", text)
    monkeypatch.setattr(program, "VISION", vision)
    rows = program.main(clips=9, few=1, out=tmp_path / "judge.md")
    assert [row.clips for row in rows] == [9, 2, 1]
    assert all(row.clips_per_second > 0 and row.max_difference < 1e-5 for row in rows[:2])
    assert rows[2].max_difference is None
    assert (tmp_path / "judge.md").read_text().count("\n| ") == 4
    assert "9 clips of" in capsys.readouterr().out
    with pytest.raises(program.UserError, match="few is 0"):
        program.main(few=0)


@pytest.mark.parametrize("random", [True, False])
def test_precision_table_shows_the_loss_by_rounding(random, tiny_profile, tiny_clips, monkeypatch, tmp_path):
    program, _ = import_module("precision"), tiny_profile()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(tiny_clips)
    rows = program.main("tiny", None if random else tmp_path, steps=6, rates=(1e-5, 1e-1), out=tmp_path / "table.md")
    assert [(row.weights, row.rate) for row in rows] == [
        (weights, rate) for rate in (1e-5, 1e-1) for weights in ("bf16", "float32 master")
    ]
    low, low_master, high, high_master = rows
    assert low.updates_surviving < 0.6 < 0.95 < min(high.updates_surviving, high_master.updates_surviving)
    assert low_master.updates_surviving > 0.95 and low.weight_moved < low_master.weight_moved
    assert low.first_loss == pytest.approx(low_master.first_loss, rel=0.05)
    assert all((row.held_out_after is None) == random for row in rows)
    assert (tmp_path / "table.md").read_text().count("\n| bf16 |") == 2
    with pytest.raises(program.UserError, match="steps and batch must be at least 1"):
        program.main("tiny", steps=0)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="NOT RUN: needs pip install -e .[cluster]")
def test_scaling_table_counts_every_clip_of_both(tiny_profile, monkeypatch, capsys):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    program, _ = import_module("scale"), tiny_profile()
    nodes, _ = new_cluster(2)
    try:
        rows = program.main("tiny", clips=6, workers=2, ray=nodes.address)
    finally:
        nodes.shutdown()
    assert [row.workers for row in rows] == [1, 2] and all(0 < row.clips_per_second and 0 < row.total_s for row in rows)
    printed = capsys.readouterr().out
    assert printed.count("1 worker(s): clip ") == printed.count("2 worker(s): clip ") == 6
    with pytest.raises(program.UserError, match="3 clips for each"):
        program.main("tiny", clips=5, workers=2)
