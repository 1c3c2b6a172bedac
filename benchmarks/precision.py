"""What bf16 weights lose: the share of updates that survive rounding, and the same steps with float32 master weights.

    cookbook prepare --profile nano && python benchmarks/precision.py --run runs/nano      shipped weights, real clips
    python benchmarks/precision.py --profile 2b                                            one GPU, random weights

Both ways compute in bf16, on the same batches, each from the same weights at a constant rate. `bf16` is upstream's:
weights and both moments of Adam in bf16, no other copy. Without --run the weights are random (deviation 0.02) in the
exact configuration and four small random clips are memorised: which updates survive depends on the size of the weights
and on the rate, not on the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import torch
import tyro
from measuring import markdown
from torch import Tensor
from train import random_batch, random_network  # the program beside this one

from cookbook import engine, profiles, runs
from cookbook.engine.loop import Training, autocast
from cookbook.errors import UserError, report_user_errors
from cookbook.models import hub, world
from cookbook.profiles import Profile, Recipe
from cookbook.train import dataset
from cookbook.train.objective import batches, flow_loss, heldout_loss

# Mean and last rate of upstream's 1,000 steps, the rate it names, and nano's
RATES = (1.08e-5, 2.16e-5, 4.32e-5, 6e-4)


@dataclass(frozen=True)
class Row:
    """One way at one rate. Losses are means over a tenth of the steps, or held-out losses."""

    weights: str
    rate: float
    survived: float  # share of the weights with a gradient that a step changes, mean over steps
    moved: float  # root mean square over all weights, from start to end
    loss_first: float
    loss_last: float
    heldout_before: float | None
    heldout_after: float | None


@dataclass(frozen=True)
class Work:
    """What is trained on what."""

    network: Callable[[], torch.nn.Module]  # float32, always the same
    batch_at: Callable
    heldout: Callable[[torch.nn.Module], float] | None


def build(profile: Profile, run: Path | None, group: engine.Group) -> tuple[Work, Profile]:
    """The run's clips and the profile's weights; without a run random ones at a size that needs little time."""
    recipe = profile.recipe
    if run is None:
        small = replace(profile, clip=replace(profile.clip, frames=17, height=128, width=128), text_tokens=64)
        random = [random_batch(small, 1, group.device, seed) for seed in range(4)]
        network = lambda: random_network(small, None, torch.float32, group.device)  # noqa: E731
        return Work(network, lambda number: random[number % 4], None), small
    models = hub.locate(profile.world)
    used, held = dataset.split(dataset.read_clips(run / "data" / "train"))
    entries = dataset.cache(used + held, profile, models, run / "cache", group)
    heldout = lambda model: mean(heldout_loss(model, entries[len(used) :], recipe.shift, group)[0])  # noqa: E731
    return Work(
        lambda: world.load_transformer(models), batches(entries[: len(used)], recipe, 0, group), heldout
    ), profile


def train(work: Work, recipe: Recipe, group: engine.Group) -> Row:
    """Train one way, comparing the weights before and after every step."""
    dtype = torch.float32 if recipe.master_weights else torch.bfloat16
    network = work.network().to(group.device, dtype).train()
    training = Training(network, recipe, 0, group, torch.bfloat16, str)
    start = copies(training)
    before = measured(work, training)
    shares, losses = [], []
    for _ in range(recipe.steps):
        last = copies(training)
        losses.append(training.train_step(flow_loss, work.batch_at)["loss"])
        shares.append(survived(training, last))
    squares = sum(
        float((p.detach().float() - s.float()).square().sum()) for p, s in zip(weights(training), start, strict=True)
    )
    tenth = max(1, recipe.steps // 10)
    return Row(
        weights="float32 master" if recipe.master_weights else "bf16",
        rate=recipe.learning_rate,
        survived=sum(shares) / len(shares),
        moved=(squares / sum(s.numel() for s in start)) ** 0.5,
        loss_first=sum(losses[:tenth]) / tenth,
        loss_last=sum(losses[-tenth:]) / tenth,
        heldout_before=before,
        heldout_after=measured(work, training),
    )


def weights(training: Training) -> list[Tensor]:
    return list(training.parameters.values())


def copies(training: Training) -> list[Tensor]:
    return [p.detach().clone() for p in weights(training)]


def survived(training: Training, before: list[Tensor]) -> float:
    """Share of the weights that changed, of those that Adam has an update for."""
    changed, due = 0, 0
    for parameter, old in zip(weights(training), before, strict=True):
        wanted = training.optimizer.state[parameter]["exp_avg"] != 0
        changed += int((wanted & (parameter.detach() != old)).sum())
        due += int(wanted.sum())
    return changed / due


def measured(work: Work, training: Training) -> float | None:
    if work.heldout is None:
        return None
    with autocast(training.model, training.group.device, torch.bfloat16):
        return work.heldout(training.model)


def table(profile: Profile, rows: list[Row], steps: int) -> str:
    """The rows in Markdown, under a line that names sizes, device and versions."""
    machine = runs.environment()
    facts = (
        f"{profile.world.location}: {steps} steps of {profile.recipe.batch} clip(s) at a constant rate, "
        f"on {machine['device']}, torch {machine['versions']['torch']}"
    )
    heads = (
        "weights", "rate", "updates surviving", "weight moved", "first loss", "last loss", "held out before", "after",
    )  # fmt: skip
    cells = [asdict(row) | {"rate": f"{row.rate:.3g}", "survived": f"{row.survived:.1%}"} for row in rows]
    return markdown(facts, heads, [row.values() for row in cells])


def main(
    profile: str = "nano",
    run: Path | None = None,
    steps: int = 60,
    batch: int = 1,
    rates: tuple[float, ...] = RATES,
    out: Path | None = None,
) -> list[Row]:
    """Train both ways at every rate and print the table.

    Args:
        profile: name of the profile that sets network and recipe.
        run: a prepared run folder: its clips, and the profile's own weights. Without it both are random.
        steps: of each way.
        batch: clips per step.
        rates: constant learning rates, without warm-up.
        out: a file for the table.
    """
    if steps < 1 or batch < 1:
        raise UserError("steps and batch must be at least 1")
    chosen, rows = profiles.get(profile), []
    with engine.processes() as group:
        for rate in rates:
            flat = {
                "warmup": 0,
                "peak_factor": 1.0,
                "end_factor": 1.0,
                "ema_rate": None,
                "activation_checkpointing": "none",
            }
            recipe = replace(chosen.recipe, steps=steps, batch=batch, learning_rate=rate, **flat)
            work, used = build(replace(chosen, recipe=recipe), run, group)
            for master in (False, True):
                rows.append(train(work, replace(recipe, master_weights=master), group))
                print(json.dumps(asdict(rows[-1])), flush=True)
                if out:
                    out.write_text(table(used, rows, steps) + "\n")
    print(table(used, rows, steps))
    return rows


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main)
