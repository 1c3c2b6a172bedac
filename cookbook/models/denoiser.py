"""The world model on one batch of clips, step after step. Values that no step changes are computed once.

These are the texts' keys and values, the rotations of the position embedding and the masks. The first block's
self-attention does not depend on the text, so all texts of a step share it. The results equal those of
`CosmosTransformer3DModel.forward`; the layers are its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cookbook.hardware import compiled

Pair = tuple[Tensor, Tensor]  # keys and values [B, heads, L, channels of a head]; cosines and sines; time embeddings


def _heads(attention: nn.Module, x: Tensor) -> Tensor:
    return x.unflatten(2, (attention.heads, -1)).transpose(1, 2)


def _self_attention(block: nn.Module, x: Tensor, time: Pair, rotations: Pair) -> Tensor:
    """The block's self-attention: x [B, N, C]."""
    normed, gate = block.norm1(x, *time)
    return x + gate * block.attn1(normed, image_rotary_emb=rotations)


def _text_and_mlp(block: nn.Module, x: Tensor, text: Pair, time: Pair) -> Tensor:
    """The rest of the block: attention to the text, and the feed-forward layer."""
    normed, gate = block.norm2(x, *time)
    attention = block.attn2
    query = attention.norm_q(_heads(attention, attention.to_q(normed)))
    attended = scaled_dot_product_attention(query, *text).transpose(1, 2).flatten(2)
    x = x + gate * attention.to_out[0](attended)
    normed, gate = block.norm3(x, *time)
    return x + gate * block.ff(normed)


def _whole(block: nn.Module, x: Tensor, text: Pair, time: Pair, rotations: Pair) -> Tensor:
    return _text_and_mlp(block, _self_attention(block, x, time, rotations), text, time)


class Denoiser:
    """Velocities of clips under several texts each.

    Args:
        transformer: a `CosmosTransformer3DModel`.
        texts: embeddings [B, L, D], one for each velocity; a clip's prompt and its negative prompt.
        mask: [B, 1, T, H, W], ones on conditioning frames.
    """

    def __init__(self, transformer: nn.Module, texts: Sequence[Tensor], mask: Tensor):
        self.transformer, self.dtype = transformer, texts[0].dtype
        self.masks = torch.cat([mask, torch.zeros_like(mask)], 1).to(self.dtype)  # the second marks padding: none
        self.rotations = transformer.rope(mask)
        self.texts = [self._keys_and_values(transformer.crossattn_proj(text)) for text in texts]

    def _keys_and_values(self, text: Tensor) -> list[Pair]:
        """Of each block."""
        attentions = [block.attn2 for block in self.transformer.transformer_blocks]
        return [(a.norm_k(_heads(a, a.to_k(text))), _heads(a, a.to_v(text))) for a in attentions]

    def __call__(self, latents: Tensor, sigma: Tensor, texts: int | None = None) -> list[Tensor]:
        """Velocities [B, C, T, H, W], float32, under the first `texts` texts (all when None).

        Args:
            latents: [B, C, T, H, W].
            sigma: scalar in 0..1, the noise level of all frames; conditioning frames share it, as the pre-trained and
                GR1 weights expect (upstream `conditional_frame_timestep = -1`).
        """
        net = self.transformer
        x = net.patch_embed(torch.cat([latents.to(self.dtype), self.masks], 1))  # [B, t, h, w, C]
        grid, x = x.shape[1:4], x.flatten(1, 3)
        time = net.time_embed(x, sigma.float().expand(len(x)))[::-1]
        parts = (_self_attention, _text_and_mlp, _whole)
        self_attention, text_and_mlp, full_block = (compiled(part, x.device) for part in parts)
        first, *others = net.transformer_blocks
        shared = self_attention(first, x, time, self.rotations)
        velocities = []
        for text in self.texts[:texts]:
            x = text_and_mlp(first, shared, text[0], time)
            for block, key_value in zip(others, text[1:], strict=True):
                x = full_block(block, x, key_value, time, self.rotations)
            velocities.append(self._unpatch(net.proj_out(net.norm_out(x, *time)), grid).float())
        return velocities

    def _unpatch(self, patches: Tensor, grid: Sequence[int]) -> Tensor:
        """Tokens [B, t*h*w, p*p*C] as latents [B, C, t, h*p, w*p]."""
        side = self.transformer.config.patch_size[1]
        patches = patches.unflatten(2, (side, side, -1)).unflatten(1, tuple(grid))  # [B, t, h, w, p, p, C]
        return patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
