"""NVIDIA's guardrail, on by default with NVIDIA's weights, as their licence asks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cookbook.errors import UserError
from cookbook.profiles import Profile

CLAUSE = (
    "NVIDIA Open Model License, section 2.1: who disables a guardrail without a substantially similar one that is "
    "appropriate for their use loses all rights under it"
)


def switched_off(profile: Profile) -> Profile:
    """The profile without its guardrail. The clause of the licence that this touches is printed.

    Raises:
        UserError: it has none; only NVIDIA's weights need one.
    """
    if not profile.guardrail:
        raise UserError(f"--without-guardrail: profile {profile.name} has none, its weights are not NVIDIA's; leave it")
    print(f"generate: NVIDIA's guardrail is off. {CLAUSE}")
    return replace(profile, guardrail=False)


def load_guardrail() -> Any:
    """The checker of `cosmos_guardrail`: `check_text_safety(prompt) -> bool`, `check_video_safety(frames) -> frames`.

    Raises:
        UserError: the package is missing, with the line that installs it.
    """
    try:
        from cosmos_guardrail import CosmosSafetyChecker
    except ImportError:
        raise UserError(
            "these weights are generated with under NVIDIA's guardrail: pip install 'cosmos_guardrail>=0.3,<0.4', "
            "and accept the licence of nvidia/Cosmos-Guardrail1 on the Hub"
        ) from None
    return CosmosSafetyChecker()
