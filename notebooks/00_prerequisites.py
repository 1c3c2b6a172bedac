# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Check the machine
#
# ![The pipeline, the box of this notebook marked: you are here](../assets/pictures/pipeline_00.svg)
#
# **Promise.** After a minute you know what this machine can run, what is missing for the rest, and what each profile costs. Nothing is downloaded.
#
# ![Bars: minutes of each notebook at each profile](../assets/pictures/00_prerequisites.png)
#
# *The time that each profile takes, from the section “Profiles”.*
#
# You will be able to
# * read the doctor's table and fix what it reports,
# * choose a profile and describe what it will do, and
# * list the files that each of the following notebooks reads and writes.
#
# | | |
# |---|---|
# | **Needed** | Python 3.11 or 3.12, this repository installed ([setup.md](../setup.md)) |
# | **Helpful** | a first look at the [README](../README.md) |
# | **Reads** | nothing |
# | **Writes** | nothing |
# | **Next** | [01 · Prepare the data](01_preparing_data.ipynb) |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | source |
# |---|---|---|---|---|---|
# | `smoke` | 12 s | 1.0 GB | 0 MB | nothing, none | measured 2026-11-29 |
# | `nano` | 17 s | 1.0 GB | 0 MB | nothing, none | measured 2026-11-29 |
# | `2b-smoke` | seconds | no GPU | nothing | nothing, none | as at `nano` |
# | `2b` | seconds | no GPU | nothing | nothing, none | as at `nano` |
# | `14b` | seconds | no GPU | nothing | nothing, none | as at `nano` |
#
# <details><summary>Versions, machine, and where these numbers come from</summary>
#
# **Last verified** 2026-11-29 at `nano`, commit 5490ff1: python 3.11.7, torch 2.14.1, diffusers 0.42.1, transformers 5.23.0; CPU, 2 cores, AMD EPYC.
# *Measured* is `cookbook run`; *calculated* is from [measurements on an H100](../docs/gpu_figures.md) with
# random weights; `cookbook plan --profile 2b` has the details. Colab and Binder:
# [not tried](../setup.md#colab-and-binder), so there is no badge.
#
# </details>
#
# <!-- /measured -->

# %% tags=["parameters"]
profile: str = "nano"  # smoke, nano, 2b-smoke, 2b or 14b

# %%
from cookbook import budget, doctor, profiles, runs, show
from cookbook.machine import Machine

settings = profiles.get(profile)
budget.plan(profile)

# %% [markdown]
# ## Motivation
#
# A robot learns a task from many demonstrations, and recording them takes time. A **world model** can make more: from one photo and one instruction it generates a video of the robot at work.
#
# But not every generated video is right, and none has actions. So a **critic** judges each video, and an **inverse dynamics model** reads the robot's joint angles from it. Notebooks 01 to 05 are these steps in order; the picture at the top shows them.
#
# ## Prerequisites
#
# The original recipe needs two environments with different CUDA stacks: one for the world model Cosmos Predict 2.5, one for the critic Cosmos Reason 2. Here one environment does both, because `diffusers` and `transformers` contain the same classes.
#
# **What you should see:** each package, its version here, and the version that this cookbook was tested with.

# %%
import pandas as pd

jobs = {
    "torch": "tensors, optimizer, checkpoints",
    "diffusers": "world model, video autoencoder, solver",
    "transformers": "text encoder and critic",
    "huggingface_hub": "downloads",
    "av": "reading and writing video",
    "mediapy": "showing video",
    "papermill": "running notebooks from the command line",
}
versions = Machine().versions
pd.DataFrame([(name, *versions[name], job) for name, job in jobs.items()], columns=["package", "here", "tested", "job"])

# %% [markdown]
# **What it means.** Another version is not an error, but it is untested.
#
# ### What this machine can run
#
# A **profile** is a size of the whole pipeline, from a laptop to eight GPUs. The doctor compares what each profile needs with what is here.
#
# **What you should see:** one column per profile. Below the table, one line with the fix for each requirement that is not met.

# %%
able = doctor.doctor()

# %% [markdown]
# **What it means.** `nano` runs on any machine with two cores and 8 GB. Without a network, the rows about the Hub show *no* after a few seconds; nothing fails.
#
# ### Profiles
#
# `profile` is the only switch you must know. The nano models are **the same classes** as the real ones, only smaller, and we trained them for this cookbook. So the code that runs at `nano` is the code that runs at `2b`; only the results differ.
#
# `2b-smoke` is for first contact with the real weights: every stage once, with few clips and steps, before you spend hours on `2b`.
#
# **What you should see:** one row per profile, from a laptop to eight GPUs. Below it, the time of each notebook.


# %% tags=["picture"]
def row(p: profiles.Profile) -> dict:
    size = f"{p.clip.frames} x {p.clip.height} x {p.clip.width}"
    return {"profile": p.name, "clip": size, "tokens": p.clip.tokens, "steps": p.recipe.steps, "needs": str(p.needs)}


times = pd.DataFrame({name: budget.minutes(name) for name in profiles.PROFILES})
times.sort_index(ascending=False).plot.barh(ax=show.axes(), logx=True, xlabel="minutes", ylabel="notebook", title="What a profile costs")
pd.DataFrame([row(profiles.get(name)) for name in profiles.PROFILES])

# %% [markdown]
# **What it means.** The times of `smoke` and `nano` were measured on the machine named at the top; half or twice as much is common elsewhere. The others are calculated, where a measurement allows it.
#
# ### What would be downloaded, and under which licence
#
# NVIDIA's weights are *gated*: you must accept their licence on the Hub before you can download them.
#
# <details><summary>How to get access</summary>
#
# 1. Log in at the Hub, open the model's page, and accept the licence.
# 2. Give this machine your token: `hf auth login`.
#
# The Hub answers 401 without a valid token and 403 without an accepted licence; the cookbook reports which.
#
# </details>
#
# **What you should see:** for `nano` only folders of the repository; for `2b` repositories on the Hub.


# %%
def sources(name: str) -> list[dict]:
    return [
        {"profile": name, "from": s.location, "size": doctor.size(s), "ships": s.ships, "gated": s.gated, "licence": s.licence}
        for s in doctor.sources(profiles.get(name))
    ]


pd.DataFrame([source for name in ("nano", "2b") for source in sources(name)])

# %% [markdown]
# ### Files between stages
#
# A run is one folder, `runs/<profile>/`. Each stage writes one folder in it and, last, a `manifest.json`: what it read and wrote, with which versions, on what device, in how many seconds.
#
# **What you should see:** the stages in order, the folder of each, and what it reads.

# %%
stages = [(name, folder, ", ".join(runs.READS[name])) for name, folder in runs.FOLDERS.items()]
pd.DataFrame(stages, columns=["stage", "folder", "reads the folders of"])

# %% [markdown]
# **What it means.** A folder with a manifest is finished and is skipped; a folder without one is continued. So you can stop any cell and run it again. Stages exchange files only, so each can also run on another machine.

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
    ...  # your code


exercises.check_00_1(memory);

# %% [markdown]
# **Exercise 00.2 ★★ Memory of LoRA.** With LoRA the weights are frozen in bf16 (two bytes) and only small adapters are trained, as above. How many GB for `parameters` frozen and `trained` adapter weights?

# %%
from cookbook import exercises


def memory_lora(parameters, trained):
    ...  # your code


exercises.check_00_2(memory_lora);

# %% [markdown]
# **Exercise 00.3 ★★ What is stale?** You rebuilt one stage. Which stages must be rebuilt now, itself included? `runs.READS` lists the stages that each one reads. Return a set of names.

# %%
from cookbook import exercises, runs


def stale(stage):
    ...  # your code


exercises.check_00_3(stale);

# %% [markdown]
# ## Recap
#
# * The doctor compares this machine with each profile and prints the fix for each requirement that is not met.
# * A profile selects models, data, amount of work and hardware. `nano` ships completely and needs no account.
# * Stages exchange files in `runs/<profile>/`; a manifest marks a stage as finished.
#
# | Symptom | Cause | Fix |
# |---|---|---|
# | `packages ... MISSING` | another environment is active | `pip install -c constraints.txt -e ".[dev,sim]"` |
# | the machine has a GPU, the doctor finds none | PyTorch without CUDA, or a driver that is too old | `nvidia-smi` must work; then install again |
# | 403 although you have a token | licence not accepted by the token's account | open the model's page, accept, try again |
#
# **Read more:** the recipe that this cookbook executes, [GR00T-Dreams](https://github.com/nvidia/gr00t-dreams), and the paper behind it,
# [DreamGen](https://arxiv.org/abs/2505.12705) (2025); [which Cosmos models there are](https://github.com/nvidia-cosmos).
#
# **Next:** [01 · Prepare the data](01_preparing_data.ipynb)
