# %% [markdown]
# # Solutions of notebook 02
#
# The source of the exercises in [02_post_training.ipynb](../02_post_training.ipynb): what stands between BEGIN and END is left out there. Open this file in JupyterLab
# as a notebook (right click, *Open With*, *Notebook*), or run it: `python notebooks/solutions/02.py`.

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/02.py`; try first.

# %% [markdown]
# **Exercise 02.1 ★ Back to the clip.** You are given $x_\sigma$, the velocity $v$ and $\sigma$. What is the clean clip $x_0$? Solved? Then see which clip the base model predicts at the last of the three noise levels: `show.show_sheet([frames_of(clean(mixed, velocity, sigma))])`.

# %%
from cookbook import exercises


def clean(noised, velocity, sigma):
    # BEGIN SOLUTION
    return noised - sigma * velocity
    # END SOLUTION


exercises.check_02_1(clean);

# %% [markdown]
# **Exercise 02.2 ★★ Choose a shift.** Noise levels are $\sigma = s\,t / (1 + (s-1)\,t)$, and half of the draws of $t$ are below 0.5. Which shift $s$ puts half of the noise levels above a given `median`? What would you choose for a still picture?

# %%
from cookbook import exercises


def shift_for(median):
    # BEGIN SOLUTION
    # A still picture has no frames that resemble each other: less noise hides it, so a smaller shift.
    return median / (1 - median)
    # END SOLUTION


exercises.check_02_2(shift_for);

# %% [markdown]
# **Exercise 02.3 ★★★ Power EMA.** Write the running average of one weight: `values` are its values after steps 0, 1, ..., and $\beta_i = (1 - 1/(i+1))^{\gamma+1}$ is the share of the old average that step $i$ keeps. Return the last average. What is it after the first step, and why is that wise?

# %%
from cookbook import exercises


def power_ema(values, gamma):
    # BEGIN SOLUTION
    # In step 0 beta is 0: the average is the first value, whatever it was before, so its beginning need not be chosen.
    average = 0.0
    for step, value in enumerate(values):
        beta = (1 - 1 / (step + 1)) ** (gamma + 1)
        average = beta * average + (1 - beta) * value
    return average
    # END SOLUTION


exercises.check_02_3(power_ema);
