"""The loaded models, and the generation of one clip. A single process and every actor of a cluster use it.

NVIDIA's guardrail is on by default with NVIDIA's weights, as their licence asks.
"""

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cookbook import flow, hardware, storage
from cookbook.errors import UserError
from cookbook.generate import planning
from cookbook.generate.requests import Request
from cookbook.generate.shortcuts import velocity_field
from cookbook.models import autoencoder, sizes, world
from cookbook.models.denoiser import Denoiser
from cookbook.models.text import encode_prompts, unread
from cookbook.profiles import Profile
from cookbook.video import IMAGES, fit, probe, read_image, write_video

IN_FLIGHT = 2  # clips that one generator holds at a time: it denoises one while it encodes the previous one as mp4
CLAUSE = (
    "NVIDIA Open Model License, section 2.1: who disables a guardrail without a substantially similar one that is "
    "appropriate for their use loses all rights under it"
)


@dataclass(frozen=True)
class Setup:
    """What a generator is built from."""

    weights: Path  # diffusers folder of the world model
    base: Path  # diffusers folder of the other pipeline components: VAE, text encoder, tokenizer
    profile: Profile
    requests: list[Request]  # all that will follow: each of their prompts is embedded once
    fast: frozenset[str] = frozenset()  # of `shortcuts.NAMES`
    silent: bool = False  # give the network the empty prompt instead of the requests' prompts

    def prompt(self, request: Request) -> str:
        """With the captions' prefix, as in training. Upstream trains with the prefix and generates without it."""
        if self.silent:
            return ""
        prefix = self.profile.prompt_prefix
        return request.prompt if request.prompt.startswith(prefix) else prefix + request.prompt

    def unread(self) -> list[str]:
        """The prompts that the text encoder truncates or reads as others; see `text.unread`."""
        prompts = {request.name: self.prompt(request) for request in self.requests}
        prompts |= {f"{row.name}, negative": row.negative_prompt for row in self.requests if row.negative_prompt}
        return unread(world.load_tokenizer(self.base), prompts, self.profile.text_tokens)


class Generator:
    """Generates clips. The text encoder is freed before the world model is loaded."""

    def __init__(self, setup: Setup):
        self.profile, self.fast, self.prompt = setup.profile, setup.fast, setup.prompt
        self.device = hardware.device()
        self._turn = threading.Lock()
        dtype = hardware.compute_dtype(self.device)
        self.guardrail = load_guardrail() if self.profile.guardrail else None
        encoder, tokenizer = world.load_text_encoder(setup.base, dtype)
        self.vae = world.load_vae(setup.base, dtype)
        if self.device.type == "cuda":
            encoder.to(self._place(setup, encoder))
        texts = sorted({text for row in setup.requests for text in (self.prompt(row), self._negative(row))})
        length = self.profile.text_tokens
        self.text = {text: encode_prompts(encoder, tokenizer, [text], length).cpu() for text in texts}
        del encoder
        self.vae.to(self.device)
        self.transformer = world.load_transformer(setup.weights, dtype).to(self.device).eval()

    def _place(self, setup: Setup, encoder: torch.nn.Module) -> torch.device:
        """The text encoder's device, by the GPU's free memory. Also decides whether the VAE decodes in tiles."""
        free, _ = torch.cuda.mem_get_info(self.device)
        network = sizes.on_meta(sizes.read_config(setup.weights))
        size = hardware.compute_dtype(self.device).itemsize
        weights = size * (planning.parameters(network) + planning.parameters(self.vae))
        pixels = max(height * width for height, width in (request.size for request in setup.requests))
        chosen = planning.fit(free, size * planning.parameters(encoder), weights, pixels)
        print(planning.describe(chosen, free), flush=True)
        self.vae.use_tiling = chosen.tiled
        return self.device if chosen.encoder else torch.device("cpu")

    def _negative(self, request: Request) -> str:
        from diffusers.pipelines.cosmos.pipeline_cosmos2_5_predict import DEFAULT_NEGATIVE_PROMPT

        texts = request.negative_prompt, self.profile.sampling.negative_prompt, DEFAULT_NEGATIVE_PROMPT
        return next(text for text in texts if text is not None)

    def __call__(self, request: Request, seed: int) -> tuple[dict, bytes | None]:
        """Generate one clip.

        May be called from several threads: they take turns with the models, and only mp4s are encoded side by side.

        Returns:
            The clip's row of generated.jsonl, and the mp4 (None where the guardrail blocked it).
        """
        with self._turn:
            clock = time.monotonic()
            row = self._row(request, seed)
            if self.guardrail and not self.guardrail.check_text_safety(request.prompt):
                return _blocked(row, "prompt"), None
            frames = autoencoder.to_frames(self.pixels(request, seed))
            if self.guardrail and (frames := self.guardrail.check_video_safety(frames)) is None:
                return _blocked(row, "video"), None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / row["file"]
            write_video(file, frames, self.profile.clip.fps)
            seconds = round(time.monotonic() - clock, 2)
            return row | {"seconds": seconds, "sha256": storage.digest(file)}, file.read_bytes()

    def _row(self, request: Request, seed: int) -> dict:
        sampling = self.profile.sampling
        height, width = request.size
        return {
            "file": file_name(request, seed),
            "name": request.name,
            "prompt": request.prompt,
            "seed": seed,
            "image_sha256": storage.digest(Path(request.input_path)) if request.input_path else None,
            "steps": request.num_steps or sampling.steps,
            "guidance": request.guidance,
            "shift": request.shift or sampling.shift,
            "fast": sorted(self.fast),
            "frames": request.num_output_frames,
            "fps": self.profile.clip.fps,
            "height": height,
            "width": width,
            "blocked": False,
        }

    def pixels(self, request: Request, seed: int) -> torch.Tensor:
        """The clip [1, 3, T, H, W] in -1..1, float32, before the guardrail and encoding.

        Above the profile's window it is made in parts, as NVIDIA's autoregressive mode does: each begins with the last
        frames of the one before, and has the next seed.
        """
        height, width = request.size
        lengths, given = planning.chunks(self.profile, request.num_output_frames)
        texts = [self.text[text].to(self.device) for text in (self.prompt(request), self._negative(request))]
        sampling = self.profile.sampling
        solver = request.num_steps or sampling.steps, request.guidance, request.shift or sampling.shift
        start, parts = self._conditioning(request), []
        for number, frames in enumerate(lengths):
            shape = 1 + (frames - 1) // 4, height // 8, width // 8
            clip = make_clip(self.transformer, self.vae, start, *texts, shape, *solver, seed + number, self.fast)
            parts.append(clip[:, :, given if number else 0 :])
            start = clip[:, :, -given:]
        return torch.cat(parts, 2)

    def _conditioning(self, request: Request) -> torch.Tensor | None:
        """The conditioning frames [1, 3, 1 or 5, H, W]: the photo, or the last five frames of a video."""
        if request.inference_type == "text2world":
            return None
        path = Path(request.input_path)
        if request.inference_type == "image2world" or path.suffix.lower() in IMAGES:
            frames = read_image(path)[None]
        else:
            film = probe(path)
            frames = film.read(range(len(film.times))[-5:])
        return autoencoder.to_tensor(fit(np.asarray(frames), *request.size)).to(self.device)


def file_name(request: Request, seed: int) -> str:
    """`<name>_seed<k>.mp4`, as published."""
    return f"{request.name}_seed{seed}.mp4"


def _blocked(row: dict, part: str) -> dict:
    return row | {"blocked": True, "reason": f"guardrail: {part}", "seconds": 0.0, "sha256": None}


def load_guardrail() -> Any:
    """The checker of `cosmos_guardrail`: `check_text_safety(prompt) -> bool`, `check_video_safety(frames) -> frames`.

    Raises:
        UserError: the package is missing, with the line that installs it.
    """
    try:
        from cosmos_guardrail import CosmosSafetyChecker
    except ImportError:
        raise UserError(
            "these weights are generated with under NVIDIA's guardrail: pip install 'cosmos_guardrail>=0.3,<0.4', "
            "and accept the licence of nvidia/Cosmos-Guardrail1 on the Hub"
        ) from None
    return CosmosSafetyChecker()


@torch.no_grad()
def make_clip(
    transformer: torch.nn.Module,
    vae: torch.nn.Module,
    conditioning: torch.Tensor | None,
    text: torch.Tensor,
    negative: torch.Tensor,
    shape: tuple[int, int, int],
    steps: int,
    guidance: float,
    shift: float,
    seed: int,
    fast: frozenset[str] = frozenset(),
) -> torch.Tensor:
    """Generate one clip.

    Args:
        transformer, vae: a `CosmosTransformer3DModel` and an `AutoencoderKLWan`.
        conditioning: pixels [1, 3, 1 or 5, H, W] in -1..1 that the clip begins with; None for text2world.
        text, negative: embeddings [1, L, D] of the prompt and the negative prompt.
        shape: latent frames, height and width.
        steps, shift: of the solver.
        guidance: NVIDIA's convention: 7 here is 8 in most papers; 0 leaves out the negative prompt.
        fast: of `shortcuts.NAMES`; empty for the exact clip.
        seed: of NumPy's RandomState, so the noise is the same on every machine.

    Returns:
        Pixels [1, 3, T, H, W] in -1..1, float32.
    """
    noise = flow.initial_noise((1, vae.config.z_dim, *shape), seed).to(transformer.device)
    clean, frames = torch.zeros_like(noise), 0
    if conditioning is not None:
        start = autoencoder.encode(vae, conditioning)
        frames = start.shape[2]
        clean[:, :, :frames] = start
    mask = flow.condition_mask(torch.tensor([frames]), noise)
    network = Denoiser(transformer, [text, negative] if guidance else [text], mask)
    velocity = velocity_field(network, guidance, fast)
    with hardware.fast_attention(noise.device):
        latents = flow.sample(velocity, noise, clean, mask, steps, shift)
    return autoencoder.decode(vae, latents)
