"""`--fast`: the evaluations that each shortcut skips, and that the default skips none."""

from __future__ import annotations

import pytest
import torch

from cookbook import storage
from cookbook.errors import UserError
from cookbook.generate import shortcuts
from cookbook.generate.stage import generate

SIGMAS = torch.linspace(1, 0.1, 10)


class Network:
    """Velocities [1] that are functions of the noise level; notes for how many texts it is evaluated each time."""

    def __init__(self, prompt, negative=lambda sigma: 0 * sigma):
        self.velocities, self.evaluations = (prompt, negative), []

    def __call__(self, latents, sigma, texts):
        self.evaluations.append(texts)
        return [velocity(sigma).reshape(1) for velocity in self.velocities[:texts]]


def walk(network, guidance=2.0, fast=()):
    velocity = shortcuts.velocity_field(network, guidance, frozenset(fast))
    return torch.cat([velocity(torch.zeros(1), sigma) for sigma in SIGMAS])


def test_without_shortcuts_every_step_evaluates_both_texts():
    network = Network(lambda s: s**2, lambda s: 3 * s)
    assert torch.allclose(walk(network), SIGMAS**2 + 2 * (SIGMAS**2 - 3 * SIGMAS))
    assert network.evaluations == [2] * 10
    assert torch.equal(walk(network, guidance=0.0), SIGMAS**2) and network.evaluations[10:] == [1] * 10


def test_guidance_extrapolates_at_every_second_step():
    straight = Network(lambda s: s**2 + s, lambda s: s**2)  # the difference is a line
    fast = walk(straight, fast=("guidance",))
    assert straight.evaluations == [2, 1] * 5
    exact = SIGMAS**2 + 3 * SIGMAS
    assert torch.allclose(fast[2:], exact[2:]) and fast[1] != exact[1], "the second step knows one difference only"


def test_cache_skips_small_changes_at_most_twice_in_a_row():
    network = Network(lambda s: 100 + s)
    fast = walk(network, fast=("cache",))
    assert len(network.evaluations) == 2 + 8 // (1 + shortcuts.SKIPS), "two for the line, then one of three"
    assert torch.allclose(fast, 3 * (100 + SIGMAS)), "on a line nothing is lost"


def test_cache_evaluates_where_the_velocity_changes():
    network = Network(lambda s: torch.where(s > 0.55, 100 + s, torch.exp(20 * (0.55 - s))))
    exact = walk(Network(network.velocities[0]))
    fast = walk(network, fast=("cache",))
    assert 5 < len(network.evaluations) < 10
    assert torch.allclose(fast[-2:], exact[-2:]), "the end changes too fast to be skipped"


def test_both_shortcuts_together_evaluate_least():
    network = Network(lambda s: 100 + s, lambda s: 50 + s)
    walk(network, fast=("cache", "guidance"))
    assert network.evaluations == [2, 1, 2, 1]


def test_generate_records_shortcuts_and_never_mixes_them(tmp_path, photos, tiny_profile, tiny_world, capsys):
    tiny_profile()
    arguments = {"run": tmp_path, "requests": photos, "weights": tiny_world, "seeds": 1}
    assert generate("tiny", fast=(), **arguments)["settings"]["fast"] == ["cache", "guidance"]
    assert "not exact: --fast cache guidance" in capsys.readouterr().out
    rows = storage.read_rows(tmp_path / "generated/tuned/generated.jsonl")
    assert [row["fast"] for row in rows] == [["cache", "guidance"]] * 2
    with pytest.raises(UserError, match="fast"):
        generate("tiny", **arguments)
    assert "fast" not in generate("tiny", redo=True, **arguments)["settings"]
