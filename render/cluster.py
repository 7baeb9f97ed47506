"""Many objects on a Ray cluster whose nodes share the output folder: the engine `ray`.

A chunk of objects is a task. It leads one child on its node, such as a Blender (`render.local`), and tells
the outcome of every attempt as it ends; results go to the shared folder. Ray tries no task again by itself,
because only the driver knows what is settled: the unsettled objects of a lost node go back to its queue.
Whose fault a loss was is unknown. So an object that a child had on two lost nodes becomes a suspect: it gets
a task of its own, one suspect's task runs at a time, and only the loss of such a task counts as an attempt.
"""

import contextlib
import logging
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, no_type_check, runtime_checkable

from render import pool
from svd3d import errors
from svd3d.errors import ConfigError, RenderError, Svd3dError, require

log = logging.getLogger(__name__)
Value = TypeVar("Value")
PATIENCE_S = 30.0
"""Silence after which the driver looks whether a task can run at all."""
GRACE_S = 60.0
"""For cancelled tasks to stop their children, before their processes are killed."""
CONNECT_S = 10.0
LOST_IN_A_ROW = 20
"""Tasks, beside two per worker, that may be lost with nothing heard in between: the cluster is broken."""
OBJECT_STORE = 80 << 20
"""Bytes, next to the least that Ray takes; results do not travel through it."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # else Ray tells on stdout of every process that died
}
OWN_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the only way to let Ray listen on 127.0.0.1 alone
}


@runtime_checkable
class Settings(Protocol):
    """What the settings of a stage say about its tasks."""

    @property
    def workers(self) -> int:
        """Tasks at once."""
        ...

    @property
    def threads(self) -> int:
        """CPUs of a task."""
        ...

    @property
    def device(self) -> str:
        """cpu, auto (a GPU if the cluster has one), or the name of a GPU's interface."""
        ...

    @property
    def chunk(self) -> int:
        """Objects of a task."""
        ...

    @property
    def attempts(self) -> int:
        """Of one object."""
        ...

    @property
    def ray_address(self) -> str | None:
        """None for a cluster of its own on this machine."""
        ...


@runtime_checkable
class Source(Protocol):
    """One object; a frozen dataclass, which travels to a node."""

    @property
    def uid(self) -> str:
        """Its name in the ledger."""
        ...

    @property
    def path(self) -> Path:
        """Its file, on a disk that all nodes share."""
        ...

    @property
    def name(self) -> str:
        """The file as the user would say it."""
        ...


Outcomes = Generator[pool.Outcome[Any, Value], None, None]


@dataclass(frozen=True)
class Work(Generic[Value]):
    """What the tasks of a stage do, in functions that travel to the nodes; paths in them are absolute."""

    stage: str
    """What the ledger calls it."""
    lead: Callable[..., Outcomes[Value]]
    """`lead(sources, attempts=)` works with one child of the node; yields the outcome of every attempt."""
    made_before: Callable[[Any], Value | None]
    """What a lost task has already made of a source, if it has."""


@dataclass(frozen=True)
class Told:
    """One attempt as a task tells it: the object by its uid, the error by its message."""

    outcome: pool.Outcome[str, Any]
    message: str


@dataclass(frozen=True)
class Halt:
    """What ended a task and must end the run: a full disk, no such device, a child that does not start."""

    kind: str
    """Name of the error's class."""
    message: str
    log: tuple[str, ...] = ()

    def error(self) -> Exception:
        """The error as it was raised on the node."""
        if self.kind == "StartError":
            return pool.StartError(self.message, self.log)
        return getattr(errors, self.kind)(self.message)


@dataclass(eq=False)
class Task:
    """Objects that one child gets."""

    left: dict[str, Any]
    """Those that are not settled, by uid, in the order in which the child gets them; it has the first now."""
    suspect: bool = False


class Queue:
    """The objects that wait for a task, and what is held against them. `attempts` is kept up to date."""

    def __init__(
        self, sources: Sequence[Source], *, chunk: int, attempts: dict[str, int], limit: int, stage: str
    ) -> None:
        self._chunks = deque(
            Task({source.uid: source for source in sources[start : start + chunk]})
            for start in range(0, len(sources), chunk)
        )
        self._suspects: deque[Task] = deque()
        self._on_trial = False
        self._hit: set[str] = set()
        self._attempts, self._limit, self._stage = attempts, limit, stage

    def take(self) -> Task | None:
        """The next task, or None if there is none, or only suspects while another one is on trial."""
        if self._suspects and not self._on_trial:
            self._on_trial = True
            return self._suspects.popleft()
        return self._chunks.popleft() if self._chunks else None

    def hear(self, task: Task, told: Told) -> pool.Outcome[Any, Any]:
        """Take note of an attempt."""
        outcome = told.outcome
        source = task.left.pop(outcome.job)
        self._attempts[source.uid] = outcome.attempt
        if not outcome.final:  # the pool puts it at the end, too
            task.left[source.uid] = source
        error = RenderError(told.message, kind=outcome.kind) if told.message else None
        return pool.Outcome(**{**vars(outcome), "job": source, "error": error})

    def end(self, task: Task) -> None:
        """Take note that a task has ended."""
        if task.suspect:
            self._on_trial = False

    def lose(self, task: Task, reason: str) -> pool.Outcome[Any, Any] | None:
        """Put the objects of a lost task back; returns an outcome if the loss counts as an attempt at one."""
        self.end(task)
        if not task.left:
            return None
        had = next(iter(task.left.values()))
        if task.suspect:
            return self._blame(task, had, reason)
        if had.uid in self._hit:
            self._suspects.append(Task({had.uid: task.left.pop(had.uid)}, suspect=True))
        self._hit.add(had.uid)
        if task.left:
            self._chunks.append(task)
        return None

    def _blame(self, task: Task, source: Source, reason: str) -> pool.Outcome[Any, Any]:
        attempt = self._attempts[source.uid] = self._attempts.get(source.uid, 0) + 1
        final = attempt >= self._limit
        if not final:
            self._suspects.append(task)
        error = RenderError(
            f"{source.name}: the node was lost while it worked on it ({reason}, attempt {attempt} "
            f"of {max(attempt, self._limit)}); {'it is left out' if final else 'it will be tried again'}",
            kind="lost",
        )
        return pool.Outcome(source, None, error, "lost", attempt, final=final, seconds=0.0, stage=self._stage)


def run(
    config: Settings, sources: Sequence[Any], work: Work[Value], *, attempts: Mapping[str, int]
) -> Outcomes[Value]:
    """Work on objects in Ray tasks, `config.workers` at once; yields the outcome of every attempt.

    Sources are as `Source` says. `attempts` counts those of earlier runs by uid. `OutputError`, `ConfigError`
    and `pool.StartError` of any node end the run. Whatever ends it, also closing this generator or Ctrl-C,
    cancels the tasks, which stop their children. Raises `ConfigError` when there is no cluster at
    `config.ray_address`.
    """
    counted = dict(attempts)
    queue = Queue(sources, chunk=config.chunk, attempts=counted, limit=config.attempts, stage=work.stage)
    with _cluster(config) as ray:
        needs = {"CPU": config.threads, "GPU": _gpus(config.device, ray.cluster_resources())}
        room = _room(ray.nodes(), needs)
        if not room and config.ray_address is None:
            raise ConfigError(f"device: Ray finds no GPU here for {config.device}; pass --device auto or cpu")
        if room != config.workers:
            asked = f"--workers asks for {config.workers}"
            log.warning("the cluster has room for %d tasks of %s; %s", room, _names(needs), asked)
        remote = ray.remote(_work).options(
            num_cpus=needs["CPU"], num_gpus=needs["GPU"], num_returns="streaming", max_retries=0
        )

        def start(task: Task) -> Any:
            chunk = [replace(source, path=source.path.absolute()) for source in task.left.values()]
            return remote.remote(work, chunk, {uid: counted.get(uid, 0) for uid in task.left})

        yield from _lead(ray, queue, start, workers=config.workers, needs=needs)


def _lead(
    ray: Any, queue: Queue, start: Callable[[Task], Any], *, workers: int, needs: dict[str, int]
) -> Outcomes[Any]:
    """Keep `workers` tasks under way until the queue is empty, and pass on what they tell."""
    running: dict[Any, Task] = {}
    lost_in_a_row = 0
    try:
        while True:
            while len(running) < workers and (task := queue.take()):
                running[start(task)] = task
            if not running:
                return
            ready, _ = ray.wait(list(running), timeout=PATIENCE_S)
            if not ready and not _room(ray.nodes(), needs):
                log.warning("no node of the cluster has %s; waiting for one to join", _names(needs))
            for stream in ready:
                task = running[stream]
                try:
                    told = ray.get(next(stream))
                except StopIteration:
                    queue.end(running.pop(stream))
                except _losses(ray) as error:
                    reason = type(error).__name__
                    lost_in_a_row += 1
                    if lost_in_a_row > LOST_IN_A_ROW + 2 * workers:
                        raise RenderError(
                            f"Ray lost {lost_in_a_row} tasks in a row ({reason}); look at Ray's logs on the "
                            "nodes, then run the same command again, it resumes"
                        ) from error
                    story = "a task was lost (%s); its %d unfinished objects go back to the queue"
                    log.warning(story, reason, len(task.left))
                    if outcome := queue.lose(running.pop(stream), reason):
                        yield outcome
                else:
                    lost_in_a_row = 0
                    if isinstance(told, Halt):
                        raise told.error()
                    outcome = queue.hear(task, told)
                    if outcome.error and not outcome.final:
                        log.warning("%s", outcome.error)
                    yield outcome
    finally:
        _cancel(ray, list(running))


@no_type_check  # a checker would wrap it, and what wraps a generator function is none to Ray
def _work(work: Work[Any], sources: Sequence[Any], attempts: dict[str, int]) -> Iterator[Told | Halt]:
    """The task: work on a chunk of objects on this node; what a lost task has finished is only told."""
    try:
        todo = []
        for source in sources:
            if (made := work.made_before(source)) is not None:
                attempt = attempts[source.uid] + 1
                yield Told(pool.Outcome(source.uid, made, None, "done", attempt, True, 0.0, work.stage), "")
            else:
                todo.append(source)
        with contextlib.closing(work.lead(todo, attempts=attempts)) as outcomes:
            for outcome in outcomes:
                plain = pool.Outcome(**{**vars(outcome), "job": outcome.job.uid, "error": None})
                yield Told(plain, str(outcome.error or ""))
    except (Svd3dError, pool.StartError) as error:
        said = [*getattr(error, "log", ())]
        said[-1:] = [f"{last} (on {platform.node()})" for last in said[-1:]]
        yield Halt(type(error).__name__, f"{error} (on {platform.node()})", tuple(said))


@contextlib.contextmanager
def _cluster(config: Settings) -> Iterator[Any]:
    """The package ray, connected to the cluster that is asked for until the end of the block."""
    address, options = config.ray_address, {}
    os.environ.update(ENVIRONMENT)
    if address is None:
        os.environ.update(OWN_ENVIRONMENT)
        address = "local"
        options = {
            "num_cpus": config.workers * config.threads,
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
        }
    elif address != "auto":
        _knock(address)
    ray = require("ray", extra="dist", reason="--engine ray")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"ray_address: no Ray cluster to use at {address} ({error}); "
            "start one with: ray start --head, and set RAY_AUTH_MODE=token if it wants a token"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"ray_address: nobody answers at {address} ({error}); pass auto, or HOST:PORT of Ray's head"
        ) from error


def _losses(ray: Any) -> tuple[type[Exception], ...]:
    """How Ray says that a task is gone with its process or node."""
    names = ("NodeDiedError", "WorkerCrashedError", "OutOfMemoryError", "ObjectLostError")
    return tuple(getattr(ray.exceptions, name) for name in names)


def _gpus(device: str, resources: dict[str, float]) -> int:
    """GPUs of a task: one if the device is a GPU; with auto, if the cluster has any now."""
    return int(device != "cpu" and (device != "auto" or resources.get("GPU", 0) >= 1))


def _room(nodes: list[dict[str, Any]], needs: dict[str, int]) -> int:
    """How many tasks the living nodes can run at once."""
    return sum(
        min(int(node["Resources"].get(name, 0) // need) for name, need in needs.items() if need)
        for node in nodes
        if node["Alive"]
    )


def _names(needs: dict[str, int]) -> str:
    return " and ".join(f"{need} {name}" for name, need in needs.items() if need)


def _cancel(ray: Any, streams: list[Any]) -> None:
    """Let tasks stop their children and clean up; those that do not are killed, and their children too."""
    if not streams:
        return
    for stream in streams:
        ray.cancel(stream)
    _, stuck = ray.wait([stream.completed() for stream in streams], num_returns=len(streams), timeout=GRACE_S)
    if stuck:
        for stream in streams:
            ray.cancel(stream, force=True)
