"""Speed of the critic: `cookbook judge` beside a plain `generate` loop, in one run, on the same videos.

    python benchmarks/judge.py                          one GPU, the size of Cosmos-Reason2-2B, 240 clips of 92 frames

Weights are random in the exact configuration; the vocabulary has its full size, but the words are those of the nano
tokenizer, so that nothing is downloaded. The clips are rendered first: motion of the shipped clips, enlarged to
432x768, each with its own start, mirroring, crop and sensor noise. The time of a clip includes decoding the mp4,
scoring 92 frames of 256x480 at 16 fps (5,520 visual tokens, as in the published recipe) for both questions, and writing
two rows to verdicts.jsonl. The plain loop takes one clip and one question at a time and generates 8 tokens of text.

Figures from an H100, and what was not run: docs/gpu_figures.md.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from measuring import markdown, peak, say
from torch.profiler import ProfilerActivity
from torch.profiler import profile as record
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen3_vl import modeling_qwen3_vl
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from cookbook import hardware, profiles, runs
from cookbook.errors import UserError, report_user_errors
from cookbook.judge import scorer
from cookbook.judge.rows import QUESTIONS
from cookbook.judge.rubrics import ask, parse_answer
from cookbook.judge.stage import judge_rows
from cookbook.models import hub, qwen
from cookbook.models.critic import DIGITS, Critic, answer, chat, preprocess
from cookbook.models.frames import Sampled, sample_frames, sample_video
from cookbook.profiles import Profile
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
    """One method. `difference` is the largest of any probability from one plain pass over the first clip's chat."""

    method: str
    clips: int
    warmup: float  # seconds of the first batch, not in `rate`
    rate: float  # clips per second
    model: float | None  # seconds per clip in which the model worked
    difference: float | None
    peak_gib: float | None  # of the allocator; None on a CPU


def build(device: torch.device) -> Critic:
    """A critic with random weights in bf16 (float32 on a CPU), around the tokenizer and chat template that ship."""
    shipped = AutoProcessor.from_pretrained(hub.locate(profiles.get("nano").critic))
    tokenizer = shipped.tokenizer
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {f"vision_{end}": f"<|vision_{end}|>" for end in ("start", "end")}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    config = Qwen3VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=True, **ids)
    config.text_config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=hardware.compute_dtype(device))
    halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=16, **halves),
        tokenizer,
        Qwen3VLVideoProcessor(patch_size=16, **halves),
        shipped.chat_template,
    )
    digits = tokenizer.convert_tokens_to_ids(list(DIGITS))
    return Critic(model.eval().requires_grad_(False), processor, digits, "random weights", writes=True)


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
    inputs = critic.processor(
        text=[text],
        videos=[clip.frames],
        video_metadata=[facts],
        do_sample_frames=False,
        do_resize=False,
        return_tensors="pt",
    )
    return inputs.to(critic.model.device)


def plain_loop(critic: Critic, setting: Profile, folder: Path, rows: Sequence[dict]) -> None:
    """A clip and a question at a time, the answer generated and parsed."""
    for row in rows:
        for question in QUESTIONS:
            clip = sample_frames(*read_video(row["path"]), setting.critic_fps, setting.critic_tokens, critic.token_edge)
            start, rest = chat(critic, replace(ask(question, row["prompt"]), cue=""))
            inputs = plain_inputs(critic, clip, start + rest)
            ids = critic.model.generate(**inputs, max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False)
            text = critic.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            runs.append_row(folder / "plain.jsonl", {"file": row["file"], "digit": parse_answer(text)})


@torch.no_grad()
def plain_probabilities(critic: Critic, setting: Profile, row: dict) -> np.ndarray:
    """Probabilities [questions, 5] of the digits from one pass over each whole chat, with the class as it is."""
    clip = sample_frames(*read_video(row["path"]), setting.critic_fps, setting.critic_tokens, critic.token_edge)
    probabilities = []
    for question in QUESTIONS:
        inputs = plain_inputs(critic, clip, "".join(chat(critic, ask(question, row["prompt"]))))
        probabilities.append(critic.model(**inputs, logits_to_keep=1).logits[0, -1, critic.digits].float().softmax(-1))
    return torch.stack(probabilities).cpu().numpy()


def measure(
    method: str, critic: Critic, judge: Callable[[Sequence[dict], str], None], rows: Sequence[dict], first: int
) -> Row:
    """Time a method on `rows`, after its first `first` clips once to warm up."""
    device, worked = critic.model.device, [0.0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def timed(*args: object) -> np.ndarray:
        start = time.perf_counter()
        probabilities = answer(*args)
        worked[0] += time.perf_counter() - start
        return probabilities

    start = time.perf_counter()
    judge(rows[:first], "warm")
    warmup, scorer.answer = time.perf_counter() - start, timed
    try:
        start = time.perf_counter()
        judge(rows, "timed")
        seconds = time.perf_counter() - start
    finally:
        scorer.answer = answer
    return Row(method, len(rows), warmup, len(rows) / seconds, worked[0] / len(rows) or None, None, peak(device))


def reading_rate(setting: Profile, edge: int, rows: Sequence[dict]) -> float:
    """Clips per second that the readers alone could deliver: decoded and brought to size."""
    start = time.perf_counter()
    with ThreadPoolExecutor(scorer.READERS) as pool:
        size = (setting.critic_fps, setting.critic_tokens, edge)
        list(pool.map(lambda row: sample_video(row["path"], *size).indices, rows))
    return len(rows) / (time.perf_counter() - start)


def kernels(critic: Critic, setting: Profile, rows: Sequence[dict]) -> str:
    """Where one batch spends its time on the GPU."""
    size = (setting.critic_fps, setting.critic_tokens, critic.token_edge)
    clips = [sample_video(row["path"], *size) for row in rows]
    inputs = preprocess(critic, clips, [[ask(question, PROMPT) for question in QUESTIONS]] * len(rows))
    with record(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        answer(critic, inputs)
    rows = sorted(profiled.key_averages(), key=lambda event: -event.self_device_time_total)[:14]
    return "\n".join(f"{row.self_device_time_total / 1e3:8.1f} ms {row.count:6d} x {row.key[:90]}" for row in rows)


def table(rows: Sequence[Row], reading: float) -> str:
    """The rows in Markdown, under a line that says what was measured on what."""
    environment = runs.environment()
    facts = (
        f"Cosmos-Reason2-2B's size, random weights: {FRAMES} frames, two questions a clip, on {environment['device']}, "
        f"{os.cpu_count()} CPU cores, torch {environment['versions']['torch']}, "
        f"transformers {environment['versions']['transformers']}; reading alone {reading:.3g} clips/s"
    )
    heads = ("method", "clips", "clips/s", "model, s per clip", "first batch, s", "max difference", "peak GiB")
    cells = [(row.method, row.clips, row.rate, row.model, row.warmup, row.difference, row.peak_gib) for row in rows]
    return markdown(facts, heads, cells, digits=3)


def main(clips: int = 208, few: int = 4, out: Path = Path("judge.md")) -> list[Row]:
    """Measure all methods, print the table and write it to a file after each.

    Args:
        clips: distinct clips for our method; a quarter of them for its variants.
        few: clips for the plain loop.
        out: where the table goes.
    """
    if not 1 <= few <= clips:
        raise UserError(f"few is {few}; it must be at least 1 and at most clips, {clips}")
    setting = replace(profiles.get("2b"), critic_fps=FPS, critic_tokens=TOKENS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = make_clips(folder / "clips", clips)
        say(f"{clips} clips of {sum(row['path'].stat().st_size for row in videos) / clips / 1e6:.2f} MB")
        critic = build(hardware.device())
        say(f"{sum(p.numel() for p in critic.model.parameters()):,} parameters")
        reading = reading_rate(setting, critic.token_edge, videos)
        reference = plain_probabilities(critic, setting, videos[0])
        on_gpu = critic.model.device.type == "cuda"

        def ours(label: str, chosen: Critic, clips: Sequence[dict]) -> None:
            def work(some: Sequence[dict], part: str) -> None:
                judge_rows(folder / f"{label}-{part}.jsonl", scorer.Scorer(chosen, FPS, TOKENS), some, False)

            row = measure(label, chosen, work, clips, scorer.BATCH)
            verdicts = runs.read_rows(folder / f"{label}-timed.jsonl")
            assert len(verdicts) == 2 * len(clips) and not any(v["error"] for v in verdicts), "verdicts are missing"
            scored = np.array([verdict["probabilities"] for verdict in verdicts[:2]])
            note(replace(row, difference=float(np.abs(scored - reference).max())))

        def note(row: Row) -> None:
            rows.append(row)
            out.write_text(table(rows, reading) + "\n")
            say(f"{row.method}: {row.rate:.3g} clips/s")

        ours("cookbook judge", critic, videos)
        if on_gpu:
            say("one batch on the GPU\n" + kernels(critic, setting, videos[: scorer.BATCH]))
        part = videos[: clips // 4 or 1]
        ours("the same, the class's own layers", replace(critic, layers=()), part)
        plain = partial(plain_loop, critic, setting, folder)
        note(measure("plain generate loop", critic, lambda some, _: plain(some), videos[:few], 1))
        if on_gpu:
            for names, more in (("rotary embedding", compiled()[:2]), ("rotary embedding and MLP", compiled())):
                ours(f"the first, {names} compiled", replace(critic, layers=(*critic.layers, *more)), part)
    print(table(rows, reading), flush=True)
    return rows


def compiled() -> tuple[qwen.Patch, ...]:
    """Parts of the class that consist of many small kernels, each compiled into one."""
    parts = [
        (modeling_qwen3_vl, "apply_rotary_pos_emb_vision"),
        (modeling_qwen3_vl, "apply_rotary_pos_emb"),
        (modeling_qwen3_vl.Qwen3VLTextMLP, "forward"),
    ]
    return tuple((place, name, torch.compile(getattr(place, name), dynamic=True)) for place, name in parts)


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main)
