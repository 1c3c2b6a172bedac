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
# # 06 · Train a robot policy
#
# ![The pipeline, the box of this notebook marked: you are here](../assets/pictures/pipeline_06.svg)
#
# **Promise.** You train a policy on demonstrations and generated trajectories, and watch the robot act on it in scenes that it never saw. A table shows what 800 generated trajectories add to its success rate.
#
# ![Contact sheets: rollouts of the same instruction in the same scene, by a policy from demonstrations alone and by one that saw generated trajectories too](../assets/pictures/06_policy.jpeg)
#
# *Rollouts of two policies: one instruction in one held-out scene. From the section “Watch the robot”.*
#
# You will be able to
# * explain what a policy is, and how words, pictures and joint angles enter it,
# * train one on LeRobot data sets,
# * measure it in closed loop on held-out scenes, and
# * decide whether generated trajectories are worth their cost.
#
# | | |
# |---|---|
# | **Needed** | [05 · From video to robot actions](05_robot_actions.ipynb) (without it, sample videos stand in, in a folder of their own). Not part of `cookbook run`; `cookbook run --only 06` executes it |
# | **Helpful** | what overfitting is |
# | **Reads** | `lerobot/`, the demonstrations and policies that ship |
# | **Writes** | `policy/`, `rollouts/` |
# | **Next** | beyond the guide: [07 · Train the critic](07_training_the_critic.ipynb) |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | source |
# |---|---|---|---|---|---|
# | `smoke` | 61 s | 4.2 GB | 61 MB | nothing, none | measured 2026-11-29 |
# | `nano` | 3.0 min | 4.6 GB | 70 MB | nothing, none | measured 2026-11-29 |
# | `2b-smoke` | not possible: no simulator of the robot | - | - | - | - |
# | `2b` | not possible: no simulator of the robot | - | - | - | - |
# | `14b` | not possible: no simulator of the robot | - | - | - | - |
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
profile: str = "nano"  # smoke or nano: the simulator has no other robot
run: str = ""  # run folder, empty for runs/<profile>
scenes: int = 10  # held-out scenes of the rollouts, of the 200 that ship
redo: bool = False  # train and roll out again

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from cookbook import doctor, profiles, runs, samples, show, storage
from cookbook.actions.clips import read
from cookbook.actions.model import scaled, shrink
from cookbook.models import hub
from cookbook.policy import rollout
from cookbook.policy.model import load
from cookbook.policy.training import train_on

settings = profiles.get(profile)
doctor.require(profile)
shipped = rollout.shipped(settings)
folder = samples.with_actions(profile, runs.run_folder(run or None, profile))

# %% [markdown]
# ## 6. What is it worth to a robot?
#
# A **policy** decides what the robot does next. Ours maps a picture $x$, an instruction $w$ and the joint angles $q$ to the joint targets of the next three seconds, 24 in all:
#
# $$ (\hat a_t, \dots, \hat a_{t+23},\ \hat c) = \pi(x_t,\, w,\, q_t) . $$
#
# The robot executes the first half second. Then the policy gets a new picture and predicts again. This is **closed-loop control** with **action chunks**.
#
# The last output, $\hat c$, is where the picture will have changed when the task is done: where the object was, and where it will be. It needs no extra label, as the last frame of the video shows it. So words come to refer to places in the picture.
#
# **What you should see:** one photo, and in red $\hat c$ of a policy that ships, for each of its two instructions.

# %%
network = load(shipped / "generated")
pair = rollout.list_scenes(settings, limit=1)
photo, joints = rollout.first_look(pair[0])
pictures = scaled(torch.from_numpy(shrink(photo[None], network.spec.size)))
angles = torch.from_numpy(network.normalised(joints[None]))
red = []
for scene in pair:
    words = torch.tensor([network.read_words(scene["prompt"])])
    with torch.inference_mode():
        targets, change = network(pictures, words, angles)
    strength = 0.6 * np.kron(change[0].sigmoid().numpy(), np.ones((4, 4)))[..., None]
    red.append(np.stack([photo, photo * (1 - strength) + strength * [255, 0, 0]]).astype(np.uint8))
show.show_sheet(red, [scene["prompt"] for scene in pair], columns=2, width=320)

# %% [markdown]
# **What it means.** Pictures and joint angles are the same in both rows. Only the words differ.
#
# The network has 1.9 million parameters. The words scale and shift the features of the picture (FiLM). Eight attention maps then give eight positions in it. The docstring of `cookbook/policy/model.py` has the sources.
#
# ### 6.1 What it learns from
#
# * **Demonstrations** are 88 clips with the joint targets that were recorded.
# * **Generated trajectories** are the videos of notebook 03 with the targets that notebook 05 decoded. Of these, the policy gets those that the filter of notebook 04 kept.
#
# Both are LeRobot data sets. The policy learns to predict their targets: **behaviour cloning**, the simplest kind of imitation learning.
#
# **What you should see:** one episode of each.

# %%
demonstrations = read(hub.locate(settings.demonstrations))
generated = read(folder / "lerobot")
kept = replace(generated, episodes=[episode for episode in generated.episodes if episode.facts.get("kept", True)])
sets = {"demonstration": demonstrations, "generated": generated}
films = [one.frames(one.episodes[0]) for one in sets.values()]
show.show_sheet(films, [f"{name}: {one.episodes[0].task}" for name, one in sets.items()], width=160)

# %% [markdown]
# **What you should see:** how many episodes there are.

# %%
pd.Series({"demonstrations": len(demonstrations.episodes), "generated": len(generated.episodes), "kept": len(kept.episodes)}).to_frame("episodes")

# %% [markdown]
# ### 6.2 Train a policy
#
# An example is one moment of an episode. The loss is the mean absolute error of the normalised targets, plus ten times the cross-entropy of $\hat c$. A quarter of the examples are first moments, where only the words say which task it is. Noise on the joint angles keeps the policy from copying them.
#
# **What you should see:** a falling loss, in a few minutes.

# %%
trained = train_on([demonstrations, kept], folder / "policy", profile=profile, steps=settings.policy_steps, redo=redo)
show.loss(storage.read_rows(folder / "policy" / "checkpoints" / "log.jsonl")).set(ylabel="loss");

# %% [markdown]
# **What it means.** This training is short. Two policies ship that saw 22 times as many examples. One was trained on the demonstrations alone, the other on 800 generated trajectories too.
#
# ### 6.3 Roll it out
#
# The scenes are new: no policy saw them, and no video was generated from them. Each has two instructions, which differ in the hand, the object or the receptacle. A policy that ignores its words can succeed with one of them at most. An attempt lasts three seconds; the simulator judges it by the positions of the objects.
#
# **What you should see:** a line for each policy, with its successes and the reasons of its failures.

# %%
policies = {"yours": folder / "policy", "demonstrations": shipped / "demonstrations", "+ generated": shipped / "generated"}
done = {}
for name, path in policies.items():
    out = folder / "rollouts" / path.name
    done[name] = rollout.roll_out(path, out, profile=profile, limit=scenes, videos=2 * scenes, redo=redo)

# %% [markdown]
# **What you should see:** the success rate of each policy with its 95 % CI over scenes, and the share of scenes in which it follows both instructions.

# %%
columns = {"rate": "success", "rate_interval": "95 % CI", "both": "both instructions"}
pd.DataFrame(done).T[list(columns)].rename(columns=columns)

# %% [markdown]
# **What it means.** The intervals of ten scenes are wide. They show the method, but cannot rank the policies.
#
# ### Watch the robot
#
# **What you should see:** the same instruction in the same scene, by the two policies that ship.

# %% tags=["picture"]
attempts = {name: storage.read_rows(folder / "rollouts" / path.name / rollout.NAME) for name, path in policies.items()}
base, more = attempts["demonstrations"], attempts["+ generated"]
gained = [row for row in more if row["success"] and not next(b for b in base if b["scene"] == row["scene"])["success"]]
scene = (gained or more)[0]["scene"]
sheet, titles = [], []
for name in ("demonstrations", "+ generated"):
    row = next(row for row in attempts[name] if row["scene"] == scene)
    sheet.append(folder / "rollouts" / policies[name].name / "videos" / row["video"])
    titles.append(f"{name}: {'success' if row['success'] else row['reason']}. {scene['prompt']}")
show.show_sheet(sheet, titles, width=160)

# %% [markdown]
# **What it means.** The pair is the first, if there is one, in which only the second policy succeeded. Look at your own policy, too: `show.show_video` plays the files in `rollouts/policy/videos/`.
#
# ### 6.4 The whole experiment
#
# All policies have the same network, 3,300 steps of 256 examples, and the same 88 demonstrations. They differ in what was added; with additions, 30 % of the examples are demonstrations. Each was evaluated on 400 instructions in 200 held-out scenes.
#
# There are five additions: 2,500 clips of other tasks, 800 generated trajectories, the 680 of these that the filter *kept*, the 356 of these that the simulator *executed* with success, and 800 clips of the simulator's own expert (*real*).
#
# **What you should see:** success rates with 95 % CI over scenes, and the gain over demonstrations alone, paired by scene.

# %%
measured = storage.read_json(shipped / "measured.json")
table = pd.DataFrame(measured).T
rates = np.array(table["rate"].tolist())
chart = show.axes(height=2.6)
colours = [show.COLOURS[name] for name in ("base", "base", "tuned", "tuned", "tuned", "accent")]
chart.barh(table.index, rates[:, 0], xerr=abs(rates[:, 1:] - rates[:, :1]).T, color=colours)
chart.set(xlabel="success in held-out scenes", xlim=(0, 1))
chart.invert_yaxis()
table["missed"] = [row["reasons"]["not in the receptacle"] for row in measured.values()]
shown = table[["added", "rate", "minus demonstrations", "minus + generated", "missed"]]
shown.map(lambda cell: "{:.2f} ({:.2f} to {:.2f})".format(*cell) if isinstance(cell, list) else cell).fillna("-")

# %% [markdown]
# **What it means.**
#
# * **Generated trajectories help.** They close about half of the distance from demonstrations alone to as many real clips.
# * **Other tasks do not.** The inverse dynamics model behind these trajectories was trained on the same clips. So more clips of this robot do not explain the gain.
# * **Dropping trajectories did not help here.** The interval of the difference between `kept` and all 800 includes 0. That of `executed` does not, but there was one training seed. Both sets are smaller, so the effects of size and quality cannot be separated. The critic judges how a video looks: here, its scores did not predict which videos the robot executes with success.
# * **Real clips are worth more.** The policy trained with generated trajectories misses the receptacle in twice as many attempts (`missed`).
#
# <details><summary>How it was measured, and what is unproven</summary>
#
# 400 photos with two instructions and one video each; one H200, 2026-11-29, commit 958394b. There was one training seed, so the intervals cover scenes, not training. The videos were decoded by an earlier inverse dynamics model, not by the one of notebook 05. With its actions, the robot succeeded in 356 of 800 attempts. `nano/policy.sh` now trains the decoder too, and uses three seeds and sets of equal size. It has not been run to its end yet. The [model card](../assets/nano/README.md#policies) has the commands.
#
# </details>
#
# ### 6.5 On a real robot
#
# * **Photos are cheap.** A new photo adds a new scene, and nobody has to demonstrate in it.
# * **Test your filter.** Train with it and without it: here, it did not help.
# * **Keep scenes aside.** Count only attempts in scenes that were never used for training.
#
# How much of this carries over to a real robot is not measured. The simulator has no sensor noise. Its camera is fixed, and its robot repeats a motion exactly.

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/06.py`; try first.

# %% [markdown]
# **Exercise 06.1 ★ How much of the distance?** `measured` is the table of 6.4: each row has a `rate` (mean, lowest, highest). Return which part of the distance from `demonstrations` to `+ real` the row `name` closes.
#
# Solved? Try it on each row. Which one closes least per trajectory (`added`)?

# %%
from cookbook import exercises


def closed(measured, name):
    ...  # your code


exercises.check_06_1(closed, measured);

# %% [markdown]
# **Exercise 06.2 ★★ Ignored words.** `rows` are the attempts of one policy; each has a `scene` with a `seed`, and `success`. Return the share of scenes in which at least one instruction succeeded but not all of them: there, the words may have been ignored. The check uses your attempts.
#
# Solved? Call it for each policy in `attempts`, and compare it with $2p(1 - p)$, where $p$ is the success rate: the share if both attempts were independent. What would a larger share mean?

# %%
from cookbook import exercises


def one_sided(rows):
    ...  # your code


exercises.check_06_2(one_sided, more);

# %% [markdown]
# **Exercise 06.3 ★★★ Why pair?** Two policies were rolled out in the same scenes; `first` and `second` hold their success (1 or 0) scene by scene. Return the standard error of the difference of their means, once from the differences in each scene, and once as if the scenes had been different ones: a pair of numbers. Use variances with n - 1.
#
# Solved? When is the first number smaller than the second?

# %%
import numpy as np

from cookbook import exercises


def standard_errors(first, second):
    ...  # your code


exercises.check_06_3(standard_errors);

# %% [markdown]
# ## Recap
#
# * A policy maps picture, words and joint angles to the next joint targets; in closed loop it corrects itself.
# * It is trained on LeRobot data sets, demonstrated or generated, by the loop of notebook 02.
# * Success is measured in held-out scenes, with two instructions each and an interval over scenes.
# * The worth of generated trajectories is what they add to that success rate.
#
# | Symptom | Cause | Fix |
# |---|---|---|
# | the loss falls, the robot fails | overfitting: too few scenes | more photos; compare with the success rate in training scenes |
# | the same motion for both instructions | the words are ignored | two instructions for each photo; look at $\hat c$ |
# | *item 1 was moved* | the hand pushes another object (they are numbered) | more examples near the objects; execute less of each chunk |
#
# **Read more:** predicting chunks of targets in [ACT](https://arxiv.org/abs/2304.13705) (2023); generated trajectories for policies in [DreamGen](https://arxiv.org/abs/2505.12705) (2025).
#
# **Next:** beyond the guide, [07 · Train the critic](07_training_the_critic.ipynb).
