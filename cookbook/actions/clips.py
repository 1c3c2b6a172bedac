"""Reading what an inverse dynamics model is trained on, as `EpisodeSet`."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from cookbook import runs, storage
from cookbook.actions import lerobot
from cookbook.actions.episodes import Episode, EpisodeSet
from cookbook.errors import UserError


def robot_joints() -> tuple[str, ...]:
    """The names of the simulated robot's 42 joints, in the order of the columns."""
    robot = ElementTree.parse(runs.ASSETS / "robot" / "gr1.xml").getroot()
    return tuple(joint.get("name") for joint in robot.find("worldbody").iter("joint"))


def read_simulator(folder: Path) -> EpisodeSet:
    """The valid clips of a folder of `python -m simulator make`.

    Raises:
        UserError: there are none, their joints are missing or of another robot, or a number is not finite.
    """
    rows = [row for row in storage.read_rows(folder / "manifest.jsonl") if row.get("label") == "real"]
    if not rows:
        raise UserError(f"{folder / 'manifest.jsonl'} lists no clips without a fault")
    episodes, names = [], robot_joints()
    for row in rows:
        file, video = folder / "ground_truth" / f"{row['id']}.npz", folder / "videos" / f"{row['id']}.mp4"
        try:
            with np.load(file) as arrays:
                joints, targets = arrays["q"], arrays["action"]
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{file}: no joints can be read from it ({error}); make the clips again") from None
        if not joints.shape == targets.shape == (len(joints), len(names)):
            raise UserError(f"{video}: its joints are {joints.shape}, not {(len(joints), len(names))}")
        if not np.isfinite([joints, targets]).all():
            raise UserError(f"{video}: a joint angle or target is not a number; remove the episode")
        facts = {name: row.get(name) for name in ("id", "scene", "seed", "hand", "item", "place")}
        episodes.append(Episode(video, row["prompt"], joints, targets, facts=facts))
    return EpisodeSet(folder.name, float(rows[0]["fps"]), names, episodes)


def read(folder: Path, camera: str | None = None, key: str | None = None) -> EpisodeSet:
    """The episodes of a LeRobot data set, or of a folder with clips of the simulator.

    Args:
        camera, key: of a LeRobot data set, as in `lerobot.read`.

    Raises:
        UserError: it is neither, or a number in it is not finite.
    """
    folder = storage.absolute(folder)
    if (folder / "meta" / "info.json").is_file():
        return lerobot.read(folder, camera, key)
    if not (folder / "manifest.jsonl").is_file():
        raise UserError(f"{folder}: neither a LeRobot data set nor clips of `python -m simulator make`")
    return read_simulator(folder)
