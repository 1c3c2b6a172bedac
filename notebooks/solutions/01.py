# %% [markdown]
# # Solutions of notebook 01
#
# The source of the exercises in [01_preparing_data.ipynb](../01_preparing_data.ipynb): what stands between BEGIN and END is left out there. Open this file in JupyterLab
# as a notebook (right click, *Open With*, *Notebook*), or run it: `python notebooks/solutions/01.py`.

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
    # BEGIN SOLUTION
    # Doubling height and width makes it four times as long, and attention between all tokens sixteen times as costly.
    return (1 + (frames - 1) // 4) * (height // 16) * (width // 16)
    # END SOLUTION


exercises.check_01_1(tokens);

# %% [markdown]
# **Exercise 01.2 ★★ Is the clip long enough?** The profile wants a window of `frames` at `fps`. How many frames must a file have that was filmed at `file_fps`, so that one window fits? (`prepare` refuses shorter ones.)

# %%
from cookbook import exercises


def needed(frames, fps, file_fps):
    # BEGIN SOLUTION
    return int((frames - 1) * file_fps / fps) + 1
    # END SOLUTION


exercises.check_01_2(needed);

# %% [markdown]
# **Exercise 01.3 ★★ What do the words decide?** `prompts` are the instructions of one photo. Return the set of words that are in some of them but not in all, in lower case and without commas and full stops. The check uses your held-out photos.
#
# Solved? Group your `photos` by `photo.image.read_bytes()`, and call `differing` on the prompts of each group. Could a model tell from the picture alone which instruction is meant?

# %%
from cookbook import exercises


def differing(prompts):
    # BEGIN SOLUTION
    # It could not: the picture is the same for all of them. So a model that obeys has to read its instruction.
    words = [set(prompt.lower().replace(",", "").replace(".", "").split()) for prompt in prompts]
    return set.union(*words) - set.intersection(*words)
    # END SOLUTION


exercises.check_01_3(differing, photos);
