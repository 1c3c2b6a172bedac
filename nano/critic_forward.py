"""The critic's batched forward pass for training: the real class's own layers, with everything that repeats cached.

Clips of one shape have the same tokens, positions and masks, so nothing is computed per clip in Python. Equal to
`cookbook.models.critic.answer` up to rounding (tests/test_critic_training.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel
from transformers.vision_utils import (
    get_vision_attention_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from cookbook.judge.rubrics import ask
from cookbook.models import qwen
from cookbook.models.critic import Critic, chat, process
from cookbook.models.frames import Sampled
from nano.critic_clips import patches


def _add(self: Qwen3VLTextModel, hidden: torch.Tensor, at: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """DeepStack at positions given by number, without a synchronisation with the device."""
    return hidden.index_add(1, at, visual.view(len(hidden), len(at), -1).to(hidden.dtype))


EQUAL_CLIPS = (*qwen.EQUAL_CLIPS, (Qwen3VLTextModel, "_deepstack_process", _add))


@dataclass(frozen=True)
class PromptLayout:
    """What all clips of one length share."""

    ids: torch.Tensor  # [L] tokens up to the end of the video
    positions: torch.Tensor  # [3, L + endings] time, row and column
    mask: torch.Tensor  # bool [1, 1, L + endings, L + endings]: what attends to what
    visual: torch.Tensor  # positions of the visual tokens
    ends: torch.Tensor  # [pairs] last position of each frame pair
    grid: tuple[int, int, int]  # frame pairs, rows, columns of patches


@dataclass(frozen=True)
class Outputs:
    answers: torch.Tensor  # [B, 1 + K, 5] logits of the digits: physics, then each instruction
    per_frame: torch.Tensor  # [B, pairs, 5] physics up to this pair
    per_token: torch.Tensor  # [B, pairs, rows, columns, 5] physics at this token
    words: torch.Tensor  # [B, Q, vocabulary] the next token, along the first instruction's ending


class BatchedCritic:
    """A critic for clips of one size and a fixed set of instructions.

    Args:
        shape: frames, height, width of a whole clip; shorter ones are possible too.
        texts: all instructions; `numbers` are their rows in `endings`.
    """

    def __init__(self, critic: Critic, shape: Sequence[int], texts: Sequence[str]) -> None:
        self.critic, self.shape, self.device = critic, tuple(shape), critic.model.device
        self.numbers = {text: number for number, text in enumerate(texts)}
        self.endings, self.lengths, self.instruction_words = self._tokenize(texts)
        ending = chat(critic.processor, ask("physics", None))[1]
        self.physics = critic.processor.tokenizer(ending, return_tensors="pt")["input_ids"][0].to(self.device)
        self.layouts: dict[tuple[int, int], PromptLayout] = {}
        self.vision_cache: dict[tuple[int, int], dict[str, torch.Tensor]] = {}

    def _tokenize(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Endings [N, Q] padded to the right, their lengths [N], and which tokens belong to the instruction."""
        rests = [chat(self.critic.processor, ask("instruction", text))[1] for text in texts]
        tokens = self.critic.processor.tokenizer(
            rests, padding=True, padding_side="right", return_tensors="pt", return_offsets_mapping=True
        )
        begin = torch.tensor([rest.index(text) for rest, text in zip(rests, texts, strict=True)])[:, None]
        end = begin + torch.tensor([len(text) for text in texts])[:, None]
        first, last = tokens["offset_mapping"].unbind(-1)
        instruction_words = (first >= begin - 1) & (last <= end) & (last > first) & (last > begin)
        parts = (tokens["input_ids"], tokens["attention_mask"].sum(1), instruction_words)
        return tuple(part.to(self.device) for part in parts)

    def layout(self, frames: int, questions: int) -> PromptLayout:
        """Tokens, positions and mask for clips with these numbers of frames and instructions."""
        if (frames, questions) in self.layouts:
            return self.layouts[frames, questions]
        critic = self.critic
        blank = Sampled(np.zeros((frames, *self.shape[1:], 3), np.uint8), tuple(range(frames)), 8.0)
        inputs = process(critic, [blank], [chat(critic.processor, ask("physics", None))[0]])
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        ids, grid = inputs["input_ids"], inputs["video_grid_thw"]
        positions = critic.model.model.get_rope_index(ids, inputs["mm_token_type_ids"], video_grid_thw=grid)[0][:, 0]
        ids, start = ids[0], positions.max() + 1
        visual = ids == critic.processor.video_token_id
        sizes = [len(self.physics)] + [self.endings.shape[1]] * questions
        behind = [(start + torch.arange(size, device=ids.device)).expand(3, -1) for size in sizes]
        # 0 for the video, then the number of the question
        part = torch.cat([torch.full((size,), k, device=ids.device) for k, size in enumerate((len(ids), *sizes))])
        order = torch.arange(len(part), device=ids.device)
        mask = (order[:, None] >= order) & ((part == part[:, None]) | (part == 0))
        self.layouts[frames, questions] = PromptLayout(
            ids,
            torch.cat([positions, *behind], 1),
            mask[None, None],
            visual.nonzero()[:, 0],
            ((ids == critic.processor.vision_end_token_id) & visual.roll(1)).nonzero()[:, 0],
            tuple(grid[0].tolist()),
        )
        return self.layouts[frames, questions]

    def _vision_inputs(self, count: int, grid: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        """The inputs of the vision tower that depend on the sizes of the clips alone."""
        if (count, grid[0]) not in self.vision_cache:
            tower = self.critic.model.model.visual
            sizes = torch.tensor([grid] * count, device=self.device)
            indices, weights = get_vision_interpolation_indices_and_weights(
                sizes, tower.num_grid_per_side, tower.interpolation_mode, tower.interpolation_align_corners,
                tower.spatial_merge_size,
            )  # fmt: skip
            self.vision_cache[count, grid[0]] = {
                "grid_thw": sizes,
                "interp_indices": indices,
                "interp_weights": weights,
                "position_ids": get_vision_position_ids(sizes, tower.spatial_merge_size),
                "cu_seqlens": get_vision_attention_seqlens(sizes, tower.config)[0],
            }
        return self.vision_cache[count, grid[0]]

    def forward(self, frames: torch.Tensor, instructions: torch.Tensor) -> Outputs:
        """Answers about float frames [B, T, 3, H, W] in 0..255.

        Args:
            instructions: [B, K] their numbers.
        """
        count, model = len(frames), self.critic.model
        layout = self.layout(frames.shape[1], instructions.shape[1])
        tower, decoder = model.model.visual, model.model.language_model
        with (
            qwen.patched(*EQUAL_CLIPS),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"),
        ):
            pixels = patches(frames, tower.patch_size, tower.spatial_merge_size)
            vision = tower(pixels, **self._vision_inputs(count, layout.grid))
            fixed = torch.cat([layout.ids, self.physics]).expand(count, -1)
            ids = torch.cat([fixed, self.endings[instructions].flatten(1)], 1)
            embedded = decoder.embed_tokens(ids)
            visual = vision.pooler_output.view(count, len(layout.visual), -1).to(embedded.dtype)
            hidden = decoder(
                inputs_embeds=embedded.index_copy(1, layout.visual, visual),
                position_ids=layout.positions[:, None].expand(-1, count, -1),
                attention_mask=layout.mask,
                visual_pos_masks=layout.visual,
                deepstack_visual_embeds=vision.deepstack_features,
                use_cache=False,
            ).last_hidden_state
            return self._answer(hidden, layout, instructions)

    def _answer(self, hidden: torch.Tensor, layout: PromptLayout, instructions: torch.Tensor) -> Outputs:
        head = self.critic.model.lm_head.weight
        digits = head[torch.tensor(self.critic.digits, device=head.device)]
        count, begin = len(hidden), len(layout.ids) + len(self.physics)
        size = self.endings.shape[1]
        starts = begin + size * torch.arange(instructions.shape[1], device=self.device)
        last = torch.cat([torch.full_like(instructions[:, :1], begin - 1), starts + self.lengths[instructions] - 1], 1)
        rows = torch.arange(count, device=self.device)[:, None]
        pairs, height, width = layout.grid
        merge = self.critic.model.model.visual.spatial_merge_size
        per_token = F.linear(hidden[:, layout.visual], digits).view(count, pairs, height // merge, width // merge, -1)
        return Outputs(
            F.linear(hidden[rows, last], digits).float(),
            F.linear(hidden[:, layout.ends], digits).float(),
            per_token.float(),
            F.linear(hidden[:, begin : begin + size], head),
        )
