"""Which recipe post-trains the nano base best? One row per recipe: train by the project's engine, then measure.

    python -m nano.ablate --models DIR --train DIR --data DIR --out DIR --minutes M [--keep-best]

Started again it skips finished rows; the order puts first what decides most.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from diffusers import CosmosTransformer3DModel

from cookbook import hardware, runs
from cookbook.engine import Group
from cookbook.errors import UserError, report_user_errors
from cookbook.models import world
from cookbook.profiles import Recipe
from cookbook.train.objective import heldout_loss
from nano.evaluate import judges, measure, measured_by, percent, tally
from nano.generator import CENTRE, NANO, BatchGenerator
from nano.variants import TEXT, Resident, TrainingFlags, Variant, make, post_train, training_clips

PROBED = 16  # clips of the held-out loss


VARIANTS = (
    make(steps=0),  # the base model
    make(),
    make(learning_rate=1e-3),
    make(learning_rate=2e-3),
    make(learning_rate=3e-4),
    make(lora_rank=32, learning_rate=2e-3),
    make(text_dropout=0.0),
    make(clips=40),
    make(steps=200),
    make(steps=400),
    make(ema_rate=None),
    make(seed=1),
    make(shift=3.0),
    make(batch=8),
    make(lora_rank=8, learning_rate=2e-3),
    make(frozen=TEXT),
    make(clips=20),
    make(learning_rate=1e-3, steps=200),
    make(text_dropout=0.1),
    make(ema_rate=0.05),
    make(lora_rank=32, learning_rate=6e-4),
    make(lora_rank=32, learning_rate=4e-3),
    make(learning_rate=1e-3, text_dropout=0.0, ema_rate=0.05),
    make(shift=1.0),
    make(shift=8.0),
    make(seed=2),
    make(batch=8, learning_rate=1e-3, steps=200),
    make(weight_decay=0.0),
    make(end_factor=0.0),
    make(clip_norm=0.1),
    make(lora_rank=8, learning_rate=4e-3),
    make(ema_rate=0.2),
)


def parse(text: str) -> Variant:
    """`learning_rate=1e-3,ema_rate=null,clips=40` -> a variant."""
    changes = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, value = part.partition("=")
        if name == "frozen":
            changes[name] = tuple(value.split("+"))
        elif name in Recipe.__dataclass_fields__ or name in ("clips", "seed"):
            changes[name] = json.loads(value)
        else:
            raise UserError(f"--also {text}: a recipe has no {name!r}; it has {', '.join(Recipe.__dataclass_fields__)}")
    return make(**changes)


@dataclass(kw_only=True)
class Args(TrainingFlags):
    out: Path
    """ablation.jsonl, and `best/transformer/` with `--keep-best`."""
    prompts: int = 32
    seeds: int = 2
    minutes: float = 9.0
    """No row is begun that would end later, taking as long as the slowest so far."""
    only: tuple[str, ...] = ()
    """Instead of all variants: these, as in `--also`; an empty word is the nano recipe itself."""
    also: tuple[str, ...] = ()
    """More variants, before the others: `learning_rate=1e-3,ema_rate=null,clips=40,frozen=attn2`."""
    keep_best: bool = False
    """Save the best row's network; without it nothing but the table is kept."""


@dataclass
class Bench:
    """Everything that the rows share."""

    args: Args
    group: Group
    dreamer: BatchGenerator
    clips: list[Resident]
    probes: list[Resident]
    pool: Executor
    before: float = 0.0  # held-out loss of the base model, at the nano shift whatever the variant's

    def held_out(self, model: CosmosTransformer3DModel) -> float:
        levels, _ = heldout_loss(model, self.probes, NANO.recipe.shift, self.group)
        return float(np.mean(levels))

    def row(self, variant: Variant) -> tuple[dict, CosmosTransformer3DModel | None]:
        """Train, measure, and say what it took."""
        start = time.monotonic()
        facts = {"name": variant.name, "differs": dict(variant.differs), "recipe": asdict(variant.recipe())}
        try:
            model, speed = post_train(variant, self.args.models, self.clips, self.group)
        except UserError as error:  # gradients that are not finite are a result too
            return facts | {"failed": str(error), "rate": None, "seconds": round(time.monotonic() - start, 1)}, None
        trained = time.monotonic()
        loss = self.held_out(model)
        made = measure(self.dreamer, self.dreamer.dream(model, CENTRE, range(self.args.seeds)), variant.name, self.pool)
        end = time.monotonic()
        losses = {"heldout_before": round(self.before, 5), "heldout_after": round(loss, 5)}
        seconds = {
            "steps_per_second": speed,
            "seconds_training": round(trained - start, 1),
            "seconds": round(end - start, 1),
        }
        return facts | losses | tally(made.rows) | seconds, model


def prepare(args: Args, pool: Executor) -> Bench:
    group = Group(0, 1, hardware.device())
    dreamer = args.dreamer(args.models)
    clips = training_clips(args.train, args.models, dreamer)
    latents = dreamer.encode(dreamer.clips[:PROBED])
    probes = [Resident(latent[None], text) for latent, text in zip(latents, dreamer.text, strict=False)]
    bench = Bench(args, group, dreamer, clips, probes, pool)
    bench.before = bench.held_out(world.load_transformer(args.models).to(group.device).eval())
    print(f"{len(clips)} clips to train on, {len(dreamer.scenes)} prompts x {args.seeds} seeds to measure", flush=True)
    return bench


def quality(row: dict) -> tuple[float, float]:
    """What makes a row better: placements, then held-out loss."""
    return (-1.0, 0.0) if row["rate"] is None else (row["rate"], -row["heldout_after"])


def ablate(args: Args, bench: Bench, start: float) -> list[dict]:
    """Run what is missing while time lasts; all rows made from these models and clips under this measurement."""
    table, longest = args.out / "ablation.jsonl", 0.0
    same = {
        "nano": runs.digest_of([asdict(NANO.recipe), asdict(CENTRE)]),
        "base": world.weights_fingerprint(args.models),
        "clips_trained_on": runs.fingerprint(args.train),
        "measured": f"{len(bench.dreamer.scenes)} prompts x {args.seeds} seeds",
        **measured_by(bench.dreamer),
    }
    variants = tuple(map(parse, args.only)) or VARIANTS
    for variant in (*map(parse, args.also), *variants):
        rows = finished(table, same)
        if variant.name in (row["name"] for row in rows):
            continue
        if time.monotonic() - start + longest > 60 * args.minutes:
            print("time is up; the same command continues", flush=True)
            break
        row, model = bench.row(variant)
        trained = [other for other in rows if other["recipe"]["steps"]]
        best = row["recipe"]["steps"] and all(quality(row) > quality(other) for other in trained)
        if args.keep_best and best and model is not None:
            model.cpu().save_pretrained(args.out / "best" / "transformer")
            runs.write_json(args.out / "best" / "row.json", row)
        runs.append_row(table, row | same)
        longest = max(longest, row["seconds"])
        print(line(row), flush=True)
    return finished(table, same)


def finished(table: Path, same: dict) -> list[dict]:
    return [row for row in runs.read_rows(table) if same.items() <= row.items()]


def line(row: dict) -> str:
    if row["rate"] is None:
        return f"{row['name']:50s} failed: {row['failed']}"
    loss = f"{row['heldout_before']:.4f} -> {row['heldout_after']:.4f}"
    seconds = f"{row['seconds']:6.1f} s, {row['seconds_training']:.1f} of them training"
    return f"{row['name']:50s} {percent(row):20s} {loss}  {seconds}"


def main(args: Args) -> None:
    start = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    with judges(args.workers) as pool:
        rows = ablate(args, prepare(args, pool), start)
    print(f"\n{'differs from nano in':50s} {'placed':20s} held-out loss")
    for row in sorted(rows, key=quality, reverse=True):
        print(line(row))


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
