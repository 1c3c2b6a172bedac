"""Stage `train`: the loss falls, checkpoints and errors, base weights of the user; what it reads: split and draws."""

from __future__ import annotations

import io
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import ALONE
from tiny import losses

from cookbook import engine, profiles, show, storage, video
from cookbook.engine import checkpoint
from cookbook.errors import UserError
from cookbook.models import names, world
from cookbook.train import dataset
from cookbook.train.network import require_trained
from cookbook.train.objective import Batch, batches, sample
from cookbook.train.stage import train

TWO = torch.zeros(2)


@pytest.fixture(scope="module")
def trained(tiny_world, tiny_clips, tmp_path_factory):
    """A finished run of 12 steps and its manifest."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(profiles.PROFILES, "tiny", lambda: tiny.profile(tiny_world, 12))
        yield folder, train("tiny", run=folder, data=tiny_clips)


def test_training_learns_and_reports_it(trained):
    folder, manifest = trained
    assert manifest["loss_last"] < manifest["loss_first"]
    assert manifest["heldout_after"] < manifest["heldout_before"]
    levels = manifest["heldout_levels"]
    assert levels["noise level"] == sorted(set(levels["noise level"])) and 0.5 < np.median(levels["noise level"]) < 1
    assert len(set(levels["after"])) == len(levels["noise level"]) == 8
    assert all(np.mean(levels[when]) == pytest.approx(manifest[f"heldout_{when}"]) for when in ("before", "after"))
    assert manifest["weights_changed"] > 1e-4
    assert (manifest["steps"], manifest["clips"], manifest["tokens"]) == (12, 5, 18)
    assert len(losses(folder)) == 12
    assert sorted(p.name for p in (folder / "checkpoints").glob("iter_*")) == ["iter_000000010", "iter_000000012"]
    newest = folder / "checkpoints/iter_000000012"
    assert {part.name for part in newest.iterdir()} == set(checkpoint.PARTS)
    files, planned = sum(path.stat().st_size for path in newest.glob("*/*.distcp")), manifest["plan"]
    tensors = 4 * planned["parameters"] * 4  # weights, two moments and the average in float32
    assert planned["checkpoint_gb"] * 1e9 == pytest.approx(tensors)
    assert tensors < files < 2 * tensors, "a tensor's header outweighs a tiny tensor"


def test_captions_that_the_text_encoder_does_not_read_are_in_the_manifest(trained):
    """The tiny one reads 48 bytes, fewer than its system prompt has."""
    first, second, third = trained[1]["unread"][:3]
    assert re.fullmatch(r"\d{3}.mp4: cut off whole, as only 48 of its \d+ tokens are read", first)
    assert second.endswith("tokens are read") and third.endswith(f" but read as the same 48 tokens as {first[:7]}")


def test_second_start_does_nothing_and_other_settings_are_refused(trained, tiny_clips, capsys):
    folder, manifest = trained
    assert train("tiny", run=folder, data=tiny_clips) == manifest
    assert "skipping" in capsys.readouterr().out
    with pytest.raises(UserError, match="seed 0 -> 1.*--redo train"):
        train("tiny", run=folder, data=tiny_clips, seed=1)


def test_latents_and_text_are_encoded_once(trained, tiny_world, tiny_clips, monkeypatch):
    folder, _ = trained
    files = {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    assert len(files) == 12
    monkeypatch.setattr(world, "load_vae", None)  # loading either model would fail
    monkeypatch.setattr(world, "load_text_encoder", None)
    dataset.cache(dataset.read_clips(tiny_clips), tiny.profile(tiny_world), tiny_world, folder / "cache", ALONE)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()} == files


def test_untrained_base_weights_stop_the_run_before_its_first_step(tiny_clips, tiny_profile, tmp_path):
    tiny_profile(steps=1, first_loss=profiles.recommended_recipe().first_loss)
    with pytest.raises(UserError, match=r"loss before training is .* times the zero-velocity baseline .*first_loss"):
        train("tiny", run=tmp_path, data=tiny_clips)
    assert not (tmp_path / "checkpoints/log.jsonl").exists()


@pytest.mark.parametrize(
    ("before", "refused"), [(0.03, False), (0.18, False), (0.37, False), (1.5, True), (3.0, True), (np.nan, True)]
)
def test_first_losses_of_untrained_weights_are_refused(before, refused):
    """0.03 and 3 are reported for the 2B model, 0.18 is the shipped nano model's, 1.5 an untrained one's."""
    for profile in map(profiles.get, ("smoke", "nano", "2b", "14b")):
        with pytest.raises(UserError) if refused else nullcontext():
            require_trained(before, 1.65, profile.recipe.first_loss, Path("models"))


def test_gradients_that_are_not_finite_stop_the_run(tiny_world, cached, tmp_path):
    model = world.load_transformer(tiny_world)
    recipe = tiny.profile(tiny_world).recipe

    def nan(model, batch):
        return sum(p.sum() for p in model.parameters()) * float("nan")

    with pytest.raises(UserError, match="step 1: gradients are not finite"):
        engine.fit(model, nan, batches(cached, recipe, 0, ALONE), recipe, tmp_path, 0, ALONE, torch.float32)


def test_lora_trains_adapters_only(tiny_clips, tiny_profile, tmp_path):
    profile = tiny_profile(steps=2, lora_rank=4)
    manifest = train("tiny", run=tmp_path, data=tiny_clips)
    assert 0 < manifest["plan"]["trained"] < manifest["plan"]["parameters"]
    metadata = checkpoint.dcp.FileSystemReader(tmp_path / "checkpoints/iter_000000002/model").read_metadata()
    assert all(".lora_" in name for name in metadata.state_dict_metadata)
    assert profile.recipe.lora_rank == 4 and manifest["weights_changed"] > 0


# base weights of the user, and what a user sees


def native_file(path: Path, models: Path, change=lambda state: state) -> Path:
    """A file as NVIDIA releases them: native names, bookkeeping included."""
    state = names.as_native(world.load_transformer(models).state_dict())
    state |= {"net.accum_iteration": torch.tensor(5), "net.blocks.0.self_attn._extra_state": io.BytesIO(b"te")}
    torch.save(change(state), path)
    return path


def test_a_native_file_gives_the_weights_of_the_folder_it_came_from(tiny_world, tiny_clips, tiny_profile, tmp_path):
    tiny_profile(steps=2)
    file = native_file(tmp_path / "base.pt", tiny_world)
    manifest = train("tiny", run=tmp_path / "own", data=tiny_clips, base=file)
    other = train("tiny", run=tmp_path / "usual", data=tiny_clips)
    assert losses(tmp_path / "own") == losses(tmp_path / "usual")
    bases = [m["settings"]["base weights"] for m in (manifest, other)]
    assert bases[0] == storage.digest(file) != bases[1]
    native_file(file, tiny_world, lambda state: {name: 2 * value for name, value in list(state.items())[:-2]})
    train("tiny", run=tmp_path / "doubled", data=tiny_clips, base=file)
    assert losses(tmp_path / "doubled")[0] != losses(tmp_path / "usual")[0], "the file, not the folder, must be used"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: dict(list(state.items())[1:]), r"base.pt: 1 weights do not fit the network of .* \(missing "),
        (lambda state: state | {"net.blocks.9.mlp.layer1.weight": TWO}, "unexpected transformer_blocks.9.ff"),
        (lambda state: state | {"net.x_embedder.proj.1.weight": TWO}, r"patch_embed.proj.weight is \[2\], exp"),
        (lambda state: {"model": 1}, r"holds no weights named net\.\*"),
        (lambda state: state | {"net.x": print}, "is damaged or holds more than tensors"),
    ],
)
def test_native_files_that_do_not_fit_are_refused(change, complaint, tiny_world, tiny_clips, tiny_profile, tmp_path):
    tiny_profile(steps=2)
    file = native_file(tmp_path / "base.pt", tiny_world, change)
    with pytest.raises(UserError, match=complaint):
        train("tiny", run=tmp_path / "run", data=tiny_clips, base=file)


def test_invalid_flags_are_refused(tiny_clips, tiny_profile, tmp_path):
    tiny_profile(steps=2)
    where = {"run": tmp_path, "data": tiny_clips}
    with pytest.raises(UserError, match="none.pt: no such file; --base takes a .pt file"):
        train("tiny", **where, base=tmp_path / "none.pt")
    with pytest.raises(UserError, match="steps is 0; it must be a whole number from 1"):
        train("tiny", **where, steps=0)
    tiny_profile(steps=2, lora_rank=4)
    with pytest.raises(UserError, match="--base trains all weights"):
        train("tiny", **where, base=tmp_path / "none.pt")


def test_headless_a_line_a_minute_estimates_the_time_left(monkeypatch, capsys):
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    assert list(show.progress(range(4), "steps", note=lambda: ", loss 0.5")) == [0, 1, 2, 3]
    assert capsys.readouterr().out == (
        "steps: 2/4 after 80 s, about 80 s left, loss 0.5\nsteps: 4/4 after 160 s, about 0 s left, loss 0.5\n"
        "steps: 4 in 200.0 s\n"
    )


# what training reads


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
    with pytest.raises(UserError, match=r"short.mp4: 5 frames at 8 per second are too few; it needs 9"):
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
