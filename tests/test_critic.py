"""The critic: parity with plain transformers, sampling of a clip, refused input, rubrics, statistics of its scores."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PROMPTS, clip
from transformers import Qwen3VLForConditionalGeneration

from cookbook import video
from cookbook.errors import UserError
from cookbook.judge import calibration_clips, rubrics, statistics
from cookbook.models import critic as critics
from cookbook.models.frames import Sampled, sample_frames, sample_video


def questions(prompt: str) -> list[critics.Question]:
    return [rubrics.ask(question, prompt) for question in rubrics.QUESTIONS]


def test_scores_equal_plain_transformers(critic):
    """A batch with a shared pass over the video equals one plain call of processor and model per chat."""
    clips = [sample_frames(clip(seed), 8.0, 8, 1024, critic.token_edge) for seed in range(3)]
    batch = [questions(prompt) for prompt in PROMPTS]
    shared = critics.answer(critic, critics.preprocess(critic, clips, batch))
    for row, sampled in enumerate(clips):
        for column, question in enumerate(batch[row]):
            messages = [
                {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
                {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question.text}]},
            ]
            text = critic.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            metadata = {"total_num_frames": 9, "fps": 8.0, "frames_indices": list(range(9))}
            inputs = critic.processor(
                text=[text + question.cue], videos=[sampled.frames], video_metadata=[metadata], do_sample_frames=False,
                do_resize=False, return_tensors="pt",
            )  # fmt: skip
            with torch.no_grad():
                logits = critic.model(**inputs).logits[0, -1]
            ids = [critic.processor.tokenizer.convert_tokens_to_ids(digit) for digit in "12345"]
            np.testing.assert_allclose(shared[row, column], logits[ids].softmax(-1), atol=1e-5)


def test_digit_and_cue_tokens(critic):
    """The digit behind the cue is one token of its own, whatever stands before it."""
    tokenizer = critic.processor.tokenizer
    for question in questions(PROMPTS[0]):
        before = tokenizer.encode(question.cue)
        assert tokenizer.encode(question.cue + "4") == before + [critic.digits[3]]


def test_chat_shows_video_first_and_frame_times(critic):
    sampled = sample_frames(clip(0, frames=9), 8.0, 4, 1024, critic.token_edge)
    start, rest = critics.chat(critic.processor, questions(PROMPTS[0])[1])
    inputs = critics.process(critic, [sampled], [start + rest])
    text = critic.processor.tokenizer.decode(inputs["input_ids"][0])
    assert text.index("<|video_pad|>") < text.index(PROMPTS[0]) < text.index("<|im_start|>assistant\nScore:")
    assert "<0.1 seconds>" in text and "<0.6 seconds>" in text  # frames 0, 2, 4, 6, 8 at 8 fps, in pairs
    assert critics.video_stats(critic, sampled, inputs, 0) == {"frames": 5, "fps": 4.0, "visual_tokens": 3 * 4 * 6}


@settings(deadline=None)  # other work on the machine may slow it down
@given(
    frames=st.integers(2, 120),
    fps=st.sampled_from([5.0, 8.0, 16.0, 29.97, 30.0]),
    height=st.integers(32, 200),
    width=st.integers(32, 320),
    tokens=st.integers(60, 4000),
)
def test_frames_keep_the_budget(frames, fps, height, width, tokens):
    picture = np.zeros((frames, height, width, 3), np.uint8)
    try:
        sampled = sample_frames(picture, fps, 4, tokens, 32)
    except UserError as error:
        assert "too short" in str(error)
        return
    pairs = -(-len(sampled.indices) // 2)
    assert pairs * (sampled.frames.shape[1] // 32) * (sampled.frames.shape[2] // 32) <= tokens
    assert sampled.indices[0] == 0 and sampled.indices[-1] < frames
    assert len(set(sampled.indices)) == len(sampled.indices)
    assert sampled.fps <= fps + 1e-6


def test_a_setting_that_the_processor_ignores_is_an_error(critic):
    sampled = sample_frames(clip(0), 8.0, 8, 1024, critic.token_edge)
    text = "".join(critics.chat(critic.processor, questions(PROMPTS[0])[0]))
    inputs = critics.process(critic, [sampled], [text])
    fewer = Sampled(sampled.frames[:5], sampled.indices[:5], 8.0)
    with pytest.raises(UserError, match="changed the clip"):
        critics.video_stats(critic, fewer, inputs, 0)
    slower = Sampled(sampled.frames, sampled.indices, 2.0)
    with pytest.raises(UserError, match="frame times"):
        critics.video_stats(critic, slower, inputs, 0)


def test_sampling_a_file_equals_sampling_its_frames(tmp_path):
    for height, width, fps, tokens in ((64, 96, 8, 1024), (80, 100, 30, 60)):
        video.write_video(tmp_path / "a.mp4", clip(1, 40, height, width), fps)
        expected = sample_frames(*video.read_video(tmp_path / "a.mp4"), 8, tokens, 16)
        streamed = sample_video(tmp_path / "a.mp4", 8, tokens, 16)
        assert streamed.shape == expected.shape and np.array_equal(streamed.frames, expected.frames)
    squashed = video.fit(video.read_video(tmp_path / "a.mp4")[0][:1], *expected.frames.shape[1:3], crop=False)
    assert np.abs(squashed[0].astype(int) - expected.frames[0]).max() <= 1, "Pillow's to one level"


def test_a_critic_that_transformers_saved_loads_and_scores_the_same(critic, tmp_path):
    critic.model.save_pretrained(tmp_path)
    critic.processor.save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists(), "transformers 5 writes processor_config.json"
    other = critics.load_critic(tmp_path, torch.device("cpu"))
    clips, batch = [sample_frames(clip(1), 8.0, 8, 1024, critic.token_edge)], [questions(PROMPTS[0])]
    one, two = (critics.answer(each, critics.preprocess(each, clips, batch)) for each in (other, critic))
    assert np.array_equal(one, two)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(UserError, match="preprocessor_config.json is missing"):
        critics.load_critic(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", '{"model_type": "unknown"}', "model_type is 'unknown'; a critic is a qwen3_vl"),
        ("config.json", "[" * 100_000, "config.json is damaged .too deeply nested"),
        ("config.json", '{"a": ' + "9" * 5000 + "}", "config.json is damaged"),
        ("config.json", "[]", "config.json: model_type is None"),
        ("chat_template.jinja", "{% for m in messages %}", "the critic cannot be loaded"),
        ("chat_template.jinja", "no video", "the critic cannot be loaded"),
        ("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "the critic cannot be loaded"),
        ("tokenizer.json", "{", "the critic cannot be loaded"),
        ("model.safetensors", "\xff" * 100, "the critic cannot be loaded"),
        ("model.safetensors.index.json", '{"weight_map": 1}', "model.safetensors.index.json"),
    ],
)
def test_a_hostile_critic_gets_one_line(name, content, words, critic_folder, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(critic_folder, tmp_path / "critic"))
    (folder / name).write_text(content)
    if name != "model.safetensors":
        monkeypatch.setattr(Qwen3VLForConditionalGeneration, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match=words) as refused:
        critics.load_critic(folder, torch.device("cpu"))
    assert "\n" not in str(refused.value)


# rubrics, statistics and corruptions


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("physics", "Is it real?", "no answer cue"),
        ("physics", "Is it real?\nAnswer", "no answer cue"),
        ("instruction", "Was it done?\nScore:", "instruction"),
        ("physics", b"\xff\xfe", "UTF-8"),
    ],
)
def test_bad_rubric(tmp_path, monkeypatch, name, text, message):
    monkeypatch.setattr(rubrics, "PROMPTS", tmp_path)
    (tmp_path / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        rubrics.read_rubric(name)


def test_threshold_and_auc():
    labels, scores = np.array([1, 1, 1, 0, 0, 0]), np.array([5, 4, 3, 2, 2, 1.0])
    facts = statistics.measure(labels, scores, ["real"] * 3 + ["a", "a", "b"], list("abcdef"))
    assert (facts["auc"], facts["threshold"], facts["precision"]) == (1, 3, 1)
    assert facts["rule"] == "best separation, precision at least 0.75"
    assert facts["per_kind"] == {"a": {"auc": 1, "n": 2}, "b": {"auc": 1, "n": 1}}
    worse = statistics.threshold(labels, -scores)
    assert "cannot be reached" in worse["rule"]
    # at 1.2 three of four clips that pass are valid too, but 4 separates better
    assert statistics.threshold(labels, np.array([5, 4.5, 4, 1.2, 1, 1]))["threshold"] == 4
    # at the best separation two of five invalid clips pass, which is too many for 0.75
    mixed = np.array([1] * 5 + [0] * 5), np.array([5, 4.8, 3, 3, 3, 4.9, 3.5, 2, 2, 1])
    assert [statistics.threshold(*mixed, wanted)["threshold"] for wanted in (0.7, 0.75)] == [3, 5]
    assert statistics.auc(np.ones(3), np.ones(3)) is None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1)), min_size=1, max_size=6), st.data())
def test_best_of_is_the_mean_over_subsets(clips, data):
    """Of clips with equal scores a random one is taken; without worth, a clip is worth its score."""
    take = data.draw(st.integers(1, len(clips)))
    scores, worth = zip(*clips, strict=True)
    yields = []
    for subset in combinations(clips, take):
        best, _ = max(subset)
        yields.append((best, np.mean([value for score, value in subset if score == best])))
    expected = np.mean(yields, 0)
    assert statistics.best_of(scores, take) == pytest.approx(expected[0])
    assert statistics.best_of(scores, take, worth) == pytest.approx(expected[1])


def test_kappa_of_agreement_chance_and_reversal():
    ratings = [1, 2, 3, 4, 5] * 4
    series = (ratings, [6 - rating for rating in ratings], np.repeat([1, 2, 4, 5], 5).tolist())
    assert [statistics.kappa(digits, ratings) for digits in series] == pytest.approx([1, -1, 0])
    assert statistics.kappa([3, 3], [3, 3]) is None


def test_retest_counts_flipped_decisions():
    facts = statistics.retest(np.array([1, 2, 3, 4.0]), np.array([1.5, 2, 2.5, 4]), 2.8)
    assert facts == {"n": 4, "difference": 0.25, "flipped": 0.25}
    assert statistics.retest(np.array([]), np.array([]), 3.0)["difference"] is None


def test_interval_is_wider_over_groups():
    values = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0], 20)
    mean = lambda rows: float(values[rows].mean())  # noqa: E731
    clustered = statistics.interval(np.repeat(list("abcde"), 20).tolist(), mean)
    alone = statistics.interval([str(i) for i in range(100)], mean)
    assert clustered[1] - clustered[0] > 2 * (alone[1] - alone[0])


@pytest.mark.parametrize("kind", calibration_clips.CORRUPTIONS)
def test_corrupted_copies_differ_and_repeat(kind):
    frames, other = clip(0, frames=25), clip(3, frames=20, height=80)
    copy = calibration_clips.corrupt(kind, frames, other, 1)
    assert copy.dtype == np.uint8 and copy.shape[1:] == frames.shape[1:] and len(copy) > 12
    assert copy.shape != frames.shape or (copy != frames).any()
    assert np.array_equal(copy, calibration_clips.corrupt(kind, frames, other, 1))


def test_a_bad_calibration_clip_is_refused_with_its_line(tmp_path):
    (tmp_path / "calibration_clips.jsonl").write_text('{"file": "a.mp4", "kind": "real"}\n')
    with pytest.raises(UserError, match="line 1"):
        calibration_clips.labelled(tmp_path, 10)
