"""The nano base world model: captioned reach, point, tour, move, push and lift clips, but no placing, which
post-training teaches.

`python -m nano.train_world --data DIR [DIR ...] --models DIR --out DIR --minutes M` resumes where it stopped;
`--models` holds the finished `vae/`, `text_encoder/` and `tokenizer/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from safetensors.torch import load_file, save_file

from cookbook import flow, hardware, profiles, runs
from cookbook.errors import UserError, report_user_errors
from cookbook.models import autoencoder, world
from cookbook.models.text import encode_prompts
from cookbook.show import progress
from nano import networks
from nano.critic_clips import other_hand
from nano.loop import autocast, load_clips, train_resumable

ENCODED_AT_ONCE = 16
MODELS = ("vae", "text_encoder", "tokenizer")  # that encode clips and captions


@dataclass
class Args:
    data: tuple[Path, ...]
    """Folders of `python -m simulator make`."""
    models: Path
    """Folder with `vae/`, `text_encoder/` and `tokenizer/`."""
    out: Path
    """State, log, cached latents and, when training stops, `transformer/`."""
    minutes: float = 10.0
    steps: int = 10_000
    batch: int = 64
    learning_rate: float = 8e-4
    text_dropout: float = 0.1
    warmup: int = 300
    """Steps in which the rate rises; then it falls along half a cosine."""
    ema_decay: float = 0.9995
    """Of the average over the steps, which is what is saved."""
    held_out: int = 64
    start: Path | None = None
    """Folder with a finished `transformer/`; training continues from its weights. None: random weights."""


def captions(rows: list[dict]) -> list[str]:
    """The clips' captions, then those of the mirrored clips.

    Instructions to place begin with `pick up`. A base model that had learned it from `move` alone set things down
    elsewhere at once (it placed in 30 % of 30 held-out scenes), which left post-training little to teach. So the
    mirrored half uses it for lifting too, in which everything ends where it was.
    """
    prompts = [row["prompt"] for row in rows]
    return prompts + [other_hand(prompt).replace(" hand to lift ", " hand to pick up ") for prompt in prompts]


@torch.no_grad()
def cached_inputs(args: Args, device: torch.device) -> dict[str, torch.Tensor]:
    """Latents [2N, 16, 7, 12, 20] and embeddings [P, L, D], both in half precision, with each clip's index into them.

    The second half is the first mirrored, with the other hand named. The last embedding is the empty prompt's.
    """
    clips, rows = load_clips(args.data)
    if any(row["task"] == "place" for row in rows):
        raise UserError(f"--data {args.data}: leave out clips of `place`, which post-training teaches")
    vae, text = world.load_vae(args.models).to(device), world.load_text_encoder(args.models)
    texts = [profiles.nano().prompt_prefix + prompt for prompt in captions(rows)]
    inputs = [[row["sha256"] for row in rows], texts, *(runs.fingerprint(args.models / d) for d in MODELS)]
    key = runs.digest_of(inputs)[7:23]
    file = args.out / f"inputs-{key}.safetensors"
    if not file.exists():
        pixels = torch.from_numpy(clips).permute(0, 4, 1, 2, 3)
        both = (*pixels.split(ENCODED_AT_ONCE), *pixels.flip(-1).split(ENCODED_AT_ONCE))
        parts = [
            autoencoder.encode(vae, part.to(device).float().div(127.5).sub(1)).cpu()
            for part in progress(both, "encoding clips")
        ]
        prompts = sorted(set(texts))
        index = torch.tensor([prompts.index(prompt) for prompt in texts])
        text.model.to(device)
        embeddings = [
            encode_prompts(text.model, text.tokenizer, group, profiles.nano().text_tokens).half().cpu()
            for group in (*(prompts[start : start + 64] for start in range(0, len(prompts), 64)), [""])
        ]
        latents = torch.cat(parts).half().contiguous()
        with runs.replacing(file) as temporary:
            save_file({"latents": latents, "text": torch.cat(embeddings), "index": index}, temporary)
    return load_file(file, device=str(device))


def main(args: Args) -> None:
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    device = hardware.device()
    inputs = cached_inputs(args, device)
    latents, text, index = inputs["latents"], inputs["text"], inputs["index"]
    clips = len(latents) // 2
    order = torch.randperm(clips, generator=torch.Generator().manual_seed(0)).to(device)
    held_out, training = order[: args.held_out], order[args.held_out :]
    training = torch.cat([training, training + clips])
    model = networks.build_transformer() if args.start is None else world.load_transformer(args.start)
    model.train().to(device)
    shift = profiles.nano().recipe.shift
    print(f"{len(training)} clips to train on, {len(held_out)} held out, on {device}", flush=True)

    def words_of(chosen: torch.Tensor, generator: torch.Generator, dropout: float) -> torch.Tensor:
        """Embeddings; dropped ones are zero, as in post-training, or the empty prompt's, as in guidance."""
        words = text[index[chosen]].float()
        chance = torch.rand(len(chosen), 1, 1, generator=generator, device=device)
        words = torch.where(chance < dropout, text[-1].float(), words)
        return torch.where(chance < dropout / 2, torch.zeros_like(words), words)

    def flow_loss(
        network: torch.nn.Module, chosen: torch.Tensor, generator: torch.Generator, dropout: float
    ) -> torch.Tensor:
        clean = latents[chosen].float()
        noise = torch.randn(clean.shape, generator=generator, device=device)
        sigma = flow.draw_sigmas(len(chosen), shift, generator)
        mask = flow.condition_mask(torch.ones(len(chosen), dtype=torch.long, device=device), clean)
        predicted = network(
            hidden_states=flow.noised(clean, noise, sigma, mask),
            timestep=sigma,
            encoder_hidden_states=words_of(chosen, generator, dropout),
            condition_mask=mask,
            padding_mask=mask.new_zeros(1, 1, 96, 160),
            return_dict=False,
        )[0]
        return flow.loss(predicted, clean, noise, mask)

    if device.type == "cuda":
        model.compile()

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = training[torch.randint(len(training), (args.batch,), generator=generator, device=device)]
        return flow_loss(model, chosen, generator, args.text_dropout)

    @torch.no_grad()
    def report(average: torch.nn.Module) -> dict:
        def mean(chosen: torch.Tensor) -> float:
            draws = (torch.Generator(device).manual_seed(k) for k in range(8))
            return sum(flow_loss(average, chosen, draw, 0.0).item() for draw in draws) / 8

        with autocast(device):
            return {"held_out_loss": mean(held_out), "own_loss": mean(training[: len(held_out)])}

    average = train_resumable(
        model, loss_of, args.out, args.steps, args.minutes, args.learning_rate, args.warmup,
        ema_decay=args.ema_decay, report=report, report_every=1000,
    )  # fmt: skip
    average.cpu().save_pretrained(args.out / "transformer")


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
