"""The one training loop, of world model and critic: optimizer, EMA, checkpoints, processes. It depends on no model."""

from cookbook.engine.activations import checkpoint_activations
from cookbook.engine.distributed import Group, fill, processes, shard
from cookbook.engine.loop import Trained, fit

__all__ = ["Group", "Trained", "checkpoint_activations", "fill", "fit", "processes", "shard"]
