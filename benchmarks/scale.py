"""Many clips on every GPU of this machine against one GPU: `cookbook generate --ray local` beside the single process.

    python benchmarks/scale.py                          16 clips at 432x768, 93 frames, of 1 step each

Needs the extra `cluster`. Weights are random and saved first: the 2B configuration with the text width of the nano
encoder, which stands in for the 7B one, so nothing is downloaded. The rate in clips per second counts from the moment
when every worker has finished its first clip, so it excludes loading and compiling. The total time is printed beside
it. Workers return videos through Ray, and the caller writes them, as in the stage.

Figures from two H100: docs/gpu_figures.md.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
from measuring import markdown, say

from cookbook import cluster, hardware, profiles, runs
from cookbook.errors import UserError, report_user_errors
from cookbook.generate.generator import IN_FLIGHT, Generator, Setup
from cookbook.generate.requests import Request
from cookbook.models import hub, sizes
from cookbook.profiles import Profile


@dataclass(frozen=True)
class Row:
    workers: int
    seconds: float  # to the last mp4, loading and compiling included
    rate: float  # clips per second once every worker has finished one


def save_world(profile: Profile, folder: Path) -> None:
    """A diffusers folder with random weights of the profile's world model, and a small text encoder that ships."""
    small = profile.world if profile.world.ships else profiles.nano().world
    settings = sizes.config(profile.world)
    settings["crossattn_proj_in_channels"] = sizes.config(small)["crossattn_proj_in_channels"]
    vae = AutoencoderKLWan.load_config(hub.locate(small) / "vae") if profile.world.ships else {}  # default: Wan 2.1
    torch.manual_seed(0)
    with hardware.device():
        dtype = hardware.compute_dtype(hardware.device())
        CosmosTransformer3DModel.from_config(settings).to(dtype).save_pretrained(folder / "transformer")
        AutoencoderKLWan.from_config(vae).save_pretrained(folder / "vae")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(hub.locate(small) / part, folder / part)


def count(ray: str | None, setup: Setup, jobs: list[tuple[Request, int]], workers: int) -> Row:
    """Generate all clips, in this process (`ray` None) or on a cluster, and time them."""
    start, ends = time.perf_counter(), []
    clips = cluster.each(ray, Generator, (setup,), jobs, lambda request, seed: f"seed {seed}", IN_FLIGHT)
    for _, (row, video) in clips:
        if video is None:
            raise UserError(f"{row['file']} came back without a video")
        ends.append(time.perf_counter() - start)
        say(f"{workers} worker(s): clip {len(ends)} after {ends[-1]:.1f} s")
    return Row(workers, ends[-1], (len(ends) - workers) / (ends[-1] - ends[workers - 1]))


def main(
    profile: str = "2b",
    clips: int = 16,
    steps: int = 1,
    workers: int | None = None,
    ray: str = "local",
    out: Path | None = None,
) -> list[Row]:
    """Measure one process, then Ray on all GPUs.

    Args:
        profile: name of the profile that sets world model and clip size.
        clips: of each of the two measurements.
        steps: of each clip; few are enough, as clips do not wait for each other.
        workers: places that Ray has for them; the GPUs of this machine when empty.
        ray: address of the cluster, as in `cookbook generate`.
        out: file that gets the table too.
    """
    base = profiles.get(profile)
    workers = workers or torch.cuda.device_count()
    if workers < 2 or clips < 3 * workers:
        raise UserError(f"{workers} GPU(s) and {clips} clips: this takes 2 GPUs and 3 clips for each")
    chosen = replace(base, sampling=replace(base.sampling, steps=steps), guardrail=False)
    size, frames = f"{base.clip.height},{base.clip.width}", base.clip.frames
    request = Request(
        name="scale",
        inference_type="text2world",
        prompt="Use the right hand to pick up the apple.",
        resolution=size,
        num_output_frames=frames,
        guidance=base.sampling.guidance,
    )
    jobs = [(request, seed) for seed in range(clips)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_world(base, folder)
        setup = Setup(folder, folder, chosen, [request])
        rows = [count(None, setup, jobs, 1), count(ray, setup, jobs, workers)]
    here = runs.environment()
    facts = (
        f"{base.world.location}, random weights: {size}, {frames} frames, {steps} step(s), {clips} clips, "
        f"{here['device']}, torch {here['versions']['torch']}, {time.strftime('%Y-%m-%d')}"
    )
    heads = ("workers", "clips per second", "speedup", "total time, s")
    cells = [(r.workers, r.rate, f"{r.rate / rows[0].rate:.3f}", f"{r.seconds:.1f}") for r in rows]
    table = markdown(facts, heads, cells)
    print(table, flush=True)
    if out:
        out.write_text(table + "\n")
    return rows


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main)
