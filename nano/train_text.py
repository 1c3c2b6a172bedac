"""The nano text encoder: a Qwen2.5-VL language model of 1 M parameters, trained on the simulator's instructions.

`python -m nano.train_text --out DIR` trains the tokenizer and the model.
Predicting the next token alone erases words that nothing later depends on: `left` and `right` became the same. So a
linear layer must also name each token from its own state in every layer, exactly as the world model is given them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn
from torch.nn import functional as F

from cookbook import hardware, profiles, storage
from cookbook.errors import report_user_errors
from cookbook.models.text import normalised, tokenize
from nano import networks
from nano.tokenizer import build_tokenizer, captions, corpus
from nano.training import draws, fit_from_scratch, recipe


@dataclass
class Args:
    out: Path
    """Checkpoints, log, `text_encoder/`, `tokenizer/` and the losses on held-out captions, `quality.json`."""
    steps: int = 1000
    batch: int = 32
    learning_rate: float = 2e-3
    held_out: int = 24


class Reader(nn.Module):
    """The encoder, and per layer a linear head that names each token from its normalised state."""

    def __init__(self, encoder: nn.Module, words: int, padding: int) -> None:
        super().__init__()
        self.encoder, self.padding = encoder, padding
        self.heads = nn.ModuleList(nn.Linear(networks.TEXT_HIDDEN, words) for _ in range(networks.TEXT_LAYERS))

    def losses(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the next token, and of a token's own state summed over layers, for ids [B, L]."""
        output = self.encoder(ids, output_hidden_states=True)
        later = ids[:, 1:].clone()
        later[(ids[:, :-1] == self.padding) & (later == self.padding)] = -100  # the first marks the prompt's end
        following = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), later.flatten(), ignore_index=-100)
        real, states = ids != self.padding, output.hidden_states[1:]
        own = [
            F.cross_entropy(head(normalised(s)[real]), ids[real]) for head, s in zip(self.heads, states, strict=True)
        ]
        return following, torch.stack(own).sum()


def main(args: Args) -> None:
    torch.manual_seed(0)
    device, length = hardware.device(), profiles.nano().text_tokens
    texts = captions()
    tokenizer = build_tokenizer(corpus(texts), args.out / "tokenizer")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()

    def encoded(chosen: list[int]) -> torch.Tensor:
        prompts = [prefix + texts[k] for k in chosen for prefix in ("", profiles.PREFIX)]
        return torch.stack([tokenize(tokenizer, prompt, length) for prompt in prompts]).to(device)

    held_out, training = encoded(order[: args.held_out]), encoded(order[args.held_out :])
    reader = Reader(networks.build_text_encoder(tokenizer), len(tokenizer), tokenizer.pad_token_id).to(device)

    def batch_at(number: int) -> torch.Tensor:
        return training[torch.randint(len(training), (args.batch,), generator=draws(number), device=device)]

    settings = recipe("text", args.steps, args.batch, args.learning_rate, 100)
    fit_from_scratch(reader, lambda model, ids: sum(model.losses(ids)), batch_at, settings, args.out)
    reader.encoder.cpu().save_pretrained(args.out / "text_encoder")
    with torch.no_grad():
        following, own = reader.cpu().eval().losses(held_out.cpu())
    figures = {"captions": len(texts), "held_out_next_token": following.item(), "held_out_own_token": own.item()}
    storage.write_json(args.out / "quality.json", figures)
    print(figures)


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
