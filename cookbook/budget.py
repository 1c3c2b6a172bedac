"""What each stage takes at a profile: measured where a run was measured, calculated where the weights are not here.

`cookbook run` leaves seconds and memory of every cell in a run's notebooks/timings.json; `tools.publish` keeps those
of one run per profile in assets/timings.json. Nothing here needs weights, a GPU or a network.
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
JUDGING = 0.125  # seconds a clip; a larger critic is taken to be slower as its weights are more
CRITIC_GB, BESIDE_GB = 4.9, 12.0  # of those: its weights, and what else is on the GPU

EXPORTED = 8 + 4 + 2 + 4  # bytes a weight: model.pt with both sets, the average in float32, in bf16, diffusers/


@dataclass(frozen=True)
class Work:
    """One stage at one profile. What is None can be told from no measurement."""

    notebook: str  # its number
    stage: str
    what: str
    seconds: float | None = None
    gpu_gb: float | None = None  # on each GPU
    disk_gb: float | None = None  # written
    needs: tuple[Source, ...] = ()


def stages(p: Profile) -> list[Work]:
    """All stages in order. For weights that ship only what is done: their times are measured, by notebook."""
    clips = p.train_clips or sizes.CLIPS.get(p.train_data.location)
    photos = p.prompts or sizes.PHOTOS.get(p.eval_data.location)
    made = (photos or 0) * (p.sampling.seeds + p.sampling.base_seeds)
    told = f"{photos or 'all'} photos x {p.sampling.seeds} seeds tuned and {p.sampling.base_seeds} base"
    made_of = "labelled clips that ship" if p.controls else "your training clips, as they are and broken on purpose"
    controls = f"up to {p.calibration_clips} controls: {made_of}"
    every = {
        "prepare": f"{clips or 'all'} clips of {p.train_data.location}, photos of {p.eval_data.location}",
        "train": f"{p.recipe.steps} steps of batch {p.recipe.batch}, {p.clip.tokens} tokens a clip",
        "convert": "one checkpoint to the published files, each read again and compared",
        "generate": f"{told}, {p.sampling.steps} steps each",
        "judge": f"all of them by {p.critic.location}, measured first on {controls}",
    }
    data = (p.train_data, p.eval_data, *([p.controls] if p.controls else []))
    making = (p.world, *([doctor.GUARDRAIL] if p.guardrail else []))
    needs = {"prepare": data, "train": (p.world,), "generate": making, "judge": (p.critic,)}
    known = {} if p.world.ships else _calculated(p, made)
    numbers = {"prepare": "01", "train": "02", "convert": "03", "generate": "03", "judge": "04"}
    return [Work(numbers[s], s, what, *known.get(s, ()), needs=needs.get(s, ())) for s, what in every.items()]


def _calculated(p: Profile, made: int) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Stage -> seconds, GB on each GPU, GB written; on the H100s that the profile asks for."""
    gpus = max(1, doctor.NEEDS[p.name].gpus)
    train, scale = planning.make(p, gpus, None, None), planning.at_scale(p, gpus)
    network = 2 * train.parameters / 1e9
    clip = {p.clip.tokens: p.sampling.steps * (2 if p.sampling.guidance else 1)}
    judging = (made + p.calibration_clips) * JUDGING * p.critic.gigabytes / CRITIC_GB
    encoder = ROOM * (p.world.gigabytes - network)
    sampler = network + p.clip.height * p.clip.width * DECODING / 1e9
    return {
        "prepare": (None, None, p.train_data.gigabytes + p.eval_data.gigabytes),
        "train": (scale.hours * 3600, scale.memory_gb, (p.recipe.keep + 1) * train.checkpoint_gb),
        "convert": (None, 0, EXPORTED * train.parameters / 1e9),
        "generate": (made * seconds(p, clip, True)[0] / gpus, max(encoder, sampler), None),
        "judge": (judging / gpus, p.critic.gigabytes + BESIDE_GB, None),
    }


def timings() -> dict[str, dict]:
    """Profile -> what `cookbook run` measured of it: date, device, processor, versions, and per notebook its cells."""
    return json.loads(TIMINGS.read_text()) if TIMINGS.exists() else {}


def minutes(profile: str) -> dict[str, float]:
    """Notebook number -> minutes that its stages take: measured, or calculated. What is not known is left out."""
    p = profiles.get(profile)
    known = [(work.notebook, work.seconds) for work in stages(p) if work.seconds]
    if p.world.ships:
        told = timings().get(profile, {"notebooks": {}})["notebooks"]
        known = [(name[:2], row["seconds"]) for name, row in told.items()]
    return {number: sum(seconds for other, seconds in known if other == number) / 60 for number, _ in known}


def plan(profile: str, notebook: str | None = None) -> None:
    """Print what will be done, how long it takes in how much memory, and what must be downloaded under which licence.

    Args:
        profile: smoke, nano, 2b or 14b.
        notebook: a number; only the stages of that one.
    """
    p, clip, machine = profiles.get(profile), profiles.get(profile).clip, Machine()
    chosen = [work for work in stages(p) if notebook in (None, work.notebook)]
    print(f"profile {p.name}: made for {p.hardware}")
    print(f"  clips     {clip.frames} frames at {clip.fps} fps, {clip.height}x{clip.width}, {clip.tokens} tokens")
    for work in chosen:
        print(f"  {work.stage:<9} {work.what}" + ("" if p.world.ships else f": {_taken(work)}"))
    if p.world.ships:
        print(f"  measured  {_measured(p.name, notebook)}")
    else:
        print("            times and memory are calculated from measurements on an H100 with random weights")
    places = {source.location: source for work in chosen for source in work.needs if not source.ships}
    for source in places.values():
        size = f"{'about' if source.gigabytes else 'size'} {doctor.size(source)}"
        print(f"  download  {source.location} ({source.licence}), {size}: {_access(machine, source)}")
    if not places:
        print("  download  nothing" + (": weights and clips ship with the cookbook" if p.world.ships else ""))


def _taken(work: Work) -> str:
    told = "time not measured" if work.seconds is None else f"about {spell(work.seconds)}"
    memory = f", {work.gpu_gb:.0f} GB on each GPU" if work.gpu_gb else ", no GPU" if work.gpu_gb == 0 else ""
    return told + memory + (f", writes {work.disk_gb:.0f} GB" if work.disk_gb and work.disk_gb >= 1 else "")


def _measured(profile: str, notebook: str | None) -> str:
    """The time that the published run took for a notebook, or for all."""
    told = timings().get(profile)
    if not told:
        return "not yet"
    wanted = [notebook] if notebook else ["00", *(work.notebook for work in stages(profiles.get(profile)))]
    rows = [row for name, row in told["notebooks"].items() if name[:2] in wanted]
    peak = max((row["peak_memory_gb"] for row in rows), default=0)
    return f"{spell(sum(row['seconds'] for row in rows))}, {peak:.1f} GB of memory ({told['device']}, {told['date']})"


def _access(machine: Machine, source: Source) -> str:
    """Whether it may be downloaded, and if not what is missing."""
    if machine.has(source):
        return "here already"
    if not source.gated:
        return "not gated, as far as we know"
    page = f"https://huggingface.co/{source.location}"
    if not machine.token:
        return f"gated, no token here; accept it at {page}, then `hf auth login`"
    if not machine.online:
        return f"gated, and the Hub cannot be asked from here; accept it at {page}"
    return "gated, accepted" if machine.may_download(source) else f"gated, NOT accepted: {page}"


def spell(seconds: float) -> str:
    """A time in a unit that fits: 45 s, 7.9 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
