"""`cookbook generate`: every request times every seed, each clip made once, whatever happens in between."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers.pipelines.cosmos.pipeline_cosmos2_5_predict import DEFAULT_NEGATIVE_PROMPT

from cookbook import profiles, store
from cookbook.errors import UserError
from cookbook.generate.guardrail import load_guardrail
from cookbook.generate.requests import Request, from_photos, read_requests
from cookbook.generate.sampler import make_clip
from cookbook.models import vae as codec
from cookbook.models import world
from cookbook.models.hub import locate
from cookbook.models.text import encode_prompts
from cookbook.profiles import Profile
from cookbook.show import progress
from cookbook.video import IMAGES, fit, read_image, read_video, write_video


def generate(
    profile: str = "nano",
    run: Path | str | None = None,
    model: Literal["tuned", "base"] = "tuned",
    requests: Path | None = None,
    weights: Path | None = None,
    seeds: int | None = None,
    redo: bool = False,
) -> dict:
    """Generate videos into `dreams/<model>`.

    Args:
        profile: smoke, nano, 2b or 14b.
        run: run folder; runs/<profile> when empty.
        model: tuned, from the run's export; or base, the weights that post-training began with.
        requests: published jsonl, batch_input.json, or folder of photos with instructions; data/eval when empty.
        weights: diffusers folder to use instead of the run's export.
        seeds: clips per request; the profile's when empty.
        redo: empty the folder first.

    Returns:
        The manifest, with the facts `clips`, `blocked`, `weights`.
    """
    chosen = profiles.get(profile)
    root = store.run_folder(run, profile)
    name = f"generate-{model}"
    base = locate(chosen.world)
    folder = Path(weights) if weights else base if model == "base" else root / "export" / "diffusers"
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; type `cookbook convert --profile {profile}` first, or give --weights")
    todo, origin = _read(requests, root, chosen)
    count = seeds or (chosen.sampling.seeds if model == "tuned" else chosen.sampling.base_seeds)
    fingerprint = world.weights_fingerprint(folder)
    inputs = {"requests": origin, "weights": fingerprint}
    if requests is None:
        inputs["data"] = store.fingerprint(root / "data")
    if model == "tuned" and weights is None:
        inputs["convert"] = store.fingerprint(root / "export")
    settings = {"seeds": count, "steps": chosen.sampling.steps, "shift": chosen.sampling.shift}
    stage = store.enter(root / store.FOLDERS[name], name, profile, inputs, settings, redo)
    if stage.done:
        return stage.manifest
    rows = _work(todo, count, chosen, folder, base, fingerprint, model, stage.folder)
    outputs = [stage.folder / row["file"] for row in rows if not row["blocked"]]
    outputs += [stage.folder / "requests.jsonl", stage.folder / "dreams.jsonl"]
    blocked = sum(row["blocked"] for row in rows)
    return stage.finish(outputs, clips=len(rows) - blocked, blocked=blocked, weights=fingerprint)


def _read(requests: Path | None, root: Path, profile: Profile) -> tuple[list[Request], str]:
    """The requests and a fingerprint of them."""
    if requests is not None:
        found = read_requests(Path(requests), profile)
    elif (root / "data" / "eval").is_dir():
        found = from_photos(root / "data" / "eval", profile)[: profile.prompts]
    else:
        raise UserError(f"{root / 'data' / 'eval'} is missing; type `cookbook prepare --profile {profile.name}` first")
    photos = [store.digest(Path(r.input_path)) if r.input_path else None for r in found]
    return found, store.digest_of(
        [[r.model_dump(exclude={"input_path"}), p] for r, p in zip(found, photos, strict=True)]
    )


def _work(
    todo: list[Request],
    seeds: int,
    profile: Profile,
    folder: Path,
    base: Path,
    fingerprint: str,
    model: str,
    out: Path,
) -> list[dict]:
    """Make every clip that is not there yet; the rows of dreams.jsonl, in order."""
    table = out / "dreams.jsonl"
    rows = {row["file"]: row for row in store.read_rows(table) if row["blocked"] or (out / row["file"]).exists()}
    with store.replacing(out / "requests.jsonl") as temporary:
        temporary.write_text("".join(request.model_dump_json() + "\n" for request in todo))
    # Seed by seed, so that a run stopped early has some of every prompt
    jobs = [(r, r.seed + k) for k in range(seeds) for r in todo]
    left = [(r, seed) for r, seed in jobs if f"{r.name}_seed{seed}.mp4" not in rows]
    clip, sampling = profile.clip, profile.sampling
    print(
        f"generate: {len(left)} of {len(jobs)} clips by {folder} ({model}): {clip.frames} frames, "
        f"{sampling.steps} steps, {len(todo)} prompts x {seeds} seeds"
    )
    if left:
        make = _Generator(folder, base, profile, [r.prompt for r, _ in left])
        for request, seed in progress(left, f"{model} clips"):
            row = {"model": model, **make(request, seed, out), "weights": fingerprint}
            store.append_row(table, row)
            rows[row["file"]] = row
    return [rows[f"{r.name}_seed{seed}.mp4"] for r, seed in jobs]


class _Generator:
    """The loaded models; called once per clip. The text encoder is gone before the world model comes."""

    def __init__(self, folder: Path, base: Path, profile: Profile, prompts: list[str]):
        self.profile, self.device = profile, world.device()
        dtype = world.compute_dtype(self.device)
        self.guardrail = load_guardrail() if profile.guardrail else None
        negative = profile.sampling.negative_prompt
        self.negative_prompt = DEFAULT_NEGATIVE_PROMPT if negative is None else negative
        texts = sorted({*(self._with_prefix(p) for p in prompts), self.negative_prompt})
        encoder = world.load_text_encoder(base, dtype)
        encoder.model.to(self.device)
        self.text = {
            text: encode_prompts(encoder.model, encoder.tokenizer, [text], profile.text_tokens).cpu() for text in texts
        }
        del encoder
        self.vae = world.load_vae(base, dtype).to(self.device)
        self.transformer = world.load_transformer(folder, dtype).to(self.device).eval()

    def _with_prefix(self, prompt: str) -> str:
        """Generate under the captions' own prefix; upstream trains with it and generates without."""
        return prompt if prompt.startswith(self.profile.prompt_prefix) else self.profile.prompt_prefix + prompt

    def __call__(self, request: Request, seed: int, out: Path) -> dict:
        """Make one clip and its row."""
        clock = time.monotonic()
        sampling = self.profile.sampling
        height, width = request.size
        file = f"{request.name}_seed{seed}.mp4"
        row = {
            "file": file,
            "name": request.name,
            "prompt": request.prompt,
            "seed": seed,
            "image_sha256": store.digest(Path(request.input_path)) if request.input_path else None,
            "steps": sampling.steps,
            "guidance": request.guidance,
            "shift": sampling.shift,
            "frames": request.num_output_frames,
            "fps": self.profile.clip.fps,
            "height": height,
            "width": width,
            "blocked": False,
        }
        if self.guardrail and not self.guardrail.check_text_safety(request.prompt):
            return row | {"blocked": True, "reason": "guardrail: prompt", "seconds": 0.0, "sha256": None}
        pixels = make_clip(
            self.transformer,
            self.vae,
            self._beginning(request, height, width),
            self.text[self._with_prefix(request.prompt)].to(self.device),
            self.text[self.negative_prompt].to(self.device),
            (1 + (request.num_output_frames - 1) // 4, height // 8, width // 8),
            sampling.steps,
            request.guidance,
            sampling.shift,
            seed,
        )
        frames = codec.to_frames(pixels)
        if self.guardrail and (frames := self.guardrail.check_video_safety(frames)) is None:
            return row | {"blocked": True, "reason": "guardrail: video", "seconds": 0.0, "sha256": None}
        write_video(out / file, frames, self.profile.clip.fps)
        return row | {"seconds": round(time.monotonic() - clock, 2), "sha256": store.digest(out / file)}

    def _beginning(self, request: Request, height: int, width: int) -> torch.Tensor | None:
        """The given pixels [1, 3, 1 or 5, H, W]: the photo, or the last five frames of a video."""
        if request.inference_type == "text2world":
            return None
        path = Path(request.input_path)
        if request.inference_type == "image2world" or path.suffix.lower() in IMAGES:
            frames = read_image(path)[None]
        else:
            frames = read_video(path)[0][-5:]
            if len(frames) < 5:
                raise UserError(f"{path}: {len(frames)} frames; video2world needs at least 5")
        return codec.to_tensor(fit(np.asarray(frames), height, width)).to(self.device)
