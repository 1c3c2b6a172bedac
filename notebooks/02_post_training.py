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
# * write one training step of a world model yourself, and name what `train` adds to it,
# * distinguish a model that learnt from one that only moved its weights, and
# * train, stop and resume without losing a step, and read a recipe.
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
# | `smoke` | 31 s | 1.8 GB | 313 MB | nothing, none | measured 2026-11-29 |
# | `nano` | 6.5 min | 2.0 GB | 332 MB | nothing, none | measured 2026-11-29 |
# | `2b-smoke` | 10 s | 1 GPU of 80 GB | not measured | [Cosmos-Predict2.5-2B](https://huggingface.co/nvidia/Cosmos-Predict2.5-2B) 21.5 GB, gated | calculated |
# | `2b` | 42.3 min | 1 GPU of 80 GB | not measured | [Cosmos-Predict2.5-2B](https://huggingface.co/nvidia/Cosmos-Predict2.5-2B) 21.5 GB, gated | calculated |
# | `14b` | 76.6 min | 8 GPUs of 80 GB | not measured | [Cosmos-Predict2.5-14B](https://huggingface.co/nvidia/Cosmos-Predict2.5-14B) 46 GB, gated | calculated |
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
recipe: str = ""  # recommended, upstream or lora, empty for the profile's own
steps: int = 0  # optimizer steps, 0 for those of the recipe
seed: int = 0  # decides order of clips, noise and noise levels

# %%
from cookbook import budget, doctor, profiles, runs, storage, samples, show
from cookbook.train.stage import train

settings = profiles.get(profile, recipe or None)
budget.plan(profile, "02")
doctor.require(profile)
folder = samples.with_clips(profile, runs.run_folder(run or None, profile))

# %% [markdown]
# ## 2. Post-training Cosmos Predict 2.5
#
# ### Noise
#
# The model works on no pixels. An autoencoder turns a clip into *latents* $x_0$, about 50 times fewer numbers. Noise $\varepsilon$ of the same shape is drawn, and both are mixed: at *noise level* $\sigma$ the mixture is
#
# $$ x_\sigma = (1-\sigma)\,x_0 + \sigma\,\varepsilon . $$
#
# The first latent frame stays clean. It is the photo that the model continues, the *conditioning frame*.
#
# **What you should see:** the shapes of a short clip, and of its latents.

# %%
import torch

from cookbook import flow, hardware
from cookbook.models import autoencoder, hub, text, world
from cookbook.train import dataset

models, device = hub.locate(settings.world), hardware.device()
vae = world.load_vae(models).to(device)
example = dataset.read_clips(folder / "data" / "train")[0]
window = dataset.windows(example.video, settings.clip, settings.recipe)[0]
pixels = autoencoder.to_tensor(window[: 1 + (settings.clip.frames - 1) // 8 * 4])  # the first half
latents = autoencoder.encode(vae, pixels)
noise = flow.initial_noise(tuple(latents.shape), seed).to(device)
print("pixels", *pixels.shape, " latents", *latents.shape, " batch, channels, frames, height, width")

# %% [markdown]
# **What you should see:** a frame, four of its 16 channels, the frame decoded again, and five times the difference. The arm is visible in the channels.

# %%
import matplotlib.pyplot as plt


def frames_of(latent):
    return autoencoder.to_frames(autoencoder.decode(vae, latent))


again = frames_of(latents)[-1]
before = autoencoder.to_frames(pixels)[-1]
parts = {"frame": before} | {f"channel {number}": latents[0, number, -1].cpu() for number in (4, 6, 8, 12)}
parts |= {"decoded": again, "difference x 5": (5 * abs(before - 1.0 * again)).clip(0, 255).astype("uint8")}
_, panels = plt.subplots(1, len(parts), figsize=(12, 1.5), layout="constrained")
for panel, (title, part) in zip(panels, parts.items()):
    panel.imshow(part, cmap="RdBu", vmin=-3, vmax=3)  # ignored for pictures in colour
    panel.set_title(title, fontsize=10)
    panel.axis("off")

# %% [markdown]
# **What it means.** A channel is a coarse picture of its own. What the autoencoder loses, no training can give back.
#
# **What you should see:** at 0.4 the motion can still be read off; at 0.8 hardly the objects. (In Jupyter, move the slider.)

# %%
def mixture(noise_level):
    mixed = (1 - noise_level) * latents + noise_level * noise
    mixed[:, :, :1] = latents[:, :, :1]  # the photo stays clean
    return mixed


levels = (0.0, 0.4, 0.6, 0.8, 0.95)
show.show_sheet([frames_of(mixture(level)) for level in levels], [f"noise level {level}" for level in levels], width=160)
show.browse(lambda noise_level: show.show_sheet([frames_of(mixture(noise_level))], columns=4), noise_level=[n / 20 for n in range(21)])

# %% [markdown]
# **What it means.** From a mixture at 0.4 the clip can be recovered by denoising. At 0.8 the future is gone, and only photo and instruction determine what happens next. There the model must *decide*.
#
# ### One step
#
# The line from clip to noise has one direction everywhere, $v = \varepsilon - x_0$, the *velocity*. The network gets the mixture, its noise level and the words, and must predict that velocity. Generation follows it back, from noise to a clip; that is the next notebook.
#
# First the network and the words: the instruction of this clip, embedded by a language model.
#
# **What you should see:** the instruction, and the size of the network.

# %%
dtype = hardware.compute_dtype(device)
network = world.load_transformer(models, dtype).to(device).requires_grad_(False)
encoder, tokenizer = world.load_text_encoder(models, dtype)
words = text.encode_prompts(encoder, tokenizer, [example.prompt], settings.text_tokens).to(device)
del encoder
print(f"{example.prompt}\n{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters")

# %% [markdown]
# Now one training step, at three noise levels: encode (done), noise, mix, network, difference, square.
#
# **What you should see:** three losses, and beside each that of a model that always answers 0.

# %%
mask = flow.condition_mask(torch.tensor([1]), latents)  # 1 where the frame is given
padding = latents.new_zeros(1, 1, *pixels.shape[-2:], dtype=dtype)  # no pixel is padding

for sigma in (0.4, 0.8, 0.95):
    mixed = mixture(sigma)
    level = torch.tensor([sigma], device=device)
    inputs = {"encoder_hidden_states": words, "condition_mask": mask.to(dtype), "padding_mask": padding}
    velocity = network(mixed.to(dtype), timestep=level, return_dict=False, **inputs)[0].float()
    difference = (1 - mask) * (velocity - (noise - latents))  # the photo does not count
    loss = difference.square().mean()
    answers_zero = ((1 - mask) * (noise - latents)).square().mean()
    print(f"noise level {sigma:<4}  loss {loss:.3f}   answering 0: {answers_zero:.3f}")

# %% [markdown]
# **What it means.** This number is all that training lowers: $\mathcal{L} = \mathbb{E}\,\lVert v_\theta(x_\sigma, \sigma, \text{text}) - (\varepsilon - x_0) \rVert^2$. `loss.backward()` computes in which direction each weight must move, and the optimizer moves it a little.
#
# `cookbook/train/objective.py` does the same for a batch of clips.
#
# **What you should see:** the last loss again, from the cookbook's own function.

# %%
from cookbook.train.objective import Batch, flow_loss

print(f"{flow_loss(network, Batch(latents, noise, level, torch.tensor([1]), words)):.3f}")
del network

# %% [markdown]
# ### 2.1 Training
#
# `train` does this hundreds of times, each time with other clips, other noise and other noise levels. It adds three things:
#
# * Latents and embeddings are computed once and kept in `cache/`.
# * The learning rate rises at first and falls at the end (`cookbook/engine/loop.py` is the loop, on two pages).
# * What is used in the end is a running average of the weights (*power EMA*), $\bar\theta_i = \beta_i\,\bar\theta_{i-1} + (1-\beta_i)\,\theta_i$ with $\beta_i = (1-1/(i+1))^{\gamma+1}$. It forgets the first steps.
#
# **What you should see:** the plan; the number of encoded clips; a line a minute; a summary.

# %%
manifest = train(profile, run=folder, recipe=recipe or None, steps=steps or None, seed=seed)

# %% [markdown]
# **What you should see:** single batches jump, the running mean falls. At `smoke` there are too few steps to see anything.

# %%
show.loss(storage.read_rows(folder / "checkpoints" / "log.jsonl"));

# %% [markdown]
# **What it means.** Each batch has other noise and other noise levels, so its loss jumps. And a training loss may fall because the clips were memorised.
#
# ### Did it learn?
#
# So some clips are held out. Their loss is taken before and after, with **the same noise and the same noise levels**: only the weights can explain a difference. *Zero velocity* is the model that always answers 0.
#
# **What you should see:** *after* below *before*, both far below *zero velocity*. At `smoke`, four steps and one clip can show nothing.
#
# <!-- figures: held-out loss -->
#
# | figure | published run | expect |
# |---|---|---|
# | held-out loss, zero velocity | 2.72 | 2.45 to 2.99 |
# | held-out loss, before | 0.685 | 0.616 to 0.753 |
# | held-out loss, after | 0.327 | 0.294 to 0.36 |
#
# `cookbook run` at `nano`, CPU, 2 cores, AMD EPYC, 2026-11-29.
# Expect 10 % to each side: digits repeat on one kind of machine, others round differently.
#
# <!-- /figures: held-out loss -->

# %% tags=["picture"]
import pandas as pd

held = {
    "zero velocity": manifest["heldout_zero_velocity"],
    "before": manifest["heldout_before"],
    "after": manifest["heldout_after"],
}
for name, value in held.items():
    print(f"held-out loss, {name:<13} {value:.4f}")
print(f"largest change of a weight  {manifest['weights_changed']:.2g}")
curves = pd.DataFrame(manifest["heldout_levels"]).set_index("noise level")
curves.plot(ax=show.axes(), style="o-", color=[show.COLOURS["base"], show.COLOURS["tuned"]], ylabel="held-out loss", ylim=0);

# %% [markdown]
# **What it means.** The curves show where the model learnt: at every noise level, or only at some. A base model near zero velocity was not loaded. A weight that did not move was not trained.
#
# ### Watch it
#
# A lower loss is not yet a better video. So one photo and its instruction are generated with the weights before training and with those of the checkpoints that were kept, from the same noise.
#
# **What you should see:** at `nano`, the base model does not let go; the trained ones do. At `smoke`, four steps only damage the motion.

# %%
from cookbook import pictures
from cookbook.generate.requests import read_requests

checkpoints = folder / "checkpoints"
request = read_requests(folder / "data" / "eval", settings)[0]
kept = [None, *sorted(checkpoints.glob("iter_*"))]
clips = pictures.at_checkpoints(settings, request, kept, folder / "own_requests" / f"watch-{manifest['fingerprint'][-8:]}")
show.show_sheet(clips, [f"{clip.stem}: {request.prompt}" for clip in clips], width=160)

# %% [markdown]
# **What it means.** One photo is an impression, not a measurement; notebook 04 measures. On 280 videos of 70 new scenes, 10 % of the base model's succeeded, 70 % after 100 steps and 81 % after 300: [which values matter](../docs/training_at_full_size.md#which-values-matter).
#
# ### 2.2 Configuration
#
# A *recipe* is a frozen dataclass: how many steps, how large, on which noise levels. `upstream` is the published experiment, reproduced exactly. Ours departs from it where a reason can be given.
#
# **What you should see:** six of the values of this run beside the published ones. `cookbook explain` prints all of them.

# %%
from cookbook.train import recipes

pd.set_option("display.max_colwidth", None)
shown = ("steps", "batch", "learning_rate", "warmup", "clip_norm", "conditioning_frames")
pd.DataFrame([vars(row) for row in recipes.compare(settings) if row.field in shown]).set_index("field")

# %% [markdown]
# Noise levels are not drawn evenly either. $t = \mathrm{sigmoid}(n)$ with $n \sim \mathcal{N}(0,1)$ is shifted: $\sigma = s\,t\,/\,(1 + (s-1)\,t)$, here with $s = 5$.
#
# **What you should see:** most of the training happens above $\sigma = 0.6$.

# %%
sigmas = flow.draw_sigmas(20_000, settings.recipe.shift, torch.Generator().manual_seed(seed))
ax = show.axes()
ax.hist(sigmas.numpy(), bins=50, color=show.COLOURS["accent"])
ax.set(xlabel="noise level", ylabel="draws", title=f"shift {settings.recipe.shift:g}: half of the draws above {sigmas.median():.2f}");

# %% [markdown]
# **What it means.** The frames of a video resemble each other, so that it takes much noise to hide the scene. The hard decisions are made at high $\sigma$, and the shift practises those.
#
# Several GPUs, the compiler, what bf16 weights lose, LoRA: [training at full size](../docs/training_at_full_size.md).
#
# ### Stopping and resuming
#
# A checkpoint holds all that decides the next step: weights and average, optimizer, schedule, position in the data. Noise is drawn from the step's number. So a run that was killed at any moment continues with exactly the losses of one that was not; `tests/test_train_kills.py` kills some.
#
# **What you should see:** the published folder layout, and a second call that does nothing.

# %%
print((checkpoints / "latest_checkpoint.txt").read_text().strip())
for part in sorted(checkpoints.glob("iter_*/*")):
    print(f"  {part.relative_to(checkpoints)}: {sum(f.stat().st_size for f in part.glob('*')) / 1e6:.1f} MB")
again = train(profile, run=folder, recipe=recipe or None, steps=steps or None, seed=seed)

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
# * A training step mixes a clip with noise and asks the network for the direction between them; `train` repeats it.
# * The held-out loss on fixed noise, not the training loss, says whether the model learnt.
# * A run continues where it was stopped. Its recipe departs from the published one in named places, each for a reason.
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
