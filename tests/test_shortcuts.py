"""`--fast`: what is left out, when, and that nothing is unless asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cookbook import runs
from cookbook.errors import UserError
from cookbook.generate import shortcuts
from cookbook.generate.stage import generate
from cookbook.models import fp8

CPU = torch.device("cpu")
SIGMAS = torch.linspace(1, 0.1, 10)


class Network:
    """Velocities [1] that are functions of the noise level; counts how often it is asked, and for how many texts."""

    def __init__(self, prompt, negative=lambda sigma: 0 * sigma):
        self.velocities, self.asked = (prompt, negative), []

    def __call__(self, latents, sigma, texts):
        self.asked.append(texts)
        return [velocity(sigma).reshape(1) for velocity in self.velocities[:texts]]


def walk(network, guidance=2.0, fast=()):
    velocity = shortcuts.shortened(network, guidance, frozenset(fast))
    return torch.cat([velocity(torch.zeros(1), sigma) for sigma in SIGMAS])


def test_without_shortcuts_every_step_asks_both_texts():
    network = Network(lambda s: s**2, lambda s: 3 * s)
    assert torch.allclose(walk(network), SIGMAS**2 + 2 * (SIGMAS**2 - 3 * SIGMAS))
    assert network.asked == [2] * 10
    assert torch.equal(walk(network, guidance=0.0), SIGMAS**2) and network.asked[10:] == [1] * 10


def test_guidance_asks_the_negative_prompt_every_second_time_and_draws_a_line_between():
    straight = Network(lambda s: s**2 + s, lambda s: s**2)  # the difference is a line
    made = walk(straight, fast=("guidance",))
    assert straight.asked == [2, 1] * 5
    exact = SIGMAS**2 + 3 * SIGMAS
    assert torch.allclose(made[2:], exact[2:]) and made[1] != exact[1], "the second step knows one difference only"


def test_cache_skips_what_hardly_changes_but_not_more_than_allowed_in_a_row():
    network = Network(lambda s: 100 + s)
    made = walk(network, fast=("cache",))
    assert len(network.asked) == 2 + 8 // (1 + shortcuts.SKIPS), "two to know the line, then one of three"
    assert torch.allclose(made, 3 * (100 + SIGMAS)), "on a line nothing is lost"


def test_cache_asks_again_where_much_changes():
    network = Network(lambda s: torch.where(s > 0.55, 100 + s, torch.exp(20 * (0.55 - s))))
    exact = walk(Network(network.velocities[0]))
    made = walk(network, fast=("cache",))
    assert 5 < len(network.asked) < 10
    assert torch.allclose(made[-2:], exact[-2:]), "the end changes too fast to be skipped"


def test_both_together_ask_least():
    network = Network(lambda s: 100 + s, lambda s: 50 + s)
    walk(network, fast=("cache", "guidance"))
    assert network.asked == [2, 1, 2, 1]


def test_the_flag_chooses_what_the_device_can_and_refuses_what_it_cannot(monkeypatch):
    assert shortcuts.choose(None, CPU) == frozenset()
    assert shortcuts.choose((), CPU) == {"guidance", "cache"}
    assert shortcuts.choose(("cache",), CPU) == {"cache"}
    with pytest.raises(UserError, match="--fast fp8 needs an NVIDIA GPU of compute capability 9.0"):
        shortcuts.choose(("fp8", "cache"), CPU)
    assert shortcuts.choose(("fp8",), None) == {"fp8"}, "the workers of a cluster may have what this machine has not"
    monkeypatch.setattr(fp8, "available", lambda device: True)
    assert shortcuts.choose((), CPU) == set(shortcuts.NAMES)


def test_rounding_to_fp8_keeps_each_row_to_its_own_scale():
    rows = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6).view(-1, 1)
    rounded, scale = fp8.rounded(rows)
    assert rounded.dtype == torch.float8_e4m3fn and scale.shape == (6, 1)
    error = (rounded.float() * scale - rows).norm(dim=1) / rows.norm(dim=1)
    assert 0.005 < error.max() < 0.04, "three bits of mantissa"
    assert torch.equal(fp8.rounded(torch.zeros(2, 32))[0].float(), torch.zeros(2, 32))


def test_an_fp8_layer_is_near_the_layer_it_replaces():
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(64, 48, bias=False), torch.randn(2, 16, 64)
    layer, expected = fp8.Float8Linear(linear), linear(x)
    try:
        made = layer(x)
    except RuntimeError as error:
        pytest.skip(f"NOT RUN: PyTorch {torch.__version__} has no such product for CPUs ({str(error)[-60:]})")
    assert made.shape == expected.shape
    assert 1e-3 < (made - expected).norm() / expected.norm() < 0.06


def test_generate_says_what_was_left_out_and_never_mixes(tmp_path, tiny_profile, tiny_world, capsys):
    tiny_profile()
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "photos/0_Wave..png")
    (tmp_path / "photos/0_Wave..txt").write_text("Wave.")
    given = {"run": tmp_path, "requests": tmp_path / "photos", "weights": tiny_world, "seeds": 1}
    with pytest.raises(UserError, match="compute capability"):
        generate("tiny", fast=("fp8",), **given)
    assert generate("tiny", fast=(), **given)["settings"]["fast"] == ["cache", "guidance"]
    assert "not exact: --fast cache guidance" in capsys.readouterr().out
    (row,) = runs.read_rows(tmp_path / "generated/tuned/generated.jsonl")
    assert row["fast"] == ["cache", "guidance"]
    with pytest.raises(UserError, match="fast"):
        generate("tiny", **given)
    assert "fast" not in generate("tiny", redo=True, **given)["settings"]
