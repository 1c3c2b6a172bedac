"""Text conditioning: a prompt becomes the hidden states of a Qwen2.5-VL language model, all layers side by side.

Source: upstream `text_encoders/reason1.py` ("full concat") and diffusers' `Cosmos2_5_PredictBasePipeline`, which this
equals; ours encodes prompts in batches and caches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

SYSTEM = "You are a helpful assistant who will provide prompts to an image generator."


def _chat(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "text", "text": prompt}]},
    ]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str, length: int) -> torch.Tensor:
    """Token ids [length] of the prompt in its chat template, cut or padded to `length`."""
    text = _chat(tokenizer, prompt)
    encoded = tokenizer(text, max_length=length, truncation=True, padding="max_length", return_tensors="pt")
    return encoded["input_ids"][0]


def unread(tokenizer: PreTrainedTokenizerBase, prompts: Mapping[str, str], length: int) -> list[str]:
    """Print and return what the text encoder cannot see: truncated prompts, and those with the tokens of another.

    Args:
        prompts: name -> prompt.
        length: tokens of a prompt.
    """
    lines, first = [], {}
    for name, prompt in prompts.items():
        text = _chat(tokenizer, prompt)
        tokens = tokenizer(text, return_offsets_mapping=True)
        end = max(stop for _, stop in tokens["offset_mapping"][:length]) - text.rfind(prompt)
        if end < len(prompt):
            kept = f"after {prompt[max(0, end - 30) : end]!r}" if end > 0 else "off whole"
            lines.append(f"{name}: cut {kept}, as only {length} of its {len(tokens['input_ids'])} tokens are read")
        other, same = first.setdefault(tuple(tokens["input_ids"][:length]), (name, prompt))
        if same != prompt:
            lines.append(f"{name}: another prompt, but read as the same {length} tokens as {other}")
    for line in [*lines[:5], *([f"and of {len(lines) - 5} more, see the manifest"] if lines[5:] else [])]:
        print(f"WARNING: prompt of {line}", flush=True)
    return lines


@torch.no_grad()
def encode_prompts(
    encoder: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, prompts: list[str], length: int
) -> torch.Tensor:
    """Prompts -> embeddings [len(prompts), length, layers * hidden] in the encoder's dtype.

    Each layer's hidden state (without the embedding layer) is normalised to zero mean and unit deviation per token,
    then all are concatenated. Padding is not masked: upstream attends to it, and so do we.
    """
    ids = torch.stack([tokenize(tokenizer, prompt, length) for prompt in prompts]).to(encoder.device)
    states = encoder(ids, output_hidden_states=True).hidden_states[1:]
    return torch.cat([normalised(state) for state in states], dim=-1)


def normalised(state: torch.Tensor) -> torch.Tensor:
    """A layer's hidden states [..., hidden] with zero mean and unit deviation per token."""
    return (state - state.mean(-1, keepdim=True)) / (state.std(-1, keepdim=True) + 1e-8)
