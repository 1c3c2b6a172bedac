"""What only a GPU can show. Where there is none these are listed as not run, with the reason."""

import pytest
import torch

from cookbook.generate.generator import make_clip
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


def test_bf16_and_every_shortcut_stay_near_the_exact_clip(tiny_world):
    def clip(device, dtype, steps, fast=()):
        transformer = world.load_transformer(tiny_world, dtype).to(device).eval()
        vae, photo = world.load_vae(tiny_world).to(device), torch.zeros(1, 3, 1, 32, 48, device=device)
        text = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(1)).to(device, dtype)
        shape, settings = (3, 4, 6), (steps, 2.0, 5.0, 0, frozenset(fast))
        return make_clip(transformer, vae, photo, text, 0 * text, shape, *settings).cpu()

    assert (clip("cuda", torch.bfloat16, 4) - clip("cpu", torch.float32, 4)).abs().mean() < 0.05
    exact = clip("cuda", torch.bfloat16, 12)
    for one in NAMES:
        assert 0 < (clip("cuda", torch.bfloat16, 12, [one]) - exact).abs().mean() < 0.05
