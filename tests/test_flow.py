"""Rectified flow: the identities of the schedule and the loss, and parity of the sampler with diffusers' pipeline."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from diffusers import Cosmos2_5_PredictBasePipeline, UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook import flow
from cookbook.generate.sampler import guided
from cookbook.models import text, vae, world

GUIDANCE = 2.0
STEPS = 4


class PassThrough:
    """Stands where the pipeline insists on NVIDIA's guardrail; the tiny weights need none."""

    def to(self, *_):
        return self

    def check_text_safety(self, _):
        return True


@given(t=st.floats(0, 1), shift=st.floats(1, 10))
def test_shift_keeps_the_ends_and_moves_towards_noise(t, shift):
    moved = float(flow.shifted(torch.tensor(t, dtype=torch.float64), shift))
    assert t - 1e-9 <= moved <= 1 + 1e-9  # rounding aside
    assert flow.shifted(torch.tensor([0.0, 1.0]), shift).tolist() == pytest.approx([0, 1])


def test_upstream_shift_is_five_t_over_one_plus_four_t():
    t = torch.linspace(0, 1, 11)
    assert torch.allclose(flow.shifted(t, 5.0), 5 * t / (1 + 4 * t))


def test_drawn_sigmas_follow_the_shifted_logit_normal():
    sigma = flow.draw_sigmas(20_000, 5.0, torch.Generator().manual_seed(0))
    assert 0 < sigma.min() and sigma.max() < 1
    assert abs(float(sigma.median()) - 5 / 6) < 0.01  # the median of the normal, 0, is t = 1/2


@settings(deadline=None)
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


def test_given_frames_only_dilute_the_loss():
    clean, noise = torch.zeros(1, 1, 4, 1, 1), torch.ones(1, 1, 4, 1, 1)
    mask = flow.condition_mask(torch.tensor([1]), clean)
    assert float(flow.loss(torch.zeros_like(clean), clean, noise, mask)) == 0.75


def test_initial_noise_is_numpys():
    expected = np.random.RandomState(3).standard_normal((2, 3)).astype(np.float32)
    assert np.array_equal(flow.initial_noise((2, 3), 3).numpy(), expected)


def test_sampler_with_the_true_velocity_gives_the_clip():
    clean, noise = torch.randn(2, 1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = flow.condition_mask(torch.tensor([1]), clean)
    result = flow.sample(lambda latents, sigma: noise - clean, noise, clean, mask, STEPS, 5.0)
    assert torch.allclose(result, clean, atol=1e-5)


@pytest.fixture(scope="module")
def parts(tiny_world):
    """Pipeline parts, photo, noise and embeddings, the same for both implementations."""
    encoder = world.load_text_encoder(tiny_world)
    shape = (1, 16, *tiny.GEOMETRY.latent)
    return {
        "transformer": world.load_transformer(tiny_world).eval(),
        "vae": world.load_vae(tiny_world),
        "encoder": encoder,
        "photo": np.random.default_rng(0).integers(0, 255, (tiny.GEOMETRY.height, tiny.GEOMETRY.width, 3), np.uint8),
        "noise": flow.initial_noise(shape, 0),
        "embeddings": text.encode_prompts(encoder.model, encoder.tokenizer, ["Push the square.", ""], 48),
    }


@torch.no_grad()
def ours(parts) -> np.ndarray:
    """Pixels [T, H, W, 3] in 0..1 by `flow.sample`."""
    noise, (cond, uncond) = parts["noise"], parts["embeddings"].split(1)
    photo = vae.encode(parts["vae"], vae.to_tensor(parts["photo"][None]))
    clean = torch.zeros_like(noise)
    clean[:, :, :1] = photo
    mask = flow.condition_mask(torch.tensor([1]), clean)
    velocity = guided(parts["transformer"], cond, uncond, mask, GUIDANCE)
    latents = flow.sample(velocity, noise, clean, mask, STEPS, 5.0)
    return vae.decode(parts["vae"], latents)[0].permute(1, 2, 3, 0).add(1).div(2).numpy()


def theirs(parts, scheduler: UniPCMultistepScheduler) -> np.ndarray:
    """The same by diffusers' pipeline."""
    pipeline = Cosmos2_5_PredictBasePipeline(
        text_encoder=parts["encoder"].model,
        tokenizer=parts["encoder"].tokenizer,
        transformer=parts["transformer"],
        vae=parts["vae"],
        scheduler=scheduler,
        safety_checker=PassThrough(),
    )
    pipeline.set_progress_bar_config(disable=True)
    cond, uncond = parts["embeddings"].split(1)
    return pipeline(
        image=parts["photo"],
        prompt_embeds=cond,
        negative_prompt_embeds=uncond,
        latents=parts["noise"],
        height=tiny.GEOMETRY.height,
        width=tiny.GEOMETRY.width,
        num_frames=tiny.GEOMETRY.frames,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        conditional_frame_timestep=-1,
        output_type="np",
    ).frames[0]


def test_sampler_equals_diffusers_pipeline_in_every_frame(parts):
    one, other = ours(parts), theirs(parts, flow.scheduler(5.0))
    assert one.shape == other.shape == (tiny.GEOMETRY.frames, tiny.GEOMETRY.height, tiny.GEOMETRY.width, 3)
    assert 0 <= one.min() and one.max() <= 1
    gaps = np.abs(one - other).max((1, 2, 3))
    print("largest difference per frame:", gaps)
    assert gaps.max() <= 1e-4
    assert one[1:].std() > 0.005, "a flat clip would prove nothing"


def test_a_wrong_scheduler_is_noticed(parts):
    karras = UniPCMultistepScheduler.from_config(
        flow.scheduler(5.0).config, use_karras_sigmas=True, sigma_max=200.0, sigma_min=0.01
    )
    assert np.abs(ours(parts) - theirs(parts, karras)).max() > 1e-2


def test_embeddings_equal_the_pipelines(parts):
    encoder = parts["encoder"]
    fake = SimpleNamespace(
        tokenizer=encoder.tokenizer, text_encoder=encoder.model, _execution_device=torch.device("cpu")
    )
    with torch.no_grad():
        wanted = Cosmos2_5_PredictBasePipeline._get_prompt_embeds(fake, ["Push the square.", ""], 48)
    assert torch.allclose(parts["embeddings"], wanted, atol=1e-5)
