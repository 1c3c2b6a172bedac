"""Does an inverse dynamics model that sees the whole clip decode actions that the video does not show?

    python -m nano.whole_clip --work runs/policy

Two models are trained on the same clips of placing, `real` of `python -m nano.policy clips`. One sees three frames, as
the model that ships. The other begins as that one, and has attention over all frames of the clip. Both decode clips of
new scenes, `new-scenes` of `python -m nano.train_actions clips`, and the base world model's videos from the same photos
and instructions. The base model was never trained on placing, and few of its videos show it. So a higher success rate
on these videos comes from the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from cookbook import hardware, storage
from cookbook.actions import model, training
from cookbook.actions.clips import read
from cookbook.actions.decode import Decoded, decode_pictures, in_radians
from cookbook.actions.episodes import Episode
from cookbook.actions.frames import read_both
from cookbook.actions.model import InverseDynamics, neighbours, scaled, shrink
from cookbook.errors import report_user_errors
from cookbook.models import hub
from nano.generator import CENTRE, NANO, BatchGenerator, load_model, read_scenes
from nano.train_actions import HELD, executed
from nano.training import fit_from_scratch, recipe

HEIGHT, WIDTH = 48, 256  # of the pictures, and of the network
NEW = next(iter(HELD))


class WholeClip(nn.Module):
    """The inverse dynamics model with attention between the moments of a clip: all frames to all joints."""

    def __init__(self, local: InverseDynamics, frames: int) -> None:
        super().__init__()
        self.local, features = local, local.head[0].normalized_shape[0]
        self.enter = nn.Linear(features, WIDTH)
        self.moment = nn.Parameter(0.02 * torch.randn(frames, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, norm_first=True)
        self.mix = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 3 * len(local.spec.joint_names))
        self.triples = neighbours(frames, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H, W] in -1..1 -> [B * T, 3, J], as the local model's outputs for each moment."""
        features = self.local._features(clips[:, self.triples].flatten(0, 1)).unflatten(0, clips.shape[:2])
        return self.head(self.mix(self.enter(features) + self.moment)).flatten(0, 1).unflatten(1, (3, -1))

    @torch.inference_mode()
    def decode(self, pictures: np.ndarray, fps: float) -> Decoded:
        """`decode_pictures` of a whole clip, uint8 [T, 3, H, W]."""
        outputs = self(scaled(torch.from_numpy(pictures)[None].to(self.moment.device)))
        return Decoded(fps, *in_radians(outputs.float().cpu().numpy(), self.local))


def train_whole(local: InverseDynamics, episodes: Sequence[Episode], out: Path, steps: int, batch: int) -> WholeClip:
    """Train on the frames of episodes of one length, a third of them after the autoencoder; `batch` is of clips."""
    models = hub.locate(NANO.world)
    versions = read_both(episodes, [True] * len(episodes), local.spec, NANO, models, out / "cache")
    pictures = torch.from_numpy(np.stack(versions)).to(hardware.device())
    known = local.statistics()
    rows = np.stack([np.stack([e.joints, e.targets], 1) for e in episodes])
    wanted = torch.from_numpy(((rows - known["mean"]) / known["scale"]).astype(np.float32)).to(pictures.device)

    def at(number: int) -> tuple[Tensor, Tensor]:
        chance = torch.Generator().manual_seed(number)
        drawn = torch.randint(len(pictures), (batch,), generator=chance).to(pictures.device)
        encoded = (torch.rand(batch, generator=chance) < 1 / 3).long().to(pictures.device)
        return training.augment(scaled(pictures[drawn, encoded]), chance), wanted[drawn].flatten(0, 1)

    whole = WholeClip(local.train().requires_grad_(True), pictures.shape[2]).to(pictures.device)
    fit_from_scratch(
        whole, training.loss, at, recipe("whole", steps, batch, 1e-3, min(200, steps)), out / "checkpoints"
    )
    return whole.eval()


def main(work: Path, steps: int = 4000, batch: int = 16, scenes: int = 60, workers: int = 2) -> dict:
    """Train both, decode and execute, and print success rates; a step has `batch` clips, or as many frames."""
    real, new = read(work / "real"), read(work / NEW)
    frames = len(real.episodes[0].joints)
    folder = work / "three-frames"
    training.train_actions((work / "real",), folder, height=HEIGHT, steps=steps, batch=batch * frames)
    local = model.load(folder).to(hardware.device())
    whole = train_whole(model.load(folder), real.episodes, work / "whole-clip", steps, batch)

    clips = read_scenes((work / NEW,), scenes)
    episodes = new.episodes[: len(clips)]
    generator = BatchGenerator(hub.locate(NANO.world), clips)
    base = load_model(hub.locate(NANO.world), generator.device)
    videos = {
        "the clip, after the VAE": [frames for _, _, frames in generator.ceiling()],
        "the base model's video": [frames for _, _, frames in generator.generate(base, CENTRE, range(1))],
    }
    decoders: dict[str, Callable[[np.ndarray], Decoded]] = {
        "three frames": lambda pictures: decode_pictures(local, pictures, new.fps),
        "whole clip": lambda pictures: whole.decode(pictures, new.fps),
    }
    facts: dict = {}
    for seen, decode in decoders.items():
        for shown, films in videos.items():
            decoded = [decode(shrink(film, local.spec.size)) for film in films]
            facts[f"{seen}, {shown}"] = executed(decoded, episodes, workers)
            print(f"{seen}, {shown}: {facts[f'{seen}, {shown}']}", flush=True)
    storage.write_json(work / "whole_clip.json", facts)
    return facts


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, prog="python -m nano.whole_clip")
