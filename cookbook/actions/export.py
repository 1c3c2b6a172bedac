"""Stage `actions-export`: the tuned model's videos with their decoded joints become a LeRobot data set in the run."""

from collections import defaultdict
from pathlib import Path
from typing import Literal

import numpy as np

from cookbook import profiles, runs, storage, video
from cookbook.actions.episodes import Episode, EpisodeSet, at_times
from cookbook.actions.lerobot_write import write
from cookbook.errors import UserError


@runs.releasing
def export_actions(
    profile: str = "nano", run: Path | str | None = None, version: Literal["3.0", "2.1"] = "3.0", redo: bool = False
) -> dict:
    """Export the decoded videos of the tuned model as a LeRobot data set, an episode for each video.

    Args:
        version: of LeRobot's layout. 3.0 goes to `lerobot/`; 2.1, with `meta/modality.json` for Isaac-GR00T, to
            `lerobot-2.1/`.

    Returns:
        The stage's manifest.

    Raises:
        UserError: nothing was decoded, or a video was changed after that.
    """
    chosen = profiles.get(profile)
    root = runs.run_folder(run, chosen.name)
    runs.manifest_of(root, "actions", chosen.name)
    episodes, inputs = decoded(root)
    return export(episodes, root, chosen.name, inputs, version, redo)


def decoded(run: Path) -> tuple[EpisodeSet, dict[str, str]]:
    """The tuned model's episodes of a run with finished `actions/`, and the fingerprints of what they come from.

    Their columns are `success` and `reason` of the simulator, `score_<question>` of the critic and `kept` of the
    filter, as far as these stages are finished; and `model`, `seed`, hashes and the decoder's estimate of its error.
    """
    facts, inputs = _facts(run)
    manifest = runs.read_manifest(run / "actions")
    episodes, rates = [], set()
    for row in storage.read_rows(run / "actions" / "actions.jsonl"):
        if row["model"] != "tuned":
            continue
        path = run / row["file"]
        if not path.exists() or storage.digest(path) != row["sha256"]:
            raise UserError(f"{path} was changed after it was decoded: type {runs.command('actions', run)} first")
        film = video.probe(path, threads=1)
        rates.add(film.fps)
        times = np.arange(film.frames) / film.fps
        joints, targets = (at_times(np.array(row[name]), row["fps"], times) for name in ("joints", "targets"))
        origin = {"model": row["model"], "seed": row["seed"], "video_sha256": row["sha256"], "decoder": row["made_by"]}
        origin |= {"error_degrees": float(np.mean(row["deviation"]))}
        episodes.append(Episode(path, row["prompt"], joints, targets, facts=facts[row["file"]] | origin))
    if len(rates) != 1:
        found = f"videos of {len(rates)} rates" if rates else "no videos of the tuned model"
        raise UserError(f"{run / 'actions'}: {found}; a LeRobot data set needs one")
    names = tuple(manifest["joint_names"])
    return EpisodeSet(run.name, rates.pop(), names, episodes, manifest["robot"]), inputs


def _facts(run: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """Video -> what other stages found out about it; stage -> fingerprint."""
    facts: dict[str, dict] = defaultdict(dict)
    finished = runs.finished(run)
    inputs = {stage: finished[stage]["fingerprint"] for stage in runs.READS["actions-export"] if stage in finished}
    if "execute" in inputs:
        for row in storage.read_rows(run / "executed" / "executed.jsonl"):
            facts[row["file"]] |= {"success": row["success"], "reason": row["reason"]}
    if "judge" in inputs:
        for row in storage.read_rows(run / "verdicts" / "verdicts.jsonl"):
            facts[row["file"]][f"score_{row['question']}"] = row["score"]
    if "filter" in inputs:
        for name in ("dropped", "kept"):
            for row in storage.read_rows(run / "kept" / f"{name}.jsonl"):
                facts[row["file"]]["kept"] = name == "kept"
    return facts, inputs


def export(
    episodes: EpisodeSet, run: Path, profile: str, inputs: dict[str, str], version: str = "3.0", redo: bool = False
) -> dict:
    """Write a data set to a run; errors as in `lerobot_write.write`.

    Args:
        inputs: name -> fingerprint of what the episodes come from.
    """
    folder = run / ("lerobot" if version == "3.0" else f"lerobot-{version}")
    stage = runs.enter(folder, "actions-export", profile, inputs, {"version": version}, redo)
    if stage.done:
        return stage.manifest
    print(f"actions export: {len(episodes.episodes)} episodes, LeRobot version {version} -> {stage.folder}")
    outputs = write(stage.folder, episodes, version)
    frames = sum(len(episode.joints) for episode in episodes.episodes)
    return stage.finish(outputs, episodes=len(episodes.episodes), frames=frames, joints=len(episodes.joint_names))
