# %% [markdown]
# # Solutions of notebook 04
#
# The source of the exercises in [04_plausibility_filtering.ipynb](../04_plausibility_filtering.ipynb): what stands between BEGIN and END is left out there. Open this file in JupyterLab
# as a notebook (right click, *Open With*, *Notebook*), or run it: `python notebooks/solutions/04.py`.

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/04.py`; try first.

# %% [markdown]
# **Exercise 04.1 ★ Expected score.** `probabilities` are those of the digits 1 to 5. Return the score. Which two very different critics give 3?

# %%
from cookbook import exercises


def score(probabilities):
    # BEGIN SOLUTION
    # 3 comes from a critic that is certain of it, and from one that gives 1 and 5 half of the probability each.
    return sum(digit * p for digit, p in enumerate(probabilities, 1))
    # END SOLUTION


exercises.check_04_1(score);

# %% [markdown]
# **Exercise 04.2 ★★ What a threshold is worth.** `valid` and `invalid` are scores of calibration clips. If both were equally many, which share of the clips that reach `threshold` would be valid? Solved? The guide keeps 4 and 5 and leaves 3 open: compare `precision(scores[1], scores[0], 4)` with that at 3, and with that at your own thresholds.

# %%
from cookbook import exercises


def precision(valid, invalid, threshold):
    # BEGIN SOLUTION
    true, false = (sum(s >= threshold for s in scores) / len(scores) for scores in (valid, invalid))
    return true / (true + false)
    # END SOLUTION


exercises.check_04_2(precision);

# %% [markdown]
# **Exercise 04.3 ★★★ Best of N.** Of `seeds` videos of a prompt, `kept` pass the filter. You draw `draws` of them without putting any back. How likely is it that at least one of those passes?

# %%
import math

from cookbook import exercises


def any_kept(kept, seeds, draws):
    # BEGIN SOLUTION
    return 1 - math.comb(seeds - kept, draws) / math.comb(seeds, draws)
    # END SOLUTION


exercises.check_04_3(any_kept);
