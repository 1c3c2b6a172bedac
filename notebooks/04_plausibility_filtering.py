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
# # 04 · Judge and filter
#
# ![The pipeline, the box of this notebook marked: you are here](../assets/pictures/pipeline_04.svg)
#
# **Promise.** A critic with a measured accuracy scores every video. The videos that pass become a new training set, with a reason for each.
#
# ![Contact sheets: two clips that were kept, two that were dropped, with the reasons](../assets/pictures/04_plausibility_filtering.jpeg)
#
# *Two videos of the tuned model that were kept and two that were dropped, from the section “Kept, and dropped”.*
#
# You will be able to
# * measure a critic on clips with known faults before you use its scores,
# * turn a language model's probabilities into a score that can be ranked, and
# * choose a threshold by its precision, and measure the gain of best-of-N.
#
# | | |
# |---|---|
# | **Needed** | [03 · Generate videos](03_inference.ipynb) (without it, sample videos stand in, in a folder of their own) |
# | **Helpful** | what a probability and an average are |
# | **Reads** | `generated/base/`, `generated/tuned/`, the calibration clips of the profile |
# | **Writes** | `verdicts/` (`calibration_clips.jsonl`, `calibration.json`, `verdicts.jsonl`), `kept/` (laid out like `data/train`) |
# | **Next** | the report: `cookbook report`, or all at once with `cookbook run` |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | source |
# |---|---|---|---|---|---|
# | `smoke` | 21 s | 1.8 GB | 0 MB | nothing, none | measured 2026-11-28 |
# | `nano` | 87 s | 2.2 GB | 2 MB | nothing, none | measured 2026-11-28 |
# | `2b-smoke` | 4 s | 1 GPU of 80 GB | not measured | [Cosmos-Reason2-2B](https://huggingface.co/nvidia/Cosmos-Reason2-2B) 4.9 GB, gated | calculated |
# | `2b` | 57 s | 1 GPU of 80 GB | not measured | [Cosmos-Reason2-2B](https://huggingface.co/nvidia/Cosmos-Reason2-2B) 4.9 GB, gated | calculated |
# | `14b` | 26 s | 8 GPUs of 80 GB | not measured | [Cosmos-Reason2-8B](https://huggingface.co/nvidia/Cosmos-Reason2-8B) 17.5 GB, gated | calculated |
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
threshold: float = 0.0  # score from 1 to 5 for both questions, 0 for the calibrated ones
top: int = 0  # keep only so many of each prompt, 0 for all that pass
rater: str = "me"  # name under which your own ratings are kept

# %%
from cookbook import budget, doctor, profiles, report, results, runs, storage, samples, show
from cookbook.judge.calibration import calibrate, quiz, read_frames
from cookbook.judge.filter import filter_clips
from cookbook.judge.ratings import Rating
from cookbook.judge.stage import judge

settings = profiles.get(profile)
budget.plan(profile, "04")
doctor.require(profile)
folder = samples.with_generated(profile, runs.run_folder(run or None, profile))

# %% [markdown]
# ## 4. Inference with Reason 2 for plausibility check and filtering
#
# The guide asks Cosmos Reason 2 one question, for one digit, and keeps 4 and 5. Three things are missing. The accuracy of that digit is unknown. There is no rule for a 3. And the question does not cover
# whether the robot carried out the *instruction*. So here
#
# * there are two questions: `physics` (could this be real?) and `instruction` (was exactly that done?),
# * the score is not the digit but its expectation under the model's own probabilities of the five digits,
#
# $$ s = \sum_{k=1}^{5} k \cdot p(k \mid \text{video}, \text{question}) , $$
#
#   which ranks clips with the same digit and needs no parsing of prose, and
# * the critic is **calibrated first**.
#
# ### 4.1 Calibrate the critic
#
# Calibration clips have known labels: real clips, and clips with an injected fault (an object jumps, vanishes, floats or passes through another; the wrong object is picked, or the wrong hand is used). Try it yourself first.
#
# **What you should see:** four clips, six frames of each. Two of them are impossible. Write down which, before you go on.

# %%
clips = quiz(settings, folder)
show.show_sheet([read_frames(clip)[0] for clip in clips], [f"clip {number}" for number in range(4)])

# %% [markdown]
# Now the critic. The area under the ROC curve measures how well its scores separate valid from invalid clips. It is the chance that a valid clip scores above an invalid one:
#
# $$ \mathrm{AUC} = P(s_{\text{valid}} > s_{\text{invalid}}) . $$
#
# 1 is perfect, 0.5 is chance. The threshold is the score that separates valid from invalid clips best, among those scores at which at least three of four clips that pass are valid (if both were equally many). Where no score reaches that, it
# is the score of best separation, and the printed rule says so. The threshold also decides about a score of 3.
#
# **What you should see:** for each question the AUC, its 95 % CI and the threshold. Then the AUC on held-out corruptions (frames shuffled, reversed or cut out; regions pasted or erased), which need no simulator and can be made from *any* clips, also from
# those of `2b`. Then the mean change of a score when the same clip is re-encoded. If the interval includes 0.5, do not trust this critic yet.
#
# <!-- figures: critic -->
#
# | figure | published run | expect |
# |---|---|---|
# | physics: AUC | 0.984 | 0.966 to 0.996 |
# | instruction: AUC | 0.972 | 0.934 to 0.997 |
#
# `cookbook run` at `nano`, CPU, 2 cores, AMD EPYC, 2026-11-28.
# Expect its 95 % CI over scenes. Below the lower end, suspect the critic's files.
#
# <!-- /figures: critic -->

# %%
critic = calibrate(profile, run=folder)

# %% [markdown]
# **What you should see:** the labels of your four clips and the critic's scores. If an invalid clip scores above a valid one, that is what an AUC means: at 0.98, one pair of a valid and an invalid clip in fifty is ranked the wrong way round. No threshold corrects that;
# it only chooses which mistake is more frequent.

# %%
import pandas as pd

pd.set_option("display.max_colwidth", None)
rows = storage.read_rows(folder / "verdicts" / "calibration_clips.jsonl")
physics = {row["file"]: row["score"] for row in rows if row["question"] == "physics"}
pd.DataFrame([{"kind": clip.kind, "physics": physics.get(clip.name)} for clip in clips])

# %% [markdown]
# **What you should see:** curves above the dotted line. The table shows the AUC per fault and the number of clips. A kind near 0.5 is one that the critic cannot detect, and - means that the question does not apply. Few clips give a
# rough figure: with 6 invalid ones, 0.7 and 0.9 are not significantly different. At `nano` look at `erased`, the lowest, which is not in the critic's training data. A region erased where nothing stands or moves is hardly visible.
# A frozen clip, or one with another's prompt, breaks no law of physics, so only the instruction is scored there.

# %%
report.plot_roc(folder);

# %%
report.critic_by_kind(folder).astype(object).fillna("-")

# %% [markdown]
# ### 4.2 Your own eye
#
# Injected faults are not the faults that a world model makes. For those you are the measure: rate some videos, without knowing which model made them or how the critic scored them. Your ratings are appended to `ratings.jsonl` in the run's folder.
# The calibration reads them: rated videos are calibration clips like the others, and the agreement of critic and people is reported as Cohen's kappa with quadratic weights (1 is agreement, 0 is chance).
#
# To compare two videos of one prompt, show both with `show.show_video` before you rate them.
#
# **What you should see:** a video with a row of buttons for each question. Tab and Enter press the buttons, too. In an executed copy there are pictures of the videos instead.

# %%
rating = Rating(folder, rater)
rating.show()

# %% [markdown]
# Run the next cell after rating. **What you should see:** the number of your ratings and, if there are any, the agreement.

# %%
print(len(rating.done), "ratings by", rater)
critic = calibrate(profile, run=folder)
pd.DataFrame(critic["human"]).T

# %% [markdown]
# ### 4.3 Verdicts
#
# Now every video of both models gets both scores. Each row also holds what the critic received after its processor: frames, rate and visual tokens. Check this, because a
# processor that samples two frames turns a video into a photograph.
#
# **What you should see:** the number of clips, and how often each model's clips follow their instruction by the critic's score. Where the scenes are known, also the success rate by the ground truth.
#
# <!-- figures: verdicts -->
#
# | figure | published run | expect |
# |---|---|---|
# | tuned: instruction followed, by the critic | 0.8 | 0.632 to 0.929 |
# | tuned: success rate, by the ground truth | 0.8 | 0.596 to 0.941 |
# | gain: followed, tuned minus base, by the critic | 0.7 | 0.5 to 0.9 |
#
# `cookbook run` at `nano`, CPU, 2 cores, AMD EPYC, 2026-11-28.
# Expect the 95 % CI over prompts: other machines round differently, so that their videos differ.
#
# <!-- /figures: verdicts -->

# %%
verdicts = judge(profile, run=folder)

# %%
first = storage.read_rows(folder / "verdicts" / "verdicts.jsonl")[0]
columns = ("file", "question", "score", "digit", "probabilities", "frames", "fps", "visual_tokens")
pd.Series({key: first[key] for key in columns}).to_frame("first verdict")

# %% [markdown]
# **What you should see:** the distribution of both models' scores, and the thresholds. Two humps mean a critic with clear decisions; one lump in the middle means the opposite. But what separates the two *models* is plain to see
# (an arm that carries an object, or draws back). What separates a good tuned clip from a bad one is less obvious, and that is what the filter needs.

# %%
report.plot_scores(folder);

# %% [markdown]
# **What you should see:** the gain of post-training on the prompts and seeds that both models share. The 95 % CI is over prompts, because the seeds of one prompt are not
# independent. It rests on the critic's scores, so trust it as far as the ROC allows.

# %%
results.gain(folder)

# %% [markdown]
# The best and the worst video of the tuned model, by the lower of the two scores, with the ground truth where it is known. **What you should see:** a difference that you would rate the same way. At `nano` you may not: then
# trust your own rating, and compare below how accurate this critic is on generated videos.

# %%
tuned = results.scores(folder).query("model == 'tuned'")
order = tuned[["physics", "instruction"]].min(axis=1).sort_values().index
ends = tuned.loc[[order[-1], order[0]]]
outcomes = {row["file"]: row["outcome"] for row in storage.read_rows(folder / "verdicts" / "ground_truth.jsonl")}
titles = [f"{row.physics:.2f}, {row.instruction:.2f}, {outcomes.get(row.file, '')}: {row.prompt}" for row in ends.itertuples()]
show.show_video([folder / file for file in ends["file"]], ["best", "worst"], height=144)
show.show_sheet([folder / file for file in ends["file"]], titles)

# %% [markdown]
# ### 4.4 The filter
#
# A video is kept if both scores reach their thresholds. Of videos that look the same, only one is kept; with `top`, only the best of each prompt. `kept/` has the layout of `data/train`, so it can be used for training as it is: `cookbook train --data <run>/kept`.
#
# **What you should see:** how many were kept, and for which question the others were dropped.

# %%
filtered = filter_clips(profile, run=folder, threshold=threshold or None, top=top or None)

# %%
kept, dropped = report.kept_and_dropped(folder)
pd.concat([dropped, kept])[["video", "kept", "reason"]].head(12)

# %% [markdown]
# **How far can I trust this?** At `smoke` and `nano` the photos come from our simulator, so there is a ground truth without a critic. The masks of the named object and place are known in the photo. The object is
# tracked by its colours, and rules on pixels decide whether it ended in its place, whole, single and out of the hand (`cookbook/judge/rules.py`). Real photos come without masks; there the critic's ROC on calibration clips is the only evidence.
#
# **What you should see:** the outcomes of both models, and then how critic and filter compare with them. `auc` is the chance that a successful video has a higher mean of both scores than a failed one.
# If `kept` is above `all`, filtering helped; the `interval` of the `gain`, their difference, shows whether by more than chance. A filter that keeps everything gains 0.

# %%
report.outcomes(folder)

# %%
results.critic_against_ground_truth(folder)

# %% [markdown]
# **Read it before you train on `kept/`.** If `auc` is near or below 0.5, the filter is no better than chance, however good the ROC on calibration clips is: injected faults are not the faults of a world model. The shipped critic reaches
# AUC 0.98 and 0.97 on injected faults, but 0.78 on 280 videos of the tuned model ([model card](../assets/nano/README.md)), and its training already included generated videos with their ground truth. [07](07_training_the_critic.ipynb) shows such a training; without a simulator, the labels are
# your ratings of 4.2. So measure your critic on videos of your own world model before you use its filter.

# %% [markdown]
# ### 4.5 Best of N
#
# Is it worth generating more videos per prompt? If $c$ of $k$ seeds of a prompt are kept, the chance that at least one of $N$ drawn seeds is kept is
#
# $$ 1 - \binom{k-c}{N} \Big/ \binom{k}{N} , $$
#
# averaged over prompts.
#
# The second curve takes the video with the highest score among $N$ and plots its success rate by the ground truth, over all subsets of $N$ of the $k$ seeds (an unbiased
# estimate). A critic without information gives a flat line.
#
# **What you should see:** the chance that one of $N$ is kept rises. Where it flattens, more seeds only cost time. The second curve rises only if the critic ranks the better video higher; the band is its 95 % CI over prompts. The `gain` is that success rate minus that of a random video of the same prompt. As long as its interval includes 0, best-of-$N$ is not proven to be better than a random choice.

# %%
report.plot_best_of_n(folder);

# %%
pd.DataFrame(verdicts["best_of_n"]).set_index("n")

# %% [markdown]
# ### Kept, and dropped
#
# **What you should see:** two kept videos above, two dropped ones below, each of another prompt, with the ground truth where it is known. Look for the critic's mistakes. On another machine the videos may differ, because scores near the threshold may fall on either side.

# %% tags=["picture"]
chosen = pd.concat([rows.drop_duplicates("prompt").head(2) for rows in (kept, dropped)])
titles = [f"{row.video[:40]}: {row.reason}; {outcomes.get(row.file, '')}" for row in chosen.itertuples()]
show.show_sheet([folder / file for file in chosen["file"]], titles)

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved: the check then gives a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/04.py`; try first.

# %% [markdown]
# **Exercise 04.1 ★ Expected score.** `probabilities` are those of the digits 1 to 5. Return the score. Which two very different critics give 3?

# %%
from cookbook import exercises


def score(probabilities):
    ...  # your code


exercises.check_04_1(score);

# %% [markdown]
# **Exercise 04.2 ★★ AUC by hand.** `valid` and `invalid` are scores of calibration clips. Return the share of pairs (one valid, one invalid) in which the valid clip scores higher; a tie counts half. What is the AUC of a critic that gives 3 to every clip?

# %%
from cookbook import exercises


def auc(valid, invalid):
    ...  # your code


exercises.check_04_2(auc);

# %% [markdown]
# **Exercise 04.3 ★★★ Best of N.** Of `seeds` videos of a prompt, `kept` pass the filter. You draw `draws` of them without putting any back. How likely is it that at least one of those passes?

# %%
import math

from cookbook import exercises


def any_kept(kept, seeds, draws):
    ...  # your code


exercises.check_04_3(any_kept);

# %% [markdown]
# ## Recap
#
# * A critic's scores are worth what its calibration shows: AUC per question and per kind of fault, with 95 % CI.
# * The expected score ranks clips; the threshold comes from the required precision, not from a digit.
# * `kept/` is a training set, and every clip in it has a reason.
#
# | Symptom | Cause | Fix |
# |---|---|---|
# | everything passes | a lenient critic, or a manual threshold that is too low | check the ROC; leave `threshold` at 0 |
# | nothing is kept | weak videos, or a critic near 0.5, which gets an extreme threshold | more training steps, more seeds; read the reasons |
# | *calibration.json is missing* | the critic was not calibrated | run the cells of 4.1, or `cookbook calibrate` |
# | few `visual_tokens` in the verdicts | the processor shrank or thinned the video | the profile's `critic_fps` and `critic_tokens` |
#
# **Read more:** [Cosmos Reason 2](https://github.com/nvidia-cosmos/cosmos-reason2); physics as rated by people in [VideoPhy-2](https://arxiv.org/abs/2503.06800) (2025); the unbiased estimate of best-of-$N$ in
# [Chen et al.](https://arxiv.org/abs/2107.03374) (2021), there called pass@k.
#
# **Next:** `cookbook report` puts all of this on one page.
