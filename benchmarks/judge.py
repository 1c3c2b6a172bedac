"""Speed of the critic: `cookbook judge` beside a plain `generate` loop, in one run, on the same videos.

    python benchmarks/judge.py                          one GPU, the size of Cosmos-Reason2-2B, 208 clips of 92 frames

Weights are random in the exact configuration; the vocabulary has its full size, but the words are those of the nano
tokenizer, so that nothing is downloaded. The clips are rendered first: motion of the shipped clips, enlarged to
432x768, each with its own start, mirroring, crop and sensor noise. The time of a clip includes decoding the mp4,
scoring 92 frames of 256x480 at 16 fps (5,520 visual tokens, as in the published recipe) for both questions, and writing
two rows to verdicts.jsonl. The plain loop takes one clip and one question at a time and generates 8 tokens of text.

Figures from an H100, and what was not run: docs/gpu_figures.md.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import transformers
import tyro
from measuring import fresh_peak, peak, report, say
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen3VLConfig

from cookbook import hardware, profiles, runs, storage
from cookbook.errors import UserError, report_user_errors
from cookbook.judge import scorer
from cookbook.judge.rows import QUESTIONS
from cookbook.judge.rubrics import ask
from cookbook.judge.stage import judge_rows
from cookbook.models import hub, qwen
from cookbook.models.critic import DIGITS, Critic, answer, chat
from cookbook.models.frames import Sampled, sample_frames, sample_video
from cookbook.video import fit, read_video, write_video

# Qwen3-VL-2B, of which Cosmos-Reason2-2B is a further training: 2,127,532,032 parameters
ROPE = {"rope_type": "default", "rope_theta": 5_000_000, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
TEXT = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 262144,
    "rope_parameters": ROPE,
}
VISION = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "deepstack_visual_indexes": [5, 11, 17],
}
FRAMES, HEIGHT, WIDTH, FPS = 92, 432, 768, 16  # of the clips
TOKENS = 5888  # the budget under which such a clip is shown at 256x480
PROMPT = "Use the right hand to pick up red apple from brown tray to beige placemat."
ANSWER = 8  # tokens that the plain loop generates


@dataclass(frozen=True)
class Row:
    """One method."""

    method: str
    clips: int
    first_batch_s: float  # not in the rate
    clips_per_second: float
    model_s_per_clip: float | None  # in which the model worked
    max_difference: float | None  # of any probability from one plain pass over the first clip's chat
    peak_gib: float | None  # of the allocator; None on a CPU


def build(device: torch.device) -> Critic:
    """A critic with random weights in bf16 (float32 on a CPU), around the tokenizer and chat template that ship."""
    folder = hub.locate(profiles.get("nano").critic)
    processor, shipped = AutoProcessor.from_pretrained(folder), Qwen3VLConfig.from_pretrained(folder)
    processor.video_processor.patch_size = 16
    names = [f"{name}_token_id" for name in ("image", "video", "vision_start", "vision_end")]
    ids = {name: getattr(shipped, name) for name in names}
    config = Qwen3VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=True, **ids)
    config.text_config.pad_token_id = processor.tokenizer.pad_token_id
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=hardware.compute_dtype(device))
    digits = processor.tokenizer.convert_tokens_to_ids(list(DIGITS))
    return Critic(model.eval().requires_grad_(False), processor, digits, "random weights", qwen.FAST)


def make_clip(path: Path, number: int) -> None:
    """A distinct video from a shipped clip: played forwards and backwards from a random frame, cropped, with noise."""
    rng = np.random.default_rng(number)
    sources = sorted((runs.ASSETS / "simulator" / "train" / "gr1").glob("*.mp4"))
    frames = read_video(sources[number % len(sources)])[0]
    last = len(frames) - 1
    moments = np.abs((rng.integers(2 * last) + np.arange(FRAMES)) % (2 * last) - last)
    top, left = rng.integers(0, 12), rng.integers(0, 20)
    frames = frames[moments, top : top + 84, left : left + 140, :: rng.choice([-1, 1])]
    grain = rng.integers(-3, 4, (8, HEIGHT, WIDTH, 3), np.int16)[rng.integers(0, 8, FRAMES)]
    frames = np.clip(fit(np.ascontiguousarray(frames), HEIGHT, WIDTH) + grain, 0, 255)
    write_video(path, frames.astype(np.uint8), FPS)


def make_clips(folder: Path, count: int) -> list[dict]:
    """Distinct videos as rows for `judge_rows`. Must come before CUDA is used, as it forks."""
    paths = [folder / f"{number:04d}.mp4" for number in range(count)]
    with ProcessPoolExecutor(scorer.READERS, multiprocessing.get_context("fork")) as pool:
        list(pool.map(make_clip, paths, range(count)))
    facts = {"model": None, "prompt": PROMPT, "seed": 0}
    return [{"file": path.name, "path": path, "name": path.stem, **facts} for path in paths]


def plain_inputs(critic: Critic, clip: Sampled, text: str) -> dict[str, torch.Tensor]:
    """The processor's output for one chat, without our settings."""
    facts = {"total_num_frames": len(clip.frames), "fps": clip.clip_fps, "frames_indices": list(clip.indices)}
    options = {"do_sample_frames": False, "do_resize": False, "return_tensors": "pt"}
    inputs = critic.processor(text=[text], videos=[clip.frames], video_metadata=[facts], **options)
    return inputs.to(critic.model.device)


def judge(critic: Critic, table: Path, rows: Sequence[dict]) -> None:
    """The stage's own way."""
    judge_rows(table, scorer.Scorer(critic, FPS, TOKENS), rows)


def plain_loop(critic: Critic, table: Path, rows: Sequence[dict]) -> None:
    """A clip and a question at a time, the answer generated as text."""
    for row in rows:
        for question in QUESTIONS:
            clip = sample_frames(*read_video(row["path"]), FPS, TOKENS, critic.token_edge)
            start, rest = chat(critic.processor, replace(ask(question, row["prompt"]), cue=""))
            inputs = plain_inputs(critic, clip, start + rest)
            ids = critic.model.generate(**inputs, max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False)
            text = critic.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            storage.append_row(table, {"file": row["file"], "answer": text})


@torch.no_grad()
def plain_probabilities(critic: Critic, row: dict) -> np.ndarray:
    """Probabilities [questions, 5] of the digits from one pass over each whole chat, with the class as it is."""
    clip = sample_frames(*read_video(row["path"]), FPS, TOKENS, critic.token_edge)
    probabilities = []
    for question in QUESTIONS:
        inputs = plain_inputs(critic, clip, "".join(chat(critic.processor, ask(question, row["prompt"]))))
        probabilities.append(critic.model(**inputs, logits_to_keep=1).logits[0, -1, critic.digits].float().softmax(-1))
    return torch.stack(probabilities).cpu().numpy()


def measure(
    method: str,
    critic: Critic,
    function: Callable,
    rows: Sequence[dict],
    first: int,
    folder: Path,
    reference: np.ndarray,
) -> Row:
    """Time `function(critic, table, rows)`, after the first `first` clips once to warm up."""
    device, worked = critic.model.device, [0.0]
    fresh_peak(device)

    def timed(*args: object) -> np.ndarray:
        start = time.perf_counter()
        probabilities = answer(*args)
        worked[0] += time.perf_counter() - start
        return probabilities

    start = time.perf_counter()
    function(critic, folder / "warm.jsonl", rows[:first])
    warmup, scorer.answer = time.perf_counter() - start, timed
    try:
        start = time.perf_counter()
        function(critic, folder / "timed.jsonl", rows)
        seconds = time.perf_counter() - start
    finally:
        scorer.answer = answer
    written = storage.read_rows(folder / "timed.jsonl")
    assert len(written) == 2 * len(rows) and not any(row.get("error") for row in written), "answers are missing"
    scored = [row["probabilities"] for row in written[:2] if "probabilities" in row]  # the plain loop writes text
    difference = float(np.abs(np.array(scored) - reference).max()) if scored else None
    model_s = worked[0] / len(rows) or None
    return Row(method, len(rows), warmup, len(rows) / seconds, model_s, difference, peak(device))


def reading_rate(edge: int, rows: Sequence[dict]) -> float:
    """Clips per second that the readers alone could deliver: decoded and brought to size."""
    start = time.perf_counter()
    with ThreadPoolExecutor(scorer.READERS) as pool:
        list(pool.map(lambda row: sample_video(row["path"], FPS, TOKENS, edge).indices, rows))
    return len(rows) / (time.perf_counter() - start)


def main(clips: int = 208, few: int = 4, out: Path = Path("judge.md")) -> list[Row]:
    """Measure all methods, print the table and write it to a file after each.

    Args:
        clips: distinct clips for our method; a quarter of them for the same with the class's own layers.
        few: clips for the plain loop.
        out: where the table goes.
    """
    if not 1 <= few <= clips:
        raise UserError(f"few is {few}; it must be at least 1 and at most clips, {clips}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = make_clips(folder / "clips", clips)
        say(f"{clips} clips of {sum(row['path'].stat().st_size for row in videos) / clips / 1e6:.2f} MB")
        critic = build(hardware.device())
        say(f"{sum(p.numel() for p in critic.model.parameters()):,} parameters")
        reading = reading_rate(critic.token_edge, videos)
        reference = plain_probabilities(critic, videos[0])
        facts = (
            f"Cosmos-Reason2-2B's size, random weights: {FRAMES} frames, two questions a clip, "
            f"transformers {transformers.__version__}; reading alone {reading:.3g} clips/s"
        )

        own_layers = replace(critic, layers=())
        for method, chosen, function, some, first in (
            ("cookbook judge", critic, judge, videos, scorer.BATCH),
            ("the same, the class's own layers", own_layers, judge, videos[: clips // 4 or 1], scorer.BATCH),
            ("plain generate loop", critic, plain_loop, videos[:few], 1),
        ):
            rows.append(measure(method, chosen, function, some, first, folder / method, reference))
            report(facts, rows, out)
            say(f"{method}: {rows[-1].clips_per_second:.3g} clips/s")
    print(report(facts, rows), flush=True)
    return rows


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main)
