"""`python -m tools.moving_picture [RUN]`: the moving picture of the README, from a finished nano run.

One photo and two sentences: base model, post-trained model, and the robot executing the second. Then a video that the
filter dropped, with its reason. Chosen by rule, not by eye: the first photo and seed of which both instructions' videos
were kept and executed with success, and the first dropped video whose execution failed, too.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from cookbook import profiles, runs, storage
from cookbook.actions import execute
from cookbook.errors import UserError, report_user_errors
from cookbook.video import read_video

WIDTH, BAR = 320, 46  # of a clip, and of the text above it
HOLD = 8  # frames for which the last picture stands
OUT = runs.ASSETS / "pictures" / "robot.webp"


def main(run: Path) -> Path:
    """Write assets/pictures/robot.webp.

    Raises:
        UserError: the run is unfinished, or no photo fits the rule.
    """
    film = np.concatenate([line(run, *chosen) for chosen in choose(run)], axis=1)
    pictures = [Image.fromarray(frame) for frame in [*film, *[film[-1]] * HOLD]]
    with storage.replacing(OUT) as temporary:
        options = {"duration": 125, "loop": 0, "quality": 60, "method": 6}
        pictures[0].save(temporary, "WEBP", save_all=True, append_images=pictures[1:], **options)
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.2f} MB, {film.shape[2]} x {film.shape[1]}")
    return OUT


def choose(run: Path) -> list[tuple[dict, str]]:
    """Rows of executed.jsonl, each with the filter's verdict."""
    moved = {row["file"]: row for row in storage.read_rows(run / "executed" / "executed.jsonl")}
    kept, dropped = (storage.read_rows(run / "kept" / f"{name}.jsonl") for name in ("kept", "dropped"))
    good = {row["file"] for row in kept if moved.get(row["file"], {}).get("success")}
    groups = defaultdict(list)
    for row in sorted(moved.values(), key=lambda row: row["file"]):
        if row["file"] in good:
            groups[row["image"], row["seed"]].append(row)
    two = next((rows for rows in groups.values() if len(rows) > 1), None)
    if two is None:
        raise UserError(f"{run}: no photo with two instructions whose videos were kept and executed with success")
    failed = [
        (moved[row["file"]], f"dropped: {row['reason'].split(';')[0]}") for row in dropped if row["file"] in moved
    ]
    return [(row, "kept") for row in two[:2]] + [pair for pair in failed if not pair[0]["success"]][:1]


def line(run: Path, row: dict, verdict: str) -> np.ndarray:
    """Base, tuned and executed video of one photo and instruction, side by side below the instruction."""
    actions = next(r for r in storage.read_rows(run / "actions" / "actions.jsonl") if r["file"] == row["file"])
    base = row["file"].replace("generated/tuned", "generated/base").replace(f"seed{row['seed']}", "seed0")
    clips = [read_video(run / file)[0] for file in (base, row["file"])]
    clips.append(execute.replay(actions, profiles.nano(), clips[0].shape[1:3], profiles.nano().clip.fps))
    result = "success" if row["success"] else row["reason"]
    titles = ("base model", f"post-trained, {verdict}", f"the robot executes it: {result}")
    large = font(16), font(12)
    films = []
    for frames in zip(*clips, strict=True):
        height = round(WIDTH * frames[0].shape[0] / frames[0].shape[1])
        picture = Image.new("RGB", (WIDTH * len(frames), height + BAR), "white")
        pen = ImageDraw.Draw(picture)
        pen.text((6, 4), row["prompt"], "black", large[0])
        for column, (frame, title) in enumerate(zip(frames, titles, strict=True)):
            size = (WIDTH, height)
            picture.paste(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS), (column * WIDTH, BAR))
            pen.text((column * WIDTH + 6, 28), title, "#555555", large[1])
        films.append(np.asarray(picture))
    return np.stack(films)


def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


if __name__ == "__main__":
    with report_user_errors():
        main(Path(*sys.argv[1:]) if sys.argv[1:] else runs.run_folder(None, "nano"))
