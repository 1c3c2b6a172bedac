"""The report of a run: the plots that the notebooks show too, one self-contained HTML page, and summary.json."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from cookbook import profiles, results, runs, show, video
from cookbook.judge.calibration_clips import FAULTS
from cookbook.results import MODELS, QUESTIONS

PAIRS = 4  # prompts shown side by side
WIDTH = 320  # largest width of a video in the page, pixels


def plot_loss(run: Path) -> Axes:
    """Training loss per logged step, with its running mean."""
    return show.loss(runs.read_rows(run / "checkpoints" / "log.jsonl"))


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
    calibration = results.read_json(run / "verdicts" / "calibration.json")
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
    chances, curve = results.best_of_n(results.kept_by_prompt(run)), results.manifest(run, "judge")["best_of_n"]
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


PLOTS = {"loss": plot_loss, "roc": plot_roc, "scores": plot_scores, "best_of_n": plot_best_of_n}


def pairs(run: Path, count: int = PAIRS) -> list[tuple[str, Path, Path]]:
    """(prompt, video of the base model, video of the tuned model), same photo and noise, for the first prompts."""
    table = results.scores(run).sort_values(["name", "seed"])
    rows = table.pivot(index=["name", "seed", "prompt"], columns="model", values="file").reindex(columns=list(MODELS))
    rows = rows.dropna().reset_index().drop_duplicates("prompt").head(count)
    return [(row.prompt, run / row.base, run / row.tuned) for row in rows.itertuples()]


def kept_and_dropped(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of kept.jsonl and dropped.jsonl."""
    return tuple(pd.DataFrame(runs.read_rows(run / "kept" / f"{name}.jsonl")) for name in ("kept", "dropped"))


def one_each(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first video of each of the first `count` prompts: seeds of one prompt look much alike."""
    return rows if rows.empty else rows.drop_duplicates("prompt").head(count)


def outcomes(run: Path) -> pd.DataFrame:
    """Number of each model's videos by outcome and reason; empty without ground truth."""
    table = results.ground_truth(run)
    if table.empty:
        return table
    table["reason"] = table["reason"].replace("", "-")
    return table.groupby(["outcome", "reason", "model"]).size().unstack(fill_value=0)


def write_report(profile: str = "nano", run: Path | str | None = None, redo: bool = False) -> dict:
    """Write report.html, its pictures and summary.json.

    Args:
        profile: name of a profile; `cookbook doctor` lists them.
        run: run folder; without it runs/<profile>.
        redo: write it again.

    Raises:
        UserError: a stage that the report shows is not finished.
    """
    settings, folder = profiles.get(profile), runs.run_folder(run, profile)
    inputs = {stage: results.manifest(folder, stage)["fingerprint"] for stage in runs.READS["report"]}
    stage = runs.enter(folder / "report", "report", settings.name, inputs, settings={}, redo=redo)
    if stage.done:
        return stage.manifest
    facts, pictures = results.summary(folder), _pictures(folder, stage.folder)
    page = _page(folder, facts, pictures, settings.note)
    runs.write_json(stage.folder / "summary.json", facts)
    with runs.replacing(stage.folder / "report.html") as temporary:
        temporary.write_text(page)
    print(f"report: {stage.folder / 'report.html'} ({len(page) / 1e6:.1f} MB)")
    return stage.finish([stage.folder / "report.html", stage.folder / "summary.json", *pictures.values()])


def _pictures(run: Path, folder: Path) -> dict[str, Path]:
    """Write every plot and contact sheet of the report as a PNG beside it; sheets without a row are left out."""
    sheets = {"pairs": [(f"{m}: {p}", clip) for p, *two in pairs(run) for m, clip in zip(MODELS, two, strict=True)]}
    for name, rows in zip(("kept", "dropped"), kept_and_dropped(run), strict=True):
        sheets[name] = [(f"{row.video}: {row.reason}", run / row.file) for row in one_each(rows, PAIRS).itertuples()]
    sheets = {name: rows for name, rows in sheets.items() if rows}
    paths = {name: folder / f"{name}.png" for name in (*PLOTS, *sheets)}
    for name, plot in PLOTS.items():
        figure = plot(run).figure
        with runs.replacing(paths[name]) as temporary:
            figure.savefig(temporary)
        plt.close(figure)
    for name, rows in sheets.items():
        titles, clips = zip(*rows, strict=True)
        with runs.replacing(paths[name]) as temporary:
            show.contact_sheet(clips, titles).save(temporary)
    return paths


def _page(run: Path, facts: dict, pictures: dict[str, Path], note: str) -> str:
    """The whole page, from report.html.j2. pandas escapes the cells of its tables."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    seconds = pd.DataFrame(facts["seconds"].items(), columns=["stage", "seconds"])
    return environment.get_template("report.html.j2").render(
        facts=facts,
        note=note,
        summary=results.table(facts),
        images={name: _image(path) for name, path in pictures.items()},
        pairs=[(prompt, _video(base), _video(tuned)) for prompt, base, tuned in pairs(run)],
        outcomes=outcomes(run),
        kinds=critic_by_kind(run).to_html(na_rep=""),
        filtered=dict(zip(("kept", "dropped"), kept_and_dropped(run), strict=True)),
        seconds=seconds.to_html(index=False),
        width=WIDTH,
    )


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _image(path: Path) -> str:
    """A picture as a data URI; JPEG if that is smaller, as for photographs."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=82)
    png, jpeg = path.read_bytes(), buffer.getvalue()
    return _data_uri("image/png", png) if len(png) <= len(jpeg) else _data_uri("image/jpeg", jpeg)


def _video(path: Path) -> str:
    """A video as a data URI, scaled down first if it is wider than WIDTH."""
    data = path.read_bytes()
    frames, fps = video.read_video(path)
    if frames.shape[2] > WIDTH:
        height = round(frames.shape[1] * WIDTH / frames.shape[2] / 16) * 16
        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / "small.mp4"
            video.write_video(small, video.fit(frames, height, WIDTH), fps, crf=26)
            data = small.read_bytes()
    return _data_uri("video/mp4", data)
