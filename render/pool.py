"""Supervised child processes that speak JSON lines: one per slot, kept alive over many objects.

A child is any program that prints `{"kind": "ready"}` and then answers every request line on its stdin
with lines of kind `progress`, and one of kind `done` or `error`. It may crash, hang or lie at any time:
the slot stops its whole process group, starts a new one and tries the object again, a limited number of
times. Nothing is shared between slots, so one crash costs one object's time and no more.
"""

import collections
import contextlib
import json
import logging
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from svd3d.errors import OutputError, RenderError, Svd3dError

log = logging.getLogger(__name__)
Job = TypeVar("Job")
Value = TypeVar("Value")
START_S = 180.0
"""A child must be ready by then; a cold disk needs ten seconds, a busy machine more."""
GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""
MAX_LINE = 1 << 20
ROOT = Path(__file__).resolve().parents[1]
"""Where the children find the package `render`, installed or not."""
LOG_LINES = 20


class WorkerFault(Exception):
    """The child broke the conversation; `kind` is crash, timeout or protocol."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Limits:
    """When a child is stopped, replaced, and when an object is given up."""

    timeout_s: float
    """Per object and attempt, wall clock."""
    attempts: int = 2
    recycle_after: int = 100
    """Objects per child; Blender keeps a little of each."""
    rss_mb: float = 6000.0
    """A child above this resident size is replaced after its object."""


@dataclass(frozen=True)
class Outcome(Generic[Job, Value]):
    """What became of one job: a value, or an error with its class and the child's last lines."""

    job: Job
    value: Value | None
    error: Svd3dError | None
    kind: str
    """done, refused (by a check or by the child), crash, timeout or protocol."""
    attempts: int
    seconds: float
    log: tuple[str, ...] = ()


class Worker:
    """One slot: starts its child when first asked, and gives each attempt a deadline."""

    def __init__(self, command: Sequence[str], folder: Path, limits: Limits) -> None:
        self.folder = folder
        """Scratch space of this slot; also home and temporary folder of its children."""
        self._command, self._limits = list(command), limits
        self._log = folder / "log.txt"
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._served, self._rss_mb, self._log_start = 0, 0.0, 0
        self._deadline = 0.0
        self._lock, self._stopped = threading.Lock(), False
        folder.mkdir(parents=True)

    def begin(self) -> None:
        """Start the clock and the log of one attempt."""
        self._deadline = time.monotonic() + self._limits.timeout_s
        self._log_start = self._log.stat().st_size if self._log.exists() else 0

    def ask(
        self, request: dict[str, Any], on_progress: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises `RenderError` when the child refuses the object, and `WorkerFault` when it dies, takes
        longer than the object's time limit, or says something that is not an answer.
        """
        child = self._alive()
        assert child.stdin is not None, "the child was started with a pipe"
        try:
            child.stdin.write(json.dumps(request, allow_nan=False).encode() + b"\n")
            child.stdin.flush()
        except OSError:
            raise self._death() from None
        while True:
            answer = self._read(self._deadline, f"took longer than {self._limits.timeout_s:g} s")
            match answer.get("kind"):
                case "progress":
                    if on_progress is not None:
                        on_progress(answer)
                case "done":
                    self._rss_mb = float(answer.get("rss_mb") or 0)
                    return answer
                case "error":
                    raise RenderError(str(answer.get("message"))[:500])
                case kind:
                    raise WorkerFault(
                        "protocol", f"Blender's worker answered {kind!r:.60}, which is no answer"
                    )

    def end(self) -> None:
        """Count one object, and replace the child when it is old or large."""
        self._served += 1
        if self._served >= self._limits.recycle_after or self._rss_mb > self._limits.rss_mb:
            log.info("replacing Blender after %d objects, %.0f MB", self._served, self._rss_mb)
            self.stop()

    def last_words(self) -> tuple[str, ...]:
        """The last lines that the child wrote during this attempt."""
        if not self._log.exists():
            return ()
        with open(self._log, "rb") as file:
            file.seek(max(self._log_start, self._log.stat().st_size - (1 << 16)))
            text = file.read().decode("utf-8", "replace")
        return tuple(
            collections.deque((line for line in text.splitlines() if line.strip()), maxlen=LOG_LINES)
        )

    def stop(self, *, forever: bool = False) -> None:
        """Stop the child and everything it started; `forever` also refuses to start another."""
        with self._lock:
            self._stopped = self._stopped or forever
            child, self._child = self._child, None
        if child is None:
            return
        _signal_group(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        _signal_group(child, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _alive(self) -> subprocess.Popen[bytes]:
        child = self._child
        if child is not None:
            return child
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        own = {
            name: str(home)
            for name in ("HOME", "TMPDIR", "BLENDER_USER_RESOURCES", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
        }
        with self._lock, open(self._log, "ab") as log_file:
            if self._stopped:
                raise WorkerFault("crash", "the pool is stopping")
            self._child = child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                cwd=home,
                env={**os.environ, **own, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        self._buffer, self._served, self._rss_mb = b"", 0, 0.0
        started = time.monotonic()
        try:
            while self._read(started + START_S, "did not start", noise=True).get("kind") != "ready":
                pass
        except WorkerFault as fault:
            raise StartError(str(fault), self.last_words()) from fault
        self._deadline += time.monotonic() - started  # starting Blender is not the object's fault
        return child

    def _read(self, deadline: float, late: str, *, noise: bool = False) -> dict[str, Any]:
        """The next line of the child as JSON; with `noise`, lines that are not JSON are passed over."""
        while True:
            line = self._line(deadline, late)
            try:
                answer = json.loads(line)
            except ValueError:
                answer = None
            if isinstance(answer, dict):
                return answer
            if not noise:
                raise WorkerFault("protocol", f"Blender's worker wrote {line[:60]!r} instead of an answer")

    def _line(self, deadline: float, late: str) -> bytes:
        while b"\n" not in self._buffer:
            child = self._child
            if child is None or child.stdout is None:
                raise WorkerFault("crash", "the pool is stopping")
            left = deadline - time.monotonic()
            if left <= 0:
                raise WorkerFault("timeout", f"Blender {late}")
            try:
                ready, _, _ = select.select([child.stdout], [], [], min(left, 1.0))
                data = os.read(child.stdout.fileno(), 1 << 16) if ready else None
            except (OSError, ValueError):  # closed by another thread that stops the pool
                data = b""
            if data == b"":
                raise self._death()
            self._buffer += data or b""
            if len(self._buffer) > MAX_LINE:
                raise WorkerFault("protocol", "Blender's worker wrote a line without end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> WorkerFault:
        child = self._child
        code = None
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(GRACE_S)
        if code is not None and code < 0:
            return WorkerFault("crash", f"Blender was killed by {signal.Signals(-code).name}")
        return WorkerFault("crash", f"Blender stopped with exit code {code}")


class StartError(Exception):
    """The child program cannot start at all, whatever the object; carries its last lines."""

    def __init__(self, message: str, log_lines: tuple[str, ...]) -> None:
        super().__init__(message)
        self.log = log_lines


def run(
    command: Sequence[str],
    jobs: Iterable[Job],
    work: Callable[[Worker, Job], Value],
    *,
    workers: int,
    limits: Limits,
    describe: Callable[[Job], str] = str,
) -> Generator[Outcome[Job, Value], None, None]:
    """Do all jobs with `workers` children; outcomes come in the order in which they end.

    `work(worker, job)` leads the conversation, in a thread of its slot. A user's error (`Svd3dError`) ends
    the job, a `WorkerFault` ends the child and tries the job again; anything else ends the run. Whatever
    ends the run, also closing this generator or Ctrl-C, leaves no child behind.
    """
    waiting, lock = iter(jobs), threading.Lock()
    results: queue.SimpleQueue[Outcome[Job, Value] | BaseException | None] = queue.SimpleQueue()
    stopping = threading.Event()

    def slot(worker: Worker) -> None:
        try:
            while not stopping.is_set():
                with lock:
                    job = next(waiting, results)
                if job is results:
                    break
                results.put(_attempt(worker, job, work, limits, describe, stopping))  # type: ignore[arg-type]
            worker.stop()
            results.put(None)
        except BaseException as error:  # the one broad catch: another thread must hear of it
            worker.stop()
            results.put(error)

    with tempfile.TemporaryDirectory(prefix="svd3d-render-", ignore_cleanup_errors=True) as scratch:
        slots = [Worker(command, Path(scratch) / f"worker-{i}", limits) for i in range(workers)]
        threads = [threading.Thread(target=slot, args=(worker,), daemon=True) for worker in slots]
        try:
            for thread in threads:
                thread.start()
            running = workers
            while running:
                result = results.get()
                if result is None:
                    running -= 1
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield result
        finally:
            stopping.set()
            for worker in slots:
                worker.stop(forever=True)
            for thread in threads:
                thread.join()


def _attempt(
    worker: Worker,
    job: Job,
    work: Callable[[Worker, Job], Value],
    limits: Limits,
    describe: Callable[[Job], str],
    stopping: threading.Event,
) -> Outcome[Job, Value]:
    """One job until it succeeds, is refused, or has used up its attempts."""
    start = time.monotonic()
    for attempt in range(1, limits.attempts + 1):
        worker.begin()
        try:
            value = work(worker, job)
        except WorkerFault as fault:
            lines = worker.last_words()
            worker.stop()
            if attempt < limits.attempts and not stopping.is_set():
                log.warning("%s: %s; trying again", describe(job), fault)
                continue
            times = "once" if attempt == 1 else f"{attempt} times"
            error = RenderError(f"{describe(job)}: {fault} ({times}); the object is left out")
            return Outcome(job, None, error, fault.kind, attempt, time.monotonic() - start, lines)
        except OutputError:  # a full disk is nobody's object; it ends the run, which resumes
            raise
        except Svd3dError as error:
            lines = worker.last_words()
            worker.end()
            return Outcome(job, None, error, "refused", attempt, time.monotonic() - start, lines)
        worker.end()
        return Outcome(job, value, None, "done", attempt, time.monotonic() - start)
    raise AssertionError("attempts is at least 1, so the loop returns")


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    """Signal the child and everything it started; its process group has the child's id."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
