"""The nano models' own tokenizer: byte-level BPE as Qwen does it, with Qwen's special tokens and few words.

The text encoder and the critic share it. Every digit is one token, as in the real tokenizer, so that a score can be
read from the probabilities of one next token. Source of the format: transformers' `Qwen2Tokenizer`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from cookbook.judge.rubrics import PROMPTS, QUESTIONS
from cookbook.models import critic, text
from cookbook.profiles import PREFIX

SIZE = 1000  # most entries, the special ones included

# In the order of Qwen's own table
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

# The form that Qwen2.5-VL and Qwen3-VL share: media where they stand in the message, here before the text
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def captions() -> list[str]:
    """Every instruction that the simulator can give (needs the extra `sim`)."""
    from simulator.scene import all_prompts

    return all_prompts()


def corpus(instructions: Iterable[str]) -> list[str]:
    """All text that the nano models read: instructions with and without prefix, system prompts, rubrics, timestamps."""
    texts = list(instructions)
    fixed = [critic.SYSTEM, text.SYSTEM, "system", "user", "assistant", "<0.1 seconds>"]
    fixed += [(PROMPTS / f"{question}.txt").read_text() for question in QUESTIONS]
    return texts + [PREFIX + instruction for instruction in texts] + fixed * 50


def build_tokenizer(texts: Iterable[str], out: Path) -> Qwen2Tokenizer:
    """Train the tokenizer on `texts` and save it to the folder `out`, from where AutoTokenizer loads it offline.

    The same texts give the same files. Ids: words from 0, then `SPECIAL` in order.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    qwen = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=4096,
    )
    qwen.chat_template = CHAT_TEMPLATE
    qwen.save_pretrained(out)
    return qwen
