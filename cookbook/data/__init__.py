"""Stage `data`: training clips with captions and held-out photos with instructions, in the published layouts."""

from cookbook.data.prepare import prepare

__all__ = ["prepare"]
