"""The two generators that generate.py compares, around the same random weights: diffusers' pipeline and ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLWan, Cosmos2_5_PredictBasePipeline, CosmosTransformer3DModel
from train import random_network  # the program beside this one

from cookbook import flow, hardware
from cookbook.generate.generator import make_clip
from cookbook.models import autoencoder, hub
from cookbook.profiles import Profile

# Cosmos-Reason1-7B is Qwen2.5-VL-7B; its vision tower takes memory too
TEXT = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
}


class NoGuardrail:
    """The pipeline requires a guardrail; random and tiny weights generate nothing that could need one."""

    def to(self, *_):
        return self

    def check_text_safety(self, _):
        return True


@dataclass(frozen=True)
class Models:
    """What all methods share."""

    profile: Profile
    transformer: CosmosTransformer3DModel
    vae: AutoencoderKLWan
    photo: np.ndarray  # [H, W, 3]
    text: torch.Tensor  # [1, L, D]
    negative: torch.Tensor

    @property
    def gpu(self) -> bool:
        return self.transformer.device.type == "cuda"


def build(profile: Profile, device: torch.device) -> Models:
    """Random weights in the profile's configurations, in the dtype that the stage computes in."""
    dtype, clip = hardware.compute_dtype(device), profile.clip
    transformer = random_network(profile, None, dtype, device).eval()
    vae = random_vae(profile, dtype, device).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(1)
    text = torch.randn(2, profile.text_tokens, transformer.config.crossattn_proj_in_channels, generator=random)
    text = text.to(device, dtype)
    photo = np.random.default_rng(0).integers(0, 255, (clip.height, clip.width, 3), np.uint8)
    return Models(profile, transformer, vae, photo, text[:1], text[1:])


def random_vae(profile: Profile, dtype: torch.dtype, device: torch.device) -> AutoencoderKLWan:
    """Random weights in the configuration of the profile's VAE."""
    settings = AutoencoderKLWan.load_config(hub.locate(profile.world) / "vae") if profile.world.ships else {}
    with device:
        return AutoencoderKLWan.from_config(settings).to(dtype)  # diffusers' defaults are Wan 2.1


def theirs(models: Models, scheduler=None, **shown) -> Callable[[int, int], np.ndarray]:
    """(seed, steps) -> frames [T, H, W, 3] in 0..1 by diffusers' unchanged pipeline, from its `image` or `video`.

    Without one it is shown the photo; without a scheduler it has that of the profile.
    """
    profile, clip, shown = models.profile, models.profile.clip, shown or {"image": models.photo}
    pipeline = Cosmos2_5_PredictBasePipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=models.transformer,
        vae=models.vae,
        scheduler=scheduler or flow.scheduler(profile.sampling.shift),
        safety_checker=NoGuardrail(),
    )
    pipeline.set_progress_bar_config(disable=True)
    shape = (1, models.vae.config.z_dim, *clip.latent)

    def make(seed: int, steps: int) -> np.ndarray:
        return pipeline(
            **shown,
            prompt_embeds=models.text,
            negative_prompt_embeds=models.negative,
            latents=flow.initial_noise(shape, seed).to(models.transformer.device),
            height=clip.height,
            width=clip.width,
            num_frames=clip.frames,
            num_inference_steps=steps,
            guidance_scale=profile.sampling.guidance,
            conditional_frame_timestep=-1,
            output_type="np",
        ).frames[0]

    return make


def ours(models: Models, fast: frozenset[str] = frozenset()) -> Callable[[int, int], torch.Tensor]:
    """(seed, steps) -> pixels [1, 3, T, H, W] in -1..1 by the function that `cookbook generate` calls."""
    sampling = models.profile.sampling

    def make(seed: int, steps: int) -> torch.Tensor:
        photo = autoencoder.to_tensor(models.photo[None]).to(models.transformer.device)
        settings = (steps, sampling.guidance, sampling.shift, seed, fast)
        size = models.profile.clip.latent
        return make_clip(models.transformer, models.vae, photo, models.text, models.negative, size, *settings)

    return make


def unit(pixels: torch.Tensor | np.ndarray) -> np.ndarray:
    """Either method's pixels as [T, H, W, 3] in 0..1."""
    return pixels if isinstance(pixels, np.ndarray) else pixels[0].permute(1, 2, 3, 0).add(1).div(2).cpu().numpy()
