"""Training the nano critic: batches made on the device against the processor, the stage and the table of controls."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from tiny import clip
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from cookbook import runs, video
from cookbook.errors import UserError
from cookbook.judge import calibration_clips, scoring
from cookbook.models import autoencoder
from cookbook.models import critic as critics
from cookbook.models.frames import Sampled, sample_frames
from nano import critic_clips, critic_draw, critic_measure, critic_training, train_world
from nano.critic import HEAD, HEADS, MERGE, PATCH
from nano.critic_forward import Reader

THINGS, PLACES = ("red apple", "corn", "lemon"), ("white plate", "tan basket", "blue bowl")
PROMPTS = [f"Use the right hand to pick up {a} from table to {b}." for a, b in zip(THINGS, PLACES, strict=True)]
CPU = torch.device("cpu")


def write_twins(folder: Path, scenes: int) -> Path:
    """Workshop-like clips: a sliding square, and twins in which it vanishes, sinks or goes the wrong way."""
    for index in range(scenes):
        for kind in ("real", "vanish", "sink", "wrong_place"):
            frames, name = clip(index), f"place_{index}{'' if kind == 'real' else '-' + kind}"
            broken = kind in ("vanish", "sink")
            if broken:
                frames[4:] = clip(index)[:1].mean(dtype=np.uint8)
            video.write_video(folder / f"videos/{name}.mp4", frames if kind != "wrong_place" else frames[::-1], 8)
            row = {
                "id": name, "fps": 8, "label": kind, "prompt": PROMPTS[index % 3], "hand": "right", "task": "place",
                "object": THINGS[index % 3], "source": "table", "destination": PLACES[index % 3],
                "distractors": [THINGS[(index + 1) % 3]], "source_clip": None if kind == "real" else f"place_{index}",
                "physics": int(not broken), "instruction": int(kind == "real"), "violation": [4, 8] if broken else None,
            }  # fmt: skip
            runs.append_row(folder / "manifest.jsonl", row)
    return folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> list[critic_clips.Example]:
    return critic_clips.read_examples([write_twins(tmp_path_factory.mktemp("twins"), 6)], 16)


@pytest.fixture
def clips(examples) -> critic_clips.Clips:
    return critic_clips.collect(examples, 16, CPU)


def reader_of(critic: critics.Critic, clips: critic_clips.Clips) -> Reader:
    return Reader(critic, clips.pixels.shape[1:4], sorted(clips.texts()))


# --- the same model, the same inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [8, 9])
def test_patches_equal_the_processor(critic, frames):
    shown = [sample_frames(clip(seed, frames), 8.0, 8, 1024, critic.token_edge) for seed in range(2)]
    texts = [critics.chat(critic, scoring.ask("physics", None))[0]] * 2
    expected = critics.process(critic, shown, texts)["pixel_values_videos"]
    stacked = torch.from_numpy(np.stack([c.frames for c in shown])).permute(0, 1, 4, 2, 3).float()
    made = critic_clips.patches(stacked, PATCH, MERGE)
    assert made.shape == expected.shape
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("frames", [6, 9])
def test_training_pass_equals_the_stage(critic, clips, frames):
    """One masked pass over equal clips gives what the judge's cached passes give, whole and shortened."""
    rows, reader = np.array([0, 5, 10]), reader_of(critic, clips)
    when = np.broadcast_to(np.arange(frames), (3, frames))
    told = [[clips.prompts[row], clips.prompts[row - 4]] for row in rows]
    asked = np.array([[reader.numbers[text] for text in texts] for texts in told])
    here = critic_measure.scores(reader, clips, critic_clips.plain_view(clips, rows, when), asked)
    seen = [Sampled(clips.pixels[row, :frames].numpy(), tuple(range(frames)), 8.0) for row in rows]
    questions = [
        [scoring.ask("physics", None), *(scoring.ask("instruction", text) for text in texts)] for texts in told
    ]
    there = critics.score(critic, seen, questions)[0] @ np.arange(1, 6)
    assert here == pytest.approx(there, abs=1e-4)
    assert len(np.unique(here.round(5))) > 3


def test_spoken_tokens_are_the_instruction(critic, clips):
    reader = reader_of(critic, clips)
    for text, number in reader.numbers.items():
        told = critic.processor.tokenizer.decode(reader.endings[number][reader.spoken[number]])
        assert told.strip() == text.rstrip(".") or told.strip() == text


def test_first_heads_look_at_the_same_place_before(critic_folder):
    """By position alone, at the size of the nano profile's clips."""
    critic = critics.load_critic(critic_folder, CPU)
    reader = Reader(critic, (25, 96, 160), PROMPTS[:1])
    script = reader.script(25, 1)
    decoder = critic.model.model.language_model
    attention, count = decoder.layers[0].self_attn, len(script.visual)
    shape = (1, HEADS, 1, HEAD)
    query, key = (p.bias.view(shape).expand(-1, -1, count, -1) for p in (attention.q_proj, attention.k_proj))
    cos, sin = decoder.rotary_emb(query, script.positions[:, None, script.visual])
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    token = 6 * 60 + 37  # of 13 x 60
    liked = (query[0, :, token] * key[0].transpose(0, 1)[: token + 1]).sum(-1).argmax(0)
    assert liked[:3].tolist() == [token - 60, token - 120, token]


# --- clips and batches ----------------------------------------------------------------------------------------------


def write_dreams(folder: Path) -> Path:
    """Generated clips as `dream_clips` labels them: come true, broken, and false for another reason."""
    for index, (physics, done) in enumerate([(1, 1), (0, 0), (-1, 0)]):
        video.write_video(folder / f"videos/dream_{index}.mp4", clip(index + 20), 8)
        row = {
            "id": f"dream_{index}", "fps": 8, "label": "dream", "prompt": PROMPTS[index], "hand": "right",
            "task": "place", "source_clip": f"place_{index}", "physics": physics, "instruction": done,
            "violation": [8, 8] if physics == 0 else None,
        }  # fmt: skip
        runs.append_row(folder / "manifest.jsonl", row)
    return folder


def test_dreams_are_asked_about_what_their_truth_tells(tmp_path, critic, examples):
    dreamt = critic_clips.read_examples([write_dreams(tmp_path)], 16)
    clips = critic_clips.collect([*examples, *dreamt], 16, CPU)
    reader = reader_of(critic, clips)
    draw = critic_draw.Draw(clips, reader.numbers, 16, np.random.default_rng(0))
    seen = set()
    for _ in range(20):
        batch = draw()
        dreams = np.flatnonzero(clips.kinds[batch.view.clip] == "dream")
        assert len(dreams) == 4 and (batch.where[dreams] == -1).all() and (batch.stranger[dreams] == -1).all()
        for row in dreams:
            clip, labels = int(batch.view.clip[row]), (int(batch.physics[row]), int(batch.instruction[row]))
            assert labels == (clips.physics[clip], clips.instruction[clip])
            assert (batch.running[row, :-1] == -1).all() and int(batch.running[row, -1]) == labels[0]
            seen.add(labels)
    assert seen == {(1, 1), (0, 0), (-1, 0)}
    assert not (clips.kinds[draw(short=True).view.clip] == "dream").any()
    measured = critic_measure.measure(reader, clips)
    assert 0 <= measured["generated"] <= 1 and not any(key.endswith("/dream") for key in measured)


def test_the_best_dream_of_a_photo_is_compared_with_any_of_them(monkeypatch, critic):
    names = [
        f"dream{steps}_{photo}_{seed}"
        for steps in ("0000", "0300")
        for photo in ("place_1", "place_2")
        for seed in (0, 1)
    ]
    done, score = np.array([0, 0, 1, 0, 1, 0, 0, 1]), np.array([1.0, 2, 3, 4, 5, 1, 2, 3])
    examples = [
        critic_clips.Example(
            Sampled(clip(index), tuple(range(9)), 8.0), "dream", PROMPTS[0], -1, int(done[index]), None, name, ()
        )
        for index, name in enumerate(names)
    ]
    clips = critic_clips.collect(examples, 16, CPU)
    monkeypatch.setattr(critic_measure, "scores", lambda *_: np.stack([score, score], 1))
    facts = critic_measure.dreams(reader_of(critic, clips), clips)
    assert list(facts) == ["dream0000", "dream0300"]
    base, tuned = facts.values()
    # of the base's photos one came true once, and there the other dream scores higher
    assert (base["came_true"], base["gain"], base["best_of"]) == (0.25, -0.25, 2)
    assert base["auc"] == pytest.approx(2 / 3)
    assert (tuned["came_true"], tuned["auc"], tuned["gain"], tuned["gain_interval"]) == (0.5, 1.0, 0.5, [0.5, 0.5])


def test_spoilt_copies_equal_the_judges(clips):
    size = tuple(clips.pixels.shape[1:4])
    for kind in critic_draw.TRAINED:
        length = 6 if kind == "dropped" else 9
        view = critic_clips.plain_view(clips, np.array([0]), np.arange(length)[None])
        breaks = critic_draw.spoil(view, 0, kind, 4, size, np.random.default_rng(3))
        made = critic_clips.gather(clips, view)[0].numpy()
        frames, other = clips.pixels[0].numpy(), clips.pixels[4].numpy()
        if kind in ("frozen", "reversed", "sped_up", "spliced"):
            assert np.array_equal(made, calibration_clips.corrupt(kind, frames, other, 0))
        elif kind == "pasted":
            changed = (made != frames).any((0, 3))
            assert np.array_equal(made[:4], frames[:4]) and 0 < changed.sum() <= 21 * 24
            assert np.array_equal(made[4:][:, changed], other[4:][:, changed])
        else:
            assert all((frame == frames).all((1, 2, 3)).any() for frame in made) and len(made) == length
        assert 0 < breaks


def test_gather_shifts_and_mirrors(clips):
    view = critic_clips.plain_view(clips, np.array([1, 2]))
    assert torch.equal(critic_clips.gather(clips, view), clips.pixels[1:3])
    view.mirrored[0] = True
    view.shift[1] = torch.tensor([2, -3])
    made = critic_clips.gather(clips, view)
    assert torch.equal(made[0], clips.pixels[1].flip(2))
    assert torch.equal(made[1][:, :-2, 3:], clips.pixels[2][:, 2:, :-3])


def test_faults_are_where_twins_differ(clips):
    kinds = clips.kinds.tolist()
    assert (clips.faults[[k == "real" for k in kinds]] == 0).all()
    broken = clips.faults[kinds.index("vanish")] == 1
    assert not broken[:1].any() and broken[2:].flatten(1).any(1).all()  # frame 4 begins the third pair


def test_strangers_are_wrong_by_a_word(examples):
    told = examples[0].strangers
    assert len(told) == 8 and examples[0].prompt not in told
    assert told[:2] == (
        PROMPTS[0].replace("right", "left"),
        PROMPTS[0].replace("red apple", "corn"),
    )
    assert critic_clips.other_hand(told[0]) == PROMPTS[0]
    moved = "Use the right hand to pick up corn from table and put it down farther left."
    assert critic_clips.other_hand(moved) == moved.replace("left", "L").replace("right", "left").replace("L", "right")


def test_the_base_model_hears_of_picking_up_without_setting_down_elsewhere():
    lift, reach = "Use the left hand to lift pear from table and put it back.", "Use the left hand to reach for pear."
    told = train_world.captions([{"prompt": lift}, {"prompt": reach}])
    assert told[:2] == [lift, reach]
    assert told[2] == "Use the right hand to pick up pear from table and put it back."
    assert told[3] == "Use the right hand to reach for pear."


@pytest.mark.parametrize("short", [False, True])
def test_batches_ask_what_can_be_answered(critic, clips, short):
    reader = reader_of(critic, clips)
    draw = critic_draw.Draw(clips, reader.numbers, 32, np.random.default_rng(1))
    texts = sorted(clips.texts())
    for _ in range(4):
        batch = draw(short)
        kinds = clips.kinds[batch.view.clip.numpy()]
        assert "sink" in clips.kinds and "sink" not in kinds  # never trained on
        assert batch.view.when.shape == (32, 6 if short else 9) and int(batch.view.when.max()) <= 8
        assert (clips.original[batch.view.clip[:10]] == batch.view.clip[10:20].numpy()).all()
        assert set(batch.physics[:10].tolist()) <= {0, 1} and (batch.physics[10:26] == 1).all()
        assert (batch.running[10:26] == 1).all() and (batch.where[10:20] == 1).all() and (batch.where[26:] == -1).all()
        for row in range(26):
            own = clips.prompts[int(batch.view.clip[row])]
            told = texts[int(batch.told[row])]
            assert told == (critic_clips.other_hand(own) if batch.view.mirrored[row] else own)
            assert batch.stranger[row] == -1 or texts[int(batch.strange[row])] != told
        if short:
            assert (batch.instruction == -1).all() and (batch.stranger == -1).all() and not batch.describes.any()
            assert (batch.physics[26:] == 0).all()
        else:
            assert (batch.physics[:10] == 0).all() and (batch.instruction[:10] == -1).all()
            assert (batch.running[:10, 0] == 1).all() and (batch.running[:10, -1] == 0).all()
            assert (batch.instruction[10:20] == 1).all() and (batch.stranger[10:20] == 0).all()


def test_round_trips_are_appended(clips):
    vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
                           latents_std=[1.0] * 4).eval()  # fmt: skip
    before = clips.pixels
    critic_clips.soften(clips, vae, jitter=0.0, batch=5)
    assert clips.softened and torch.equal(clips.pixels[: len(clips)], before)
    alone = autoencoder.decode(vae, autoencoder.encode(vae, autoencoder.to_tensor(before[7].numpy())))
    difference = clips.pixels[len(clips) + 7].int() - torch.from_numpy(autoencoder.to_frames(alone)).int()
    assert difference.abs().max() <= 1


def test_disturbed_clips_stay_pictures(clips):
    torch.manual_seed(0)
    made = critic_clips.disturb(clips.pixels[:8])
    assert made.shape == (8, 9, 3, 64, 96) and 0 <= made.min() and made.max() <= 255
    plain = clips.pixels[:8].permute(0, 1, 4, 2, 3).float()
    assert 2 < (made - plain).abs().mean() < 40


def test_unequal_clips_are_refused(examples):
    from dataclasses import replace

    short = replace(examples[0], clip=Sampled(clip(0, 5), tuple(range(5)), 8.0))
    with pytest.raises(UserError, match="one size"):
        critic_clips.collect([*examples, short], 16, CPU)


# --- training -------------------------------------------------------------------------------------------------------


def test_balanced_loss():
    logits = torch.tensor([[0.0, 0, 0, 0, 9], [9, 0, 0, 0, 0], [0, 0, 0, 0, 9], [5, 5, 5, 5, 5]])
    right, wrong = torch.tensor([1, 0, 1, -1]), torch.tensor([1, 0, 0, -1])
    assert critic_training.balanced(logits, right) < 0.01
    assert critic_training.balanced(logits, wrong) == pytest.approx(9 / 4, abs=0.02)  # half of one of two classes
    assert critic_training.balanced(logits, torch.full((4,), -1)) == 0


def test_training_lowers_every_loss(critic, clips):
    reader, learner = reader_of(critic, clips), critic_training.Learner(critic, CPU)
    batch = critic_draw.Draw(clips, reader.numbers, 16, np.random.default_rng(0))()
    torch.manual_seed(0)
    told = []
    for _ in range(25):
        losses = critic_training.loss_on(reader, clips, batch)
        learner.update(losses, 0.0)
        told.append({name: float(value.detach()) for name, value in losses.items()})
    assert all(told[-1][name] < 0.95 * told[0][name] for name in told[0]), (told[0], told[-1])


def test_training_resumes_and_holds_out_whole_scenes(critic_folder, tmp_path):
    data, out = write_twins(tmp_path / "data", 12), tmp_path / "critic"
    shutil.copytree(critic_folder, out)
    first = critic_training.train((data,), out, minutes=0.02, batch=16).keys()
    assert {"physics", "physics/vanish", "physics/unseen", "instruction/wrong_place", "instruction/swapped"} <= first
    assert {"controls physics", "controls physics/dropped", "shuffled physics"} <= first
    row = runs.read_rows(out / "train_log.jsonl")[-1]
    critic_training.train((data,), out, minutes=row["seconds"] / 60 + 0.5, piece=0.01, batch=16)
    assert row["step"] < runs.read_rows(out / "train_log.jsonl")[-1]["step"]
    assert critics.critic_fingerprint(out) != critics.critic_fingerprint(critic_folder)
    facts = json.loads((out / "metrics.json").read_text())
    assert facts["saved"]["largest difference"] < 0.02 and "physics" in facts["pixel_statistics"]
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float16}
    assert (out / "model.safetensors").stat().st_size < 6e6
    learned, held = critic_training.split(critic_clips.read_examples([data], 16))
    assert held and not {e.scene for e in learned} & {e.scene for e in held}


def test_held_out_folder_and_shuffled_labels(critic_folder, tmp_path):
    data, held, out = write_twins(tmp_path / "data", 3), write_twins(tmp_path / "held", 3), tmp_path / "critic"
    shutil.copytree(critic_folder, out)
    facts = critic_training.train((data,), out, 0.01, held_out=(held,), batch=16, shuffled=True)
    assert facts["shuffled physics"] == pytest.approx(0.5, abs=0.2)
    said, again = json.loads((out / "metrics.json").read_text()), critic_training.assess(out, (held,))
    assert said["shuffled"] is True and again["clips"] == said["clips"]
    assert again["critic"]["physics"] == pytest.approx(facts["physics"], abs=0.1)  # saved in half precision
