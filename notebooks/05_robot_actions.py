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
# # 05 · From video to robot actions
#
# ![The pipeline, the box of this notebook marked: you are here](../assets/pictures/pipeline_05.svg)
#
# **Promise.** A model reads joint angles from every generated video, and the simulated robot executes them. You see how often the robot does what the photo and the sentence asked.
#
# ![Contact sheets in pairs: a generated video, and the simulated robot executing the actions decoded from it](../assets/pictures/05_robot_actions.jpeg)
#
# *Above: a video of the tuned model. Below: the simulated robot executing the joint targets that were decoded from it. From the section “Watch the robot”.*
#
# You will be able to
# * explain what an inverse dynamics model is, and why it may only see a moment of the video,
# * decode videos into joint targets, with an estimate of their error,
# * tell a video that looks right from one that moves right, and
# * export the result as a LeRobot data set.
#
# | | |
# |---|---|
# | **Needed** | [04 · Judge and filter](04_plausibility_filtering.ipynb) (without its videos, sample videos stand in, in a folder of their own) |
# | **Helpful** | what a joint angle is |
# | **Reads** | `generated/base/`, `generated/tuned/`, an inverse dynamics model |
# | **Writes** | `actions/`, `executed/`, `lerobot/` |
# | **Next** | the report: `cookbook report`. Then [06 · Train a robot policy](06_policy.ipynb) |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | source |
# |---|---|---|---|---|---|
# | `smoke` | 16 s | 1.6 GB | 0 MB | nothing, none | measured 2026-11-29 |
# | `nano` | 37 s | 1.6 GB | 3 MB | nothing, none | measured 2026-11-29 |
# | `2b-smoke` | actions: not measured | no GPU | not measured |  | - |
# | `2b` | actions: not measured | no GPU | not measured |  | - |
# | `14b` | actions: not measured | no GPU | not measured |  | - |
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
profile: str = "nano"  # smoke or nano: the simulator executes no real robot's actions
run: str = ""  # run folder, empty for runs/<profile>
version: str = "3.0"  # of the LeRobot data set: 3.0, or 2.1 for Isaac-GR00T

# %%
from cookbook import budget, doctor, profiles, results, runs, samples, show, storage, video
from cookbook.actions import execute, lerobot
from cookbook.actions.decode import step_of
from cookbook.actions.export import export_actions
from cookbook.actions.model import load, scaled, shrink
from cookbook.actions.stage import actions, locate

settings = profiles.get(profile)
budget.plan(profile, "05")
doctor.require(profile)
folder = samples.with_generated(profile, runs.run_folder(run or None, profile))

# %% [markdown]
# ## 5. From video to robot actions
#
# A policy learns from pictures *and actions*: at each moment, the joint targets that were sent to the robot. A generated video has no actions. An **inverse dynamics model** estimates them from the pictures:
#
# $$ (\hat q_t, \hat a_t, \hat \sigma_t) = f(x_{t-k},\, x_t,\, x_{t+k}) . $$
#
# * $x_t$ is a frame,
# * $\hat q_t$ are the joint angles in it,
# * $\hat a_t$ are the joint targets that lead to the next frame, and
# * $\hat \sigma_t$ is the standard deviation that the model expects of its error.
#
# **What you should see:** all that the model gets: a frame of a generated video, between the frames before and after it.

# %%
import numpy as np

tuned_videos = folder / "generated" / "tuned"
first = storage.read_rows(tuned_videos / "generated.jsonl")[0]
frames, fps = video.read_video(tuned_videos / first["file"])
network = load(locate(settings, None))
spec, moment = network.spec, len(frames) // 2
step = step_of(network, fps, first["file"])
three = frames[[moment - step, moment, moment + step]]
show.show_sheet([three], [first["prompt"]], columns=3, width=240)

# %% [markdown]
# ### 5.1 The model sees a moment
#
# A network that sees the whole clip can recognise the task in the first picture. It then predicts the motion that belongs to the task, whatever the video shows. So $f$ gets three frames and nothing else.
#
# For the same reason, $f$ was trained on reaching, touring, lifting and carrying, with only a few clips of placing among them.
#
# Now one call. The network's output is normalised: multiply it by the scale of the training data, and add their mean.
#
# **What you should see:** the angle and the expected error of the seven joints of one arm.

# %%
import pandas as pd
import torch

pictures = scaled(torch.from_numpy(shrink(three, spec.size)))
joints, targets, log_deviation = network(pictures[None])[0].numpy()
known = network.statistics()
angles = np.degrees(joints * known["scale"] + known["mean"])
errors = np.degrees(np.exp(log_deviation) * known["scale"])
side = "r_" if "right hand" in first["prompt"] else "l_"
one = pd.DataFrame({"angle, degrees": angles, "expected error": errors}, index=spec.joint_names).astype(float).round(1)
one[one.index.str.startswith(side)]

# %% [markdown]
# **What it means.** The model was trained to predict the size of its own error, too. A joint with a large expected error is one that it could not read well.
#
# ### 5.2 Decode the videos
#
# `actions` does this for every frame of every video. Two things are added: the result is resampled to the robot's rate, and each row of `actions.jsonl` holds the hashes of video and model.
#
# **What you should see:** a line with the number of videos.

# %%
decoded = actions(profile, run=folder)

# %% [markdown]
# **What you should see:** one row. Its targets have one line per moment and one column per joint; its expected error is a mean over joints and time.

# %%
rows = storage.read_rows(folder / "actions" / "actions.jsonl")
row = next(row for row in rows if row["model"] == "tuned" and row["name"] == first["name"])
facts = {"video": row["file"], "targets": np.shape(row["targets"]), "targets a second": row["fps"]}
facts |= {"expected error, degrees": np.mean(row["deviation"]).round(2)}
pd.Series(facts).to_frame("one row")

# %% [markdown]
# Are the angles right? They determine where the palms are (forward kinematics), and the camera of the photo determines where that is in the picture.
#
# **What you should see:** a dot on each visible palm, red on the right one and yellow on the left one.

# %%
palms = execute.hands_in_picture(row, settings, frames.shape[1:3])
show.show_sheet([show.mark(frames, palms)], [row["prompt"]], width=200)

# %% [markdown]
# **What it means.** Where a dot leaves its hand, the model misread the frame, or the video shows a hand that no joint angles can explain.
#
# ### 5.3 Execute them
#
# A robot shows whether a motion works. The simulator sets up the scene of each photo and sends the decoded targets to its robot. It computes contacts and gravity; nothing in it knows the video. Success is judged from the positions of the objects.
#
# **What you should see:** the number of successes.

# %%
executed = execute.execute(profile, run=folder)

# %% [markdown]
# **What you should see:** the success rate of each model and of the kept videos, each with its 95 % CI over photos.
#
# <!-- figures: actions -->
#
# | figure | published run | expect |
# |---|---|---|
# | executed with success, tuned | 0.875 | 0.725 to 1 |
# | executed with success, kept | 0.935 | 0.812 to 1 |
#
# `cookbook run` at `nano`, CPU, 2 cores, AMD EPYC, 2026-11-29.
# Expect the 95 % CI over photos: other machines round differently, so that their videos differ.
#
# <!-- /figures: actions -->

# %%
outcome = storage.read_rows(folder / "executed" / "executed.jsonl")
pd.Series(results.executed(folder), dtype=object).to_frame("executed")

# %% [markdown]
# ### 5.4 Looking right and moving right
#
# Notebook 04 asked whether a video *looks* right, by rules on pixels and by a critic. Execution asks whether its motion *works*. A video may show the right motion with an object that melts. Or each of its pictures is perfect, and the hand never quite reaches the object.
#
# **What you should see:** for each model, how many videos have both, one, or neither.

# %%
results.looks_and_moves(folder)

# %% [markdown]
# **What it means.** A policy needs both, because it learns from the pictures and from the actions.
#
# Can failures be found without a simulator, as on a real robot? Candidates are the critic's scores and five figures of the motion, such as jerk, speed and expected error.
#
# **What you should see:** for each, the AUC for executed success over the tuned model's videos.

# %%
results.execution_aucs(folder)

# %% [markdown]
# **What it means.** Less jerk, a lower speed and a smaller expected error count as better. Where an interval includes 0.5, this run does not show that the figure helps. In the published run that holds for each figure of the motion, so the filter uses none of them.
#
# ### Watch the robot
#
# **What you should see:** a generated video above, the robot executing it below. The first pair succeeded; the second, if there is one, failed.

# %% tags=["picture"]
tuned = [row for row in outcome if row["model"] == "tuned"]
chosen = [next((row for row in tuned if row["success"] == wanted), None) for wanted in (True, False)]
decoded_rows = {row["file"]: row for row in rows}
sheet, titles = [], []
for done in filter(None, chosen):
    sheet += [folder / done["file"], execute.replay(decoded_rows[done["file"]], settings, frames.shape[1:3], fps)]
    titles += [done["prompt"], f"executed: {'success' if done['success'] else done['reason']}"]
show.show_sheet(sheet, titles, width=160)

# %% [markdown]
# ### 5.5 Export
#
# Most training code for robot policies reads [LeRobot](https://github.com/huggingface/lerobot) data sets. Every video of the tuned model becomes an *episode* with its joints and targets.
#
# **What you should see:** the number of episodes, and the folder.

# %%
exported = export_actions(profile, run=folder, version=version)

# %% [markdown]
# **What you should see:** what a data set knows of one episode, beside its frames.

# %%
place = folder / ("lerobot" if version == "3.0" else f"lerobot-{version}")
episodes = lerobot.read(place).episodes
pd.Series({"task": episodes[0].task, "joints": episodes[0].joints.shape} | episodes[0].facts).to_frame("episode 0")

# %% [markdown]
# **What it means.** All videos are exported, the bad ones too. The critic's scores, the filter's decision and the outcome of the execution are columns, so that you choose the episodes for training.

# %% [markdown]
# ## Exercises
#
# Each uses the run that you just made, takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/05.py`; try first.

# %% [markdown]
# **Exercise 05.1 ★ Jerk.** Return the root mean square of the third derivative of `row["targets"]` (one line per moment, one column per joint) at `row["fps"]` lines a second. Use differences of successive lines. The check compares it for all of your videos.
#
# Solved? Look at your most jerky video: `show.show_sheet([folder / max(rows, key=jerk)["file"]])`. And what is the jerk of the same motion at half the speed?

# %%
import numpy as np

from cookbook import exercises


def jerk(row):
    ...  # your code


exercises.check_05_1(jerk, rows);

# %% [markdown]
# **Exercise 05.2 ★★ Which joints matter?** Return the targets of a row as an array in which every joint whose name begins with `part` stays where it was at the first moment. `names` are the names of the columns.
#
# Solved? The parts are `r_`, `l_` (arms), `hr_`, `hl_` (fingers), `torso` and `head`. Predict which of them the robot needs, then call `without(part)` (at `smoke` no video succeeds). Which one surprises you?

# %%
import numpy as np

from cookbook import exercises


def held(row, names, part):
    ...  # your code


def without(part):
    """For each of your successful videos: what the robot does if this part of it stays still."""
    good = {row["file"] for row in outcome if row["success"]}
    scenes = execute.known_jobs(settings)
    for row in (row for row in rows if row["file"] in good):
        changed = row | {"targets": held(row, spec.joint_names, part)}
        done = execute.perform(execute.job_of(changed, scenes[row["image"], row["prompt"]]))
        print("success" if done["success"] else done["reason"], "-", row["prompt"])


exercises.check_05_2(held, rows, spec.joint_names);

# %% [markdown]
# **Exercise 05.3 ★★ Choose the episodes.** Return the list of the positions of the episodes that a policy should learn from: the filter kept them, and the robot succeeded. `episodes[0].facts` shows what an episode knows; use `.get`, as a run without a filter has no `kept`.
#
# Solved? How many of yours are left? Then look at those that the filter kept although the robot failed, and at their `reason`. What kind of error do the reasons have in common?

# %%
from cookbook import exercises


def chosen_for_training(episodes):
    ...  # your code


exercises.check_05_3(chosen_for_training, episodes);

# %% [markdown]
# ## Recap
#
# * An inverse dynamics model turns pictures into actions. It must be local, or it reads the task instead of the motion.
# * Decoded targets come at the robot's rate, with the deviation that the model expects.
# * Looking right and moving right differ; a policy needs both, since it learns from the pictures too.
# * The exported set has one episode per video. Its columns carry the scores, so that you choose the episodes for training.
#
# | Symptom | Cause | Fix |
# |---|---|---|
# | *has no inverse dynamics model* | the profile is for real weights | train one on your robot's own data: [Actions for your robot](../docs/actions_for_your_robot.md) |
# | the robot stops short of the object | targets are averaged where the model is unsure | look at `deviation`; train on more clips in which the hand is near things |
# | *needs mujoco* | the extra `sim` is not installed | the message has the command |
#
# **Read more:** inverse dynamics for generated videos in [DreamGen](https://arxiv.org/abs/2505.12705) (2025); the file format in [LeRobot](https://github.com/huggingface/lerobot).
#
# **Next:** `cookbook report` puts all of this on one page. [06 · Train a robot policy](06_policy.ipynb) asks what it is worth to a robot.
