"""Work on many GPUs or machines: Ray starts one actor per GPU around the object that a single process calls.

Ray places the actors, moves results and notices deaths; here is only who gets which job. Each machine must see the
files under the same paths (a shared file system). The caller alone writes, so a job done twice, because the news of the
first was lost with its machine, is written once.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cookbook.errors import UserError, last_line

CORES = 2  # per actor, where the cluster has no GPU
ATTEMPTS = 3  # a job that took so many workers with it is itself the reason
LOADING = "loading the models"
PATIENCE = 60  # seconds without any news before it is said that no worker runs


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Within the block: the module `ray`, connected to the cluster at `address`, or to a new one of this machine alone
    (`local`).

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports to nobody
    try:
        import ray
    except ImportError:
        raise UserError('`--ray` needs Ray: pip install -c constraints.txt -e ".[cluster]"') from None
    if ":" in address and not _answers(address):  # Ray itself would try for minutes
        raise UserError(f"no Ray cluster at {address}; start one with `ray start --head` and give its address")
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(
                None if address == "local" else address,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster at {address} ({last_line(error)}); see `ray start --help`") from None
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError):
        return False
    return True


def each(
    address: str,
    worker: Callable[..., Any],
    parts: tuple,
    jobs: Sequence[tuple],
    name: Callable[..., str],
    together: int,
) -> Iterator[tuple[tuple, Any]]:
    """Every job once, in the order they get ready: the job and what came of it.

    Args:
        worker: class whose objects are called with a job's arguments; may be called from several threads.
        parts: arguments of the class.
        name: what a job is called, from its arguments.
        together: jobs in the hands of one worker.

    Raises:
        UserError: what a worker raised, no room for even one actor, or a job whose workers die.
    """
    with connected(address) as ray:
        available = ray.cluster_resources()
        gpus = int(available.get("GPU", 0))
        places = gpus or int(available.get("CPU", 0)) // CORES
        if not places:
            raise UserError(f"the Ray cluster at {address} has no GPU and fewer than {CORES} CPU cores")
        print(f"Ray at {address}: {places} x {'1 GPU' if gpus else f'{CORES} CPU cores'}")
        resources = {"num_gpus": 1} if gpus else {"num_cpus": CORES}
        actor = ray.remote(**resources, max_restarts=0, max_concurrency=together)(worker)
        yield from _Round(ray, lambda: actor.remote(*parts), min(places, len(jobs)), jobs, name, together)


class _Round:
    """All jobs over actors that may die: iterating gives those that are done."""

    def __init__(
        self, ray: Any, start: Any, workers: int, jobs: Sequence[tuple], name: Callable[..., str], together: int
    ):
        self.ray, self.start, self.left, self.name, self.together = ray, start, deque(jobs), name, together
        self.lost: dict[str, int] = {}  # job -> workers that died over it
        self.waiting: dict[Any, Any] = {}  # reference that is ready once the actor has loaded its models -> the actor
        self.running: dict[Any, tuple[Any, tuple]] = {}
        self.idle: list[Any] = []  # actors that found no job left; a death may leave one
        for _ in range(workers):
            self.hire()

    def hire(self) -> None:
        """Another actor. Ray starts it when there is room, at once or when a machine comes back."""
        worker = self.start()
        self.waiting[worker.__ray_ready__.remote()] = worker

    def give(self, worker: Any) -> None:
        """Hand the worker its next job, if one is left."""
        if not self.left:
            self.idle.append(worker)
            return
        job = self.left.popleft()
        self.running[worker.__call__.remote(*job)] = (worker, job)

    def __iter__(self) -> Iterator[tuple[tuple, Any]]:
        while self.left or self.running:
            ready, _ = self.ray.wait([*self.running, *self.waiting], timeout=PATIENCE)
            if not ready and not self.running:
                print("no worker of the cluster runs; waiting for a machine to come back", flush=True)
            for reference in ready:
                yield from self.take(reference)

    def take(self, reference: Any) -> Iterator[tuple[tuple, Any]]:
        """One piece of news: an actor is ready, a job is done, or an actor died with its job."""
        hired = self.waiting.pop(reference, None)
        worker, job = (hired, None) if hired is not None else self.running.pop(reference)
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError) else error from None
        except self.ray.exceptions.RayError as error:
            self.bury(worker, job, error)
            return
        if hired is None:
            yield job, result
        else:
            self.lost.pop(LOADING, None)  # models can be loaded, so that earlier deaths had another reason
        for _ in range(self.together if hired is not None else 1):
            self.give(worker)

    def bury(self, worker: Any, job: tuple | None, error: Exception) -> None:
        """The worker is dead: its job goes to the next free one, and a new worker is asked for (once)."""
        name = self.name(*job) if job else LOADING
        self.lost[name] = self.lost.get(name, 0) + 1
        if self.lost[name] >= ATTEMPTS:
            raise UserError(f"{name}: {ATTEMPTS} workers died with it in hand ({last_line(error)})") from None
        self.idle = [other for other in self.idle if other is not worker]
        if job:
            self.left.appendleft(job)
        while self.left and self.idle:
            self.give(self.idle.pop())
        if not any(other is worker for other, _ in self.running.values()):  # the last of its jobs tells of the death
            print(f"a worker died over {name}; others do its work", flush=True)
            self.hire()
