"""How far `cookbook generate --fast` is from the exact clips: each shortcut alone and both, on held-out photos.

    python benchmarks/shortcuts.py                      the export in runs/nano, 10 prompts, 1 seed, 12 steps
    python benchmarks/shortcuts.py --steps 36           as many steps as the real weights take

Every clip has the same noise as the exact one. PSNR is of the pixels before encoding, mean over clips.
`success rate` is the ground truth of the video after encoding (`cookbook/judge/rules.py`), `same outcome` the share of
clips with the outcome of the exact one. No clip is kept.

Figures: docs/shortcuts.md.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from generators import unit
from measuring import psnr, report

from cookbook import profiles, runs, storage
from cookbook.errors import UserError, report_user_errors
from cookbook.generate.generator import Generator, Setup, file_name
from cookbook.generate.requests import Request, from_photos
from cookbook.generate.shortcuts import NAMES
from cookbook.judge import ground_truth
from cookbook.models import autoencoder, hub
from cookbook.profiles import Profile
from cookbook.video import write_video


@dataclass(frozen=True)
class Row:
    """One set of shortcuts; means over clips."""

    method: str
    evaluations: float  # of the network, per clip: 2 for a step with guidance
    seconds: float  # per clip, without encoding
    psnr_db: float | None  # None for the exact clips themselves
    success_rate: float | None  # None where the ground truth of the scenes is not known
    same_outcome: float | None  # share with the outcome of the exact clip


def run(
    generator: Generator, profile: Profile, requests: list[Request], seeds: int
) -> tuple[list, float, float, list[str]]:
    """Every request times every seed: clips [T, H, W, 3] in 0..1, evaluations and seconds per clip, outcomes."""
    clips, rows, seconds, evaluations = [], [], 0.0, []
    hook = generator.transformer.norm_out.register_forward_pre_hook(lambda *_: evaluations.append(1))
    with tempfile.TemporaryDirectory() as folder:
        for request in requests:
            for seed in range(seeds):
                start = time.perf_counter()
                pixels = generator.pixels(request, seed)
                clips.append(unit(pixels))
                seconds += time.perf_counter() - start
                path = Path(folder) / file_name(request, seed)
                write_video(path, autoencoder.to_frames(pixels), profile.clip.fps)
                row = {"file": path.name, "path": path, "model": "tuned", "name": request.name, "seed": seed}
                rows.append(row | {"prompt": request.prompt, "image": storage.digest(Path(request.input_path))})
        outcomes = ground_truth.measure(profile, rows, Path(folder) / ground_truth.NAME)
    hook.remove()
    return clips, sum(evaluations) / len(clips), seconds / len(clips), [row["outcome"] for row in outcomes]


def main(
    profile: str = "nano",
    weights: Path | None = None,
    steps: int | None = None,
    prompts: int = 10,
    seeds: int = 1,
    out: Path | None = None,
) -> list[Row]:
    """Measure the exact clips, each shortcut, and both.

    Args:
        profile: name of the profile that sets photos and sampler.
        weights: diffusers folder; the export of runs/<profile> when empty.
        steps: of the sampler; the profile's when empty.
        prompts: the first so many held-out photos.
        seeds: clips of each.
        out: file that gets the table too, after each row.
    """
    chosen = profiles.get(profile)
    chosen = replace(chosen, sampling=replace(chosen.sampling, steps=steps or chosen.sampling.steps))
    folder = weights or runs.run_folder(None, profile) / "export" / "diffusers"
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; run `cookbook run --profile {profile}` first, or give --weights")
    photos = hub.locate(chosen.eval_data) / chosen.eval_subset
    requests = from_photos(photos, chosen)[:prompts]
    sampling = chosen.sampling
    facts = f"{profile}, {sampling.steps} steps, guidance {sampling.guidance:g}, {len(requests) * seeds} clips"
    rows, table, exact, exact_outcomes = [], "", None, []
    for method in ("exact", *NAMES, "all"):
        fast = frozenset(NAMES if method == "all" else () if method == "exact" else (method,))
        generator = Generator(Setup(folder, hub.locate(chosen.world), chosen, requests, fast))
        clips, evaluations, seconds, outcomes = run(generator, chosen, requests, seeds)
        near = float(np.mean([psnr(*pair) for pair in zip(clips, exact, strict=True)])) if exact else None
        exact, exact_outcomes = exact or clips, exact_outcomes or outcomes
        success = float(np.mean([outcome == "placed" for outcome in outcomes])) if outcomes else None
        same = float(np.mean(np.equal(outcomes, exact_outcomes))) if outcomes else None
        rows.append(Row(method, evaluations, seconds, near, success, same))
        print(rows[-1], flush=True)
        table = report(facts, rows, out)
    print(table, flush=True)
    return rows


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    with report_user_errors():
        tyro.cli(main)
