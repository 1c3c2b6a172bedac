"""The training loop that the world model and the critic share, with its optimizer, EMA, checkpoints and processes."""

from cookbook.engine.distributed import Group, fill, processes, shard
from cookbook.engine.loop import Trained, fit
from cookbook.engine.memory import recompute

__all__ = ["Group", "Trained", "fill", "fit", "processes", "recompute", "shard"]
