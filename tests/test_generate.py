"""Stage `generate`: published requests in, each clip once and the same every time, by base or tuned; shortcuts."""

import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from cookbook import storage, video
from cookbook.errors import UserError
from cookbook.generate import shortcuts
from cookbook.generate.requests import read_requests
from cookbook.generate.stage import generate
from cookbook.models import autoencoder, world
from cookbook.models.text import unread
from cookbook.profiles import nano


def test_every_prompt_and_seed_is_generated_once_repeats_and_is_recorded(tmp_path, photos, tiny_profile, tiny_world):
    tiny_profile()
    tuned, base = tmp_path / "a" / "generated" / "tuned", tmp_path / "b" / "generated" / "base"
    first = generate("tiny", run=tmp_path / "a", requests=photos, weights=tiny_world, seeds=2)
    again = generate("tiny", run=tmp_path / "b", requests=photos, model="base", seeds=2)
    rows = storage.read_rows(tuned / "generated.jsonl")
    assert [row["file"] for row in rows] == [f"00{i}_{i}_Wave_seed{k}.mp4" for k in (0, 1) for i in (0, 1)]
    assert first["unread"][0].startswith("000_0_Wave: cut off whole, as only 48 of its ")
    assert first["clips"] == 4 and len({row["sha256"] for row in rows}) == 4
    videos = {name: value for name, value in first["outputs"].items() if name.endswith(".mp4")}
    assert videos == {name: value for name, value in again["outputs"].items() if name.endswith(".mp4")}
    info = video.probe(tuned / rows[0]["file"])
    assert (info.frames, info.height, info.width) == (9, 32, 48)
    row = storage.read_rows(base / "generated.jsonl")[0]
    assert row["model"] == "base" and row["weights"] == world.weights_fingerprint(tiny_world)
    assert row["image_sha256"] == storage.digest(photos / "0_Wave..png")
    assert row["sha256"] == storage.digest(base / row["file"])
    assert {"steps", "guidance", "shift", "frames", "fps", "height", "width", "seconds", "blocked"} <= row.keys()


def test_rows_of_a_jsonl_have_their_own_type_size_seed_and_settings(
    tmp_path, rows_file, tiny_profile, tiny_world, capsys
):
    tiny_profile()
    video.write_video(tmp_path / "long.mp4", np.zeros((9, 32, 48, 3), np.uint8), 8)
    file = rows_file(
        {},
        {"num_steps": 3},
        {"shift": 2.0},
        {"negative_prompt": "Stand still.", "seed": 7, "num_output_frames": 5},
        {"inference_type": "video2world", "input_path": "long.mp4"},
        {"inference_type": "text2world", "input_path": None},
        {"num_output_frames": 25},
    )
    manifest = generate("tiny", run=tmp_path / "run", requests=file, weights=tiny_world, seeds=1)
    assert any(line.startswith("row3, negative: cut") for line in manifest["unread"])
    out = tmp_path / "run" / "generated" / "tuned"
    rows = storage.read_rows(out / "generated.jsonl")
    assert " 5 to 25 frames, 3 to 8 steps, 7 prompts x 1 seeds" in capsys.readouterr().out, "the plan is of these rows"
    assert [row["steps"] for row in rows] == [8, 3, 8, 8, 8, 8, 8]
    assert [row["shift"] for row in rows] == [5.0, 5.0, 2.0, 5.0, 5.0, 5.0, 5.0]
    photo, clip = storage.digest(tmp_path / "a.png"), storage.digest(tmp_path / "long.mp4")
    assert [row["image_sha256"] for row in rows] == [photo, photo, photo, photo, clip, None, photo]
    assert len({row["sha256"] for row in rows}) == 7
    assert video.probe(out / "row3_seed7.mp4").frames == 5
    short, long = (video.read_video(out / f"row{number}_seed0.mp4")[0].astype(int) for number in (0, 6))
    assert len(long) == 25 and np.abs(long[:9] - short).mean() < 2, "the first part is the short clip"
    seams = np.abs(np.diff(long, axis=0)).mean((1, 2, 3))
    assert max(seams[8], seams[16]) < 2 * seams.max(initial=1, where=~np.isin(np.arange(24), (8, 16)))


def test_bad_requests_are_refused_before_anything_is_loaded(
    tmp_path, photos, rows_file, tiny_profile, tiny_world, monkeypatch
):
    """A picture that was cut off, in a table and in a folder, and sizes and numbers beyond all bounds."""
    tiny_profile()
    monkeypatch.setattr(world, "load_text_encoder", lambda *_: pytest.fail("models are loaded"))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    for path in (tmp_path / "cut.jpg", photos / "0_Wave..png"):
        path.write_bytes(data[: len(data) // 2])
    bad = [{"input_path": "cut.jpg"}, {"num_output_frames": 4_000_001}, {"resolution": "160000,160000"}]
    wanted = ["input_path: .*cut.jpg cannot be read .*truncated", "allowed: at most 90", "sides of at most 256"]
    lines = "\n".join(f".*line {number}: .*{words}.*" for number, words in enumerate(wanted, 2))
    given = {"run": tmp_path / "run", "weights": tiny_world}
    for requests, seeds, message in (
        (rows_file({}, *bad), 1, f"^{lines}$"),
        (photos, 1, "0_Wave..png: cannot be read .*truncated"),
        (photos, -1, "seeds is -1; it must be"),
    ):
        with pytest.raises(UserError, match=message):
            generate("tiny", **given, requests=requests, seeds=seeds)
    assert not (tmp_path / "run").exists()


def test_a_change_costs_only_the_clips_that_it_concerns(tmp_path, rows_file, tiny_profile, tiny_world, capsys):
    tiny_profile()
    out = tmp_path / "run" / "generated" / "tuned"

    def times(*changes, seeds=1) -> dict[str, int]:
        generate("tiny", run=tmp_path / "run", requests=rows_file(*changes), weights=tiny_world, seeds=seeds)
        rows = storage.read_rows(out / "generated.jsonl")
        assert len(rows) == len({row["file"] for row in rows})
        return {row["file"]: (out / row["file"]).stat().st_mtime_ns for row in rows}

    first = times({}, {})
    fixed = times({}, {"prompt": "Point."})
    assert fixed["row0_seed0.mp4"] == first["row0_seed0.mp4"] and fixed["row1_seed0.mp4"] > first["row1_seed0.mp4"]
    assert "unaffected results are kept" in capsys.readouterr().out
    more = times({}, {"prompt": "Point."}, {}, seeds=2)
    assert more.items() > fixed.items() and len(more) == 6
    assert times({}) == {"row0_seed0.mp4": first["row0_seed0.mp4"]}
    assert times({}, {"prompt": "Point."}, {}, seeds=2) == more, "what was not wanted in between is still there"
    (out / "row2_seed1.mp4").unlink()
    again = times({}, {"prompt": "Point."}, {}, seeds=2)
    assert {file for file in more if again[file] != more[file]} == {"row2_seed1.mp4"}
    with pytest.raises(UserError, match="requests .* -> "):  # nothing of it could stay
        times({"prompt": "Bow."}, seeds=2)


def test_names_of_eighty_chinese_characters_fit(tmp_path, photos, rows_file, tiny_profile, tiny_world):
    tiny_profile()
    long = "红" * 80
    (photos / "0_Wave..png").rename(photos / f"{long}.png")
    (photos / "0_Wave..txt").rename(photos / f"{long}.txt")
    manifest = generate("tiny", run=tmp_path / "run", requests=photos, weights=tiny_world, seeds=1)
    assert manifest["clips"] == 2 and any("红" * 60 in name for name in manifest["outputs"])
    with pytest.raises(UserError, match="name: .*at most 200 bytes"):
        read_requests(rows_file({"name": long}), nano())


@pytest.mark.parametrize("damage", [lambda b: b[:-10], lambda b: b"\xff" * 8 + b[8:], lambda b: b""])
@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_damaged_weights_are_refused_before_any_model_is_loaded(
    name, damage, tmp_path, photos, tiny_profile, tiny_world, monkeypatch
):
    tiny_profile()
    monkeypatch.setattr(world, "load_text_encoder", lambda *_: pytest.fail("a model was loaded"))
    file = Path(shutil.copytree(tiny_world, tmp_path / "weights")) / "transformer" / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=rf"{name} is (missing or )?damaged .*copy or download it again$") as refused:
        generate("tiny", run=tmp_path / "run", requests=photos, weights=tmp_path / "weights")
    assert "\n" not in str(refused.value)


def test_missing_earlier_stages_and_a_wrong_model_folder_are_refused(tmp_path, photos, tiny_profile):
    tiny_profile()
    with pytest.raises(UserError, match="cookbook convert"):
        generate("tiny", run=tmp_path)
    with pytest.raises(UserError, match="cookbook prepare"):
        generate("tiny", run=tmp_path, model="base")
    with pytest.raises(UserError, match="config.json is missing"):
        generate("tiny", run=tmp_path, requests=photos, weights=tmp_path)


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_random_kills_leave_each_clip_once(tmp_path, photos, tiny_world, forkserver, count):
    def start(name: str):
        process = forkserver.Process(target=tiny.generate_tiny, args=(tiny_world, photos, tmp_path / "runs" / name))
        process.start()
        return process

    def finish(name: str) -> float:
        clock, process = time.monotonic(), start(name)
        process.join()
        assert process.exitcode == 0, f"{name} does not continue"
        return time.monotonic() - clock

    finish("first")  # the server imports everything
    duration, moments, killed = finish("whole"), random.Random(0), 0
    for index in range(count):
        process = start(str(index))
        process.join(moments.uniform(0, duration))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        finish(str(index))
    assert killed >= count // 2, "too few were killed before they were done"
    clips = {}
    for folder in sorted((tmp_path / "runs").iterdir()):
        generated = folder / "generated" / "tuned"
        rows = storage.read_rows(generated / "generated.jsonl")
        assert len(rows) == len({row["file"] for row in rows}) == 6 == len(list(generated.glob("*.mp4")))
        assert not [path for path in generated.glob(".*") if path.name != ".lock"], "temporary files are left"
        clips[folder.name] = {row["file"]: (row["sha256"], storage.digest(generated / row["file"])) for row in rows}
    assert len(clips) == count + 2 and all(files == clips["whole"] for files in clips.values())
    assert all(noted == actual for noted, actual in clips["whole"].values())


def test_whole_clip_codec_equals_the_chunked_one(tiny_world):
    vae = world.load_vae(tiny_world)
    clip = torch.rand(1, 3, 13, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = autoencoder.encode(vae, clip)
    mean, std = autoencoder.latent_statistics(vae, latents)
    with torch.no_grad():
        chunked = (vae.encode(clip).latent_dist.mode() - mean) / std
        pixels = vae.decode(latents * std + mean).sample
    torch.testing.assert_close(latents, chunked, atol=1e-5, rtol=0)
    torch.testing.assert_close(autoencoder.decode(vae, latents), pixels, atol=1e-5, rtol=0)


def test_prompts_that_are_cut_or_read_as_others_are_named(capsys):
    """The tiny tokenizer has a token for each byte; 107 end after the 16 of `Push the square `."""
    prompts = {"a": "Push the square.", "b": "Push the square to the left.", "c": "Push the square to the right."}
    lines = unread(tiny.build_tokenizer(), prompts, 107)
    assert lines == [
        "b: cut after 'Push the square ', as only 107 of its 121 tokens are read",
        "c: cut after 'Push the square ', as only 107 of its 122 tokens are read",
        "c: another prompt, but read as the same 107 tokens as b",
    ]
    assert capsys.readouterr().out.splitlines() == [f"WARNING: prompt of {line}" for line in lines]
    assert unread(tiny.build_tokenizer(), prompts, 122) == []


# `--fast`: the evaluations that each shortcut skips, and that the default skips none

SIGMAS = torch.linspace(1, 0.1, 10)


class Network:
    """Velocities [1] that are functions of the noise level; notes for how many texts it is evaluated each time."""

    def __init__(self, prompt, negative=lambda sigma: 0 * sigma):
        self.velocities, self.evaluations = (prompt, negative), []

    def __call__(self, latents, sigma, texts):
        self.evaluations.append(texts)
        return [velocity(sigma).reshape(1) for velocity in self.velocities[:texts]]


def walk(network, guidance=2.0, fast=()):
    velocity = shortcuts.velocity_field(network, guidance, frozenset(fast))
    return torch.cat([velocity(torch.zeros(1), sigma) for sigma in SIGMAS])


def test_without_shortcuts_every_step_evaluates_both_texts():
    network = Network(lambda s: s**2, lambda s: 3 * s)
    assert torch.allclose(walk(network), SIGMAS**2 + 2 * (SIGMAS**2 - 3 * SIGMAS))
    assert network.evaluations == [2] * 10
    assert torch.equal(walk(network, guidance=0.0), SIGMAS**2) and network.evaluations[10:] == [1] * 10


def test_guidance_extrapolates_at_every_second_step():
    straight = Network(lambda s: s**2 + s, lambda s: s**2)  # the difference is a line
    fast = walk(straight, fast=("guidance",))
    assert straight.evaluations == [2, 1] * 5
    exact = SIGMAS**2 + 3 * SIGMAS
    assert torch.allclose(fast[2:], exact[2:]) and fast[1] != exact[1], "the second step knows one difference only"


def test_cache_skips_small_changes_at_most_twice_in_a_row():
    network = Network(lambda s: 100 + s)
    fast = walk(network, fast=("cache",))
    assert len(network.evaluations) == 2 + 8 // (1 + shortcuts.SKIPS), "two for the line, then one of three"
    assert torch.allclose(fast, 3 * (100 + SIGMAS)), "on a line nothing is lost"


def test_cache_evaluates_where_the_velocity_changes():
    network = Network(lambda s: torch.where(s > 0.55, 100 + s, torch.exp(20 * (0.55 - s))))
    exact = walk(Network(network.velocities[0]))
    fast = walk(network, fast=("cache",))
    assert 5 < len(network.evaluations) < 10
    assert torch.allclose(fast[-2:], exact[-2:]), "the end changes too fast to be skipped"


def test_both_shortcuts_together_evaluate_least():
    network = Network(lambda s: 100 + s, lambda s: 50 + s)
    walk(network, fast=("cache", "guidance"))
    assert network.evaluations == [2, 1, 2, 1]


def test_generate_records_shortcuts_and_never_mixes_them(tmp_path, photos, tiny_profile, tiny_world, capsys):
    tiny_profile()
    arguments = {"run": tmp_path, "requests": photos, "weights": tiny_world, "seeds": 1}
    assert generate("tiny", fast=(), **arguments)["settings"]["fast"] == ["cache", "guidance"]
    assert "not exact: --fast cache guidance" in capsys.readouterr().out
    rows = storage.read_rows(tmp_path / "generated/tuned/generated.jsonl")
    assert [row["fast"] for row in rows] == [["cache", "guidance"]] * 2
    with pytest.raises(UserError, match="fast"):
        generate("tiny", **arguments)
    assert "fast" not in generate("tiny", redo=True, **arguments)["settings"]
