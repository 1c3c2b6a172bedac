"""The report of a run: the plots that the notebooks show too, one self-contained HTML page, and summary.json."""

import base64
import io
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from cookbook import profiles, results, runs, show, storage
from cookbook.judge.calibration_clips import FAULTS
from cookbook.results import MODELS, QUESTIONS

PAIRS = 4  # prompts shown side by side


def plot_roc(run: Path) -> Axes:
    """ROC curve of the critic on the calibration clips, for each question."""
    ax = show.axes(4.2, 4.0)
    for question, colour in zip(QUESTIONS, ("accent", "tuned"), strict=True):
        facts = results.calibration(run)[question]
        if facts["auc"] is not None:
            label = f"{question}, AUC {facts['auc']:.2f} on {facts['n']}"
            ax.plot(*zip(*facts["roc"], strict=True), color=show.COLOURS[colour], label=label)
    ax.plot([0, 1], [0, 1], ":", color=show.COLOURS["base"], label="chance")
    ax.set(xlabel="invalid clips accepted", ylabel="valid clips accepted", aspect="equal")
    ax.set_title("The critic on calibration clips")
    ax.legend(frameon=False, loc="lower right")
    return ax


def critic_by_kind(run: Path) -> pd.DataFrame:
    """AUC of the critic for each question and type of fault.

    Columns: `clips` (number of calibration clips), one per question, and `difference to a valid clip` (empty for your
    own types of fault).
    """
    calibration = storage.read_json(run / "verdicts" / "calibration.json")
    rows: dict[str, dict[str, float]] = {}
    for question in QUESTIONS:
        for part in ("questions", "held_out_corruptions"):
            for kind, facts in calibration[part][question]["per_kind"].items():
                row = rows.setdefault(kind, {"clips": facts["n"]})
                row |= {"clips": max(row["clips"], facts["n"]), question: facts["auc"]}
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=["clips", *QUESTIONS]).round(2)
    return table.assign(**{"difference to a valid clip": [FAULTS.get(kind, "") for kind in table.index]})


def plot_scores(run: Path) -> Axes:
    """Scores of all videos, base beside tuned, one panel per question, with the threshold of the filter."""
    table, critic = results.scores(run), results.calibration(run)
    _, panels = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
    for ax, question in zip(panels, QUESTIONS, strict=True):
        groups = [table.loc[table["model"] == model, question].dropna() for model in MODELS]
        ax.hist(groups, bins=16, range=(1, 5), color=[show.COLOURS[model] for model in MODELS], label=MODELS)
        threshold = critic[question].get("threshold", float("nan"))
        ax.axvline(threshold, color=show.COLOURS["bad"], linestyle="--", label="threshold")
        ax.set(xlabel=f"expected score, {question}", title=question)
    panels[0].set_ylabel("videos")
    panels[0].legend(frameon=False)
    return panels[0]


def plot_best_of_n(run: Path) -> Axes:
    """The chance that at least one of N videos of a prompt is kept and, with ground truth, the success rate of the
    critic's choice among N, with its 95 % CI over prompts."""
    chances, curve = results.kept_of_n(run), runs.manifest_of(run, "judge")["best_of_n"]
    ax, accent = show.axes(), show.COLOURS["accent"]
    ax.plot(range(1, len(chances) + 1), chances, "o-", color=show.COLOURS["tuned"], label="one of N is kept")
    if curve and curve[0]["success"] is not None:
        numbers, success = ([point[key] for point in curve] for key in ("n", "success"))
        ax.plot(numbers, success, "s-", color=accent, label="success rate of the critic's choice")
        edges = zip(*[point["success_interval"] or [point["success"]] * 2 for point in curve], strict=True)
        ax.fill_between(numbers, *edges, color=accent, alpha=0.15, linewidth=0, label="its 95 % CI over prompts")
    ax.set(xlabel="videos per prompt (N)", ylabel="share of prompts", title="Best of N", ylim=(0, 1.02))
    ax.set_xticks(range(1, len(chances) + 1))
    ax.legend(frameon=False, loc="lower right")
    return ax


def pairs(run: Path) -> list[tuple[str, Path, Path]]:
    """(prompt, video of the base model, video of the tuned model), same photo and noise, for the first prompts."""
    table = results.scores(run).sort_values(["name", "seed"])
    rows = table.pivot(index=["name", "seed", "prompt"], columns="model", values="file").reindex(columns=list(MODELS))
    rows = rows.dropna().reset_index().drop_duplicates("prompt").head(PAIRS)
    return [(row.prompt, run / row.base, run / row.tuned) for row in rows.itertuples()]


def kept_and_dropped(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of kept.jsonl and dropped.jsonl."""
    columns = ["file", "video", "prompt", "kept", "reason"]
    tables = [storage.read_rows(run / "kept" / f"{name}.jsonl") for name in ("kept", "dropped")]
    return tuple(pd.DataFrame(rows, columns=columns) for rows in tables)


def outcomes(run: Path) -> pd.DataFrame:
    """Number of each model's videos by outcome and reason; empty without ground truth."""
    rows = storage.read_rows(run / "verdicts" / "ground_truth.jsonl")
    table = pd.DataFrame(rows, columns=["outcome", "reason", "model"]).replace({"reason": ""}, "-")
    return table.value_counts().unstack(fill_value=0).sort_index()


@runs.releasing
def write_report(profile: str = "nano", run: Path | str | None = None, redo: bool = False) -> dict:
    """Write report.html and summary.json.

    Args:
        profile: name of a profile; `cookbook doctor` lists them.
        run: run folder; without it runs/<profile>.
        redo: write it again.

    Raises:
        UserError: a stage that the report shows is not finished.
    """
    settings, folder = profiles.get(profile), runs.run_folder(run, profile)
    found = runs.finished(folder)
    needed = [name for name in runs.READS["report"] if name in found or name not in runs.OPTIONAL]
    inputs = {stage: runs.manifest_of(folder, stage)["fingerprint"] for stage in needed}
    stage = runs.enter(folder / "report", "report", settings.name, inputs, settings={}, redo=redo)
    if stage.done:
        return stage.manifest
    facts = results.summary(folder)
    page = _page(folder, facts, settings.note)
    storage.write_json(stage.folder / "summary.json", facts)
    with storage.replacing(stage.folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"report: {stage.folder / 'report.html'} ({len(page) / 1e6:.1f} MB)")
    return stage.finish([stage.folder / "report.html", stage.folder / "summary.json"])


def _pictures(run: Path) -> dict[str, str]:
    """Every plot, and contact sheets of videos where there are any, as data URIs by name."""
    loss = show.loss(storage.read_rows(run / "checkpoints" / "log.jsonl"))
    plots = {"loss": loss, "roc": plot_roc(run), "scores": plot_scores(run), "best_of_n": plot_best_of_n(run)}
    pictures = {}
    for name, ax in plots.items():
        buffer = io.BytesIO()
        ax.figure.savefig(buffer)
        plt.close(ax.figure)
        pictures[name] = _data_uri("image/png", buffer.getvalue())
    sheets = {"pairs": [(f"{m}: {p}", clip) for p, *two in pairs(run) for m, clip in zip(MODELS, two, strict=True)]}
    for name, rows in zip(("kept", "dropped"), kept_and_dropped(run), strict=True):
        few = rows.drop_duplicates("prompt").head(PAIRS)
        sheets[name] = [(f"{row.video}: {row.reason}", run / row.file) for row in few.itertuples()]
    for name, rows in sheets.items():
        if rows:
            titles, clips = zip(*rows, strict=True)
            buffer = io.BytesIO()
            show.contact_sheet(clips, titles).save(buffer, "JPEG", quality=82)
            pictures[name] = _data_uri("image/jpeg", buffer.getvalue())
    return pictures


def _page(run: Path, facts: dict, note: str) -> str:
    """The whole page, from report.html.j2. pandas escapes the cells of its tables."""
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    return jinja2.Template(template, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined).render(
        facts=facts,
        note=note,
        gain=results.gain(run),
        summary=results.table(facts["results"]),
        images=_pictures(run),
        pairs=[(prompt, *(_data_uri("video/mp4", clip.read_bytes()) for clip in two)) for prompt, *two in pairs(run)],
        outcomes=outcomes(run),
        execution=results.looks_and_moves(run),
        execution_aucs=results.execution_aucs(run),
        kinds=critic_by_kind(run).to_html(na_rep=""),
        filtered=dict(zip(("kept", "dropped"), kept_and_dropped(run), strict=True)),
        seconds=pd.Series(facts["seconds"], name="seconds").to_frame().to_html(),
    )


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
