"""The networks without their weights: configuration, parameters, FLOP. For plans.

Source of the two configurations: diffusers' `scripts/convert_cosmos_to_diffusers.py` for Cosmos Predict 2.5.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cookbook.errors import UserError, last_line
from cookbook.models import hub
from cookbook.profiles import Source

_PREDICT_2B: dict[str, Any] = {
    "in_channels": 17,
    "out_channels": 16,
    "num_attention_heads": 16,
    "attention_head_dim": 128,
    "num_layers": 28,
    "mlp_ratio": 4.0,
    "text_embed_dim": 1024,
    "adaln_lora_dim": 256,
    "max_size": (128, 240, 240),
    "patch_size": (1, 2, 2),
    "rope_scale": (1.0, 3.0, 3.0),
    "concat_padding_mask": True,
    "extra_pos_embed_type": None,
    "use_crossattn_projection": True,
    "crossattn_proj_in_channels": 100352,
    "encoder_hidden_states_channels": 1024,
}
CONFIGS = {
    "nvidia/Cosmos-Predict2.5-2B": _PREDICT_2B,
    "nvidia/Cosmos-Predict2.5-14B": {**_PREDICT_2B, "num_attention_heads": 40, "num_layers": 36},
}
CLIPS = {"nvidia/GR1-100": 92}  # videos in the published training set, despite its name
PHOTOS = {"nvidia/EVAL-175": 50}  # of its gr1_object; INFERRED from the step between its published percentages


def config(source: Source) -> dict[str, Any]:
    """The transformer's configuration: read from the folder where it ships, from the table above otherwise."""
    return read_config(hub.locate(source)) if source.ships else CONFIGS[source.location]


def read_config(models: Path) -> dict[str, Any]:
    """The transformer's configuration in a diffusers folder."""
    from diffusers import CosmosTransformer3DModel

    try:
        return dict(CosmosTransformer3DModel.load_config(models / "transformer"))
    except (OSError, RecursionError, ValueError, TypeError) as error:
        file = models / "transformer" / "config.json"
        raise UserError(f"{file} is missing or damaged ({last_line(error)}); copy or download it again") from None


@cache
def longest(source: Source) -> int:
    """The most positions that the network has along an axis of a clip: latent frames, or patches of 16 pixels."""
    settings = config(source)
    return max(size // patch for size, patch in zip(settings["max_size"], settings["patch_size"], strict=True))


def on_meta(settings: dict[str, Any]) -> nn.Module:
    """The `CosmosTransformer3DModel` of a configuration on the device `meta`: names and shapes, no memory."""
    from diffusers import CosmosTransformer3DModel

    with torch.device("meta"):
        return CosmosTransformer3DModel.from_config(settings)


def forward_flop(settings: dict[str, Any], parameters: int, tokens: int) -> float:
    """FLOP of one forward pass of one clip: two per weight and token, and four per layer, pair of tokens and channel.

    The projection of the text embedding sees text tokens only and is left out.
    """
    width = settings["num_attention_heads"] * settings["attention_head_dim"]
    text = settings["crossattn_proj_in_channels"] * settings["encoder_hidden_states_channels"]
    return 2 * (parameters - text) * tokens + 4 * settings["num_layers"] * tokens**2 * width
