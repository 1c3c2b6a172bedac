"""The same work in this process or on many GPUs and machines: there, one Ray actor per GPU around the same object.

Ray places the actors, moves the results and notices deaths. This module decides which actor gets which job. Each
machine must see the files under the same paths (a shared file system). Only the caller writes, so a job that is done
twice, because its first result was lost with a machine, is written once.
"""

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from cookbook.errors import UserError, last_line

CORES = 2  # per actor, where the cluster has no GPU
ATTEMPTS = 3  # workers that may die on one job before it is given up
LOADING = "loading the models"
PATIENCE = 60  # seconds without a result or a worker before that is reported


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Within the block: the module `ray`, connected to the cluster at `address`, or to a new one on this machine
    (`local`).

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports to nobody
    try:
        import ray
    except ImportError:
        raise UserError('`--ray` needs Ray: pip install -c constraints.txt -e ".[cluster]"') from None
    place = {"address": None, "include_dashboard": False} if address == "local" else {"address": address}
    try:
        if ":" in address:
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        ray.init(**place, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        fix = "start one with `ray start --head`, use its address"
        raise UserError(f"no Ray cluster at {address} ({last_line(error)}); {fix}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def each(
    address: str | None,
    worker: Callable[..., Any],
    arguments: tuple,
    jobs: Sequence[tuple],
    name: Callable[..., str],
    in_flight: int,
) -> Iterator[tuple[tuple, Any]]:
    """(job, result) of every job: in order from one process, as they arrive from a cluster.

    Args:
        address: of a Ray cluster, or `local` for one on this machine; None for this process alone.
        worker: class of callable objects; a call gets a job's arguments and may come from any of several threads.
        arguments: of the class.
        name: what a job is called in messages, from its arguments.
        in_flight: jobs that one worker holds at a time.

    Raises:
        UserError: as a worker raised it; no room for even one worker; a job with which ATTEMPTS workers died.
    """
    if address is None:
        work, threads = worker(*arguments), ThreadPoolExecutor(in_flight)
        try:
            yield from zip(jobs, threads.map(lambda job: work(*job), jobs), strict=True)
        finally:
            threads.shutdown(cancel_futures=True)
        return
    with connected(address) as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        places = gpus or int(resources.get("CPU", 0)) // CORES
        if not places:
            raise UserError(f"the Ray cluster at {address} has no GPU and fewer than {CORES} CPU cores")
        print(f"Ray at {address}: {places} x {'1 GPU' if gpus else f'{CORES} CPU cores'}")
        needs = {"num_gpus": 1} if gpus else {"num_cpus": CORES}
        actor = ray.remote(**needs, max_restarts=0, max_concurrency=in_flight)(worker)
        yield from _dispatch(ray, lambda: actor.remote(*arguments), min(places, len(jobs)), jobs, name, in_flight)


def _dispatch(
    ray: Any, start: Callable, workers: int, jobs: Sequence[tuple], name: Callable[..., str], in_flight: int
) -> Iterator[tuple[tuple, Any]]:
    """All jobs over actors that may die. A dead actor's jobs go back to the queue, and another actor is requested.

    A job that was on a dead actor has the next one for itself, so that no innocent job is given up with a deadly one.
    Ray starts a requested actor when there is room: when a machine comes back, or when an actor ends. An actor without
    a job ends, because nothing refers to it any more.
    """
    queue, deaths = deque(jobs), Counter()  # deaths: name of a job -> workers that died on it
    pending: dict[Any, tuple[Any, tuple | None]] = {}  # reference -> (actor, its job, None while it loads)

    def request_actor() -> None:
        actor = start()
        pending[actor.__ray_ready__.remote()] = actor, None

    def suspect(job: tuple) -> bool:
        return deaths[name(*job)] > 0

    def has_room(actor: Any, job: tuple) -> bool:
        held = [held for other, held in pending.values() if other is actor]
        return not held or len(held) < in_flight and not any(map(suspect, [job, *held]))

    for _ in range(workers):
        request_actor()
    while queue or any(job for _, job in pending.values()):
        ready, _ = ray.wait([*pending], timeout=PATIENCE)
        if not ready and not any(job for _, job in pending.values()):
            print("no worker of the cluster runs; waiting for a machine to come back", flush=True)
        for reference in ready:
            actor, job = pending.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, UserError) else error from None
            except ray.exceptions.RayError as error:
                doing = name(*job) if job else LOADING
                deaths[doing] += 1
                if deaths[doing] >= ATTEMPTS:
                    raise UserError(f"{doing}: {ATTEMPTS} workers died on this job ({last_line(error)})") from None
                if job:
                    queue.appendleft(job)
                if all(other is not actor for other, _ in pending.values()):  # the last of its jobs
                    print(f"a worker died on {doing}; another repeats the job", flush=True)
                    request_actor()
                continue
            if job:
                yield job, result
            else:
                deaths.pop(LOADING, None)  # the models can be loaded, so earlier deaths had another cause
            while queue and has_room(actor, queue[0]):
                job = queue.popleft()
                pending[actor.__call__.remote(*job)] = actor, job
