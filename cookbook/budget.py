"""What each stage takes at a profile: measured for weights that ship, calculated for those that do not.

`cookbook run` records time and memory of every cell in a run's notebooks/timings.json; `tools.publish` keeps those of
one run per profile in assets/timings.json. Nothing here needs weights, a GPU or a network.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cookbook import doctor, profiles, runs
from cookbook.generate.planning import DECODING, ROOM, seconds
from cookbook.machine import Machine
from cookbook.models import sizes
from cookbook.profiles import Profile, Source
from cookbook.train import planning

TIMINGS = runs.ASSETS / "timings.json"

# Cosmos-Reason2-2B's size on an H100, mp4 on disk to verdict: 7.99 clips/s and 15.7 GiB (docs/gpu_figures.md)
JUDGING = 0.125  # seconds a clip; assumed proportional to the size of the critic
CRITIC_GB, OVERHEAD_GB = 4.9, 12.0  # of those: its weights, and everything else on the GPU

EXPORTED = 8 + 4 + 2 + 4  # bytes a weight: model.pt with both sets, the average in float32, in bf16, diffusers/


@dataclass(frozen=True)
class Work:
    """One stage at one profile; None where no measurement exists."""

    notebook: str  # its number
    stage: str
    what: str
    sources: tuple[Source, ...] = ()
    seconds: float | None = None
    gpu_gb: float | None = None  # on each GPU
    disk_gb: float | None = None  # written


def stages(p: Profile) -> list[Work]:
    """All stages in order. Weights that ship get no estimates: `timings` has the measured times, by notebook."""
    photos = p.prompts or sizes.PHOTOS.get(p.eval_data.location)
    seeds = f"{p.sampling.seeds} seeds tuned and {p.sampling.base_seeds} base"
    origin = "labelled clips that ship" if p.calibration else "your training clips and corrupted copies of them"
    every = {
        "prepare": f"{p.train_clips or sizes.CLIPS.get(p.train_data.location) or 'all'} clips of "
        f"{p.train_data.location}, photos of {p.eval_data.location}",
        "train": f"{p.recipe.steps} steps of batch {p.recipe.batch}, {p.clip.tokens} tokens a clip",
        "convert": "one checkpoint to the published files, each read again and compared",
        "generate": f"{photos or 'all'} photos x {seeds}, {p.sampling.steps} steps each",
        "judge": f"all of them by {p.critic.location}, after up to {p.calibration_clips} calibration clips: {origin}",
    }
    sources = {
        "prepare": (p.train_data, p.eval_data, *([p.calibration] if p.calibration else [])),
        "train": (p.world,),
        "generate": (p.world, *([doctor.GUARDRAIL] if p.guardrail else [])),
        "judge": (p.critic,),
    }
    estimates = {} if p.world.ships else _estimates(p, (photos or 0) * (p.sampling.seeds + p.sampling.base_seeds))
    numbers = {"prepare": "01", "train": "02", "convert": "03", "generate": "03", "judge": "04"}
    return [Work(numbers[s], s, what, sources.get(s, ()), *estimates.get(s, ())) for s, what in every.items()]


def _estimates(p: Profile, clips: int) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Stage -> seconds, GB on each GPU, GB written; on as many H100s as the profile needs."""
    gpus = max(1, p.needs.gpus)
    train = planning.estimate(p, gpus, None, None)
    network = 2 * train.parameters / 1e9
    evaluations = {p.clip.tokens: p.sampling.steps * (2 if p.sampling.guidance else 1)}
    judging = (clips + p.calibration_clips) * JUDGING * p.critic.gigabytes / CRITIC_GB
    encoder = ROOM * (p.world.gigabytes - network)
    sampler = network + p.clip.height * p.clip.width * DECODING / 1e9
    return {
        "prepare": (None, None, p.train_data.gigabytes + p.eval_data.gigabytes),
        "train": (train.seconds, sum(train.memory_gb.values()), (p.recipe.keep + 1) * train.checkpoint_gb),
        "convert": (None, 0, EXPORTED * train.parameters / 1e9),
        "generate": (clips * seconds(p, evaluations, True)[0] / gpus, max(encoder, sampler), None),
        "judge": (judging / gpus, p.critic.gigabytes + OVERHEAD_GB, None),
    }


def timings() -> dict[str, dict]:
    """Profile -> its published run: date, device, processor, versions, and per notebook the time of its cells."""
    return json.loads(TIMINGS.read_text()) if TIMINGS.exists() else {}


def minutes(profile: str) -> dict[str, float]:
    """Notebook number -> minutes of its stages, measured or calculated; notebooks without either are left out."""
    p = profiles.get(profile)
    rows = [(work.notebook, work.seconds) for work in stages(p) if work.seconds]
    if p.world.ships:
        measured = timings().get(profile, {"notebooks": {}})["notebooks"]
        rows = [(name[:2], row["seconds"]) for name, row in measured.items()]
    return {number: sum(seconds for other, seconds in rows if other == number) / 60 for number, _ in rows}


def plan(profile: str, notebook: str | None = None) -> None:
    """Print the work, its time and memory, and what must be downloaded under which licence.

    Args:
        profile: name of a profile.
        notebook: a number; only the stages of that one.
    """
    p, machine = profiles.get(profile), Machine()
    chosen = [work for work in stages(p) if notebook in (None, work.notebook)]
    clip = f"{p.clip.frames} frames at {p.clip.fps} fps, {p.clip.height}x{p.clip.width}, {p.clip.tokens} tokens"
    print(f"profile {p.name}: needs {p.needs}\n  clips     {clip}")
    for work in chosen:
        print(f"  {work.stage:<9} {work.what}" + ("" if p.world.ships else f": {_estimate(work)}"))
    if p.world.ships:
        print(f"  measured  {_measured(p.name, notebook, chosen)}")
    else:
        print("            times and memory are calculated from measurements on an H100 with random weights")
    downloads = {source.location: source for work in chosen for source in work.sources if not source.ships}
    for source in downloads.values():
        size = f"{'about' if source.gigabytes else 'size'} {doctor.size(source)}"
        print(f"  download  {source.location} ({source.licence}), {size}: {_access(machine, source)}")
    if not downloads:
        print("  download  nothing" + (": weights and clips ship with the cookbook" if p.world.ships else ""))


def _estimate(work: Work) -> str:
    time = "time not measured" if work.seconds is None else f"about {format_duration(work.seconds)}"
    memory = f", {work.gpu_gb:.0f} GB on each GPU" if work.gpu_gb else ", no GPU" if work.gpu_gb == 0 else ""
    return time + memory + (f", writes {work.disk_gb:.0f} GB" if work.disk_gb and work.disk_gb >= 1 else "")


def _measured(profile: str, notebook: str | None, chosen: list[Work]) -> str:
    """Time and memory of the published run, for one notebook or for all."""
    if profile not in timings():
        return "not yet"
    published = timings()[profile]
    numbers = {notebook} if notebook else {"00", *(work.notebook for work in chosen)}
    rows = [row for name, row in published["notebooks"].items() if name[:2] in numbers]
    time, peak = sum(row["seconds"] for row in rows), max((row["peak_memory_gb"] for row in rows), default=0)
    return f"{format_duration(time)}, {peak:.1f} GB of memory ({published['device']}, {published['date']})"


def _access(machine: Machine, source: Source) -> str:
    """Whether a source may be downloaded, and if not what to do."""
    page = f"https://huggingface.co/{source.location}"
    if machine.has(source):
        return "here already"
    if not source.gated:
        return "not gated, as far as we know"
    if not machine.token:
        return f"gated, no token here; accept it at {page}, then `hf auth login`"
    if not machine.online:
        return f"gated, and the Hub cannot be reached; accept it at {page}"
    return "gated, accepted" if machine.may_download(source) else f"gated, NOT accepted: {page}"


def format_duration(seconds: float) -> str:
    """A duration in a suitable unit: 45 s, 7.9 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
