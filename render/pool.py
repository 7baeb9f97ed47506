"""Supervised child processes that speak JSON lines: one per slot, kept alive over many objects.

A child is any program that prints `{"kind": "ready"}` and then answers every request line on its stdin
with lines of kind `progress`, and one of kind `done` or `error`. It may crash, hang, lie or grow at any
time: the slot stops its whole process group and starts a new one, and the object goes back to the end of
the queue, a limited number of times. Nothing is shared between slots, so one crash costs one object's
time and no more. What is nobody's object ends the run: a full disk, a missing device, a program that
does not start.
"""

import collections
import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import queue
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from svd3d.errors import ConfigError, OutputError, RenderError, Svd3dError

log = logging.getLogger(__name__)
Job = TypeVar("Job")
Value = TypeVar("Value")
START_AGAIN_S = (1.0, 4.0, 16.0)
"""Pauses before a child that failed to start is started again, if the program is known to work."""
GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""
WATCH_S = 1.0
"""Between two looks at the memory of a child."""
WAKE_S = 1.0
"""How long the thread that leads a pool sleeps at most: Ray cannot wake it to cancel its task."""
MAX_LINE = 1 << 20
LEAST_FREE = 16 << 20
"""Bytes: a scratch disk with less is full, and whatever failed did so for that reason."""
FULL = (errno.ENOSPC, errno.EDQUOT)
INHERITED = re.compile(
    "PATH|LANG|LC_.*|TZ|LD_LIBRARY_PATH|DISPLAY|(OMP|CUDA|NVIDIA|OPTIX|HIP|ROCR|HSA|ONEAPI|ZE)_.*"
)
"""Variables that a child gets; no secrets, and nothing that changes a picture, such as OCIO."""
KIND = re.compile("[a-z_]{1,40}")
"""What a child may name the class of its error."""
HALTS = {"device": ConfigError, "output": OutputError}
"""Classes of a child's error that are nobody's object, and end the run."""
SCRATCH = "svd3d-render-"
WORKER = re.compile(r"worker-\d+")
"""Folders of the slots; scratch holds nothing else, and what holds something else is not scratch."""
SAYS_NOTHING = "Error: script failed"
"""How Blender ends after the traceback that tells."""
LOG_LINES = 20


class WorkerFault(Exception):
    """The child broke the conversation; `kind` is crash, timeout, memory or protocol."""

    def __init__(self, kind: str, message: str, *, signal_name: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.signal_name = kind, signal_name


class StartError(Exception):
    """The child program cannot start at all, whatever the object; carries its last lines."""

    def __init__(self, message: str, log_lines: tuple[str, ...]) -> None:
        super().__init__(message)
        self.log = log_lines


@dataclass(frozen=True)
class Limits:
    """When a child is stopped, replaced, and when an object is given up."""

    timeout_s: float
    """Per object and attempt, wall clock."""
    attempts: int = 3
    memory_mb: float = 8000.0
    """A child above this resident size is stopped; above half of it, replaced after its object."""
    recycle_after: int = 100
    """Objects per child; Blender keeps a little of each."""
    start_s: float = 180.0
    """A child must be ready by then; a cold disk needs ten seconds, a busy machine more."""
    silence_s: float = math.inf
    """A child that says nothing for so long hangs."""


@dataclass(frozen=True)
class Outcome(Generic[Job, Value]):
    """What came of one attempt at a job: a value, or an error with its class and the child's last lines."""

    job: Job
    value: Value | None
    error: Svd3dError | None
    kind: str
    """done, the class of the error by which it was refused, or crash, timeout, memory, protocol."""
    attempt: int
    """From 1, counted over earlier runs too."""
    final: bool
    """False when the job went back to the end of the queue and another outcome will follow."""
    seconds: float
    stage: str
    """What the child was asked last (the request's `do`); start while it started, check before that."""
    signal: str | None = None
    """What killed the child, such as SIGSEGV."""
    log: tuple[str, ...] = ()


class Worker:
    """One slot: starts its child when first asked, and gives each attempt a deadline."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        limits: Limits,
        *,
        name: str,
        environment: Mapping[str, str],
        proven: threading.Event,
    ) -> None:
        self.folder = folder
        """Scratch space of this slot; also home and temporary folder of its children."""
        self.stage = "check"
        self.name = name
        """What its child is called in messages."""
        self._command, self._limits, self._proven = list(command), limits, proven
        self._environment = dict(environment)
        self._log = folder / "log.txt"
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._served, self._log_start = 0, 0
        self._deadline, self._next_look = 0.0, 0.0
        self._lock, self._stopped = threading.Lock(), threading.Event()
        folder.mkdir(parents=True)

    def begin(self) -> None:
        """Start the clock and the log of one attempt."""
        self._deadline = time.monotonic() + self._limits.timeout_s
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self.stage = "check"

    def ask(
        self, request: dict[str, Any], on_progress: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises `RenderError` when the child refuses the object, with the child's class as its kind;
        `WorkerFault` when the child dies, takes longer or more memory than it may, or says something that
        is not an answer; `OutputError` when its disk is full, and `ConfigError` when it lacks the device.
        """
        child = self._alive()
        self.stage = str(request.get("do", "ask"))
        assert child.stdin is not None, "the child was started with a pipe"
        try:
            child.stdin.write(json.dumps(request, allow_nan=False).encode() + b"\n")
            child.stdin.flush()
        except OSError:
            raise self._death() from None
        while True:
            answer = self._answer()
            match answer.get("kind"):
                case "progress":
                    if on_progress is not None:
                        on_progress(answer)
                case "done":
                    return answer
                case "error":
                    raise self._refusal(answer)
                case kind:
                    raise WorkerFault(
                        "protocol", f"{self.name}'s worker answered {kind!r:.60}, which is no answer"
                    )

    def _answer(self) -> dict[str, Any]:
        silence_s = self._limits.silence_s
        if (silent := time.monotonic() + silence_s) < self._deadline:
            return self._read(silent, f"said nothing for {silence_s:g} s")
        return self._read(self._deadline, f"took longer than {self._limits.timeout_s:g} s")

    def end(self) -> None:
        """Count one object, and replace the child when it is old or large."""
        self._served += 1
        size = resident_mb(self._child.pid) if self._child else 0.0
        if self._served >= self._limits.recycle_after or size > self._limits.memory_mb / 2:
            log.info("replacing %s after %d objects, %.0f MB", self.name, self._served, size)
            self.stop()

    def last_words(self) -> tuple[str, ...]:
        """The last lines that the child wrote during this attempt."""
        if not self._log.exists():
            return ()
        with open(self._log, "rb") as file:
            file.seek(max(self._log_start, self._log.stat().st_size - (1 << 16)))
            text = file.read().decode("utf-8", "replace")
        said = (line for line in text.splitlines() if line.strip() and not line.startswith(SAYS_NOTHING))
        return tuple(collections.deque(said, maxlen=LOG_LINES))

    @property
    def is_ending(self) -> bool:
        """Whether its child was stopped for ever, so that what it did last is nobody's fault."""
        return self._stopped.is_set()

    def check_disk(self) -> None:
        """Raise `OutputError` if next to nothing is left where the child writes."""
        if shutil.disk_usage(self.folder).free < LEAST_FREE:
            raise _full_disk(self.folder.parent)

    def stop(self, *, forever: bool = False) -> None:
        """Stop the child and everything it started; `forever` also refuses to start another."""
        if forever:
            self._stopped.set()
        with self._lock:
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
        """The child, started if there is none. Starting it is not the object's fault nor on its time."""
        if self._child is not None:
            return self._child
        self.stage, began = "start", time.monotonic()
        for pause in (*START_AGAIN_S, None):
            try:
                child = self._start()
            except WorkerFault as fault:
                words = self.last_words()
                self.stop()
                self.check_disk()
                if pause is None or not (self._proven.is_set() or fault.signal_name):
                    raise StartError(str(fault), words) from fault
                log.warning("%s while it started; starting it again in %g s", fault, pause)
                if self._stopped.wait(pause):
                    raise WorkerFault("crash", "the pool is stopping") from fault
            else:
                self._proven.set()
                self._deadline += time.monotonic() - began
                return child
        raise AssertionError("the last pause is None, so the loop raises")

    def _start(self) -> subprocess.Popen[bytes]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        own = ("HOME", "TMPDIR", "BLENDER_USER_RESOURCES", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
        inherited = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
        with self._lock, open(self._log, "ab") as log_file:
            if self._stopped.is_set():
                raise WorkerFault("crash", "the pool is stopping")
            try:
                self._child = child = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log_file,
                    cwd=home,
                    env={**inherited, **dict.fromkeys(own, str(home)), **self._environment},
                    start_new_session=True,
                )
            except OSError as error:  # no such program, or the machine has no process left to give
                raise WorkerFault(
                    "crash", f"{self._command[0]} cannot be started ({error.strerror})"
                ) from error
        self._buffer, self._served = b"", 0
        deadline = time.monotonic() + self._limits.start_s
        while self._read(deadline, "did not start", noise=True).get("kind") != "ready":
            pass
        return child

    def _read(self, deadline: float, late: str, *, noise: bool = False) -> dict[str, Any]:
        """The next line of the child as JSON; with `noise`, lines that are not JSON are passed over."""
        while True:
            line = self._line(deadline, late)
            try:
                answer = json.loads(line)
            except (ValueError, RecursionError):
                answer = None
            if isinstance(answer, dict):
                return answer
            if not noise:
                raise WorkerFault(
                    "protocol", f"{self.name}'s worker wrote {line[:60]!r} instead of an answer"
                )

    def _line(self, deadline: float, late: str) -> bytes:
        while b"\n" not in self._buffer:
            child = self._child
            if child is None or child.stdout is None:
                raise WorkerFault("crash", "the pool is stopping")
            left = deadline - time.monotonic()
            if left <= 0:
                raise WorkerFault("timeout", f"{self.name} {late}")
            self._watch(child)
            try:
                ready, _, _ = select.select([child.stdout], [], [], min(left, WATCH_S))
                data = os.read(child.stdout.fileno(), 1 << 16) if ready else None
            except (OSError, ValueError):  # closed by another thread that stops the pool
                data = b""
            if data == b"":
                raise self._death()
            self._buffer += data or b""
            if len(self._buffer) > MAX_LINE:
                raise WorkerFault("protocol", f"{self.name}'s worker wrote a line without end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + WATCH_S
        if (size := resident_mb(child.pid)) > self._limits.memory_mb:
            limit = f"memory_mb {self._limits.memory_mb:g}"
            raise WorkerFault("memory", f"{self.name} took {size:.0f} MB, more than {limit}")

    def _refusal(self, answer: dict[str, Any]) -> Svd3dError:
        """The error that the child reports, as an error of ours."""
        message, kind = str(answer.get("message"))[:500], str(answer.get("class"))
        if answer.get("errno") in FULL:
            return _full_disk(self.folder.parent)
        if kind in HALTS:
            return HALTS[kind](message)
        return RenderError(message, kind=kind if KIND.fullmatch(kind) else "refused")

    def _death(self) -> WorkerFault:
        child = self._child
        code = None
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(GRACE_S)
        if code is None or code >= 0:
            return WorkerFault("crash", f"{self.name} stopped with exit code {code}")
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        return WorkerFault("crash", f"{self.name} was killed by {name}", signal_name=name)


def run(
    command: Sequence[str],
    jobs: Iterable[Job],
    work: Callable[[Worker, Job], Value],
    *,
    workers: int,
    limits: Limits,
    name: str = "Blender",
    environment: Mapping[str, str] | None = None,
    describe: Callable[[Job], str] = str,
    attempts_before: Callable[[Job], int] = lambda job: 0,
) -> Generator[Outcome[Job, Value], None, None]:
    """Do all jobs with `workers` children; yields the outcome of every attempt, in the order they end.

    A child is called `name` in messages, and gets `environment` besides what all children get.
    `work(worker, job)` leads the conversation, in a thread of its slot. A user's error (`Svd3dError`) ends
    the job; a `WorkerFault` ends the child, and the job goes back to the end of the queue until it has used
    up its attempts, those before this run included. `OutputError`, `ConfigError`, `StartError` and anything
    else end the run. Whatever ends it, also closing this generator or Ctrl-C, leaves no child behind.
    """
    waiting, lock = ((job, attempts_before(job) + 1) for job in jobs), threading.Lock()
    again: collections.deque[tuple[Job, int]] = collections.deque()
    results: queue.SimpleQueue[Outcome[Job, Value] | BaseException | None] = queue.SimpleQueue()
    stopping, proven = threading.Event(), threading.Event()

    def take() -> tuple[Job, int] | None:
        with lock:
            return next(waiting, None) or (again.popleft() if again else None)

    def slot(worker: Worker) -> None:
        try:
            while not stopping.is_set() and (taken := take()):
                outcome = _attempt(worker, *taken, work, limits, describe)
                results.put(outcome)  # first, so that outcomes of one job stay in order
                if not outcome.final:
                    again.append((outcome.job, outcome.attempt + 1))
            worker.stop()
            results.put(None)
        except BaseException as error:  # the one broad catch: another thread must hear of it
            worker.stop()
            results.put(error)

    with _scratch() as scratch:
        about = {"name": name, "environment": environment or {}, "proven": proven}
        slots = [Worker(command, scratch / f"worker-{i}", limits, **about) for i in range(workers)]
        threads = [threading.Thread(target=slot, args=(worker,), daemon=True) for worker in slots]
        try:
            for thread in threads:
                thread.start()
            running = workers
            while running:
                try:
                    result = results.get(timeout=WAKE_S)
                except queue.Empty:
                    continue
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
    attempt: int,
    work: Callable[[Worker, Job], Value],
    limits: Limits,
    describe: Callable[[Job], str],
) -> Outcome[Job, Value]:
    """One attempt at a job."""
    start = time.monotonic()

    def outcome(kind: str, *, final: bool = True, **found: Any) -> Outcome[Job, Value]:
        told = {"value": None, "error": None, **found}
        seconds = time.monotonic() - start
        return Outcome(
            job, kind=kind, attempt=attempt, final=final, seconds=seconds, stage=worker.stage, **told
        )

    try:
        worker.begin()
        value = work(worker, job)
    except WorkerFault as fault:
        lines = worker.last_words()
        worker.stop()
        worker.check_disk()
        final = attempt >= limits.attempts
        times = f"attempt {attempt} of {max(attempt, limits.attempts)}"
        words = f"; its last words: {lines[-1][:120]!r}" if lines else ""
        fate = "it is left out" if final else "it will be tried again"
        error = RenderError(
            f"{describe(job)}: {fault} at {worker.stage} ({times}{words}); {fate}", kind=fault.kind
        )
        if not worker.is_ending:
            log.log(logging.INFO if final else logging.WARNING, "%s", error)
        return outcome(fault.kind, final=final, error=error, signal=fault.signal_name, log=lines)
    except (OutputError, ConfigError):
        raise
    except Svd3dError as error:
        worker.check_disk()
        lines = worker.last_words()
        worker.end()
        return outcome(getattr(error, "kind", "refused"), error=error, log=lines)
    except OSError as error:
        if error.errno in FULL:
            raise _full_disk(worker.folder.parent) from error
        raise
    worker.end()
    return outcome("done", value=value)


def sweep() -> None:
    """Remove the scratch folders that killed processes left behind; every run begins with it."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        with _locked(left) as ours:
            if ours and all(WORKER.fullmatch(name) for name in os.listdir(left)):
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for the slots, named after this process, and locked while it lives."""
    sweep()
    parent = Path(tempfile.gettempdir())
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir=parent))
        except OSError as error:
            raise OutputError(
                f"{parent}: no scratch folder can be made ({error.strerror}); free some space or set TMPDIR"
            ) from error
        with _locked(folder) as ours:
            if not ours:  # another process that starts now took it for a leftover
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Try to hold a folder until the end of the block, or of this process however it ends."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone, or another user's
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = folder.exists()
        except BlockingIOError:
            ours = False
        yield ours
    finally:
        os.close(descriptor)


def resident_mb(group: int) -> float:
    """Resident memory of all processes of a process group; 0 where the system has no /proc."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):  # it may end while we look
            fields = stat.read_bytes().rpartition(b")")[2].split()  # from field 3 of proc_pid_stat(5)
            pages += int(fields[21]) if int(fields[2]) == group else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _full_disk(folder: Path) -> OutputError:
    return OutputError(
        f"{folder}: the scratch disk is full; free some space, or set TMPDIR to another disk, "
        "and run the same command again, it resumes"
    )


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    """Signal the child and everything it started; its process group has the child's id."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
