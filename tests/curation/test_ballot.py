import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from html import escape
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd3d.curation import ballot, contest, elo, table
from svd3d.curation.elo import PROMPT, QUALITY
from svd3d.errors import ConfigError, InputError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FILM = bytes(np.random.default_rng(0).integers(256, size=600_000, dtype=np.uint8))
NAME = 'a "b" <i>\n.mp4'
"""A name that no page may take for HTML."""


def clip(number, video="one.mp4", **scores):
    return table.Clip(
        id=f"clip-{number}", video=video, video_id="one", clip=number, start_frame=10 * number,
        end_frame=10 * number + 10, start_s=0.4 * number, end_s=0.4 * number + 0.4, fps=25.0, width=64,
        height=36, **scores,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Sixteen clips with scores from low to high, two of them written as files of their own."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/one.mp4").write_bytes(FILM)
    (tmp_path / "videos" / NAME).write_bytes(b"0123456789")
    (tmp_path / "out/clips").mkdir(parents=True)
    (tmp_path / "out/clips/three.mp4").write_bytes(b"three")
    clips = [
        clip(
            number,
            video=NAME if number % 2 else "one.mp4",
            file="clips/three.mp4" if number == 3 else None,
            motion=float(number),
            text_area=number / 100,
            caption_image=f"image {number}",
            caption_merged=f"</script><b>{number}" if number != 5 else None,
        )
        for number in range(16)
    ]
    facts = {"videos": str(tmp_path / "videos"), "not_computed": {"aesthetic": "no weights"}}
    table.write(tmp_path / "out" / table.NAME, clips, facts=lambda: facts)
    return tmp_path / "out"


def serving(drawn, voter="ann"):
    server = ballot.Server(drawn, voter=voter)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    return server, thread


@pytest.fixture
def server(folder):
    server, thread = serving(contest.draw(folder, tasks=4))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(url, **headers):
    """Status, headers and body, also of a refusal."""
    try:
        with urlopen(Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.headers, refusal.read()


def post(url, place, body, **headers):
    parts = urlsplit(url)
    always = {"Origin": f"{parts.scheme}://{parts.netloc}", "Content-Type": "application/json"}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(url + place, data, {**always, **headers})
    try:
        with urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read())


def raw(url, path, method="GET", **headers):
    """Status and body, asked for byte by byte: other clients tidy a path up or refuse it."""
    parts = urlsplit(url)
    head = {"Host": parts.netloc, "Connection": "close", **headers}
    told = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{key}: {word}\r\n" for key, word in head.items())
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"{told}\r\n".encode())
        answer, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    return int(answer.split()[1]), body


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# What is drawn


def test_groups_are_what_select_leaves(folder):
    drawn = contest.draw(folder, tasks=60)
    left = {"motion: drop 0 %": 0, "motion: drop 12.5 %": 2, "motion: drop 25 %": 4, "motion: drop 50 %": 8}
    seen = {name: set() for name in left}
    for task in drawn.tasks:
        assert task.clip_a.id != task.clip_b.id
        seen[task.a].add(int(task.clip_a.id[5:]))
        seen[task.b].add(int(task.clip_b.id[5:]))
    assert seen == {name: set(range(first, 16)) for name, first in left.items()}
    pairs = Counter(frozenset((task.a, task.b)) for task in drawn.tasks)
    assert set(pairs.values()) == {60}
    assert len(pairs) == 6
    assert len({task.id for task in drawn.tasks}) == 360
    on_the_left = Counter(task.a for task in drawn.tasks)
    assert all(60 < count < 120 for count in on_the_left.values())  # of 180


def test_of_text_the_largest_area_goes(folder):
    drawn = contest.draw(folder, by="text_area", thresholds=[0.5, 0], tasks=30)
    clean = {int(t.clip_a.id[5:]) for t in drawn.tasks if t.a.endswith("drop 50 %")}
    assert clean
    assert max(clean) < 8
    assert drawn.votes == folder / "votes-text_area.jsonl"


def test_the_seed_decides_and_few_clips_give_few_tasks(folder):
    assert contest.draw(folder, seed=1) == contest.draw(folder, seed=1) != contest.draw(folder, seed=2)
    table.write(folder / table.NAME, [clip(1, motion=1.0, file="clips/three.mp4"), clip(2, motion=2.0,
                file="clips/three.mp4")], facts=dict)  # fmt: skip
    (only,) = {frozenset((t.clip_a.id, t.clip_b.id)) for t in contest.draw(folder, thresholds=[0, 0.5]).tasks}
    assert only == {"clip-1", "clip-2"}


def test_what_is_shown_of_a_clip(folder):
    shown = {c.id: c for t in contest.draw(folder, tasks=60).tasks for c in (t.clip_a, t.clip_b)}
    assert shown["clip-3"].file == folder / "clips/three.mp4"
    assert shown["clip-3"].span_s is None
    assert shown["clip-2"].file == folder.parent / "videos/one.mp4"
    assert shown["clip-2"].span_s == (0.8, 1.2000000000000002)
    assert (shown["clip-4"].caption, shown["clip-5"].caption) == ("</script><b>4", "image 5")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"by": "beauty"}, "by: 'beauty' is no score to vote on; choose one of motion, aesthetic"),
        ({"thresholds": [0.5]}, "not two or more different shares"),
        ({"thresholds": [0, 1.0]}, "not two or more different shares"),
        ({"thresholds": [0, 0.01]}, "make 1 different groups of 16 clips"),
        ({"by": "aesthetic"}, "0 clips have a aesthetic (no weights); vote by another score"),
    ],
)
def test_contests_that_cannot_be(folder, settings, words):
    with pytest.raises((ConfigError, InputError)) as caught:
        contest.draw(folder, **settings)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["../videos/one.mp4", "/etc/passwd", "clips/../../videos/one.mp4"])
def test_a_table_cannot_name_files_elsewhere(folder, name):
    clips = [clip(number, motion=float(number), file=name) for number in range(2)]
    table.write(folder / table.NAME, clips, facts=dict)
    with pytest.raises(InputError, match="lies outside"):
        contest.draw(folder, thresholds=[0, 0.5])


def test_a_film_that_is_gone_is_named(folder):
    (folder.parent / "videos/one.mp4").unlink()
    with pytest.raises(InputError, match=r"one\.mp4: no such film of clip 'clip-\d+'; the nearest folder"):
        contest.draw(folder)


# The page and its films


def test_the_page_runs_nothing_but_its_own_script(server):
    status, headers, body = get(server.url)
    assert status == 200
    nonce = headers["Content-Security-Policy"].split("script-src 'nonce-")[1].split("'")[0]
    assert body.count(f'nonce="{nonce}"'.encode()) == body.count(b"nonce=") == 2
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert nonce not in get(server.url)[1]["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    assert b"clip-" not in body


def test_a_task_names_its_films_by_number_only(server):
    status, headers, body = get(server.url + "task")
    told = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert (told["done"], told["total"], told["voter"]) == (0, 48, "ann")
    assert told["axes"] == [QUALITY, PROMPT]
    assert [set(shown) for shown in told["clips"]] == [{"film", "start", "end", "caption"}] * 2
    assert b".mp4" not in body


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_runs_the_page(server, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command = [CHROMIUM, *options, "--virtual-time-budget=2000", "--dump-dom", server.url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    told = server.next()
    assert '<span id="count">0 of 48 answers</span>' in shown
    assert shown.count('class="question current"') == 1
    assert shown.count('class="question"') == 1
    for side, clip in enumerate(told["clips"]):
        start, end = (repr(clip[name]).removesuffix(".0") for name in ("start", "end"))
        span = "" if clip["start"] is None else f"#t={start},{end}"
        assert f'id="film{side}" muted="" playsinline="" src="film/{clip["film"]}{span}"' in shown
        assert f'<figcaption id="caption{side}">{escape(clip["caption"], quote=False)}</figcaption>' in shown


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        (None, 200, 0, 600_000),
        ("bytes=0-", 200, 0, 600_000),
        ("bytes=0-99", 206, 0, 100),
        ("bytes=599999-", 206, 599_999, 600_000),
        ("bytes=300000-999999999", 206, 300_000, 600_000),
        ("bytes=-5", 206, 599_995, 600_000),
        ("bytes=-700000", 200, 0, 600_000),
        ("bytes=5-4", 200, 0, 600_000),
        ("bytes=0-1,3-4", 200, 0, 600_000),
        ("chapters=1-2", 200, 0, 600_000),
        ("bytes=" + "9" * 5000 + "-", 200, 0, 600_000),
    ],
)
def test_browsers_can_seek(server, asked, status, start, end):
    film = server.url + f"film/{[path.name for path in server.films].index('one.mp4')}"
    found, headers, body = get(film, **({"Range": asked} if asked else {}))
    assert (found, headers["Content-Type"], headers["Accept-Ranges"]) == (status, "video/mp4", "bytes")
    assert body == FILM[start:end]
    assert headers["Content-Range"] == (f"bytes {start}-{end - 1}/600000" if status == 206 else None)


@pytest.mark.parametrize("asked", ["bytes=600000-", "bytes=700000-800000", "bytes=-0"])
def test_a_range_outside_the_film_is_refused(server, asked):
    film = server.url + f"film/{[path.name for path in server.films].index('one.mp4')}"
    status, headers, _ = get(film, Range=asked)
    assert (status, headers["Content-Range"]) == (416, "bytes */600000")


@given(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 60)), st.one_of(st.none(), st.integers(0, 60)))
def test_parts_are_those_that_the_standard_means(size, first, last):
    """RFC 9110, 14.1.2: written here as which byte positions are asked for."""
    text = "bytes=" + ("" if first is None else str(first)) + "-" + ("" if last is None else str(last))
    invalid = (first is None and last is None) or (None not in (first, last) and first > last)
    wanted = [
        position
        for position in range(size)
        if invalid
        or (first is None and position >= size - last)
        or (first is not None and position >= first and (last is None or position <= last))
    ]
    part = ballot._part(text, size)
    if invalid:
        assert part == (0, size)
    else:
        assert (part and list(range(*part))) == (wanted or None)


def test_many_requests_over_one_connection(server):
    """What a browser does: HEAD, a part, a refusal, another part."""
    parts = urlsplit(server.url)
    place = parts.path + f"film/{[path.name for path in server.films].index('one.mp4')}"
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    found = []
    for method, asked in [
        ("HEAD", "all"),
        ("GET", "bytes=1-3"),
        ("GET", "bytes=900000-"),
        ("GET", "bytes=-2"),
    ]:
        connection.request(method, place, headers={"Range": asked})
        answer = connection.getresponse()
        found.append((answer.status, answer.headers["Content-Length"], len(answer.read())))
    connection.close()
    assert [found[0], found[1], found[3]] == [(200, "600000", 0), (206, "3", 3), (206, "2", 2)]
    assert found[2][0] == 416


def test_a_browser_that_hangs_up_leaves_the_server_well(server, capfd):
    parts = urlsplit(server.url)
    for _ in range(5):
        with socket.create_connection((parts.hostname, parts.port)) as hasty:
            hasty.sendall(f"GET {parts.path}film/0 HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            hasty.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )  # reset, not a farewell
    assert get(server.url + "task")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_an_error_of_our_own_is_logged(server, monkeypatch, caplog):
    monkeypatch.setattr(server, "next", lambda: 1 / 0)
    with pytest.raises(http.client.RemoteDisconnected):
        get(server.url + "task")
    assert "ZeroDivisionError" in caplog.text
    assert [record.levelname for record in caplog.records if "ended" in record.message] == ["ERROR"]


def test_a_film_that_vanishes_or_is_no_file_is_refused(server):
    path = server.films[0]
    path.unlink()
    assert get(server.url + "film/0")[0] == 404
    os.mkfifo(path)
    assert get(server.url + "film/0")[0] == 404


# Who may ask


@pytest.mark.parametrize(
    "place",
    ["film/99", "film/-1", "film/x", "film/../../../../etc/passwd", "film/%2e%2e/clips.parquet", "film/0/0",
     "..", "../out/clips.parquet", "film//etc/passwd", "clips.parquet", "vote", "film/1e0", "film/¹"],
)  # fmt: skip
def test_nothing_but_the_films_of_the_contest_is_served(server, place):
    status, body = raw(server.url, urlsplit(server.url).path + place)
    assert status in (403, 404)
    assert set(json.loads(body)) == {"error"}


@pytest.mark.parametrize("token", ["", "x", "A" * 32, "%00", "é", "'"])
def test_without_the_token_there_is_nothing(server, token):
    for place in ("", "task", "film/0", "vote"):
        status, body = raw(server.url, f"/{token}/{place}")
        assert status == 403
        assert server.token.encode() not in body
    origin = f"http://127.0.0.1:{server.server_port}"
    assert raw(server.url, f"/{token}/vote", "POST", Origin=origin)[0] == 403
    assert len(server.token) >= 32


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1]"]
)
def test_another_name_of_the_host_is_refused(server, host):
    """A site whose name was turned to 127.0.0.1 (DNS rebinding) sends its own name."""
    for place in ("", "task", "film/0"):
        assert get(server.url + place, Host=host)[0] == 403
    assert get(server.url + "task", Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1:1", "https://127.0.0.1"]
)
def test_votes_from_other_pages_are_refused(server, origin):
    task = json.loads(get(server.url + "task")[2])["task"]
    status, told = post(server.url, "vote", {"task": task, "winners": {QUALITY: "a"}}, Origin=origin)
    assert (status, set(told)) == (403, {"error"})
    assert not server.box.contest.votes.exists()


def test_the_server_listens_on_the_loopback_only(server):
    assert server.server_address[0] == "127.0.0.1"


# Votes


def test_votes_are_recorded_with_what_was_compared(server):
    task = server.box.contest.tasks[0]
    status, told = post(server.url, "vote", {"task": task.id, "winners": {QUALITY: "a", PROMPT: "b"}})
    assert (status, told["done"], told["task"]) == (200, 2, server.box.contest.tasks[1].id)
    first, second = lines(server.box.contest.votes)
    at = first.pop("at")
    assert at.endswith("+00:00")
    assert first == {
        "a": task.a, "b": task.b, "winner": "a", "axis": QUALITY, "task": task.id, "voter": "ann",
        "clip_a": task.clip_a.id, "clip_b": task.clip_b.id,
    }  # fmt: skip
    assert (second["axis"], second["winner"]) == (PROMPT, "b")
    assert elo.read(server.box.contest.votes) == [
        elo.Vote(task.a, task.b, 1.0, QUALITY, task.id, "ann"),
        elo.Vote(task.a, task.b, 0.0, PROMPT, task.id, "ann"),
    ]  # fmt: skip


def test_the_same_vote_counts_once_also_at_the_same_moment(server):
    task = server.box.contest.tasks[0].id
    threads = [
        threading.Thread(
            target=post, args=(server.url, "vote", {"task": task, "winners": {QUALITY: "ab"[i % 2]}})
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(server.box.contest.votes)) == 1
    told = json.loads(get(server.url + "task")[2])
    assert (told["task"], told["axes"], told["done"]) == (task, [PROMPT], 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b"[" * 4000, 400),
        ({"winners": {QUALITY: "a"}}, 400),
        ({"task": 3, "winners": {QUALITY: "a"}}, 400),
        ({"task": "unknown", "winners": {QUALITY: "a"}}, 400),
        ({"task": "FIRST", "winners": {}}, 400),
        ({"task": "FIRST"}, 400),
        ({"task": "FIRST", "winners": {QUALITY: "c"}}, 400),
        ({"task": "FIRST", "winners": {QUALITY: ["a"]}}, 400),
        ({"task": "FIRST", "winners": {"beauty": "a"}}, 400),
        ({"task": "x" * 5000, "winners": {QUALITY: "a"}}, 413),
    ],
)
def test_what_is_no_vote_is_refused_and_leaves_no_trace(server, body, status):
    if isinstance(body, dict) and body.get("task") == "FIRST":
        body = {**body, "task": server.box.contest.tasks[0].id}
    found, told = post(server.url, "vote", body)
    assert (found, set(told)) == (status, {"error"})
    assert not server.box.contest.votes.exists()


def test_a_form_cannot_vote_and_a_body_needs_a_length(server):
    task = {"task": server.box.contest.tasks[0].id, "winners": {QUALITY: "a"}}
    assert post(server.url, "vote", task, **{"Content-Type": "text/plain"})[0] == 415
    assert post(server.url, "elsewhere", task)[0] == 404
    path, origin = urlsplit(server.url).path + "vote", f"http://127.0.0.1:{server.server_port}"
    headers = {"Origin": origin, "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    assert raw(server.url, path, "POST", **headers)[0] == 411


def test_a_skipped_task_waits_for_the_next_start(server):
    first, second = [task.id for task in server.box.contest.tasks[:2]]
    assert post(server.url, "skip", {"task": first})[1]["task"] == second
    assert contest.Box(server.box.contest, "ann").next()["task"] == first


def test_a_full_disk_is_told_and_the_vote_not_counted(server, monkeypatch):
    """The page says so; the voter votes again later."""
    monkeypatch.setattr(
        os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    task = server.box.contest.tasks[0].id
    status, told = post(server.url, "vote", {"task": task, "winners": {QUALITY: "a"}})
    assert status == 507
    assert "votes-motion.jsonl: cannot be written (No space left on device)" in told["error"]
    monkeypatch.undo()
    assert server.box.contest.votes.read_bytes() == b""
    assert post(server.url, "vote", {"task": task, "winners": {QUALITY: "b"}})[1]["done"] == 1


def test_every_task_gets_as_many_voters_as_asked(folder):
    drawn = contest.draw(folder, thresholds=[0, 0.5], tasks=3, votes_per_task=2)
    for voter, answers in (("ann", 6), ("bob", 6), ("cat", 0)):
        box = contest.Box(drawn, voter)
        while (told := box.next())["task"]:
            assert box.vote(told["task"], dict.fromkeys(told["axes"], "a")) == len(told["axes"])
        assert (told["done"], told["total"], told["axes"]) == (answers, answers, [])
    assert set(Counter((row["task"], row["axis"]) for row in lines(drawn.votes)).values()) == {2}


def test_without_captions_only_quality_is_asked(folder):
    clips = [clip(number, motion=float(number), file="clips/three.mp4") for number in range(4)]
    table.write(folder / table.NAME, clips, facts=dict)
    box = contest.Box(contest.draw(folder, thresholds=[0, 0.5]), "ann")
    assert box.next()["axes"] == [QUALITY]


@pytest.mark.parametrize("voter", ["", "a\nb", "x" * 65])
def test_voters_have_names(folder, voter):
    with pytest.raises(ConfigError, match="1 to 64 printable letters; give --voter NAME"):
        contest.Box(contest.draw(folder), voter)


def test_a_port_in_use_is_named(server):
    for port in (server.server_port, 70_000):
        with pytest.raises(ConfigError, match=f"port: {port} cannot be had"):
            ballot.Server(server.box.contest, voter="ann", port=port)


def test_kill_9_between_votes_loses_none(folder):
    """The server dies without a word, once with half a line on disk; the next one goes on from there."""
    program = (
        "import sys; from pathlib import Path; from svd3d.curation import ballot, contest\n"
        "server = ballot.Server(contest.draw(Path(sys.argv[1]), thresholds=[0, 0.5], tasks=3), voter='ann')\n"
        "print(server.url, flush=True); server.serve_forever()"
    )
    drawn = contest.draw(folder, thresholds=[0, 0.5], tasks=3)
    tasks = [task.id for task in drawn.tasks]
    for number in range(2):
        command = [sys.executable, "-c", program, str(folder)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        ) as child:
            url = child.stdout.readline().strip()
            assert json.loads(get(url + "task")[2])["done"] == 2 * number
            status, told = post(url, "vote", {"task": tasks[number], "winners": {QUALITY: "a", PROMPT: "a"}})
            assert (status, told["done"], told["task"]) == (200, 2 * number + 2, tasks[number + 1])
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
        with open(drawn.votes, "a") as file:
            file.write('{"a": "half a li')
    box = contest.Box(drawn, "ann")
    assert box.vote(tasks[0], {QUALITY: "b"}) == 0
    assert box.vote(tasks[2], {QUALITY: "b"}) == 1
    assert [vote.score for vote in elo.read(drawn.votes)] == [1, 1, 1, 1, 0]
    assert not any("half" in line for line in drawn.votes.read_text().splitlines())


def test_from_votes_to_ratings(folder):
    """Somebody who always likes the livelier clip better rates the strictest group highest."""
    drawn = contest.draw(folder, thresholds=[0, 0.25, 0.5], tasks=24)
    box = contest.Box(drawn, "ann")
    for task in drawn.tasks:
        livelier = "a" if int(task.clip_a.id[5:]) > int(task.clip_b.id[5:]) else "b"
        box.vote(task.id, dict.fromkeys(task.axes, livelier))
    rated = elo.report(drawn.votes, folder, bootstraps=100)
    assert [each.item for each in rated if each.axis == QUALITY] == [
        "motion: drop 50 %",
        "motion: drop 25 %",
        "motion: drop 0 %",
    ]
