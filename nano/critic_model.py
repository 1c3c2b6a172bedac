"""The nano critic's network: Qwen3-VL's class at 2.6 million weights, with every file that its processor loads offline.

Patches are 8 x 8 pixels, half of Qwen3-VL's: our clips are 160 pixels wide and their objects 10 to 20, so a visual
token of the usual 32 x 32 pixels would hold an object, its place and half the hand at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from cookbook.errors import UserError
from nano.tokenizer import CHAT_TEMPLATE, build_tokenizer, captions, corpus

HIDDEN, HEADS, HEAD = 128, 4, 32
PATCH, MERGE = 8, 2
THETA = 100.0  # of the decoder's rotary positions: neighbouring cells of a 6 x 10 grid must differ by more than 0.3 rad
MROPE = [6, 5, 5]
COLUMNS = 160 // (PATCH * MERGE)  # visual tokens along the longer side of a nano clip
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # pixels in -1..1, as Qwen3-VL has them


def config(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """Qwen3-VL-2B's shape, small: the same frame pairs, merging and DeepStack."""
    special = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    tokens = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in special.items()}
    vision = {
        "depth": 3, "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_heads": HEADS, "patch_size": PATCH,
        "temporal_patch_size": 2, "spatial_merge_size": MERGE, "out_hidden_size": HIDDEN,
        "num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": THETA, "mrope_section": MROPE, "mrope_interleaved": True}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": 3 * HIDDEN, "num_hidden_layers": 5,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HEAD,
        "attention_bias": True,  # see _look_back
        "max_position_embeddings": 4096, "rope_parameters": rope, "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)


def build(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """The model with random weights, except for its patch embedding and the heads that attend to earlier positions."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config(tokenizer))
    # From one frame pair to the next: its visual tokens, the start and end tokens, and the timestamp between
    stride = COLUMNS + 2 + len(tokenizer.encode("<0.1 seconds>", add_special_tokens=False))
    with torch.no_grad():
        _see(model.model.visual.patch_embed.proj)
        # 0.02 drowns in the residual stream of so narrow a model
        model.model.language_model.embed_tokens.weight.mul_(5)
        for layer in model.model.language_model.layers:
            _look_back(layer.self_attn, (stride, 2 * stride, 0))
    return model


def _look_back(attention: torch.nn.Module, distances: tuple[int, ...]) -> None:
    """Start one head per distance that prefers the token at that distance before its own, in time, row and column.

    With rotary positions a bias in queries and keys is a preference by position alone. Most faults are a difference
    between a place and the same place one frame pair earlier. How much this saves was not measured at full size.
    """
    half = HEAD // 2
    sharp = list(range(6))  # interleaved: the two fastest waves of time, row and column each
    for head, distance in enumerate(distances):
        for k in sharp:
            angle = torch.tensor(distance * THETA ** (-k / half))
            row = head * HEAD + k
            attention.q_proj.bias[row], attention.q_proj.bias[row + half] = angle.cos(), -angle.sin()
            attention.k_proj.bias[row], attention.k_proj.bias[row + half] = 1.0, 0.0
    for k in sharp:
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight[[k, k + half]] = 1.5


def _see(stem: torch.nn.Conv3d) -> None:
    """Start the patch embedding from smooth waves: each one's sum and difference over the two frames.

    A random projection of hundreds of pixel values shows mostly noise; the lowest spatial waves hold nearly all of a
    patch, and their differences over time show motion from the first step on.
    """
    filters, channels, frames, size, _ = stem.weight.shape
    position = (torch.arange(size) + 0.5) * torch.pi / size
    waves = sorted(((u, v) for u in range(size) for v in range(size)), key=lambda wave: (sum(wave), wave))
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]])
    times = torch.tensor([[1.0, 1.0], [1.0, -1.0]])[:, :frames]
    plan = [(wave, colour, time) for wave in waves for time in times for colour in colours[: 3 if sum(wave) < 3 else 1]]
    for index in range(filters):
        (u, v), colour, time = plan[index]
        pattern = torch.outer(torch.cos(u * position), torch.cos(v * position))
        kernel = colour[:, None, None, None] * time[None, :, None, None] * pattern[None, None]
        stem.weight[index] = kernel / kernel.norm() * (0.15 if time.sum() else 0.6)
    stem.bias.zero_()


def processor(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLProcessor:
    """Qwen3-VL's own processor around the nano tokenizer."""
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH, temporal_patch_size=2, merge_size=MERGE, **HALF),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=PATCH, merge_size=MERGE, **HALF),
        chat_template=CHAT_TEMPLATE,
    )


def save(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write model and processor in the layout of nvidia/Cosmos-Reason2-2B; each file whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    parts = processor(tokenizer)
    with TemporaryDirectory(dir=out, prefix=".") as fresh:
        for part in (model, parts.image_processor, parts.video_processor, parts.tokenizer):
            part.save_pretrained(fresh)
        # it gives scores and writes no text, so it has no settings for writing
        (Path(fresh) / "generation_config.json").unlink(missing_ok=True)
        for path in Path(fresh).iterdir():
            os.replace(path, out / path.name)


def init(out: Path, tokenizer_dir: Path | None = None, seed: int = 0) -> Path:
    """Write an untrained critic to the folder `out`.

    Args:
        tokenizer_dir: a folder of `build_tokenizer`; None trains one (needs the extra `sim` for its words).
    """
    if tokenizer_dir is None:
        tokenizer = build_tokenizer(corpus(captions()), out)
    elif not (tokenizer_dir / "tokenizer.json").exists():
        raise UserError(f"{tokenizer_dir} holds no tokenizer.json; make one with nano.tokenizer")
    else:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    model = build(tokenizer, seed)
    save(model, tokenizer, out)
    print(f"{out}: untrained critic, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} million weights")
    return out
