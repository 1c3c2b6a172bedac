"""Generation and judging on a Ray cluster of several nodes (on this machine) give the results of one process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path

import psutil
import pytest
import tiny

from cookbook import cluster, runs, storage
from cookbook.cluster import ATTEMPTS, CORES
from cookbook.errors import UserError
from cookbook.generate.generator import IN_FLIGHT
from cookbook.generate.stage import generate
from cookbook.judge.scorer import Scorer
from cookbook.judge.stage import judge_rows
from cookbook.video import write_video

MISSING = "NOT RUN: generation on several GPUs or machines needs pip install -e .[cluster]"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason=MISSING)]
CLIPS = 15
MEMORY = {"object_store_memory": 80 * 2**20}


def add_node(ray_cluster):
    return ray_cluster.add_node(num_cpus=CORES, **MEMORY)


def new_cluster(nodes: int = 3):
    """A head without room for an actor and nodes with room for one each: (cluster, nodes)."""
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **MEMORY})
    return ray_cluster, [add_node(ray_cluster) for _ in range(nodes)]


@pytest.fixture(scope="module", autouse=True)
def silent():
    """Clusters that these tests start report to nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture
def nodes():
    """(cluster, nodes)."""
    ray_cluster, members = new_cluster()
    yield ray_cluster, members
    ray_cluster.shutdown()


@pytest.fixture
def requests(rows_file) -> Path:
    """Long enough (80 steps each) that a node can be killed in the middle."""
    return rows_file(*[{"num_steps": 80}] * CLIPS)


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tiny
from cookbook import profiles
from cookbook.generate.stage import generate

profiles.PROFILES["tiny"] = lambda: tiny.profile(Path({world!r}))
generate("tiny", run=sys.argv[1], requests=Path({requests!r}), weights=Path({world!r}), seeds=1, ray=sys.argv[2])
"""


def test_clips_are_the_same_after_random_kills(tmp_path, nodes, requests, tiny_profile, tiny_world):
    """SIGKILL for a worker, a node, and the caller with the whole cluster; batches are started until all are done."""
    ray_cluster, members = nodes
    names = {"tests": os.path.dirname(tiny.__file__), "world": str(tiny_world), "requests": str(requests)}
    moments, output = random.Random(0), tmp_path / "log.txt"
    folders = [tmp_path / "0"]

    def start() -> subprocess.Popen:
        command = [sys.executable, "-c", DRIVER.format(**names), str(folders[-1]), ray_cluster.address]
        return subprocess.Popen(command, stdout=output.open("a"), stderr=subprocess.STDOUT)

    def workers() -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [process for process in children if process.is_running() and "ray::Generator" in process.name()]

    caller = start()
    for kind in ("worker", "node", "all"):
        until = time.monotonic() + 60
        while not workers() and caller.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 6))
        if caller.poll() is not None:  # done before it could be killed: another batch
            assert caller.returncode == 0, output.read_text()[-2000:]
            folders.append(tmp_path / str(len(folders)))
            caller = start()
        if kind == "worker":
            for process in workers()[:1]:
                process.kill()
        elif kind == "node":
            ray_cluster.remove_node(members.pop(moments.randrange(len(members))), allow_graceful=False)
            members.append(add_node(ray_cluster))
        else:
            caller.kill()
            caller.wait()
            for process in psutil.Process().children(recursive=True):
                process.kill()
            ray_cluster.shutdown()
            ray_cluster, members = new_cluster()
            caller = start()
    assert caller.wait(300) == 0, output.read_text()[-2000:]
    ray_cluster.shutdown()
    tiny_profile()
    alone = generate("tiny", run=tmp_path / "alone", requests=requests, weights=tiny_world, seeds=1)
    for run in folders:
        generated = run / "generated/tuned"
        rows = storage.read_rows(generated / "generated.jsonl")
        assert len(rows) == len({row["file"] for row in rows}) == CLIPS == len(list(generated.glob("*.mp4")))
        outputs = runs.read_manifest(generated)["outputs"]
        for name, video in alone["outputs"].items():
            assert not name.endswith(".mp4") or outputs[name] == video, "a cluster must generate the very same clips"


def test_scores_of_a_cluster_equal_those_of_one_process(tmp_path, nodes, critic_folder):
    """40 clips, 80 verdicts, and a node that is killed among them: none twice, none missing, the same scores."""
    ray_cluster, members = nodes
    rows = []
    for number in range(40):
        path = tmp_path / "clips" / f"{number:02d}.mp4"
        write_video(path, tiny.clip(number), 8)
        rows.append({"file": path.name, "path": path, "model": None, "name": path.stem, "prompt": "Wave.", "seed": 0})
    table = tmp_path / "shared.jsonl"

    def kill_one() -> None:
        while not (table.exists() and table.read_text().count("\n") >= 3):
            time.sleep(0.02)
        ray_cluster.remove_node(members[0], allow_graceful=False)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    shared, _ = judge_rows(table, Scorer(critic_folder, 8, 1024, ray_cluster.address), rows)
    killer.join()
    alone, _ = judge_rows(tmp_path / "alone.jsonl", Scorer(critic_folder, 8, 1024), rows)
    order = itemgetter("file", "question")
    assert sorted(shared, key=order) == sorted(alone, key=order)
    assert len(storage.read_rows(table)) == 80


def test_a_missing_cluster_is_reported_in_one_line():
    with pytest.raises(UserError, match="no Ray cluster at 127.0.0.1:1 .*ray start --head"):
        dispatch("127.0.0.1:1", object, ["a"])


@pytest.fixture(scope="module")
def three_nodes():
    """The address of a cluster that several tests use."""
    ray_cluster, _ = new_cluster()
    yield ray_cluster.address
    ray_cluster.shutdown()


def deadly_worker(folder: Path, deaths: dict[str, int]) -> type:
    """A class of workers; `deaths` says how many die on each job, and `folder` counts them across processes."""

    class Deadly:
        def __call__(self, job: str, seed: int) -> str:
            for death in range(deaths.get(job, 0)):
                if not (marker := folder / f"{job}{death}").exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            if job == "mistake":
                raise UserError("this job cannot be done")
            return job.upper()

    return Deadly


def dispatch(address: str, worker: type, jobs: list[str]) -> list[tuple[tuple, str]]:
    named = [(job, 0) for job in jobs]
    return list(cluster.each(address, worker, (), named, lambda job, seed: f"{job}, seed {seed}", IN_FLIGHT))


@pytest.mark.parametrize("deaths", [{}, {"a": 1}, {"e": 2}, {"a": 1, "b": 1, "d": 2}])
@pytest.mark.parametrize("jobs", ["a", "abcde"])  # one worker, or as many as there are nodes
def test_each_job_is_done_once_whichever_worker_dies(three_nodes, tmp_path, jobs, deaths):
    results = dispatch(three_nodes, deadly_worker(tmp_path, deaths), list(jobs))
    assert sorted(result for _, result in results) == list(jobs.upper())
    assert all(job.upper() == result for (job, _), result in results)


@pytest.mark.parametrize(
    ("job", "message"),
    [("b", f"^b, seed 0: {ATTEMPTS} workers died on this job"), ("mistake", "^this job cannot be done$")],
)
def test_a_job_that_kills_its_workers_or_fails_is_reported(three_nodes, tmp_path, job, message):
    with pytest.raises(UserError, match=message):
        dispatch(three_nodes, deadly_worker(tmp_path, {"b": ATTEMPTS}), ["a", job, "c"])


def test_of_jobs_in_flight_together_the_deadly_one_is_reported(three_nodes, tmp_path):
    """One worker, which holds the deadly job and an innocent one that takes longer than its worker lives."""

    class Slow(deadly_worker(tmp_path, {"b": ATTEMPTS})):
        def __call__(self, job: str, seed: int) -> str:
            time.sleep(0 if job == "b" else 2)
            return super().__call__(job, seed)

    with pytest.raises(UserError, match="^b, seed 0: "):
        dispatch(three_nodes, Slow, ["a", "b"])


def test_a_cluster_without_workers_is_reported(three_nodes, tmp_path, monkeypatch, capsys):
    """The worker takes longer to load than the patience lasts."""

    class Slow(deadly_worker(tmp_path, {})):
        def __init__(self):
            time.sleep(3)

    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    assert [result for _, result in dispatch(three_nodes, Slow, ["a"])] == ["A"]
    assert "no worker of the cluster runs; waiting for a machine" in capsys.readouterr().out
