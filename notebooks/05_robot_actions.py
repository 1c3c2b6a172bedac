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
# | **Next** | the report: `cookbook report`. Beyond the guide: [07 · Train the critic](07_training_the_critic.ipynb) |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | source |
# |---|---|---|---|---|---|
# | `smoke` | 12 s | 1.5 GB | 0 MB | nothing, none | measured 2026-11-28 |
# | `nano` | 27 s | 1.6 GB | 3 MB | nothing, none | measured 2026-11-28 |
# | `2b-smoke` | actions: not measured | no GPU | not measured |  | - |
# | `2b` | actions: not measured | no GPU | not measured |  | - |
# | `14b` | actions: not measured | no GPU | not measured |  | - |
#
# **Last verified** 2026-11-28 at `nano`, commit e46e6bb: python 3.11.7, torch 2.14.1, diffusers 0.42.1, transformers 5.23.0; CPU, 2 cores, AMD EPYC.
# *Measured* is `cookbook run`; *calculated* is from [measurements on an H100](../docs/gpu_figures.md) with
# random weights; `cookbook plan --profile 2b` has the details. Colab and Binder:
# [not tried](../setup.md#colab-and-binder), so there is no badge.
#
# <!-- /measured -->

# %% tags=["parameters"]
profile: str = "nano"  # smoke or nano: the simulator executes no real robot's actions
run: str = ""  # run folder, empty for runs/<profile>
version: str = "3.0"  # of the LeRobot data set: 3.0, or 2.1 for Isaac-GR00T

# %%
from cookbook import budget, doctor, profiles, results, runs, samples, show, storage, video
from cookbook.actions import execute
from cookbook.actions.export import export_actions
from cookbook.actions.model import load
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
# $$ (\hat q_t, \hat a_t, \hat \sigma_t) = f(x_{t-k},\, x_t,\, x_{t+k}) , $$
#
# where $x_t$ is a frame, $\hat q_t$ the joint angles in it, $\hat a_t$ the joint targets that lead to the next one, and $\hat \sigma_t$ the standard deviation that the model expects of its error.
#
# ### 5.1 The model sees a moment
#
# $f$ sees three frames and nothing else. A network that sees the whole clip recognises the task in the first picture and predicts the motion that belongs to it, whatever the video shows. For the same reason $f$ was trained on reaching, touring, lifting and carrying, with only a few clips of
# placing among them.
#
# **What you should see:** the robot, its number of joints, the rate of the joint targets, and the time between the three frames.

# %%
network = load(locate(settings, None))
spec = network.spec
print(f"{spec.robot}: {len(spec.joint_names)} joints, {spec.fps:g} targets a second, frames {spec.distance:g} s apart")

# %% [markdown]
# ### 5.2 Decode the videos
#
# Every frame of every video goes through the model, and the result is resampled to the robot's rate. A row of `actions.jsonl` holds joints, targets and the expected error, with the hashes of video and model.
#
# **What you should see:** a line with the number of videos. The next cell shows one row: 25 times 42 joint targets, and the predicted standard deviation of the joint angles, averaged over all joints.

# %%
decoded = actions(profile, run=folder)

# %%
import numpy as np
import pandas as pd

rows = storage.read_rows(folder / "actions" / "actions.jsonl")
row = next(row for row in rows if row["model"] == "tuned")
facts = {"video": row["file"], "targets": np.shape(row["targets"]), "targets a second": row["fps"]}
facts |= {"expected error, degrees": np.mean(row["deviation"]).round(2)}
pd.Series(facts).to_frame("first row of the tuned model")

# %% [markdown]
# The decoded angles say where the palms are (forward kinematics), and the camera of the photo says where that is in the picture.
#
# **What you should see:** dots on both palms. Where a dot leaves its hand, the model misread the frame, or the video shows a hand that no joint angles can explain.

# %%
frames, fps = video.read_video(folder / row["file"])
palms = execute.hands_in_picture(row, settings, frames.shape[1:3])
show.show_sheet([show.mark(frames, palms)], [row["prompt"]], width=200)

# %% [markdown]
# ### 5.3 Execute them
#
# The simulator rebuilds the scene of each photo and sends the decoded targets to its robot. It computes contacts and gravity; nothing in it knows the video. Success is judged from the positions of the objects.
#
# **What you should see:** the number of successes; then, by model, the executed success rate with its 95 % CI over photos.
#
# <!-- figures: actions -->
#
# | figure | published run | expect |
# |---|---|---|
# | executed with success, tuned | 0.575 | 0.4 to 0.75 |
# | executed with success, kept | 0.581 | 0.455 to 0.724 |
#
# `cookbook run` at `nano`, CPU, 2 cores, AMD EPYC, 2026-11-28.
# Expect the 95 % CI over photos: other machines round differently, so that their videos differ.
#
# <!-- /figures: actions -->

# %%
executed = execute.execute(profile, run=folder)

# %%
outcome = storage.read_rows(folder / "executed" / "executed.jsonl")
pd.Series(results.executed(folder), dtype=object).to_frame("executed")

# %% [markdown]
# ### 5.4 Looking right and moving right
#
# Notebook 04 asked whether a video *looks* right, by rules on pixels and by a critic. Execution asks whether its motion *works*. These are two properties: a video may show the right motion with an object that melts, or a perfect picture with a hand that never quite reached it.
#
# **What you should see:** for each model, how many videos have both, one, or neither.

# %%
results.looks_and_moves(folder)

# %% [markdown]
# Can the failures be found without a simulator, as on a real robot? Candidates are the critic's scores and figures of the motion: jerk, joint limits, speed, and how well joints follow targets.
#
# **What you should see:** the AUC of each for executed success, over the tuned model's videos. Less jerk, a lower speed and a smaller expected error count as better. Where an interval includes 0.5, this run does not show that the figure helps.

# %%
results.execution_aucs(folder)

# %% [markdown]
# The filter does not use these figures of the motion: in the published run, each of their intervals includes 0.5.
#
# ### Watch the robot
#
# **What you should see:** pairs of rows. Above, the video that the world model generated; below, the simulated robot executing what was decoded from it. The first pair succeeded, the second failed if any did.

# %% tags=["picture"]
tuned = [row for row in outcome if row["model"] == "tuned"]
chosen = [next((row for row in tuned if row["success"] == wanted), None) for wanted in (True, False)]
targets = {row["file"]: row for row in rows}
sheet, titles = [], []
for done in filter(None, chosen):
    sheet += [folder / done["file"], execute.replay(targets[done["file"]], settings, frames.shape[1:3], fps)]
    titles += [done["prompt"], f"executed: {'success' if done['success'] else done['reason']}"]
show.show_sheet(sheet, titles, width=160)

# %% [markdown]
# ### 5.5 Export
#
# [LeRobot](https://github.com/huggingface/lerobot) data sets are read by most training code for robot policies. Every video of the tuned model becomes an episode, with its joints and targets; columns hold the critic's scores, whether the filter kept it, and whether it was executed with success.
#
# **What you should see:** the number of episodes and files; then the columns of a frame, with their shapes.

# %%
exported = export_actions(profile, run=folder, version=version)

# %%
place = folder / ("lerobot" if version == "3.0" else f"lerobot-{version}")
info = storage.read_json(place / "meta" / "info.json")
features = {name: (feature["dtype"], feature["shape"]) for name, feature in info["features"].items()}
pd.DataFrame.from_dict(features, orient="index", columns=["type", "shape"])

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved: the check then gives a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/05.py`; try first.

# %% [markdown]
# **Exercise 05.1 ★ To the robot's rate.** `targets` has one row of joint targets per frame of a video, shape (T, J). The robot wants twice as many. Return 2T - 1 rows: the given ones, and between two of them their mean.

# %%
import numpy as np

from cookbook import exercises


def doubled(targets):
    ...  # your code


exercises.check_05_1(doubled);

# %% [markdown]
# **Exercise 05.2 ★★ Jerk.** Return the root mean square of the third derivative of `targets`, shape (T, J), with `rate` rows a second. Use differences of successive rows. What happens to the jerk if you play the same motion at half the speed?

# %%
import numpy as np

from cookbook import exercises


def jerk(targets, rate):
    ...  # your code


exercises.check_05_2(jerk);

# %% [markdown]
# **Exercise 05.3 ★★ What are looks worth?** `looks[i]` says whether video i looks right, `moves[i]` whether its actions succeed. Return how much more often the videos that look right succeed than those that do not (a difference of two shares). What would 0 mean?

# %%
from cookbook import exercises


def worth(looks, moves):
    ...  # your code


exercises.check_05_3(worth);

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
# **Next:** `cookbook report` puts all of this on one page.
