"""Compare the rules on pixels with the simulator's state, on a folder of `python -m simulator make --task place`.

    python -m nano.validate --folder DIR [--models assets/nano/world]

Beside the folder's own clips (real, faults, failures) every real clip yields three that no rule may accept: `static`
(frame 0 repeated), `other scene` (the next clip, whole) and `cut` (its own frame 0, then the next clip).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tyro

from cookbook import hardware, storage
from cookbook.errors import report_user_errors
from cookbook.judge.ground_truth import PARTS
from cookbook.judge.rules import Things, judge_clip, observe
from cookbook.models import autoencoder, world
from cookbook.video import read_video

Codec = Callable[[np.ndarray], np.ndarray]
PROBES = ("static", "other scene", "cut")


def succeeded(row: dict, state: dict[str, np.ndarray]) -> bool:
    """Success by the simulator's state: the object on the deck, single and unchanged, the other ones where they were.

    A fault of physics says nothing of the hand: it is that of the valid clip.
    """
    if row["physics"] or row["label"] in ("duplicate", "morph"):
        return bool(row["success"])
    item, place, paths = row["item"], row["place"], state["items"][:, :, :3]
    if np.delete(np.linalg.norm(paths[-1] - paths[0], axis=-1), item).max() > 0.02:
        return False
    half_x, half_y, floor, _ = state["decks"][place]
    ahead, aside, height = paths[-1, item] - state["receptacles"][place, :3]
    yaw = state["receptacles"][place, 3]
    along, across = np.cos(yaw) * ahead + np.sin(yaw) * aside, np.cos(yaw) * aside - np.sin(yaw) * ahead
    above = height - floor - state["sizes"][item, 0]
    return bool(abs(along) < half_x + 0.005 and abs(across) < half_y + 0.005 and -0.03 < above < 0.04)


def load(folder: Path) -> Iterator[tuple[dict, np.ndarray, dict[str, np.ndarray]]]:
    """Manifest row, frames and ground truth arrays of every clip."""
    for row in storage.read_rows(folder / "manifest.jsonl"):
        with np.load(folder / f"ground_truth/{row['id']}.npz") as file:
            yield row, read_video(folder / f"videos/{row['id']}.mp4")[0], {name: file[name] for name in file.files}


def probes(frames: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    """Clips that must not be accepted under a real clip's prompt."""
    cut = other.copy()
    cut[0] = frames[0]
    return dict(zip(PROBES, (np.repeat(frames[:1], len(frames), 0), other, cut), strict=True))


def validate(folder: Path, codec: Codec | None = None) -> list[dict]:
    """Compare with the simulator on every clip of a folder, print a table per kind, return one row per clip.

    codec: frames -> frames, applied before judging, for example a VAE reconstruction.
    """
    results, real = [], []

    def add(row: dict, label: str, frames: np.ndarray, state: dict, wanted: bool, reference: np.ndarray) -> None:
        judged, things = codec(frames) if codec else frames, Things(state["masks_items"], state["masks_receptacles"])
        judgement = judge_clip(judged, things, row["hand"], row["item"], row["place"], reference)
        facts = {"id": row["id"], "label": label, "wanted": wanted, "agree": (judgement.outcome == "placed") == wanted}
        shown = vars(observe(judged, things))
        results.append(facts | vars(judgement) | {f"{part}_named": shown[part] == row[part] for part in PARTS})

    for row, frames, state in load(Path(folder)):
        add(row, row["label"], frames, state, succeeded(row, state), frames[0])
        if row["label"] == "real":
            real.append((row, frames, state))
    for (row, frames, state), (_, other, _) in zip(real, real[1:] + real[:1], strict=True):
        for label, probe in probes(frames, other).items():
            add(row, label, probe, state, False, frames[0])
    print_table(results)
    return results


def print_table(results: list[dict]) -> None:
    print(f"{'kind':18s} {'clips':>5s} {'success':>7s} {'agree':>6s}   outcomes")
    kinds = {kind: (kind,) for kind in sorted({row["label"] for row in results})}
    rendered = tuple(kind for kind in kinds if kind not in PROBES)
    for kind, labels in (kinds | {"all but probes": rendered, "all": tuple(kinds)}).items():
        rows = [row for row in results if row["label"] in labels]
        outcomes = ", ".join(f"{count} {name}" for name, count in Counter(row["outcome"] for row in rows).most_common())
        agree = np.mean([row["agree"] for row in rows])
        print(f"{kind:18s} {len(rows):5d} {sum(row['wanted'] for row in rows):7d} {agree:6.2f}   {outcomes}")
    real = [row for row in results if row["label"] == "real"]
    shares = (f"{part} {np.mean([row[f'{part}_named'] for row in real]):.2f}" for part in PARTS)
    print("observed as named on the real clips:", ", ".join(shares))


def vae_codec(models: Path) -> Codec:
    """Reconstruction by the VAE of a folder of models (`models/vae`)."""
    model = world.load_vae(models).to(hardware.device())
    return lambda frames: autoencoder.to_frames(
        autoencoder.decode(model, autoencoder.encode(model, autoencoder.to_tensor(frames)))
    )


def main(folder: Path, models: Path | None = None) -> None:
    validate(folder, vae_codec(models) if models else None)


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main)
