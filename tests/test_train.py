"""Stage `train`: the schedule, the EMA, the data order, the loop, checkpoints, kills, many processes, the plan."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tiny
import torch
from conftest import ALONE, free_port
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook import engine, profiles, show, store, video
from cookbook.engine import checkpoint
from cookbook.engine.optim import PowerEma, ema_exponent, rate_factor, trainable
from cookbook.errors import UserError
from cookbook.models import names, world
from cookbook.train import clips as footage
from cookbook.train import plan as planning
from cookbook.train import train
from cookbook.train import watch as watching
from cookbook.train.network import require_trained
from cookbook.train.objective import Batch, batches, sample


def losses(folder: Path) -> list[float]:
    rows = store.read_rows(folder / "checkpoints" / "log.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


# schedule and EMA


def test_upstream_schedule_is_one_long_ramp():
    recipe = profiles.upstream_recipe()
    assert rate_factor(0, recipe) == 1e-6
    assert rate_factor(500, recipe) == pytest.approx(0.25, rel=1e-5)
    assert recipe.learning_rate * rate_factor(999, recipe) == pytest.approx(2.16e-5, rel=2e-3)


@given(step=st.integers(0, 5000))
def test_recommended_schedule_rises_then_falls_and_stays(step):
    recipe = profiles.recommended_recipe()
    now, later = rate_factor(step, recipe), rate_factor(step + 1, recipe)
    assert 0 < now <= recipe.peak_factor
    assert later > now if step + 1 < recipe.warmup else later <= now
    assert rate_factor(recipe.cycle, recipe) == pytest.approx(recipe.end_factor)


def test_power_ema_has_karras_exponent_and_upstream_decay():
    assert ema_exponent(0.10) == pytest.approx(6.937, abs=2e-3)
    ema = PowerEma([("w", torch.zeros(1))], 0.10)
    assert ema.beta(0) == 0 and ema.beta(1000) == pytest.approx(0.9921, abs=1e-4)


@settings(deadline=None)
@given(values=st.lists(st.floats(-3, 3), min_size=1, max_size=30))
def test_power_ema_is_the_weighted_mean_that_it_claims(values):
    ema = PowerEma([("w", torch.zeros(1))], 0.10)
    for step, value in enumerate(values):
        ema.update([torch.tensor([value])], step)
    weights = (np.arange(len(values)) + 1.0) ** (ema.gamma + 1) - np.arange(len(values)) ** (ema.gamma + 1.0)
    expected = np.average(values, weights=weights)
    assert float(ema.weights["w"]) == pytest.approx(expected, abs=1e-4)


# clips and batches


def test_split_holds_out_a_stable_part_and_keeps_seeds_together(tmp_path):
    clips = [footage.Clip(Path(f"{name:02d}_seed{k}.mp4"), "x") for name in range(20) for k in range(2)]
    used, held = footage.split(clips)
    assert 3 <= len(held) <= 4 and len(used) + len(held) == 40
    assert not {c.video.stem.split("_")[0] for c in used} & {c.video.stem.split("_")[0] for c in held}
    assert footage.split(clips[::-1])[1] == held[::-1] or set(footage.split(clips[::-1])[1]) == set(held)


def test_every_clip_once_per_epoch_in_a_new_order(cached):
    recipe = tiny.profile(Path()).recipe
    orders = [[sample(cached, recipe, 0, epoch * 6 + i).clean for i in range(6)] for epoch in range(2)]
    sums = [[round(float(clean.sum()), 3) for clean in order] for order in orders]
    assert sorted(sums[0]) == sorted(sums[1]) and len(set(sums[0])) == 6 and sums[0] != sums[1]


def test_a_batch_is_a_function_of_seed_and_step_however_it_is_shared(cached):
    recipe = replace(tiny.profile(Path()).recipe, batch=4, text_dropout=0.5)
    whole = batches(cached, recipe, 0, ALONE)(3)
    halves = [batches(cached, replace(recipe, batch=2), 0, replace(ALONE, rank=rank, size=2))(3) for rank in (0, 1)]
    together = Batch.stack(halves, ALONE.device)
    for one, other in zip(vars(whole).values(), vars(together).values(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(whole.noise, batches(cached, recipe, 1, ALONE)(3).noise)


def test_draws_follow_the_recipe(cached):
    recipe = replace(profiles.upstream_recipe(), batch=1)
    drawn = [sample(cached, recipe, 0, number) for number in range(600)]
    shares = np.bincount([int(batch.given) for batch in drawn]) / 600
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.07)
    assert np.mean([bool((batch.text == 0).all()) for batch in drawn]) == pytest.approx(0.2, abs=0.06)


def test_long_clips_give_several_windows_and_short_ones_are_refused(tmp_path):
    frames = np.zeros((40, 32, 48, 3), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None] * 5
    video.write_video(tmp_path / "long.mp4", frames, 8)
    video.write_video(tmp_path / "short.mp4", frames[:5], 8)
    recipe = profiles.recommended_recipe()
    parts = footage.windows(tmp_path / "long.mp4", tiny.GEOMETRY, recipe)
    assert len(parts) == footage.WINDOWS and parts[0][0].mean() < 10 and parts[-1][-1].mean() > 180
    with pytest.raises(UserError, match=r"short.mp4: 5 frames at 8 per second are too few, 9 are needed"):
        footage.windows(tmp_path / "short.mp4", tiny.GEOMETRY, recipe)


def test_bad_folders_are_refused_by_name(tmp_path, tiny_clips):
    with pytest.raises(UserError, match="holds 0 mp4 files"):
        footage.read_clips(tmp_path)
    shutil.copytree(tiny_clips, tmp_path / "clips")
    caption = tmp_path / "clips/metas/003.txt"
    for content, complaint in ((b" \n", "the caption is empty"), (b"caf\xe9", "not UTF-8")):
        caption.write_bytes(content)
        with pytest.raises(UserError, match=f"003.txt: {complaint}"):
            footage.read_clips(tmp_path / "clips")
    caption.unlink()
    with pytest.raises(UserError, match="003.txt: no such caption file"):
        footage.read_clips(tmp_path / "clips")


# the stage


@pytest.fixture(scope="module")
def trained(tiny_world, tiny_clips, tmp_path_factory):
    """A finished run of 12 steps and its manifest."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(profiles.PROFILES, "tiny", lambda: tiny.profile(tiny_world, 12))
        yield folder, train("tiny", run=folder, data=tiny_clips)


def test_training_learns_and_says_so(trained):
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
    assert {p.name for p in (folder / "checkpoints/iter_000000012").iterdir()} == set(checkpoint.PARTS)


def test_second_start_does_nothing_and_other_settings_are_refused(trained, tiny_clips, capsys):
    folder, manifest = trained
    assert train("tiny", run=folder, data=tiny_clips) == manifest
    assert "skipping" in capsys.readouterr().out
    with pytest.raises(UserError, match="seed 0 -> 1.*--redo train"):
        train("tiny", run=folder, data=tiny_clips, seed=1)


def test_latents_and_text_are_made_once(trained, tiny_world, tiny_clips, monkeypatch):
    folder, _ = trained
    files = {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    assert len(files) == 12
    monkeypatch.setattr(world, "load_vae", None)  # loading either model would fail
    monkeypatch.setattr(world, "load_text_encoder", None)
    footage.cache(footage.read_clips(tiny_clips), tiny.profile(tiny_world), tiny_world, folder / "cache", ALONE)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()} == files


def test_base_weights_that_predict_nothing_stop_the_run_before_its_first_step(tiny_clips, tiny_profile, tmp_path):
    tiny_profile(steps=1, first_loss=profiles.recommended_recipe().first_loss)
    with pytest.raises(
        UserError, match=r"the loss before training is .* times the .* of no model at all; .*first_loss"
    ):
        train("tiny", run=tmp_path, data=tiny_clips)
    assert not (tmp_path / "checkpoints/log.jsonl").exists()


@pytest.mark.parametrize(
    ("before", "refused"), [(0.03, False), (0.37, False), (1.5, True), (3.0, True), (np.nan, True)]
)
def test_healthy_and_random_first_losses_are_told_apart(before, refused):
    """0.03 and 3 are reported for the 2B model, 0.37 is the shipped nano model's, 1.5 a model that learnt nothing."""
    for made in map(profiles.get, ("smoke", "nano", "2b", "14b")):
        with pytest.raises(UserError) if refused else nullcontext():
            require_trained(before, 1.65, made.recipe.first_loss, Path("models"))


def test_data_that_was_not_prepared_is_refused(tiny_profile, tmp_path):
    tiny_profile()
    with pytest.raises(UserError, match="cookbook prepare"):
        train("tiny", run=tmp_path)


def test_gradients_that_are_not_finite_stop_the_run(tiny_world, cached, tmp_path):
    model = world.load_transformer(tiny_world)
    recipe = tiny.profile(tiny_world).recipe
    with pytest.raises(UserError, match="step 1: gradients are not finite"):
        engine.fit(
            model,
            lambda model, batch: sum(p.sum() for p in model.parameters()) * float("nan"),
            batches(cached, recipe, 0, ALONE),
            recipe,
            tmp_path,
            0,
            ALONE,
            torch.float32,
        )


def test_lora_trains_adapters_only(tiny_clips, tiny_profile, tmp_path):
    made = tiny_profile(steps=2, lora_rank=4)
    manifest = train("tiny", run=tmp_path, data=tiny_clips)
    assert 0 < manifest["plan"]["trained"] < manifest["plan"]["parameters"]
    metadata = checkpoint.dcp.FileSystemReader(tmp_path / "checkpoints/iter_000000002/model").read_metadata()
    assert all(".lora_" in name for name in metadata.state_dict_metadata)
    assert made.recipe.lora_rank == 4 and manifest["weights_changed"] > 0


def test_low_precision_training_keeps_a_float32_average(tiny_world):
    model = world.load_transformer(tiny_world, torch.bfloat16)
    ema = PowerEma(trainable(model).items(), 0.1)
    assert {weight.dtype for weight in ema.weights.values()} == {torch.float32}


def test_damaged_checkpoint_is_refused(trained, tmp_path):
    folder, _ = trained
    broken = tmp_path / "iter"
    shutil.copytree(folder / "checkpoints/iter_000000012", broken)
    file = broken / "model/__0_0.distcp"
    file.write_bytes(file.read_bytes()[:500])
    state = {part: {} for part in checkpoint.PARTS} | {"model": {"net.final_layer.linear.weight": torch.zeros(64, 32)}}
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoint.load(broken, state, ALONE)


# base weights of one's own, no cache, and what is shown on the way


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
    assert bases[0] == store.digest(file) != bases[1]
    native_file(file, tiny_world, lambda state: {name: 2 * value for name, value in list(state.items())[:-2]})
    train("tiny", run=tmp_path / "doubled", data=tiny_clips, base=file)
    assert losses(tmp_path / "doubled")[0] != losses(tmp_path / "usual")[0], "the file, not the folder, must be used"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: dict(list(state.items())[1:]), r"base.pt: 1 weights do not fit this network \(missing "),
        (
            lambda state: state | {"net.blocks.9.mlp.layer1.weight": torch.zeros(2)},
            "unexpected transformer_blocks.9.ff",
        ),
        (
            lambda state: state | {"net.x_embedder.proj.1.weight": torch.zeros(2)},
            r"patch_embed.proj.weight is \[2\], exp",
        ),
        (lambda state: {"model": 1}, r"holds no weights named net\.\*"),
        (lambda state: state | {"net.x": print}, "is damaged or holds more than tensors"),
    ],
)
def test_native_files_that_do_not_fit_are_refused(change, complaint, tiny_world, tiny_clips, tiny_profile, tmp_path):
    tiny_profile(steps=2)
    file = native_file(tmp_path / "base.pt", tiny_world, change)
    with pytest.raises(UserError, match=complaint):
        train("tiny", run=tmp_path / "run", data=tiny_clips, base=file)


def test_flags_that_cannot_be_are_refused(tiny_clips, tiny_profile, tmp_path, monkeypatch):
    tiny_profile(steps=2)
    where = {"run": tmp_path, "data": tiny_clips}
    with pytest.raises(UserError, match="none.pt: no such file; --base takes a .pt file"):
        train("tiny", **where, base=tmp_path / "none.pt")
    with pytest.raises(UserError, match="sample_every is 0; it must be at least 1"):
        train("tiny", **where, sample_every=0)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        train("tiny", **where, tensorboard=True)
    tiny_profile(steps=2, lora_rank=4)
    with pytest.raises(UserError, match="--base trains all weights"):
        train("tiny", **where, base=tmp_path / "none.pt")


def test_encoding_in_every_step_gives_the_same_and_keeps_nothing(trained, tiny_profile, tiny_clips, tmp_path, capsys):
    folder, _ = trained
    tiny_profile(steps=12)
    train("tiny", run=tmp_path, data=tiny_clips, cache=False)
    assert losses(tmp_path) == losses(folder) and not (tmp_path / "cache").exists()
    parts = train("2b", run=tmp_path / "none", plan=True, cache=False)["memory_gb"]
    assert parts["VAE and text encoder"] == pytest.approx(17.4, abs=0.1)


def test_samples_are_clips_of_fixed_seeds_and_disturb_nothing(trained, tiny_profile, tiny_clips, tmp_path):
    folder, _ = trained
    tiny_profile(steps=12)
    manifest = train("tiny", run=tmp_path, data=tiny_clips, sample_every=6)
    assert losses(tmp_path) == losses(folder)
    files = sorted((tmp_path / "checkpoints/samples").iterdir())
    assert [file.name for file in files] == ["step_000000006_seed0.mp4", "step_000000012_seed0.mp4"]
    assert {f"samples/{file.name}" for file in files} <= set(manifest["outputs"])
    early, late = (video.read_video(file)[0].astype(int) for file in files)
    assert early.shape == (9, 32, 48, 3) and np.abs(early - late).max() > 3, "other weights make another clip"


def test_tensorboard_has_every_row_of_the_log(tiny_profile, tiny_clips, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="not installed")
    tiny_profile(steps=3)
    train("tiny", run=tmp_path, data=tiny_clips, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "checkpoints/tensorboard")).Reload()
    curve = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert curve == [(step, pytest.approx(loss)) for step, loss in enumerate(losses(tmp_path), 1)]


def test_in_a_notebook_one_picture_is_drawn_anew(tiny_profile, tiny_clips, tmp_path, monkeypatch):
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    tiny_profile(steps=3)
    monkeypatch.setattr(watching, "REDRAWN", 0.0)
    monkeypatch.delenv("HEADLESS", raising=False)
    assert not show.live()
    shell = InteractiveShell.instance()
    try:
        shell.display_pub, shell.kernel = CapturingDisplayPublisher(), None
        assert show.live()
        train("tiny", run=tmp_path, data=tiny_clips)
    finally:
        InteractiveShell.clear_instance()
    shown = shell.display_pub.outputs
    assert [output["update"] for output in shown] == [False, True, True]
    assert len({output["transient"]["display_id"] for output in shown}) == 1
    assert not plt.get_fignums()


def test_headless_a_line_a_minute_says_how_long_it_takes_yet(monkeypatch, capsys):
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    assert list(show.progress(range(4), "steps", note=lambda: ", loss 0.5")) == [0, 1, 2, 3]
    assert capsys.readouterr().out == (
        "steps: 2/4 after 80 s, about 80 s left, loss 0.5\nsteps: 4/4 after 160 s, about 0 s left, loss 0.5\n"
        "steps: 4 in 200.0 s\n"
    )


# killed, and in many processes


def unbroken(arena) -> tuple[list[float], dict, float]:
    folder, start = arena
    clock = time.monotonic()
    process = start()
    process.join()
    assert process.exitcode == 0
    seconds = time.monotonic() - clock
    result = losses(folder / "run"), json.loads((folder / "run/checkpoints/manifest.json").read_text())
    shutil.rmtree(folder / "run/checkpoints")
    return *result, seconds


def assert_same(folder: Path, expected: tuple[list[float], dict, float]) -> None:
    manifest = json.loads((folder / "run/checkpoints/manifest.json").read_text())
    assert losses(folder / "run") == expected[0]
    for key in ("heldout_before", "heldout_after", "weights_changed", "loss_first", "loss_last"):
        assert manifest[key] == expected[1][key]
    assert [path.name for path in (folder / "run/checkpoints").glob(".*")] == [".lock"]


def test_killed_at_random_moments_it_ends_as_if_unbroken(arena):
    folder, start = arena
    expected = unbroken(arena)
    rng = np.random.default_rng(0)
    for _ in range(int(os.environ.get("COOKBOOK_KILLS", 5))):
        process = start()
        process.join(timeout=expected[2] * rng.uniform(0.2, 1.0))
        process.kill()
        process.join()
    process = start()
    process.join()
    assert process.exitcode == 0
    assert_same(folder, expected)


def test_killed_before_every_rename_it_ends_as_if_unbroken(arena):
    folder, start = arena
    expected = unbroken(arena)
    exits = []
    while not exits or exits[-1]:
        process = start(1 + len(exits) % 5)  # the log, a checkpoint's three, the next one's first
        process.join()
        exits.append(process.exitcode)
        assert len(exits) < 30
    assert set(exits[:-1]) == {-9} and len(exits) > 10
    assert_same(folder, expected)


def test_two_processes_give_the_losses_of_one(arena, tiny_world, tiny_clips, monkeypatch):
    folder, start = arena
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: tiny.profile(tiny_world, 4, batch=4))
    alone = train("tiny", run=folder / "alone", data=tiny_clips)
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("tiny.py")), str(folder), "4", "2"],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es) on cpu" in done.stdout and "4 steps of 4 clips (2 per process)" in done.stdout
    manifest = json.loads((folder / "run/checkpoints/manifest.json").read_text())
    assert losses(folder / "run") == pytest.approx(losses(folder / "alone"), rel=1e-5)
    for key in ("heldout_before", "heldout_after", "weights_changed"):
        assert manifest[key] == pytest.approx(alone[key], rel=1e-3)
    shards = {path.name for path in (folder / "run/checkpoints/iter_000000004/model").glob("*.distcp")}
    assert shards == {"__0_0.distcp", "__1_0.distcp"}


# the plan


@pytest.mark.parametrize(
    ("profile", "recipe", "parameters", "trained"),
    [("2b", "recommended", 2.06e9, 2.06e9), ("2b", "lora", 2.06e9, 45.9e6), ("14b", "upstream", 14.4e9, 14.4e9)],
)
def test_plans_of_the_real_models_need_nothing(profile, recipe, parameters, trained, tmp_path, capsys):
    plan = train(profile, run=tmp_path / "none", recipe=recipe, plan=True)
    assert plan["parameters"] == pytest.approx(parameters, rel=0.02)
    assert plan["trained"] == pytest.approx(trained, rel=0.02)
    text = capsys.readouterr().out
    for word in ("GB to download", "NVIDIA Open Model License", "gated", "departures", "one H100"):
        assert word in text
    for machine in ("1 H100: ", "8 H100: ", "4 machines of 8 H100: "):
        assert f"on paper      {machine}" in text
    assert ("GB each (does not fit: 80)" in text) == (profile == "14b"), "one card for all weights of 14B"
    assert not (tmp_path / "none").exists()


def test_planned_size_of_a_checkpoint_is_that_of_its_files(trained):
    folder, manifest = trained
    files = sum(path.stat().st_size for path in (folder / "checkpoints/iter_000000012").glob("*/*.distcp"))
    tensors = 4 * manifest["plan"]["parameters"] * 4
    assert manifest["plan"]["checkpoint_gb"] * 1e9 == pytest.approx(tensors)
    assert tensors < files < 2 * tensors  # a tensor's header outweighs a tiny tensor


@pytest.mark.parametrize(("name", "gib", "seconds"), [("recommended", 57.3, 2.54), ("lora", 33.2, 2.44)])
def test_plan_of_2b_agrees_with_what_was_measured(name, gib, seconds):
    """docs/gpu_figures.md, a quarter of the activations kept."""
    made = profiles.get("2b", name)
    plan = planning.make(replace(made, recipe=replace(made.recipe, recompute="0.25")), 1, 85, 7)
    assert plan.tokens == 31104 and plan.epochs == pytest.approx(11.8, abs=0.2)
    assert plan.step_seconds == pytest.approx(seconds, rel=0.15)
    assert sum(plan.memory_gb.values()) == pytest.approx(gib * 2**30 / 1e9, rel=0.15)


@pytest.mark.parametrize(("name", "most"), [("recommended", 64), ("lora", 32)])
def test_recipes_of_2b_stay_within_their_memory(name, most):
    assert sum(planning.make(profiles.get("2b", name), 1, 85, 7).memory_gb.values()) * 1e9 / 2**30 < most


@pytest.mark.parametrize("profile", ["2b", "14b"])
def test_plan_of_the_published_recipe_departs_in_no_value(profile, tmp_path, capsys):
    train(profile, run=tmp_path, recipe="upstream", plan=True)
    line = next(text for text in capsys.readouterr().out.splitlines() if "departures" in text)
    said = line.split("departures")[1].strip()
    assert said == "at most 4 windows of a clip (upstream any); clips held out (upstream none)"


@pytest.mark.parametrize("profile", ["smoke", "nano", "2b", "14b"])
def test_every_departure_from_upstream_has_its_reason(profile, capsys):
    made = profiles.get(profile)
    for recipe in (made.recipe, *made.alternatives):
        rows = {row["field"]: row for row in train(profile, recipe=recipe.name, explain=True)["fields"]}
        assert list(rows) == [f for f in profiles.Recipe.__dataclass_fields__ if f != "name"]
        assert all(bool(row["reason"]) == (row["ours"] != row["upstream"]) for row in rows.values())
        assert not any("your own" in row["reason"] for row in rows.values())
        text = capsys.readouterr().out
        assert all(f" {name} " in text for name in rows) and "at most 4 windows" in text
    if profile in ("2b", "14b"):
        assert not any(row["reason"] for row in train(profile, recipe="upstream", explain=True)["fields"])
