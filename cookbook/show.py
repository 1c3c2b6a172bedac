"""Progress, videos, contact sheets and plots. The same calls work in a live notebook and headless."""

import inspect
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageDraw
from tqdm import tqdm

from cookbook.video import fit, probe, read_video

T = TypeVar("T")

QUALITY = 28  # quantiser of videos inside notebooks: a nano clip takes about 15 kB
COLOURS = {"base": "#8c8c8c", "tuned": "#2f7d32", "good": "#2f7d32", "bad": "#b3261e", "accent": "#1f5fa8"}


def progress(
    items: Iterable[T], label: str, total: int | None = None, note: Callable[[], str] = lambda: ""
) -> Iterator[T]:
    """Iterate with one live bar in a terminal; elsewhere (papermill, CI, a pipe) one line a minute and a last one.

    Args:
        note: what to add to a line.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, mininterval=0.5)
        return
    total = total if total is not None else (len(items) if hasattr(items, "__len__") else None)
    start = printed = time.monotonic()
    count = 0
    for count, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - printed > 60:
            printed = now
            left = f", about {(now - start) * (total - count) / count:.0f} s left" if total else ""
            print(f"{label}: {count}/{total or '?'} after {now - start:.0f} s{left}{note()}", flush=True)
    print(f"{label}: {count} in {time.monotonic() - start:.1f} s", flush=True)


def _players(paths: Sequence[Path], titles: Sequence[str | None], height: int) -> list[str]:
    """HTML with the videos in it. mediapy calls an ffmpeg program; imageio-ffmpeg brings one along."""
    import imageio_ffmpeg
    import mediapy

    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    options = {"height": height, "codec": "h264", "qp": QUALITY, "return_html": True}
    clips = zip((read_video(Path(path), height) for path in paths), titles, strict=True)
    return [mediapy.show_video(frames, title=title, fps=fps, **options) for (frames, fps), title in clips]


def show_video(path: Path | Sequence[Path], titles: Sequence[str] | None = None, height: int = 192) -> None:
    """Show one video, or several side by side, in a notebook."""
    from IPython.display import HTML, display

    paths = [path] if isinstance(path, (str, Path)) else list(path)
    cells = _players(paths, titles or [Path(p).stem for p in paths], height)
    display(HTML(f"<table><tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr></table>"))


def show_prompts(rows: Sequence[tuple[str, Path]], height: int = 144) -> None:
    """Show a table of prompt and video in a notebook."""
    from IPython.display import HTML, display

    players = _players([path for _, path in rows], [None] * len(rows), height)
    pairs = zip([prompt for prompt, _ in rows], players, strict=True)
    cells = [f"<tr><td style='text-align:left'>{escape(prompt)}</td><td>{player}</td></tr>" for prompt, player in pairs]
    display(HTML(f"<table><tr><th>Input prompt file</th><th>Video file</th></tr>{''.join(cells)}</table>"))


def contact_sheet(
    clips: Sequence[np.ndarray | Path], titles: Sequence[str] | None = None, columns: int = 7, width: int = 160
) -> Image.Image:
    """A still: evenly spaced frames of each clip, one clip per row, first and last frame included."""
    rows = []
    for index, clip in enumerate(clips):
        film = None if isinstance(clip, np.ndarray) else probe(Path(clip))
        count, old_height, old_width = (film.frames, film.height, film.width) if film else clip.shape[:3]
        moments = np.linspace(0, count - 1, columns).round().astype(int)
        height, bar = round(width * old_height / old_width), 17 if titles else 0
        resize = partial(fit, height=height, width=width, crop=False)
        frames = film.read(film.nearest(moments), lambda f, r=resize: r(f[None])[0]) if film else resize(clip[moments])
        row = Image.new("RGB", (columns * width, height + bar), "white")
        for column, frame in enumerate(frames):
            row.paste(Image.fromarray(frame), (column * width, bar))
        if titles:
            ImageDraw.Draw(row).text((3, 1), titles[index], fill="black", font_size=12)
        rows.append(np.asarray(row))
    return Image.fromarray(np.concatenate(rows))


def mark(frames: np.ndarray, points: np.ndarray, radius: int = 3) -> np.ndarray:
    """Copies of frames uint8 [T, H, W, 3] with dots at points [S, N, 2] (x, y in pixels), S of them over the clip."""
    marked = []
    moments = np.linspace(0, len(points) - 1, len(frames)).round().astype(int)
    for frame, dots in zip(frames, points[moments], strict=True):
        picture = Image.fromarray(frame)
        for (x, y), colour in zip(dots, ("red", "yellow"), strict=False):
            ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), colour, "black")
        marked.append(np.asarray(picture))
    return np.stack(marked)


def show_sheet(
    clips: Sequence[np.ndarray | Path], titles: Sequence[str] | None = None, columns: int = 6, width: int = 112
) -> None:
    """Show a contact sheet in a notebook: visible where videos are not (code hosts, print)."""
    show_picture(contact_sheet(clips, titles, columns, width))


def show_picture(picture: Image.Image) -> None:
    """Show a picture in a notebook as JPEG, which is small."""
    from IPython.display import Image as Picture
    from IPython.display import display

    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=55, optimize=True)
    display(Picture(data=buffer.getvalue(), format="jpeg"))


def browse(draw: Callable[..., None], **choices: Sequence) -> None:
    """In a notebook, a slider for each list of numbers and a menu for any other; `draw(**chosen)` shows the choice.

    A control begins at the default of its argument of `draw`, if it has one, else at the first of its values.
    Headless (`cookbook run` sets HEADLESS) nothing is shown, so no widget state gets into files. A still with the same
    information must stand beside it.
    """
    if os.environ.get("HEADLESS"):
        return
    import ipywidgets

    widgets, wide, own = {}, ipywidgets.Layout(width="90%"), inspect.signature(draw).parameters
    for name, values in choices.items():
        kind = ipywidgets.SelectionSlider if isinstance(values[0], (int, float)) else ipywidgets.Dropdown
        begin = own[name].default if name in own and own[name].default in values else values[0]
        widgets[name] = kind(options=list(values), value=begin, description=name.replace("_", " "), layout=wide)
    ipywidgets.interact(draw, **widgets)


def ask(draw: Callable[[str], None], text: str) -> None:
    """In a notebook, a box to type into, which begins with `text`, and a button that calls `draw(text)`.

    Headless nothing is shown, as by `browse`.
    """
    if os.environ.get("HEADLESS"):
        return
    import ipywidgets

    box = ipywidgets.Text(text, description="instruction", layout=ipywidgets.Layout(width="90%"))
    ipywidgets.interact_manual.options(manual_name="Generate")(draw, text=box)


def loss(rows: Sequence[dict]) -> Axes:
    """The loss of each row of a training log, with its running mean over a tenth of them."""
    steps, losses = ([row[key] for row in rows] for key in ("step", "loss"))
    width, ax = max(1, len(rows) // 10), axes()
    ax.plot(steps, losses, color=COLOURS["base"], alpha=0.6, label="loss of one batch")
    smooth = [np.mean(losses[max(0, end - width) : end]) for end in range(1, len(rows) + 1)]
    ax.plot(steps, smooth, color=COLOURS["accent"], label="running mean")
    ax.set(xlabel="step", ylabel="rectified-flow loss", title="Training loss")
    ax.legend(frameon=False)
    return ax


def axes(width: float = 6.0, height: float = 3.2) -> Axes:
    """Plain axes in the cookbook's style."""
    _, ax = plt.subplots(figsize=(width, height), layout="constrained", dpi=100)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    return ax


def banner(text: str) -> None:
    """Print a boxed line: what a reader must know before trusting a result."""
    line = "!" * min(100, len(text) + 4)
    print(f"{line}\n! {text}\n{line}", flush=True)
