"""What each stage does at a profile, how long it takes, and what must be downloaded under which licence.

Times are measured where weights ship: `cookbook run` records every cell in a run's notebooks/timings.json, and
`tools.publish` keeps one run per profile in assets/timings.json. For other weights they are calculated. Nothing here
needs weights, a GPU or a network.
"""

import json
from dataclasses import dataclass

from cookbook import doctor, profiles, runs
from cookbook.generate.planning import seconds
from cookbook.machine import Machine
from cookbook.models import sizes
from cookbook.profiles import Profile, Source
from cookbook.train.planning import estimate

TIMINGS = runs.ASSETS / "timings.json"

# Cosmos-Reason2-2B's size on an H100, mp4 on disk to verdict: 7.99 clips/s (docs/gpu_figures.md)
JUDGING = 0.125  # seconds a clip; assumed proportional to the size of the critic
CRITIC_GB = 4.9  # size of that critic


@dataclass(frozen=True)
class Work:
    """One stage at one profile."""

    notebook: str  # its number
    stage: str
    what: str
    sources: tuple[Source, ...] = ()
    seconds: float | None = None  # on as many H100s as the profile needs; None where nothing was measured


def stages(p: Profile) -> list[Work]:
    """All stages in order. Where weights ship, no time is calculated: `timings` has those measured, by notebook."""
    photos = p.prompts or sizes.PHOTOS.get(p.eval_data.location)
    seeds = f"{p.sampling.seeds} seeds tuned and {p.sampling.base_seeds} base"
    origin = "labelled clips that ship" if p.calibration else "your training clips and corrupted copies of them"
    clips = f"{p.train_clips or sizes.CLIPS.get(p.train_data.location) or 'all'} clips of {p.train_data.location}"
    data = (p.train_data, p.eval_data, *([p.calibration] if p.calibration else []))
    networks = (p.world, *([doctor.GUARDRAIL] if p.guardrail else []))
    training = f"{p.recipe.steps} steps of batch {p.recipe.batch}, {p.clip.tokens} tokens a clip"
    generation = f"{photos or 'all'} photos x {seeds}, {p.sampling.steps} steps each"
    judging = f"all of them by {p.critic.location}, after up to {p.calibration_clips} calibration clips: {origin}"
    videos = (photos or 0) * (p.sampling.seeds + p.sampling.base_seeds)
    times = {} if p.world.ships else _calculated(p, videos)
    return [
        Work("01", "prepare", f"{clips}, photos of {p.eval_data.location}", data),
        Work("02", "train", training, (p.world,), times.get("train")),
        Work("03", "convert", "one checkpoint to the published files, each read again and compared"),
        Work("03", "generate", generation, networks, times.get("generate")),
        Work("04", "judge", judging, (p.critic,), times.get("judge")),
        Work("05", "actions", "the joint targets of each video, executed in the simulator, and a LeRobot data set"),
    ]


def _calculated(p: Profile, videos: int) -> dict[str, float]:
    """Stage -> seconds on as many H100s as the profile needs."""
    gpus = max(1, p.needs.gpus)
    evaluations = {p.clip.tokens: p.sampling.steps * (2 if p.sampling.guidance else 1)}
    return {
        "train": estimate(p, gpus, None, None).seconds,
        "generate": videos * seconds(p, evaluations, True)[0] / gpus,
        "judge": (videos + p.calibration_clips) * JUDGING * p.critic.gigabytes / CRITIC_GB / gpus,
    }


def timings() -> dict[str, dict]:
    """Profile -> its published run: date, device, processor, versions, and per notebook the time of its cells."""
    return json.loads(TIMINGS.read_text()) if TIMINGS.exists() else {}


def minutes(profile: str) -> dict[str, float]:
    """Notebook number -> its minutes, measured or calculated; notebooks without either are left out."""
    p = profiles.get(profile)
    if not p.world.ships:
        return {work.notebook: work.seconds / 60 for work in stages(p) if work.seconds}
    measured = timings().get(profile, {"notebooks": {}})["notebooks"]
    return {name[:2]: row["seconds"] / 60 for name, row in measured.items()}


def plan(profile: str, notebook: str | None = None) -> None:
    """Print the work, its time, and what must be downloaded under which licence.

    Args:
        profile: name of a profile.
        notebook: a number; only the stages of that one.
    """
    p, machine = profiles.get(profile), Machine()
    chosen = [work for work in stages(p) if notebook in (None, work.notebook)]
    clip = f"{p.clip.frames} frames at {p.clip.fps} fps, {p.clip.height}x{p.clip.width}, {p.clip.tokens} tokens"
    print(f"profile {p.name}: needs {p.needs}\n  clips     {clip}")
    for work in chosen:
        print(f"  {work.stage:<9} {work.what}" + (f": about {format_duration(work.seconds)}" if work.seconds else ""))
    if p.world.ships:
        print(f"  measured  {_measured(p.name, notebook, chosen)}")
    else:
        print("            times are calculated from measurements on an H100 with random weights")
    downloads = {source.location: source for work in chosen for source in work.sources if not source.ships}
    for source in downloads.values():
        gate = f"gated, accept it at {source.page}" if source.gated else "not gated, as far as we know"
        state = "here already" if machine.has(source) else gate
        size = f"{'about' if source.gigabytes else 'size'} {doctor.size(source)}"
        print(f"  download  {source.location} ({source.licence}), {size}: {state}")
    if not downloads:
        print("  download  nothing" + (": weights and clips ship with the cookbook" if p.world.ships else ""))


def _measured(profile: str, notebook: str | None, chosen: list[Work]) -> str:
    """Time and memory of the published run, for one notebook or for all."""
    if profile not in timings():
        return "not yet"
    published = timings()[profile]
    numbers = {notebook} if notebook else {"00", *(work.notebook for work in chosen)}
    rows = [row for name, row in published["notebooks"].items() if name[:2] in numbers]
    time, peak = sum(row["seconds"] for row in rows), max((row["peak_memory_gb"] for row in rows), default=0)
    return f"{format_duration(time)}, {peak:.1f} GB of memory ({published['device']}, {published['date']})"


def format_duration(seconds: float) -> str:
    """A duration in a suitable unit: 45 s, 7.9 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
