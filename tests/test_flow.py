"""Rectified flow: the identities of the schedule and the loss, and parity of the sampler with diffusers' pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import generators
import numpy as np
import pytest
import tiny
import torch
from diffusers import Cosmos2_5_PredictBasePipeline, UniPCMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cookbook import flow, profiles, video
from cookbook.errors import UserError
from cookbook.generate.generator import make_clip
from cookbook.models import autoencoder, hub, text, world
from cookbook.profiles import Geometry, Profile

GUIDANCE = 2.0
STEPS = 4


@given(t=st.floats(0, 1), shift=st.floats(1, 10))
def test_shift_keeps_the_ends_and_moves_towards_noise(t, shift):
    moved = float(flow.shifted(torch.tensor(t, dtype=torch.float64), shift))
    assert t - 1e-9 <= moved <= 1 + 1e-9  # rounding aside
    assert flow.shifted(torch.tensor([0.0, 1.0]), shift).tolist() == pytest.approx([0, 1])


def test_drawn_sigmas_follow_the_shifted_logit_normal():
    sigma = flow.draw_sigmas(20_000, 5.0, torch.Generator().manual_seed(0))
    assert 0 < sigma.min() and sigma.max() < 1
    assert abs(float(sigma.median()) - 5 / 6) < 0.01  # the median of the normal, 0, is t = 1/2


@given(frames=st.lists(st.integers(0, 3), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_the_true_velocity_has_no_loss_and_leads_back_to_the_clip(frames, seed):
    generator = torch.Generator().manual_seed(seed)
    clean, noise = (torch.randn(len(frames), 2, 3, 2, 2, generator=generator) for _ in range(2))
    sigma = torch.rand(len(frames), generator=generator)
    mask = flow.condition_mask(torch.tensor(frames), clean)
    assert mask.sum((1, 2, 3, 4)).tolist() == [4.0 * count for count in frames]
    assert flow.loss(noise - clean, clean, noise, mask) == 0
    start = flow.noised(clean, noise, sigma, mask)
    back = start - (1 - mask) * sigma.view(-1, 1, 1, 1, 1) * (noise - clean)
    assert torch.allclose(back, clean, atol=1e-5)


def test_conditioning_frames_only_lower_the_loss():
    clean, noise = torch.zeros(1, 1, 4, 1, 1), torch.ones(1, 1, 4, 1, 1)
    mask = flow.condition_mask(torch.tensor([1]), clean)
    assert float(flow.loss(torch.zeros_like(clean), clean, noise, mask)) == 0.75


def test_sampler_with_the_true_velocity_gives_the_clip():
    clean, noise = torch.randn(2, 1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = flow.condition_mask(torch.tensor([1]), clean)
    result = flow.sample(lambda latents, sigma: noise - clean, noise, clean, mask, STEPS, 5.0)
    assert torch.allclose(result, clean, atol=1e-5)


def test_a_clip_that_is_not_finite_is_refused():
    noise = torch.ones(1, 4, 3, 2, 2)
    mask = flow.condition_mask(torch.tensor([1]), noise)
    with pytest.raises(UserError, match="became NaN or infinite"):
        flow.sample(lambda latents, sigma: latents / 0, noise, noise, mask, STEPS, 5.0)


@pytest.fixture(scope="module")
def parts(tiny_world):
    """Models, pictures and embeddings, the same for both implementations."""
    return load_parts(tiny_world, tiny.profile(tiny_world))


@pytest.fixture(scope="module")
def nano_parts():
    """The same with the weights that ship, on clips that are smaller in every direction."""
    chosen = profiles.nano()
    clip = Geometry(frames=9, fps=8, height=64, width=96)
    return load_parts(hub.locate(chosen.world), replace(chosen, clip=clip))


def load_parts(folder: Path, profile: Profile) -> SimpleNamespace:
    encoder, tokenizer = world.load_text_encoder(folder)
    rough = np.random.default_rng(0).integers(0, 255, (7, 4, 6, 3), np.uint8)
    frames = video.fit(rough, profile.clip.height, profile.clip.width)  # seven; the last five are conditioning frames
    embeddings = text.encode_prompts(encoder, tokenizer, ["Push the square.", ""], profile.text_tokens)
    networks = world.load_transformer(folder).eval(), world.load_vae(folder)
    models = generators.Models(profile, *networks, frames[0], *embeddings.split(1))
    return SimpleNamespace(models=models, video=frames, embeddings=embeddings, encoder=encoder, tokenizer=tokenizer)


def ours(parts, kind: str = "image", guidance: float = GUIDANCE) -> np.ndarray:
    """Pixels [T, H, W, 3] in 0..1 as the stage `generate` computes them, before encoding."""
    models = parts.models
    shown = None if kind == "text" else autoencoder.to_tensor(parts.video[:1] if kind == "image" else parts.video[-5:])
    settings = (models.profile.clip.latent, STEPS, guidance, 5.0)
    pixels = make_clip(models.transformer, models.vae, shown, models.text, models.negative, *settings, seed=0)
    return generators.unit(pixels)


def theirs(
    parts, kind: str = "image", guidance: float = GUIDANCE, scheduler: UniPCMultistepScheduler | None = None
) -> np.ndarray:
    """The same by diffusers' pipeline, from the same noise."""
    profile = parts.models.profile
    profile = replace(profile, sampling=replace(profile.sampling, guidance=guidance, shift=5.0))
    shown = {"text": {"image": None}, "video": {"video": [Image.fromarray(frame) for frame in parts.video]}}
    models = replace(parts.models, profile=profile)
    return generators.theirs(models, scheduler, **shown.get(kind, {}))(0, STEPS)


@pytest.mark.parametrize("guidance", [0.0, GUIDANCE])
@pytest.mark.parametrize("kind", ["image", "video", "text"])
@pytest.mark.parametrize("weights", ["parts", pytest.param("nano_parts", marks=pytest.mark.slow)])
def test_clips_equal_diffusers_pipeline_in_every_frame(request, weights, kind, guidance):
    parts = request.getfixturevalue(weights)
    clip = parts.models.profile.clip
    one, other = ours(parts, kind, guidance), theirs(parts, kind, guidance)
    assert one.shape == other.shape == (clip.frames, clip.height, clip.width, 3)
    assert 0 <= one.min() and one.max() <= 1
    gaps = np.abs(one - other).max((1, 2, 3))
    print(f"{weights}, {kind}, guidance {guidance}: largest difference of pixels in 0..1 per frame: {gaps}")
    assert gaps.max() <= 1e-4  # the bar is 1e-3
    assert one[1:].std() > 0.005, "a flat clip would prove nothing"


@pytest.mark.slow
def test_conditions_and_guidance_change_the_clips(nano_parts):
    clips = [ours(nano_parts), ours(nano_parts, guidance=0.0), ours(nano_parts, "video"), ours(nano_parts, "text")]
    for index, one in enumerate(clips):
        assert all(np.abs(one - other).max() > 1e-2 for other in clips[:index])


def test_a_wrong_scheduler_changes_the_clips(parts):
    karras = UniPCMultistepScheduler.from_config(
        flow.scheduler(5.0).config, use_karras_sigmas=True, sigma_max=200.0, sigma_min=0.01
    )
    assert np.abs(ours(parts) - theirs(parts, scheduler=karras)).max() > 1e-2


def test_embeddings_equal_the_pipelines(parts):
    device = torch.device("cpu")
    fake = SimpleNamespace(tokenizer=parts.tokenizer, text_encoder=parts.encoder, _execution_device=device)
    with torch.no_grad():
        wanted = Cosmos2_5_PredictBasePipeline._get_prompt_embeds(fake, ["Push the square.", ""], 48)
    assert torch.allclose(parts.embeddings, wanted, atol=1e-5)
