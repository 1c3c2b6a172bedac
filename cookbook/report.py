"""The report of a run: the plots that the notebooks show too, one self-contained HTML page, and summary.json."""

from __future__ import annotations

import base64
import html
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from cookbook import profiles, results, runs, show, video
from cookbook.judge.kinds import FAULTS

PAIRS = 4  # prompts shown side by side
MODELS = ("base", "tuned")
WIDTH = 320  # widest video in the page, pixels
SMOKE = "<p><b>smoke shows that every step works. Its models have learnt nothing, so no figure means anything.</b></p>"


def plot_loss(run: Path) -> Axes:
    """Training loss per logged step, with its running mean."""
    return show.loss(runs.read_rows(run / "checkpoints" / "log.jsonl"))


def plot_roc(run: Path) -> Axes:
    """How well the critic tells planted fakes from real clips, for each question."""
    ax = show.axes(4.2, 4.0)
    for question, colour in zip(results.QUESTIONS, ("accent", "tuned"), strict=True):
        facts = results.calibration(run)[question]
        if facts["auc"] is not None:
            label = f"{question}, AUC {facts['auc']:.2f} on {facts['n']}"
            ax.plot(*zip(*facts["roc"], strict=True), color=show.COLOURS[colour], label=label)
    ax.plot([0, 1], [0, 1], ":", color=show.COLOURS["base"], label="coin toss")
    ax.set(xlabel="fakes passed", ylabel="real clips passed", title="The critic on planted fakes", aspect="equal")
    ax.legend(frameon=False, loc="lower right")
    return ax


def critic_by_kind(run: Path) -> pd.DataFrame:
    """AUC of the critic for each question and kind of planted fake: twins of the simulator, and faults made without.

    `clips`: how many of the kind were measured. `what was done`: to a sound clip, empty for kinds of your own.
    """
    found = results.read_json(run / "verdicts" / "calibration.json")
    kinds: dict[str, dict[str, float]] = {}
    for question in results.QUESTIONS:
        for part in ("questions", "apart"):
            for kind, facts in found[part][question]["per_kind"].items():
                row = kinds.setdefault(kind, {"clips": facts["n"]})
                row |= {"clips": max(row["clips"], facts["n"]), question: facts["auc"]}
    columns = ["clips", *results.QUESTIONS]
    table = pd.DataFrame.from_dict(kinds, orient="index").reindex(columns=columns).round(2)
    return table.assign(**{"what was done": [FAULTS.get(kind, "") for kind in table.index]})


def plot_scores(run: Path) -> Axes:
    """Scores of all clips, base beside tuned, one panel per question, with the threshold of the filter's question."""
    table, critic = results.scores(run), results.calibration(run)
    figure, panels = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
    for ax, question in zip(panels, results.QUESTIONS, strict=True):
        groups = [table.loc[table["model"] == model, question].dropna() for model in MODELS]
        colours = [show.COLOURS["base"], show.COLOURS["tuned"]]
        ax.hist(groups, bins=16, range=(1, 5), color=colours, label=MODELS)
        ax.axvline(
            critic[question].get("threshold", float("nan")),
            color=show.COLOURS["bad"],
            linestyle="--",
            label="threshold",
        )
        ax.set(xlabel=f"expected score, {question}", title=question)
    panels[0].set_ylabel("clips")
    panels[0].legend(frameon=False)
    return panels[0]


def plot_best_of_n(run: Path) -> Axes:
    """The chance that at least one of N clips of a prompt is kept and, where the truth is known, that the critic's pick
    of N placed, with its 95 % interval over prompts."""
    chances, curve = results.best_of_n(results.kept_by_prompt(run)), results.manifest(run, "judge")["best_of_n"]
    ax = show.axes()
    ax.plot(range(1, len(chances) + 1), chances, "o-", color=show.COLOURS["tuned"], label="one of N is kept")
    if curve and curve[0]["placed"] is not None:
        numbers, placed = ([point[key] for point in curve] for key in ("n", "placed"))
        ax.plot(numbers, placed, "s-", color=show.COLOURS["accent"], label="the critic's pick placed, by the truth")
        edges = [point["placed_interval"] or [point["placed"]] * 2 for point in curve]
        ax.fill_between(
            numbers,
            *zip(*edges, strict=True),
            color=show.COLOURS["accent"],
            alpha=0.15,
            linewidth=0,
            label="its 95 % interval over prompts",
        )
    ax.set(xlabel="clips made per prompt (N)", ylabel="share of prompts", title="Best of N", ylim=(0, 1.02))
    ax.set_xticks(range(1, len(chances) + 1))
    ax.legend(frameon=False, loc="lower right")
    return ax


def pairs(run: Path, count: int = PAIRS) -> list[tuple[str, Path, Path]]:
    """(prompt, clip of the base model, clip of the tuned model), same photo and same noise, for the first prompts."""
    table = results.scores(run).sort_values(["name", "seed"])
    found = []
    for _, rows in table.groupby(["name", "seed"]):
        files = dict(zip(rows["model"], rows["file"], strict=True))
        if set(MODELS) <= files.keys() and rows["prompt"].iloc[0] not in [prompt for prompt, _, _ in found]:
            found.append((rows["prompt"].iloc[0], run / files["base"], run / files["tuned"]))
    return found[:count]


def kept_and_dropped(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of kept.jsonl and dropped.jsonl."""
    return tuple(pd.DataFrame(runs.read_rows(run / "kept" / f"{name}.jsonl")) for name in ("kept", "dropped"))


def one_each(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first clip of each prompt, for the first `count` prompts: seeds of one prompt look much alike."""
    return rows if rows.empty else rows.drop_duplicates("prompt").head(count)


def write_report(profile: str = "nano", run: Path | str | None = None, redo: bool = False) -> dict:
    """Write report.html, its pictures and summary.json.

    Args:
        profile: smoke, nano, 2b or 14b.
        run: run folder; without it runs/<profile>.
        redo: write it anew.

    Raises:
        UserError: a stage that the report shows has not been run.
    """
    name, folder = profiles.get(profile).name, runs.run_folder(run, profile)
    inputs = {stage: results.manifest(folder, stage)["fingerprint"] for stage in runs.READS["report"]}
    stage = runs.enter(folder / "report", "report", name, inputs, settings={}, redo=redo)
    if stage.done:
        return stage.manifest
    facts = results.summary(folder)
    pictures = _pictures(folder, stage.folder)
    page = _page(folder, facts, pictures)
    runs.write_json(stage.folder / "summary.json", facts)
    with runs.replacing(stage.folder / "report.html") as temporary:
        temporary.write_text(page)
    print(f"report: {stage.folder / 'report.html'} ({len(page) / 1e6:.1f} MB)")
    return stage.finish([stage.folder / "report.html", stage.folder / "summary.json", *pictures.values()])


def _pictures(run: Path, folder: Path) -> dict[str, Path]:
    """Draw every picture of the report as a PNG beside it."""
    plots: dict[str, Callable[[Path], Axes]] = {
        "loss": plot_loss,
        "roc": plot_roc,
        "scores": plot_scores,
        "best_of_n": plot_best_of_n,
    }
    made = {name: folder / f"{name}.png" for name in (*plots, *_sheets(run))}
    for name, plot in plots.items():
        figure = plot(run).figure
        with runs.replacing(made[name]) as temporary:
            figure.savefig(temporary)
        plt.close(figure)
    for name, clips in _sheets(run).items():
        with runs.replacing(made[name]) as temporary:
            show.contact_sheet([file for _, file in clips], [title for title, _ in clips]).save(temporary)
    return made


def _sheets(run: Path) -> dict[str, list[tuple[str, Path]]]:
    """Contact sheets: name -> (title, clip) of each row; sheets without a row are left out."""
    both = [(f"{model}: {p}", clip) for p, *two in pairs(run) for model, clip in zip(MODELS, two, strict=True)]
    sheets = {"pairs": both}
    for name, rows in zip(("kept", "dropped"), kept_and_dropped(run), strict=True):
        sheets[name] = [(f"{row.video}: {row.reason}", run / row.file) for row in one_each(rows, PAIRS).itertuples()]
    return {name: clips for name, clips in sheets.items() if clips}


def _page(run: Path, facts: dict, pictures: dict[str, Path]) -> str:
    """The whole page."""
    kept, dropped = kept_and_dropped(run)
    images = {name: _image(path) for name, path in pictures.items()}
    videos = "".join(
        f"<figure><figcaption>{html.escape(prompt)}</figcaption>{_video(base)}{_video(tuned)}</figure>"
        for prompt, base, tuned in pairs(run)
    )
    kinds = critic_by_kind(run).to_html(na_rep="")
    seconds = pd.DataFrame(facts["seconds"].items(), columns=["stage", "seconds"]).to_html(index=False)
    summary = f"<pre>{html.escape(results.table(facts))}</pre><p>{_gain(facts['judge']['follow_gain'])}</p>"
    sections = [
        ("Summary", summary),
        ("Post-training", images["loss"]),
        ("Base (left) and tuned (right): same photo, same noise", videos + images.get("pairs", "<p>none</p>")),
        ("What the dreams really did", _outcomes(run)),
        ("The critic, measured before it judged", f"{images['roc']}<p>AUC by kind of planted fake</p>{kinds}"),
        ("Scores", images["scores"]),
        ("Best of N", images["best_of_n"]),
        (f"Kept: {len(kept)}", _reasons(kept) + images.get("kept", "")),
        (f"Dropped: {len(dropped)}", _reasons(dropped) + images.get("dropped", "")),
        ("Seconds per stage", f"{seconds}<p>{html.escape(facts['device'])}</p>"),
    ]
    body = "".join(f"<section><h2>{html.escape(title)}</h2>{content}</section>" for title, content in sections)
    note = SMOKE if facts["profile"] == "smoke" else ""
    return _FRAME.format(profile=html.escape(facts["profile"]), body=note + body)


def _gain(gain: dict) -> str:
    """The gain of post-training in a sentence."""
    if gain["gain"] is None:
        return "The critic could not be measured on both answers, so it has no threshold and no gain is stated."
    edges = "; one prompt only, so without interval"
    if gain["interval"]:
        edges = f" (95 % interval over prompts {gain['interval'][0]:+.0%} to {gain['interval'][1]:+.0%})"
    return (
        f"Instructions followed, tuned minus base, on the {gain['pairs']} photos and seeds that both made: "
        f"{gain['gain']:+.0%}{edges}. This is the critic's opinion; how far to trust it is measured below."
    )


def outcomes(run: Path) -> pd.DataFrame:
    """Clips of each model by what they really did, where the scenes are known: rows are outcomes and their reasons."""
    told = results.truth(run)
    if told.empty:
        return told
    return (
        told.assign(reason=told["reason"].replace("", "-"))
        .groupby(["outcome", "reason", "model"])
        .size()
        .unstack(fill_value=0)
    )


def _outcomes(run: Path) -> str:
    """The table of outcomes, or why there is none."""
    table = outcomes(run)
    if table.empty:
        return "<p>Not known: these photos come without masks of what their instructions name.</p>"
    note = "Measured by rules on pixels and the known masks of frame 0, without a learned model; not told is failure."
    return f"<p>{note}</p>{table.to_html()}"


def _reasons(rows: pd.DataFrame) -> str:
    """Each clip with the reason for its fate."""
    return "<p>none</p>" if rows.empty else rows[["video", "prompt", "reason"]].to_html(index=False)


def _image(path: Path) -> str:
    """A picture inside the page; JPEG where that is smaller, as for photographs."""
    with Image.open(path) as picture:
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "JPEG", quality=82)
    data, kind = min((path.read_bytes(), "png"), (buffer.getvalue(), "jpeg"), key=lambda choice: len(choice[0]))
    return f'<img alt="{path.stem}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _video(path: Path) -> str:
    """A clip inside the page, made narrower first where it is wide."""
    data = path.read_bytes()
    frames, fps = video.read_video(path)
    if frames.shape[2] > WIDTH:
        height = round(frames.shape[1] * WIDTH / frames.shape[2] / 16) * 16
        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / "small.mp4"
            video.write_video(small, video.fit(frames, height, WIDTH), fps, crf=26)
            data = small.read_bytes()
    source = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    return f'<video src="{source}" autoplay loop muted playsinline controls width="{WIDTH}"></video>'


_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Cookbook report: {profile}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ddd; }}
figure {{ margin: 1rem 0; }} video {{ margin-right: .5rem; }} img {{ max-width: 100%; }}
pre {{ background: #f6f6f4; padding: 1rem; overflow-x: auto; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem .7rem; border: 1px solid #ddd; text-align: left; }}
</style></head>
<body><h1>Cookbook report: profile {profile}</h1>{body}</body></html>
"""
