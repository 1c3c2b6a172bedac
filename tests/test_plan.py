"""The printed plans: memory, time, size and departures of a training; time and placement on the GPU of a generation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cookbook import profiles
from cookbook.errors import UserError
from cookbook.generate import planning
from cookbook.generate.requests import Request
from cookbook.train.planning import estimate, plan
from cookbook.train.recipes import explain

GIB = 2**30
ENCODER, NETWORK, PIXELS = int(15.4 * GIB), int(4.1 * GIB), 432 * 768  # the 2B profile


@pytest.mark.parametrize(
    ("profile", "recipe", "parameters", "trained"),
    [("2b", "recommended", 2.06e9, 2.06e9), ("2b", "lora", 2.06e9, 45.9e6), ("14b", "upstream", 14.4e9, 14.4e9)],
)
def test_plans_of_the_real_models_need_nothing(profile, recipe, parameters, trained, tmp_path, capsys):
    planned = plan(profile, run=tmp_path / "none", recipe=recipe)
    assert planned.parameters == pytest.approx(parameters, rel=0.02)
    assert planned.trained == pytest.approx(trained, rel=0.02)
    text = capsys.readouterr().out
    for word in ("GB to download", "NVIDIA Open Model License", "gated", "departures", "one H100"):
        assert word in text
    assert (sum(planned.memory_gb.values()) > 80) == (profile == "14b"), "one card for all weights of 14B"
    assert sum(estimate(profiles.get("14b"), 8, None, None).memory_gb.values()) < 80
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "gib", "seconds", "most"), [("recommended", 57.3, 2.54, 64), ("lora", 33.2, 2.44, 32)]
)
def test_plan_of_2b_agrees_with_measurements(name, gib, seconds, most):
    """docs/gpu_figures.md, a quarter of the activations kept; the recipe itself stays within its memory."""
    profile = profiles.get("2b", name)
    quarter = replace(profile, recipe=replace(profile.recipe, activation_checkpointing="0.25"))
    planned = estimate(quarter, 1, 85, 7)
    assert planned.tokens == 31104 and planned.epochs == pytest.approx(11.8, abs=0.2)
    assert planned.step_seconds == pytest.approx(seconds, rel=0.15)
    assert sum(planned.memory_gb.values()) == pytest.approx(gib * 2**30 / 1e9, rel=0.15)
    assert sum(estimate(profile, 1, 85, 7).memory_gb.values()) * 1e9 / 2**30 < most


@pytest.mark.parametrize("profile", ["2b", "14b"])
def test_plan_of_the_published_recipe_departs_in_no_value(profile, tmp_path, capsys):
    plan(profile, run=tmp_path, recipe="upstream")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "departures" in line]
    assert line.startswith("  departures    2 from the published recipe")


@pytest.mark.parametrize("profile", ["smoke", "nano", "2b", "14b"])
def test_every_departure_from_upstream_has_its_reason(profile, capsys):
    for recipe in (profiles.get(profile).recipe, *profiles.get(profile).alternatives):
        rows = {row.field: row for row in explain(profile, recipe.name)}
        assert list(rows) == [f for f in profiles.Recipe.__dataclass_fields__ if f != "name"]
        assert all(bool(row.reason) == (row.ours != row.upstream) for row in rows.values())
        assert not any("your own" in row.reason for row in rows.values())
        text = capsys.readouterr().out
        assert all(f" {name} " in text for name in rows) and "at most 4 windows" in text
    if profile in ("2b", "14b"):
        assert not any(row.reason for row in explain(profile, "upstream"))


# generation


def request(**changes) -> Request:
    row = {"name": "a", "prompt": "Wave.", "num_output_frames": 93, "resolution": "432,768", "guidance": 7}
    return Request(inference_type="text2world", **(row | changes))


def test_hours_follow_from_the_size_of_the_work():
    large = profiles.get("2b")
    assert planning.cost(large, [(request(), 0)], gpu=True) == "about 41 s on one H100", "where the rate was measured"
    batch = [(request(), seed) for seed in range(250)]
    assert planning.cost(large, batch, gpu=False) == "about 2.9 h on one H100", "no CPU generates with 2 B weights"
    assert planning.cost(large, batch[:10], gpu=True) == "about 7 min on one H100"
    half = [(request(guidance=0), 0), (request(num_steps=18), 0)]
    assert planning.cost(large, half, gpu=True) == "about 41 s on one H100", "guidance and steps of the row count"
    small = [(request(num_output_frames=25, resolution="96,160"), seed) for seed in range(20)]
    assert planning.cost(profiles.get("nano"), small, gpu=False) == "about 36 s on two CPU cores"


def test_a_long_clip_is_made_in_parts_that_overlap():
    assert planning.chunks(profiles.get("nano"), 17) == ([17], 1)
    assert planning.chunks(profiles.get("nano"), 61) == ([25, 25, 13], 1)
    assert planning.chunks(profiles.get("2b"), 185) == ([93, 93, 9], 5), "trained with up to two latent frames given"


@pytest.mark.parametrize(
    ("free", "encoder", "tiled"), [(79, True, False), (24, True, False), (16, False, False), (7, False, True)]
)
def test_free_memory_decides_the_placement_of_networks(free, encoder, tiled):
    chosen = planning.fit(free * GIB, ENCODER, NETWORK, PIXELS)
    assert (chosen.encoder, chosen.tiled) == (encoder, tiled)
    line = planning.describe(chosen, free * GIB)
    assert f"{free}.0 GiB of the GPU are free" in line and "\n" not in line
    assert ("on the CPU" in line, "in tiles" in line) == (not encoder, tiled)


def test_a_larger_picture_is_tiled_sooner_and_too_little_memory_is_reported():
    assert planning.fit(12 * GIB, ENCODER, NETWORK, 704 * 1280).tiled
    assert not planning.fit(12 * GIB, ENCODER, NETWORK, PIXELS).tiled
    with pytest.raises(UserError, match=r"takes 4\.1 GiB and 3\.0 GiB of this GPU are free"):
        planning.fit(3 * GIB, ENCODER, NETWORK, PIXELS)
