"""The nano base world model: captioned reach, push and lift clips, never placing, which post-training is to teach.

`python -m cookbook.workshop.train_world --data DIR [DIR ...] --models DIR --out DIR --minutes M` continues where it
stopped; `--models` holds the finished `vae/`, `text_encoder/` and `tokenizer/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from safetensors.torch import load_file, save_file

from cookbook import flow, store
from cookbook.models import vae as codec
from cookbook.models import world
from cookbook.models.text import encode_prompts
from cookbook.profiles import nano as nano_profile
from cookbook.show import progress
from cookbook.workshop import nano
from cookbook.workshop.pieces import load_clips, train_in_pieces


@dataclass
class Args:
    data: tuple[Path, ...]
    """Folders made by `cookbook workshop make`."""
    models: Path
    """Folder with `vae/`, `text_encoder/` and `tokenizer/`."""
    out: Path
    """State, log, cached latents and, at the end of each piece, `transformer/`."""
    minutes: float = 10.0
    steps: int = 4000
    batch: int = 4
    learning_rate: float = 6e-4
    text_dropout: float = 0.1
    held_out: int = 16


@torch.no_grad()
def cached_inputs(args: Args) -> dict[str, torch.Tensor]:
    """Latents [N, 16, 7, 12, 20] in half precision, and embeddings [P, L, D] with each clip's index into them."""
    clips, rows = load_clips(list(args.data))
    vae, text = world.load_vae(args.models), world.load_text_encoder(args.models)
    key = store.digest_of([[row["sha256"] for row in rows], store.fingerprint(args.models / "vae")])[7:23]
    file = args.out / f"inputs-{key}.safetensors"
    if not file.exists():
        profile = nano_profile()
        latents = torch.cat([codec.encode(vae, codec.to_tensor(clip)) for clip in progress(clips, "encoding clips")])
        prompts = sorted({profile.prompt_prefix + row["prompt"] for row in rows})
        index = torch.tensor([prompts.index(profile.prompt_prefix + row["prompt"]) for row in rows])
        embeddings = [encode_prompts(text.model, text.tokenizer, [p], profile.text_tokens) for p in prompts]
        with store.replacing(file) as temporary:
            save_file({"latents": latents.half(), "text": torch.cat(embeddings), "index": index}, temporary)
    return load_file(file)


def main(args: Args) -> None:
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    inputs = cached_inputs(args)
    latents, text, index = inputs["latents"], inputs["text"], inputs["index"]
    order = torch.randperm(len(latents), generator=torch.Generator().manual_seed(0))
    held_out, training = order[: args.held_out], order[args.held_out :]
    device = world.device()
    model = nano.build_transformer().to(device)
    shift = nano_profile().recipe.shift
    print(f"{len(training)} clips to train on, {len(held_out)} held out", flush=True)

    def flow_loss(
        network: torch.nn.Module, chosen: torch.Tensor, generator: torch.Generator, dropout: float
    ) -> torch.Tensor:
        clean = latents[chosen].float()
        noise = torch.randn(clean.shape, generator=generator)
        sigma = flow.draw_sigmas(len(chosen), shift, generator)
        words = text[index[chosen]].clone()
        words[torch.rand(len(chosen), generator=generator) < dropout] = 0
        mask = flow.condition_mask(torch.ones(len(chosen), dtype=torch.long), clean)
        clean, noise, sigma, words, mask = (t.to(device) for t in (clean, noise, sigma, words, mask))
        predicted = network(
            hidden_states=flow.noised(clean, noise, sigma, mask),
            timestep=sigma,
            encoder_hidden_states=words,
            condition_mask=mask,
            padding_mask=mask.new_zeros(1, 1, 96, 160),
            return_dict=False,
        )[0]
        return flow.loss(predicted, clean, noise, mask)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = training[torch.randint(len(training), (args.batch,), generator=generator)]
        return flow_loss(model, chosen, generator, args.text_dropout)

    @torch.no_grad()
    def report(average: torch.nn.Module) -> dict:
        losses = [flow_loss(average, held_out, torch.Generator().manual_seed(k), 0.0).item() for k in range(8)]
        return {"held_out_loss": sum(losses) / len(losses)}

    average = train_in_pieces(model, loss_of, args.out, args.steps, args.minutes, args.learning_rate, report=report)
    average.cpu().save_pretrained(args.out / "transformer")


if __name__ == "__main__":
    main(tyro.cli(Args))
