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
# **Promise.** A critic whose error is known scores every video, and what passes becomes a new training set, with the reason for each clip.
#
# ![Contact sheets: two clips that were kept, two that were dropped, with the reasons](../assets/pictures/04_plausibility_filtering.jpeg)
#
# *Two videos of the tuned model that were kept and two that were dropped, from the section “Kept, and dropped”.*
#
# You will be able to
# * measure a critic on clips whose faults you know, before you believe it,
# * turn a language model's probabilities into a score that can be ranked, and
# * choose a threshold by the precision it gives, and say what best-of-N is worth.
#
# | | |
# |---|---|
# | **Needed** | [03 · Generate videos](03_inference.ipynb) (without it, sample videos stand in, in a folder of their own) |
# | **Helpful** | what a probability and an average are |
# | **Reads** | `generated/base/`, `generated/tuned/`, the controls of the profile |
# | **Writes** | `verdicts/` (`calibration_clips.jsonl`, `calibration.json`, `verdicts.jsonl`), `kept/` (laid out like `data/train`) |
# | **Next** | the report: `cookbook report`, or all at once with `cookbook run` |
#
# <!-- measured -->
#
# | profile | time | memory | writes | download, licence | how known |
# |---|---|---|---|---|---|
# | `smoke` | 34 s | 1.9 GB | 0 MB | nothing, none | measured 2026-11-26 |
# | `nano` | 1.6 min | 2.1 GB | 1 MB | nothing, none | measured 2026-11-26 |
# | `2b` | 57 s | 17 GB on one GPU | little | [Cosmos-Reason2-2B](https://huggingface.co/nvidia/Cosmos-Reason2-2B) 4.9 GB, gated | calculated |
# | `14b` | 26 s | 30 GB on each of 8 GPUs | little | [Cosmos-Reason2-8B](https://huggingface.co/nvidia/Cosmos-Reason2-8B) 17.5 GB, gated | calculated |
#
# **Last verified** 2026-11-26 at `nano`, commit 66fd213: python 3.11.7, torch 2.14.1, diffusers 0.42.1, transformers 5.23.0; CPU, 2 cores, Intel(R) Xeon(R) Processor with AMX.
# *Measured* is `cookbook run`; *calculated* rests on [figures from an H100](../docs/gpu_figures.md) with
# random weights; `cookbook train --profile 2b --plan` says more. Colab and Binder:
# [not tried](../setup.md#colab-and-binder), so there is no badge.
#
# <!-- /measured -->

# %% tags=["parameters"]
profile: str = "nano"  # smoke, nano, 2b or 14b
run: str = ""  # run folder, empty for runs/<profile>
threshold: float = 0.0  # score from 1 to 5 for both questions, 0 for the calibrated ones
top: int = 0  # keep only so many of each prompt, 0 for all that pass
rater: str = "me"  # under which name your own marks are kept
explain: bool = False  # let the critic also write its reasons (real critics only)

# %%
from cookbook import budget, doctor, profiles, report, results, runs, samples, show
from cookbook.judge import calibration
from cookbook.judge.stage import judge
from cookbook.judge.filter import filter_clips
from cookbook.judge.ratings import Rating

settings = profiles.get(profile)
budget.plan(profile, "04")
doctor.require(profile)
folder = samples.with_generated(profile, runs.run_folder(run or None, profile))

# %% [markdown]
# ## 4. Inference with Reason 2 for plausibility check and filtering
#
# The guide asks Cosmos Reason 2 once, with one question, for one digit, and keeps 4 and 5. Three things are missing: nobody knows how often that digit is right, what to do with
# a 3, and whether the video did *what it was told*. So here
#
# * two questions are asked: `physics` (could this be real?) and `instruction` (did it do exactly that?),
# * the score is not the digit but its expectation under the model's own probabilities of the five digits,
#
# $$ s = \sum_{k=1}^{5} k \cdot p(k \mid \text{video}, \text{question}) , $$
#
#   which ranks clips that all get the same digit, and needs no parsing of prose, and
# * the critic is **measured first**.
#
# ### 4.1 The critic on planted fakes
#
# The controls are clips whose truth we know: real ones, and copies in which something was broken on purpose (an object jumps, vanishes, floats, passes through another; the wrong thing is picked, or the wrong hand is used). You first.
#
# **What you should see:** four clips, six moments of each. Two of them are impossible. Write down which, before you go on.

# %%
fakes = calibration.puzzle(settings, folder)
show.show_sheet([calibration.frames(fake)[0] for fake in fakes], [f"clip {number}" for number in range(4)])

# %% [markdown]
# Now the critic. How well its scores separate sound from broken is the area under the ROC curve, the chance that a sound clip scores above a broken one:
#
# $$ \mathrm{AUC} = P(s_{\text{sound}} > s_{\text{broken}}) . $$
#
# 1 is perfect, 0.5 is a coin toss. The threshold is the score that separates sound from broken best, among those at which at least three of four clips that pass are sound (were there as many broken ones); where no score reaches that, it
# is the best separation all the same, and says so. It is also the answer to what to do with a 3: what the threshold says.
#
# **What you should see:** for each question AUC, its interval and the threshold; then the AUC on faults made without a simulator (frames shuffled, reversed, cut out; regions pasted or erased), which can be made of *any* clips, also of
# those at `2b`; then how much a score moves when the very same clip is encoded once more. An interval that includes 0.5 means: do not trust this critic yet.
#
# <!-- figures: critic -->
#
# | figure | published run | expect |
# |---|---|---|
# | physics: AUC | 0.976 | 0.95 to 0.995 |
# | instruction: AUC | 0.997 | 0.99 to 1 |
#
# `cookbook run` at `nano`, CPU, 2 cores, Intel(R) Xeon(R) Processor with AMX, 2026-11-26.
# Expect its 95 % interval over scenes. Below the lower end, suspect the critic's files.
#
# <!-- /figures: critic -->

# %%
critic = judge(profile, run=folder, calibrate=True)

# %% [markdown]
# **What you should see:** the truth of your four clips, and what the critic gave them. If a fake scores above a real clip, that is what an AUC means: at 0.98, one pair of a real and a broken clip in fifty stands the wrong way round. No threshold mends that;
# it only chooses which mistake to make more often.

# %%
import pandas as pd

pd.set_option("display.max_colwidth", None)
told = {(row["file"], row["question"]): row["score"] for row in runs.read_rows(folder / "verdicts" / "calibration_clips.jsonl")}
pd.DataFrame([{"truth": fake.kind, "physics": told.get((fake.name, "physics"))} for fake in fakes])

# %% [markdown]
# **What you should see:** curves above the dotted line. The table shows which faults the critic sees, on how many clips each; a kind near 0.5 is one it is blind to, and - means that this question is not asked of it. Few clips make a
# rough figure: with 6 broken ones, 0.7 and 0.9 are not surely different. At `nano` look at `erased`, the lowest, which the critic was never trained on: a region erased where nothing stands or moves can hardly be seen by anybody,
# and a frozen clip or one with another's prompt breaks no law of physics, so there only the instruction is asked about.

# %%
report.plot_roc(folder);

# %%
report.critic_by_kind(folder).astype(object).fillna("-")

# %% [markdown]
# ### 4.2 Your own eye
#
# Planted faults are not the faults that a world model makes. For those you are the measure: mark some videos, blind to which model made them and to what the critic says. Your marks go to `ratings.jsonl` in the run's folder, and the
# calibration takes them in: marked videos are controls like the others, and the agreement of critic and people is stated as Cohen's kappa with quadratic weights (1 agreement, 0 what chance gives).
#
# Two videos of one prompt are easier to tell apart than one is to mark: `Rating(folder, rater, pairs=True)` shows them side by side. Tab and Enter press the buttons, too.
#
# **What you should see:** a video with a row of buttons for each question. In an executed copy, where nobody can press them, pictures of the videos.

# %%
rating = Rating(folder, rater)
rating.show()

# %% [markdown]
# Run the next cell when you have marked. **What you should see:** the number of your marks and, with marks, the agreement.

# %%
print(len(rating.done), "marks by", rater)
critic = judge(profile, run=folder, calibrate=True)
pd.DataFrame(critic["human"]).T

# %% [markdown]
# ### 4.3 Verdicts
#
# Now every video of both models gets both scores. Each row says what the critic really saw: frames, rate and visual tokens after its processor had its way with the video. That is worth a look, since a
# processor that samples two frames judges a photograph.
#
# **What you should see:** the number of clips, and how often the critic finds the instruction carried out, base against tuned; where the scenes are known, also how often it really was.
#
# <!-- figures: verdicts -->
#
# | figure | published run | expect |
# |---|---|---|
# | tuned: instruction followed, says the critic | 0.825 | 0.575 to 1 |
# | tuned: object placed, by the truth | 0.65 | 0.4 to 0.9 |
# | gain: followed, tuned minus base, says the critic | 0.7 | 0.4 to 0.9 |
#
# `cookbook run` at `nano`, CPU, 2 cores, Intel(R) Xeon(R) Processor with AMX, 2026-11-26.
# Expect the 95 % interval over prompts: another machine rounds otherwise, so that its clips differ.
#
# <!-- /figures: verdicts -->

# %%
verdicts = judge(profile, run=folder, explain=explain)

# %%
first = runs.read_rows(folder / "verdicts" / "verdicts.jsonl")[0]
shown = ("file", "question", "score", "digit", "probabilities", "frames", "fps", "visual_tokens", "explanation")
pd.Series({key: first[key] for key in shown}).to_frame("first verdict")

# %% [markdown]
# **What you should see:** how the scores of both models spread, and where the thresholds lie. Two humps mean a critic that is decided; one lump in the middle means one that is not. But decided about what? What sets the two *models* apart is plain to see
# (an arm that carries, or goes back); what sets a good tuned clip apart from a bad one is less so, and that is what the filter needs.

# %%
report.plot_scores(folder);

# %% [markdown]
# **What you should see:** the gain of post-training on the prompts and seeds that both models made, with an interval over prompts, because the seeds of one prompt are not
# independent. It is the critic's opinion: believe it as far as its ROC allows.

# %%
results.gain(folder)

# %% [markdown]
# The best and the worst video of the tuned model, by the lower of the two scores, with what they really did where that is known. **What you should see:** a difference that you would have called, too. At `nano` you may well not: then
# trust your eye, and see below how much this critic's opinion of dreams is worth.

# %%
tuned = results.scores(folder).query("model == 'tuned'")
order = tuned[["physics", "instruction"]].min(axis=1).sort_values().index
ends = tuned.loc[[order[-1], order[0]]]
truly = results.outcome_by_file(folder)
titles = [f"{row.physics:.2f}, {row.instruction:.2f}, {truly.get(row.file, '')}: {row.prompt}" for row in ends.itertuples()]
show.show_video([folder / file for file in ends["file"]], ["best", "worst"], height=144)
show.show_sheet([folder / file for file in ends["file"]], titles)

# %% [markdown]
# ### 4.4 The filter
#
# A video is kept if both scores reach their thresholds, only once if others look the same, and with `top` only if it is among the best of its prompt. `kept/` has the layout of `data/train`, so it can be trained on as it is: `cookbook train --data <run>/kept`.
#
# **What you should see:** how many were kept, and for which question the others fell.

# %%
filtered = filter_clips(profile, run=folder, threshold=threshold or None, top=top or None)

# %%
kept, dropped = report.kept_and_dropped(folder)
pd.concat([kept, dropped])[["video", "kept", "reason"]].head(12)

# %% [markdown]
# **How far can I trust this?** At `smoke` and `nano` the scenes are our own, so there is an answer that no critic gave: the masks of the named object and place are known in the photo, the object is
# followed by its colours, and rules on pixels say whether it ended in its place, whole, single, and let go (`cookbook/judge/rules.py`). Real photos come without masks; there the critic's ROC on planted fakes is all one has.
#
# **What you should see:** what the dreams of both models really did, and then how the critic and its filter compare: `auc` is the chance that a dream that placed got a higher mean of both scores than one that did not;
# `kept` above `all` means that filtering helped, and the `interval` of their difference, the `gain`, whether by more than chance. A filter that keeps everything gains 0.

# %%
report.outcomes(folder)

# %%
results.critic_against_ground_truth(folder)

# %% [markdown]
# **Read it before you train on `kept/`.** An `auc` near or below 0.5 means that the filter is no better than a coin, or worse, however good the ROC on planted fakes looks: planted faults are not the faults that a world model makes. The critic that
# this cookbook shipped first had 0.84 and 0.82 on planted fakes and 0.48 on dreams (by the score for the instruction alone), and what its filter kept, at the thresholds of then, placed *less* often than all dreams (57 against 68 %). Its successor learnt from more clips, for longer,
# and with dreams among them, labelled by the truth; which of these helped how much was not taken apart. [05](05_training_the_critic.ipynb) shows how such clips are taught; elsewhere the labels are your marks of 4.2. So measure your critic on clips of your own world model before you believe its filter.

# %% [markdown]
# ### 4.5 Best of N
#
# Is it worth making more videos per prompt? If $c$ of $k$ seeds of a prompt are kept, then the chance that at least one of $N$ drawn seeds is kept is
#
# $$ 1 - \binom{k-c}{N} \Big/ \binom{k}{N} , $$
#
# averaged over prompts.
#
# That counts videos; what they are worth is another matter. The second curve follows the video that the critic picks among $N$, and asks the truth whether it placed. Over all subsets of $N$ of the $k$ seeds made (an unbiased
# estimate), a critic that knows nothing gives a flat line.
#
# **What you should see:** the chance that one of $N$ is kept rises, and where it flattens, more seeds only cost time. The pick's curve rises only if the critic knows which video is better; the band is its interval over prompts. Then, for the pick of $N$, the `gain` over a random video of the same prompt: as long as its interval includes 0, this critic's pick
# is not proven to be better than a draw.

# %%
report.plot_best_of_n(folder);

# %%
pd.DataFrame(verdicts["best_of_n"]).set_index("n")

# %% [markdown]
# ### Kept, and dropped
#
# **What you should see:** two kept videos above, two dropped ones below, each of another prompt, with what they really did where that is known. Look for what the critic misses; its mistakes are the next thing to work on. Which videos these are may differ on another machine: scores near the threshold fall either way.

# %% tags=["picture"]
chosen = pd.concat([report.one_each(kept, 2), report.one_each(dropped, 2)])
titles = [f"{row.video[:40]}: {row.reason}; {truly.get(row.file, '')}" for row in chosen.itertuples()]
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
# **Exercise 04.2 ★★ AUC by hand.** `sound` and `broken` are scores of clips of known truth. Return the share of pairs (one sound, one broken) in which the sound clip scores higher; a tie counts half. What does a critic get that gives 3 to every clip?

# %%
from cookbook import exercises


def auc(sound, broken):
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
# * A critic is believed as far as it was measured: AUC per question and per kind of fault, with intervals.
# * The expected score ranks; the threshold comes from the precision one wants, not from a digit.
# * `kept/` is a training set, and every clip in it has its reason.
#
# | Symptom | Cause | Fix |
# |---|---|---|
# | everything passes | a lenient critic, or a threshold by hand that is too low | look at the ROC; leave `threshold` at 0 |
# | nothing is kept | weak videos, or a critic near 0.5 whose threshold is extreme | more training steps, more seeds; read the reasons |
# | *calibration.json is missing* | the critic was never measured | run the cells of 4.1 |
# | *verdicts was made from other inputs: marks* | you marked videos after they were judged | `cookbook judge --redo`, then `cookbook filter --redo` |
# | few `visual_tokens` in the verdicts | the processor shrank or thinned the video | the profile's `critic_fps` and `critic_tokens` |
#
# **Read more:** [Cosmos Reason 2](https://github.com/nvidia-cosmos/cosmos-reason2); physics as people mark it in [VideoPhy-2](https://arxiv.org/abs/2503.06800) (2025); the unbiased estimate of best-of-$N$ in
# [Chen et al.](https://arxiv.org/abs/2107.03374) (2021), there called pass@k.
#
# **Next:** `cookbook report` puts all of this on one page.
