"""How far `cookbook generate --fast` is from the exact clips: each shortcut alone and all, on held-out photos.

    python benchmarks/shortcuts.py                      the export in runs/nano, 10 prompts, 1 seed, 12 steps
    python benchmarks/shortcuts.py --steps 36           as many steps as the real weights take

For every clip the same noise as the exact one. PSNR and SSIM are of the pixels before encoding, the mean over clips;
`placed` is the truth of the dream after encoding (`cookbook/judge/rules.py`), `alike` the share of clips for which
it is the same as for the exact one. fp8 is rounded as on an H100 but, on a CPU, not faster. Clips stay in no folder.

Figures: docs/shortcuts.md.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from measuring import markdown
from scipy.ndimage import uniform_filter

from cookbook import hardware, profiles, runs
from cookbook.errors import UserError, report_user_errors
from cookbook.generate.generator import Generator, file_name
from cookbook.generate.requests import Request, from_photos
from cookbook.generate.shortcuts import NAMES
from cookbook.judge import ground_truth
from cookbook.models import autoencoder, fp8, hub
from cookbook.profiles import Profile
from cookbook.video import write_video


@dataclass(frozen=True)
class Row:
    """One set of shortcuts; means over clips."""

    method: str
    passes: float  # through the network, per clip: 2 for a step with guidance
    seconds: float  # per clip, without encoding
    psnr: float | None  # dB; None for the exact clips themselves
    ssim: float | None  # 0 to 1
    placed: float | None  # share that does what it is told; None where the scenes' truth is not known
    alike: float | None  # share with the outcome of the exact clip


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity of two grey videos [T, H, W] in 0..1, mean over frames (Wang et al. 2004; windows of 7 x 7,
    every pixel in them counts the same)."""
    mean = [uniform_filter(x, (0, 7, 7)) for x in (one, other, one * one, other * other, one * other)]
    spread = (mean[2] - mean[0] ** 2) + (mean[3] - mean[1] ** 2)
    shared = mean[4] - mean[0] * mean[1]
    small = 0.01**2, 0.03**2
    likeness = (2 * mean[0] * mean[1] + small[0]) * (2 * shared + small[1])
    return float((likeness / ((mean[0] ** 2 + mean[1] ** 2 + small[0]) * (spread + small[1]))).mean())


def distance(made: list[np.ndarray], exact: list[np.ndarray]) -> tuple[float, float]:
    """PSNR in dB and SSIM, means over clips [T, H, W, 3] in 0..1."""
    decibels = [-10 * np.log10(max(np.square(a - b).mean(), 1e-12)) for a, b in zip(made, exact, strict=True)]
    alike = [ssim(a.mean(-1), b.mean(-1)) for a, b in zip(made, exact, strict=True)]
    return float(np.mean(decibels)), float(np.mean(alike))


def run(
    maker: Generator, profile: Profile, requests: list[Request], seeds: int
) -> tuple[list, float, float, list[str]]:
    """Every request times every seed: the clips [T, H, W, 3] in 0..1, passes and seconds per clip, and outcomes."""
    clips, rows, seconds, passes = [], [], 0.0, []
    hook = maker.transformer.norm_out.register_forward_pre_hook(lambda *_: passes.append(1))
    with tempfile.TemporaryDirectory() as folder:
        for request in requests:
            for seed in range(seeds):
                start = time.perf_counter()
                pixels = maker.pixels(request, seed)
                clips.append(pixels[0].permute(1, 2, 3, 0).add(1).div(2).cpu().numpy())
                seconds += time.perf_counter() - start
                path = Path(folder) / file_name(request, seed)
                write_video(path, autoencoder.to_frames(pixels), profile.clip.fps)
                told = {"file": path.name, "path": path, "model": "tuned", "name": request.name, "seed": seed}
                rows.append(told | {"prompt": request.prompt, "image": runs.digest(Path(request.input_path))})
        found = ground_truth.measure(profile, rows, Path(folder) / ground_truth.NAME)
    hook.remove()
    return clips, sum(passes) / len(clips), seconds / len(clips), [row["outcome"] for row in found]


def rounds(device: torch.device) -> bool:
    """Whether fp8 layers can be computed here, be it slowly: on CPUs PyTorch 2.11 could not, 2.14 can."""
    try:
        fp8.Float8Linear(torch.nn.Linear(16, 16, bias=False, device=device))(torch.zeros(16, 16, device=device))
    except RuntimeError:
        return False
    return True


def table(profile: Profile, rows: list[Row], clips: int) -> str:
    made = runs.environment()
    facts = (
        f"{profile.name}, {profile.sampling.steps} steps, guidance {profile.sampling.guidance:g}, {clips} clips, "
        f"{made['device']}, torch {made['versions']['torch']}, {time.strftime('%Y-%m-%d')}"
    )
    heads = ("method", "passes per clip", "s per clip", "PSNR, dB", "SSIM", "placed", "outcome alike")
    return markdown(facts, heads, [astuple(row) for row in rows])


def main(
    profile: str = "nano",
    weights: Path | None = None,
    steps: int | None = None,
    prompts: int = 10,
    seeds: int = 1,
    out: Path | None = None,
) -> list[Row]:
    """Measure the exact clips, each shortcut, and all.

    Args:
        profile: whose photos and settings.
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
    rows: list[Row] = []
    exact, truth = [], []
    names = NAMES if rounds(hardware.device()) else NAMES[:2]
    for method in ("exact", *names, "all"):
        fast = frozenset(names if method == "all" else () if method == "exact" else (method,))
        maker = Generator(folder, hub.locate(chosen.world), chosen, requests, fast)
        clips, passes, seconds, found = run(maker, chosen, requests, seeds)
        if method == "exact":
            exact, truth, near = clips, found, (None, None)
        else:
            near = distance(clips, exact)
        placed = float(np.mean([outcome == "placed" for outcome in found])) if found else None
        alike = float(np.mean([a == b for a, b in zip(found, truth, strict=True)])) if found else None
        rows.append(Row(method, passes, seconds, *near, placed, alike))
        print(rows[-1], flush=True)
        if out:
            out.write_text(table(chosen, rows, len(clips)) + "\n")
    print(table(chosen, rows, len(clips)), flush=True)
    return rows


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    with report_user_errors():
        tyro.cli(main)
