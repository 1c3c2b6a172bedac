"""The critic: a Qwen3-VL model that watches a clip and gives a question a score from 1 to 5.

The score is read from the probabilities of the digits 1 to 5 as the next token behind an answer cue. All questions
about a clip share one pass over its frames: the video is encoded once and kept as a key-value cache, and each question
is a short continuation. Equal, up to rounding, to the processor and the model called plainly on the whole chat.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
from transformers.cache_utils import DynamicCache
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata

from cookbook import hardware, runs
from cookbook.errors import UserError
from cookbook.hardware import compute_dtype
from cookbook.models import qwen
from cookbook.models.frames import Sampled

SYSTEM = "You are a helpful assistant."
DIGITS = "12345"
THINK = (
    "\n\nAnswer the question using the following format:\n\n<think>\nYour reasoning.\n</think>\n\n"
    "Write your final answer immediately after the </think> tag."
)  # the block that switches Reason 2's reasoning on (upstream.md E.2)


@dataclass(frozen=True)
class VideoStats:
    """What the model really got, read back from its inputs."""

    frames: int
    fps: float
    visual_tokens: int


@dataclass(frozen=True)
class Inputs:
    """Clips of one shape as the model gets them, up to where the questions begin."""

    inputs: dict[str, torch.Tensor]  # on the model's device, as all that follows
    endings: list[tuple[torch.Tensor, torch.Tensor]]  # of each question: tokens [B, L], place of the last one [B]
    start: int  # position of the first token of a question
    seen: list[VideoStats]


@dataclass(frozen=True)
class Question:
    """What is asked behind the video, and the beginning of the answer, up to the digit."""

    text: str
    cue: str


@dataclass
class Critic:
    """A loaded critic and what is needed to question it."""

    model: Qwen3VLForConditionalGeneration
    processor: Qwen3VLProcessor
    digits: list[int]  # token ids of 1 to 5
    fingerprint: str
    writes: bool  # whether it was trained to write text, not only to score
    layers: tuple[qwen.Change, ...] = qwen.FAST  # parts of the class that are replaced while it scores
    reading: Lock = field(default_factory=Lock, repr=False)  # whose turn it is with the tokenizer, which is not shared

    def __post_init__(self) -> None:
        device = self.model.device
        # Beside the model's own, so that copies do not wait for it; one for good, as each keeps memory of its own
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def token_edge(self) -> int:
        """Pixels along the side of one visual token."""
        return self.processor.video_processor.patch_size * self.processor.video_processor.merge_size


def load_critic(folder: Path, device: torch.device) -> Critic:
    """Model and processor from a folder in the layout of nvidia/Cosmos-Reason2-2B.

    Raises:
        UserError: a file is missing, the folder holds another model, or a digit is not one token.
    """
    fingerprint = critic_fingerprint(folder)
    try:
        processor = AutoProcessor.from_pretrained(folder)
        model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=compute_dtype(device))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: the critic cannot be loaded ({str(error).splitlines()[0]})") from None
    digits = [processor.tokenizer.encode(digit, add_special_tokens=False) for digit in DIGITS]
    if any(len(ids) != 1 for ids in digits):
        raise UserError(f"{folder}: its tokenizer splits the digits 1 to 5, so they have no probability of their own")
    model = model.to(device).eval().requires_grad_(False)
    return Critic(model, processor, [ids[0] for ids in digits], fingerprint, writes(folder))


def writes(folder: Path) -> bool:
    """Whether the critic can write: one that cannot has nothing to say about how to sample its words."""
    return (folder / "generation_config.json").exists()


def critic_fingerprint(folder: Path) -> str:
    """One hash over weights, configuration and tokenizer, as kept in every verdict.

    Raises:
        UserError: a file that a critic needs is missing.
    """
    index, weights = folder / "model.safetensors.index.json", ["model.safetensors"]
    if index.exists():
        weights = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json", *weights):
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing, without it there is no critic: copy or download it again")
    files = [path for pattern in ("*.safetensors", "*.json", "*.jinja") for path in folder.glob(pattern)]
    return runs.digest_of({path.name: runs.digest(path) for path in sorted(files)})


def chat(critic: Critic, question: Question) -> tuple[str, str]:
    """The chat up to the end of the video, and the rest: question, generation prompt and answer cue."""
    messages = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question.text}]},
    ]
    text = critic.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    end = text.index(critic.processor.vision_end_token) + len(critic.processor.vision_end_token)
    return text[:end], text[end:] + question.cue


def preprocess(critic: Critic, clips: Sequence[Sampled], texts: list[str]) -> dict[str, torch.Tensor]:
    """Inputs of one text per clip, made by the model's own processor from exactly these frames.

    Pixels are on the model's device, where they are normalised; all else is on the CPU.
    """
    metadata = [
        VideoMetadata(
            total_num_frames=clip.indices[-1] + 1,
            fps=clip.clip_fps,
            frames_indices=list(clip.indices),
            height=clip.frames.shape[1],
            width=clip.frames.shape[2],
        )
        for clip in clips
    ]
    return critic.processor(
        text=texts,
        videos=[torch.from_numpy(clip.frames).permute(0, 3, 1, 2) for clip in clips],
        video_metadata=metadata,
        do_sample_frames=False,
        do_resize=False,
        cap_pixels_per_frame=False,
        device=str(critic.model.device),
        padding=True,
        padding_side="left",  # so that all chats end in the same place
        return_tensors="pt",
    ).data


def look(critic: Critic, clips: Sequence[Sampled], asked: Sequence[Sequence[Question]]) -> Inputs:
    """Make clips and what is asked of them ready for the model; may run in another thread, beside the model.

    Args:
        clips: of one shape (`Sampled.shape`).
        asked: the questions of each clip, equally many.

    Raises:
        UserError: what the processor made of the frames is not what it was given.
    """
    device = critic.model.device
    with critic.reading, torch.cuda.stream(critic.stream) if critic.stream else nullcontext():
        inputs = preprocess(critic, clips, [chat(critic, Question("", ""))[0]] * len(clips))
        looks = [seen(critic, clip, inputs, row) for row, clip in enumerate(clips)]
        # Clips of one shape have the same tokens, so one row of positions serves all
        first = {name: inputs[name][:1] for name in ("input_ids", "mm_token_type_ids", "video_grid_thw")}
        positions = critic.model.model.get_rope_index(**first)[0]
        inputs["position_ids"] = positions.expand(-1, len(clips), -1)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        endings = [_tokens(critic, questions, device) for questions in zip(*asked, strict=True)]
        if critic.stream:
            critic.stream.synchronize()
    return Inputs(inputs, endings, int(positions.max()) + 1, looks)


def seen(critic: Critic, clip: Sampled, inputs: dict[str, torch.Tensor], row: int) -> VideoStats:
    """Read back what one row of the inputs shows of its clip; a setting that was ignored is an error."""
    ids = inputs["input_ids"][row]
    tokens = int((ids == critic.processor.video_token_id).sum())
    pairs, height, width = inputs["video_grid_thw"][row].tolist()
    patch = critic.processor.video_processor.patch_size
    expected = (math.ceil(len(clip.indices) / 2), *clip.frames.shape[1:3])
    got = (pairs, height * patch, width * patch)
    if got != expected or tokens != pairs * height * width // critic.processor.video_processor.merge_size**2:
        raise UserError(
            f"the critic's processor changed the clip from {expected} to {got} (frame pairs, height, width)"
        )
    times = _timestamps(clip)
    shown = critic.processor.tokenizer.decode(ids)
    if missing := [time for time in (times[0], times[-1]) if f"<{time:.1f} seconds>" not in shown]:
        raise UserError(f"the critic's processor ignored the frame times: {missing[0]:.1f} s is not in its prompt")
    return VideoStats(len(clip.indices), round(clip.fps, 3), tokens)


def _timestamps(clip: Sampled) -> list[float]:
    """Middle of each frame pair in seconds; the last frame is repeated where their number is odd."""
    seconds = [index / clip.clip_fps for index in clip.indices]
    seconds += seconds[-1:] * (len(seconds) % 2)
    return [(a + b) / 2 for a, b in zip(seconds[::2], seconds[1::2], strict=True)]


def _tokens(critic: Critic, questions: Sequence[Question], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What follows the video in the chat of each question, padded to the right, where nothing sees the padding."""
    rests = [chat(critic, question)[1] for question in questions]
    made = critic.processor.tokenizer(rests, padding=True, padding_side="right", return_tensors="pt")
    return made["input_ids"].to(device), made["attention_mask"].sum(1).sub(1).to(device)


def score(
    critic: Critic, clips: Sequence[Sampled], asked: Sequence[Sequence[Question]]
) -> tuple[np.ndarray, list[VideoStats]]:
    """Probabilities [clips, questions, 5] of the digits 1 to 5, and what was seen of each clip; see `look`."""
    watched = look(critic, clips, asked)
    return answer(critic, watched), watched.seen


@torch.no_grad()
def answer(critic: Critic, watched: Inputs) -> np.ndarray:
    """Probabilities [clips, questions, 5] of the digits: one pass over the videos, then a short one per question."""
    device, found = critic.model.device, []
    cache = DynamicCache(config=critic.model.config.get_text_config())
    with qwen.changed(*critic.layers):
        with hardware.fast_attention(device):
            critic.model.model(**watched.inputs, past_key_values=cache, use_cache=True)
        length = cache.get_seq_length()
        for ids, last in watched.endings:
            positions = torch.arange(watched.start, watched.start + ids.shape[1], device=device).expand(3, *ids.shape)
            hidden = critic.model.model(
                input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state
            logits = critic.model.lm_head(hidden[torch.arange(len(ids), device=device), last])
            found.append(logits[:, critic.digits].float().softmax(-1))
            cache.crop(length - cache.get_seq_length())  # negative: as many as the question added
    return torch.stack(found, 1).cpu().numpy()


@torch.no_grad()
def explain(critic: Critic, clip: Sampled, question: Question, length: int = 1024) -> str | None:
    """The critic's reasoning and answer in words (greedy, Reason 2's think format), or None if it cannot write."""
    if not critic.writes:
        return None
    start, rest = chat(critic, Question(question.text + THINK, ""))
    with critic.reading:
        inputs = preprocess(critic, [clip], [start + rest])
    inputs = {name: value.to(critic.model.device) for name, value in inputs.items()}
    critic.model.model.rope_deltas = None  # of an earlier clip
    ids = critic.model.generate(**inputs, max_new_tokens=length, do_sample=False)
    with critic.reading:
        return critic.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
