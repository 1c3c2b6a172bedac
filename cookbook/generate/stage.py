"""`cookbook generate`: every request times every seed, each clip made once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from cookbook import cluster, hardware, profiles, runs
from cookbook.errors import UserError
from cookbook.generate import guardrail, planning, shortcuts
from cookbook.generate.generator import IN_FLIGHT, Generator, file_name
from cookbook.generate.requests import Request, from_photos, read_requests
from cookbook.models import world
from cookbook.models.hub import locate
from cookbook.profiles import Profile
from cookbook.show import progress


def generate(
    profile: str = "nano",
    run: Path | str | None = None,
    model: Literal["tuned", "base"] = "tuned",
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
        profile: smoke, nano, 2b or 14b.
        run: run folder; runs/<profile> when empty.
        model: tuned, from the run's export; or base, the weights that post-training began with.
        requests: published jsonl, batch_input.json, or folder of photos with instructions; data/eval when empty.
        weights: diffusers folder to use instead of the run's export.
        seeds: clips per request; the profile's when empty.
        ray: address of a Ray cluster (host:port, or auto), or local for all GPUs of this machine; needs the extra
            `cluster`. This process alone when empty.
        fast: shortcuts that change the clip (`generate.shortcuts` says how), by name, or all that this machine can.
        without_guardrail: switch off NVIDIA's guardrail. NVIDIA Open Model License, section 2.1: who disables it
            without a substantially similar one that is appropriate for their use loses all rights under that licence.
        redo: empty the folder first.

    Returns:
        The manifest, with the facts `clips`, `blocked`, `weights`.
    """
    chosen = profiles.get(profile)
    if without_guardrail:
        chosen = guardrail.switched_off(chosen)
    short = shortcuts.choose(fast, None if ray else hardware.device())
    root = runs.run_folder(run, profile)
    name = f"generate-{model}"
    tuned = Path(weights) if weights else root / "export" / "diffusers"
    if (weights or model == "tuned") and not tuned.is_dir():
        first = runs.command("convert", root, profile)
        raise UserError(f"{tuned} is missing; type {first} first, or give --weights")
    todo, origin = _read(requests, root, chosen)  # before any weights are looked at, or even downloaded
    base = locate(chosen.world)
    folder = tuned if weights or model == "tuned" else base
    count = seeds or (chosen.sampling.seeds if model == "tuned" else chosen.sampling.base_seeds)
    fingerprint = world.weights_fingerprint(folder)
    inputs = {"requests": origin, "weights": fingerprint}
    if requests is None:
        inputs["prepare"] = runs.fingerprint(root / "data")
    if model == "tuned" and weights is None:
        inputs["convert"] = runs.fingerprint(root / "export")
    settings = {"seeds": count, "steps": chosen.sampling.steps, "shift": chosen.sampling.shift}
    if short:
        settings["fast"] = sorted(short)
    if without_guardrail:
        settings["guardrail"] = "off"
    stage = runs.enter(root / runs.FOLDERS[name], name, profile, inputs, settings, redo)
    if stage.done:
        return stage.manifest
    facts = {"model": model, "weights": fingerprint}
    rows = _work(todo, count, (folder, base, chosen, todo, short), ray, facts, stage.folder)
    outputs = [stage.folder / row["file"] for row in rows if not row["blocked"]]
    outputs += [stage.folder / "requests.jsonl", stage.folder / "generated.jsonl"]
    blocked = sum(row["blocked"] for row in rows)
    return stage.finish(outputs, clips=len(rows) - blocked, blocked=blocked, weights=fingerprint)


def _read(requests: Path | None, root: Path, profile: Profile) -> tuple[list[Request], str]:
    """The requests and a fingerprint of them."""
    if requests is not None:
        found = read_requests(Path(requests), profile)
    elif (root / "data" / "eval").is_dir():
        found = from_photos(root / "data" / "eval", profile)[: profile.prompts]
    else:
        first = runs.command("prepare", root, profile.name)
        raise UserError(f"{root / 'data' / 'eval'} is missing; type {first} first")
    photos = [runs.digest(Path(r.input_path)) if r.input_path else None for r in found]
    rows = [r.model_dump(exclude={"input_path"}, exclude_none=True) for r in found]
    return found, runs.digest_of([list(pair) for pair in zip(rows, photos, strict=True)])


def _work(todo: list[Request], seeds: int, parts: tuple, ray: str | None, facts: dict, out: Path) -> list[dict]:
    """Make every clip that is not there yet; the rows of generated.jsonl, in order.

    Args:
        parts: arguments of `Maker`.
        facts: go into every row.
    """
    table = out / "generated.jsonl"
    rows = {row["file"]: row for row in runs.read_rows(table) if row["blocked"] or (out / row["file"]).exists()}
    with runs.replacing(out / "requests.jsonl") as temporary:
        temporary.write_text("".join(request.model_dump_json(exclude_none=True) + "\n" for request in todo))
    # Seed by seed, so that a run stopped early has some of every prompt
    jobs = [(r, r.seed + k) for k in range(seeds) for r in todo]
    left = [(r, seed) for r, seed in jobs if file_name(r, seed) not in rows]
    folder, _, profile, _, fast = parts
    print(
        f"generate: {len(left)} of {len(jobs)} clips by {folder} ({facts['model']}): "
        f"{_span([r.num_output_frames for r in todo])} frames, "
        f"{_span([r.num_steps or profile.sampling.steps for r in todo])} steps, {len(todo)} prompts x {seeds} seeds, "
        + planning.cost(profile, left, hardware.device().type == "cuda")
        + (f", not exact: --fast {' '.join(sorted(fast))}" if fast else "")
    )
    made = () if not left else one_process(parts, left) if ray is None else many_processes(ray, parts, left)
    for row, video in progress(made, f"{facts['model']} clips", len(left)) if left else ():
        if video is not None:
            with runs.replacing(out / row["file"]) as temporary:
                temporary.write_bytes(video)
        rows[row["file"]] = facts | row
        runs.append_row(table, facts | row)
    return [rows[file_name(r, seed)] for r, seed in jobs]


def _span(numbers: list[int]) -> str:
    """`9`, or `5 to 9`."""
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"


def many_processes(ray: str, parts: tuple, jobs: list[tuple[Request, int]]) -> Iterator[tuple[dict, bytes | None]]:
    """The clips as they get ready, made by the workers of the Ray cluster at that address."""
    made = cluster.each(ray, Generator, parts, jobs, lambda request, seed: f"{request.name}, seed {seed}", IN_FLIGHT)
    yield from (clip for _, clip in made)


def one_process(parts: tuple, jobs: list[tuple[Request, int]]) -> Iterator[tuple[dict, bytes | None]]:
    """The clips in order, each encoded as mp4 while the next is denoised."""
    maker = Generator(*parts)
    threads = ThreadPoolExecutor(IN_FLIGHT)
    try:
        yield from threads.map(lambda job: maker(*job), jobs)
    finally:
        threads.shutdown(cancel_futures=True)
