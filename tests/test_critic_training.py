"""Training the nano critic: batches on the device against the processor, the judge stage and its corruptions."""

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

from cookbook import storage, video
from cookbook.errors import UserError
from cookbook.judge import calibration_clips, rubrics
from cookbook.models import autoencoder
from cookbook.models import critic as critics
from cookbook.models.frames import Sampled
from nano import critic as training
from nano import critic_clips, critic_draw, critic_measure
from nano.critic_forward import BatchedCritic
from nano.training import fit_from_scratch, recipe

THINGS, PLACES = ("red apple", "corn", "lemon"), ("white plate", "tan basket", "blue bowl")
PROMPTS = [f"Use the right hand to pick up {a} from table to {b}." for a, b in zip(THINGS, PLACES, strict=True)]
CPU = torch.device("cpu")


def write_faults(folder: Path, scenes: int) -> Path:
    """Clips as of the simulator: a sliding square, and faults in which it vanishes, sinks or goes the wrong way."""
    for index in range(scenes):
        for kind in ("real", "vanish", "sink", "wrong_place"):
            frames, name = clip(index), f"place_{index}{'' if kind == 'real' else '-' + kind}"
            invalid = kind in ("vanish", "sink")
            if invalid:
                frames[4:] = clip(index)[:1].mean(dtype=np.uint8)
            video.write_video(folder / f"videos/{name}.mp4", frames if kind != "wrong_place" else frames[::-1], 8)
            row = {
                "id": name, "scene": f"place_{index}", "fps": 8, "label": kind, "prompt": PROMPTS[index % 3],
                "hand": "right", "task": "place", "item": index % 3, "place": index % 2, "objects": THINGS,
                "places": (PLACES[index % 3], "grey tray")[:: 1 if index % 2 == 0 else -1],
                "source_clip": None if kind == "real" else f"place_{index}", "physics": int(not invalid),
                "instruction": int(kind == "real"), "violation": [4, 8] if invalid else None,
            }  # fmt: skip
            storage.append_row(folder / "manifest.jsonl", row)
    return folder


@pytest.fixture(scope="module")
def faults(tmp_path_factory) -> Path:
    return write_faults(tmp_path_factory.mktemp("faults"), 6)


@pytest.fixture
def clips(faults) -> critic_clips.Clips:
    return critic_clips.read_clips([faults], 16, CPU)


def batched_critic(critic: critics.Critic, clips: critic_clips.Clips) -> BatchedCritic:
    return BatchedCritic(critic, clips.pixels.shape[1:4], sorted(clips.texts()))


@pytest.mark.parametrize("frames", [6, 9])
def test_training_pass_equals_the_stage(critic, clips, frames):
    """One masked pass over equal clips gives the scores of the judge's cached passes, whole and shortened."""
    rows, batched = np.array([0, 5, 10]), batched_critic(critic, clips)
    when = np.broadcast_to(np.arange(frames), (3, frames))
    texts = [[clips.prompts[row], clips.prompts[row - 4]] for row in rows]
    numbers = np.array([[batched.numbers[text] for text in pair] for pair in texts])
    here = critic_measure.scores(batched, clips, critic_clips.plain_view(clips, rows, when), numbers)
    samples = [Sampled(clips.pixels[row, :frames].numpy(), tuple(range(frames)), 8.0) for row in rows]
    questions = [[rubrics.ask("physics", None), *(rubrics.ask("instruction", text) for text in pair)] for pair in texts]
    there = critics.answer(critic, critics.preprocess(critic, samples, questions)) @ np.arange(1, 6)
    assert here == pytest.approx(there, abs=1e-4)
    assert len(np.unique(here.round(5))) > 3


def test_instruction_words_are_the_instruction(critic, clips):
    batched = batched_critic(critic, clips)
    for text, number in batched.numbers.items():
        decoded = critic.processor.tokenizer.decode(batched.endings[number][batched.instruction_words[number]])
        assert decoded.strip() in (text, text.rstrip("."))


GENERATED = {"success": (1, 1), "fault": (0, 0), "failure": (-1, 0)}


def write_generated(folder: Path, labels: dict[str, tuple[int, int]] = GENERATED) -> Path:
    """Generated videos as labelled by `generate_clips`: name -> physics and instruction."""
    for index, (name, (physics, done)) in enumerate(labels.items()):
        video.write_video(folder / f"videos/{name}.mp4", clip(index + 20), 8)
        row = {
            "id": name, "fps": 8, "label": "generated", "prompt": PROMPTS[index % 3], "hand": "right",
            "task": "place", "source_clip": f"place_{index}", "physics": physics, "instruction": done,
            "violation": [8, 8] if physics == 0 else None, "item": index % 3, "place": 0, "objects": THINGS,
            "places": (PLACES[index % 3], "grey tray"),
        }  # fmt: skip
        storage.append_row(folder / "manifest.jsonl", row)
    return folder


@pytest.mark.slow
def test_generated_videos_keep_their_labels_in_batches(tmp_path, critic, faults):
    clips = critic_clips.read_clips([faults, write_generated(tmp_path)], 16, CPU)
    batched = batched_critic(critic, clips)
    draw = critic_draw.Draw(clips, batched.numbers, 16)
    drawn_labels = set()
    for number in range(20):
        batch = draw(number)
        videos = np.flatnonzero(clips.kinds[batch.view.clip] == "generated")
        assert len(videos) == 4 and (batch.per_token[videos] == -1).all()
        for row in videos:
            clip, labels = int(batch.view.clip[row]), (int(batch.physics[row]), int(batch.instruction[row]))
            assert labels == (clips.physics[clip], clips.instruction[clip])
            assert int(batch.negative_label[row]) == (0 if labels == (1, 1) else -1)  # a success shows nothing else
            assert (batch.per_frame[row, :-1] == -1).all() and int(batch.per_frame[row, -1]) == labels[0]
            drawn_labels.add(labels)
    assert drawn_labels == {(1, 1), (0, 0), (-1, 0)}
    assert not (clips.kinds[draw(20, short=True).view.clip] == "generated").any()
    measured = critic_measure.measure(batched, clips)
    assert 0 <= measured["generated"] <= 1 and not any(key.endswith("/generated") for key in measured)


def test_the_best_video_of_a_photo_is_compared_with_all_of_them(monkeypatch, critic, tmp_path):
    names = [f"steps{steps}_place_{photo}_{seed}" for steps in ("0000", "0300") for photo in (1, 2) for seed in (0, 1)]
    score = np.array([1.0, 2, 3, 4, 5, 1, 2, 3])
    write_generated(tmp_path, dict(zip(names, [(-1, done) for done in (0, 0, 1, 0, 1, 0, 0, 1)], strict=True)))
    clips = critic_clips.read_clips([tmp_path], 16, CPU)
    monkeypatch.setattr(critic_measure, "scores", lambda *_: np.stack([score, score], 1))
    facts = critic_measure.generated(batched_critic(critic, clips), clips)
    assert list(facts) == ["steps0000", "steps0300"]
    base, tuned = facts.values()
    # one video of the base succeeds, and the other of the same photo scores higher
    assert (base["success_rate"], base["gain"], base["best_of"]) == (0.25, -0.25, 2)
    assert base["auc"] == pytest.approx(2 / 3)
    assert (tuned["success_rate"], tuned["auc"], tuned["gain"], tuned["gain_interval"]) == (0.5, 1.0, 0.5, [0.5, 0.5])


def test_corrupted_copies_equal_those_of_the_judge_stage(clips):
    frames, other = clips.pixels[0].numpy(), clips.pixels[4].numpy()
    for kind in critic_draw.TRAINED:
        view = critic_clips.plain_view(clips, np.array([0]), np.arange(6 if kind == "dropped" else 9)[None])
        breaks = critic_draw.corrupt_view(view, 0, kind, 4, frames.shape[:3], np.random.default_rng(3))
        copy = critic_clips.gather(clips, view)[0].numpy()
        assert breaks > 0 and np.array_equal(copy, calibration_clips.corrupt(kind, frames, other, 3)), kind


def test_gather_shifts_and_mirrors(clips):
    view = critic_clips.plain_view(clips, np.array([1, 2]))
    assert torch.equal(critic_clips.gather(clips, view), clips.pixels[1:3])
    view.mirrored[0] = True
    view.shift[1] = torch.tensor([2, -3])
    pixels = critic_clips.gather(clips, view)
    assert torch.equal(pixels[0], clips.pixels[1].flip(2))
    assert torch.equal(pixels[1][:, :-2, 3:], clips.pixels[2][:, 2:, :-3])


def test_faults_are_where_clips_differ_from_their_originals(clips):
    kinds = clips.kinds.tolist()
    assert (clips.faults[[k == "real" for k in kinds]] == 0).all()
    invalid = clips.faults[kinds.index("vanish")] == 1
    assert not invalid[:1].any() and invalid[2:].flatten(1).any(1).all()  # frame 4 begins the third pair


def test_negative_instructions_differ_in_one_part_first(clips):
    negatives, own = clips.negatives[0], PROMPTS[0]
    assert len(negatives) == 8 and own not in negatives
    assert set(negatives[:4]) == {
        own.replace("right", "left"), own.replace("red apple", "corn"), own.replace("red apple", "lemon"),
        own.replace("white plate", "grey tray"),
    }  # fmt: skip
    assert set(negatives[4:]) <= {*PROMPTS[1:], *negatives[:4]}
    assert critic_clips.other_hand(negatives[0]) == own
    row = {"prompt": "Use the left hand to lift corn from table and put it back.", "task": "lift", "hand": "left"}
    row |= {"item": 1, "place": None, "objects": THINGS, "places": PLACES}
    lifts = critic_clips.negative_instructions(row, PROMPTS, np.random.default_rng(0))
    assert [text.count("lift") for text in lifts] == [1] * 3 + [0] * 5  # hand and two objects, then whole others
    row |= {"prompt": "Use the left hand to pick up corn from table and hold it over tan basket.", "task": "carry"}
    carried = critic_clips.negative_instructions(row | {"place": 1}, PROMPTS, np.random.default_rng(0))
    assert "Use the left hand to pick up corn from table to tan basket." in carried  # not let go of


@pytest.mark.parametrize("short", [False, True])
def test_batches_have_the_right_labels(critic, clips, short):
    batched = batched_critic(critic, clips)
    draw = critic_draw.Draw(clips, batched.numbers, 32)
    texts = sorted(clips.texts())
    for number in range(4):
        batch = draw(number, short)
        kinds = clips.kinds[batch.view.clip.numpy()]
        assert "sink" in clips.kinds and "sink" not in kinds  # never trained on
        assert batch.view.when.shape == (32, 6 if short else 9) and int(batch.view.when.max()) <= 8
        assert (clips.original[batch.view.clip[:10]] == batch.view.clip[10:20].numpy()).all()
        assert set(batch.physics[:10].tolist()) <= {0, 1} and (batch.physics[10:26] == 1).all()
        assert (batch.per_frame[10:26] == 1).all() and (batch.per_token[10:20] == 1).all()
        assert (batch.per_token[26:] == -1).all()
        for row in range(26):
            own = clips.prompts[int(batch.view.clip[row])]
            instruction = texts[int(batch.own[row])]
            assert instruction == (critic_clips.other_hand(own) if batch.view.mirrored[row] else own)
            assert batch.negative_label[row] == -1 or texts[int(batch.negative[row])] != instruction
        if short:
            assert (batch.instruction == -1).all() and (batch.negative_label == -1).all() and not batch.describes.any()
            assert (batch.physics[26:] == 0).all()
        else:
            assert (batch.physics[:10] == 0).all() and (batch.instruction[:10] == -1).all()
            assert (batch.per_frame[:10, 0] == 1).all() and (batch.per_frame[:10, -1] == 0).all()
            assert (batch.instruction[10:20] == 1).all() and (batch.negative_label[10:20] == 0).all()


def test_a_number_gives_the_same_batch_again(critic, clips):
    numbers = batched_critic(critic, clips).numbers
    one, other = critic_draw.Draw(clips, numbers, 16), critic_draw.Draw(clips, numbers, 16)
    other(0)
    tensors = [[*vars(batch.view).values(), *vars(batch).values()] for batch in (one(3), other(3), one(4))]
    same, again, later = ([value for value in part if isinstance(value, torch.Tensor)] for part in tensors)
    assert all(map(torch.equal, same, again)) and not all(map(torch.equal, same, later))


def test_vae_reconstructions_are_appended(clips):
    vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
                           latents_std=[1.0] * 4).eval()  # fmt: skip
    before = clips.pixels
    critic_clips.add_reconstructions(clips, vae, jitter=0.0, batch=5)
    assert clips.reconstructed and torch.equal(clips.pixels[: len(clips)], before)
    alone = autoencoder.decode(vae, autoencoder.encode(vae, autoencoder.to_tensor(before[7].numpy())))
    difference = clips.pixels[len(clips) + 7].int() - torch.from_numpy(autoencoder.to_frames(alone)).int()
    assert difference.abs().max() <= 1


def test_unequal_clips_are_refused(tmp_path):
    folder = write_generated(tmp_path)
    video.write_video(folder / "videos/success.mp4", clip(0, 5), 8)
    with pytest.raises(UserError, match="one size"):
        critic_clips.read_clips([folder], 16, CPU)


def test_balanced_loss():
    logits = torch.tensor([[0.0, 0, 0, 0, 9], [9, 0, 0, 0, 0], [0, 0, 0, 0, 9], [5, 5, 5, 5, 5]])
    right, wrong = torch.tensor([1, 0, 1, -1]), torch.tensor([1, 0, 0, -1])
    assert training.balanced(logits, right) < 0.01
    assert training.balanced(logits, wrong) == pytest.approx(9 / 4, abs=0.02)  # half of one of two classes
    assert training.balanced(logits, torch.full((4,), -1)) == 0


@pytest.mark.slow
def test_training_lowers_every_loss(critic, clips, tmp_path):
    batched, history = batched_critic(critic, clips), []
    batch = critic_draw.Draw(clips, batched.numbers, 16)(0)

    def loss(_: torch.nn.Module, drawn: critic_draw.Batch) -> torch.Tensor:
        losses = training.loss_on(batched, clips, drawn)
        history.append({name: float(value.detach()) for name, value in losses.items()})
        return sum(losses.values())

    critic.model.float().requires_grad_(True)
    fit_from_scratch(critic.model, loss, lambda _: batch, recipe("critic", 25, 16, 1e-3, 5), tmp_path)
    first, last = history[0], history[-1]
    assert all(last[name] < 0.95 * first[name] for name in first), (first, last)


@pytest.mark.slow
def test_training_resumes_measures_and_saves(critic_folder, tmp_path, capsys):
    data, held, out = write_faults(tmp_path / "data", 6), write_faults(tmp_path / "held", 3), tmp_path / "critic"
    shutil.copytree(critic_folder, out)
    first = training.train((data,), out, (held,), steps=2, batch=16).keys()
    assert {"physics", "physics/vanish", "physics/untrained", "instruction/wrong_place", "instruction/swapped"} <= first
    assert {"corrupted physics", "corrupted physics/dropped", "shuffled physics"} <= first
    last = training.train((data,), out, (held,), steps=4, batch=16)
    assert "continuing from" in capsys.readouterr().out
    assert [row["step"] for row in storage.read_rows(out / "training/log.jsonl")] == [1, 2, 3, 4]
    assert critics.critic_fingerprint(out) != critics.critic_fingerprint(critic_folder)
    assert last["shuffled physics"] == pytest.approx(0.5, abs=0.2)
    figures, again = json.loads((out / "metrics.json").read_text()), training.assess(out, (held,))
    assert "physics" in figures["pixel_statistics"]
    assert again["clips"] == figures["clips"]
    assert again["critic"]["physics"] == pytest.approx(last["physics"], abs=0.1)  # saved in half precision
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float16}
    assert (out / "model.safetensors").stat().st_size < 6e6
