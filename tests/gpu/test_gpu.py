"""What only a GPU can show. Where there is none these are listed as not run, with the reason."""

import pytest
import torch

from cookbook import flow
from cookbook.generate.sampler import make_clip
from cookbook.generate.shortcuts import NAMES
from cookbook.models import autoencoder, world

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: needs an NVIDIA GPU"),
]


def test_codec_on_the_gpu_equals_the_cpu(tiny_world):
    clip = torch.rand(1, 3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = world.load_vae(tiny_world)
    expected = autoencoder.encode(vae, clip)
    # a GPU convolves in TF32, which keeps ten bits: 0.0012 was measured on an H100
    torch.testing.assert_close(autoencoder.encode(vae.cuda(), clip).cpu(), expected, atol=5e-3, rtol=5e-3)


def test_sampling_in_bf16_stays_near_float32(tiny_world):
    def clip(device, dtype):
        transformer, vae = world.load_transformer(tiny_world, dtype).to(device), world.load_vae(tiny_world).to(device)
        text = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(1)).to(device, dtype)
        photo = torch.zeros(1, 3, 1, 32, 48, device=device)
        return make_clip(transformer, vae, photo, text, 0 * text, (3, 4, 6), 4, 2.0, 5.0, seed=0).cpu()

    difference = (clip("cuda", torch.bfloat16) - clip("cpu", torch.float32)).abs().mean()
    assert difference < 0.05


def test_initial_noise_is_the_same_everywhere():
    assert torch.equal(flow.initial_noise((2, 3), 5).cuda().cpu(), flow.initial_noise((2, 3), 5))


def test_every_shortcut_generates_a_clip_near_the_exact_one(tiny_world):
    def clip(fast):
        device = torch.device("cuda")
        transformer = world.load_transformer(tiny_world, torch.bfloat16).to(device).eval()
        vae = world.load_vae(tiny_world).to(device)
        text = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(1)).to(device, torch.bfloat16)
        photo = torch.zeros(1, 3, 1, 32, 48, device=device)
        return make_clip(transformer, vae, photo, text, 0 * text, (3, 4, 6), 12, 2.0, 5.0, 0, fast).cpu()

    exact = clip(frozenset())
    for one in NAMES:
        assert 0 < (clip(frozenset([one])) - exact).abs().mean() < 0.05
