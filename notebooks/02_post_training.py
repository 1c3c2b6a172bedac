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
# # 02 · Post-train the world model
#
# ![The pipeline, the box of this notebook marked: you are here](../assets/pictures/pipeline_02.svg)
#
# **Promise.** A world model that already knows how things move learns your robot's task from some dozen clips, and you see in numbers
# that it did: on clips it never trained on.
#
# ![Curves: held-out loss at each noise level, before training and after](../assets/pictures/02_post_training.png)
#
# *The loss on clips that were never trained on, before and after, from the section “Did it learn?”.*
#
# You will be able to
# * read a post-training recipe and say what each value does,
# * train, stop and resume without losing a step, and
# * distinguish a model that learnt from one that only moved its weights.
#
# | | |
# |---|---|
# | **Needed** | [01 · Prepare the data](01_preparing_data.ipynb) (without it, this notebook prepares the profile's clips itself) |
# | **Helpful** | what a neural network's loss and learning rate are |
# | **Reads** | `data/train/`, the base weights of the profile |
# | **Writes** | `cache/` (latents and text), `checkpoints/` (DCP checkpoints, `log.jsonl`, `manifest.json`) |
# | **Next** | [03 · Generate videos](03_inference.ipynb) |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | source |
# |---|---|---|---|---|---|
# | `smoke` | 17 s | 1.7 GB | 313 MB | nothing, none | measured 2026-11-28 |
# | `nano` | 5.3 min | 2.0 GB | 331 MB | nothing, none | measured 2026-11-28 |
# | `2b-smoke` | 10 s | 1 GPU of 80 GB | not measured | [Cosmos-Predict2.5-2B](https://huggingface.co/nvidia/Cosmos-Predict2.5-2B) 21.5 GB, gated | calculated |
# | `2b` | 42.3 min | 1 GPU of 80 GB | not measured | [Cosmos-Predict2.5-2B](https://huggingface.co/nvidia/Cosmos-Predict2.5-2B) 21.5 GB, gated | calculated |
# | `14b` | 76.6 min | 8 GPUs of 80 GB | not measured | [Cosmos-Predict2.5-14B](https://huggingface.co/nvidia/Cosmos-Predict2.5-14B) 46 GB, gated | calculated |
#
# **Last verified** 2026-11-28 at `nano`, commit 49605c6: python 3.11.7, torch 2.14.1, diffusers 0.42.1, transformers 5.23.0; CPU, 2 cores, AMD EPYC.
# *Measured* is `cookbook run`; *calculated* is from [measurements on an H100](../docs/gpu_figures.md) with
# random weights; `cookbook plan --profile 2b` has the details. Colab and Binder:
# [not tried](../setup.md#colab-and-binder), so there is no badge.
#
# <!-- /measured -->

# %% tags=["parameters"]
profile: str = "nano"  # smoke, nano, 2b-smoke, 2b or 14b
run: str = ""  # run folder, empty for runs/<profile>
recipe: str = ""  # recommended, upstream or lora, empty for the profile's own
steps: int = 0  # optimizer steps, 0 for those of the recipe
seed: int = 0  # decides order of clips, noise and noise levels

# %%
from cookbook import budget, doctor, profiles, runs, storage, samples, show
from cookbook.train.planning import plan
from cookbook.train.stage import train

settings = profiles.get(profile, recipe or None)
budget.plan(profile, "02")
doctor.require(profile)
folder = samples.with_clips(profile, runs.run_folder(run or None, profile))

# %% [markdown]
# ## 2. Post-training Cosmos Predict 2.5
#
# Cosmos Predict 2.5 is a *rectified flow*. Take a clip $x_0$ (as latents), noise $\varepsilon$ of the same shape and a noise level $\sigma$ between 0 and 1,
# and walk on the straight line between them:
#
# $$ x_\sigma = (1-\sigma)\,x_0 + \sigma\,\varepsilon, \qquad v = \frac{dx_\sigma}{d\sigma} = \varepsilon - x_0 . $$
#
# The network $v_\theta$ sees $x_\sigma$, $\sigma$ and the text, and learns the velocity:
#
# $$ \mathcal{L} = \mathbb{E}\,\big\lVert v_\theta(x_\sigma, \sigma, \text{text}) - (\varepsilon - x_0) \big\rVert^2 . $$
#
# For image-to-video, the latents of the first frame are given clean (the *conditioning frame*). A mask channel marks them, and they add nothing to the loss. To generate, one walks back from
# $\sigma = 1$ to $0$ along the learnt velocity. That is all of it; the rest of this notebook is about doing it well.
#
# ### 2.1 Configuration
#
# A recipe is a frozen dataclass. The published experiment (`upstream`) is reproduced exactly, with every value that it inherits; ours (`recommended`)
# departs from it where a reason can be given.
#
# **What you should see:** the recipe of this run, ours for the real 2B model and the published one side by side, wherever this run differs, and why.
# `cookbook explain` prints every value.

# %%
from dataclasses import asdict

import pandas as pd

from cookbook.train import recipes

pd.set_option("display.max_colwidth", None)
table = pd.DataFrame(asdict(row) for row in recipes.compare(settings)).set_index("field")
table.insert(1, "recommended, 2b", {row.field: row.ours for row in recipes.compare(profiles.get("2b"))})
table[table.reason != ""]

# %% [markdown]
# Two things differ that are no value of a recipe: clips are held out, because a loss on clips that were never trained on is the only one that shows learning; and at most
# four windows of a longer clip are used, each encoded once and kept, so that the VAE is not in memory while training.
#
# **What bf16 weights lose.** A bf16 number has about three digits. An update that is smaller than half of the last one is rounded away, and the published recipe has no other copy
# of the weights. Measured, each way from the same weights over the same 40 clips at a constant rate:
#
# | network | rate | weights | updates that survive | a weight moved by | held-out loss |
# |---|---|---|---|---|---|
# | nano, shipped weights | 1.08e-5 (upstream's mean) | bf16 | 2.9 % | 3.4e-5 | 0.684 to 0.670 |
# | | | float32 | 100 % | 1.3e-4 | 0.684 to **0.541** |
# | nano, shipped weights | 6e-4 (nano's own) | bf16 | 63 % | 3.3e-3 | 0.684 to 0.535 |
# | | | float32 | 100 % | 3.3e-3 | 0.684 to 0.552 |
# | 2B, random weights | 1.08e-5 | bf16 | 3.8 % | 2.5e-5 | not measured |
# | | | float32 | 99.9 % | 5.2e-5 | not measured |
#
# So at the published rates a float32 copy matters much, and at nano's large rate not at all. Nano: `python benchmarks/precision.py --run runs/nano --batch 1 --steps 40 --rates
# 1.08e-5 6e-4`, two CPU cores (AMD EPYC), PyTorch 2.14.1, 2026-11-28; one run each. 2B: [figures from GPUs](../docs/gpu_figures.md).
#
# The nano values differ once more (`batch`, `learning_rate`, `steps`, `clip_norm`, `save_every`), because a network of a few million parameters learns
# with a larger step than one of two billion.
#
# **Noise levels.** $\sigma$ is not drawn evenly: $t = \mathrm{sigmoid}(n)$ with $n \sim \mathcal{N}(0,1)$, then shifted,
#
# $$ \sigma = \frac{s\,t}{1 + (s-1)\,t}, \qquad s = 5 , $$
#
# because a video carries much redundancy: at a middling $\sigma$ the scene can still be seen through the noise, so the hard decisions are made at high $\sigma$.
#
# **What you should see:** most of the training happens above $\sigma = 0.6$.

# %%
import torch

from cookbook import flow

sigmas = flow.draw_sigmas(20_000, settings.recipe.shift, torch.Generator().manual_seed(seed))
ax = show.axes()
ax.hist(sigmas.numpy(), bins=50, color=show.COLOURS["accent"])
ax.set(xlabel="noise level", ylabel="draws", title=f"shift {settings.recipe.shift:g}: half of the draws above {sigmas.median():.2f}");

# %% [markdown]
# What does that look like? Here the first half of a training clip is put on the line at several noise levels, as in training with one conditioning frame, and decoded into pixels.
#
# **What you should see:** at 0.4 the motion can still be read off; at 0.8 hardly the objects, and what happens next must be *decided*. More than half of the training happens above it. (In Jupyter, move the slider.)

# %%
from cookbook import hardware, video
from cookbook.models import autoencoder, hub, world

vae = world.load_vae(hub.locate(settings.world)).to(hardware.device())
film = video.probe(sorted((folder / "data" / "train" / "videos").glob("*.mp4"))[0])
window = film.windows(settings.clip, [0.0], settings.recipe.resample, settings.recipe.crop)[0]
encoded = autoencoder.encode(vae, autoencoder.to_tensor(window[: 1 + (settings.clip.frames - 1) // 8 * 4]))
noise = flow.initial_noise(tuple(encoded.shape), seed).to(encoded.device)
mask = flow.condition_mask(torch.tensor([1]), encoded)


def noised_frames(noise_level):
    latents = flow.noised(encoded, noise, torch.tensor([noise_level], device=encoded.device), mask)
    return autoencoder.to_frames(autoencoder.decode(vae, latents))


levels = (0.0, 0.4, 0.6, 0.8, 0.95)
show.show_sheet([noised_frames(level) for level in levels], [f"noise level {level}" for level in levels])
show.browse(lambda noise_level: show.show_sheet([noised_frames(noise_level)], columns=4, width=160), noise_level=[n / 20 for n in range(21)])

# %% [markdown]
# ### 2.2 Training
#
# The plan first: what will be trained on what, in how much memory, for how long, and on what these estimates rest. Nothing is computed or downloaded here, so
# the plan for `2b` can be printed on a laptop.
#
# **What you should see:** parameters, clips, epochs, memory by part, minutes. At `nano` 9.6 M parameters and 88 clips exactly; the minutes are an estimate for two cores with nothing else to do.

# %%
plan(profile, run=folder, recipe=recipe or None, steps=steps or None);

# %% [markdown]
# Now the run. Clips and captions are turned into latents and text embeddings once and kept in `cache/`; with real weights this takes the 7-billion-parameter text encoder out
# of memory while training. Then comes a loop that fits on two pages (`cookbook/engine/loop.py`): AdamW, warm-up and decay, gradient clipping, and a running average of the
# weights. That average (*power EMA*) is what gets used in the end,
#
# $$ \bar\theta_i = \beta_i\,\bar\theta_{i-1} + (1-\beta_i)\,\theta_i, \qquad \beta_i = \Big(1-\frac{1}{i+1}\Big)^{\gamma+1} . $$
#
# The window of this average grows with the run: the first steps are forgotten, the last are averaged.
#
# On several GPUs the same code runs under `torchrun`. Weights are then sharded with FSDP2, and only one process ever reads them. On a GPU the
# transformer blocks are compiled. The compiler keeps at most the share of the activations that `activation_checkpointing` sets, and computes the rest again in the backward pass.
#
# `cookbook train --base model.pt` starts from weights in NVIDIA's own file format.
#
# **What you should see:** the number of cached clips, a line a minute while it works, and a summary at the end.

# %%
manifest = train(profile, run=folder, recipe=recipe or None, steps=steps or None, seed=seed)

# %% [markdown]
# **What you should see:** single batches jump, because each has other noise and other noise levels; the running mean falls. At `smoke` there are too few
# steps to see anything.

# %%
show.loss(storage.read_rows(folder / "checkpoints" / "log.jsonl"));

# %% [markdown]
# ### Did it learn? Held-out loss, before and after
#
# A falling training loss can be memory. So some clips are kept out of training, and their loss is taken twice, with **the same noise and the same noise levels**: before with
# the base weights, after with the averaged ones. Then the difference can only come from the weights. The third number is the zero-velocity baseline, the loss of a model that predicts
# no velocity at all; a base model that is near it was not loaded.
#
# **What you should see:** *after* below *before*, both far below *zero velocity*, and weights that moved. The curves say where it learnt: at every noise level, or only at some. At `smoke` four steps
# are too few to teach anything, and one clip is too few to show it; the ranges are those of `nano`.
#
# <!-- figures: held-out loss -->
#
# | figure | published run | expect |
# |---|---|---|
# | held-out loss, zero velocity | 2.72 | 2.45 to 2.99 |
# | held-out loss, before | 0.685 | 0.616 to 0.753 |
# | held-out loss, after | 0.327 | 0.294 to 0.36 |
#
# `cookbook run` at `nano`, CPU, 2 cores, AMD EPYC, 2026-11-28.
# Expect 10 % to each side: digits repeat on one kind of machine, others round differently.
#
# <!-- /figures: held-out loss -->

# %% tags=["picture"]
held = {
    "zero velocity": manifest["heldout_zero_velocity"],
    "before": manifest["heldout_before"],
    "after": manifest["heldout_after"],
}
for name, value in held.items():
    print(f"held-out loss, {name:<13} {value:.4f}")
print(f"largest change of a weight  {manifest['weights_changed']:.2g}")
levels = pd.DataFrame(manifest["heldout_levels"]).set_index("noise level")
levels.plot(ax=show.axes(), style="o-", color=[show.COLOURS["base"], show.COLOURS["tuned"]], ylabel="held-out loss", ylim=0);

# %% [markdown]
# ### Which values matter?
#
# A lower loss is not yet a better video. So the recipe was measured by what its videos show: 280 videos of 70 new scenes, four seeds each, judged by rules on their pixels (`cookbook/judge/rules.py`: is the named object in the named
# place in the end, whole, once, in its colours, released by the named hand, and is everything else where it was?).
#
# | steps | success | |
# |---|---|---|
# | 0, the base model | 28 of 280, 10 % | it carries the object to the place and does not let go |
# | 100 | 197 of 280, 70 % | |
# | 300, the nano recipe | 227 of 280, 81 % | |
#
# One H200, 2026-11-28, commit 7a8edc9; the commands are in the [model card](../assets/nano/README.md). Two things to take from it:
#
# * **The first hundred steps teach most.** The base model already knows the robot, its objects and the words. What is new is one motion at the end.
# * **Know the noise before you compare.** The same recipe reached 78 % and 80 % on 60 other scenes, with two seeds and with one. The 95 % CI is about 15 points wide there. A change of recipe that gains three points on so few videos has shown nothing.
#
# `python -m nano.ablate --only learning_rate=1e-3 lora_rank=8` measures recipes that differ in one value, a row each (`--help` explains the folders that it reads).

# %% [markdown]
# ### Stopping and resuming
#
# A checkpoint in PyTorch's distributed format holds everything that decides the next step: weights and their average, optimizer, schedule, and position in the data. Noise is
# drawn from the step's number, not from a running generator. So a run that was killed at any moment continues with the same losses as one that was not: interrupt
# the training cell and run it again, or type `cookbook train` again. A test checks this: it kills runs at random moments and before every rename of a file, and the losses of all steps must equal
# those of an uninterrupted run, difference 0 (`test_killed_at_random_moments_it_ends_as_if_unbroken` in `tests/test_train_kills.py`).
#
# **What you should see:** the published folder layout, and a second call that finds the finished run and does nothing.

# %%
checkpoints = folder / "checkpoints"
print((checkpoints / "latest_checkpoint.txt").read_text().strip())
for part in sorted(checkpoints.glob("iter_*/*")):
    print(f"  {part.relative_to(checkpoints)}: {sum(f.stat().st_size for f in part.glob('*')) / 1e6:.1f} MB")
again = train(profile, run=folder, recipe=recipe or None, steps=steps or None, seed=seed)

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved: the check then gives a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/02.py`; try first.

# %% [markdown]
# **Exercise 02.1 ★ Back to the clip.** You are given $x_\sigma$, the velocity $v$ and $\sigma$. What is the clean clip $x_0$? (This is what the model *thinks* the clip is, at any noise level.)

# %%
from cookbook import exercises


def clean(noised, velocity, sigma):
    ...  # your code


exercises.check_02_1(clean);

# %% [markdown]
# **Exercise 02.2 ★★ Choose a shift.** Noise levels are $\sigma = s\,t / (1 + (s-1)\,t)$, and half of the draws of $t$ are below 0.5. Which shift $s$ puts half of the noise levels above a given `median`? What would you choose for a still picture?

# %%
from cookbook import exercises


def shift_for(median):
    ...  # your code


exercises.check_02_2(shift_for);

# %% [markdown]
# **Exercise 02.3 ★★★ Power EMA.** Write the running average of one weight: `values` are its values after steps 0, 1, ..., and $\beta_i = (1 - 1/(i+1))^{\gamma+1}$ is the share of the old average that step $i$ keeps. Return the last average. What is it after the first step, and why is that wise?

# %%
from cookbook import exercises


def power_ema(values, gamma):
    ...  # your code


exercises.check_02_3(power_ema);

# %% [markdown]
# ## Recap
#
# * The network learns the velocity from clip to noise; the shift decides which noise levels it practises.
# * `recommended` departs from the published recipe in named places, each for a stated reason; `recipe = "upstream"` gives you the original.
# * The held-out loss on fixed noise, not the training loss, says whether it learnt.
#
# | Symptom | Cause | Fix |
# |---|---|---|
# | held-out loss before training is as high as the zero-velocity baseline | base weights not loaded | check the plan's line *base weights*; download again |
# | training loss falls, held-out loss rises | too many epochs for too few clips | fewer `steps`, more clips |
# | out of memory | the sequence is too long for the card | recipe `lora`, or more GPUs under `torchrun` |
# | *built from different inputs: recipe ...* | the folder holds a run with other settings | `cookbook run --redo train`, or another `run` folder |
#
# **Read more:** [Cosmos Predict 2.5](https://arxiv.org/abs/2511.00062) (2025); rectified flow by [Liu et al.](https://arxiv.org/abs/2209.03003) (2022); the draw of noise levels and the shift in
# [Esser et al.](https://arxiv.org/abs/2403.03206) (2024); power EMA in [Karras et al.](https://arxiv.org/abs/2312.02696) (2023); [LoRA](https://arxiv.org/abs/2106.09685) (2021).
#
# **Next:** [03 · Generate videos](03_inference.ipynb)
