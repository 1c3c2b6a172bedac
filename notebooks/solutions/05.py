# %% [markdown]
# # Solutions of notebook 05
#
# The source of the exercises in [05_robot_actions.ipynb](../05_robot_actions.ipynb): what stands between BEGIN and END is left out there. These exercises use a run that has finished
# notebook 05. Open this file in JupyterLab as a notebook (right click, *Open With*, *Notebook*), or run it: `python notebooks/solutions/05.py`.

# %%
from cookbook import profiles, runs, show, storage
from cookbook.actions import execute, lerobot
from cookbook.actions.model import load
from cookbook.actions.stage import locate

folder, settings = runs.run_folder(None, "nano"), profiles.get("nano")
rows = storage.read_rows(folder / "actions" / "actions.jsonl")
outcome = storage.read_rows(folder / "executed" / "executed.jsonl")
episodes = lerobot.read(folder / "lerobot").episodes
spec = load(locate(settings, None)).spec

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
    # BEGIN SOLUTION
    # At half the speed the jerk is an eighth: each of the three derivatives halves it.
    return np.sqrt(np.mean((np.diff(row["targets"], 3, axis=0) * row["fps"] ** 3) ** 2))
    # END SOLUTION


exercises.check_05_1(jerk, rows);

# %% [markdown]
# **Exercise 05.2 ★★ Which joints matter?** Return the targets of a row as an array in which every joint whose name begins with `part` stays where it was at the first moment. `names` are the names of the columns.
#
# Solved? The parts are `r_`, `l_` (arms), `hr_`, `hl_` (fingers), `torso` and `head`. Predict which of them the robot needs, then call `without(part)` (at `smoke` no video succeeds). Which one surprises you?

# %%
import numpy as np

from cookbook import exercises


def held(row, names, part):
    # BEGIN SOLUTION
    # One run at nano: without the arm or the fingers of the named hand no video succeeds. Without those of the other
    # hand, or without the head, all still do. With the torso still most fail, because the waist carries both arms.
    targets = np.array(row["targets"])
    still = [k for k, name in enumerate(names) if name.startswith(part)]
    targets[:, still] = targets[0, still]
    return targets
    # END SOLUTION


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
    # BEGIN SOLUTION
    # One run at nano: either the object ended outside the receptacle, or another object was moved. Both are errors of
    # position: the decoded angles are off by some degrees, and a video has no contacts that push things aside.
    return [n for n, e in enumerate(episodes) if e.facts.get("kept") and e.facts.get("success")]
    # END SOLUTION


exercises.check_05_3(chosen_for_training, episodes);
