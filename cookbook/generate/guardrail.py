"""NVIDIA's guardrail, on by default with NVIDIA's weights, as their licence asks."""

from typing import Any

from cookbook.errors import UserError

CLAUSE = (
    "NVIDIA Open Model License, section 2.1: who disables a guardrail without a substantially similar one that is "
    "appropriate for their use loses all rights under it"
)


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
