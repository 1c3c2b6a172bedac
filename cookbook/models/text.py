"""Text conditioning: a prompt becomes the hidden states of a Qwen2.5-VL language model, all layers side by side.

Source: upstream `text_encoders/reason1.py` ("full concat") and diffusers' `Cosmos2_5_PredictBasePipeline`, which this
equals; ours encodes prompts in batches and caches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

SYSTEM = "You are a helpful assistant who will provide prompts to an image generator."


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str, length: int) -> torch.Tensor:
    """Token ids [length] of the prompt in its chat template, cut or padded to `length`."""
    messages = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "text", "text": prompt}]},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    encoded = tokenizer(text, max_length=length, truncation=True, padding="max_length", return_tensors="pt")
    return encoded["input_ids"][0]


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
