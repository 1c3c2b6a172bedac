"""Pictures that a notebook makes of a run: one request at several checkpoints, a gallery of endings, painted masks."""

from collections.abc import Sequence
from pathlib import Path

from cookbook import storage
from cookbook.convert import weights
from cookbook.generate.generator import Generator, Setup
from cookbook.generate.requests import Request
from cookbook.models import hub, names
from cookbook.profiles import Profile


def at_checkpoints(profile: Profile, request: Request, checkpoints: Sequence[Path | None], folder: Path) -> list[Path]:
    """The videos of one request with the averaged weights of each checkpoint, the noise the same; None is the base.

    A video that the guardrail blocks is left out. What lies in `folder` already is not generated again.
    """
    models = hub.locate(profile.world)
    files = {folder / f"{path.name if path else 'base'}.mp4": path for path in checkpoints}
    missing = [file for file in files if not file.exists()]
    generator = Generator(Setup(models, models, profile, [request])) if missing else None
    for file in missing:
        if path := files[file]:
            state = weights.read(path, models).ema
            generator.transformer.load_state_dict(names.as_diffusers(dict(state)))
        _, video = generator(request, request.seed)
        if video:
            with storage.replacing(file) as temporary:
                temporary.write_bytes(video)
    return [file for file in files if file.exists()]
