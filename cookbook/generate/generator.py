"""The loaded models, and one clip from them: what a single process calls, and every actor of a cluster."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import CosmosTransformer3DModel
from diffusers.pipelines.cosmos.pipeline_cosmos2_5_predict import DEFAULT_NEGATIVE_PROMPT

from cookbook import hardware, runs
from cookbook.errors import UserError
from cookbook.generate import planning
from cookbook.generate.guardrail import load_guardrail
from cookbook.generate.requests import Request
from cookbook.generate.sampler import make_clip
from cookbook.models import autoencoder, sizes, world
from cookbook.models.text import encode_prompts
from cookbook.profiles import Profile
from cookbook.video import IMAGES, fit, read_image, read_video, write_video

IN_FLIGHT = 2  # clips in the hands of one Maker: one is denoised while the one before is written as mp4


class Generator:
    """Makes clips. The text encoder is gone before the world model comes.

    Args:
        folder: diffusers folder of the world model.
        base: diffusers folder of its companions (VAE, text encoder, tokenizer).
        requests: all that will be asked for; their prompts are embedded here, each once.
        fast: of `shortcuts.NAMES`.
    """

    def __init__(
        self,
        folder: Path,
        base: Path,
        profile: Profile,
        requests: list[Request],
        fast: frozenset[str] = frozenset(),
    ):
        self.profile, self.device, self.fast = profile, hardware.device(), fast
        self._turn = threading.Lock()
        dtype = hardware.compute_dtype(self.device)
        self.guardrail = load_guardrail() if profile.guardrail else None
        encoder, self.vae = world.load_text_encoder(base, dtype), world.load_vae(base, dtype)
        if self.device.type == "cuda":
            encoder.model.to(self._place(folder, encoder.model, requests))
        texts = sorted({text for request in requests for text in (self._prompt(request), self._negative(request))})
        self.text = {
            text: encode_prompts(encoder.model, encoder.tokenizer, [text], profile.text_tokens).cpu() for text in texts
        }
        del encoder
        self.vae.to(self.device)
        self.transformer = world.load_transformer(folder, dtype).to(self.device).eval()

    def _place(self, folder: Path, encoder: torch.nn.Module, requests: list[Request]) -> torch.device:
        """Where the text encoder goes, by the GPU's free memory; the VAE is told whether to work in tiles."""
        free, _ = torch.cuda.mem_get_info(self.device)
        network = sizes.on_meta(CosmosTransformer3DModel.load_config(folder / "transformer"))
        count, each = (
            planning.numbers(network) + planning.numbers(self.vae),
            hardware.compute_dtype(self.device).itemsize,
        )
        pixels = max(height * width for height, width in (request.size for request in requests))
        chosen = planning.fit(free, each * planning.numbers(encoder), each * count, pixels)
        print(planning.told(chosen, free), flush=True)
        self.vae.use_tiling = chosen.tiled
        return self.device if chosen.encoder else torch.device("cpu")

    def _prompt(self, request: Request) -> str:
        """Generate under the captions' own prefix; upstream trains with it and generates without."""
        prefix = self.profile.prompt_prefix
        return request.prompt if request.prompt.startswith(prefix) else prefix + request.prompt

    def _negative(self, request: Request) -> str:
        chosen = (request.negative_prompt, self.profile.sampling.negative_prompt, DEFAULT_NEGATIVE_PROMPT)
        return next(text for text in chosen if text is not None)

    def __call__(self, request: Request, seed: int) -> tuple[dict, bytes | None]:
        """Make one clip.

        May be called from several threads: they take turns with the models, and only the mp4 is encoded side by side.

        Returns:
            The clip's row of generated.jsonl, and the mp4 (None where the guardrail blocked it).
        """
        with self._turn:
            clock = time.monotonic()
            row = self._row(request, seed)
            if self.guardrail and not self.guardrail.check_text_safety(request.prompt):
                return row | {"blocked": True, "reason": "guardrail: prompt", "seconds": 0.0, "sha256": None}, None
            frames = autoencoder.to_frames(self.pixels(request, seed))
            if self.guardrail and (frames := self.guardrail.check_video_safety(frames)) is None:
                return row | {"blocked": True, "reason": "guardrail: video", "seconds": 0.0, "sha256": None}, None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / row["file"]
            write_video(file, frames, self.profile.clip.fps)
            seconds = round(time.monotonic() - clock, 2)
            return row | {"seconds": seconds, "sha256": runs.digest(file)}, file.read_bytes()

    def _row(self, request: Request, seed: int) -> dict:
        sampling = self.profile.sampling
        height, width = request.size
        return {
            "file": file_name(request, seed),
            "name": request.name,
            "prompt": request.prompt,
            "seed": seed,
            "image_sha256": runs.digest(Path(request.input_path)) if request.input_path else None,
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
        """The clip [1, 3, T, H, W] in -1..1, float32, before any guardrail or encoding."""
        height, width = request.size
        return make_clip(
            self.transformer,
            self.vae,
            self._beginning(request, height, width),
            self.text[self._prompt(request)].to(self.device),
            self.text[self._negative(request)].to(self.device),
            (1 + (request.num_output_frames - 1) // 4, height // 8, width // 8),
            request.num_steps or self.profile.sampling.steps,
            request.guidance,
            request.shift or self.profile.sampling.shift,
            seed,
            self.fast,
        )

    def _beginning(self, request: Request, height: int, width: int) -> torch.Tensor | None:
        """The given pixels [1, 3, 1 or 5, H, W]: the photo, or the last five frames of a video."""
        if request.inference_type == "text2world":
            return None
        path = Path(request.input_path)
        if request.inference_type == "image2world" or path.suffix.lower() in IMAGES:
            frames = read_image(path)[None]
        else:
            frames = read_video(path)[0][-5:]
            if len(frames) < 5:
                raise UserError(f"{path}: {len(frames)} frames; video2world needs at least 5")
        return autoencoder.to_tensor(fit(np.asarray(frames), height, width)).to(self.device)


def file_name(request: Request, seed: int) -> str:
    """`<name>_seed<k>.mp4`, as published."""
    return f"{request.name}_seed{seed}.mp4"
