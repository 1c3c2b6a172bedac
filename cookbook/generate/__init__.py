"""Stage `generate`: from held-out photos and instructions to videos, by the base or the post-trained world model."""

from cookbook.generate.stage import generate

__all__ = ["generate"]
