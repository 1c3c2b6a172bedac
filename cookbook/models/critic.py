"""The critic: a Qwen3-VL model that answers questions about a clip with a score from 1 to 5.

The score is computed from the probabilities of the digits 1 to 5 as the next token after an answer cue. All questions
about a clip share one pass over its frames: the video is encoded once and kept as a key-value cache, and each question
is a short continuation. The result equals, up to rounding, a plain call of processor and model on the whole chat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch

from cookbook import hardware, storage
from cookbook.errors import UserError, shortage
from cookbook.layout import files
from cookbook.models import world
from cookbook.models.frames import Sampled

if TYPE_CHECKING:
    from transformers import Qwen3VLForConditionalGeneration
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    from cookbook.models import qwen

SYSTEM = "You are a helpful assistant."
DIGITS = "12345"
PROCESSOR = ("preprocessor_config.json", "processor_config.json")
MODEL_TYPE = "qwen3_vl"


@dataclass(frozen=True)
class Inputs:
    """Model inputs of clips of one shape, and of the questions about them; tensors are on the model's device."""

    videos: dict[str, torch.Tensor]  # the chats up to the end of the video
    questions: list[tuple[torch.Tensor, torch.Tensor]]  # of each question: tokens [B, L], index of the last one [B]
    start: int  # position of the first token of a question
    stats: list[dict]  # what the model received of each clip, as `video_stats` returns it


@dataclass(frozen=True)
class Question:
    """The text after the video, and the beginning of the answer, up to the digit."""

    text: str
    cue: str


@dataclass
class Critic:
    """A loaded critic with its processor."""

    model: Qwen3VLForConditionalGeneration
    processor: Qwen3VLProcessor
    digits: list[int]  # token ids of 1 to 5
    fingerprint: str
    layers: tuple[qwen.Patch, ...]  # parts of the class that are replaced while it scores
    lock: Lock = field(default_factory=Lock, repr=False)  # of the processor: its tokenizer is not thread-safe

    def __post_init__(self) -> None:
        device = self.model.device
        # Copies on a stream of their own do not wait for the model; only one such stream, as each reserves memory
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
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

    from cookbook.models import qwen

    fingerprint = critic_fingerprint(folder)
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        chat(processor, Question("", ""))  # refuses a faulty template before the weights are loaded
        dtype = hardware.compute_dtype(device)
        model = world.load_pretrained(Qwen3VLForConditionalGeneration, folder, world.TRANSFORMERS, dtype=dtype)
    except Exception as error:  # template, tokenizer and weights each fail in their library's own way
        if isinstance(error, UserError) or shortage(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{folder}: the critic cannot be loaded ({reason})") from None
    digits = [processor.tokenizer.encode(digit, add_special_tokens=False) for digit in DIGITS]
    if any(len(ids) != 1 for ids in digits):
        raise UserError(f"{folder}: its tokenizer splits the digits 1 to 5, so a digit has no single probability")
    model = model.to(device).eval().requires_grad_(False)
    return Critic(model, processor, [ids[0] for ids in digits], fingerprint, qwen.FAST)


def critic_fingerprint(folder: Path) -> str:
    """One hash over weights, configuration and tokenizer, as kept in every verdict.

    Raises:
        UserError: a file that a critic needs is missing.
    """
    content = storage.read_json(folder / "config.json")
    if (kind := content.get("model_type") if isinstance(content, dict) else None) != MODEL_TYPE:
        raise UserError(f"{folder / 'config.json'}: model_type is {kind!r}; a critic is a {MODEL_TYPE}")
    # transformers 5 saves the settings of both preprocessors in one file, the published folders have one for each
    settings = next((n for n in PROCESSOR if (folder / n).exists()), PROCESSOR[0])
    for name in ("config.json", "tokenizer.json", settings):
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing: copy or download the critic again")
    parts = world.weight_files(folder, world.TRANSFORMERS) + files(folder, (".json", ".jinja"))
    return storage.digest_of({path.name: storage.digest(path) for path in parts})


def chat(processor: Qwen3VLProcessor, question: Question) -> tuple[str, str]:
    """The chat up to the end of the video, and the rest: question, generation prompt and answer cue."""
    messages = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question.text}]},
    ]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    end = text.index(processor.vision_end_token) + len(processor.vision_end_token)
    return text[:end], text[end:] + question.cue


def process(critic: Critic, clips: Sequence[Sampled], texts: list[str]) -> dict[str, torch.Tensor]:
    """Inputs of one text per clip, computed by the model's own processor from exactly these frames.

    Pixels are on the model's device, where they are normalised; everything else is on the CPU.
    """
    metadata = [
        {"total_num_frames": clip.indices[-1] + 1, "fps": clip.clip_fps, "frames_indices": list(clip.indices)}
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
        padding_side="left",  # all chats end at the same position
        return_tensors="pt",
    ).data


def preprocess(critic: Critic, clips: Sequence[Sampled], questions: Sequence[Sequence[Question]]) -> Inputs:
    """Prepare clips and their questions for the model; may run in another thread while the model computes.

    Args:
        clips: of one shape (`Sampled.shape`).
        questions: the questions of each clip, equally many.

    Raises:
        UserError: the processor changed the frames or their times.
    """
    device = critic.model.device
    with critic.lock, torch.cuda.stream(critic.stream) if critic.stream else nullcontext():
        videos = process(critic, clips, [chat(critic.processor, Question("", ""))[0]] * len(clips))
        stats = [video_stats(critic, clip, videos, row) for row, clip in enumerate(clips)]
        # Clips of one shape have the same tokens, so one row of positions serves all
        first = {name: videos[name][:1] for name in ("input_ids", "mm_token_type_ids", "video_grid_thw")}
        positions = critic.model.model.get_rope_index(**first)[0]
        videos["position_ids"] = positions.expand(-1, len(clips), -1)
        videos = {name: value.to(device) for name, value in videos.items()}
        tokens = [_tokens(critic, column, device) for column in zip(*questions, strict=True)]
        if critic.stream:
            critic.stream.synchronize()
    return Inputs(videos, tokens, int(positions.max()) + 1, stats)


def video_stats(critic: Critic, clip: Sampled, inputs: dict[str, torch.Tensor], row: int) -> dict:
    """What one row of the inputs holds of its clip: `frames`, their rate `fps`, `visual_tokens`.

    Raises:
        UserError: the processor ignored the clip's size or frame times.
    """
    ids = inputs["input_ids"][row]
    tokens = int((ids == critic.processor.video_token_id).sum())
    pairs, height, width = inputs["video_grid_thw"][row].tolist()
    patch = critic.processor.video_processor.patch_size
    expected = (math.ceil(len(clip.indices) / 2), *clip.frames.shape[1:3])
    got = (pairs, height * patch, width * patch)
    if got != expected or tokens != pairs * height * width // critic.processor.video_processor.merge_size**2:
        raise UserError(f"the critic's processor changed the clip from {expected} to {got} (pairs, height, width)")
    seconds, prompt = [index / clip.clip_fps for index in clip.indices], critic.processor.tokenizer.decode(ids)
    seconds += seconds[-1:] * (len(seconds) % 2)  # the last frame is repeated where their number is odd
    for one, other in (seconds[:2], seconds[-2:]):  # each pair of frames has the time of its middle
        if f"<{(one + other) / 2:.1f} seconds>" not in prompt:
            raise UserError(f"the critic's processor ignored the frame times: {(one + other) / 2:.1f} s is not there")
    return {"frames": len(clip.indices), "fps": round(clip.fps, 3), "visual_tokens": tokens}


def _tokens(critic: Critic, questions: Sequence[Question], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The chat of each question after the video, padded to the right, where nothing attends to the padding."""
    rests = [chat(critic.processor, question)[1] for question in questions]
    batch = critic.processor.tokenizer(rests, padding=True, padding_side="right", return_tensors="pt")
    return batch["input_ids"].to(device), batch["attention_mask"].sum(1).sub(1).to(device)


@torch.no_grad()
def answer(critic: Critic, inputs: Inputs) -> np.ndarray:
    """Probabilities [clips, questions, 5] of the digits: one pass over the videos, then a short one per question."""
    from transformers.cache_utils import DynamicCache

    from cookbook.models import qwen

    device, probabilities = critic.model.device, []
    cache = DynamicCache(config=critic.model.config.get_text_config())
    with qwen.patched(*critic.layers):
        with hardware.fast_attention(device):
            critic.model.model(**inputs.videos, past_key_values=cache, use_cache=True)
        length = cache.get_seq_length()
        for ids, last in inputs.questions:
            positions = torch.arange(inputs.start, inputs.start + ids.shape[1], device=device).expand(3, *ids.shape)
            hidden = critic.model.model(
                input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state
            logits = critic.model.lm_head(hidden[torch.arange(len(ids), device=device), last])
            probabilities.append(logits[:, critic.digits].float().softmax(-1))
            cache.crop(length - cache.get_seq_length())  # negative: as many as the question added
    return torch.stack(probabilities, 1).cpu().numpy()
