"""Parameter names of the world model in NVIDIA's network and in diffusers: the same tensors, two sets of names.

Source: the key table of diffusers' `scripts/convert_cosmos_to_diffusers.py` and NVIDIA's `MinimalV1LVGDiT`. The map is
one to one and no tensor is reshaped, so it serves both ways.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch

T = TypeVar("T")

NET, EMA = "net.", "net_ema."  # before a name in a checkpoint: the weights of the last step, and their average

# (native, diffusers), tried in order on whole dotted segments
_PAIRS = (
    ("x_embedder.proj.1", "patch_embed.proj"),
    ("t_embedder.1", "time_embed.t_embedder"),
    ("t_embedding_norm", "time_embed.norm"),
    ("blocks", "transformer_blocks"),
    ("adaln_modulation_self_attn.1", "norm1.linear_1"),
    ("adaln_modulation_self_attn.2", "norm1.linear_2"),
    ("adaln_modulation_cross_attn.1", "norm2.linear_1"),
    ("adaln_modulation_cross_attn.2", "norm2.linear_2"),
    ("adaln_modulation_mlp.1", "norm3.linear_1"),
    ("adaln_modulation_mlp.2", "norm3.linear_2"),
    ("self_attn", "attn1"),
    ("cross_attn", "attn2"),
    ("q_proj", "to_q"),
    ("k_proj", "to_k"),
    ("v_proj", "to_v"),
    ("output_proj", "to_out.0"),
    ("q_norm", "norm_q"),
    ("k_norm", "norm_k"),
    ("mlp.layer1", "ff.net.0.proj"),
    ("mlp.layer2", "ff.net.2"),
    ("final_layer.adaln_modulation.1", "norm_out.linear_1"),
    ("final_layer.adaln_modulation.2", "norm_out.linear_2"),
    ("final_layer.linear", "proj_out"),
)

# Bookkeeping that NVIDIA's network keeps beside its weights, and diffusers' does not.
_DROPPED = re.compile(r"(^|\.)(accum_\w+|pos_embedder\.(seq|dim_spatial_range|dim_temporal_range)|.*_extra_state)$")


def _rename(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", new, name)
    return name


def to_diffusers(name: str) -> str | None:
    """The diffusers name of a native parameter (with or without `net.`); None for bookkeeping entries."""
    name = name.removeprefix("net.")
    return None if _DROPPED.search(name) else _rename(name, _PAIRS)


def to_native(name: str) -> str:
    """The native name, without the `net.` prefix, of a diffusers parameter."""
    return _rename(name, ((diffusers, native) for native, diffusers in _PAIRS))


def bookkeeping(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Entries beside the weights in NVIDIA's new network of a diffusers `config`, in native names without prefix.

    Training counters at zero, the tables of the position embedding, and the empty extra state of each of
    TransformerEngine's norms. Without them it cannot be loaded strictly.
    """
    longest = max(size // patch for size, patch in zip(config["max_size"], config["patch_size"], strict=True))
    side = config["attention_head_dim"] // 6 * 2
    attentions = [f"blocks.{block}.{kind}_attn" for block in range(config["num_layers"]) for kind in ("self", "cross")]
    norms = [f"{attention}.{part}_norm" for attention in attentions for part in "qk"] + ["t_embedding_norm"]

    def table(channels: int) -> torch.Tensor:
        return torch.arange(0, channels, 2).float() / channels

    return {
        **{f"accum_{what}": torch.tensor(0) for what in ("video_sample_counter", "image_sample_counter", "iteration")},
        "accum_train_in_hours": torch.tensor(0.0),
        "pos_embedder.seq": torch.arange(longest).float(),
        "pos_embedder.dim_spatial_range": table(side),
        "pos_embedder.dim_temporal_range": table(config["attention_head_dim"] - 2 * side),
        **{f"{norm}._extra_state": torch.empty(0) for norm in norms},
    }


def as_diffusers(state: Mapping[str, T]) -> dict[str, T]:
    """A native state dict in diffusers' names."""
    renamed = ((to_diffusers(name), value) for name, value in state.items())
    return {name: value for name, value in renamed if name is not None}


def as_native(state: Mapping[str, T], prefix: str = "net.") -> dict[str, T]:
    """A diffusers state dict in native names, each behind `prefix`."""
    return {prefix + to_native(name): value for name, value in state.items()}
