"""What only a GPU can show. Where there is none these are listed as not run, with the reason."""

import pytest
import torch

from cookbook import flow
from cookbook.generate.sampler import make_clip
from cookbook.models import vae as codec
from cookbook.models import world

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: needs an NVIDIA GPU"),
]


def test_codec_on_the_gpu_equals_the_cpu(tiny_world):
    clip = torch.rand(1, 3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = world.load_vae(tiny_world)
    expected = codec.encode(vae, clip)
    torch.testing.assert_close(codec.encode(vae.cuda(), clip).cpu(), expected, atol=1e-3, rtol=1e-3)


def test_sampling_in_bf16_stays_near_float32(tiny_world):
    def clip(device, dtype):
        transformer, vae = world.load_transformer(tiny_world, dtype).to(device), world.load_vae(tiny_world).to(device)
        text = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(1)).to(device, dtype)
        given = torch.zeros(1, 3, 1, 32, 48, device=device)
        return make_clip(transformer, vae, given, text, 0 * text, (3, 4, 6), 4, 2.0, 5.0, seed=0).cpu()

    difference = (clip("cuda", torch.bfloat16) - clip("cpu", torch.float32)).abs().mean()
    assert difference < 0.05


def test_initial_noise_is_the_same_everywhere():
    assert torch.equal(flow.initial_noise((2, 3), 5).cuda().cpu(), flow.initial_noise((2, 3), 5))
