"""Profiles: one word selects models, data, sizes, amount of work and what the machine must have.

A profile is a function that returns a frozen dataclass; a variant calls another and replaces fields, which must have
the types that are declared here. No stage branches on a profile's name: it reads the fields.
"""

from dataclasses import replace

from pydantic import ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass

from cookbook.errors import UserError, closest, count

STRICT = ConfigDict(strict=True)  # "2", 2.0 and True are no whole numbers
DEFAULT = "nano"  # the profile of a command without --profile
PREFIX = "The robot arm is performing a task. "
NVIDIA_LICENCE = "NVIDIA Open Model License"


@dataclass(frozen=True, config=STRICT)
class Source:
    """Where weights or data come from: a folder that ships in assets/, or a repository on the Hub."""

    location: str  # folder below assets/, or owner/name on the Hub
    revision: str | None = None  # pinned commit or branch; None for what ships
    kind: str = "model"  # model | dataset
    gigabytes: float = 0.0  # download size, estimated from parameter counts (datasets: guessed)
    licence: str = "Apache-2.0"
    gated: bool = False  # a licence must be accepted on the Hub first

    @property
    def ships(self) -> bool:
        return self.revision is None

    @property
    def page(self) -> str:
        """Address on the Hub, where a licence is accepted."""
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.location}"


@dataclass(frozen=True, config=STRICT)
class Needs:
    """What a profile needs of a machine; for real weights calculated from parameter counts, not measured."""

    cores: int
    memory_gb: float
    disk_gb: float  # downloads, two checkpoints (16 bytes per weight each) and the export
    gpus: int = 0
    gpu_gb: float = 0.0  # memory of each GPU

    def __str__(self) -> str:
        if self.gpus:
            return f"{count(self.gpus, 'GPU')} of {self.gpu_gb:g} GB"
        return f"{count(self.cores, 'CPU core')}, {self.memory_gb:g} GB"


@dataclass(frozen=True, config=STRICT)
class Geometry:
    """Shape of a clip in pixels and time."""

    frames: PositiveInt  # 1 + 4k
    fps: PositiveInt
    height: PositiveInt  # multiples of 16
    width: PositiveInt

    @property
    def latent(self) -> tuple[int, int, int]:
        """Latent frames, height and width (the VAE shrinks by 4 x 8 x 8)."""
        return 1 + (self.frames - 1) // 4, self.height // 8, self.width // 8

    @property
    def tokens(self) -> int:
        """Length of the sequence that the world model attends over (patches of 1 x 2 x 2 latents)."""
        frames, height, width = self.latent
        return frames * (height // 2) * (width // 2)


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that determines a post-training run.

    The defaults are the published recipe, `predict2_video2world_training_2b_groot_gr1_480`, every inherited default
    resolved.
    """

    name: str = "upstream"
    steps: NonNegativeInt = 1000  # 0 leaves the base weights as they are
    batch: PositiveInt = 1  # clips per optimizer step and process
    learning_rate: PositiveFloat = 2**-14.5
    warmup: int = 1000  # steps of linear ramp from start_factor
    start_factor: float = 1e-6
    peak_factor: float = 0.5  # multiplies learning_rate after warm-up ...
    end_factor: float = 0.2  # ... and falls linearly to this
    cycle: NonNegativeInt = 100_000  # step at which end_factor is reached (see engine.optim.rate_factor)
    weight_decay: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 0.1
    ema_rate: float | None = 0.10  # power EMA (Karras et al. 2023); relative width of its window
    text_dropout: float = 0.2
    # (number of latent frames, probability)
    conditioning_frames: tuple[tuple[int, float], ...] = ((0, 0.5), (1, 0.25), (2, 0.25))
    shift: PositiveFloat = 5.0
    save_every: PositiveInt = 200
    keep: PositiveInt = 2  # checkpoints kept on disk
    lora_rank: PositiveInt | None = None  # None trains all weights
    lora_alpha: int = 32
    master_weights: bool = False  # float32 weights under bf16 computation; upstream trains in bf16 alone
    crop: bool = False  # keep the aspect ratio and crop; upstream squashes
    resample: bool = False  # bring every clip to the profile's fps; upstream trains at native fps
    reshuffle: bool = False  # new order each epoch; upstream repeats the first
    accumulate: PositiveInt = 1  # batches per optimizer step and process, their gradients averaged
    shard: PositiveInt = 8  # most processes that shard one replica of the weights; more hold more replicas (HSDP)
    activation_checkpointing: str = "selective"  # see engine.activations for the values
    first_loss: float | None = 0.7  # largest held-out loss before training / zero-velocity loss; None: not checked


@dataclass(frozen=True, config=STRICT)
class Sampling:
    """How clips are generated."""

    steps: PositiveInt
    guidance: float  # v = cond + guidance * (cond - uncond), so 7 here is 8 in the textbook's convention
    shift: PositiveFloat
    negative_prompt: str | None  # None: the published paragraph (diffusers' DEFAULT_NEGATIVE_PROMPT)
    seeds: PositiveInt  # clips per prompt of the tuned model
    base_seeds: PositiveInt  # the same prompts by the untouched base model, for comparison


@dataclass(frozen=True, config=STRICT)
class Profile:
    """Everything that depends on the choice of a profile."""

    name: str
    world: Source
    critic: Source
    train_data: Source
    eval_data: Source
    clip: Geometry
    text_tokens: PositiveInt  # prompts are padded to this length and attended in full, padding included
    recipe: Recipe
    sampling: Sampling
    critic_fps: PositiveFloat
    critic_tokens: PositiveInt  # most visual tokens per clip
    needs: Needs
    eval_subset: str = "gr1_object"  # of eval_data
    prompt_prefix: str = PREFIX  # put before each training caption on disk, and before each prompt when generating
    calibration: Source | None = None  # labelled calibration clips; None: made by corrupting training clips
    calibration_clips: PositiveInt = 160  # at most
    actions: Source | None = None  # inverse dynamics model; None: the user trains one for their robot
    demonstrations: Source | None = None  # videos with joints for a policy; None: the user's own
    policies: Source | None = None  # measured ones, and the held-out `scenes/` of their rollouts
    policy_steps: PositiveInt = 600  # of the policy that notebook 06 trains
    guardrail: bool = False  # NVIDIA's weights generate under NVIDIA's guardrail
    note: str = ""  # a warning for the report
    train_clips: PositiveInt | None = None  # None: all
    prompts: PositiveInt | None = None  # None: all
    alternatives: tuple[Recipe, ...] = ()

    def with_recipe(self, name: str | None) -> "Profile":
        """The same profile with another named recipe."""
        name = name or self.recipe.name
        recipes = {recipe.name: recipe for recipe in (self.recipe, *self.alternatives)}
        if name not in recipes:
            raise UserError(f"profile {self.name} has no recipe {name!r}; it has {', '.join(recipes)}")
        return replace(self, recipe=recipes[name])


def recommended_recipe() -> Recipe:
    """Ours for the real weights; `train.recipes` has the reason for each departure from the published one."""
    return Recipe(
        name="recommended",
        warmup=100,
        peak_factor=1.0,
        end_factor=0.1,
        cycle=1000,
        conditioning_frames=((0, 0.1), (1, 0.6), (2, 0.3)),
        master_weights=True,
        crop=True,
        resample=True,
        reshuffle=True,
        activation_checkpointing="0.25",
    )


def nano() -> Profile:
    """Our small models in the real classes; everything ships, two CPU cores, offline."""
    recipe = replace(
        recommended_recipe(),
        steps=300,
        batch=4,
        learning_rate=6e-4,
        warmup=20,
        cycle=300,
        clip_norm=1.0,
        conditioning_frames=((1, 1.0),),
        save_every=100,
        activation_checkpointing="none",
    )
    return Profile(
        name="nano",
        world=Source("nano/world"),
        critic=Source("nano/critic"),
        train_data=Source("simulator/train", kind="dataset"),
        eval_data=Source("simulator/eval", kind="dataset"),
        clip=Geometry(frames=25, fps=8, height=96, width=160),
        text_tokens=96,
        recipe=recipe,
        sampling=Sampling(steps=8, guidance=1.0, shift=5.0, negative_prompt="", seeds=2, base_seeds=1),
        calibration=Source("simulator/calibration", kind="dataset"),
        actions=Source("nano/actions"),
        demonstrations=Source("simulator/demonstrations", kind="dataset"),
        policies=Source("nano/policy"),
        critic_fps=8,
        critic_tokens=1024,
        needs=Needs(cores=2, memory_gb=8, disk_gb=3),
        prompts=20,
        alternatives=(replace(recipe, name="lora", lora_rank=8, learning_rate=2e-3),),
    )


def _minimal(full: Profile, name: str, **recipe) -> Profile:
    """The same models with a minimal workload: every stage runs, no result is meaningful."""
    few = {"steps": 4, "warmup": 2, "save_every": 2, **recipe}
    return replace(
        full,
        name=name,
        train_clips=4,
        prompts=2,
        calibration_clips=24,
        policy_steps=8,
        recipe=replace(full.recipe, **few),
        alternatives=tuple(replace(recipe, **few) for recipe in full.alternatives),
        note="This profile shows that every stage works. It does so little that no figure means anything.",
    )


def smoke() -> Profile:
    """`nano` with a minimal workload, for CI."""
    few = _minimal(nano(), "smoke", batch=2)
    sampling = replace(few.sampling, steps=3, seeds=2, base_seeds=1)
    return replace(few, sampling=sampling, needs=Needs(cores=1, memory_gb=4, disk_gb=2))


def cosmos_2b() -> Profile:
    """Cosmos Predict 2.5 2B, judged by Cosmos Reason 2 2B; one 80 GB GPU."""
    recipe = recommended_recipe()
    lora = replace(recipe, name="lora", lora_rank=32, learning_rate=1e-4, activation_checkpointing="0.2")
    return Profile(
        name="2b",
        world=Source("nvidia/Cosmos-Predict2.5-2B", "diffusers/base/pre-trained", "model", 21.5, NVIDIA_LICENCE, True),
        critic=Source("nvidia/Cosmos-Reason2-2B", "main", "model", 4.9, NVIDIA_LICENCE, gated=True),
        train_data=Source("nvidia/GR1-100", "main", "dataset", 0.5, "see the dataset card"),
        eval_data=Source("nvidia/EVAL-175", "main", "dataset", 0.3, "see the dataset card"),
        clip=Geometry(frames=93, fps=16, height=432, width=768),
        text_tokens=512,
        recipe=recipe,
        alternatives=(Recipe(), lora),
        sampling=Sampling(steps=36, guidance=7.0, shift=5.0, negative_prompt=None, seeds=5, base_seeds=1),
        critic_fps=4,
        critic_tokens=8192,
        guardrail=True,
        needs=Needs(cores=8, memory_gb=64, disk_gb=160, gpus=1, gpu_gb=80),
    )


def cosmos_2b_smoke() -> Profile:
    """`2b` with a minimal workload: first contact with the real weights."""
    few = _minimal(cosmos_2b(), "2b-smoke")
    return replace(few, sampling=replace(few.sampling, seeds=1))


def cosmos_14b() -> Profile:
    """Cosmos Predict 2.5 14B, judged by Cosmos Reason 2 8B; eight 80 GB GPUs."""
    small = cosmos_2b()
    slower, large = 2**-15.5, {"shard": 32, "activation_checkpointing": "selective"}
    return replace(
        small,
        name="14b",
        world=replace(small.world, location="nvidia/Cosmos-Predict2.5-14B", gigabytes=46.0),
        critic=replace(small.critic, location="nvidia/Cosmos-Reason2-8B", gigabytes=17.5),
        clip=replace(small.clip, frames=45),
        recipe=replace(small.recipe, learning_rate=slower, **large),
        alternatives=tuple(
            replace(recipe, **large, **({} if recipe.lora_rank else {"learning_rate": slower}))
            for recipe in small.alternatives
        ),
        needs=Needs(cores=32, memory_gb=256, disk_gb=800, gpus=8, gpu_gb=80),
    )


PROFILES = {"smoke": smoke, "nano": nano, "2b-smoke": cosmos_2b_smoke, "2b": cosmos_2b, "14b": cosmos_14b}


def get(name: str, recipe: str | None = None) -> Profile:
    """The profile of that name, with its default recipe or a named one."""
    if name not in PROFILES:
        near, names = closest(name, PROFILES), ", ".join(PROFILES)
        raise UserError(f"no profile {name!r}; {f'did you mean {near}? T' if near else 't'}here are {names}")
    try:
        return PROFILES[name]().with_recipe(recipe)
    except ValidationError as error:
        wrong = error.errors()[0]
        what = f"{error.title}.{'.'.join(map(str, wrong['loc']))} is {wrong['input']!r}"
        raise UserError(f"profile {name}: {what} ({wrong['msg']})") from None
