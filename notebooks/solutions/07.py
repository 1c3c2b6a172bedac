# %% [markdown]
# # Solutions of notebook 07
#
# The source of the exercises in [07_training_the_critic.ipynb](../07_training_the_critic.ipynb): what stands between BEGIN and END is left out there. Open this file in JupyterLab
# as a notebook (right click, *Open With*, *Notebook*), or run it: `python notebooks/solutions/07.py`.

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/07.py`; try first.

# %% [markdown]
# **Exercise 07.1 ★ The loss of one example.** `logits` are the five numbers that the critic gives the digits 1 to 5, `digit` is the right one. Return the cross-entropy, $-\log p$ of the right digit. What is it for a critic that gives all five the same?

# %%
import math

from cookbook import exercises


def loss(logits, digit):
    # BEGIN SOLUTION
    # All five the same: log 5 = 1.61.
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return -math.log(weights[digit - 1] / sum(weights))
    # END SOLUTION


exercises.check_07_1(loss);

# %% [markdown]
# **Exercise 07.2 ★★ The best that can be done blind.** A critic that ignores the video gives every clip the same five probabilities. Of its examples `counts[k]` have the digit k + 1. What is its least possible mean loss? (Where only 1 and 5 occur, equally often, that is the $\log 2$ above; a lower loss shows that the critic uses the video.)

# %%
import math

from cookbook import exercises


def blind(counts):
    # BEGIN SOLUTION
    shares = [count / sum(counts) for count in counts]
    return -sum(share * math.log(share) for share in shares if share)
    # END SOLUTION


exercises.check_07_2(blind);

# %% [markdown]
# **Exercise 07.3 ★★ Is it worth having?** `rows` is the last table of this notebook, as a list of dicts with the keys `kind` and `gain_interval` (lowest, highest). A gain or loss is proven if its interval excludes 0. Return `"keep the old one"` if any kind, `new` included, is proven to be worse. Otherwise return `"use it"` if the gain on the kind `new` is proven, and `"measure more"` if it is not.
#
# Solved? Decide about the critic that you just trained: `decision(table.reset_index().to_dict("records"), "softened")`.

# %%
from cookbook import exercises


def decision(rows, new):
    # BEGIN SOLUTION
    edges = {row["kind"]: row["gain_interval"] for row in rows}
    if any(high < 0 for _, high in edges.values()):
        return "keep the old one"
    return "use it" if edges[new][0] > 0 else "measure more"
    # END SOLUTION


exercises.check_07_3(decision);
