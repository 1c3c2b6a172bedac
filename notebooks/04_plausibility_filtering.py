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
# | `smoke` | 27 s | 1.9 GB | 0 MB | nothing, none | measured 2026-11-29 |
# | `nano` | 1.8 min | 2.3 GB | 1 MB | nothing, none | measured 2026-11-29 |
# | `2b-smoke` | 4 s | 1 GPU of 80 GB | not measured | [Cosmos-Reason2-2B](https://huggingface.co/nvidia/Cosmos-Reason2-2B) 4.9 GB, gated | calculated |
# | `2b` | 57 s | 1 GPU of 80 GB | not measured | [Cosmos-Reason2-2B](https://huggingface.co/nvidia/Cosmos-Reason2-2B) 4.9 GB, gated | calculated |
# | `14b` | 26 s | 8 GPUs of 80 GB | not measured | [Cosmos-Reason2-8B](https://huggingface.co/nvidia/Cosmos-Reason2-8B) 17.5 GB, gated | calculated |
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
threshold: float = 0.0  # score from 1 to 5 for both questions, 0 for the calibrated ones
top: int = 0  # keep only so many of each prompt, 0 for all that pass
rater: str = "me"  # name under which your own ratings are kept

# %%
from cookbook import budget, doctor, profiles, report, results, runs, samples, show, storage, video
from cookbook.judge.calibration import calibrate, gather, quiz, read_frames
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
# The guide asks Cosmos Reason 2 one question, for one digit, and keeps 4 and 5. Three things are missing: how accurate the digit is, what to do with a 3, and whether the *instruction* was carried out. So here
#
# * there are two questions: `physics` (could this be real?) and `instruction` (was exactly that done?),
# * the score is the expected digit, $s = \sum_{k=1}^{5} k \cdot p(k \mid \text{video}, \text{question})$, which ranks clips with the same digit, and
# * the critic is **calibrated first**.
#
# ### 4.1 Calibrate the critic
#
# Calibration clips have known labels: real clips, and clips with an injected fault (an object jumps, vanishes or floats; the wrong hand or object is used). Try it yourself first.
#
# **What you should see:** four clips. Two of them are impossible. Write down which.

# %%
clips = quiz(settings, folder)
show.show_sheet([read_frames(clip)[0] for clip in clips], [f"clip {number}" for number in range(4)], columns=5)

# %% [markdown]
# Now the critic scores all calibration clips, and held-out corruptions (frames shuffled, reversed or cut out; regions pasted or erased).
#
# **What you should see:** for each question the AUC, its 95 % CI and the threshold; then the AUC on the corruptions.
#
# <!-- figures: critic -->
#
# | figure | published run | expect |
# |---|---|---|
# | physics: AUC | 0.984 | 0.966 to 0.996 |
# | instruction: AUC | 0.972 | 0.934 to 0.997 |
#
# `cookbook run` at `nano`, CPU, 2 cores, AMD EPYC, 2026-11-29.
# Expect its 95 % CI over scenes. Below the lower end, suspect the critic's files.
#
# <!-- /figures: critic -->

# %%
critic = calibrate(profile, run=folder)

# %% [markdown]
# **What you should see:** the labels of your four clips, and the critic's scores.

# %%
import pandas as pd

pd.set_option("display.max_colwidth", None)
rows = storage.read_rows(folder / "verdicts" / "calibration_clips.jsonl")
physics = {row["file"]: row["score"] for row in rows if row["question"] == "physics"}
pd.DataFrame([{"kind": clip.kind, "physics": physics.get(clip.name)} for clip in clips])

# %% [markdown]
# **AUC by counting.** Take each pair of a valid and an invalid clip. How often does the valid one have the higher score? That share is the *area under the ROC curve*: 1 is perfect, 0.5 is chance.
#
# **What you should see:** the same number twice, counted here and from `calibrate`.

# %%
main = {(clip.name, clip.kind) for clip in gather(settings, folder)[0]}  # without the corruptions
asked = [row for row in rows if row["question"] == "physics" and (row["file"], row["kind"]) in main]
scores = {label: [row["score"] for row in asked if row["label"] == label] for label in (1, 0)}
pairs = [(valid > invalid) + (valid == invalid) / 2 for valid in scores[1] for invalid in scores[0]]
print(f"{len(scores[1])} valid x {len(scores[0])} invalid clips = {len(pairs)} pairs")
print(f"counted {sum(pairs) / len(pairs):.4f}, from calibrate {critic['questions']['physics']['auc']:.4f}")

# %% [markdown]
# **What it means.** At 0.98, one pair in fifty is ranked the wrong way round. A threshold only chooses which mistake is more frequent. If the 95 % CI includes 0.5, do not trust this critic yet.
#
# The threshold is the score that separates best, among those at which three of four clips that pass are valid (if both were equally many).
#
# **What you should see:** curves above the dotted line of chance.

# %%
report.plot_roc(folder);

# %% [markdown]
# **What you should see:** the AUC per kind of fault, and the number of clips. A dash means that the question does not apply.

# %%
report.critic_by_kind(folder).astype(object).fillna("-")

# %% [markdown]
# **What it means.** A kind near 0.5 is one that the critic cannot detect. With 6 invalid clips, 0.7 and 0.9 are not significantly different. A frozen clip, or one with another's prompt, breaks no law of physics, so only the instruction is scored.
#
# ### 4.2 Your own eye
#
# Injected faults are not those that a world model makes. For these you are the measure: rate some videos, without knowing which model made them. `ratings.jsonl` keeps the ratings, and rated videos become calibration clips. Seeing the critic's score of one clip may sway you on the next.
#
# **What you should see:** a video and buttons (Tab and Enter work); of a rated video, the critic's score and ground truth once known. Headless, pictures.

# %%
rating = Rating(folder, rater)
rating.show()

# %% [markdown]
# Run the next cell after rating. Agreement is Cohen's kappa with quadratic weights: 1 is agreement, 0 is chance.
#
# **What you should see:** the number of your ratings and, if there are any, the agreement.

# %%
print(len(rating.done), "ratings by", rater)
critic = calibrate(profile, run=folder)
pd.DataFrame(critic["human"]).T

# %% [markdown]
# ### 4.3 Verdicts
#
# Now every video of both models gets both scores.
#
# **What you should see:** how often each model follows its instruction, by critic and by ground truth; then your ratings, each beside both.
#
# <!-- figures: verdicts -->
#
# | figure | published run | expect |
# |---|---|---|
# | tuned: instruction followed, by the critic | 0.8 | 0.632 to 0.929 |
# | tuned: success rate, by the ground truth | 0.8 | 0.596 to 0.941 |
# | gain: followed, tuned minus base, by the critic | 0.7 | 0.5 to 0.9 |
#
# `cookbook run` at `nano`, CPU, 2 cores, AMD EPYC, 2026-11-29.
# Expect the 95 % CI over prompts: other machines round differently, so that their videos differ.
#
# <!-- /figures: verdicts -->

# %%
verdicts = judge(profile, run=folder)
for file in sorted({file for file, _ in rating.done}):
    print(rating.reveal(file))

# %% [markdown]
# **What you should see:** one verdict, with what the critic received: frames, rate, visual tokens.

# %%
first = storage.read_rows(folder / "verdicts" / "verdicts.jsonl")[0]
columns = ("file", "question", "score", "digit", "probabilities", "frames", "fps", "visual_tokens")
pd.Series({key: first[key] for key in columns}).to_frame("first verdict")

# %% [markdown]
# **What it means.** A processor that samples two frames turns a video into a photograph, so check the number.
#
# **What you should see:** the distribution of both models' scores, and the thresholds.

# %%
report.plot_scores(folder);

# %% [markdown]
# **What it means.** Two humps are a critic with clear decisions; one lump in the middle is the opposite. The filter must separate a good tuned clip from a bad one, which is harder than to separate the two *models*.
#
# **What you should see:** the gain of post-training by the critic's scores, on the prompts and seeds that both models share.

# %%
pd.Series(results.gain(folder), dtype=object).to_frame("tuned minus base")

# %% [markdown]
# **What it means.** The `interval` is the 95 % CI over prompts, because the seeds of one prompt are not independent. The gain rests on the critic, so trust it as far as the ROC allows.
#
# ### 4.4 The filter
#
# A video is kept if both scores reach their thresholds. Of videos that look the same, only one is kept. `kept/` has the layout of `data/train`: `cookbook train --data <run>/kept` trains on it.
#
# **What you should see:** how many were kept, and for which question the others were dropped.

# %%
filtered = filter_clips(profile, run=folder, threshold=threshold or None, top=top or None)
kept, dropped = report.kept_and_dropped(folder)

# %% [markdown]
# **Ground truth without a critic.** At `smoke` and `nano` the simulator knows where everything is in the photo. Rules follow the object by its colours: did it end in its place, whole, once, out of the hand, with everything else where it was?
#
# **What you should see:** object (magenta) and place (yellow) in the photo; the last frame; and there, what the rules recognise.

# %%
import numpy as np

from cookbook import pictures
from cookbook.judge import ground_truth, rules

scenes = ground_truth.known_scenes(settings)


def followed(row):
    frames, _ = video.read_video(folder / row["file"])
    with np.load(scenes[row["image"], row["prompt"]]) as file:
        things = rules.Things(file["masks_items"], file["masks_receptacles"])
    item, place = row["named"]["item"], row["named"]["place"]
    ending = rules.Ending(frames, things, item)
    photo = pictures.paint(pictures.paint(frames[0], things.receptacles[place], "yellow"), things.items[item], "magenta")
    last = pictures.paint(pictures.paint(frames[-1], ending.areas[place], "yellow"), ending.seen, "magenta")
    return np.stack([photo, frames[-1], last])


outcomes = {row["file"]: row for row in storage.read_rows(folder / "verdicts" / "ground_truth.jsonl")}
known = [row for row in outcomes.values() if row["model"] == "tuned"]
one_each = {row["reason"]: row for row in reversed(known)}  # the first video of each reason; success has none
examples = [one_each[reason] for reason in sorted(one_each)][:3]
if examples:
    titles = [f"{row['outcome']}: {row['reason'] or 'no rule fails'}" for row in examples]
    show.show_sheet([followed(row) for row in examples], titles, columns=3, width=144)

# %% [markdown]
# **What it means.** `cookbook/judge/rules.py` has all rules in order; the first that fails is the reason. On clips of the simulator they agree with its state in 98 % ([model card](../assets/nano/README.md#how-far-the-ground-truth-of-a-generated-video-can-be-trusted)). Real photos come without masks: there the critic's ROC is the only evidence.
#
# **What you should see:** at the filter's thresholds, how many videos pass, their precision, and all last frames by group. In Jupyter, move the sliders.

# %%
decided = [row for name in ("kept", "dropped") for row in storage.read_rows(folder / "kept" / f"{name}.jsonl")]
endings = [
    (video.read_video(folder / row["file"])[0][-1], row["scores"], outcomes.get(row["file"], {}).get("passed"))
    for row in decided
]
cuts = filtered["thresholds"]


def at_thresholds(physics=cuts["physics"], instruction=cuts["instruction"]):
    limits = {"physics": physics, "instruction": instruction}
    groups = [(frame, all((scores[q] or 0) >= limits[q] for q in limits), success) for frame, scores, success in endings]
    known = [success for _, passes, success in groups if passes and success is not None]
    share = f"{sum(known) / len(known):.2f}" if known else "not known"
    print(f"physics {physics:.2f}, instruction {instruction:.2f}:", end=" ")
    print(f"{sum(passes for _, passes, _ in groups)} of {len(groups)} videos pass, precision {share}")
    show.show_picture(pictures.gallery(groups))


at_thresholds()
show.browse(at_thresholds, **{q: sorted({n / 10 for n in range(10, 51)} | {cuts[q]}) for q in cuts})

# %% [markdown]
# **What it means.** Higher thresholds keep fewer videos. They keep better ones only if the critic ranks well: what do 4 and 4 keep? In the two groups in the middle, critic and rules disagree. Which would you trust? (The sliders ignore copies and `top`.)
#
# **What you should see:** the videos of each model by outcome and reason.

# %%
report.outcomes(folder)

# %% [markdown]
# **What you should see:** how well the critic ranks *generated* videos (`auc`), and success before and after the filter (`all`, `kept`).

# %%
against = results.critic_against_ground_truth(folder)
pd.Series(against, dtype=object).map(lambda value: round(value, 3) if isinstance(value, float) else value).to_frame("tuned")

# %% [markdown]
# **Read it before you train on `kept/`.** The `interval` of the `gain`, kept minus all, shows whether filtering helped by more than chance. Where `auc` is near 0.5, the filter is no better than chance, however good the ROC on calibration clips is. The shipped critic reaches 0.98 and 0.97 on injected faults, but 0.78 on 280 generated videos ([model card](../assets/nano/README.md)).
#
# ### 4.5 Best of N
#
# If $c$ of $k$ seeds of a prompt are kept, at least one of $N$ drawn seeds is kept with probability $1 - \binom{k-c}{N} / \binom{k}{N}$. The second curve takes the video with the highest score among $N$, and plots its success by the ground truth.
#
# **What you should see:** the first curve rises. The second rises only if the critic ranks the better video higher.

# %%
report.plot_best_of_n(folder);

# %% [markdown]
# **What you should see:** the figures behind it; `gain` is against a random video of the same prompt.

# %%
pd.DataFrame(verdicts["best_of_n"]).set_index("n")

# %% [markdown]
# **What it means.** Where the first curve flattens, more seeds only cost time. While the interval of the gain includes 0, best-of-$N$ is not proven better than a random choice.
#
# ### Kept, and dropped
#
# **What you should see:** two kept videos above two dropped ones, with reasons and ground truth. Look for the critic's mistakes.

# %% tags=["picture"]
chosen = pd.concat([rows.drop_duplicates("prompt").head(2) for rows in (kept, dropped)])
titles = [f"{'kept' if row.kept else 'dropped'}: {row.reason}; {outcomes.get(row.file, {}).get('outcome', '')}" for row in chosen.itertuples()]
show.show_sheet([folder / file for file in chosen["file"]], titles)

# %% [markdown]
# ## Exercises
#
# Each takes minutes, needs no GPU, and may be left unsolved. A wrong answer gets a hint. ★ is a warm-up, ★★ needs a thought, ★★★ needs paper. The
# solutions are in `notebooks/solutions/04.py`; try first.

# %% [markdown]
# **Exercise 04.1 ★ Expected score.** `probabilities` are those of the digits 1 to 5. Return the score. Which two very different critics give 3?

# %%
from cookbook import exercises


def score(probabilities):
    ...  # your code


exercises.check_04_1(score);

# %% [markdown]
# **Exercise 04.2 ★★ What a threshold is worth.** `valid` and `invalid` are scores of calibration clips. If both were equally many, which share of the clips that reach `threshold` would be valid? Solved? The guide keeps 4 and 5 and leaves 3 open: compare `precision(scores[1], scores[0], 4)` with that at 3, and with that at your own thresholds.

# %%
from cookbook import exercises


def precision(valid, invalid, threshold):
    ...  # your code


exercises.check_04_2(precision);

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
