"""The nano text encoder: a Qwen2.5-VL language model of 1 M parameters, trained to predict the simulator's captions.

`python -m nano.train_text --out DIR` trains the tokenizer and the model (a minute on a GPU).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch.nn import functional as F

from cookbook import hardware, profiles
from cookbook.errors import report_user_errors
from cookbook.models.text import tokenize
from nano import networks
from nano.loop import train_resumable
from nano.tokenizer import build_tokenizer, captions, corpus


@dataclass
class Args:
    out: Path
    """State, log, `text_encoder/` and `tokenizer/`."""
    minutes: float = 10.0
    steps: int = 2000
    batch: int = 64
    learning_rate: float = 2e-3


def main(args: Args) -> None:
    torch.manual_seed(0)
    texts = captions()
    tokenizer = build_tokenizer(corpus(texts), args.out / "tokenizer")
    length = profiles.nano().text_tokens
    prompts = texts + [profiles.PREFIX + text for text in texts]
    device = hardware.device()
    ids = torch.stack([tokenize(tokenizer, prompt, length) for prompt in prompts]).to(device)
    ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)).to(device)]
    held_out, training = ids[:128], ids[128:]
    model = networks.build_text_encoder(tokenizer).to(device)

    def next_token_loss(batch: torch.Tensor) -> torch.Tensor:
        # The first padding token is learned too: it marks the end of the prompt
        targets = batch[:, 1:].clone()
        targets[(batch[:, :-1] == tokenizer.pad_token_id) & (targets == tokenizer.pad_token_id)] = -100
        return F.cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(training), (args.batch,), generator=generator, device=device)
        return next_token_loss(training[chosen])

    @torch.no_grad()
    def report(average: torch.nn.Module) -> dict:
        logits = average(held_out).logits[:, :-1]
        real = held_out[:, 1:] != tokenizer.pad_token_id
        return {"held_out_loss": F.cross_entropy(logits[real], held_out[:, 1:][real]).item()}

    average = train_resumable(model, loss_of, args.out, args.steps, args.minutes, args.learning_rate, report=report)
    average.cpu().save_pretrained(args.out / "text_encoder")


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
