"""A recipe beside the published one: every value, and the reason wherever they differ. Needs no data and no weights."""

from dataclasses import dataclass, fields

from cookbook import profiles
from cookbook.profiles import Profile, Recipe
from cookbook.train.dataset import WINDOWS

PUBLISHED = "predict2_video2world_training_2b_groot_gr1_480"

# Recipe field -> why a recipe of ours has another value. The only place where departures are explained.
REASONS = {
    "steps": "nano: what two CPU cores do in minutes",
    "batch": "nano: the gradient of a single clip is noisy, and small clips leave room for more",
    "learning_rate": "nano: millions of parameters learn with larger steps than billions; "
    "LoRA: adapters start at zero, 1e-4 is the value of NVIDIA's sports LoRA",
    "warmup": "upstream's run ends where its warm-up ends: only the last step reaches the full rate",
    "peak_factor": "after a short warm-up learning_rate is the rate that is used; upstream stops at half",
    "end_factor": "falls to a tenth within the run, so that the last steps settle",
    "cycle": "upstream's decay begins after its training has ended; ours ends with the run",
    "clip_norm": "nano: 1.0 as in the diffusers example; 0.1 is inherited from pre-training billions of parameters",
    "conditioning_frames": "half of upstream's steps train text-to-video, but the task is image-to-video",
    "save_every": "nano: a shorter run is saved more often",
    "lora_rank": "adapters instead of all weights, for less memory; targets and kind of both published LoRA recipes",
    "master_weights": "bf16 weights lose most updates to rounding: 96 % at upstream's mean rate (docs/gpu_figures.md)",
    "crop": "generation keeps the aspect ratio and crops; upstream trains on squashed pictures",
    "resample": "a 30 fps and a 16 fps file would show the same motion at two speeds",
    "reshuffle": "a fixed order shows the same neighbours in each epoch, for no gain",
    "activation_checkpointing": "blocks are compiled, and the compiler keeps what saves most per byte: full size "
    "57 GiB, 1.9 times as fast as plain diffusers (docs/gpu_figures.md); LoRA keeps less to fit 32 GiB; "
    "short clips (nano) need none",
}
ALWAYS = {
    f"at most {WINDOWS} windows of a clip (upstream any)": "encoded once and kept, so that the VAE is not in memory",
    "clips held out (upstream none)": "only a loss on clips never trained on shows learning",
}


@dataclass(frozen=True)
class RecipeRow:
    """One field of a recipe. `reason` is empty where nothing differs."""

    field: str
    ours: str
    upstream: str
    reason: str


def explain(profile: str = "nano", recipe: str | None = None) -> list[RecipeRow]:
    """Print every value of a recipe beside the published one, and why ours differs; return the rows.

    Args:
        recipe: one of the profile's named recipes.
    """
    chosen = profiles.get(profile, recipe)
    rows, head = compare(chosen), RecipeRow("field", "ours", "upstream", "why ours differs")
    field, ours, upstream = (max(len(getattr(row, key)) for row in rows) for key in ("field", "ours", "upstream"))
    print(f"train: recipe {chosen.recipe.name} of profile {chosen.name} beside {PUBLISHED}")
    for row in (head, *rows):
        mark = "*" if row.reason and row is not head else " "
        print(f"{mark} {row.field:<{field}}  {row.ours:<{ours}}  {row.upstream:<{upstream}}  {row.reason}".rstrip())
    for what, why in ALWAYS.items():
        print(f"* {what}: {why}")
    return rows


def compare(profile: Profile) -> list[RecipeRow]:
    """Every field of the profile's recipe beside the published recipe for the same model, in the recipe's order."""
    recipe = profile.recipe
    published = next((other for other in (recipe, *profile.alternatives) if other.name == "upstream"), None)
    published = published or Recipe()
    rows = []
    for name in (f.name for f in fields(Recipe) if f.name != "name"):
        ours, theirs = getattr(recipe, name), getattr(published, name)
        reason = REASONS.get(name, "your own choice") if ours != theirs else ""
        rows.append(RecipeRow(name, as_text(ours), as_text(theirs), reason))
    return rows


def as_text(value: object) -> str:
    """A value as short text; pairs as `frames:probability`."""
    if isinstance(value, tuple):
        return "/".join(":".join(f"{v:g}" for v in pair) if isinstance(pair, tuple) else f"{pair:g}" for pair in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
