"""Stage `generate`: published requests in, each clip generated once and the same every time, by base or tuned."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cookbook import runs, video
from cookbook.errors import UserError
from cookbook.generate.requests import ALLOWED, read_requests, request_name
from cookbook.generate.stage import generate
from cookbook.models import autoencoder, world
from cookbook.models.text import encode_prompts
from cookbook.profiles import PROFILES, nano

ROW = {
    "name": "a",
    "prompt": "Wave.",
    "input_path": "a.png",
    "num_output_frames": 9,
    "resolution": "32,48",
    "guidance": 2,
}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(np.full((40, 60, 3), 90 * index, np.uint8)).save(folder / f"{index}_Wave..png")
        (folder / f"{index}_Wave..txt").write_text("Wave.")
    return folder


def test_every_prompt_and_seed_is_generated_once_and_repeats(tmp_path, photos, tiny_profile, tiny_world):
    tiny_profile()
    first = generate("tiny", run=tmp_path / "a", requests=photos, weights=tiny_world, seeds=2)
    again = generate("tiny", run=tmp_path / "b", requests=photos, weights=tiny_world, seeds=2)
    rows = runs.read_rows(tmp_path / "a" / "generated" / "tuned" / "generated.jsonl")
    assert [row["file"] for row in rows] == [f"00{i}_{i}_Wave_seed{k}.mp4" for k in (0, 1) for i in (0, 1)]
    assert first["clips"] == 4 and len({row["sha256"] for row in rows}) == 4
    videos = {name: value for name, value in first["outputs"].items() if name.endswith(".mp4")}
    assert videos == {name: value for name, value in again["outputs"].items() if name.endswith(".mp4")}
    info = video.probe(tmp_path / "a" / "generated" / "tuned" / rows[0]["file"])
    assert (info.frames, info.height, info.width) == (9, 32, 48)


def test_rows_record_how_a_clip_was_generated(tmp_path, photos, tiny_profile, tiny_world):
    tiny_profile()
    generate("tiny", run=tmp_path, model="base", requests=photos, seeds=1)
    row = runs.read_rows(tmp_path / "generated" / "base" / "generated.jsonl")[0]
    assert row["model"] == "base" and row["weights"] == world.weights_fingerprint(tiny_world)
    assert row["image_sha256"] == runs.digest(photos / "0_Wave..png")
    assert row["sha256"] == runs.digest(tmp_path / "generated" / "base" / row["file"])
    assert {"steps", "guidance", "shift", "frames", "fps", "height", "width", "seconds", "blocked"} <= row.keys()


def test_published_jsonl_with_its_own_size_and_seed(tmp_path, photos, tiny_profile, tiny_world):
    tiny_profile()
    rows = [ROW | {"input_path": "photos/0_Wave..png", "num_output_frames": 5, "seed": 7}]
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generate("tiny", run=tmp_path / "run", requests=tmp_path / "batch.jsonl", weights=tiny_world, seeds=1)
    assert video.probe(tmp_path / "run" / "generated" / "tuned" / "a_seed7.mp4").frames == 5


def test_batch_input_json_is_read(tmp_path, photos, tiny_profile):
    profile = tiny_profile()
    batch = [{"input_video": "photos/1_Wave..png", "prompt": "Wave.", "output_video": "x.mp4"}]
    (tmp_path / "batch_input.json").write_text(json.dumps(batch))
    (request,) = read_requests(tmp_path / "batch_input.json", profile)
    assert request.prompt == "Wave." and request.name == "000_1_Wave"


def test_video_and_text_conditioning(tmp_path, photos, tiny_profile, tiny_world, tiny_clips):
    tiny_profile()
    source = next(iter(sorted((tiny_clips / "videos").glob("*.mp4"))))
    rows = [
        ROW | {"name": "v", "inference_type": "video2world", "input_path": str(source)},
        ROW | {"name": "t", "inference_type": "text2world", "input_path": None},
    ]
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generate("tiny", run=tmp_path / "run", requests=tmp_path / "batch.jsonl", weights=tiny_world, seeds=1)
    rows = runs.read_rows(tmp_path / "run" / "generated" / "tuned" / "generated.jsonl")
    assert [row["image_sha256"] for row in rows] == [runs.digest(source), None]


@pytest.fixture
def rows_file(tmp_path):
    """A function that writes rows as jsonl, beside a photo `a.png`, a text that is no picture and a short video."""
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("not a picture")
    video.write_video(tmp_path / "short.mp4", np.zeros((3, 32, 48, 3), np.uint8), 8)

    def write(*changes: dict):
        lines = [json.dumps({**ROW, "name": f"row{index}"} | change) for index, change in enumerate(changes)]
        (tmp_path / "batch.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path / "batch.jsonl"

    return write


BAD = [
    ({"resolution": "30,48"}, "resolution", '"30,48"'),
    ({"resolution": "0,48"}, "resolution", '"0,48"'),
    ({"resolution": "big"}, "resolution", '"big"'),
    ({"num_output_frames": 10}, "num_output_frames", "10"),
    ({"num_output_frames": -3}, "num_output_frames", "-3"),
    ({"input_path": "gone.png"}, "input_path", "gone.png does not exist"),
    ({"input_path": "text.png"}, "input_path", "cannot be read"),
    ({"input_path": None}, "input_path", "missing"),
    ({"inference_type": "video2world", "input_path": "short.mp4"}, "input_path", "has 3 frames"),
    ({"inference_type": "text2world"}, "input_path", '"a.png"'),
    ({"inference_type": "sound2world"}, "inference_type", '"sound2world"'),
    ({"prompt": None}, "prompt", "null"),
    ({"prompt": " "}, "prompt", '" "'),
    ({"prompt_path": "a.txt"}, "prompt", "prompt_path is given too"),
    ({"prompt": None, "prompt_path": "gone.txt"}, "prompt_path", "no such"),
    ({"num_steps": -1}, "num_steps", "-1"),
    ({"shift": 0}, "shift", "0"),
    ({"seed": -1}, "seed", "-1"),
    ({"guidance": -1}, "guidance", "-1"),
    ({"guidance": float("nan")}, "guidance", "NaN"),
    ({"name": "../up"}, "name", '"../up"'),
    ({"name": "row0"}, "name", "'row0' is on line 1 too"),
    ({"stepz": 3}, "stepz", "unknown field"),
]


def test_all_problems_are_reported_by_line_and_field(rows_file):
    file = rows_file({}, *(change for change, _, _ in BAD))
    with pytest.raises(UserError) as caught:
        read_requests(file, nano())
    lines = str(caught.value).splitlines()
    assert len(lines) == len(BAD)
    for line, (number, (_, field, value)) in zip(lines, enumerate(BAD, 2), strict=True):
        assert line.startswith(f"{file}, line {number}: {field}: "), line
        assert value in line and ALLOWED.get(field, "num_steps") in line.split("allowed: ")[1]


def test_all_mistakes_of_one_row_are_reported(rows_file):
    file = rows_file({"input_path": "gone.png", "num_steps": -1, "stepz": 3})
    with pytest.raises(UserError) as caught:
        read_requests(file, nano())
    fields = [line.split(", line 1: ")[1].split(":")[0] for line in str(caught.value).splitlines()]
    assert sorted(fields) == ["input_path", "num_steps", "stepz"]


def test_bad_requests_are_refused_before_models_are_loaded(tmp_path, rows_file, tiny_world, monkeypatch):
    monkeypatch.setitem(PROFILES, "tiny", lambda: tiny.profile(tmp_path / "no weights here"))
    with pytest.raises(UserError, match="line 1: resolution"):
        generate("tiny", run=tmp_path, requests=rows_file({"resolution": "30,48"}), model="base")


def test_missing_fields_come_from_the_profile(tmp_path, rows_file):
    (tmp_path / "words.txt").write_text("Wave twice.\n")
    row = {"name": "a", "prompt_path": "words.txt", "input_path": "a.png"}
    (tmp_path / "one.json").write_text(json.dumps(row))
    rows_file()
    (request,) = read_requests(tmp_path / "one.json", nano())
    assert (request.prompt, request.size, request.num_output_frames) == ("Wave twice.", (96, 160), 25)
    assert request.guidance == nano().sampling.guidance and request.num_steps is None


def test_batch_rows_are_checked_by_their_own_fields(tmp_path, rows_file):
    rows_file()
    batch = [{"input_video": "a.png", "prompt": "x", "seed": 1}, {"prompt": "y"}, {"input_video": "a.png"}]
    (tmp_path / "batch_input.json").write_text(json.dumps(batch))
    with pytest.raises(UserError) as caught:
        read_requests(tmp_path / "batch_input.json", nano())
    wanted = ["row 1: seed: unknown field", "row 2: input_video: missing", "row 3: prompt: null"]
    assert all(want in line for want, line in zip(wanted, str(caught.value).splitlines(), strict=True))


def test_steps_shift_and_negative_prompt_of_a_row_are_used(tmp_path, rows_file, tiny_profile, tiny_world, capsys):
    tiny_profile()
    file = rows_file({}, {"num_steps": 3}, {"shift": 2.0}, {"negative_prompt": "Stand still."})
    generate("tiny", run=tmp_path / "run", requests=file, weights=tiny_world, seeds=1)
    rows = runs.read_rows(tmp_path / "run" / "generated" / "tuned" / "generated.jsonl")
    assert " 9 frames, 3 to 12 steps, 4 prompts x 1 seeds" in capsys.readouterr().out, "the plan is of these rows"
    assert [(row["steps"], row["shift"]) for row in rows] == [(12, 5.0), (3, 5.0), (12, 2.0), (12, 5.0)]
    assert len({row["sha256"] for row in rows[:3]}) == 3


def test_rows_that_are_not_json_are_reported(tmp_path):
    (tmp_path / "batch.jsonl").write_text("{broken\n[1]\n")
    with pytest.raises(UserError, match=r"line 1: column 2: not JSON(.*\n)*.*line 2: \[1\]: not a JSON object"):
        read_requests(tmp_path / "batch.jsonl", nano())


def test_missing_earlier_stages_are_named(tmp_path, tiny_profile):
    tiny_profile()
    with pytest.raises(UserError, match="cookbook convert"):
        generate("tiny", run=tmp_path)
    with pytest.raises(UserError, match="cookbook prepare"):
        generate("tiny", run=tmp_path, model="base")


def test_wrong_model_folder_is_refused(tmp_path, photos, tiny_profile, tiny_world):
    tiny_profile()
    with pytest.raises(UserError, match="not a diffusers model folder"):
        generate("tiny", run=tmp_path, requests=photos, weights=tmp_path)


@given(st.integers(0, 999), st.text(max_size=120))
def test_request_names_are_safe_file_names(index, stem):
    name = request_name(index, stem)
    assert "/" not in name and len(name) <= 84 and name.startswith(f"{index:03d}_")


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
import tiny
from cookbook import profiles
from cookbook.generate.stage import generate

torch.set_num_threads(1)
profiles.PROFILES["tiny"] = lambda: tiny.profile(Path({world!r}))
root, moments = Path(sys.argv[1]), random.Random(0)


def start(folder):  # a process of its own for each attempt; forked, because to import everything takes most of the time
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            generate("tiny", run=folder, requests=Path({photos!r}), weights=Path({world!r}), seeds=3)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


clock = time.monotonic()
assert os.waitpid(start(root / "whole"), 0)[1] == 0
duration = time.monotonic() - clock
killed = 0
for index in range({count}):
    child = start(root / str(index))
    time.sleep(moments.uniform(0, duration))
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    assert os.waitpid(start(root / str(index)), 0)[1] == 0, f"attempt {{index}} does not continue"
print(killed)
"""


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_random_kills_leave_each_clip_once(tmp_path, photos, tiny_world, count):
    names = {"tests": os.path.dirname(tiny.__file__), "world": str(tiny_world), "photos": str(photos), "count": count}
    done = subprocess.run(
        [sys.executable, "-c", KILLS.format(**names), tmp_path / "runs"], capture_output=True, text=True
    )
    assert not done.returncode, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= count // 2, "too few were killed before they were done"
    clips = {}
    for folder in sorted((tmp_path / "runs").iterdir()):
        generated = folder / "generated" / "tuned"
        rows = runs.read_rows(generated / "generated.jsonl")
        assert len(rows) == len({row["file"] for row in rows}) == 6 == len(list(generated.glob("*.mp4")))
        assert not [path for path in generated.glob(".*") if path.name != ".lock"], "temporary files are left"
        clips[folder.name] = {row["file"]: (row["sha256"], runs.digest(generated / row["file"])) for row in rows}
    assert len(clips) == count + 1 and all(files == clips["whole"] for files in clips.values())
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


def test_prompt_embeddings_equal_the_pipelines(tiny_world):
    from diffusers import Cosmos2_5_PredictBasePipeline

    class Permissive(torch.nn.Module):
        def check_text_safety(self, prompt):
            return True

    text = world.load_text_encoder(tiny_world)
    pipeline = Cosmos2_5_PredictBasePipeline(
        text.model, text.tokenizer, world.load_transformer(tiny_world), world.load_vae(tiny_world), None, Permissive()
    )
    theirs = pipeline._get_prompt_embeds("Wave to the crowd.", max_sequence_length=48, device="cpu")
    ours = encode_prompts(text.model, text.tokenizer, ["Wave to the crowd."], 48)
    torch.testing.assert_close(ours, theirs)
