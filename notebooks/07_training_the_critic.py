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
# # 07 · Train the critic
#
# ![The pipeline, the box of this notebook marked: you are here](../assets/pictures/pipeline_07.svg)
#
# **Promise.** You train the critic on a fault of your own, and a table shows with 95 % CI what it learnt and what it forgot.
#
# ![Bars: AUC on the new fault and on the known ones, before training and after](../assets/pictures/07_training_the_critic.png)
#
# *The critic on held-out clips, before and after training, from the section “Is it worth having?”.*
#
# You will be able to
# * turn clips with labels into training examples for a critic,
# * train it with the loop that trained the world model, and
# * decide on held-out clips whether to use the trained critic.
#
# | | |
# |---|---|
# | **Needed** | [01 · Prepare the data](01_preparing_data.ipynb) (without it, the clips of the profile are prepared first). Beyond the guide: `cookbook run` leaves it out, `cookbook run --only 07` executes it |
# | **Helpful** | AUC and the expected score of notebook 04 |
# | **Reads** | `data/train/`, the critic and the calibration clips of the profile |
# | **Writes** | `critic/`, laid out like the critic it came from |
# | **Next** | if the table supports it, judge with it: `cookbook judge --critic runs/nano/critic` |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | source |
# |---|---|---|---|---|---|
# | `smoke` | 77 s | 2.4 GB | 25 MB | nothing, none | measured 2026-11-29 |
# | `nano` | 2.1 min | 2.8 GB | 25 MB | nothing, none | measured 2026-11-29 |
# | `2b-smoke` | not measured | not measured | not measured | [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100) 0.5 GB; [EVAL-175](https://huggingface.co/datasets/nvidia/EVAL-175) 0.3 GB; [Cosmos-Reason2-2B](https://huggingface.co/nvidia/Cosmos-Reason2-2B) 4.9 GB, gated | - |
# | `2b` | not measured | not measured | not measured | [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100) 0.5 GB; [EVAL-175](https://huggingface.co/datasets/nvidia/EVAL-175) 0.3 GB; [Cosmos-Reason2-2B](https://huggingface.co/nvidia/Cosmos-Reason2-2B) 4.9 GB, gated | - |
# | `14b` | not measured | not measured | not measured | [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100) 0.5 GB; [EVAL-175](https://huggingface.co/datasets/nvidia/EVAL-175) 0.3 GB; [Cosmos-Reason2-8B](https://huggingface.co/nvidia/Cosmos-Reason2-8B) 17.5 GB, gated | - |
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
run: str = ""  # run folder, empty for runs/<profile>
steps: int = 48  # optimizer steps
batch: int = 4  # examples per step
learning_rate: float = 4e-4  # its peak; for the real critics NVIDIA searched 2e-7 to 1e-5
labels: str = ""  # folder in VideoPhy-2's layout, to learn from that instead
redo: bool = False  # train again

# %%
from dataclasses import replace
from pathlib import Path

import numpy as np

from cookbook import doctor, profiles, runs, samples, show
from cookbook.judge import critic_training
from cookbook.judge.calibration import gather, read_frames
from cookbook.judge.calibration_clips import corrupted, training_clips
from cookbook.models import hub
from cookbook.video import fit

settings = profiles.get(profile)
doctor.require(profile)
folder = samples.with_clips(profile, runs.run_folder(run or None, profile))

# %% [markdown]
# ## 7. Post-training the critic
#
# The critic answers a question with a digit from 1 to 5. To train it, show it clips whose digit is known, and raise the probability of that digit:
#
# $$ L = -\log p(k_{\text{label}} \mid \text{video}, \text{question}) . $$
#
# The published recipe does this with VideoPhy-2: generated clips whose physics people rated from 1 to 5. Here is the same at small size, with valid clips (label 5) and invalid ones (label 1).
#
# Each digit is drawn equally often; otherwise the critic would learn how frequent the digits are. The vision encoder is not trained.
#
# ### 7.1 A fault of your own
#
# Which faults matter depends on *your* world model. Ours loses sharpness where it is uncertain, so that is the example: from the middle on, the frames have a sixth of their detail in each direction.
#
# **What you should see:** a clip, and the same clip softened.


# %%
def soften(frames):
    """Frames uint8 [T, H, W, 3], from the middle on scaled down and up again."""
    half, (height, width) = len(frames) // 2, frames.shape[1:3]
    small = fit(frames[half:], height // 6, width // 6, crop=False)
    return np.concatenate([frames[:half], fit(small, height, width, crop=False)])


main = gather(settings, folder)[0]
valid = [clip for clip in main if clip.kind == "real"]
first = read_frames(valid[0])[0]
show.show_sheet([first, soften(first)], ["original", "softened"])

# %% [markdown]
# **What it means.** The first has the label 5, the second the label 1.
#
# Now two sets that share no scene:
#
# * **Held out** are the calibration clips of notebook 04: valid, invalid, and the valid ones softened.
# * **Training** clips are those of `data/train` in other scenes: as they are, softened, and corrupted. So the critic does not train on the new fault alone.
#
# **What you should see:** the number of examples in each set.

# %%
invalid = [replace(clip, kind="known faults") for clip in main if clip.physics == 0]
held_out = critic_training.from_calibration_clips(valid + invalid, ("physics",))
held_out += critic_training.with_fault("softened", soften, valid)
scenes = {clip.scene for clip in main}
clips = [clip for clip in training_clips(folder / "data" / "train") if clip.scene not in scenes]
copies = [copy for copy in corrupted(clips, 12) if copy.physics == 0]
examples = critic_training.from_calibration_clips(clips + copies, ("physics",)) + critic_training.with_fault("softened", soften, clips)
examples = critic_training.read_labelled(Path(labels)) if labels else examples
print(f"{len(examples)} examples to learn from, {len(held_out)} held out")

# %% [markdown]
# ### 7.2 Before, training, after
#
# The loop is that of notebook 02 (`cookbook/engine`), with its checkpoints: a stopped run continues. The critic scores the held-out clips first, so that there is something to compare with.
#
# **What you should see:** a last loss below the first.

# %%
critic = hub.locate(settings.critic)
before = critic_training.scores(held_out, critic, profile)
trained = critic_training.train_critic(examples, folder / "critic", profile, steps, batch, learning_rate, redo=redo)
print(f"loss {trained['loss_first']:.2f} -> {trained['loss_last']:.2f} in {steps} steps of {batch}")

# %% [markdown]
# **What it means.** $\log 2 = 0.69$ is the loss of a critic that knows only that 1 and 5 occur equally often. The loss falls unevenly, because a step holds few clips. It was computed on clips that the critic trained on, so it decides nothing.
#
# **What you should see:** the same held-out clips, scored again.

# %%
after = critic_training.scores(held_out, folder / "critic", profile)

# %% [markdown]
# ### 7.3 Is it worth having?
#
# Both critics scored the same clips, so that their AUC (notebook 04) can be compared. The difference, *after* minus *before*, has a 95 % CI over scenes.
#
# **What you should see:** two lines, for the new fault and for the faults of the calibration clips.

# %% tags=["picture"]
import pandas as pd

table = pd.DataFrame(critic_training.compare(held_out, before, after)).set_index("kind").loc[["softened", "known faults"]].round(2)
colours = [show.COLOURS["base"], show.COLOURS["tuned"]]
table[["before", "after"]].plot.barh(ax=show.axes(height=2.4), color=colours, xlabel="AUC", ylabel="", xlim=(0, 1))
table

# %% [markdown]
# **What it means.** The critic learnt `softened` only if the interval of its gain lies above 0. `known faults` are the price: if their interval lies below 0, the critic forgot. A critic that gains one fault and loses others is not better.
#
# ## With the real critic
#
# The same notebook trains Cosmos Reason 2 on one GPU. NVIDIA's recipe trains on all of VideoPhy-2 on eight GPUs. We have not measured the effect: the weights are behind a licence.
#
# <details><summary>The command, and the folder with labels</summary>
#
# `cookbook run --only 07 --profile 2b -p labels FOLDER -p steps 2000 -p learning_rate 1e-6`
#
# `FOLDER` holds a table with the columns `video_url`, `caption`, `pc` (physics) and `sa` (instruction), with ratings from 1 to 5. The files are in `FOLDER/videos/`.
#
# </details>

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
    ...  # your code


exercises.check_07_1(loss);

# %% [markdown]
# **Exercise 07.2 ★★ The best that can be done blind.** A critic that ignores the video gives every clip the same five probabilities. Of its examples `counts[k]` have the digit k + 1. What is its least possible mean loss? (Where only 1 and 5 occur, equally often, that is the $\log 2$ above; a lower loss shows that the critic uses the video.)

# %%
import math

from cookbook import exercises


def blind(counts):
    ...  # your code


exercises.check_07_2(blind);

# %% [markdown]
# **Exercise 07.3 ★★ Is it worth having?** `rows` is the last table of this notebook, as a list of dicts with the keys `kind` and `gain_interval` (lowest, highest). A gain or loss is proven if its interval excludes 0. Return `"keep the old one"` if any kind, `new` included, is proven to be worse. Otherwise return `"use it"` if the gain on the kind `new` is proven, and `"measure more"` if it is not.
#
# Solved? Decide about the critic that you just trained: `decision(table.reset_index().to_dict("records"), "softened")`.

# %%
from cookbook import exercises


def decision(rows, new):
    ...  # your code


exercises.check_07_3(decision);

# %% [markdown]
# ## Recap
#
# * A critic is trained at the position where its score is computed: the digit after the answer cue.
# * New faults are mixed with known ones, and valid clips with invalid ones. Otherwise the critic forgets, or always gives the same digit.
# * The comparison on held-out scenes with its 95 % CI decides, not the loss.
#
# | Symptom | Cause | Fix |
# |---|---|---|
# | the loss falls, the table does not move | too few steps or clips to generalise from, or a fault too small for its vision encoder | more of both; a larger critic |
# | the other faults fell | too few of them among the examples | more of them; a lower `learning_rate` |
# | *critic was built from different inputs* | other examples or steps than those of the finished folder | `redo = True`, or another run |
#
# **Read more:** [VideoPhy-2](https://arxiv.org/abs/2503.06800) (2025), its ratings and how they were collected; the critic's class in [Qwen3-VL](https://arxiv.org/abs/2511.21631) (2025).
#
# **Next:** if it is worth having, calibrate it on all calibration clips and judge with it; the table at the top has the command.
