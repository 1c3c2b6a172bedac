"""The training loop that the world model and the critic share, with its optimizer, EMA, checkpoints and processes."""

from cookbook.engine.activations import checkpoint_activations
from cookbook.engine.distributed import Group, fill, processes, shard
from cookbook.engine.loop import Trained, fit

__all__ = ["Group", "Trained", "checkpoint_activations", "fill", "fit", "processes", "shard"]
