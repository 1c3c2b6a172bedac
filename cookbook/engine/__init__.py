"""The training loop that the world model and the critic share, with its optimizer, EMA, checkpoints and processes."""

from cookbook.engine.distributed import Group, processes, shard
from cookbook.engine.loop import Trained, fit
from cookbook.engine.memory import recompute

__all__ = ["Group", "Trained", "fit", "processes", "recompute", "shard"]
