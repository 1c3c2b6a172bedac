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
# * convert a distributed checkpoint into the published files, and prove that nothing was lost,
# * generate from photo and instruction, with seeds that give the same video again, and
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
# | `smoke` | 42 s | 2.2 GB | 182 MB | nothing, none | measured 2026-11-28 |
# | `nano` | 3.6 min | 2.2 GB | 183 MB | nothing, none | measured 2026-11-28 |
# | `2b-smoke` | 2.8 min and convert: not measured | 1 GPU of 80 GB | not measured | [Cosmos-Predict2.5-2B](https://huggingface.co/nvidia/Cosmos-Predict2.5-2B) 21.5 GB, gated; [Cosmos-Guardrail1](https://huggingface.co/nvidia/Cosmos-Guardrail1) size on its page, gated | calculated |
# | `2b` | 3.5 h and convert: not measured | 1 GPU of 80 GB | not measured | [Cosmos-Predict2.5-2B](https://huggingface.co/nvidia/Cosmos-Predict2.5-2B) 21.5 GB, gated; [Cosmos-Guardrail1](https://huggingface.co/nvidia/Cosmos-Guardrail1) size on its page, gated | calculated |
# | `14b` | 46.9 min and convert: not measured | 8 GPUs of 80 GB | not measured | [Cosmos-Predict2.5-14B](https://huggingface.co/nvidia/Cosmos-Predict2.5-14B) 46 GB, gated; [Cosmos-Guardrail1](https://huggingface.co/nvidia/Cosmos-Guardrail1) size on its page, gated | calculated |
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
seeds: int = 0  # clips per prompt of the tuned model, 0 for the profile's number

# %%
import re
from pathlib import Path

from cookbook import budget, doctor, flow, profiles, runs, storage, samples, show, video
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
# Training writes a *distributed* checkpoint: one file per process, with weights (`net.*`), their average (`net_ema.*`), and optimizer. For use, one wants one file. The published
# tool writes three; we write the same three, and a `diffusers` folder beside them:
#
# | file | what is in it |
# |---|---|
# | `model.pt` | everything, under both prefixes |
# | `model_ema_fp32.pt` | the average, renamed to `net.*` |
# | `model_ema_bf16.pt` | the same in bf16, half the size |
# | `diffusers/` | the average in the names of the `diffusers` library, with the other pipeline components |
#
# The published loader is not strict: a name that does not match is left out with a warning, and the model then generates noise, or videos just like those of the base model. So here every written file is
# **read again in a new process** and compared with the checkpoint, tensor by tensor.
#
# **What you should see:** one row per file (four; after LoRA five, because its adapter is a file too), each *equal bit by bit*, and a largest difference of exactly 0: no tolerance, as nothing is computed.

# %%
exported = convert(profile, run=folder)

# %%
import pandas as pd

pd.DataFrame(exported["checks"]).fillna({"problem": "none"})

# %% [markdown]
# ### 3.2 Running Inference
#
# Generation walks from noise ($\sigma = 1$) to a clip ($\sigma = 0$) along the learnt velocity. Two numbers decide how:
#
# * **Guidance** $g$ pushes away from what the model would do with the negative prompt, $v = v_{\text{text}} + g\,(v_{\text{text}} - v_{\text{negative}})$. Note the convention: NVIDIA's 7 is 8 in most
#   papers. Higher follows the text more closely, and looks burnt if overdone.
# * **Shift** places the steps: most of them at high $\sigma$, where it is decided what happens; few at the end, where only detail is left. Weights that were pre-trained or trained on GR1 need the linear schedule
#   with shift 5. The schedule that the `diffusers` converter writes for every checkpoint fits only the *post-trained* release.
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
# To know what post-training changed, one needs the same photos, the same instructions and the **same noise** with the untouched model. Noise is drawn by NumPy from
# the seed alone, so it is the same on every machine.
#
# **What you should see:** one line with the number of clips. Interrupt it and run it again: clips that exist are not generated twice.

# %%
base = generate(profile, run=folder, model="base")

# %% [markdown]
# #### Then yours
#
# Several seeds per prompt, because the next notebook picks the best of them.
#
# **What you should see:** at `nano` twice as many clips as before, in twice the time: a step costs the same with the weights of either model.

# %%
tuned = generate(profile, run=folder, model="tuned", seeds=seeds or None)

# %% [markdown]
# `requests.jsonl` holds the requests, in the published fields. `generated.jsonl` holds one row per video, with everything needed to generate it again.
#
# **What you should see:** one request, and the row of its first video.

# %%
rows = {model: storage.read_rows(folder / "generated" / model / "generated.jsonl") for model in ("base", "tuned")}
print(storage.read_rows(folder / "generated" / "tuned" / "requests.jsonl")[0])
pd.Series(rows["tuned"][0]).drop("prompt").to_frame("first video")

# %% [markdown]
# ### Side by side
#
# **What you should see:** the first frame is the same photo in both. At `nano` the base model was trained on clips of this robot reaching, lifting, and holding things over places, but never placing: it moves
# plausibly and does not let go. The tuned model should move toward the named object and on to the named place. At `smoke`, four training steps make
# the motion softer and teach no placing. Look at the moment when the hand lets go: there the object often becomes a smear of
# another colour, the nano models' worst fault. The last line is the proof that the trained weights were used: exactly 0 would mean that they were not.

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
# **What you should see:** the same as contact sheets, base above tuned, as in the picture at the top. On another kind of processor the clips begin alike and may end differently: rounding grows on the way.

# %% tags=["picture"]
clips = [clip(model, key) for key in picked for model in ("base", "tuned")]
show.show_sheet(clips, [f"{model}: {videos[model][key]['prompt']}" for key in picked for model in ("base", "tuned")])

# %% [markdown]
# ### Does it listen?
#
# A video that looks right may still ignore its instruction: if a photo allows only one thing, the model can read it from the photo. So the photos of `nano` come from scenes in which either hand can put
# any of three objects into either of two places, and each photo comes with two instructions. Below, one photo gets four instructions: its own two, and both with the other hand. The noise is the same in all, so
# that only the words explain a difference.
#
# **What you should see:** at `nano` four different videos. The named hand enters, takes the named object, and carries it to the named place. At `smoke` the four videos hardly differ: four training steps
# do not spoil the base model, but it never learnt to place.

# %%
requests = storage.read_rows(folder / "generated" / "tuned" / "requests.jsonl")
first = requests[0]
photo = storage.digest(Path(first["input_path"]))
own_two = [row["prompt"] for row in requests if storage.digest(Path(row["input_path"])) == photo][:2]
swapped = [re.sub(r"\b(left|right)\b", lambda side: {"left": "right", "right": "left"}[side[0]], text) for text in own_two]
weights = folder / "export" / "diffusers"


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
# Now ask for something yourself. Name things that are in the photo, in the same form.
#
# **What you should see:** in Jupyter, a box and a button. The video appears below it after some seconds.

# %%
def answer(text):
    clips = videos_of([{"prompt": text}])
    show.show_video(clips[0], height=144)
    show.show_sheet(clips, [text])


show.ask(answer, swapped[0])

# %% [markdown]
# Four videos are an impression. The measure is **obedience**: of two videos that share photo and noise and differ in one word of the instruction, how often does each show its own word? Chance is 50 %, because a model that
# does not listen shows the same in both. The control is the model **without text**: what it does then, it does because of the photo. The next notebook computes both from masks that the simulator knows.
#
# **What you should see:** one line with the number of clips, one for each photo.

# %%
generate(profile, run=folder, model="no_text");

# %% [markdown]
# ### How much guidance
#
# **What you should see** next: the first video again, without guidance and with three and seven times the profile's. The nano model listens without guidance, too. Too much of it makes colours
# hard and breaks shapes. Weights that know many things need more of it. Which strength is best is a question for a judge, not for a formula.

# %%
usual = settings.sampling.guidance
strengths = [0.0, usual, 3 * usual, 7 * usual]
strong = videos_of([{"guidance": strength} for strength in strengths])
show.show_sheet(strong, [f"guidance {strength:g}" for strength in strengths])

# %% [markdown]
# We measured it: one post-trained nano model, one value changed in each row, a video of each of two instructions of 60 new photos, judged by ground truth. *Object* and *place* are the shares of videos that show the named ones.
# Network evaluations are the cost of a clip.
#
# | guidance | steps | shift | evaluations | success | 95 % CI over photos | object | place |
# |---|---|---|---|---|---|---|---|
# | **1** | **8** | **5** | 16 | **79 %** | 70 to 86 % | 96 % | 88 % |
# | 0 | | | 8 | 60 % | 50 to 69 % | 92 % | 72 % |
# | 4 | | | 16 | 57 % | 48 to 68 % | 98 % | 92 % |
# | 7 | | | 16 | 39 % | 28 to 48 % | 98 % | 86 % |
# | | 6 | | 12 | 80 % | 72 to 87 % | 96 % | 91 % |
# | | 20 | | 40 | 78 % | 68 to 85 % | 96 % | 87 % |
# | | 36 | | 72 | 77 % | 68 to 84 % | 96 % | 87 % |
# | | | 1 | 16 | 77 % | 67 to 84 % | 96 % | 87 % |
# | | | 3 | 16 | 77 % | 67 to 84 % | 96 % | 87 % |
# | | | 10 | 16 | 83 % | 77 to 89 % | 96 % | 92 % |
#
# `python -m nano.evaluate --grid --seeds 1` with the folders of the [model card](../assets/nano/README.md), one H200, 2026-11-28, commit 7a8edc9. An empty cell is the value of the first row. Guidance is the only value that matters here:
# none leaves the object half placed, too much breaks it. Even at 7 the hand takes the right object, but what arrives is no longer whole. Steps and shift make no difference that 120 videos can show.
#
# %% [markdown]
# ### Every prompt and seed
#
# **What you should see:** how each video ends, a row for every prompt (the first six), the base model on the left, then your seeds. In Jupyter, the menu and the slider below the picture play any of
# them, base beside tuned.

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


few = list(photos)[:6]
show.show_sheet([ends(prompt) for prompt in few], few, columns=1 + len(every), width=80)
show.browse(side_by_side, prompt=list(photos), seed=every)

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved: the check then gives a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/03.py`; try first.

# %% [markdown]
# **Exercise 03.1 ★ Guidance.** Write the guided velocity from that with the text, that with the negative prompt, and $g$ in NVIDIA's convention. Most papers write $v_\text{negative} + w\,(v_\text{text} - v_\text{negative})$: which $w$ is their name for $g = 7$?

# %%
from cookbook import exercises


def guided(text, negative, g):
    ...  # your code


exercises.check_03_1(guided);

# %% [markdown]
# **Exercise 03.2 ★★ A sampler of your own.** Walk from noise to a clip with Euler's method: `velocity(x, sigma)` is the network, `sigmas` fall from 1 to 0. (The cookbook's UniPC does the same with a better guess per step.)

# %%
from cookbook import exercises


def euler(velocity, noise, sigmas):
    ...  # your code


exercises.check_03_2(euler);

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
