"""Stage judge: parity with plain transformers, what the critic sees, parsing, statistics, resume, bad input."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PROMPTS, clip

from cookbook import judge as judging
from cookbook import store, video
from cookbook.errors import UserError
from cookbook.judge import controls, judge, scoring, statistics, verdicts
from cookbook.models import critic as critics
from cookbook.models.frames import Sampled, sample_frames, sample_video


def write_run(root: Path, critic_folder: Path, seeds: int = 2) -> Path:
    """Assets with a critic and controls, and a run with finished dreams of both models. Returns the run."""
    shutil.copytree(critic_folder, root / "assets/nano/critic")
    for index in range(12):
        kind = ("real", "vanish", "wrong_place")[index % 3]
        name = f"place_{index // 3}{'' if kind == 'real' else '-' + kind}.mp4"
        video.write_video(root / "assets/workshop/controls/videos" / name, clip(index), 8)
        row = {"file": f"videos/{name}", "prompt": PROMPTS[index % 2], "kind": kind, "violation": None}
        row |= {"physics": int(kind != "vanish"), "instruction": int(kind == "real"), "twin_of": f"place_{index // 3}"}
        store.append_row(root / "assets/workshop/controls/controls.jsonl", row)
    for model in ("base", "tuned"):
        stage = store.enter(root / "run/dreams" / model, f"generate-{model}", "nano", {}, {})
        for number, prompt in enumerate(PROMPTS):
            for seed in range(seeds):
                name = f"{number:03d}_task_seed{seed}.mp4"
                video.write_video(stage.folder / name, clip(number * 10 + seed + 5 * (model == "base")), 8)
                row = {"file": name, "name": f"{number:03d}_task", "prompt": prompt, "seed": seed, "model": model}
                row["image_sha256"] = None
                store.append_row(stage.folder / "dreams.jsonl", row | {"blocked": False})
        stage.finish(stage.folder.glob("*.*"))
    return root / "run"


@pytest.fixture
def run(tmp_path, critic_folder, monkeypatch) -> Path:
    monkeypatch.setattr(store, "ASSETS", tmp_path / "assets")
    return write_run(tmp_path, critic_folder)


# --- the model ------------------------------------------------------------------------------------------------------


def questions(prompt: str) -> list[critics.Question]:
    return [scoring.ask(question, prompt) for question in scoring.QUESTIONS]


def test_scores_equal_plain_transformers(critic):
    """A batch that shares the video's pass gives what processor and model give, called plainly for each chat."""
    clips = [sample_frames(clip(seed), 8.0, 8, 1024, critic.token_edge) for seed in range(3)]
    asked = [questions(prompt) for prompt in PROMPTS]
    shared, _ = critics.score(critic, clips, asked)
    for row, sampled in enumerate(clips):
        for column, question in enumerate(asked[row]):
            messages = [
                {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
                {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question.text}]},
            ]
            text = (
                critic.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                + question.cue
            )
            metadata = {"total_num_frames": 9, "fps": 8.0, "frames_indices": list(range(9))}
            inputs = critic.processor(
                text=[text],
                videos=[sampled.frames],
                video_metadata=[metadata],
                do_sample_frames=False,
                do_resize=False,
                return_tensors="pt",
            )
            with torch.no_grad():
                logits = critic.model(**inputs).logits[0, -1]
            ids = [critic.processor.tokenizer.convert_tokens_to_ids(digit) for digit in "12345"]
            np.testing.assert_allclose(shared[row, column], logits[ids].softmax(-1), atol=1e-5)


def test_score_depends_on_frames_and_words(critic):
    one = sample_frames(clip(0), 8.0, 8, 1024, critic.token_edge)
    backwards = Sampled(np.ascontiguousarray(one.frames[::-1]), one.indices, one.clip_fps)
    scores, _ = critics.score(critic, [one, backwards], [questions(PROMPTS[0])] * 2)
    other, _ = critics.score(critic, [one], [questions(PROMPTS[1])])
    assert np.abs(scores[0] - scores[1]).max() > 1e-7
    assert np.abs(scores[0, 0] - other[0, 0]).max() < 1e-5 < np.abs(scores[0, 1] - other[0, 1]).max() * 1e3


def test_digit_and_cue_tokens(critic):
    """The digit behind the cue is one token of its own, whatever stands before it."""
    tokenizer = critic.processor.tokenizer
    for question in questions(PROMPTS[0]):
        before = tokenizer.encode(question.cue)
        assert tokenizer.encode(question.cue + "4") == before + [critic.digits[3]]


def test_chat_shows_video_first_and_frame_times(critic):
    sampled = sample_frames(clip(0, frames=9), 8.0, 4, 1024, critic.token_edge)
    start, rest = critics.chat(critic, questions(PROMPTS[0])[1])
    inputs = critics.watch(critic, [sampled], [start + rest])
    text = critic.processor.tokenizer.decode(inputs["input_ids"][0])
    assert text.index("<|video_pad|>") < text.index(PROMPTS[0]) < text.index("<|im_start|>assistant\nScore:")
    assert "<0.1 seconds>" in text and "<0.6 seconds>" in text  # frames 0, 2, 4, 6, 8 at 8 fps, in pairs
    assert critics.seen(critic, sampled, inputs, 0) == critics.Seen(5, 4.0, 3 * 4 * 6)


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
    assert (
        sampled.indices[0] == 0 and sampled.indices[-1] < frames and len(set(sampled.indices)) == len(sampled.indices)
    )
    assert sampled.fps <= fps + 1e-6


def test_ignored_setting_is_an_error(critic):
    sampled = sample_frames(clip(0), 8.0, 8, 1024, critic.token_edge)
    text = "".join(critics.chat(critic, questions(PROMPTS[0])[0]))
    inputs = critics.watch(critic, [sampled], [text])
    fewer = Sampled(sampled.frames[:5], sampled.indices[:5], 8.0)
    with pytest.raises(UserError, match="changed the clip"):
        critics.seen(critic, fewer, inputs, 0)
    slower = Sampled(sampled.frames, sampled.indices, 2.0)
    with pytest.raises(UserError, match="frame times"):
        critics.seen(critic, slower, inputs, 0)


def test_untrained_critic_writes_nothing(critic):
    sampled = sample_frames(clip(0), 8.0, 8, 1024, critic.token_edge)
    assert critics.explain(critic, sampled, questions(PROMPTS[0])[0]) is None


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_incomplete_critic_is_refused(critic_folder, tmp_path, missing):
    shutil.copytree(critic_folder, tmp_path / "critic")
    (tmp_path / "critic" / missing).unlink()
    with pytest.raises(UserError, match="critic"):
        critics.load_critic(tmp_path / "critic", torch.device("cpu"))


# --- prompts and answers --------------------------------------------------------------------------------------------


FORMS = ["{}", "{}.", "Score: {}", "score = **{}**", "**{}**", "{}/5", "{} out of 5", "Rating: {}/5", "{}.0"]
FORMS += ["<think>I see 3 apples, 2 hands.</think>\n{}", "<think>4?</think>\n\nFinal answer: {}", "Score (1 to 5): {}"]


@given(st.integers(1, 5), st.sampled_from(FORMS))
def test_parser_reads_the_digit(digit, form):
    assert scoring.parse_answer(form.format(digit)) == digit


@pytest.mark.parametrize("text", ["", "great", "6", "0/5", "between 3 and 4", "<think>4", "12", "3.7", "Score: 45"])
def test_parser_says_none(text):
    assert scoring.parse_answer(text) is None


@given(st.text(max_size=60))
def test_parser_never_fails(text):
    assert scoring.parse_answer(text) in (None, 1, 2, 3, 4, 5)


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
    monkeypatch.setattr(scoring, "PROMPTS", tmp_path)
    (tmp_path / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        scoring.read_rubric(name)


# --- statistics and controls ----------------------------------------------------------------------------------------


def test_threshold_and_auc():
    labels, scores = np.array([1, 1, 1, 0, 0, 0]), np.array([5, 4, 3, 2, 2, 1.0])
    facts = statistics.measure(labels, scores, ["real"] * 3 + ["a", "a", "b"], list("abcdef"))
    assert (
        facts["auc"] == 1 and facts["threshold"] == 3 and facts["precision"] == 1 and facts["rule"] == "precision 0.75"
    )
    assert facts["per_kind"] == {"a": {"auc": 1, "n": 2}, "b": {"auc": 1, "n": 1}}
    worse = statistics.threshold(labels, -scores)
    assert "cannot be reached" in worse["rule"]
    assert statistics.auc(np.ones(3), np.ones(3)) is None


@given(st.lists(st.floats(1, 5), min_size=1, max_size=6), st.data())
def test_best_of_is_the_mean_over_subsets(scores, data):
    from itertools import combinations

    take = data.draw(st.integers(1, len(scores)))
    subsets = [max(subset) for subset in combinations(scores, take)]
    assert statistics.best_of(scores, take) == pytest.approx(sum(subsets) / len(subsets))


def test_the_pick_of_n_is_worth_its_mean_over_subsets():
    from itertools import combinations

    scores, worth = [3.0, 1.0, 3.0, 4.0, 2.0], [1.0, 0.0, 0.0, 0.0, 1.0]
    for take in range(1, 6):
        found = []
        for subset in combinations(range(5), take):
            best = max(scores[i] for i in subset)
            found.append(np.mean([worth[i] for i in subset if scores[i] == best]))
        assert statistics.best_of(scores, take, worth) == pytest.approx(np.mean(found))
    assert statistics.best_of([1, 2, 3], 2, [0, 1, 0]) == pytest.approx(1 / 3)
    assert statistics.best_of([1, 1, 1, 1], 3, [1, 0, 0, 1]) == 0.5  # a critic that says nothing picks at random


def test_kappa_of_agreement_chance_and_reversal():
    marks = [1, 2, 3, 4, 5] * 4
    assert statistics.kappa(marks, marks) == 1
    assert statistics.kappa([6 - mark for mark in marks], marks) == pytest.approx(-1)
    assert abs(statistics.kappa(np.repeat([1, 2, 4, 5], 5).tolist(), marks)) < 1e-9
    near, far = [min(5, mark + 1) for mark in marks], [1 if mark == 5 else mark for mark in marks]
    assert statistics.kappa(near, marks) > 0.7 > 3 * statistics.kappa(far, marks)  # near misses weigh less
    assert statistics.kappa([3, 3], [3, 3]) is None


def test_retest_counts_what_flips():
    facts = statistics.retest(np.array([1, 2, 3, 4.0]), np.array([1.5, 2, 2.5, 4]), 2.8)
    assert facts == {"n": 4, "difference": 0.25, "correlation": pytest.approx(0.956, abs=1e-3), "flipped": 0.25}
    assert statistics.retest(np.array([]), np.array([]), 3.0)["difference"] is None


def test_interval_is_wider_over_groups():
    values = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0], 20)
    mean = lambda rows: float(values[rows].mean())  # noqa: E731
    clustered = statistics.interval(np.repeat(list("abcde"), 20).tolist(), mean)
    alone = statistics.interval([str(i) for i in range(100)], mean)
    assert clustered[1] - clustered[0] > 2 * (alone[1] - alone[0])


@pytest.mark.parametrize("kind", controls.SPOILERS)
def test_spoilt_clips_differ_and_repeat(kind):
    frames, other = clip(0, frames=25), clip(3, frames=20, height=80)
    spoilt = controls.spoil(kind, frames, other, 1)
    assert spoilt.dtype == np.uint8 and spoilt.shape[1:] == frames.shape[1:] and len(spoilt) > 12
    assert spoilt.shape != frames.shape or (spoilt != frames).any()
    assert np.array_equal(spoilt, controls.spoil(kind, frames, other, 1))


def test_bad_controls_row(tmp_path):
    (tmp_path / "controls.jsonl").write_text('{"file": "a.mp4", "kind": "real"}\n')
    with pytest.raises(UserError, match="line 1"):
        controls.labelled(tmp_path, 10)


# --- the stage ------------------------------------------------------------------------------------------------------


def rows_of(run: Path) -> list[dict]:
    return store.read_rows(run / "verdicts/verdicts.jsonl")


def test_stage_scores_every_dream(run, capsys):
    manifest = judge("smoke", run)
    rows = rows_of(run)
    assert len(rows) == 2 * 3 * 2 * 2 == len({(row["file"], row["question"]) for row in rows})
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    for row in rows:
        assert 1 <= row["score"] <= 5 and sum(row["probabilities"]) == pytest.approx(1, abs=1e-4)
        assert row["score"] == pytest.approx(scoring.expected(np.array(row["probabilities"])), abs=1e-4)
        assert (row["frames"], row["fps"], row["visual_tokens"]) == (9, 8.0, 120)
        assert row["explanation"] is None and row["votes"] == [] and row["error"] is None
        assert row["sha256"] == store.digest(run / row["file"])
    assert {"auc_physics", "auc_instruction", "follow_rate_base", "follow_rate_tuned", "best_of_n"} <= manifest.keys()
    assert [point["n"] for point in manifest["best_of_n"]] == [1, 2]
    assert manifest["best_of_n"][1]["score"] >= manifest["best_of_n"][0]["score"]
    assert manifest["best_of_n"][1]["placed"] is None, "nobody knows what these did"
    facts = json.loads((run / "verdicts/calibration.json").read_text())
    assert facts["again"]["physics"]["n"] == 4 and 0 <= facts["again"]["physics"]["difference"] < 1
    assert facts["human"]["physics"] == {"n": 0, "kappa": None, "auc": None}
    assert set(facts["questions"]["physics"]["per_kind"]) == {"vanish"}
    assert set(facts["questions"]["instruction"]["per_kind"]) == {"wrong_place"}
    assert set(facts["apart"]["physics"]["per_kind"]) == {
        "reversed",
        "shuffled",
        "spliced",
        "pasted",
        "erased",
        "dropped",
        "sped_up",
    }
    assert set(facts["apart"]["instruction"]["per_kind"]) == {"frozen", "reversed", "shuffled", "spliced", "swapped"}
    judge("smoke", run)
    assert "skipping" in capsys.readouterr().out


def test_without_labelled_controls_training_clips_are_spoilt(run, monkeypatch, capsys):
    from dataclasses import replace

    from cookbook import profiles

    bare = replace(profiles.smoke(), controls=None)
    monkeypatch.setattr(profiles, "get", lambda name: bare)
    with pytest.raises(UserError, match="metadata.csv"):
        judge("smoke", run, calibrate=True)
    for index in range(3):
        video.write_video(run / f"data/train/videos/{index}.mp4", clip(index), 8)
    table = "".join(f'{index}.mp4,"{prompt}"\n' for index, prompt in enumerate(PROMPTS))
    (run / "data/train/metadata.csv").write_text("file,prompt\n" + table)
    facts = judge("smoke", run, calibrate=True)
    assert {"frozen", "swapped"} <= set(facts["questions"]["instruction"]["per_kind"])
    judge("smoke", run, calibrate=True)
    assert "the critic is measured" in capsys.readouterr().out


def test_marks_of_people_feed_the_calibration(run, capsys):
    first = judge("smoke", run, calibrate=True)
    for number, name in enumerate(sorted(path.name for path in (run / "dreams/tuned").glob("*.mp4"))):
        file = f"dreams/tuned/{name}"
        for rater, mark in (("a", 1 + number % 5), ("b", 1 + number % 5)):
            row = {"file": file, "sha256": store.digest(run / file), "prompt": PROMPTS[0], "question": "physics"}
            store.append_row(run / "marks.jsonl", row | {"mark": mark, "rater": rater})
    facts = judge("smoke", run, calibrate=True)
    assert facts["human"]["physics"]["n"] == 6 and -1 <= facts["human"]["physics"]["kappa"] <= 1
    assert facts["human"]["instruction"]["n"] == 0
    assert (
        facts["questions"]["physics"]["n"] == first["questions"]["physics"]["n"] + 5
    )  # one is undecided, at 2.5 to 3.5
    assert facts["questions"]["physics"]["per_kind"]["marked"]["n"] == 3
    told = capsys.readouterr().out
    assert "6 clips marked by people" in told and "judging controls: 6 in" in told, "the others keep their scores"
    video.write_video(run / file, clip(99), 8)
    with pytest.raises(UserError, match="changed after it was marked"):
        judge("smoke", run, calibrate=True)
    (run / "marks.jsonl").write_text('{"file": "a.mp4", "mark": 6}\n')
    with pytest.raises(UserError, match="marks.jsonl, line 1"):
        judge("smoke", run, calibrate=True)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from cookbook import store
from cookbook.judge import judge
torch.set_num_threads(1)
store.ASSETS = Path(sys.argv[1])
append, count = store.append_row, 0
def append_row(path, row):
    global count
    append(path, row)
    count += 1
    if count == int(sys.argv[3]):
        with open(path, "a") as file:
            file.write('{"file": "cut')  # and a line that the kill cut short
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
store.append_row = append_row
judge("smoke", sys.argv[2])
"""


def test_killed_and_resumed_gives_the_same(run, tmp_path, critic_folder):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "assets"), str(run)]
    for rows in (5, 45):  # among the controls, then among the dreams
        assert subprocess.run([*command, str(rows)], capture_output=True).returncode == -9
    assert not (run / "verdicts/manifest.json").exists()
    judge("smoke", run)
    resumed, measured = rows_of(run), json.loads((run / "verdicts/calibration.json").read_text())
    judge("smoke", run, redo=True)
    assert resumed == rows_of(run)
    assert measured == json.loads((run / "verdicts/calibration.json").read_text())


def many_verdicts(path: Path, critic: critics.Critic, rows: list[dict]) -> None:
    """`judge_rows` with all but the model itself, which takes no time here; resident memory is noted on the way."""
    count, append = len(store.read_rows(path)), store.append_row

    def counted(*row) -> None:
        nonlocal count
        append(*row)
        count += 1
        if count in (1000, 2 * len(rows)):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            path.with_suffix(f".{count}").write_text(str(pages * os.sysconf("SC_PAGE_SIZE")))

    seen = critics.Seen(3, 8.0, 4)
    store.append_row = counted
    verdicts.look = lambda critic, clips, asked: critics.Watched({}, asked, 0, [seen] * len(clips))
    verdicts.answer = lambda critic, watched: np.full((len(watched.seen), 2, 5), 0.2)
    judging.judge_rows(path, verdicts.Panel(critic, 8, 1024), rows, False)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="NOT RUN: resident memory is read from /proc")
def test_ten_thousand_verdicts_survive_kills_in_constant_memory(tmp_path, critic):
    """Files are really read and rows really written; SIGKILL three times at moments drawn by a seed."""
    video.write_video(tmp_path / "a.mp4", np.zeros((3, 32, 32, 3), np.uint8), 8)
    facts = {"path": tmp_path / "a.mp4", "model": None, "name": "a", "prompt": "Wave.", "seed": 0}
    rows = [{"file": f"{number:04d}.mp4", **facts} for number in range(5000)]
    table, draw, context = tmp_path / "verdicts.jsonl", np.random.default_rng(7), multiprocessing.get_context("fork")
    for part in range(4):
        process = context.Process(target=many_verdicts, args=(table, critic, rows))
        process.start()
        after = 1200 + 2500 * part + draw.integers(1000)
        while part < 3 and process.is_alive() and not (table.exists() and table.read_bytes().count(b"\n") > after):
            time.sleep(0.01)
        if part < 3:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == (-signal.SIGKILL if part < 3 else 0)
    told = [(row["file"], row["question"]) for row in store.read_rows(table)]
    assert len(told) == len(set(told)) == 10_000
    early, late = (int(table.with_suffix(f".{count}").read_text()) for count in (1000, 10_000))
    assert late - early < 100e6, f"{(late - early) / 1e6:.0f} MB more after 10,000 rows than after 1,000"


def write_mixed(folder: Path) -> Path:
    """Sound clips of several sizes and rates among files that nobody can judge."""
    video.write_video(folder / "long.mp4", clip(1, frames=40, height=80, width=100), 30)
    (folder / "long.txt").write_text("The robot arm is performing a task. Lift the cup.")
    video.write_video(folder / "Use the left hand to wave..mp4", clip(2), 10)
    video.write_video(folder / "one.mp4", clip(2, frames=1), 10)
    whole = (folder / "Use the left hand to wave..mp4").read_bytes()
    for name, content in {"corrupt": b"no video", "empty": b"", "headers": whole[: whole.index(b"mdat") + 4]}.items():
        (folder / f"{name}.mp4").write_bytes(content)
    return folder


UNJUDGED = {"one": "too short", "corrupt": "not a readable", "empty": "not a readable", "headers": "holds no frames"}


def test_folder_of_clips(run, tmp_path):
    """Another fps, a corrupt video, a clip of no length: each has its own outcome, and the others go on."""
    manifest = judge("smoke", run, clips=write_mixed(tmp_path / "real_clips"))
    rows = store.read_rows(run / "verdicts-real_clips/verdicts.jsonl")
    told = {(row["file"], row["question"]): row for row in rows}
    assert told["long.mp4", "instruction"]["prompt"] == "Lift the cup."
    assert told["long.mp4", "physics"]["fps"] == pytest.approx(8, abs=0.3)
    waving = [told["Use the left hand to wave..mp4", question] for question in scoring.QUESTIONS]
    assert all(row["prompt"] == "Use the left hand to wave." and 1 <= row["score"] <= 5 for row in waving)
    for name, reason in UNJUDGED.items():
        row = told[f"{name}.mp4", "physics"]
        assert row["score"] is None and reason in row["error"] and f"{name}.mp4" in row["error"] + row["file"]
        assert (f"{name}.mp4", "instruction") not in told, "nobody told what was to be done"
    assert manifest["unjudged"] == sorted(f"{name}.mp4" for name in UNJUDGED)


def test_a_question_without_a_cue_is_left_out_and_the_other_goes_on(run, tmp_path, monkeypatch, capsys):
    prompts = Path(shutil.copytree(scoring.PROMPTS, tmp_path / "prompts"))
    (prompts / "physics.txt").write_text("Is it real?\n")
    whole = judge("smoke", run, clips=write_mixed(tmp_path / "clips"))
    monkeypatch.setattr(scoring, "PROMPTS", prompts)
    manifest = judge("smoke", run, clips=tmp_path / "clips", redo=True)
    assert "physics is not asked" in capsys.readouterr().out
    rows = store.read_rows(run / "verdicts-clips/verdicts.jsonl")
    broken, other = ([row for row in rows if row["question"] == question] for question in scoring.QUESTIONS)
    assert len(broken) == 6 and all(row["score"] is None for row in broken)
    assert sum("physics.txt has no answer cue: end it with" in row["error"] for row in broken) == 2
    assert {row["error"] for row in other} == {None} and len(other) == 2
    assert manifest["inputs"]["prompts"] != whole["inputs"]["prompts"], "mended, it is judged anew"
    facts = judge("smoke", run, calibrate=True)["questions"]
    assert facts["physics"]["auc"] is None and facts["physics"]["n"] == 0 and 0 <= facts["instruction"]["auc"] <= 1


def test_a_missing_model_stops_before_any_clip_and_the_next_run_goes_on(run, tmp_path, monkeypatch):
    class Enough(Exception):
        """What ends the first run."""

    def stop(path, row, append=store.append_row):
        append(path, row)
        if path.name == "verdicts.jsonl" and len(store.read_rows(path)) == 5:
            raise Enough

    with monkeypatch.context() as patch, pytest.raises(Enough):
        patch.setattr(store, "append_row", stop)
        judge("smoke", run)
    before = rows_of(run)
    for name in ("model.safetensors", "tokenizer.json"):
        file = tmp_path / "assets/nano/critic" / name
        file.rename(tmp_path / name)
        with monkeypatch.context() as patch, pytest.raises(UserError, match=rf"critic/{name} is missing.*download"):
            patch.setattr(video, "decode", lambda *_, **__: pytest.fail("a clip was decoded"))
            judge("smoke", run)
        (tmp_path / name).rename(file)
    assert rows_of(run) == before and len(before) == 5
    judge("smoke", run)
    assert rows_of(run)[:5] == before and len(rows_of(run)) == 24


def test_bad_places(run, tmp_path):
    for folder, message in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "no .mp4")):
        with pytest.raises(UserError, match=message):
            judge("smoke", run, clips=folder)
    with pytest.raises(UserError, match="cookbook generate"):
        judge("smoke", tmp_path / "empty")


def test_bad_verdict_line(run):
    (run / "verdicts").mkdir()
    (run / "verdicts/verdicts.jsonl").write_text("{}}\n{}\n")
    with pytest.raises(UserError, match="line 1"):
        judge("smoke", run)


def test_reading_a_file_shows_what_its_frames_would(tmp_path):
    for height, width, fps, tokens in ((64, 96, 8, 1024), (80, 100, 30, 60)):
        video.write_video(tmp_path / "a.mp4", clip(1, 40, height, width), fps)
        whole = sample_frames(*video.read_video(tmp_path / "a.mp4"), 8, tokens, 16)
        streamed = sample_video(tmp_path / "a.mp4", 8, tokens, 16)
        assert streamed.shape == whole.shape and np.array_equal(streamed.frames, whole.frames)
    squashed = video.fit(video.read_video(tmp_path / "a.mp4")[0][:1], *whole.frames.shape[1:3], crop=False)
    assert np.abs(squashed[0].astype(int) - whole.frames[0]).max() <= 1, "Pillow's to one level"
