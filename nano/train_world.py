"""The nano base world model: reach, tour, lift and carry by instruction, but no placing, which post-training teaches.

`python -m nano.train_world --data DIR [DIR ...] --models DIR --out DIR` resumes where it stopped;
`--models` holds the finished `vae/`, `text_encoder/` and `tokenizer/`.
All clips of a scene are in one batch, with the same noise and noise level, so only their words explain how they differ.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
import tyro
from safetensors.torch import load_file, save_file

from cookbook import flow, hardware, profiles, runs, storage
from cookbook.engine.loop import autocast
from cookbook.errors import UserError, report_user_errors
from cookbook.models import autoencoder, world
from cookbook.models.text import encode_prompts
from cookbook.show import progress
from nano import networks
from nano.critic_clips import other_hand
from nano.training import draws, fit_from_scratch, load_clips, recipe

ENCODED_AT_ONCE = 16
MODELS = ("vae", "text_encoder", "tokenizer")  # that encode clips and captions


@dataclass
class Args:
    data: tuple[Path, ...]
    """Folders of `python -m simulator make`, each with the same number of instructions of every scene."""
    models: Path
    """Folder with `vae/`, `text_encoder/` and `tokenizer/`."""
    out: Path
    """Checkpoints, log, cached latents, `transformer/` and its figures on held-out scenes, `quality.json`."""
    steps: int = 8000
    scenes: int = 16
    """Of a batch, with all their clips."""
    learning_rate: float = 8e-4
    text_dropout: float = 0.1
    held_out: int = 64
    """Scenes."""


@torch.no_grad()
def cached_inputs(args: Args, device: torch.device) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Latents [2N, 16, 7, 12, 20] and embeddings [P, L, D] in half precision, each clip's embedding; manifest rows.

    The second half is the first mirrored, with the other hand named. The last embedding is the empty prompt's.
    """
    clips, rows = load_clips(args.data)
    if any(row["task"] == "place" for row in rows):
        raise UserError(f"--data {args.data}: leave out clips of `place`, which post-training teaches")
    vae, (encoder, tokenizer) = world.load_vae(args.models).to(device), world.load_text_encoder(args.models)
    prompts = [row["prompt"] for row in rows]
    texts = [profiles.PREFIX + prompt for prompt in (*prompts, *map(other_hand, prompts))]
    inputs = [[row["sha256"] for row in rows], texts, *(runs.fingerprint(args.models / d) for d in MODELS)]
    file = args.out / f"inputs-{storage.digest_of(inputs)[7:23]}.safetensors"
    if not file.exists():
        pixels = torch.from_numpy(clips).permute(0, 4, 1, 2, 3)
        both = (*pixels.split(ENCODED_AT_ONCE), *pixels.flip(-1).split(ENCODED_AT_ONCE))
        parts = [
            autoencoder.encode(vae, part.to(device).float().div(127.5).sub(1)).half().cpu()
            for part in progress(both, "encoding clips")
        ]
        different = sorted(set(texts))
        encoder.to(device)
        embeddings = [
            encode_prompts(encoder, tokenizer, group, profiles.nano().text_tokens).half().cpu()
            for group in (*(different[start : start + 64] for start in range(0, len(different), 64)), [""])
        ]
        tensors = {"latents": torch.cat(parts).contiguous(), "text": torch.cat(embeddings)}
        tensors["index"] = torch.tensor([different.index(prompt) for prompt in texts])
        with storage.replacing(file) as temporary:
            save_file(tensors, temporary)
    return load_file(file, device=str(device)), rows


def by_scene(rows: list[dict]) -> torch.Tensor:
    """Numbers of the clips of every scene [S, K].

    Raises:
        UserError: scenes with unlike numbers of clips.
    """
    scenes: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        scenes[row["scene"]].append(number)
    if len(counts := {len(clips) for clips in scenes.values()}) != 1:
        raise UserError(f"the scenes of --data have {sorted(counts)} clips; render all with the same --instructions")
    return torch.tensor(list(scenes.values()))


@dataclass(frozen=True)
class Data:
    """latents [2N, ...] and text [P, L, D] with each clip's index [2N] into it; see `cached_inputs`."""

    latents: torch.Tensor
    text: torch.Tensor
    index: torch.Tensor

    def loss(
        self, network: torch.nn.Module, clips: torch.Tensor, words: torch.Tensor, noise: torch.Tensor,
        sigma: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Flow loss of each clip [B], for embeddings [B, L, D], noise like the latents and noise levels [B]."""
        clean = self.latents[clips].float()
        mask = flow.condition_mask(torch.ones(len(clips), dtype=torch.long, device=clean.device), clean)
        predicted = network(
            hidden_states=flow.noised(clean, noise, sigma, mask),
            timestep=sigma,
            encoder_hidden_states=words.float(),
            condition_mask=mask,
            padding_mask=mask.new_zeros(1, 1, 96, 160),
            return_dict=False,
        )[0]
        error = (1 - mask) * (predicted.float() - (noise - clean))
        return error.square().mean((1, 2, 3, 4))

    def batch(self, number: int, scenes: torch.Tensor, count: int, dropout: float) -> tuple[torch.Tensor, ...]:
        """All clips of `count` of the scenes [S, K], and for `loss` their embeddings, noise and noise levels.

        Half of the scenes are mirrored. Dropped embeddings are zero, as in post-training, or the empty prompt's, as in
        guidance.
        """
        generator, device = draws(number), scenes.device
        chosen = scenes[torch.randint(len(scenes), (count,), generator=generator, device=device)]
        mirrored = torch.randint(2, (count, 1), generator=generator, device=device)
        clips = (chosen + len(self.latents) // 2 * mirrored).flatten()
        sigma = flow.draw_sigmas(count, profiles.nano().recipe.shift, generator).repeat_interleave(scenes.shape[1])
        chance = torch.rand(len(clips), 1, 1, generator=generator, device=device)
        words = torch.where(chance < dropout, self.text[-1], self.text[self.index[clips]])
        words = torch.where(chance < dropout / 2, torch.zeros_like(words), words)
        return clips, words, self.noise_of(chosen, generator), sigma

    def noise_of(self, scenes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Noise for the clips of scenes [S, K], the same for all of a scene, (S * K, ...)."""
        shape = (len(scenes), *self.latents.shape[1:])
        return torch.randn(shape, generator=generator, device=scenes.device).repeat_interleave(scenes.shape[1], 0)


@torch.no_grad()
def pair_accuracy(data: Data, network: torch.nn.Module, scenes: torch.Tensor, rows: list[dict]) -> dict[str, float]:
    """How often a clip's own words explain it better than those of another clip of its scene, which differ in one part.

    By part: hand, item or place; 0.5 for a network that ignores words. The noise is the same, its level 0.9 to 1.
    """
    generator, wins = torch.Generator(scenes.device).manual_seed(0), defaultdict(list)
    for scene in scenes:
        count = len(scene)
        clips, texts = scene.repeat_interleave(count), scene.repeat(count)
        noise = data.noise_of(clips[None], generator)
        sigma = (0.9 + 0.1 * torch.rand(1, generator=generator, device=scene.device)).expand(len(clips))
        losses = data.loss(network, clips, data.text[data.index[texts]], noise, sigma).view(count, count)
        for own, other in permutations(range(count), 2):
            one, two = rows[scene[own]], rows[scene[other]]
            parts = [part for part in ("hand", "item", "place") if one[part] != two[part]]
            if len(parts) == 1:
                wins[parts[0]].append(float((losses[own, other] - losses[own, own]).sign() + 1) / 2)
    return {f"pair_accuracy_{part}": round(float(np.mean(won)), 4) for part, won in sorted(wins.items())}


def main(args: Args) -> None:
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    device = hardware.device()
    inputs, rows = cached_inputs(args, device)
    data, scenes = Data(**inputs), by_scene(rows).to(device)
    order = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(0)).to(device)
    held_out, training = scenes[order[: args.held_out]], scenes[order[args.held_out :]]
    model, shift = networks.build_transformer().to(device), profiles.nano().recipe.shift
    print(f"{len(training)} scenes of {scenes.shape[1]} clips, {len(held_out)} held out, on {device}", flush=True)

    def batch_at(number: int) -> tuple[torch.Tensor, ...]:
        return data.batch(number, training, args.scenes, args.text_dropout)

    if device.type == "cuda":
        model.compile()
    settings = recipe("world", args.steps, args.scenes * scenes.shape[1], args.learning_rate, 300)
    fit_from_scratch(model, lambda network, batch: data.loss(network, *batch).mean(), batch_at, settings, args.out)
    model.eval().save_pretrained(args.out / "transformer")
    with torch.no_grad(), autocast(model, device, hardware.compute_dtype(device)):
        figures = pair_accuracy(data, model, held_out, rows)
        for name, part in (("held_out_loss", held_out), ("own_loss", training[: len(held_out)])):
            clips, generator = part.flatten(), draws(0)
            sigma = flow.draw_sigmas(len(part), shift, generator).repeat_interleave(scenes.shape[1])
            parts = zip(*(x.split(64) for x in (clips, data.noise_of(part, generator), sigma)), strict=True)
            losses = [data.loss(model, c, data.text[data.index[c]], noise, level) for c, noise, level in parts]
            figures[name] = float(torch.cat(losses).mean())
    storage.write_json(args.out / "quality.json", figures)
    print(figures)


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
