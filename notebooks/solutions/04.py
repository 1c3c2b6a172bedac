# %% [markdown]
# # Solutions of notebook 04
#
# The source of the exercises in [04_plausibility_filtering.ipynb](../04_plausibility_filtering.ipynb): what stands between BEGIN and END is left out there. Open this file in JupyterLab
# as a notebook (right click, *Open With*, *Notebook*), or run it: `python notebooks/solutions/04.py`.

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved: the check then gives a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/04.py`; try first.

# %% [markdown]
# **Exercise 04.1 ★ Expected score.** `probabilities` are those of the digits 1 to 5. Return the score. Which two very different critics give 3?

# %%
from cookbook import exercises


def score(probabilities):
    # BEGIN SOLUTION
    return sum(digit * p for digit, p in enumerate(probabilities, 1))
    # END SOLUTION


exercises.check_04_1(score);

# %% [markdown]
# **Exercise 04.2 ★★ AUC by hand.** `valid` and `invalid` are scores of calibration clips. Return the share of pairs (one valid, one invalid) in which the valid clip scores higher; a tie counts half. What is the AUC of a critic that gives 3 to every clip?

# %%
from cookbook import exercises


def auc(valid, invalid):
    # BEGIN SOLUTION
    won = sum((v > i) + (v == i) / 2 for v in valid for i in invalid)
    return won / (len(valid) * len(invalid))
    # END SOLUTION


exercises.check_04_2(auc);

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
