"""The nano models: the classes of the real ones at small sizes, in the layout of the real repositories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from cookbook import flow
from cookbook.errors import report_user_errors

TEXT_HIDDEN, TEXT_LAYERS = 128, 4


def build_vae() -> AutoencoderKLWan:
    """2.7 M parameters, 16 latent channels, 4 x 8 x 8 compression; residual blocks with averaging shortcuts (Wan 2.2's)
    because they learn faster than Wan 2.1's plain ones."""
    return AutoencoderKLWan(
        base_dim=16, decoder_base_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, z_dim=16, is_residual=True,
        latents_mean=[0.0] * 16, latents_std=[1.0] * 16,
    )  # fmt: skip


def build_transformer() -> CosmosTransformer3DModel:
    """9.6 M parameters; Cosmos Predict 2.5's network with 4 heads of 64 in 8 blocks (the 2B has 16 of 128 in 28)."""
    model = CosmosTransformer3DModel(
        in_channels=17, out_channels=16, num_attention_heads=4, attention_head_dim=64, num_layers=8,
        text_embed_dim=256, adaln_lora_dim=32, max_size=(32, 64, 64), rope_scale=(1.0, 1.0, 1.0),
        extra_pos_embed_type=None, use_crossattn_projection=True,
        crossattn_proj_in_channels=TEXT_HIDDEN * TEXT_LAYERS, encoder_hidden_states_channels=256,
    )  # fmt: skip
    for name, weight in model.named_parameters():
        if "norm" in name and "linear_2" in name:  # AdaLN-zero: every block starts as the identity
            torch.nn.init.zeros_(weight)
    return model


def build_text_encoder(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLForConditionalGeneration:
    """About 1.1 M parameters; 4 layers of 128, with a vision tower of one tiny layer that text never uses."""
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(tokenizer), hidden_size=TEXT_HIDDEN, intermediate_size=352, num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
            rope_parameters=dict(rope_type="default", mrope_section=[4, 6, 6], rope_theta=10_000.0),
            pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        ),
        vision_config=dict(
            depth=1, hidden_size=16, intermediate_size=16, num_heads=1, out_hidden_size=TEXT_HIDDEN,
            fullatt_block_indexes=[0],
        ),
        tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config)


def write_pipeline(folder: Path) -> None:
    """The two files that make a folder of parts a diffusers repository: the scheduler and `model_index.json`."""
    flow.scheduler(shift=5.0).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "Cosmos2_5_PredictBasePipeline",
        "_diffusers_version": "0.42.1",
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2TokenizerFast"],
        "transformer": ["diffusers", "CosmosTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def assemble(vae: Path, text: Path, transformer: Path, out: Path) -> None:
    """Put trained parts into one diffusers repository, all in half precision, to ship small."""
    half = {"torch_dtype": torch.float16}
    AutoencoderKLWan.from_pretrained(vae / "vae", **half).save_pretrained(out / "vae")
    CosmosTransformer3DModel.from_pretrained(transformer / "transformer", **half).save_pretrained(out / "transformer")
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(text / "text_encoder", dtype=torch.float16)
    encoder.save_pretrained(out / "text_encoder")
    for config in (out / "vae" / "config.json", out / "transformer" / "config.json"):
        plain = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(plain, indent=2) + "\n")  # no paths of the machine that trained it
    shutil.copytree(text / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    write_pipeline(out)


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(assemble)
