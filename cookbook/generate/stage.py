"""`cookbook generate`: every request times every seed. An interrupted run continues, and generates each clip once."""

from collections.abc import Mapping, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from cookbook import cluster, hardware, profiles, runs, storage
from cookbook.errors import UserError, require_whole
from cookbook.generate import planning, shortcuts
from cookbook.generate.generator import CLAUSE, IN_FLIGHT, Generator, Setup, file_name
from cookbook.generate.requests import Request, read_requests
from cookbook.models import world
from cookbook.models.hub import locate
from cookbook.show import progress


@runs.releasing
def generate(
    profile: str = "nano",
    run: Path | str | None = None,
    model: Literal["tuned", "base", "no_text"] = "tuned",
    requests: Path | None = None,
    weights: Path | None = None,
    seeds: int | None = None,
    ray: str | None = None,
    fast: tuple[Literal["guidance", "cache"], ...] | None = None,
    without_guardrail: bool = False,
    redo: bool = False,
) -> dict:
    """Generate videos into `generated/<model>`.

    Args:
        profile: name of a profile; `cookbook doctor` lists them.
        run: run folder; runs/<profile> when empty.
        model: tuned, from the run's export; base, the weights that post-training began with; or no_text, the run's
            export with an empty prompt, one video of each photo, which shows what the photo alone suggests.
        requests: published jsonl, batch_input.json, or folder of photos with instructions; data/eval when empty.
        weights: diffusers folder to use instead of the run's export.
        seeds: clips per request; the profile's when empty.
        ray: address of a Ray cluster (host:port, or auto), or local for all GPUs of this machine; needs the extra
            `cluster`. This process alone when empty.
        fast: shortcuts that change the clip (docs/shortcuts.md), by name; both when no name follows.
        without_guardrail: switch off NVIDIA's guardrail. NVIDIA Open Model License, section 2.1: who disables it
            without a substantially similar one that is appropriate for their use loses all rights under that licence.
        redo: generate all clips again. Without it, a change of requests or seeds costs only the clips that it concerns.

    Returns:
        The manifest, with the facts `clips`, `blocked`, `weights`, `flags`.
    """
    chosen = profiles.get(profile)
    require_whole(1, seeds=seeds)
    chosen = _without_guardrail(chosen) if without_guardrail else chosen
    root = runs.run_folder(run, profile)
    export = Path(weights) if weights else root / "export" / "diffusers" if model != "base" else None
    if export and not export.is_dir():
        raise UserError(f"{export} is missing; type {runs.command('convert', root, profile)} first, or give --weights")
    photos = root / "data" / "eval"
    if requests is None and not photos.is_dir():
        raise UserError(f"{photos} is missing; type {runs.command('prepare', root, profile)} first")
    todo = read_requests(Path(requests or photos), chosen)  # checked before any weights are read or downloaded
    todo = todo if requests else todo[: chosen.prompts]
    if silent := model == "no_text":
        todo = _first_of_each_photo(todo)
    taken = frozenset() if fast is None else frozenset(fast or shortcuts.NAMES)
    setup = Setup(export or locate(chosen.world), locate(chosen.world), chosen, todo, taken, silent)
    world.require_fitting(setup.weights)
    count = seeds or (chosen.sampling.seeds if model == "tuned" else 1 if silent else chosen.sampling.base_seeds)
    inputs = {"requests": _fingerprint(todo), "weights": world.weights_fingerprint(setup.weights)}
    if requests is None:
        inputs["prepare"] = runs.fingerprint(root / "data")
    if model != "base" and weights is None:
        inputs["convert"] = runs.fingerprint(root / "export")
    settings = _settings(setup, count, without_guardrail)
    # Seed by seed, so that a run stopped early has some of every prompt
    jobs = {file_name(row, row.seed + k): (row, row.seed + k) for k in range(count) for row in todo}
    digests = {row.name: _fingerprint([row.model_copy(update={"name": "", "seed": 0})]) for row in todo}
    made_from = {file: digests[row.name] for file, (row, _) in jobs.items()}
    out = root / "generated" / model
    stage = runs.enter(out, f"generate-{model}", profile, inputs, settings, redo, partial(_mends, out, made_from))
    if stage.done:
        return stage.manifest
    unread = setup.unread()
    rows = _generate_missing(setup, jobs, made_from, ray, {"model": model, "weights": inputs["weights"]}, out)
    files = [row["file"] for row in rows if not row["blocked"]] + ["requests.jsonl", "generated.jsonl"]
    blocked = sum(row["blocked"] for row in rows)
    again = runs.flags(model=model, requests=requests, weights=weights, seeds=seeds, fast=fast)
    again += runs.flags(without_guardrail=without_guardrail)
    facts = {"clips": len(rows) - blocked, "blocked": blocked, "weights": inputs["weights"], "unread": unread}
    return stage.finish((out / file for file in files), **facts, flags=again)


def _without_guardrail(profile: profiles.Profile) -> profiles.Profile:
    if not profile.guardrail:
        raise UserError(f"--without-guardrail: profile {profile.name} has none, its weights are not NVIDIA's; leave it")
    print(f"generate: NVIDIA's guardrail is off. {CLAUSE}")
    return replace(profile, guardrail=False)


def _settings(setup: Setup, seeds: int, without_guardrail: bool) -> dict:
    """What determines the clips, besides requests and weights."""
    sampling = setup.profile.sampling
    settings = {"seeds": seeds, "steps": sampling.steps, "shift": sampling.shift}
    settings |= {"fast": sorted(setup.fast)} if setup.fast else {}
    return settings | ({"guardrail": "off"} if without_guardrail else {})


def _first_of_each_photo(requests: list[Request]) -> list[Request]:
    found: dict[str, Request] = {}
    for request in requests:
        if request.input_path:
            found.setdefault(storage.digest(Path(request.input_path)), request)
    return [*found.values()]


def _fingerprint(requests: list[Request]) -> str:
    """Of all fields, and of the contents of the pictures and videos instead of their paths."""
    sources = [storage.digest(Path(r.input_path)) if r.input_path else None for r in requests]
    rows = [r.model_dump(exclude={"input_path"}, exclude_none=True) for r in requests]
    return storage.digest_of([list(pair) for pair in zip(rows, sources, strict=True)])


def _same(out: Path, row: dict, made_from: Mapping[str, str]) -> bool:
    """Whether the clip of a row is requested now, was made from the same request, and is there as it was written."""
    if row["file"] not in made_from or row.get("request") != made_from[row["file"]]:
        return False
    return row["blocked"] or ((out / row["file"]).exists() and storage.digest(out / row["file"]) == row["sha256"])


def _mends(out: Path, made_from: Mapping[str, str], changes: Set[str]) -> bool:
    """Whether the folder can be continued: some clip stays as it is, or none was finished."""
    rows = storage.read_rows(out / "generated.jsonl")
    return changes <= {"requests", "prepare", "seeds"} and (not rows or any(_same(out, r, made_from) for r in rows))


def _kept(out: Path, made_from: Mapping[str, str]) -> dict[str, dict]:
    """File -> row of the clips that stay as they are; rows of others wait in unused.jsonl for the same request."""
    table, unused = out / "generated.jsonl", out / "unused.jsonl"
    rows = storage.read_rows(table)
    found = {row["file"]: row for row in [*storage.read_rows(unused), *rows]}
    kept = {file: row for file, row in found.items() if _same(out, row, made_from)}
    if [*kept.values()] != rows:
        storage.write_rows(unused, found.values())
        storage.write_rows(table, kept.values())
    return kept


def _generate_missing(
    setup: Setup,
    jobs: Mapping[str, tuple[Request, int]],
    made_from: Mapping[str, str],
    ray: str | None,
    facts: dict,
    out: Path,
) -> list[dict]:
    """Generate every clip that does not exist yet; the rows of generated.jsonl, in order.

    Args:
        jobs: file of a clip -> its request and seed.
        made_from: file of a clip -> digest of its request.
        facts: added to every row.
    """
    table, rows = out / "generated.jsonl", _kept(out, made_from)
    storage.write_rows(out / "requests.jsonl", (request.model_dump(exclude_none=True) for request in setup.requests))
    left = [job for file, job in jobs.items() if file not in rows]
    frames = _span([r.num_output_frames for r in setup.requests])
    steps = _span([r.num_steps or setup.profile.sampling.steps for r in setup.requests])
    print(
        f"generate: {len(left)} of {len(jobs)} clips by {setup.weights} ({facts['model']}): "
        f"{frames} frames, {steps} steps, {len(setup.requests)} prompts x {len(jobs) // len(setup.requests)} seeds, "
        + planning.cost(setup.profile, left, hardware.device().type == "cuda")
        + (f", not exact: --fast {' '.join(sorted(setup.fast))}" if setup.fast else "")
    )
    if left:
        clips = cluster.each(ray, Generator, (setup,), left, lambda r, seed: f"{r.name}, seed {seed}", IN_FLIGHT)
        for _, (row, video) in progress(clips, f"{facts['model']} clips", len(left)):
            if video is not None:
                with storage.replacing(out / row["file"]) as temporary:
                    temporary.write_bytes(video)
            rows[row["file"]] = facts | row | {"request": made_from[row["file"]]}
            storage.append_row(table, rows[row["file"]])
    return [rows[file] for file in jobs]


def _span(numbers: list[int]) -> str:
    """`9`, or `5 to 9`."""
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"
