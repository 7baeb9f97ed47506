"""Trackers show what was logged, once per step, and none of them can hurt the run."""

import io
import logging
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svd3d import images
from svd3d.tracking import trackers
from svd3d.tracking.trackers import Trackers


@pytest.fixture(scope="module", autouse=True)
def accelerator():
    """What training has before it makes trackers."""
    PartialState(cpu=True)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def sheet(tmp_path):
    """A picture of 3 by 4 pixels, all different."""
    path = tmp_path / "sheet.png"
    images.write_png(path, np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7)
    return path


class Fake:
    """A tracker of accelerate's kind that notes what it gets and fails where told."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.steps = fails, []

    def log(self, values, step):
        if self.fails == "log":
            raise ConnectionError("no network\nat all")
        self.steps.append(step)

    def finish(self):
        if self.fails == "finish":
            raise OSError(28, "No space left on device")


def read(run) -> EventAccumulator:
    return EventAccumulator(str(run / "tensorboard")).Reload()


def scalars(run, name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in read(run).Scalars(name)]


def test_tensorboard_reads_back_what_was_logged(run, sheet):
    with Trackers(["tensorboard"], run=run, config={"seed": 3, "lora": None}) as shown:
        shown.log(1, {"loss": 0.5, "loss/below 0.2": 2.0})
        shown.log(2, {"loss": 0.25}, {"held-out": sheet})
    assert scalars(run, "loss") == [(1, 0.5), (2, 0.25)]
    assert scalars(run, "loss/below 0.2") == [(1, 2.0)]
    (picture,) = read(run).Images("held-out")
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    assert picture.step == 2
    np.testing.assert_array_equal(pixels, images.read(sheet)[..., :3])
    (settings,) = read(run).Tensors("config/text_summary")
    assert b"seed: 3\n" in settings.tensor_proto.string_val[0]


def test_a_resumed_run_has_no_step_twice(run):
    killed = Trackers(["tensorboard"], run=run, config={})
    for step in range(1, 6):
        killed.log(step, {"loss": float(step)})
    (events,) = (run / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.0000000001"))  # names are in whole seconds
    with Trackers(["tensorboard"], run=run, config={}, done=3) as resumed:
        resumed.log(4, {"loss": 40.0})
    assert scalars(run, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_a_failing_tracker_is_dropped_with_one_warning(where, run, monkeypatch, caplog):
    fake, healthy = Fake(fails=where), Fake()

    def start(*_):
        if where == "start":
            raise RuntimeError("api key not valid")
        return fake

    monkeypatch.setitem(trackers._STARTS, "wandb", start)
    monkeypatch.setitem(trackers._STARTS, "trackio", lambda *_: healthy)
    with Trackers(["wandb", "trackio"], run=run, config={}) as shown:
        for step in (1, 2, 3):
            shown.log(step, {"loss": 1.0})
    (warning,) = caplog.records
    reason = {"start": "api key not valid", "log": "no network at all", "finish": "No space left on device"}
    assert warning.levelno == logging.WARNING
    assert warning.getMessage().startswith("report_to wandb: stopped (")
    assert reason[where] in warning.getMessage()
    assert healthy.steps == [1, 2, 3]
    assert fake.steps == ([1, 2, 3] if where == "finish" else [])


def test_a_picture_that_is_missing_does_not_stop_the_run(run, tmp_path, caplog):
    with Trackers(["tensorboard"], run=run, config={}) as shown:
        shown.log(1, {"loss": 0.5}, {"held-out": tmp_path / "missing.png"})
    assert "missing.png" in caplog.text
    assert scalars(run, "loss") == [(1, 0.5)]


@pytest.mark.parametrize(
    ("name", "extra"), [("tensorboard", "train"), ("wandb", "track"), ("trackio", "track")]
)
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(name, extra, run, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, name, None)
    with Trackers([name], run=run, config={}) as shown:
        shown.log(1, {"loss": 1.0})
    (warning,) = caplog.records
    assert f"pip install 'svd3d[{extra}]'" in warning.getMessage()


@pytest.fixture
def service(monkeypatch):
    """A module that stands for wandb and trackio alike; `calls` holds what it was told."""

    class Module(ModuleType):
        def __init__(self) -> None:
            super().__init__("service")
            self.inits, self.logged, self.logged_in = [], [], False
            self.Image = lambda picture: ("picture", picture.shape)

        def login(self, *, prompt, verify):
            assert not prompt
            return self.logged_in

        def init(self, **settings):
            self.inits.append(settings)
            sys.stdout.write("a word of the service\n")
            return SimpleNamespace(log=lambda values, step: self.logged.append((step, values)), finish=print)

    module = Module()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setitem(sys.modules, "trackio", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_is_the_same_run_to_a_service(name, run, sheet, service, capsys, caplog):
    run.mkdir()
    other = run.with_name("other")
    other.mkdir()
    for folder in (run, run, other):
        with Trackers([name], run=folder, config={"seed": 3}) as shown:
            shown.log(1, {"loss": 0.5}, {"held-out": sheet})
    key = {"wandb": "id", "trackio": "name"}[name]
    first, resumed, another = (each[key] for each in service.inits)
    assert first == resumed != another
    assert {each["resume"] for each in service.inits} == {"allow"}
    assert service.inits[0]["config"] == {"seed": 3}
    picture = ("picture", (3, 4, 3))
    expected = {"wandb": [picture], "trackio": picture}[name]
    assert service.logged[:2] == [(1, {"loss": 0.5}), (1, {"held-out": expected})]
    assert caplog.text == ""
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("asked", "logged_in", "mode"),
    [
        (None, True, "online"),
        (None, False, "offline"),
        ("online", False, "offline"),
        ("disabled", False, "disabled"),
    ],
)
def test_wandb_never_asks_for_a_key(asked, logged_in, mode, run, service, monkeypatch):
    run.mkdir()
    if asked:
        monkeypatch.setenv("WANDB_MODE", asked)
    service.logged_in = logged_in
    Trackers(["wandb"], run=run, config={}).close()
    assert [each["mode"] for each in service.inits] == [mode]
