"""The policy: what it learns from, that its words count, resuming, and its rollouts in the simulator."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import python

from cookbook import profiles, storage, video
from cookbook.actions import clips, execute
from cookbook.actions.clips import robot_joints
from cookbook.actions.episodes import Episode, EpisodeSet
from cookbook.errors import UserError
from cookbook.policy import model, rollout, training

JOINTS = ("slide", "lift")
TASKS = ("Push the square to the left.", "Push the square, to the right.")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(training, "PolicySpec", partial(model.PolicySpec, width=48, channels=8))


@pytest.fixture
def two_joints(monkeypatch):
    monkeypatch.setattr(clips, "robot_joints", lambda: JOINTS)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Clips in the simulator's layout: from one picture the slide goes to the left or right, as the task says."""
    folder = tmp_path_factory.mktemp("policy") / "clips"
    (folder / "ground_truth").mkdir(parents=True)
    for index in range(8):
        slide = np.linspace(0, (-1, 1)[index % 2], 9, dtype=np.float32)
        path = np.stack([slide, np.full(9, 0.1 * index, np.float32)], 1)
        frames = np.full((9, 32, 48, 3), 40, np.uint8)
        for frame, x in zip(frames, slide, strict=True):
            frame[10:20, round(18 + 16 * x) : round(30 + 16 * x)] = 220
        video.write_video(folder / f"videos/{index}.mp4", frames, 8, crf=10)
        np.savez(folder / f"ground_truth/{index}.npz", q=path, action=np.concatenate([path[1:], path[-1:]]))
        row = {"id": str(index), "scene": str(index // 2), "label": "real", "prompt": TASKS[index % 2], "fps": 8.0}
        storage.append_row(folder / "manifest.jsonl", row)
    return folder


def test_a_policy_learns_to_do_what_the_words_say(data, tmp_path, two_joints, capsys):
    arguments = {"height": 32, "steps": 40, "batch": 12, "learning_rate": 5e-3}
    manifest = training.train_policy((data,), tmp_path / "out", **arguments)
    loaded = model.load(tmp_path / "out")
    assert manifest["episodes"] == [8] and loaded.spec.joint_names == JOINTS and loaded.spec.chunk == 24
    picture = video.read_video(data / "videos/0.mp4")[0][0]
    left, right = (loaded.act(picture, task, np.array([0, 0.35])) for task in TASKS)
    assert left.shape == (24, 2) and left[7, 0] < -0.6 and right[7, 0] > 0.6, "the same picture and joints"
    assert training.train_policy((data,), tmp_path / "out", **arguments) == manifest
    assert "skipping" in capsys.readouterr().out


def test_a_killed_training_repeats_its_losses(data, tmp_path, two_joints, monkeypatch):
    arguments = {"height": 32, "steps": 4, "batch": 4}
    whole = training.train_policy((data,), tmp_path / "whole", **arguments)
    fit = training.engine.fit
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        stopped = lambda a, b, c, recipe, *rest: fit(a, b, c, replace(recipe, steps=2), *rest)  # noqa: E731
        patch.setattr(training.engine, "fit", stopped)
        patch.setattr(model.Policy, "save", lambda self, folder: 1 / 0)
        training.train_policy((data,), tmp_path / "killed", **arguments)
    resumed = training.train_policy((data,), tmp_path / "killed", **arguments)
    assert resumed["loss_last"] == pytest.approx(whole["loss_last"], rel=1e-5)
    files = [storage.digest(tmp_path / name / "model.safetensors") for name in ("whole", "killed")]
    assert files[0] == files[1], "the average of the weights resumes too"


def test_each_data_set_is_drawn_as_often_as_its_weight_says(data, tmp_path, two_joints):
    part = clips.read(data)
    network = training.build([part], 32)
    sets = [*(replace(part, episodes=part.episodes[n::2]) for n in (0, 1)), replace(part, episodes=[])]
    examples = training.gather(network, sets, (1.0, 3.0, 0.0), tmp_path, torch.device("cpu"))
    batch_at = training.batches(examples, 24, 400, 0)
    pictures, words, joints, targets, changed = batch_at(0)
    right = words == torch.tensor(network.read_words(TASKS[1]))
    assert 0.65 < right.all(1).float().mean() < 0.85
    assert pictures.shape == (400, 3, 32, 48) and targets.shape == (400, 24, 2) and joints.shape == (400, 2)
    assert all(torch.equal(a, b) for a, b in zip(batch_at(3), batch_at(3), strict=True))
    ends = network.normalised(np.array([[-1, 0], [1, 0]]))[:, 0]
    assert np.allclose(targets[:, -1, 0], ends[right.all(1).long()]), "the last target stays after the end"


def test_the_picture_changes_where_the_square_was_and_where_it_is_put(data, tmp_path, two_joints):
    part = clips.read(data)
    network = training.build([part], 32)
    examples = training.gather(network, [part], (1.0,), tmp_path, torch.device("cpu"))
    assert examples.first[1] == examples.last[0] + 1 == len(part.episodes[0].joints)
    now, end = (examples.pictures[moment[:1]] for moment in (examples.first, examples.last))  # it ends at the left
    changed = training.changes(now, end)[0]
    assert changed.shape == (16, 24) and changed[6:9, [3, 6, 11, 13]].all()  # 12 pixels wide, from column 18 to 2
    assert not changed[:4].any() and not changed[12:].any() and not changed[:, 16:].any()


@pytest.mark.parametrize(
    ("weights", "tasks", "message"),
    [
        ((1.0, 1.0), TASKS, "2 weights for 1 data sets"),
        ((-1.0,), TASKS, "give each one that is not negative"),
        (None, ("", TASKS[1]), "0.mp4: no instruction; a policy needs one"),
    ],
)
def test_data_that_cannot_train_a_policy_gets_one_line(weights, tasks, message, data, tmp_path, two_joints):
    part = clips.read(data)
    part = replace(part, episodes=[replace(e, task=tasks[n % 2]) for n, e in enumerate(part.episodes)])
    with pytest.raises(UserError, match=message):
        training.train_on([part], tmp_path / "out", weights, steps=1)


def untrained(folder: Path, joints: tuple[str, ...], tasks: tuple[str, ...]) -> model.Policy:
    torch.manual_seed(0)
    words, length = model.vocabulary(tasks)
    spec = model.PolicySpec("gr1", joints, 8.0, 16, (32, 48), words, length, width=48, channels=8)
    policy = model.Policy(spec).eval()
    policy.save(folder)
    return policy


def test_a_saved_policy_acts_alike_and_knows_its_words(tmp_path):
    policy = untrained(tmp_path, JOINTS, TASKS)
    loaded = model.load(tmp_path)
    picture = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    first, second = (each.act(picture, TASKS[0], np.zeros(2)) for each in (policy, loaded))
    assert loaded.spec == policy.spec and np.allclose(first, second, atol=1e-2)
    assert loaded.read_words("push LEFT, upwards")[2:] == [model.UNKNOWN, 0, 0, 0]
    with pytest.raises(UserError, match="has 7 words; this policy reads instructions of at most 6"):
        loaded.act(picture, "push it to the left right now", np.zeros(2))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not a policy, or damaged"):
        model.load(tmp_path)


# The experiment


@pytest.fixture
def experiment():
    return pytest.importorskip("nano.policy", reason='NOT RUN: needs pip install -e ".[sim]"')


def episodes(count: int) -> EpisodeSet:
    """`count` episodes, of which every second is kept and every third succeeds."""
    zeros = np.zeros((2, 2), np.float32)
    made = [{"kept": not n % 2, "success": not n % 3} for n in range(count)]
    return EpisodeSet(
        "made", 8.0, JOINTS, [Episode(Path(f"{n}.mp4"), "", zeros, zeros, facts=f) for n, f in enumerate(made)]
    )


def test_what_is_compared_adds_the_same_number_of_trajectories(experiment, monkeypatch):
    found = {"demonstrations": episodes(3), "made": episodes(14), "real": episodes(9)}
    monkeypatch.setattr(experiment, "read", lambda folder: found.get(folder.name, episodes(2)))
    monkeypatch.setattr(experiment, "CURVE", (2, 4, 100))
    compared = experiment.variants(Path("work"), Path("made"), curve=False)
    assert [len(parts) for parts in compared.values()] == [1, 1 + len(experiment.CLIPS), 2, 2, 2, 2]
    added = {name: parts[1].episodes for name, parts in compared.items() if len(parts) == 2}
    assert [len(part) for part in added.values()] == [5, 5, 5, 5], "as many as succeed"
    assert all(e.facts["kept"] for e in added["+ generated, kept"])
    assert all(e.facts["success"] for e in added["+ generated, executed"])
    again = experiment.variants(Path("work"), Path("made"), curve=False)
    assert again["+ generated"][1].episodes == added["+ generated"], "the same ones each time"
    curve = experiment.variants(Path("work"), Path("made"), curve=True)
    assert list(curve) == ["demonstrations", "+ 2 kept", "+ 4 kept", "+ 7 kept"]
    found["made"] = replace(found["made"], episodes=[replace(found["made"].episodes[0], facts={})])
    with pytest.raises(UserError, match="has no column 'kept': judge, filter and execute its run first"):
        experiment.variants(Path("work"), Path("made"), False)


def test_policies_are_compared_scene_by_scene(experiment, tmp_path):
    for name, wins in (("demonstrations", (0, 4)), ("generated", (4, 8))):  # of 10 scenes: instruction 1, instruction 2
        storage.write_json(
            tmp_path / f"policies/{name}-0/manifest.json", {"episodes": [88, 5][: 1 + (name == "generated")]}
        )
        for number in range(20):
            scene, success = {"seed": [number % 10, 0]}, number % 10 < wins[number // 10]
            row = {"scene": scene, "success": success, "reason": "" if success else "not grasped"}
            storage.append_row(tmp_path / f"rollouts/{name}-0/rollouts.jsonl", row)
    table = experiment.table(tmp_path, ["demonstrations", "+ generated"], 1)
    base, more = table["demonstrations"], table["+ generated"]
    assert (base["rate"][0], more["rate"][0], base["added"], more["added"]) == (0.2, 0.6, 0, 5)
    assert more["reasons"] == {"not grasped": 8} and more["seeds"] == [0.6]
    assert more["minus demonstrations"][0] == 0.4 and base["minus + generated"][0] == -0.4
    low, high = more["minus demonstrations"][1:]
    assert 0.2 < low < 0.4 < high < 0.6, "narrower than the two rates suggest: the scenes are the same"


# In the simulator


@pytest.fixture(scope="module")
def pair() -> list[dict]:
    """The two instructions of one held-out scene."""
    every, first = (rollout.list_scenes(profiles.get("nano"), limit=limit) for limit in (None, 10))
    assert len(every) == 400 and len(first) == 20 and len({tuple(scene["seed"]) for scene in first}) == 10
    assert every[:20] == first
    return first[:2]


def parts(scene: dict) -> dict:
    return {part: scene[part] for part in rollout.PARTS}


def test_in_closed_loop_the_expert_succeeds_in_the_one_instruction_that_it_follows(pair):
    pytest.importorskip("mujoco", reason='NOT RUN: needs pip install -e ".[sim]"')
    plan, rows = tiny.expert_targets(parts(pair[0])), []
    for scene in pair:
        run, looks = execute.Attempt(**parts(scene)), []

        def predict(run=run, looks=looks) -> np.ndarray:
            looks.append(len(run.rows))
            return plan[len(run.rows) :][:17:2]

        run.follow(predict, 8.0, rollout.SECONDS, rollout.ACT)
        result, poses = run.result()
        assert looks == [0, 8, 16, 24, 32, 40] and len(poses) == 49
        rows.append({"scene": scene, **result})
    facts = rollout.summary(rows)
    assert [row["success"] for row in rows] == [True, False] and facts["reasons"] == {rows[1]["reason"]: 1}
    assert (facts["rate"], facts["both"], facts["scenes"]) == (0.5, 0.0, 1)


def test_a_policy_of_another_robot_or_without_scenes_gets_one_line(tmp_path):
    pytest.importorskip("mujoco", reason='NOT RUN: needs pip install -e ".[sim]"')
    untrained(tmp_path / "policy", JOINTS, TASKS)
    with pytest.raises(UserError, match="for 2 joints \\(slide, ...\\), the simulated GR1 has 42"):
        rollout.roll_out(tmp_path / "policy", tmp_path / "out")
    with pytest.raises(UserError, match="no scenes; make some: python -m simulator make"):
        rollout.roll_out(tmp_path / "policy", tmp_path / "out", tmp_path)
    with pytest.raises(UserError, match="config.json is missing; name a folder that `cookbook policy-train` wrote"):
        rollout.roll_out(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="profile 2b has no simulated robot: choose smoke or nano"):
        rollout.list_scenes(profiles.get("2b"))


@pytest.mark.render
def test_a_policy_can_be_trained_after_a_picture_was_drawn():
    """PyTorch's optimizer imports triton, and two different LLVMs in one process crash unless triton's comes first."""
    look = "rollout.first_look(rollout.list_scenes(profiles.get('nano'), limit=1)[0])"
    lines = ("import torch", "from cookbook import profiles", "from cookbook.policy import rollout", look)
    code = "\n".join([*lines, "import torch._dynamo"])
    done = python("-c", code, timeout=120)
    if "RendererMissing" in done.stderr:
        pytest.skip("NOT RUN: no renderer")
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.render
def test_a_policy_is_rolled_out_and_a_killed_rollout_continues_with_the_same_rows(pair, tmp_path, monkeypatch, capsys):
    render = pytest.importorskip("simulator.render", reason='NOT RUN: needs pip install -e ".[sim]"')
    policy = untrained(tmp_path / "policy", robot_joints(), (max((s["prompt"] for s in pair), key=len),))
    policy.set_statistics(*2 * [execute.Attempt(**parts(pair[0])).joints()[None]])  # so that it stays where it is
    policy.save(tmp_path / "policy")
    for scene in pair:
        storage.append_row(tmp_path / "held/manifest.jsonl", {"label": "real", "task": "place", **scene})
    arguments = {"scenes": tmp_path / "held", "videos": 1, "workers": 1}
    try:
        manifest = rollout.roll_out(tmp_path / "policy", tmp_path / "out", **arguments)
    except render.RendererMissing:
        pytest.skip("NOT RUN: no renderer")
    rows = storage.read_rows(tmp_path / "out/rollouts.jsonl")
    assert (manifest["attempts"], manifest["scenes"], manifest["rate"]) == (2, 1, 0)
    assert sum(manifest["reasons"].values()) == 2 and [bool(row["video"]) for row in rows] == [True, False]
    frames, fps = video.read_video(tmp_path / "out/videos" / rows[0]["video"])
    assert frames.shape == (25, 96, 160, 3) and fps == 8
    assert ("have words that are in no demonstration" in capsys.readouterr().out) == bool(manifest["unread"])
    (tmp_path / "out/manifest.json").unlink()
    lines = (tmp_path / "out/rollouts.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out/rollouts.jsonl").write_bytes(lines[0] + lines[1][:30])
    one, calls = rollout.rollout, []
    monkeypatch.setattr(rollout, "rollout", lambda job: calls.append(job) or one(job))
    rollout.roll_out(tmp_path / "policy", tmp_path / "out", **arguments)
    assert len(calls) == 1 and storage.read_rows(tmp_path / "out/rollouts.jsonl") == rows
