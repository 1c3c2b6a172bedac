"""What training reads: the split, windows of clips, the order and the draws of batches."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import ALONE

from cookbook import profiles, video
from cookbook.errors import UserError
from cookbook.train import dataset
from cookbook.train.objective import Batch, batches, sample


def test_split_holds_out_a_stable_part_and_keeps_seeds_together(tmp_path):
    clips = [dataset.Clip(Path(f"{name:02d}_seed{k}.mp4"), "x") for name in range(20) for k in range(2)]
    used, held = dataset.split(clips)
    assert 3 <= len(held) <= 4 and len(used) + len(held) == 40
    assert not {c.video.stem.split("_")[0] for c in used} & {c.video.stem.split("_")[0] for c in held}
    assert set(dataset.split(clips[::-1])[1]) == set(held)


def test_every_clip_once_per_epoch_in_a_new_order(cached):
    recipe = tiny.profile(Path()).recipe
    orders = [[sample(cached, recipe, 0, epoch * 6 + i).clean for i in range(6)] for epoch in range(2)]
    sums = [[round(float(clean.sum()), 3) for clean in order] for order in orders]
    assert sorted(sums[0]) == sorted(sums[1]) and len(set(sums[0])) == 6 and sums[0] != sums[1]


def test_a_batch_is_a_function_of_seed_and_step_however_it_is_shared(cached):
    recipe = replace(tiny.profile(Path()).recipe, batch=4, text_dropout=0.5)
    single = batches(cached, recipe, 0, ALONE)(3)
    halves = [batches(cached, replace(recipe, batch=2), 0, replace(ALONE, rank=rank, size=2))(3) for rank in (0, 1)]
    together = Batch.stack(halves, ALONE.device)
    for one, other in zip(vars(single).values(), vars(together).values(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(single.noise, batches(cached, recipe, 1, ALONE)(3).noise)


def test_draws_follow_the_recipe(cached):
    recipe = replace(profiles.Recipe(), batch=1)
    drawn = [sample(cached, recipe, 0, number) for number in range(600)]
    shares = np.bincount([int(batch.conditioning) for batch in drawn]) / 600
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.07)
    assert np.mean([bool((batch.text == 0).all()) for batch in drawn]) == pytest.approx(0.2, abs=0.06)


def test_long_clips_give_several_windows_and_short_ones_are_refused(tmp_path):
    frames = np.zeros((40, 32, 48, 3), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None] * 5
    video.write_video(tmp_path / "long.mp4", frames, 8)
    video.write_video(tmp_path / "short.mp4", frames[:5], 8)
    recipe = profiles.recommended_recipe()
    parts = dataset.windows(tmp_path / "long.mp4", tiny.GEOMETRY, recipe)
    assert len(parts) == dataset.WINDOWS and parts[0][0].mean() < 10 and parts[-1][-1].mean() > 180
    with pytest.raises(UserError, match=r"short.mp4: 5 frames at 8 per second are too few, 9 are needed"):
        dataset.windows(tmp_path / "short.mp4", tiny.GEOMETRY, recipe)


def test_bad_folders_are_refused_by_name(tmp_path, tiny_clips):
    with pytest.raises(UserError, match="holds 0 videos"):
        dataset.read_clips(tmp_path)
    shutil.copytree(tiny_clips, tmp_path / "clips")
    (tmp_path / "clips/metas/003.txt").unlink()
    with pytest.raises(UserError, match="003.txt: no such caption file"):
        dataset.read_clips(tmp_path / "clips")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 64, None])
def test_a_cut_file_of_the_cache_is_made_again(content, cached, tiny_world, tiny_clips, tmp_path, capsys):
    clips, profile = dataset.read_clips(tiny_clips), tiny.profile(tiny_world)
    folder = Path(shutil.copytree(cached[0].latents.parent, tmp_path / "cache"))
    for original in (cached[0].latents, cached[0].embedding):
        file, whole = folder / original.name, original.read_bytes()
        file.write_bytes(whole[:-9] if content is None else content)
        dataset.cache(clips, profile, tiny_world, folder, ALONE)
        assert f"{file} is damaged" in capsys.readouterr().out and file.read_bytes() == whole
