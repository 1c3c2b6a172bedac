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
# # 01 · Prepare the data
#
# ![The pipeline, the box of this notebook marked: you are here](../assets/pictures/pipeline_01.svg)
#
# **Promise.** From a folder of robot videos and a table of instructions to a checked training set in the published layout. Every unusable clip is named and explained.
#
# ![Contact sheets of three training clips, each below its instruction](../assets/pictures/01_preparing_data.jpeg)
#
# *Three clips of the training set as they were prepared, from the section “Preview”.*
#
# You will be able to
# * lay out training clips and captions as Cosmos Predict 2.5 expects them,
# * check clips for length, rate and captions before a GPU is rented, and
# * say what the model really sees of a clip: its frames, its size, its latents.
#
# | | |
# |---|---|
# | **Needed** | [00 · Check the machine](00_prerequisites.ipynb) |
# | **Helpful** | what a video file's frame rate and size are |
# | **Reads** | the profile's clips and photos (or your own folders, see the parameters) |
# | **Writes** | `data/train/{videos,metas,metadata.csv}`, `data/eval/`, `data/manifest.json` |
# | **Next** | [02 · Post-train the world model](02_post_training.ipynb) |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | source |
# |---|---|---|---|---|---|
# | `smoke` | 7 s | 0.7 GB | 0 MB | nothing, none | measured 2026-11-29 |
# | `nano` | 8 s | 0.8 GB | 2 MB | nothing, none | measured 2026-11-29 |
# | `2b-smoke` | prepare: not measured | no GPU | not measured | [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100) 0.5 GB; [EVAL-175](https://huggingface.co/datasets/nvidia/EVAL-175) 0.3 GB | - |
# | `2b` | prepare: not measured | no GPU | not measured | [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100) 0.5 GB; [EVAL-175](https://huggingface.co/datasets/nvidia/EVAL-175) 0.3 GB | - |
# | `14b` | prepare: not measured | no GPU | not measured | [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100) 0.5 GB; [EVAL-175](https://huggingface.co/datasets/nvidia/EVAL-175) 0.3 GB | - |
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
train_folder: str = ""  # your own clips and captions, empty for those of the profile
eval_folder: str = ""  # your own photos and instructions, empty for those of the profile
skip_bad: bool = False  # leave unusable clips out and record them instead of stopping

# %%
from cookbook import budget, doctor, layout, profiles, runs, storage, show, video
from cookbook.prepare.stage import prepare

settings = profiles.get(profile)
folder = runs.run_folder(run or None, profile)
budget.plan(profile, "01")
doctor.require(profile)

# %% [markdown]
# ## 1. Preparing Data
#
# A world model learns from pairs: a video of a robot, and the sentence that describes what it does there. The guide uses [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100): videos of a Fourier GR1 humanoid, with instructions such as *Use the right hand to pick up rubik's cube from top level of the shelf to bottom level of the shelf.* The profiles `2b` and `14b` download it.
#
# `smoke` and `nano` use a **simulator** instead: the same robot at a table, filmed from its head, in the same folder layout, with the same kind of prompt. Its clips ship with this repository, so you need no account.
#
# ### Download and preprocess
#
# Done by hand with shell commands, as in the guide, three things can go wrong silently:
#
# * A caption with a comma is cut at the comma.
# * A video shorter than one training window is replaced by another one in training.
# * One photo of the evaluation set is misnamed and can get lost.
#
# So `prepare` decodes every clip to its end, reads every caption, and stops with the list of **all** problems, not with the first.
#
# **What you should see:** 96 clips and 20 photos at `nano`, 4 and 20 at `smoke`, none skipped.

# %%
manifest = prepare(
    profile, run=folder, train=train_folder or None, eval=eval_folder or None, skip_bad=skip_bad
)

# %% [markdown]
# **What it means.** Every clip can be used. Run the cell again, and it prints *found, skipping*.
#
# ### The folder
#
# **What you should see:** the layout of the guide, and a caption: a fixed prefix, then the instruction.

# %%
train = folder / "data" / "train"
videos = sorted((train / "videos").glob("*.mp4"))
for place in ("videos/*.mp4", "metas/*.txt", "metadata.csv"):
    print(f"data/train/{place:<14} {len(list(train.glob(place)))} files")
print((train / "metas" / f"{videos[0].stem}.txt").read_text())

# %% [markdown]
# **What it means.** The prefix is part of the published recipe: all training captions begin with it. Generation with our profiles uses it too, so that the model meets the same words again.
#
# ### Preview of the Training Dataset
#
# **What you should see:** each clip beside its instruction. The named hand puts the named object in the named place.

# %%
captions = [(train / "metas" / f"{clip.stem}.txt").read_text() for clip in videos[:3]]
show.show_prompts(list(zip(captions, videos[:3])))

# %% [markdown]
# **What you should see:** the same clips as contact sheets, for places where videos do not play.

# %% tags=["picture"]
show.show_sheet(videos[:3], [caption.removeprefix(settings.prompt_prefix) for caption in captions])

# %% [markdown]
# **What it means.** If a clip and its caption disagree, the model learns the disagreement.
#
# At `smoke` and `nano` the first two clips begin with the same picture: each scene was filmed with two instructions. A photo that allows only one thing would teach the model to ignore its instruction.
#
# ### What a clip is to the model
#
# A world model never sees the file. It sees a *window*: a fixed number of frames at a fixed rate and size. A video autoencoder turns the window into *latents*. It keeps the first frame alone and then takes four at a time, so $T = 1 + 4k$ frames become $1 + k$ latent frames. Height and width shrink by 8.
#
# The transformer reads the latents in patches of $1 \times 2 \times 2$, one *token* each. So the length of its sequence is
#
# $$ N = \Big(1 + \frac{T-1}{4}\Big) \cdot \frac{H}{16} \cdot \frac{W}{16}. $$
#
# **What you should see:** at `nano` exactly 420 tokens, at `2b` 31,104.

# %%
info = video.probe(videos[0])
clip = settings.clip
print(f"file    {info.frames} frames, {info.fps:g} fps, {info.height}x{info.width}")
print(f"window  {clip.frames} frames, {clip.fps} fps, {clip.height}x{clip.width}")
print(f"latents {clip.latent} x 16 channels, {clip.tokens} tokens")

# %% [markdown]
# **What it means.** Attention costs grow with $N^2$, so this number decides what a training step costs.
#
# ### Rate and shape
#
# Two settings depart here from the published recipe:
#
# * Clips are brought to **one frame rate**, that of the profile. Upstream trains at whatever rate a file has, but saves its results at 16 fps.
# * Clips are **cropped**, not squashed. Upstream squashes in training and crops in inference, so the model never meets the shapes that it was trained on.
#
# **What you should see:** a first frame, as a wider camera would have filmed it: above cropped, below squashed.

# %%
frame = video.probe(videos[0]).read([0])
frame = video.fit(frame, frame.shape[1] * 3 // 4, frame.shape[2])  # stands in for a wider camera
ways = [video.fit(frame, clip.height, clip.width, crop) for crop in (True, False)]
show.show_sheet(ways, ["cropped", "squashed"], columns=1, width=320)

# %% [markdown]
# **What it means.** Squashed things are too narrow; cropped ones keep their shape, but the edges of the picture are lost. `nano`'s own clips have the model's shape already.
#
# ### The held-out photos
#
# Evaluation starts from photos and instructions that training never saw. They are pairs of `.png` and `.txt` with the same name.
#
# **What you should see:** three photos that notebook 03 starts from. Each shows the table before the task.

# %%
photos = layout.read_photos(folder / "data" / "eval")[: settings.prompts]
pictures = [video.read_image(photo.image)[None] for photo in photos]
show.show_sheet(pictures[:3], [photo.prompt for photo in photos[:3]], columns=1, width=400)

# %% [markdown]
# **What it means.** At `nano` the twenty pairs have ten pictures: each comes with two instructions. Only the words tell the model which of the two to carry out.
#
# ### What was skipped
#
# **What you should see:** the totals. Below them, one line per clip that was left out of your own folder, with its reason.

# %%
skipped = storage.read_rows(folder / "data" / "skipped.jsonl")
print(f"{manifest['clips']} clips, {manifest['photos']} photos, {manifest['skipped']} skipped")
for problem in skipped:
    print(problem["file"], "-", problem["reason"])

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/01.py`; try first.

# %% [markdown]
# **Exercise 01.1 ★ Tokens.** How long is the sequence that the transformer sees of a clip of so many frames, height and width in pixels? What does doubling height and width do to it?

# %%
from cookbook import exercises


def tokens(frames, height, width):
    ...  # your code


exercises.check_01_1(tokens);

# %% [markdown]
# **Exercise 01.2 ★★ Is the clip long enough?** The profile wants a window of `frames` at `fps`. How many frames must a file have that was filmed at `file_fps`, so that one window fits? (`prepare` refuses shorter ones.)

# %%
from cookbook import exercises


def needed(frames, fps, file_fps):
    ...  # your code


exercises.check_01_2(needed);

# %% [markdown]
# **Exercise 01.3 ★★ What do the words decide?** `prompts` are the instructions of one photo. Return the set of words that are in some of them but not in all, in lower case and without commas and full stops. The check uses your held-out photos.
#
# Solved? Group your `photos` by `photo.image.read_bytes()`, and call `differing` on the prompts of each group. Could a model tell from the picture alone which instruction is meant?

# %%
from cookbook import exercises


def differing(prompts):
    ...  # your code


exercises.check_01_3(differing, photos);

# %% [markdown]
# ## Recap
#
# * `data/train` has the published layout; every clip was decoded and every caption read before anything expensive begins.
# * A clip is a window of $1 + 4k$ frames at a fixed rate and size; its token count decides the cost of everything that follows.
# * The held-out photos are never trained on.
#
# | Symptom | Cause | Fix |
# |---|---|---|
# | *N clips cannot be used* | short or broken video, missing or empty caption | fix them, or set `skip_bad = True` and read the reasons |
# | *was built from different inputs* | the source folder changed after a first run | `cookbook prepare --redo`, or another `run` folder |
# | *the header is ...; it must be file,prompt* | a `metadata.csv` from another tool | rename its columns; one row per video |
#
# **Read more:** the data set on its [page](https://huggingface.co/datasets/nvidia/GR1-100); the video autoencoder in the report on
# [Wan](https://arxiv.org/abs/2503.20314) (2025).
#
# **Next:** [02 · Post-train the world model](02_post_training.ipynb)
