"""The plan of a training: memory, time and size of the real models, and every departure from upstream."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cookbook import profiles
from cookbook.train.planning import estimate, plan
from cookbook.train.recipes import explain


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
