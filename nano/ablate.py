"""Compare recipes that post-train the nano base. One row per recipe: train with the project's engine, then measure.

    python -m nano.ablate --models DIR --train DIR --data DIR --out DIR --only steps=200 shift=3 [--keep-best]

Finished rows are skipped when it is started again.
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

from cookbook import hardware, runs, storage
from cookbook.engine import Group
from cookbook.errors import UserError, report_user_errors
from cookbook.models import world
from cookbook.profiles import Recipe
from cookbook.train.objective import heldout_loss
from nano.evaluate import judges, measure, measured_by, percent, tally
from nano.generator import CENTRE, NANO, BatchGenerator
from nano.variants import Resident, TrainingFlags, Variant, make, post_train, training_clips

PROBED = 16  # clips of the held-out loss


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
            raise UserError(f"--only {text}: a recipe has no {name!r}; it has {', '.join(Recipe.__dataclass_fields__)}")
    return make(**changes)


@dataclass(kw_only=True)
class Args(TrainingFlags):
    out: Path
    """ablation.jsonl, and `best/transformer/` with `--keep-best`."""
    only: tuple[str, ...]
    """Recipes: `learning_rate=1e-3,ema_rate=null,clips=40,frozen=attn2`; an empty word is the nano recipe itself."""
    scenes: int = 32
    seeds: int = 2
    keep_best: bool = False
    """Save the best row's network; without it only the table is kept."""


@dataclass
class Bench:
    """Everything that the rows share."""

    args: Args
    group: Group
    generator: BatchGenerator
    clips: list[Resident]
    probes: list[Resident]
    pool: Executor
    before: float = 0.0  # held-out loss of the base model, at the nano shift whatever the variant's

    def held_out(self, model: CosmosTransformer3DModel) -> float:
        levels, _ = heldout_loss(model, self.probes, NANO.recipe.shift, self.group)
        return float(np.mean(levels))

    def row(self, variant: Variant) -> tuple[dict, CosmosTransformer3DModel | None]:
        """Train and measure; the row has the seconds of both."""
        start = time.monotonic()
        facts = {"name": variant.name, "differs": dict(variant.differs), "recipe": asdict(variant.recipe())}
        try:
            model, speed = post_train(variant, self.args.models, self.clips, self.group)
        except UserError as error:  # gradients that are not finite are a result too
            return facts | {"failed": str(error), "rate": None, "seconds": round(time.monotonic() - start, 1)}, None
        trained = time.monotonic()
        loss = self.held_out(model)
        videos = self.generator.generate(model, CENTRE, range(self.args.seeds))
        measured = measure(self.generator, videos, variant.name, self.pool)
        seconds = {"seconds_training": trained - start, "seconds": time.monotonic() - start}
        seconds = {"steps_per_second": speed} | {name: round(value, 1) for name, value in seconds.items()}
        losses = {"heldout_before": round(self.before, 5), "heldout_after": round(loss, 5)}
        return facts | losses | tally(measured.rows) | seconds, model


def prepare(args: Args, pool: Executor) -> Bench:
    group = Group(0, 1, hardware.device())
    generator = args.batch_generator(args.models)
    clips = training_clips(args.train, args.models, generator)
    latents = generator.encode(generator.clips[:PROBED])
    probes = [Resident(latent[None], text) for latent, text in zip(latents, generator.text, strict=False)]
    bench = Bench(args, group, generator, clips, probes, pool)
    bench.before = bench.held_out(world.load_transformer(args.models).to(group.device).eval())
    prompts = len(generator.scenes)
    print(f"{len(clips)} clips to train on, {prompts} prompts x {args.seeds} seeds to measure", flush=True)
    return bench


def quality(row: dict) -> tuple[float, float]:
    """The order of rows: success rate, then held-out loss."""
    return (-1.0, 0.0) if row["rate"] is None else (row["rate"], -row["heldout_after"])


def ablate(args: Args, bench: Bench) -> list[dict]:
    """Run the missing rows; returns all rows of these models and clips under this measurement."""
    table = args.out / "ablation.jsonl"
    same = {
        "nano": storage.digest_of([asdict(NANO.recipe), asdict(CENTRE)]),
        "base": world.weights_fingerprint(args.models),
        "clips_trained_on": runs.fingerprint(args.train),
        "measured": f"{len(bench.generator.scenes)} clips x {args.seeds} seeds",
        **measured_by(bench.generator),
    }
    for variant in map(parse, args.only):
        rows = finished(table, same)
        if variant.name in (row["name"] for row in rows):
            continue
        row, model = bench.row(variant)
        trained = [other for other in rows if other["recipe"]["steps"]]
        best = row["recipe"]["steps"] and all(quality(row) > quality(other) for other in trained)
        if args.keep_best and best and model is not None:
            model.cpu().save_pretrained(args.out / "best" / "transformer")
            storage.write_json(args.out / "best" / "row.json", row)
        storage.append_row(table, row | same)
        print(line(row), flush=True)
    return finished(table, same)


def finished(table: Path, same: dict) -> list[dict]:
    return [row for row in storage.read_rows(table) if same.items() <= row.items()]


def line(row: dict) -> str:
    if row["rate"] is None:
        return f"{row['name']:50s} failed: {row['failed']}"
    loss = f"{row['heldout_before']:.4f} -> {row['heldout_after']:.4f}"
    seconds = f"{row['seconds']:6.1f} s, {row['seconds_training']:.1f} of them training"
    return f"{row['name']:50s} {percent(row):20s} {loss}  {seconds}"


def main(args: Args) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    with judges(args.workers) as pool:
        rows = ablate(args, prepare(args, pool))
    print(f"\n{'differs from nano in':50s} {'success':20s} held-out loss")
    for row in sorted(rows, key=quality, reverse=True):
        print(line(row))


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
