"""Files over HTTP: whole and right when they appear, whatever the server does."""

import errno
import logging
import os
import struct
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render import fetch
from svd3d.errors import ObjectError, OutputError
from tests.render import mirror as servers
from tests.render.mirror import breaks_after, drops, ignores_range, redirects, says, status, without_length

BODY = b"0123456789abcdef" * 50_000
GLB = b"glTF" + struct.pack("<II", 2, 12 + len(BODY)) + BODY


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.01)
    with servers.serving() as mirror:
        mirror.files["/a.glb"] = GLB
        yield mirror


@pytest.fixture
def client():
    with fetch.Client(workers=4, timeout_s=5) as client:
        yield client


def refused(client, url, path, **options):
    with pytest.raises(ObjectError) as caught:
        client.file(url, path, **options)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    return caught.value.kind


def is_alone(path):
    return [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [status(500), status(502), status(503)],
        [status(429), status(429, Retry_After="0"), status(503, Retry_After="0")],
        [breaks_after(0), breaks_after(1), breaks_after(300_000)],
        [drops, drops],
        [says(servers.HTML)],
        [says(servers.XML)],
        [says(b"")],
        [says(GLB[:5000])],
        [breaks_after(300_000), ignores_range],
        [breaks_after(300_000), status(206, Content_Range="bytes 7-8/9")],
        [breaks_after(300_000), status(416)],
        [without_length],
        [redirects("/a.glb")],
    ],
)
def test_a_file_arrives_whole_whatever_happens_before(mirror, client, tmp_path, faults):
    mirror.faults["/a.glb"] = list(faults)
    path = tmp_path / "deep/a.glb"
    client.file(f"{mirror.url}/a.glb", path)
    assert path.read_bytes() == GLB
    assert is_alone(path)
    assert not mirror.faults["/a.glb"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.data())
def test_a_file_is_whole_or_absent_over_any_sequence_of_faults_and_runs(mirror, tmp_path, data):
    fault = st.one_of(
        st.integers(0, len(GLB) - 1).map(breaks_after),
        st.sampled_from(
            [drops, ignores_range, says(servers.HTML), says(GLB[:100]), status(503), status(416)]
        ),
    )
    path = tmp_path / "a.glb"
    path.unlink(missing_ok=True)
    mirror.faults["/a.glb"] = data.draw(st.lists(fault, max_size=12))
    for _ in range(14):
        with fetch.Client(workers=1, timeout_s=5) as client:
            try:
                client.file(f"{mirror.url}/a.glb", path)
                break
            except ObjectError:
                assert not path.exists()
    assert path.read_bytes() == GLB
    assert is_alone(path)


def test_a_later_run_continues_where_the_first_was_cut_off(mirror, tmp_path):
    path = tmp_path / "a.glb"
    mirror.faults["/a.glb"] = [breaks_after(600_000), *[status(500)] * (fetch.ATTEMPTS - 1)]
    with fetch.Client(workers=1, timeout_s=5) as first:
        assert refused(first, f"{mirror.url}/a.glb", path) == "unreachable"
    assert sorted(each.suffix for each in tmp_path.iterdir()) == [".part", ".part"]
    got = (tmp_path / "a.glb.part").stat().st_size
    assert 0 < got <= 600_000
    with fetch.Client(workers=1, timeout_s=5) as second:
        second.file(f"{mirror.url}/a.glb", path)
    assert mirror.requests[-1].range == f"bytes={got}-"
    assert path.read_bytes() == GLB
    assert is_alone(path)


def test_two_versions_of_a_file_are_never_mixed(mirror, client, tmp_path):
    other = GLB[:12] + BODY[::-1]
    mirror.faults["/a.glb"] = [
        breaks_after(600_000),
        lambda handler, content: (mirror.files.update({"/a.glb": other}), handler.serve(other)),
    ]
    client.file(f"{mirror.url}/a.glb", tmp_path / "a.glb")
    assert mirror.requests[-1].range is not None
    assert (tmp_path / "a.glb").read_bytes() == other


def test_nothing_is_continued_that_the_server_does_not_name(mirror, client, tmp_path):
    (tmp_path / "a.glb.part").write_bytes(b"from somewhere else")
    client.file(f"{mirror.url}/a.glb", tmp_path / "a.glb")
    assert [request.range for request in mirror.requests] == [None]
    assert (tmp_path / "a.glb").read_bytes() == GLB


@pytest.mark.parametrize(
    ("code", "kind"), [(404, "not_found"), (410, "not_found"), (401, "refused"), (403, "refused")]
)
def test_what_will_not_change_is_asked_once(mirror, client, tmp_path, code, kind):
    mirror.faults["/a.glb"] = [status(code)]
    assert refused(client, f"{mirror.url}/a.glb", tmp_path / "a.glb") == kind
    assert len(mirror.requests) == 1


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/a.glb", "file:///etc/passwd", "http:///a.glb"])
def test_only_addresses_of_the_web_are_asked(client, tmp_path, url):
    assert refused(client, url, tmp_path / "a.glb") == "refused"


@pytest.mark.parametrize("fault", [says(servers.HTML), says(servers.XML), says(GLB[:-1]), says(b"")])
def test_something_else_under_the_name_of_a_glb_is_tried_twice(mirror, client, tmp_path, fault):
    mirror.faults["/a.glb"] = [fault] * 9
    assert refused(client, f"{mirror.url}/a.glb", tmp_path / "a.glb") == "bad_download"
    assert len(mirror.requests) == 2
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_down_is_given_up(mirror, client, tmp_path):
    mirror.faults["/a.glb"] = [drops] * 99
    assert refused(client, f"{mirror.url}/a.glb", tmp_path / "a.glb") == "unreachable"
    assert len(mirror.requests) == fetch.ATTEMPTS
    assert refused(client, "http://127.0.0.1:9/a.glb", tmp_path / "a.glb") == "unreachable"


def test_a_server_that_stalls_is_given_up(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    ended = threading.Event()
    mirror.faults["/a.glb"] = [lambda handler, content: ended.wait(20)]
    with fetch.Client(workers=1, timeout_s=0.2) as client:
        assert refused(client, f"{mirror.url}/a.glb", tmp_path / "a.glb") == "unreachable"
    ended.set()


def test_a_server_that_is_busy_for_ever_is_given_up(mirror, client, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PATIENCE", 7)
    mirror.faults["/a.glb"] = [status(429)] * 99
    assert refused(client, f"{mirror.url}/a.glb", tmp_path / "a.glb") == "unreachable"
    assert len(mirror.requests) == 7


def test_digests_are_checked(mirror, client, tmp_path):
    digest = sha256(GLB).hexdigest()
    client.file(f"{mirror.url}/a.glb", tmp_path / "a.glb", sha256=digest.upper())
    url, path = f"{mirror.url}/a.glb", tmp_path / "b.glb"
    assert refused(client, url, path, sha256=digest[::-1]) == "bad_download"
    mirror.faults["/hub"] = [redirects("/a.glb", X_Linked_ETag=f'"{digest}"')]
    client.file(f"{mirror.url}/hub", tmp_path / "c.glb")
    mirror.faults["/hub"] = [redirects("/a.glb", X_Linked_ETag=f'"{digest[::-1]}"')] * 2
    assert refused(client, f"{mirror.url}/hub", path) == "bad_download"


@pytest.mark.parametrize("fault", [status(200, Content_Length="99999999"), without_length])
def test_a_file_above_the_limit_is_not_kept(mirror, client, tmp_path, fault):
    mirror.faults["/a.glb"] = [fault]
    assert refused(client, f"{mirror.url}/a.glb", tmp_path / "a.glb", max_bytes=500_000) == "too_large"
    assert len(mirror.requests) == 1
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 500_000


def test_all_threads_wait_when_the_server_asks_one_of_them(mirror, client, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    mirror.files["/b.glb"] = GLB
    mirror.faults["/a.glb"] = [status(429, Retry_After="2")]
    asked = threading.Thread(target=client.file, args=(f"{mirror.url}/a.glb", tmp_path / "a.glb"))
    asked.start()
    while not caplog.messages:
        time.sleep(0.01)
    client.file(f"{mirror.url}/b.glb", tmp_path / "b.glb")
    asked.join()
    first, *others = sorted(mirror.requests, key=lambda request: request.at)
    assert len(others) == 2
    assert all(request.at - first.at > 1.9 for request in others)
    (message,) = caplog.messages
    assert message == f"{mirror.url.removeprefix('http://')} asks to wait; going on in 2 s"


def test_closing_ends_a_wait_at_once(mirror, client, tmp_path):
    mirror.faults["/a.glb"] = [status(429, Retry_After="5000")]
    caught = []

    def fetch_it():
        try:
            client.file(f"{mirror.url}/a.glb", tmp_path / "a.glb")
        except fetch.Stopped as error:
            caught.append(error)

    thread = threading.Thread(target=fetch_it)
    thread.start()
    while not mirror.requests:
        time.sleep(0.01)
    client.close()
    thread.join(timeout=60)
    assert caught


def http_date(seconds):
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": "9" * 30}, fetch.LONGEST_WAIT_S),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": lambda: http_date(100)}, 100),
        ({"Retry-After": lambda: http_date(-100)}, fetch.BACKOFF_S),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 55),
        ({"RateLimit": '"resolvers";r=12;t=55'}, None),
        ({"Retry-After": "7", "RateLimit": '"resolvers";r=0;t=55'}, 7),
    ],
)
def test_how_servers_ask_to_wait(headers, seconds):
    headers = {name: value() if callable(value) else value for name, value in headers.items()}
    found = fetch._asked_wait_s(headers)
    assert found == (seconds if seconds is None else pytest.approx(seconds, abs=2))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_no_fault_of_the_object(mirror, client, tmp_path, monkeypatch, code):
    def full(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fetch.os, "fsync", full)
    with pytest.raises(OutputError, match="run the same command again"):
        client.file(f"{mirror.url}/a.glb", tmp_path / "a.glb")
    assert len(mirror.requests) == 1


def test_json_survives_faults_and_must_be_json(mirror, client):
    mirror.files["/list"] = lambda query: f'{{"page": {query["page"][0]}}}'.encode()
    mirror.faults["/list"] = [status(503), drops, says(servers.HTML)]
    assert client.json(f"{mirror.url}/list", params={"page": 3}) == {"page": 3}
    mirror.faults["/list"] = [says(servers.HTML)] * 9
    with pytest.raises(ObjectError, match="/list"):
        client.json(f"{mirror.url}/list", params={"page": 3})
