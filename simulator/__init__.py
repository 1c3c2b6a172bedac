"""The workshop world: a GR1 humanoid at a table in MuJoCo that knows the truth of every clip it makes."""

import os
import sys

# MuJoCo reads this when it is first imported: draw without a display
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
