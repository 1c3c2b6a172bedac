"""Training the nano text encoder and world model from random weights."""

from __future__ import annotations

import json
import math

import pytest
import tiny
import torch

from cookbook import storage
from cookbook.errors import UserError
from cookbook.models import autoencoder, world
from cookbook.models.text import encode_prompts
from nano import networks, train_text, train_vae, train_world
from nano.training import load_clips
from simulator.scene import phrase

SCENES = torch.tensor([[0, 1], [2, 3], [4, 5]])
ROWS = [{"scene": f"s{k // 2}", "hand": "right", "item": 0, "place": k % 2} for k in range(6)]


@pytest.fixture
def data() -> train_world.Data:
    """Six clips and their mirror images; the first number of a clip's words is its own number."""
    words = torch.zeros(13, 4, 8)
    words[:12, 0, 0] = torch.arange(12)
    latents = torch.randn(12, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return train_world.Data(latents, words, torch.arange(12))


def test_all_clips_of_a_scene_share_a_batch_its_noise_and_its_level(data):
    clips, words, noise, sigma = data.batch(3, SCENES, 8, 0.0)
    assert (clips.view(8, 2)[:, 0] % 2 == 0).all() and (clips.view(8, 2).diff() == 1).all()  # pairs of one scene
    assert {int(clip) // 6 for clip in clips} == {0, 1} and torch.equal(words[:, 0, 0], clips.float())
    assert torch.equal(noise[::2], noise[1::2]) and torch.equal(sigma[::2], sigma[1::2])
    assert len(noise.flatten(1).unique(dim=0)) == len(sigma.unique()) == 8  # every scene has its own
    assert all(map(torch.equal, data.batch(3, SCENES, 8, 0.0), (clips, words, noise, sigma)))
    assert not torch.equal(data.batch(4, SCENES, 8, 0.0)[2], noise)
    data.text[-1] = 7
    dropped = data.batch(3, SCENES, 8, 1.0)[1]
    assert sorted({row.unique().item() for row in dropped}) == [0, 7]  # no caption, and the empty prompt's


def test_pair_accuracy_tells_a_network_that_reads_from_one_that_does_not(data):
    def reads(hidden_states, timestep, encoder_hidden_states, **_):
        """The velocity to the clip that the words name."""
        clean = data.latents[encoder_hidden_states[:, 0, 0].long()]
        return ((hidden_states - clean) / timestep.view(-1, 1, 1, 1, 1),)

    measured = [
        train_world.pair_accuracy(data, network, SCENES, ROWS) for network in (reads, lambda **x: (x["hidden_states"],))
    ]
    assert measured == [{"pair_accuracy_place": 1.0}, {"pair_accuracy_place": 0.5}]
    rows = [row | {"hand": "left"} if row["place"] else row for row in ROWS]  # two parts differ
    assert train_world.pair_accuracy(data, reads, SCENES, rows) == {}


def test_scenes_need_the_same_number_of_clips():
    assert torch.equal(train_world.by_scene(ROWS), SCENES)
    with pytest.raises(UserError, match=r"have \[1, 2\] clips; render all with the same --instructions"):
        train_world.by_scene(ROWS[:-1])


@pytest.mark.slow
def test_the_world_model_trains_resumes_and_is_measured(tiny_world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(networks, "build_transformer", lambda: world.load_transformer(tiny_world))
    clips, out = tiny.make_scenes(tmp_path / "clips", ("carry", "carry", "reach")), tmp_path / "out"
    args = dict(data=(clips,), models=tiny_world, out=out, scenes=2, held_out=1, learning_rate=1e-3)
    for steps in (2, 3):
        train_world.main(train_world.Args(steps=steps, **args))
    assert len(storage.read_rows(out / "log.jsonl")) == 3 and "continuing from" in (text := capsys.readouterr().out)
    assert text.count("encoding clips") <= 1 and len(list(out.glob("inputs-*"))) == 1
    inputs, _ = train_world.cached_inputs(train_world.Args(**args), torch.device("cpu"))
    assert inputs["latents"].shape == (12, 16, 7, 12, 20) and inputs["index"].shape == (12,)
    figures = json.loads((out / "quality.json").read_text())
    assert set(figures) == {"pair_accuracy_place", "held_out_loss", "own_loss"}
    assert all(map(math.isfinite, figures.values()))
    trained, start = (world.load_transformer(folder).state_dict() for folder in (out, tiny_world))
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    rows = storage.read_rows(clips / "manifest.jsonl")
    storage.write_rows(clips / "manifest.jsonl", [row | {"task": "place"} for row in rows])
    with pytest.raises(UserError, match="leave out clips of `place`"):
        train_world.main(train_world.Args(**args))


@pytest.mark.slow
def test_the_vae_trains_and_standardises_its_latents(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "build_vae", lambda: world.load_vae(tiny_world).train().requires_grad_(True))
    clips = tiny.make_scenes(tmp_path / "clips", ("place", "carry"))
    sizes = {"frame_steps": 1, "clip_steps": 1, "image_batch": 2, "clip_batch": 1, "held_out": 1}
    train_vae.main(train_vae.Args((clips,), tmp_path, **sizes))
    figures = json.loads((tmp_path / "quality.json").read_text())
    assert len(figures["psnr_per_frame"]) == 25 and 0 < figures["psnr_moved"] < 60
    vae = world.load_vae(tmp_path)
    frames, _ = load_clips((clips,))
    with torch.no_grad():
        latents = torch.cat([autoencoder.encode(vae, autoencoder.to_tensor(clip)) for clip in frames[1:]])
    channels = latents.transpose(0, 1).flatten(1)
    assert channels.mean(1).abs().max() < 1e-3 and (channels.std(1) - 1).abs().max() < 1e-3


@pytest.mark.slow
def test_the_text_encoder_learns_its_own_words_and_keeps_hands_apart(tmp_path):
    train_text.main(train_text.Args(tmp_path, steps=80, batch=16))
    losses = [row["loss"] for row in storage.read_rows(tmp_path / "log.jsonl")]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    figures = json.loads((tmp_path / "quality.json").read_text())
    encoder, tokenizer = world.load_text_encoder(tmp_path)
    assert figures["held_out_own_token"] < 0.5 * networks.TEXT_LAYERS * math.log(len(tokenizer))
    prompts = [phrase("place", hand, "red apple", "white plate") for hand in ("left", "right")]
    left, right = encode_prompts(encoder, tokenizer, prompts, 64)
    assert ((left - right).norm(dim=-1) / left.norm(dim=-1)).max() > 0.3
