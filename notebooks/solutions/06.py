# %% [markdown]
# # Solutions of notebook 06
#
# The source of the exercises in [06_policy.ipynb](../06_policy.ipynb): what stands between BEGIN and END is left out there. Open this file in JupyterLab
# as a notebook (right click, *Open With*, *Notebook*), or run it: `python notebooks/solutions/06.py`.

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/06.py`; try first.

# %% [markdown]
# **Exercise 06.1 ★ How much of the distance?** `measured` is the table of 6.4: each row has a `rate` (mean, lowest, highest). Return which part of the distance from `demonstrations` to `+ real` the row `name` closes.
#
# Solved? Try it on each row. Which one closes least per trajectory (`added`)?

# %%
from cookbook import exercises


def closed(measured, name):
    # BEGIN SOLUTION
    low, high, mine = (measured[key]["rate"][0] for key in ("demonstrations", "+ real", name))
    return (mine - low) / (high - low)
    # END SOLUTION


exercises.check_06_1(closed, measured);

# %% [markdown]
# **Exercise 06.2 ★★ Ignored words.** `rows` are the attempts of one policy; each has a `scene` with a `seed`, and `success`. Return the share of scenes in which at least one instruction succeeded but not all of them: there, the words may have been ignored. The check uses your attempts.
#
# Solved? Call it for each policy in `attempts`, and compare it with $2p(1 - p)$, where $p$ is the success rate: the share if both attempts were independent. What would a larger share mean?

# %%
from cookbook import exercises


def one_sided(rows):
    # BEGIN SOLUTION
    scenes = {}
    for row in rows:
        scenes.setdefault(str(row["scene"]["seed"]), []).append(row["success"])
    return sum(any(part) and not all(part) for part in scenes.values()) / len(scenes)
    # END SOLUTION


exercises.check_06_2(one_sided, more);

# %% [markdown]
# **Exercise 06.3 ★★★ Why pair?** Two policies were rolled out in the same scenes; `first` and `second` hold their success (1 or 0) scene by scene. Return the standard error of the difference of their means, once from the differences in each scene, and once as if the scenes had been different ones: a pair of numbers. Use variances with n - 1.
#
# Solved? When is the first number smaller than the second?

# %%
import numpy as np

from cookbook import exercises


def standard_errors(first, second):
    # BEGIN SOLUTION
    first, second = np.asarray(first, float), np.asarray(second, float)
    paired = (first - second).var(ddof=1)
    return np.sqrt(paired / len(first)), np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / len(first))
    # END SOLUTION


exercises.check_06_3(standard_errors);
