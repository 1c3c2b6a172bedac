"""Your own eye: a page that shows videos blind and writes what you say to ratings.jsonl, from where the calibration
takes it. Nobody sees which model made a video, nor what the critic says of it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cookbook import runs, show
from cookbook.errors import UserError
from cookbook.judge import rows
from cookbook.judge.calibration import MARKS
from cookbook.judge.scoring import QUESTIONS
from cookbook.judge.stage import list_generated

STILLS = 3  # pictures shown where there are no buttons: each adds 15 kB to a notebook that must stay below 400
ASKED = {
    "physics": "Could this be real? 1 impossible … 5 natural",
    "instruction": "Was it done? 1 not at all … 5 fully",
}


class Rating:
    """Some of a run's videos in an order that tells nothing, those that this rater has marked left out.

    Args:
        run: folder of the run.
        rater: who marks; a name of any kind.
        count: most videos to show.
        seed: of the order.
        pairs: show two videos of one prompt beside each other, left and right by chance; each gets its own marks.

    Raises:
        UserError: the run has no finished dreams, or ratings.jsonl holds a row that is no mark.
    """

    def __init__(self, run: Path, rater: str = "me", count: int = 8, seed: int = 0, pairs: bool = False) -> None:
        self.beside = 2 if pairs else 1
        self.path, self.rater, self.place = run / MARKS, rater, 0
        told = [row for row in rows.read(self.path, rows.Mark) if row["rater"] == rater]
        self.done = {(row["file"], row["question"]) for row in told}
        seen = {row["file"] for row in told}
        clips = [row for row in list_generated(run)[0] if row["file"] not in seen]
        random.Random(seed).shuffle(clips)
        self.clips = _paired(clips)[: count - count % 2] if pairs else clips[:count]

    def mark(self, number: int, **marks: int) -> None:
        """Note marks of clip `number` = 0, 1, ..., as in `mark(0, physics=4, instruction=2)`; each once."""
        if not 0 <= number < len(self.clips):
            raise UserError(f"there is no clip {number}; they are numbered 0 to {len(self.clips) - 1}")
        clip = self.clips[number]
        for question, mark in marks.items():
            if question not in QUESTIONS or mark not in range(1, 6):
                raise UserError(f"{question}={mark} is no mark: give {' or '.join(QUESTIONS)} a whole number 1 to 5")
            if (clip["file"], question) not in self.done:
                facts = {"sha256": runs.digest(clip["path"]), "prompt": clip["prompt"]}
                row = {"file": clip["file"], **facts, "question": question, "mark": mark, "rater": self.rater}
                runs.append_row(self.path, row)
                self.done.add((clip["file"], question))

    def show(self) -> None:
        """The page with its buttons, which Tab and Enter press, too; where nobody watches, the videos as pictures."""
        if os.environ.get("HEADLESS"):
            few = self.clips[: STILLS - STILLS % self.beside]
            titles = [f"clip {number}: {clip['prompt']}" for number, clip in enumerate(few)]
            show.show_sheet([clip["path"] for clip in few], titles)
            print(f"the first {len(few)} of {len(self.clips)}")
            print("to mark without buttons: rating.mark(0, physics=4, instruction=2)")
        else:
            from IPython.display import display

            display(self.page())

    def page(self) -> Any:
        """A widget: the instruction, then each video (of one prompt) over a row of buttons per question."""
        import ipywidgets as widgets

        text, skip = widgets.HTML(), widgets.Button(description="skip")
        films = [
            widgets.Video(format="mp4", loop=True, autoplay=True, width=480 // self.beside) for _ in range(self.beside)
        ]
        rows = [
            {question: self._row(slot, question, lambda: turn()) for question in QUESTIONS}
            for slot in range(self.beside)
        ]
        columns = [widgets.VBox([film, *row.values()]) for film, row in zip(films, rows, strict=True)]
        page = widgets.VBox([text, widgets.HBox(columns), skip])

        def turn() -> None:
            if self.place >= len(self.clips):
                page.children = [widgets.HTML(f"{len(self.done)} marks are in {self.path.name}. Thank you.")]
                return
            text.value = f"{self.place + 1} of {len(self.clips)}: <b>{show.escape(self._open()[0]['prompt'])}</b>"
            for clip, film, row in zip(self._open(), films, rows, strict=True):
                film.value = clip["path"].read_bytes()
                for question, line in row.items():
                    for button in line.children[1].children:
                        button.disabled = (clip["file"], question) in self.done

        skip.on_click(lambda _: self._next(turn))
        turn()
        return page

    def _row(self, slot: int, question: str, turn: Callable[[], None]) -> Any:
        """What is asked, over the buttons 1 to 5, about the video in this place."""
        import ipywidgets as widgets

        def press(pressed: Any) -> None:
            self.mark(self.place + slot, **{question: int(pressed.description)})
            whole = all((clip["file"], each) in self.done for clip in self._open() for each in QUESTIONS)
            self._next(turn) if whole else turn()

        buttons = [widgets.Button(description=str(mark), layout={"width": "3em"}) for mark in range(1, 6)]
        for button in buttons:
            button.on_click(press)
        return widgets.VBox([widgets.Label(ASKED[question]), widgets.HBox(buttons)])

    def _open(self) -> list[dict]:
        """The clips that are shown now."""
        return self.clips[self.place : self.place + self.beside]

    def _next(self, turn: Callable[[], None]) -> None:
        self.place += self.beside
        turn()


def _paired(clips: list[dict]) -> list[dict]:
    """The clips in twos of one prompt; what finds no partner is left out."""
    alone: dict[str, dict] = {}
    found = []
    for clip in clips:
        if (other := alone.pop(clip["prompt"], None)) is None:
            alone[clip["prompt"]] = clip
        else:
            found += [other, clip]
    return found
