"""Your own eye: a page that shows videos blind and writes what you say to marks.jsonl, from where the calibration
takes it. Nobody sees which model made a video, nor what the critic says of it."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from cookbook import show, store
from cookbook.errors import UserError
from cookbook.judge import list_dreams, rows
from cookbook.judge.calibration import MARKS
from cookbook.judge.scoring import QUESTIONS

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

    Raises:
        UserError: the run has no finished dreams, or marks.jsonl holds a row that is no mark.
    """

    def __init__(self, run: Path, rater: str = "me", count: int = 8, seed: int = 0) -> None:
        self.path, self.rater, self.place = run / MARKS, rater, 0
        told = [row for row in rows.read(self.path, rows.Mark) if row["rater"] == rater]
        self.done = {(row["file"], row["question"]) for row in told}
        seen = {row["file"] for row in told}
        clips = [row for row in list_dreams(run)[0] if row["file"] not in seen]
        random.Random(seed).shuffle(clips)
        self.clips = clips[:count]

    def mark(self, number: int, **marks: int) -> None:
        """Note marks of clip `number` = 0, 1, ..., as in `mark(0, physics=4, instruction=2)`; each once."""
        if not 0 <= number < len(self.clips):
            raise UserError(f"there is no clip {number}; they are numbered 0 to {len(self.clips) - 1}")
        clip = self.clips[number]
        for question, mark in marks.items():
            if question not in QUESTIONS or mark not in range(1, 6):
                raise UserError(f"{question}={mark} is no mark: give {' or '.join(QUESTIONS)} a whole number 1 to 5")
            if (clip["file"], question) not in self.done:
                facts = {"sha256": store.digest(clip["path"]), "prompt": clip["prompt"]}
                row = {"file": clip["file"], **facts, "question": question, "mark": mark, "rater": self.rater}
                store.append_row(self.path, row)
                self.done.add((clip["file"], question))

    def show(self) -> None:
        """The page with its buttons, which Tab and Enter press, too; where nobody watches, the videos as pictures."""
        if os.environ.get("HEADLESS"):
            few = self.clips[:STILLS]
            titles = [f"clip {number}: {clip['prompt']}" for number, clip in enumerate(few)]
            show.show_sheet([clip["path"] for clip in few], titles)
            print(f"the first {len(few)} of {len(self.clips)}")
            print("to mark without buttons: rating.mark(0, physics=4, instruction=2)")
        else:
            from IPython.display import display

            display(self.page())

    def page(self) -> Any:
        """A widget: one video, its instruction, and a row of buttons per question."""
        import ipywidgets as widgets

        film, text = widgets.Video(format="mp4", loop=True, autoplay=True, width=480), widgets.HTML()
        lines = {}
        for question, words in ASKED.items():
            buttons = [widgets.Button(description=str(mark), layout={"width": "3em"}) for mark in range(1, 6)]
            for button in buttons:
                button.on_click(
                    lambda pressed, question=question: self._press(question, int(pressed.description), turn)
                )
            lines[question] = widgets.HBox([widgets.Label(words, layout={"width": "24em"}), *buttons])
        skip = widgets.Button(description="skip")
        skip.on_click(lambda _: self._next(turn))
        page = widgets.VBox([text, film, *lines.values(), skip])

        def turn() -> None:
            if self.place == len(self.clips):
                page.children = [widgets.HTML(f"{len(self.done)} marks are in {self.path.name}. Thank you.")]
                return
            clip = self.clips[self.place]
            film.value = clip["path"].read_bytes()
            text.value = f"{self.place + 1} of {len(self.clips)}: <b>{show.escape(clip['prompt'])}</b>"
            for question, line in lines.items():
                for button in line.children[1:]:
                    button.disabled = (clip["file"], question) in self.done

        turn()
        return page

    def _press(self, question: str, mark: int, turn: Any) -> None:
        self.mark(self.place, **{question: mark})
        if all((self.clips[self.place]["file"], each) in self.done for each in QUESTIONS):
            self._next(turn)
        else:
            turn()

    def _next(self, turn: Any) -> None:
        self.place += 1
        turn()
