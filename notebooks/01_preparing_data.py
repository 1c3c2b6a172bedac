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
# **Promise.** From a folder of robot videos and a table of instructions to a checked training set in the published layout,
# with every unusable clip named and explained.
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
# | `smoke` | 5 s | 0.7 GB | 0 MB | nothing, none | measured 2026-11-28 |
# | `nano` | 5 s | 0.8 GB | 2 MB | nothing, none | measured 2026-11-28 |
# | `2b-smoke` | prepare: not measured | no GPU | not measured | [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100) 0.5 GB; [EVAL-175](https://huggingface.co/datasets/nvidia/EVAL-175) 0.3 GB | - |
# | `2b` | prepare: not measured | no GPU | not measured | [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100) 0.5 GB; [EVAL-175](https://huggingface.co/datasets/nvidia/EVAL-175) 0.3 GB | - |
# | `14b` | prepare: not measured | no GPU | not measured | [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100) 0.5 GB; [EVAL-175](https://huggingface.co/datasets/nvidia/EVAL-175) 0.3 GB | - |
#
# **Last verified** 2026-11-28 at `nano`, commit e46e6bb: python 3.11.7, torch 2.14.1, diffusers 0.42.1, transformers 5.23.0; CPU, 2 cores, AMD EPYC.
# *Measured* is `cookbook run`; *calculated* is from [measurements on an H100](../docs/gpu_figures.md) with
# random weights; `cookbook plan --profile 2b` has the details. Colab and Binder:
# [not tried](../setup.md#colab-and-binder), so there is no badge.
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
# The guide post-trains on [GR1-100](https://huggingface.co/datasets/nvidia/GR1-100): videos of a Fourier GR1 humanoid at a table, each with one
# instruction such as *Use the right hand to pick up rubik's cube from top level of the shelf to bottom level of the shelf.* The profiles `2b` and `14b`
# download it. `smoke` and `nano` use a **simulator** instead: the same robot at a table, filmed from its head, in the
# same folder layout, with the same kind of prompt. It ships with this repository, so you need no account.
#
# ### Download and preprocess
#
# In the guide these are shell commands; here it is one function, because three things can go wrong silently when done by hand:
# captions with commas are cut at the wrong place, a video shorter than one training window is replaced by another one in training, and one photo of the
# evaluation set is misnamed and can get lost. `prepare` decodes every clip to its end, reads every caption, and stops with the **list of all**
# problems, not with the first.
#
# **What you should see:** how many clips and photos were found: exactly 96 and 20 at `nano`, 4 and 20 at `smoke`, none skipped. Run the cell twice: the second time it says *found, skipping*.

# %%
manifest = prepare(
    profile, run=folder, train=train_folder or None, eval=eval_folder or None, skip_bad=skip_bad
)

# %% [markdown]
# ### The folder
#
# **What you should see:** the layout of the guide, and a caption that is the instruction behind a fixed prefix. The prefix is part of
# the published recipe: all training captions carry it. Generation with our profiles carries it too, so that the model meets the same words again.

# %%
train = folder / "data" / "train"
videos = sorted((train / "videos").glob("*.mp4"))
for place in ("videos/*.mp4", "metas/*.txt", "metadata.csv"):
    print(f"data/train/{place:<14} {len(list(train.glob(place)))} files")
print((train / "metas" / f"{videos[0].stem}.txt").read_text())

# %% [markdown]
# ### Preview of the Training Dataset
#
# **What you should see:** each clip beside its instruction. The named hand takes the named object and puts it down in the named place. If a clip and its caption disagree here, the model learns the disagreement.
# At `smoke` and `nano` the first two clips begin with the same picture: each scene was filmed with two instructions. A photo that allows only one thing would teach the model to ignore its instruction.

# %%
captions = [(train / "metas" / f"{clip.stem}.txt").read_text() for clip in videos[:3]]
show.show_prompts(list(zip(captions, videos[:3])))

# %% [markdown]
# The same clips as contact sheets, for places where videos do not play (first and last frame included).
#
# **What you should see:** the same three clips as in the picture at the top, frame for frame; the order of files is that of their names on every machine.

# %% tags=["picture"]
show.show_sheet(videos[:3], [caption.removeprefix(settings.prompt_prefix) for caption in captions])

# %% [markdown]
# ### What a clip is to the model
#
# A world model never sees the file. It sees a window of a fixed number of frames at a fixed rate and size. Frame counts have the form
# $1 + 4k$, because the video autoencoder keeps the first frame alone and then takes four at a time: $T$ frames become $1 + (T-1)/4$ latent frames,
# and height and width shrink by 8. The transformer reads those latents in patches of $1 \times 2 \times 2$, so the length of its sequence is
#
# $$ N = \Big(1 + \frac{T-1}{4}\Big) \cdot \frac{H}{16} \cdot \frac{W}{16}. $$
#
# Attention costs grow with $N^2$; this one number decides what a training step costs.
#
# **What you should see:** at `nano` exactly 420 tokens, at `2b` 31,104.

# %%
info = video.probe(videos[0])
clip = settings.clip
print(f"file    {info.frames} frames, {info.fps:g} fps, {info.height}x{info.width}")
print(f"window  {clip.frames} frames, {clip.fps} fps, {clip.height}x{clip.width}")
print(f"latents {clip.latent} x 16 channels, {clip.tokens} tokens")

# %% [markdown]
# Two departures from the published recipe are visible here, and both are settings, not habits: clips are **brought to the profile's
# frame rate** (upstream trains at whatever rate a file has, but saves its results at 16 fps), and they are **cropped, not squashed** to the model's
# shape (upstream squashes in training and crops in inference, so the model never meets the shapes it was trained on).
#
# **What you should see:** how the two ways differ on a first frame: above cropped, below squashed. `nano`'s clips have the model's shape already, so the frame is drawn as a camera of another shape would have seen it, a third wider.

# %%
frame = video.probe(videos[0]).read([0])
frame = video.fit(frame, frame.shape[1] * 3 // 4, frame.shape[2])  # stands in for a wider camera
ways = [video.fit(frame, clip.height, clip.width, crop) for crop in (True, False)]
show.show_sheet(ways, ["cropped", "squashed"], columns=1, width=320)

# %% [markdown]
# ### The held-out photos
#
# Evaluation starts from one photo and one instruction that training never saw: pairs of `.png` and `.txt` with the same name
# (in the published set with two dots, and with one pair that is misnamed; both are handled).
#
# **What you should see:** three of the photos that notebook 03 starts from. Each shows the table before the task, with the objects that the instruction names. At `nano` the twenty pairs have ten pictures: each comes with two instructions.

# %%
photos = layout.read_photos(folder / "data" / "eval")[: settings.prompts]
pictures = [video.read_image(photo.image)[None] for photo in photos]
show.show_sheet(pictures[:3], [photo.prompt for photo in photos[:3]], columns=1, width=400)

# %% [markdown]
# ### What was skipped
#
# **What you should see:** no row, unless you passed your own folder and `skip_bad`. Then each clip that was left out stands here with its reason.

# %%
skipped = storage.read_rows(folder / "data" / "skipped.jsonl")
print(f"{manifest['clips']} clips, {manifest['photos']} photos, {manifest['skipped']} skipped")
for problem in skipped:
    print(problem["file"], "-", problem["reason"])

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved: the check then gives a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
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
# **Exercise 01.3 ★★ A caption with a comma.** Write one line of `metadata.csv`, without line end, so that every reader of csv gets the caption back, whatever is in it. Cutting at the comma is what goes wrong most often.

# %%
from cookbook import exercises


def row(file, prompt):
    ...  # your code


exercises.check_01_3(row);

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
