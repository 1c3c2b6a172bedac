"""The real classes at sizes that train in milliseconds, with random weights, and clips drawn on the spot.

As a program (`python tests/tiny.py FOLDER STEPS BATCH`, or under torchrun) it trains the tiny world model: tests that
kill a run or share it need processes of their own for that.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from cookbook import engine, hardware, profiles, runs, storage, video
from cookbook.actions import execute
from cookbook.actions.episodes import Episode, EpisodeSet
from cookbook.engine import activations
from cookbook.generate.stage import generate
from cookbook.judge.rules import Things
from cookbook.models import world
from cookbook.profiles import Geometry, Profile, Source
from cookbook.train.stage import train
from nano import critic_model, networks, tokenizer

GEOMETRY = Geometry(frames=9, fps=8, height=32, width=48)
HIDDEN, LAYERS = 32, 2
FPS, FRAMES, SIZE = 10, 60, (48, 64)  # of the videos with joints
JOINTS = ("r_elbow", "r_wrist", "l_elbow")
# Of the drawn scenes: boxes and pads, colour -> top left
RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 160, 30), (40, 60, 200), (225, 225, 225)
TABLE, ARM = (190, 170, 140), (25, 25, 27)
ITEMS, PADS = {RED: (40, 110), GREEN: (76, 100)}, {BLUE: (36, 60), WHITE: (4, 60)}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
)
PROMPTS = [
    "Use the right hand to pick up red apple from table to white plate.",
    "Use the left hand to pick up lemon, ripe, from brown tray to blue bowl.",
    "Use the right hand to pick up corn from table to tan basket.",
]


def moving(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A bright square that moves, uint8 [FRAMES, H, W, 3]."""
    frames = np.full((FRAMES, *size, 3), 40 + 20 * seed, np.uint8)
    for number, frame in enumerate(frames):
        frame[10 + seed : 22 + seed, number // 2 : number // 2 + 12] = (250, 180, 60)
    return frames


def make_episodes(folder: Path) -> EpisodeSet:
    """Three videos with joints, two tasks, two further columns."""
    episodes = []
    for number in range(3):
        video.write_video(folder / f"{number}.mp4", moving(number), FPS)
        angles = np.sin(np.arange(FRAMES)[:, None] / 9 + np.arange(3) + number / 9).astype(np.float32)
        task, facts = ("Lift it.", "Wave.")[number % 2], {"success": number != 1, "score": 2.5 * number}
        episodes.append(Episode(folder / f"{number}.mp4", task, angles, np.roll(angles, -1, 0), facts=facts))
    return EpisodeSet("three", FPS, JOINTS, episodes)


def build_world(folder: Path) -> Path:
    """A diffusers folder of a world model with about 60 k parameters."""
    torch.manual_seed(0)
    transformer = CosmosTransformer3DModel(
        in_channels=17,
        out_channels=16,
        num_attention_heads=1,
        attention_head_dim=32,
        num_layers=2,
        text_embed_dim=16,
        adaln_lora_dim=8,
        max_size=(16, 16, 16),
        rope_scale=(1.0, 1.0, 1.0),
        extra_pos_embed_type=None,
        use_crossattn_projection=True,
        crossattn_proj_in_channels=HIDDEN * LAYERS,
        encoder_hidden_states_channels=16,
    )
    transformer.save_pretrained(folder / "transformer")
    vae = AutoencoderKLWan(
        base_dim=4,
        dim_mult=[1, 1, 2, 2],
        num_res_blocks=1,
        z_dim=16,
        latents_mean=[0.1] * 16,
        latents_std=[0.5] * 16,
    )
    vae.save_pretrained(folder / "vae")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            rope_parameters=dict(rope_type="default", mrope_section=[2, 3, 3], rope_theta=10_000.0),
        ),
        vision_config=dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=1, out_hidden_size=HIDDEN),
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder / "text_encoder")
    networks.write_pipeline(folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("Qwen2TokenizerFast", "PreTrainedTokenizerFast"))
    return folder


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with Qwen's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    fast.chat_template = CHAT
    return fast


def build_critic(folder: Path) -> Path:
    """An untrained critic; its tokenizer has the words of PROMPTS."""
    with tempfile.TemporaryDirectory() as words:
        tokenizer.build_tokenizer(tokenizer.corpus(PROMPTS), Path(words))
        return critic_model.init(folder, Path(words))


def clip(seed: int, frames: int = 9, height: int = 64, width: int = 96) -> np.ndarray:
    """A square that slides over noise."""
    rng = np.random.default_rng(seed)
    picture = np.repeat(rng.integers(0, 120, (1, height, width, 3), dtype=np.uint8), frames, 0)
    for t in range(frames):
        left = 4 + t * (width - 24) // frames
        picture[t, 10 + seed % 20 : 26 + seed % 20, left : left + 16] = (200, 40 * (seed % 6), 30)
    return picture


def make_clips(folder: Path, count: int = 6) -> Path:
    """A training folder in the published layout: a bright square that moves its own way in each clip."""
    for index in range(count):
        rng = np.random.default_rng(index)
        frames = np.full((GEOMETRY.frames, GEOMETRY.height, GEOMETRY.width, 3), rng.integers(20, 90, 3), np.uint8)
        for time, frame in enumerate(frames):
            left = 2 + (index + 3) * time % 36
            frame[8 + index : 18 + index, left : left + 10] = rng.integers(150, 255)
        video.write_video(folder / "videos" / f"{index:03d}.mp4", frames, GEOMETRY.fps)
        caption = folder / "metas" / f"{index:03d}.txt"
        caption.parent.mkdir(exist_ok=True)
        caption.write_text(f"The robot arm is performing a task. Push square {index} to the right.")
    return folder


def picture(boxes: dict = ITEMS, hand: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [96, 160, 3]: pads of 20 x 28, boxes of 12 x 12, and an arm, 20 high, from the right up to `hand`."""
    frame = np.full((96, 160, 3), TABLE, np.uint8)
    for colour, (row, column) in PADS.items():
        frame[row : row + 20, column : column + 28] = colour
    for colour, (row, column) in boxes.items():
        frame[row : row + 12, column : column + 12] = colour
    if hand is not None:
        frame[hand[0] : hand[0] + 20, hand[1] :] = ARM
    return frame


def drawn(carried: bool, gap: int = 4, stays: bool = False, item: int = 0, place: int = 0) -> np.ndarray:
    """uint8 [25, 96, 160, 3]: the arm enters, carries a box to a pad or does not, and leaves or stays.

    gap: columns from the box's left edge to the arm.
    """
    colour, first = list(ITEMS.items())[item]
    path = np.linspace(first, np.add(list(PADS.values())[place], (4, 8)), 11).round().astype(int)

    def moment(box: np.ndarray, arm: bool) -> np.ndarray:
        boxes = ITEMS | ({colour: tuple(box)} if carried else {})
        return picture(boxes, (box[0] + 6, box[1] + gap) if arm else None)

    moves = [moment(box, True) for box in path]
    return np.stack([picture()] * 5 + moves + [moment(path[-1], stays)] * 9)


def things(first: np.ndarray | None = None) -> Things:
    first = picture() if first is None else first
    return Things(*(np.stack([np.all(first == c, -1) for c in colours]) for colours in (ITEMS, PADS)))


def make_scenes(folder: Path, tasks: tuple[str, ...]) -> Path:
    """A folder in the layout of `simulator.make`: of every scene two clips, whose instructions differ in the place."""
    (folder / "ground_truth").mkdir(parents=True)
    for index, task in enumerate(tasks):
        for place, pad in enumerate(("blue pad", "white pad")):
            name = f"{task}_{index}_{place}"
            video.write_video(folder / "videos" / f"{name}.mp4", drawn(True, place=place) - np.uint8(index), 8)
            masks = {f"masks_{kind}": value for kind, value in vars(things()).items()}
            np.savez(folder / "ground_truth" / f"{name}.npz", **masks)
            row = {
                "id": name, "scene": f"{task}_{index}", "label": "real", "task": task, "sha256": name, "hand": "right",
                "item": 0, "place": place, "objects": ["red box", "green box"], "places": ["blue pad", "white pad"],
                "prompt": f"Use the right hand to pick up red box from table to {pad}.",
            }  # fmt: skip
            storage.append_row(folder / "manifest.jsonl", row)
    return folder


def make_calibration(folder: Path, prompts: list[str], clips: list[np.ndarray]) -> None:
    """Labelled clips as assets/simulator/calibration has them: of each scene a real one and two faults."""
    for index, frames in enumerate(clips):
        kind, scene = ("real", "vanish", "wrong_place")[index % 3], f"place_{index // 3}"
        file = f"videos/{scene}{'' if kind == 'real' else '-' + kind}.mp4"
        video.write_video(folder / file, frames, 8)
        row = {"file": file, "prompt": prompts[index % len(prompts)], "kind": kind, "violation": None}
        row |= {"physics": int(kind != "vanish"), "instruction": int(kind == "real"), "source_clip": scene}
        storage.append_row(folder / "calibration_clips.jsonl", row)


def finish(run: Path, name: str, files: dict[str, list[dict] | dict], profile: str = "nano", **facts) -> None:
    """A finished stage of a run: its files, of rows or with one object, and facts of its manifest."""
    stage = runs.enter(run / runs.FOLDERS[name], name, profile, {}, {})
    for file, content in files.items():
        write = storage.write_rows if isinstance(content, list) else storage.write_json
        write(stage.folder / file, content)
    stage.finish([stage.folder / file for file in files], **facts)


def make_generated(
    run: Path, prompts: dict[str, str], models: tuple[str, ...] = ("base", "tuned"), seeds: int = 2, frames: int = 9
) -> None:
    """Videos as the stage `generate` leaves them, for each model, name -> prompt, and seed."""
    for model in models:
        stage = runs.enter(run / "generated" / model, f"generate-{model}", "nano", {}, {})
        for (number, (name, prompt)), seed in product(enumerate(prompts.items()), range(seeds)):
            row = {"file": f"{name}_seed{seed}.mp4", "name": name, "prompt": prompt, "seed": seed, "model": model}
            video.write_video(stage.folder / row["file"], clip(10 * number + seed + 5 * (model == "base"), frames), 8)
            storage.append_row(stage.folder / "generated.jsonl", row | {"image_sha256": None, "blocked": False})
        stage.finish(stage.folder.glob("*.*"))


def expert_targets(scene: dict) -> np.ndarray:
    """The joint targets [T, 42] at 16 Hz of the scripted expert in a scene: its seed, and the instruction's parts."""
    simulator, run = execute._simulator(), execute.Attempt(**scene)
    world, robot = run.environment.world, run.environment.robot
    chance = world.scene.rng(2)
    plan = simulator.expert.make_plan(world, robot, simulator.expert.intended(world, run.instruction, chance), chance)
    return np.concatenate([plan.joints[1:], plan.joints[-1:]])


ROW = {"name": "a", "prompt": "Wave.", "input_path": "a.png"}  # of a jsonl of requests
ROW |= {"num_output_frames": 9, "resolution": "32,48", "guidance": 2}


def profile(world: Path, steps: int = 6, **recipe) -> Profile:
    """The profile `tiny`; more fields of its recipe by name. Its base weights are random, so any first loss will do."""
    full = profiles.nano()
    values = {"steps": steps, "batch": 2, "learning_rate": 1e-2, "warmup": 2, "cycle": steps, "save_every": 2}
    values |= {"first_loss": None, **recipe}
    return replace(
        full,
        name="tiny",
        world=Source(str(world)),
        clip=GEOMETRY,
        text_tokens=48,
        recipe=replace(full.recipe, **values),
    )


def train_tiny(
    folder: Path,
    steps: int,
    batch: int,
    die_before_rename: int = 0,
    run: str = "run",
    bf16: bool = False,
    compiled: bool = False,
    **recipe,
) -> None:
    """Train in FOLDER/RUN on FOLDER/clips, in the precision of a GPU with `bf16`, its blocks `compiled` as there; with
    `die_before_rename` n, be killed just before the n-th rename."""
    torch.set_num_threads(1)
    if compiled:
        hardware.compile_blocks = partial(hardware.compile_blocks, backend="aot_eager_decomp_partition")
        engine.checkpoint_activations = lambda model, choice, _: activations.checkpoint_activations(
            model, choice, compiled=True
        )
    if bf16:
        hardware.compute_dtype = lambda on: torch.bfloat16
    profiles.PROFILES["tiny"] = lambda: profile(folder / "world", steps, batch=batch, **recipe)
    if die_before_rename:
        left, rename = iter(range(die_before_rename - 1, -1, -1)), os.replace
        os.replace = lambda old, new: rename(old, new) if next(left) else os.kill(os.getpid(), signal.SIGKILL)
    train("tiny", run=folder / run, data=folder / "clips")


def losses(folder: Path) -> list[float]:
    """The loss of every step in the log of a run."""
    rows = storage.read_rows(folder / "checkpoints" / "log.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def train_rank(rank: int, size: int, port: int, more: dict, folder: Path, steps: int, batch: int, die: int = 0) -> None:
    """`train_tiny` as one of several processes, as torchrun starts them but without its start-up time."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    if rank:
        world.load_transformer = None  # one process reads the weights, the others get their shards from it
    train_tiny(folder, steps, batch, 0 if rank else die, **more)


def generate_tiny(world: Path, photos: Path, folder: Path) -> None:
    """Generate three clips of each photo in FOLDER."""
    torch.set_num_threads(1)
    profiles.PROFILES["tiny"] = lambda: profile(world)
    generate("tiny", run=folder, requests=photos, weights=world, seeds=3)


if __name__ == "__main__":
    train_tiny(Path(sys.argv[1]), *map(int, sys.argv[2:]))
