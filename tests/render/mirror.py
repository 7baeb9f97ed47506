"""A small web server on the loopback device that serves files and misbehaves as it is told."""

import contextlib
import hashlib
import io
import threading
import time
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

HTML = b"<!DOCTYPE html><html><body>Service is resting</body></html>"
XML = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"


@dataclass
class Request:
    path: str
    range: str | None
    at: float


@dataclass
class Mirror:
    """`files`: path to bytes, or to a function of the query. `faults`: what comes first, one a request."""

    url: str = ""
    files: dict = field(default_factory=dict)
    faults: dict = field(default_factory=lambda: defaultdict(list))
    requests: list[Request] = field(default_factory=list)

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]


@contextlib.contextmanager
def serving():
    """A running mirror."""
    mirror = Mirror()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"mirror": mirror}))
    server.daemon_threads = True
    mirror.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    mirror: Mirror
    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:  # the client has gone
            self.close_connection = True

    def do_GET(self):
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.mirror.requests.append(Request(path, self.headers.get("Range"), time.monotonic()))
        content = self.mirror.files.get(path)
        content = content(parse_qs(parts.query)) if callable(content) else content
        faults = self.mirror.faults[path]
        if faults:
            faults.pop(0)(self, content)
        elif content is None:
            self.answer(404, HTML)
        else:
            self.serve(content)

    def serve(self, content: bytes, *, upto: int | None = None, ranges: bool = True):
        """What a well-behaved server does; with `upto`, the connection breaks after so many bytes."""
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        wanted = self.headers.get("Range") if ranges else None
        if wanted and self.headers.get("If-Range", tag) == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.answer(416, b"", **{"Content-Range": f"bytes */{len(content)}"})
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[start:], upto=upto, ETag=tag, **{"Content-Range": span})
        return self.answer(200, content, upto=upto, ETag=tag)

    def answer(self, status: int, body: bytes, *, upto: int | None = None, **headers: str):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:upto])
        self.wfile.flush()
        if upto is not None:
            self.close_connection = True

    def log_message(self, format, *args):
        pass


def status(code, **headers):
    """An answer with this code and these headers (Retry_After for Retry-After)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, content: handler.answer(code, b"{}", **named)


def says(body):
    """Something else under the name of the file, with status 200."""
    return lambda handler, content: handler.answer(200, body)


def breaks_after(count):
    return lambda handler, content: handler.serve(content, upto=count)


def drops(handler, content):
    handler.close_connection = True


def ignores_range(handler, content):
    handler.serve(content, ranges=False)


def without_length(handler, content):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(content)
    handler.close_connection = True


def redirects(to, **headers):
    return status(302, Location=to, **headers)


def archive(entries, compression=zipfile.ZIP_DEFLATED):
    """A zip with these entries: name, or ready ZipInfo, to bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()
