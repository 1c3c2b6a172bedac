"""The nano critic: Qwen3-VL's class at 2.6 million weights, with every file that its processor loads offline.

python -m cookbook.workshop.critic init --out assets/nano/critic
python -m cookbook.workshop.critic train --data CLIPS --out assets/nano/critic --minutes 20
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
from cookbook.workshop.tokenizer import CHAT_TEMPLATE, build_tokenizer, captions, corpus

HIDDEN = 128
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # pixels in -1..1, as Qwen3-VL has them


def config(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """Qwen3-VL-2B's shape, small: the same patches (16 x 16 pixels, two frames), merging and DeepStack."""
    tokens = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    vision = {
        "depth": 4,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_heads": 4,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [1, 2],
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 3 * HIDDEN,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)


def build(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """The model with random weights, its patch embedding set to look at means and changes."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config(tokenizer))
    with torch.no_grad():
        _see(model.model.visual.patch_embed.proj)
        # 0.02 drowns in the residual stream of so narrow a model
        model.model.language_model.embed_tokens.weight.mul_(5)
    return model


def _see(stem: torch.nn.Conv3d) -> None:
    """Start the patch embedding from smooth waves: each one's sum and difference over the two frames.

    A random projection of 1536 pixel values shows mostly noise; the lowest spatial waves hold nearly all of a patch,
    and their differences over time show motion from the first step on.
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
        image_processor=Qwen2VLImageProcessor(patch_size=16, temporal_patch_size=2, merge_size=2, **HALF),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**HALF),
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
        raise UserError(f"{tokenizer_dir} holds no tokenizer.json; make one with cookbook.workshop.tokenizer")
    else:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    model = build(tokenizer, seed)
    save(model, tokenizer, out)
    print(f"{out}: untrained critic, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} million weights")
    return out


def main() -> None:
    import tyro

    from cookbook.workshop.critic_training import train

    tyro.extras.subcommand_cli_from_dict({"init": init, "train": train})


if __name__ == "__main__":
    main()
