"""Pictures that a notebook makes of a run: one request at several checkpoints, a gallery of endings, painted masks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageOps

from cookbook import storage
from cookbook.convert import weights
from cookbook.generate.generator import Generator, Setup
from cookbook.generate.requests import Request
from cookbook.models import hub, names
from cookbook.profiles import Profile

GROUPS = {  # (kept, success) -> the title of a gallery's group and the colour of its frames; None where not known
    (True, True): ("kept, success", "#2f7d32"),
    (True, False): ("kept, failed", "#e07b00"),
    (False, True): ("dropped, success", "#1f5fa8"),
    (False, False): ("dropped, failed", "#b3261e"),
    (True, None): ("kept", "#2f7d32"),
    (False, None): ("dropped", "#b3261e"),
}


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


def gallery(endings: Sequence[tuple[np.ndarray, bool, bool | None]], columns: int = 8, width: int = 98) -> Image.Image:
    """The last frames of videos, in groups with a frame of one colour each.

    Args:
        endings: last frame uint8 [H, W, 3], whether its video was kept, and whether that succeeded (None: not known).
        width: of a tile in pixels, without its frame of 3 on each side.
    """
    strips = []
    for (kept, success), (title, colour) in GROUPS.items():
        tiles = [_tile(frame, width, colour) for frame, *facts in endings if facts == [kept, success]]
        if tiles:
            size = tiles[0].size
            rows = -(-len(tiles) // columns)
            strip = Image.new("RGB", (columns * size[0], 18 + rows * size[1]), "white")
            ImageDraw.Draw(strip).text((3, 3), f"{len(tiles)} {title}", fill=colour, font_size=13)
            for place, tile in enumerate(tiles):
                strip.paste(tile, (place % columns * size[0], 18 + place // columns * size[1]))
            strips.append(np.asarray(strip))
    return Image.fromarray(np.concatenate(strips))


def _tile(frame: np.ndarray, width: int, colour: str) -> Image.Image:
    height = round(width * frame.shape[0] / frame.shape[1])
    return ImageOps.expand(Image.fromarray(frame).resize((width, height)), 3, colour)


def paint(frame: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
    """A frame uint8 [H, W, 3] with the pixels of a mask bool [H, W] half in a colour."""
    mixed = (frame * 0.5 + np.array(ImageColor.getrgb(colour)) * 0.5).astype(np.uint8)
    return np.where(mask[..., None], mixed, frame)
