"""The server of `svd3d curate vote`: two clips side by side on a page of this machine.

It answers to this machine only, and there only to who knows the token in its address: a page of another site
can neither read it (Host is checked, against DNS rebinding) nor vote (Origin is checked). Of the disk it
shows the films of the contest and nothing else.
"""

import errno
import hmac
import json
import logging
import mimetypes
import os
import re
import secrets
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from svd3d.curation import ballot_page
from svd3d.curation.contest import Box, Contest, Shown
from svd3d.errors import ConfigError, InputError, Svd3dError

LARGEST_BODY = 4096
"""Bytes that a request may carry."""
BLOCK = 1 << 18
"""Bytes of a film sent at a time."""
PATIENCE_S = 30
"""After which a silent connection is closed."""
_HOSTS = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_log = logging.getLogger(__name__)


class Server(ThreadingHTTPServer):
    """The ballot on 127.0.0.1. Use as a context manager; `serve_forever` serves until interrupted.

    Port 0 takes a free one. Raises `ConfigError` for a port that cannot be had.
    """

    daemon_threads = True

    def __init__(self, contest: Contest, *, voter: str, port: int = 0) -> None:
        self.box = Box(contest, voter)
        self.token = secrets.token_urlsafe(24)
        shown = [clip for task in contest.tasks for clip in (task.clip_a, task.clip_b)]
        self.films = sorted({clip.file for clip in shown})
        self._number = {file: number for number, file in enumerate(self.films)}
        self._tasks = {task.id: task for task in contest.tasks}
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port: {port} cannot be had ({error}); choose another, or 0") from error

    @property
    def url(self) -> str:
        """The address to open; it holds the token."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def next(self) -> dict[str, Any]:
        """The next task as the page wants it."""
        told = self.box.next()
        task = self._tasks.get(told["task"] or "")
        return told | {"clips": [self._played(clip) for clip in (task.clip_a, task.clip_b)] if task else []}

    def _played(self, clip: Shown) -> dict[str, Any]:
        start, end = clip.span_s or (None, None)
        return {"film": self._number[clip.file], "start": start, "end": end, "caption": clip.caption}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log why a connection broke; that a browser hangs up is no error."""
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        _log.log(level, "connection from %s ended", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "svd3d", ""
    timeout = PATIENCE_S

    def do_GET(self) -> None:
        if (place := self._place()) is None:
            return
        film = re.fullmatch(r"film/(\d{1,9})", place)
        if place == "":
            nonce = secrets.token_urlsafe(16)
            self._send(ballot_page.html(nonce), "text/html; charset=utf-8", policy=_policy(nonce))
        elif place == "task":
            self._send_json(self.server.next())
        elif film and int(film[1]) < len(self.server.films):
            self._send_film(self.server.films[int(film[1])])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing here")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.close_connection = True  # a body that is refused is not read
        if (place := self._place()) is None:
            return
        if self.headers["Origin"] != f"http://{self.headers['Host']}":
            return self._refuse(HTTPStatus.FORBIDDEN, "votes come from the page of this server only")
        if self.headers.get_content_type() != "application/json":
            return self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers["Content-Length"] or ""
        if not re.fullmatch(r"\d{1,9}", length):
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if int(length) > LARGEST_BODY:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {LARGEST_BODY} bytes")
        try:
            body = json.loads(self.rfile.read(int(length)))
            task, winners = body["task"], body.get("winners")
            if not isinstance(task, str) or not _is_text(winners):
                raise TypeError("task and winners must be text")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, f"not a vote: {error}")
        try:
            if place == "vote":
                self.server.box.vote(task, winners or {})
            elif place == "skip":
                self.server.box.skip(task)
            else:
                return self._refuse(HTTPStatus.NOT_FOUND, "nothing here")
        except Svd3dError as error:
            wrong = type(error) is InputError
            status = HTTPStatus.BAD_REQUEST if wrong else HTTPStatus.INSUFFICIENT_STORAGE
            return self._refuse(status, str(error))
        self._send_json(self.server.next())

    def _place(self) -> str | None:
        """What is asked for below the token; None when the request has been refused."""
        if not _HOSTS.fullmatch(self.headers["Host"] or ""):
            return self._refuse(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 only")
        _, token, *rest = [*urlsplit(self.path).path.split("/"), ""]
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            return self._refuse(HTTPStatus.FORBIDDEN, "open the address that svd3d curate vote has printed")
        return "/".join(rest).removesuffix("/")

    def _send_film(self, path: Path) -> None:
        """A film or the part of it that a browser asks for when it seeks (RFC 9110, one range)."""
        try:
            file = _open_film(path)
        except OSError as error:
            return self._refuse(HTTPStatus.NOT_FOUND, f"this film cannot be read ({error.strerror})")
        with file:
            size = os.fstat(file.fileno()).st_size
            part = _part(self.headers["Range"], size)
            if part is None:
                headers = {"Content-Range": f"bytes */{size}"}
                return self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "no such bytes", headers)
            start, end = part
            whole = (start, end) == (0, size)
            headers = {} if whole else {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
            headers |= {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
            status = HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT
            self._head(status, _film_type(path), headers)
            if self.command != "HEAD":
                file.seek(start)
                left = end - start
                while left and (block := file.read(min(BLOCK, left))):
                    self.wfile.write(block)
                    left -= len(block)
                self.close_connection |= left > 0  # the file has shrunk meanwhile

    def _send_json(self, content: Mapping[str, Any]) -> None:
        self._send(json.dumps(content), "application/json")

    def _send(self, text: str, kind: str, *, policy: str = "default-src 'none'") -> None:
        data = text.encode()
        headers = {"Content-Length": str(len(data)), "Content-Security-Policy": policy}
        self._head(HTTPStatus.OK, kind, headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: HTTPStatus, why: str, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps({"error": why}).encode()
        self._head(status, "application/json", {"Content-Length": str(len(data)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _head(self, status: HTTPStatus, kind: str, headers: Mapping[str, str]) -> None:
        always = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        always |= {"Referrer-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin"}
        self.send_response(status)
        for name, value in {"Content-Type": kind, **always, **headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)


def _policy(nonce: str) -> str:
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _is_text(winners: Any) -> bool:
    """Whether these are winners by axis, or none at all."""
    return winners is None or (
        isinstance(winners, dict) and all(isinstance(w, str) for w in winners.values())
    )


def _open_film(path: Path) -> BinaryIO:
    """Open a regular file; a pipe or device would hang or never end."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return open(path, "rb")


def _part(asked: str | None, size: int) -> tuple[int, int] | None:
    """Start and end of the bytes to send; None for a range outside the file.

    Anything but one valid range asks for all of it, as RFC 9110 lets a server answer.

    >>> _part("bytes=2-5", 10), _part("bytes=7-", 10), _part("bytes=-3", 10), _part("bytes=0-1,4-5", 10)
    ((2, 6), (7, 10), (7, 10), (0, 10))
    >>> _part("bytes=10-", 10) is None
    True
    """
    found = _RANGE.fullmatch(asked or "")
    first, last = (found[1], found[2]) if found else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        return 0, size
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
    else:
        start, end = max(size - int(last), 0), size
    return (start, end) if start < end else None


def _film_type(path: Path) -> str:
    """The media type by the name; QuickTime goes as MP4, which it is to a browser."""
    if path.suffix.lower() in (".mov", ".m4v"):
        return "video/mp4"
    kind, _ = mimetypes.guess_type(path.name)
    return kind if kind and kind.startswith("video/") else "application/octet-stream"
