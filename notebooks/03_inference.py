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
# # 03 · Generate videos
#
# ![The pipeline, the box of this notebook marked: you are here](../assets/pictures/pipeline_03.svg)
#
# **Promise.** From a training checkpoint to weight files that are proven equal to it, and from one photo and one instruction to a video, by the base model and by yours.
#
# ![Contact sheets: base model above tuned model, on two photos](../assets/pictures/03_inference.jpeg)
#
# *Same photo, same instruction, same noise: each time the base model above, the tuned one below, from the section “Side by side”.*
#
# You will be able to
# * walk from noise to a video yourself, with the real network,
# * convert a distributed checkpoint into the published files, and prove that nothing was lost, and
# * compare two models fairly: same photos, same noise.
#
# | | |
# |---|---|
# | **Needed** | [02 · Post-train the world model](02_post_training.ipynb) (without it, two quick steps from the base model stand in, in a folder of their own) |
# | **Helpful** | the flow of notebook 02: noise level, velocity |
# | **Reads** | `checkpoints/`, `data/eval/` |
# | **Writes** | `export/` (`model.pt`, `model_ema_fp32.pt`, `model_ema_bf16.pt`, `diffusers/`), `generated/base/`, `generated/tuned/`, `generated/no_text/` |
# | **Next** | [04 · Judge and filter](04_plausibility_filtering.ipynb) |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | source |
# |---|---|---|---|---|---|
# | `smoke` | 77 s | 2.4 GB | 182 MB | nothing, none | measured 2026-11-29 |
# | `nano` | 4.4 min | 2.3 GB | 183 MB | nothing, none | measured 2026-11-29 |
# | `2b-smoke` | 2.8 min and convert: not measured | 1 GPU of 80 GB | not measured | [Cosmos-Predict2.5-2B](https://huggingface.co/nvidia/Cosmos-Predict2.5-2B) 21.5 GB, gated; [Cosmos-Guardrail1](https://huggingface.co/nvidia/Cosmos-Guardrail1) size on its page, gated | calculated |
# | `2b` | 3.5 h and convert: not measured | 1 GPU of 80 GB | not measured | [Cosmos-Predict2.5-2B](https://huggingface.co/nvidia/Cosmos-Predict2.5-2B) 21.5 GB, gated; [Cosmos-Guardrail1](https://huggingface.co/nvidia/Cosmos-Guardrail1) size on its page, gated | calculated |
# | `14b` | 46.9 min and convert: not measured | 8 GPUs of 80 GB | not measured | [Cosmos-Predict2.5-14B](https://huggingface.co/nvidia/Cosmos-Predict2.5-14B) 46 GB, gated; [Cosmos-Guardrail1](https://huggingface.co/nvidia/Cosmos-Guardrail1) size on its page, gated | calculated |
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
seeds: int = 0  # clips per prompt of the tuned model, 0 for the profile's number

# %%
import re
from pathlib import Path

from cookbook import budget, doctor, flow, profiles, runs, samples, show, storage, video
from cookbook.convert.stage import convert
from cookbook.generate.stage import generate

settings = profiles.get(profile)
budget.plan(profile, "03")
doctor.require(profile)
folder = samples.with_checkpoint(profile, runs.run_folder(run or None, profile))

# %% [markdown]
# ## 3. Inference with Post-trained Predict 2.5
#
# ### 3.1 Converting DCP Checkpoint to Consolidated PyTorch Format
#
# Training writes one file per process, with weights (`net.*`), their average (`net_ema.*`) and the optimizer. Inference needs one file. The published tool writes three; we write the same, and a `diffusers` folder:
#
# | file | what is in it |
# |---|---|
# | `model.pt` | everything, under both prefixes |
# | `model_ema_fp32.pt` | the average, renamed to `net.*` |
# | `model_ema_bf16.pt` | the same in bf16, half the size |
# | `diffusers/` | the average in the names of the `diffusers` library, with the other pipeline components |
#
# Each file is **read again in a new process** and compared with the checkpoint, tensor by tensor.
#
# **What you should see:** a row per file, each *equal bit by bit*, largest difference 0.

# %%
exported = convert(profile, run=folder)

# %% [markdown]
# **What it means.** No tolerance is needed, as nothing is computed. The published loader only warns of a name that does not match; the model then generates noise, or videos just like those of the base model.
#
# ### 3.2 Running Inference
#
# Generation goes from noise at $\sigma = 1$ to a clip at $\sigma = 0$, along the velocity that the network learnt in notebook 02. It needs the network, the words, the photo, and noise.
#
# `velocity`, in the second cell, is the network's answer in a form that a sampler can call. It also keeps the clip that the network *expects* to arrive at: from $x_\sigma$, straight along $v$.
#
# **What you should see:** the instruction, and the shape of the noise.

# %%
import torch

from cookbook import hardware
from cookbook.generate.generator import Generator, Setup
from cookbook.generate.requests import read_requests
from cookbook.models import autoencoder, hub

request = read_requests(folder / "data" / "eval", settings)[0]
weights, device = folder / "export" / "diffusers", hardware.device()
parts = Generator(Setup(weights, hub.locate(settings.world), settings, [request]))  # network, autoencoder, words
words = parts.text[parts.prompt(request)].to(device)
photo = video.fit(video.read_image(Path(request.input_path))[None], *request.size)
start = autoencoder.encode(parts.vae, autoencoder.to_tensor(photo))  # the first latent frame
noise = flow.initial_noise((1, start.shape[1], *settings.clip.latent), request.seed).to(device)
print(f"{request.prompt}\nnoise: {tuple(noise.shape)} as batch, channels, frames, height, width")

# %%
inside = torch.zeros_like(noise[:, :1])  # a mask: 1 where the frame is given
inside[:, :, :1] = 1
padding = noise.new_zeros(1, 1, *request.size)
options = {"condition_mask": inside.to(words.dtype), "padding_mask": padding.to(words.dtype), "return_dict": False}
expected = []


@torch.no_grad()
def velocity(x, sigma, text=words):
    x = torch.cat([start, x[:, :, 1:]], dim=2)  # the photo is given clean
    v = parts.transformer(x.to(words.dtype), timestep=sigma.view(1), encoder_hidden_states=text, **options)[0].float()
    expected.append(x - sigma * v)
    return v


def frames_of(x):
    frames = autoencoder.to_frames(autoencoder.decode(parts.vae, torch.cat([start, x[:, :, 1:]], dim=2)))
    passed = parts.guardrail.check_video_safety(frames) if parts.guardrail else frames
    return frames * 0 if passed is None else passed  # black where NVIDIA's guardrail blocks it

# %% [markdown]
# The sampler itself is Euler's method: ask for the velocity, go one step along it, ask again.
#
# **What you should see:** what the network expects at three of the steps, then where the walk arrives.

# %%
def euler(velocity, noise, sigmas):
    x = noise
    for now, then in zip(sigmas, sigmas[1:]):
        x = x + (then - now) * velocity(x, now)
    return x


steps = settings.sampling.steps
sigmas = flow.shifted(torch.linspace(1, 0, steps + 1, device=device), settings.sampling.shift)
arrived = euler(velocity, noise, sigmas)
few = sorted({0, steps // 3, 2 * steps // 3})
titles = [f"step {k + 1} of {steps}, noise level {sigmas[k]:.2f}: expected" for k in few]
by_hand = frames_of(arrived)
show.show_sheet([*[frames_of(expected[k]) for k in few], by_hand], [*titles, "arrived"])

# %% [markdown]
# **What it means.** At noise level 1 there is nothing but photo and words, and the network already expects a whole motion. The further steps correct the details.
#
# The cookbook's call is the same loop with another solver: *UniPC* also uses the velocity of the step before.
#
# **What you should see:** the clip from the same noise by the call, and how far it is from the one above.

# %%
clean = torch.cat([start, torch.zeros_like(noise[:, :, 1:])], dim=2)
by_call = frames_of(flow.sample(velocity, noise, clean, inside, steps, settings.sampling.shift))
show.show_sheet([by_call], ["flow.sample"])
print(f"{abs(by_hand - 1.0 * by_call).mean():.1f} of 255 between them, on average over pixels")


def video_of(sampler):  # for exercise 03.2
    return frames_of(sampler(velocity, noise, sigmas))

# %% [markdown]
# **Where the steps lie.** The *shift* puts most steps at high $\sigma$, where it is decided what happens, and few at the end. Pre-trained weights and those trained on GR1 need shift 5.
#
# **What you should see:** with shift 5, more than half of the steps lie above $\sigma = 0.8$.

# %%
ax = show.axes()
for shift in (1.0, settings.sampling.shift):
    solver = flow.scheduler(shift)
    solver.set_timesteps(settings.sampling.steps)
    ax.plot(solver.sigmas, "o-", label=f"shift {shift:g}")
ax.set(xlabel="step", ylabel="noise level", title="Where the steps lie")
ax.legend(frameon=False);

# %% [markdown]
# #### The base model first
#
# `generate` does this for every photo and seed. It adds *guidance*: a second answer for a negative prompt, and a push away from it, $v = v_{\text{text}} + g\,(v_{\text{text}} - v_{\text{negative}})$. NVIDIA's $g = 7$ is 8 in most papers.
#
# First the untouched model, with the photos, instructions and **noise** that the other one will get.
#
# **What you should see:** one line with the number of clips.

# %%
base = generate(profile, run=folder, model="base")

# %% [markdown]
# #### Then yours
#
# Several seeds per prompt, because the next notebook picks the best of them. Interrupt the cell and run it again: clips that exist are not generated twice.
#
# **What you should see:** at `nano`, twice as many clips.

# %%
tuned = generate(profile, run=folder, model="tuned", seeds=seeds or None)

# %% [markdown]
# **What you should see:** one request, and the row of its first video: everything that is needed to generate it again.

# %%
import pandas as pd

rows = {model: storage.read_rows(folder / "generated" / model / "generated.jsonl") for model in ("base", "tuned")}
print(storage.read_rows(folder / "generated" / "tuned" / "requests.jsonl")[0])
pd.Series(rows["tuned"][0]).drop("prompt").to_frame("first video")

# %% [markdown]
# ### Side by side
#
# **What you should see:** base and tuned, from the same photo and noise. The last line proves that they have different weights: it is not 0.

# %%
import numpy as np

videos = {model: {(row["name"], row["seed"]): row for row in rows[model] if not row["blocked"]} for model in rows}
shared = sorted(videos["base"].keys() & videos["tuned"].keys())
picked = [shared[0], shared[-1]]


def clip(model: str, key: tuple):
    return folder / "generated" / model / videos[model][key]["file"]


for key in picked:
    print(videos["tuned"][key]["prompt"])
    show.show_video([clip("base", key), clip("tuned", key)], ["base", "tuned"], height=144)
gaps = [video.read_video(clip("base", key))[0] - 1.0 * video.read_video(clip("tuned", key))[0] for key in shared]
print(f"a pixel of base and tuned differs by {np.abs(gaps).mean():.1f} of 255 on average")

# %% [markdown]
# **What you should see:** the same as contact sheets, base above tuned.

# %% tags=["picture"]
clips = [clip(model, key) for key in picked for model in ("base", "tuned")]
show.show_sheet(clips, [f"{model}: {videos[model][key]['prompt']}" for key in picked for model in ("base", "tuned")])

# %% [markdown]
# **What it means.** The `nano` base model knows this robot reaching, lifting and carrying, but never placing: it does not let go. The tuned model should. Look at the moment of letting go: there an object often becomes a smear of another colour, the worst fault of the nano models.
#
# ### Does it listen?
#
# A video that looks right may still ignore its instruction, if the photo allows only one thing. So in the photos of `nano` either hand can put any of three objects into either of two places. Below, one photo gets four instructions: its own two, and both with the other hand.
#
# **What you should see:** at `nano`, four different videos. At `smoke` they hardly differ.

# %%
requests = storage.read_rows(folder / "generated" / "tuned" / "requests.jsonl")
first = requests[0]
same_photo = storage.digest(Path(first["input_path"]))
own_two = [row["prompt"] for row in requests if storage.digest(Path(row["input_path"])) == same_photo][:2]
swapped = [re.sub(r"\b(left|right)\b", lambda side: {"left": "right", "right": "left"}[side[0]], text) for text in own_two]


def videos_of(changes: list[dict]) -> list[Path]:
    """The first photo with other fields of its request, a video each; what was generated before is read."""
    wanted = [first | {"name": f"own{number}", **change} for number, change in enumerate(changes)]
    same = storage.digest_of([wanted, rows["tuned"][0]["weights"]])  # other weights, another folder
    own = folder / "own_requests" / same[-8:]
    storage.write_rows(own / "requests.jsonl", wanted)
    generate(profile, run=own, requests=own / "requests.jsonl", weights=weights, seeds=1)
    return [own / "generated/tuned" / row["file"] for row in storage.read_rows(own / "generated/tuned/generated.jsonl")]


asked = [*own_two, *swapped]
show.show_sheet(videos_of([{"prompt": text} for text in asked]), asked)

# %% [markdown]
# **What it means.** The noise is the same in all four, so that only the words explain a difference.
#
# Now ask for something yourself, in the same form.
#
# **What you should see:** in Jupyter, a box and a button. The video appears below it after some seconds.

# %%
def answer(text):
    clips = videos_of([{"prompt": text}])
    show.show_video(clips[0], height=144)
    show.show_sheet(clips, [text])


show.ask(answer, swapped[0])

# %% [markdown]
# Four videos are an impression. The measure is **obedience**: of two videos that share photo and noise and differ in one word, how often does each show its own? A model that ignores the words reaches 50 %. Another comparison is the model **without text**: what it does then, it does because of the photo. Notebook 04 computes both.
#
# **What you should see:** one line with the number of clips, one for each photo.

# %%
generate(profile, run=folder, model="no_text");

# %% [markdown]
# ### How much guidance
#
# Guidance adds the difference between two answers, so a map of its size shows where the words act.
#
# **What you should see:** the clip; below, $|v_{\text{text}} - v_{\text{negative}}|$ on it at the first step: dark is none, bright is most.

# %%
import matplotlib.pyplot as plt

(negative,) = (text.to(device) for prompt, text in parts.text.items() if prompt != parts.prompt(request))
gap = velocity(noise, sigmas[0]) - velocity(noise, sigmas[0], negative)
size = gap[0, :, 1:].square().mean(0).sqrt().cpu()  # one number for each cell of each latent frame
print(f"most {size.max() / size.mean():.1f} times the mean")
cells = plt.get_cmap("magma")(size / size.max())[..., :3] * 255
heat = video.fit(cells.astype("uint8"), *request.size)
moments = by_hand[4::4]  # a latent frame holds four frames
show.show_sheet([moments, (0.3 * moments + 0.7 * heat).astype("uint8")], ["arrived", "where the words act"], columns=len(moments))

# %% [markdown]
# **What you should see:** the first video without guidance, with the profile's, and with three and seven times as much.

# %%
usual = settings.sampling.guidance
strengths = [0.0, usual, 3 * usual, 7 * usual]
strong = videos_of([{"guidance": strength} for strength in strengths])
show.show_sheet(strong, [f"guidance {strength:g}" for strength in strengths])

# %% [markdown]
# **What it means.** Too much guidance makes colours hard and breaks shapes. On 120 videos each, judged by ground truth, success was 60 % at guidance 0, **79 % at 1**, 57 % at 4 and 39 % at 7. Steps and shift made no difference that 120 videos can show ([all ten rows](../assets/nano/README.md#sampling)).
#
# ### Longer than the window
#
# The network was trained on clips of one length, the *window*. A longer clip is made in parts, as in NVIDIA's autoregressive mode: each part begins with the last frame of the one before, and has noise of its own.
#
# **What you should see:** a clip of almost twice the length, and how much the picture changes at the seam.

# %%
long = videos_of([{"num_output_frames": 2 * settings.clip.frames - 1}])
changes = np.abs(np.diff(video.read_video(long[0])[0].astype(float), axis=0)).mean(axis=(1, 2, 3))
seam = settings.clip.frames - 1
print(f"from frame to frame, a pixel changes by {changes.max():.1f} of 255 at most; at the seam by {changes[seam]:.1f}")
show.show_sheet(long, [first["prompt"]], columns=8, width=96)

# %% [markdown]
# **What it means.** There is no jump at the seam. But the second part knows neither what was done before nor how fast things moved. So the robot begins its task again, and things that have lost their shape do not get it back.
#
# ### Every prompt and seed
#
# **What you should see:** how each video ends, the base model on the left, then your seeds. In Jupyter, choose one to play.

# %%
every = sorted({seed for _, seed in videos["tuned"]})
photos = {videos["tuned"][name, seed]["prompt"]: name for name, seed in shared}


def models_of(prompt, seed):
    return [(model, (photos[prompt], seed)) for model in ("base", "tuned") if (photos[prompt], seed) in videos[model]]


def ends(prompt):
    keys = [key for seed in every for key in models_of(prompt, seed)]
    return np.stack([video.read_video(clip(*key))[0][-1] for key in sorted(keys)])


def side_by_side(prompt, seed):
    both = models_of(prompt, seed)
    show.show_video([clip(*key) for key in both], [model for model, _ in both], height=144)


some = list(photos)[:4]
show.show_sheet([ends(prompt) for prompt in some], some, columns=1 + len(every), width=128)
show.browse(side_by_side, prompt=list(photos), seed=every)

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/03.py`; try first.

# %% [markdown]
# **Exercise 03.1 ★ Guidance.** Write the guided velocity from that with the text, that with the negative prompt, and $g$ in NVIDIA's convention. Most papers write $v_\text{negative} + w\,(v_\text{text} - v_\text{negative})$: which $w$ is their name for $g = 7$?

# %%
from cookbook import exercises


def guided(text, negative, g):
    ...  # your code


exercises.check_03_1(guided);

# %% [markdown]
# **Exercise 03.2 ★★ A better step.** Euler trusts the velocity at the start of a step. Heun's method takes that step, asks again where it arrives, and goes, from the start, along the mean of both velocities. Write it: `velocity(x, sigma)` is the network, `sigmas` fall from 1 to 0. Solved? Plug it in: `show.show_sheet([video_of(euler), video_of(heun)])`. It asks twice per step: is it better than Euler with twice the steps?

# %%
from cookbook import exercises


def heun(velocity, noise, sigmas):
    ...  # your code


exercises.check_03_2(heun);

# %% [markdown]
# **Exercise 03.3 ★★ Prove a conversion.** Two dicts of name to tensor, as two files hold them. Return the set of names that are not the same on both sides, bit by bit.

# %%
import torch

from cookbook import exercises


def differing(a, b):
    ...  # your code


exercises.check_03_3(differing);

# %% [markdown]
# ## Recap
#
# * A sampler asks the network for a velocity and goes one step along it; guidance and shift decide how.
# * A conversion is believed when the written files, read by another process, equal the checkpoint bit by bit.
# * Seed, steps, guidance, shift and weights decide a video; all of them stand in its row of `generated.jsonl`.
# * Models are compared on the same photos and the same noise.
#
# | Symptom | Cause | Fix |
# |---|---|---|
# | videos look like those of the base model | the trained weights were not loaded | compare `weights` in the rows of `generated/base` and `generated/tuned`: they must differ |
# | flicker and burnt colours | wrong solver schedule, or guidance too high | linear schedule with shift 5; guidance from the profile |
# | a row with `blocked: true` | NVIDIA's guardrail stopped the prompt or the video | another prompt or photo; the guardrail is part of the licence |
# | 403 at the download | licence not accepted | the message names the page |
#
# **Read more:** guidance in [Ho and Salimans](https://arxiv.org/abs/2207.12598) (2022); the solver in [UniPC](https://arxiv.org/abs/2302.04867) (2023); generation as data for robots in
# [DreamGen](https://arxiv.org/abs/2505.12705) (2025).
#
# **Next:** [04 · Judge and filter](04_plausibility_filtering.ipynb)
