"""Files over HTTP that are whole when they appear: resumed, verified, and never faster than the server asks.

A file grows as NAME.part beside its place; NAME.etag.part holds what the server calls this version of it,
so that a later run continues only the same file. It is renamed when it has been verified.
"""

import contextlib
import email.utils
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError, ContentDecodingError, JSONDecodeError

from render import objects
from svd3d import console, runs
from svd3d.errors import ObjectError, OutputError

log = logging.getLogger(__name__)
T = TypeVar("T")
ATTEMPTS = 5
"""Broken connections and server errors in a row after which a file is given up."""
PATIENCE = 100
"""How often a server may ask to wait for one file."""
BACKOFF_S = 1.0
"""Pause after the first fault; it doubles with every further one."""
LONGEST_WAIT_S = 86_400.0
BLOCK = 1 << 18
MAGIC = {".glb": b"glTF", ".zip": b"PK\x03\x04", ".gz": b"\x1f\x8b", ".parquet": b"PAR1"}
TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
    ChunkedEncodingError,
    ContentDecodingError,
    JSONDecodeError,
)
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
RATE_LIMIT = re.compile(r"\br=0;\s*t=(\d+)")
"""The header RateLimit of a used-up budget: nothing remains (r) until some seconds have passed (t)."""


class Stopped(Exception):
    """The client was closed while this thread used it."""


class _Fault(Exception):
    """A failure that may pass: try again."""


class _Busy(Exception):
    """The server asks to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Client:
    """One session for all threads of a download. Closing it ends their waits and transfers."""

    def __init__(self, *, workers: int, timeout_s: float) -> None:
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": "svd3d", "Accept-Encoding": "identity"})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=workers))
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._open: set[requests.Response] = set()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all transfers, also from servers that have fallen silent; other threads get `Stopped`."""
        self._closed.set()
        with self._lock:
            for response in self._open:
                with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has just ended by itself
                    response.raw.shutdown()
        self._session.close()

    def json(self, url: str, *, params: Mapping[str, str | int]) -> Any:
        """The JSON that a URL answers with. Raises `ObjectError` like `file`."""

        def once() -> Any:
            with self._get(url, params=params) as response:
                return response.json()

        return self._persistently(url, once)

    def file(self, url: str, path: Path, *, sha256: str | None = None, max_bytes: float = math.inf) -> None:
        """Fetch a file, going on with what an earlier call left behind.

        Raises `OutputError` when it cannot be written, and `ObjectError` with the kind `not_found`,
        `refused`, `unreachable`, `too_large`, or `bad_download` for something else than the file.
        """
        part = path.with_name(f"{path.name}.part")
        with _writing(part):
            path.parent.mkdir(parents=True, exist_ok=True)
        for again in (True, False):
            promised = self._persistently(url, lambda: self._continue(url, part, max_bytes))
            try:
                verify(part, kind=path.suffix.lower(), origin=url, sha256=sha256 or promised)
                break
            except ObjectError:
                _forget(part)
                if not again:
                    raise
        with _writing(path):
            os.replace(part, path)
            _version_of(part).unlink(missing_ok=True)

    def _persistently(self, url: str, once: Callable[[], T]) -> T:
        """Call `once` until it succeeds, waiting as long as the server asks, or give up after a while."""
        faults = waits = 0
        while True:
            self._wait_until_free()
            try:
                return once()
            except _Busy as busy:
                waits += 1
                if waits == PATIENCE:
                    raise ObjectError(
                        f"{url}: the server was busy {waits} times; run the same command again later",
                        kind="unreachable",
                    ) from busy
                self._hold(urlsplit(url).netloc, busy.seconds)
            except (_Fault, *TRANSIENT) as error:
                faults += 1
                if faults == ATTEMPTS:
                    raise ObjectError(
                        f"{url}: {_reason(error)}, {faults} times; "
                        "check the network and run the same command again",
                        kind="unreachable",
                    ) from error
                self._closed.wait(BACKOFF_S * 2 ** (faults - 1))
            except requests.RequestException as error:
                raise ObjectError(
                    f"{url}: cannot be asked for ({error}); leave it out", kind="refused"
                ) from error

    def _hold(self, host: str, seconds: float) -> None:
        """Let no thread send anything for a while."""
        with self._lock:
            until = monotonic() + seconds
            if until > self._free_at + 1:
                log.warning("%s asks to wait; going on in %s", host, console.duration(seconds))
            self._free_at = max(self._free_at, until)

    def _wait_until_free(self) -> None:
        while (left := self._free_at - monotonic()) > 0 and not self._closed.wait(left):
            pass
        if self._closed.is_set():
            raise Stopped

    @contextlib.contextmanager
    def _get(self, url: str, **options: Any) -> Iterator[requests.Response]:
        """An answer that holds content, or 416; any other is raised."""
        with (
            self._session.get(url, stream=True, timeout=self._timeout_s, **options) as response,
            self._watched(response),
        ):
            status = response.status_code
            asked_s = _asked_wait_s(response.headers)
            if status == 429 or (status == 503 and asked_s is not None):
                raise _Busy(BACKOFF_S if asked_s is None else asked_s)
            if status in (404, 410):
                raise ObjectError(
                    f"{url}: is not there (HTTP {status}); it was removed, or the address is wrong",
                    kind="not_found",
                )
            if status == 408 or status >= 500:
                raise _Fault(f"HTTP {status}")
            if status not in (200, 206, 416):
                raise ObjectError(
                    f"{url}: is refused (HTTP {status}); leave it out or check the address", kind="refused"
                )
            yield response

    @contextlib.contextmanager
    def _watched(self, response: requests.Response) -> Iterator[None]:
        """Let `close` end this answer."""
        with self._lock:
            self._open.add(response)
        try:
            if self._closed.is_set():
                raise Stopped
            yield
        finally:
            with self._lock:
                self._open.remove(response)

    def _continue(self, url: str, part: Path, max_bytes: float) -> str | None:
        """Fetch what `part` lacks. Returns the SHA-256 that the server promises for the whole, if any."""
        noted = _version_of(part)
        have = part.stat().st_size if part.exists() and noted.exists() else 0
        version = noted.read_text("utf-8") if have else ""
        headers = {"Range": f"bytes={have}-", "If-Range": version} if version else {}
        with self._get(url, headers=headers) as response, _writing(part):
            start, total = _extent(response)
            now = _version(response.headers)
            if response.status_code != 200 and (start != have or now != version):
                _forget(part)
                raise _Fault(f"the server cannot continue at byte {have}")
            if total is not None and total > max_bytes:
                raise _too_large(url, total, max_bytes)
            if start == 0:
                _forget(part)  # before the note changes, or a kill now would leave it beside an older part
                noted.write_text(now, "utf-8")
            with open(part, "ab" if start else "wb") as file:
                for block in response.iter_content(BLOCK):
                    if self._closed.is_set():
                        raise Stopped
                    if file.tell() + len(block) > max_bytes:
                        raise _too_large(url, file.tell() + len(block), max_bytes)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
                if total is not None and file.tell() != total:
                    raise _Fault(f"{file.tell()} of {total} bytes arrived")
            return _promised_sha256(response)


def verify(path: Path, *, kind: str, origin: str | Path, sha256: str | None = None) -> None:
    """Raise `ObjectError` (bad_download) unless a file is what its kind (.glb, .zip, …) promises.

    Checked: how it begins, the length that a GLB states, and the digest where one is known.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    size = path.stat().st_size
    magic = MAGIC.get(kind, b"")
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    foreign = next((what for begin, _, what in objects.FOREIGN if text.startswith(begin.lower())), None)
    reason = None
    if not start:
        reason = "the file is empty; try it again later"
    elif not start.startswith(magic) or (foreign and not magic):
        reason = f"not a {kind} file but {foreign or f'something that starts with {start[:12]!r}'}"
    elif kind == ".glb" and size < (stated := int.from_bytes(start[8:12], "little")):
        reason = f"truncated ({size} of {stated} bytes); try it again later"
    elif sha256 is not None and (found := runs.sha256(path)) != sha256.lower():
        reason = f"sha256 is {found[:12]}…, expected {sha256[:12]}…; the object has changed at its source"
    if reason:
        raise ObjectError(f"{origin}: {reason}", kind="bad_download")


def _reason(error: BaseException) -> str:
    """What went wrong in a few words: those of the exception that all others are wrapped around."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """The first byte that is sent (-1 if that is unclear) and the length of the whole file, if known."""
    headers = response.headers
    if response.status_code == 200:
        length = headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() and "Content-Encoding" not in headers else None
    found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if not found:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _version(headers: Mapping[str, str]) -> str:
    """What the server calls this version of a file, in a form that If-Range accepts; empty if it does not."""
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag


def _promised_sha256(response: requests.Response) -> str | None:
    """The digest that the Hugging Face hub states when it redirects to a large file."""
    for step in response.history:
        tag = step.headers.get("X-Linked-ETag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", tag):
            return tag
    return None


def _asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: Retry-After (seconds or a date), or an empty budget (RateLimit)."""
    asked = headers.get("Retry-After", "").strip()
    budget = RATE_LIMIT.search(headers.get("RateLimit", ""))
    if asked.isdecimal() or (budget and not asked):
        seconds = float(budget[1] if budget and not asked else asked)
    else:
        try:
            date = email.utils.parsedate_to_datetime(asked)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, BACKOFF_S), LONGEST_WAIT_S)


def _version_of(part: Path) -> Path:
    """The note beside a part that tells of which version it is."""
    return part.with_name(f"{part.stem}.etag.part")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_of(part).unlink(missing_ok=True)


def _too_large(url: str, size: int, limit: float) -> ObjectError:
    return ObjectError(f"{url}: {size:.4g} bytes are more than {limit:.4g}; raise max_mb", kind="too_large")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into an `OutputError`; what the network does passes through."""
    try:
        yield
    except requests.RequestException:
        raise
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "free some space or choose another --out, then run the same command again, it resumes"
        ) from error
