"""The learning rate over the steps, and the average of the weights (EMA)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cookbook import profiles
from cookbook.engine.optim import PowerEma, ema_exponent, rate_factor


def test_upstream_schedule_is_one_long_ramp():
    recipe = profiles.Recipe()
    assert rate_factor(0, recipe) == 1e-6
    assert rate_factor(500, recipe) == pytest.approx(0.25, rel=1e-5)
    assert recipe.learning_rate * rate_factor(999, recipe) == pytest.approx(2.16e-5, rel=2e-3)


@given(step=st.integers(0, 5000))
def test_recommended_schedule_rises_then_falls_and_stays(step):
    recipe = profiles.recommended_recipe()
    now, later = rate_factor(step, recipe), rate_factor(step + 1, recipe)
    assert 0 < now <= recipe.peak_factor
    assert later > now if step + 1 < recipe.warmup else later <= now
    assert rate_factor(recipe.cycle, recipe) == pytest.approx(recipe.end_factor)


def test_power_ema_has_karras_exponent_and_upstream_decay():
    assert ema_exponent(0.10) == pytest.approx(6.937, abs=2e-3)
    ema = PowerEma([("w", torch.zeros(1, dtype=torch.bfloat16))], 0.10)
    assert ema.weights["w"].dtype == torch.float32, "training in low precision keeps a precise average"
    assert ema.beta(0) == 0 and ema.beta(1000) == pytest.approx(0.9921, abs=1e-4)


@given(values=st.lists(st.floats(-3, 3), min_size=1, max_size=30))
def test_power_ema_is_the_weighted_mean_that_it_claims(values):
    ema = PowerEma([("w", torch.zeros(1))], 0.10)
    for step, value in enumerate(values):
        ema.update([torch.tensor([value])], step)
    weights = (np.arange(len(values)) + 1.0) ** (ema.gamma + 1) - np.arange(len(values)) ** (ema.gamma + 1.0)
    expected = np.average(values, weights=weights)
    assert float(ema.weights["w"]) == pytest.approx(expected, abs=1e-4)
