# %% [markdown]
# # Solutions of notebook 05
#
# The source of the exercises in [05_robot_actions.ipynb](../05_robot_actions.ipynb): what stands between BEGIN and END is left out there. Open this file in JupyterLab
# as a notebook (right click, *Open With*, *Notebook*), or run it: `python notebooks/solutions/05.py`.

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved: the check then gives a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/05.py`; try first.

# %% [markdown]
# **Exercise 05.1 ★ To the robot's rate.** `targets` has one row of joint targets per frame of a video, shape (T, J). The robot wants twice as many. Return 2T - 1 rows: the given ones, and between two of them their mean.

# %%
import numpy as np

from cookbook import exercises


def doubled(targets):
    # BEGIN SOLUTION
    rows = np.empty((2 * len(targets) - 1, targets.shape[1]))
    rows[::2] = targets
    rows[1::2] = (targets[:-1] + targets[1:]) / 2
    return rows
    # END SOLUTION


exercises.check_05_1(doubled);

# %% [markdown]
# **Exercise 05.2 ★★ Jerk.** Return the root mean square of the third derivative of `targets`, shape (T, J), with `rate` rows a second. Use differences of successive rows. What happens to the jerk if you play the same motion at half the speed?

# %%
import numpy as np

from cookbook import exercises


def jerk(targets, rate):
    # BEGIN SOLUTION
    return np.sqrt(np.mean((np.diff(targets, 3, axis=0) * rate**3) ** 2))
    # END SOLUTION


exercises.check_05_2(jerk);

# %% [markdown]
# **Exercise 05.3 ★★ What are looks worth?** `looks[i]` says whether video i looks right, `moves[i]` whether its actions succeed. Return how much more often the videos that look right succeed than those that do not (a difference of two shares). What would 0 mean?

# %%
from cookbook import exercises


def worth(looks, moves):
    # BEGIN SOLUTION
    right = [m for look, m in zip(looks, moves) if look]
    wrong = [m for look, m in zip(looks, moves) if not look]
    return sum(right) / len(right) - sum(wrong) / len(wrong)
    # END SOLUTION


exercises.check_05_3(worth);
