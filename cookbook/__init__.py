"""From one robot photo and one instruction to a filtered, training-ready set of robot videos."""

__version__ = "0.1.0"
