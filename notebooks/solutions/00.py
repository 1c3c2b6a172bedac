# %% [markdown]
# # Solutions of notebook 00
#
# The source of the exercises in [00_prerequisites.ipynb](../00_prerequisites.ipynb): there the lines between BEGIN and END are left out. Open this file in JupyterLab
# as a notebook (right click, *Open With*, *Notebook*), or run it: `python notebooks/solutions/00.py`.

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/00.py`; try first.

# %% [markdown]
# **Exercise 00.1 ★ Memory of full fine-tuning.** Training all weights keeps five float32 numbers for each: the weight, its gradient, two averages of Adam, and the running average that is exported.
# How many GB is that, without activations? Then try it on 2.1 billion, and look at what an 80 GB card has left for activations.

# %%
from cookbook import exercises


def memory(parameters):
    # BEGIN SOLUTION
    # 2.1 billion: 42 GB, so an 80 GB card has 38 GB left for activations.
    return 5 * 4 * parameters / 1e9
    # END SOLUTION


exercises.check_00_1(memory);

# %% [markdown]
# **Exercise 00.2 ★★ Memory of LoRA.** With LoRA the weights are frozen in bf16 (two bytes) and only small adapters are trained, as above. How many GB for `parameters` frozen and `trained` adapter weights?

# %%
from cookbook import exercises


def memory_lora(parameters, trained):
    # BEGIN SOLUTION
    return (2 * parameters + 20 * trained) / 1e9
    # END SOLUTION


exercises.check_00_2(memory_lora);

# %% [markdown]
# **Exercise 00.3 ★★ What is stale?** You rebuilt one stage. Which stages must be rebuilt now, itself included? `runs.READS` lists the stages that each one reads. Return a set of names.

# %%
from cookbook import exercises, runs


def stale(stage):
    # BEGIN SOLUTION
    affected = {stage}
    for name, reads in runs.READS.items():
        if affected & set(reads):
            affected.add(name)
    return affected
    # END SOLUTION


exercises.check_00_3(stale);
