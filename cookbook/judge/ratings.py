"""Human ratings: a widget shows videos blind and appends the ratings to ratings.jsonl, which the calibration reads.

Neither the model that made a video is shown nor, before the video is rated, the critic's scores.
"""

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cookbook import show, storage
from cookbook.errors import UserError
from cookbook.judge import ground_truth
from cookbook.judge.calibration import RATINGS
from cookbook.judge.rows import QUESTIONS, HumanRating, read_validated
from cookbook.judge.stage import list_generated

STILLS = 3  # clips shown without a widget: each adds 15 kB to a notebook that must stay below 400


class Rating:
    """Some of a run's videos in random order, without those that this rater has rated.

    Args:
        run: folder of the run.
        rater: name under which the ratings are kept.
        count: most videos to show.
        seed: of the order.

    Raises:
        UserError: the run has no finished videos, or ratings.jsonl holds a row that is no rating.
    """

    def __init__(self, run: Path, rater: str = "me", count: int = 8, seed: int = 0) -> None:
        self.path, self.rater, self.place = run / RATINGS, rater, 0
        rows = [row for row in read_validated(self.path, HumanRating) if row["rater"] == rater]
        self.done = {(row["file"], row["question"]) for row in rows}
        rated = {file for file, _ in self.done}
        clips = [row for row in list_generated(run)[0] if row["file"] not in rated]
        random.Random(seed).shuffle(clips)
        self.clips = clips[:count]

    def rate(self, number: int, **ratings: int) -> None:
        """Append ratings of clip `number` = 0, 1, ..., as in `rate(0, physics=4, instruction=2)`; each once."""
        if not 0 <= number < len(self.clips):
            raise UserError(f"there is no clip {number}; they are numbered 0 to {len(self.clips) - 1}")
        clip = self.clips[number]
        for question, rating in ratings.items():
            if question not in QUESTIONS or rating not in range(1, 6):
                raise UserError(f"{question}={rating}: give {' or '.join(QUESTIONS)} a whole number 1 to 5")
            if (clip["file"], question) not in self.done:
                facts = {"sha256": storage.digest(clip["path"]), "prompt": clip["prompt"]}
                row = {"file": clip["file"], **facts, "question": question, "rating": rating, "rater": self.rater}
                storage.append_row(self.path, row)
                self.done.add((clip["file"], question))

    def reveal(self, file: str) -> str:
        """This rater's ratings of a video beside the critic's scores and the ground truth, as far as they are known."""
        rated = [r for r in storage.read_rows(self.path) if (r["rater"], r["file"]) == (self.rater, file)]
        mine, versions = {r["question"]: r["rating"] for r in rated}, {(file, r["sha256"]) for r in rated}
        verdicts = self.path.parent / "verdicts"
        judged = [r for r in storage.read_rows(verdicts / "verdicts.jsonl") if (r["file"], r["sha256"]) in versions]
        scores = {r["question"]: r["score"] for r in judged if r["score"] is not None}
        parts = [f"{q}: you {mine[q]}, critic {scores.get(q, float('nan')):.2f}" for q in QUESTIONS if q in mine]
        truth = (r for r in storage.read_rows(verdicts / ground_truth.NAME) if r["file"] == file)
        parts += [f"ground truth: {row['outcome']}" for row in truth]
        return "; ".join(parts) if scores else "The critic has not judged this video yet: section 4.3 compares."

    def show(self) -> None:
        """The widget, which Tab and Enter operate too; in an executed copy, the first videos as pictures."""
        if os.environ.get("HEADLESS"):
            few = self.clips[:STILLS]
            titles = [f"clip {number}: {clip['prompt']}" for number, clip in enumerate(few)]
            show.show_sheet([clip["path"] for clip in few], titles)
            print(f"the first {len(few)} of {len(self.clips)}")
            print("to rate without buttons: rating.rate(0, physics=4, instruction=2)")
        else:
            from IPython.display import display

            display(self.page())

    def page(self) -> Any:
        """A widget: the instruction, then the video over a row of buttons per question."""
        import ipywidgets as widgets

        def button(text: str, action: Callable[[], None]) -> widgets.Button:
            made = widgets.Button(description=text, layout={"width": "auto"})
            made.on_click(lambda _: action())
            return made

        def update(clips: int = 0) -> None:
            self.place += clips
            if self.place >= len(self.clips):
                page.children = [widgets.HTML(f"{len(self.done)} ratings are in {self.path.name}. Thank you."), shown]
                return
            clip = self.clips[self.place]
            text.value = f"{self.place + 1} of {len(self.clips)}: <b>{show.escape(clip['prompt'])}</b>"
            film.value = clip["path"].read_bytes()
            for question, row in buttons.items():
                for each in row:
                    each.disabled = (clip["file"], question) in self.done

        def press(question: str, digit: int) -> None:
            file = self.clips[self.place]["file"]
            self.rate(self.place, **{question: digit})
            finished = all((file, each) in self.done for each in QUESTIONS)
            update(finished)
            shown.value = f"The clip before. {self.reveal(file)}" if finished else ""

        text, film = widgets.HTML(), widgets.Video(format="mp4", loop=True, autoplay=True, width=480)
        shown = widgets.HTML()
        buttons = {q: [button(str(digit), partial(press, q, digit)) for digit in range(1, 6)] for q in QUESTIONS}
        rows = [widgets.VBox([widgets.Label(QUESTIONS[q].scale), widgets.HBox(row)]) for q, row in buttons.items()]
        page = widgets.VBox([text, film, *rows, shown, button("skip", partial(update, 1))])
        update()
        return page
