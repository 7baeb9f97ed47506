"""`scripts/study_camera.py`: what it measures against closed forms, and all of it from nothing."""

import dataclasses
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from svd3d import images, train, video
from svd3d.errors import ConfigError, InputError
from svd3d.settings import lora_and_weight

SCRIPT = Path(__file__).parents[1] / "scripts/study_camera.py"
FPS, SIDE = 7, 64


@pytest.fixture(scope="module")
def script():
    for package in ("av", "cv2", "embreex", "pyarrow", "scenedetect", "rapidocr"):
        pytest.importorskip(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return importlib.import_module(SCRIPT.stem)


@pytest.fixture(scope="module")
def quick(script, tmp_path_factory):
    """Everything that --train-small makes, of two motions, and its report."""
    small = script.Small(tmp_path_factory.mktemp("study"), script.QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(script.PRESETS, "zoom")
        patch.setattr(train.page, "write", lambda run: run)  # takes a second; told by tests of its own
        script.train_small(small, jobs=1)
        yield small, script.report(script.of_small(small), small, jobs=1)


def filmed(*, right=0.0, into=0.0, seed=0, count=8):
    """Frames of a bold picture by a camera with these widths and doublings per second."""
    noise = np.random.default_rng(seed).standard_normal((3 * SIDE, 3 * SIDE, 3))
    smooth = ndimage.gaussian_filter(noise, (2, 2, 0), mode="wrap")
    places = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    frames = []
    for time in np.arange(count) / FPS:
        seen = places * 2 ** (-into * time) + 1.5 * SIDE
        seen[1] += right * time * SIDE
        channels = [ndimage.map_coordinates(channel, seen, order=1) for channel in np.moveaxis(smooth, -1, 0)]
        frames.append(np.stack(channels, axis=-1))
    return (128 + 100 * np.stack(frames) / smooth.std() / 2).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("kind", "given", "speed"), [("pan", "right", 0.2), ("zoom", "into", 0.5)])
def test_a_known_camera_is_measured_with_sign_and_size(script, kind, given, speed, sign):
    found = script.watch(filmed(**{given: sign * speed}), fps=FPS)
    name = {"right": "right", "into": "in"}[given]
    assert found["kind"] == kind
    assert found[name] == pytest.approx(sign * speed, rel=0.1)
    assert found[kind] == abs(found[name])
    flow = {"pan": 16 * speed, "zoom": np.log(2) * speed * 16 / np.sqrt(6)}[kind] / 2
    assert found["camera"] == pytest.approx(flow, rel=0.1)
    assert found["camera"] > 0.85 * found["motion"]


def test_a_camera_that_stands_still_moves_nothing_and_fog_tells_nothing(script):
    still = script.watch(filmed(), fps=FPS)
    assert still["kind"] == "static"
    assert max(still[name] for name in ("pan", "zoom", "camera", "motion")) < 0.01
    fog = script.watch(np.full((8, SIDE, SIDE, 3), 128, np.uint8), fps=FPS)
    assert (fog["kind"], fog["camera"]) == ("unknown", 0.0)
    with pytest.raises(InputError, match=r"3 frames at 7 per second: less than half a second; make longer"):
        script.watch(filmed(count=3), fps=FPS)


@pytest.fixture
def study(script, tmp_path, monkeypatch):
    """Of three pictures; the LoRAs are called as the camera moves, by a fifth of their weight."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        images.write_png(pictures / f"{number}.png", filmed(seed=number, count=1)[0])

    def run(config, *, tell):
        speeds = {"right": 0.05 * config.seed, "into": 0.0}
        for given in config.lora:
            name, weight = lora_and_weight(given)
            speeds[name] += 0.2 * weight
        for number in range(3):
            folder = config.out / str(number)
            (folder / "frames").mkdir(parents=True)
            for place, frame in enumerate(filmed(**speeds, seed=number)):
                images.write_png(folder / f"frames/{place:03d}.png", frame)
            (folder / "video.json").write_text("{}")
            yield video.Made(str(number), folder, "done", "", 0.0)

    monkeypatch.setattr(script.videos, "run", run)
    loras = {"horizontal": ["right"], "zoom": ["into=0"], "static": ["right=-1", "right=-1.5"]}
    return script.Study(tmp_path / "out", "model", loras, pictures, seeds=2)


def test_the_effect_of_a_lora_is_found_and_of_one_without_weight_there_is_none(script, study):
    text = script.report(study, None, jobs=1)
    found = json.loads((study.out / "study.json").read_text())
    low, high = found["change"]["horizontal"]["right"]["interval"]
    assert 0 < low <= 0.2 <= high < 0.25
    nothing = {"mean": 0.0, "interval": [0.0, 0.0]}
    assert all(value == nothing for value in found["change"]["zoom"].values())
    together = found["change"]["horizontal + zoom"]["right"]
    assert together["mean"] == pytest.approx(found["change"]["horizontal"]["right"]["mean"] / 2, rel=0.1)
    assert found["of"]["none"]["right"]["mean"] == pytest.approx(0.025, abs=0.01)
    assert found["kinds"]["horizontal"] == {"pan": 6}
    assert "- horizontal does what it is for: pan either way, widths/s, with minus without: 0.2" in text
    assert "- zoom may do nothing of what it is for:" in text
    assert "- static does the opposite of what it is for:" in text
    assert (study.out / "study.md").read_text() == text
    strips = images.read(study.out / "strips.png")
    assert len(strips) == 2 * len(script.strips(study, "0")), "three pictures, two side by side"
    assert strips[-1, -1].min() == 255
    page = (study.out / "index.html").read_text()
    assert page.count("<img") == 3
    assert page.count("<table>") == 3
    assert "|" not in re.sub("<[^>]*>", "", page)


def test_each_seed_takes_a_training_of_its_own_and_two_loras_share_the_weight(script, study):
    assert list(study.arms) == ["none", "horizontal", "zoom", "static", "horizontal + zoom"]
    assert [study.config("static", seed).lora for seed in range(3)] == [
        ("right=-1",),
        ("right=-1.5",),
        ("right=-1",),
    ]
    assert study.config("horizontal + zoom", 0).lora == ("right=0.5", "into=0")
    alike = {dataclasses.replace(study.config(arm, 1), lora=(), out=Path("out")).seed for arm in study.arms}
    assert alike == {1}
    alone = dataclasses.replace(study, loras={"zoom": ["into"]})
    assert list(alone.arms) == ["none", "zoom"]


@pytest.mark.parametrize("given", ["file", "zoom=", "none=file", "a b=file", "=file"])
def test_a_lora_without_a_name_is_refused(script, given):
    with pytest.raises(ConfigError, match=r"not a LoRA with a name; write one such as zoom=FILE"):
        script.named([given])


def test_loras_of_one_name_are_trainings_of_it(script):
    assert script.named(["zoom=a=0.7", "pan=b", "zoom=c"]) == {"zoom": ["a=0.7", "c"], "pan": ["b"]}


def test_what_the_command_line_lacks_is_one_line(script, monkeypatch, tmp_path, capsys):
    words = ["study_camera.py", "--out", str(tmp_path / "out")]
    for more, message in (
        ([], "--model, --lora and --pictures are needed, or --train-small"),
        (["--model", "m", "--pictures", str(tmp_path), "--lora", "a"], "lora a: not a LoRA with a name"),
        (
            ["--model", "m", "--pictures", str(tmp_path), "--lora", "a=b", "--motion", "x"],
            "argument --motion: invalid",
        ),
    ):
        monkeypatch.setattr("sys.argv", [*words, *more])
        with pytest.raises(SystemExit) as ended:
            script.main()
        said = f"{ended.value.code} {capsys.readouterr().err}"
        assert message in said
        assert not (tmp_path / "out").exists()


def test_loras_differ_in_their_clips_and_seeds_alone(script, tmp_path):
    small = script.Small(tmp_path, script.Plan())
    configs = [small.lora(name, seed) for name in script.TARGETS for seed in range(3)]
    assert len({each.out for each in configs}) == 9
    assert len({each.data for each in configs}) == 3
    alike = {repr(dataclasses.replace(each, out=Path("out"), data=Path("data"), seed=0)) for each in configs}
    assert len(alike) == 1
    first = configs[0]
    assert (first.trains, first.lora_where, first.lora_rank) == ("lora", "temporal", 16)
    assert first.model == str(script.last_checkpoint(small.base()))
    assert (first.p_mean, first.p_std) == (small.base().p_mean, small.base().p_std)
    assert not first.tells_motion
    assert not small.base().tells_motion
    assert script.of_small(small).motion == "unknown"
    assert script.of_small(small).loras["static"] == [
        str(tmp_path / f"loras/static-{seed}/checkpoints/step-450") for seed in range(3)
    ]


def test_the_truth_of_clips_is_what_is_measured(script, quick):
    small, _ = quick
    pairs = [
        (truth, script.watch(script.film(small.films("train") / f"{truth.uid}.mkv"), fps=FPS))
        for truth in script.moving_cameras.truths(small.world("train"))
    ]
    assert [truth.kind for truth, _ in pairs[:6]] == ["static", "pan", "zoom", "static", "pan", "zoom"]
    assert (
        {np.sign(truth.pan) for truth, _ in pairs}
        == {np.sign(truth.zoom) for truth, _ in pairs}
        == {-1, 0, 1}
    )
    rightly = [(truth, found) for truth, found in pairs if truth.kind == found["kind"]]
    assert len(rightly) >= 10
    pans = [found["right"] / truth.pan for truth, found in rightly if truth.pan]
    zooms = [found["in"] / truth.zoom for truth, found in rightly if truth.zoom]
    assert min(pans + zooms) > 0
    assert np.median(pans) == pytest.approx(1, abs=0.1)
    assert 0.5 < np.median(zooms) < 1.1  # what is smooth does not seem to grow


def test_a_small_study_is_made_from_nothing_and_again_in_no_time(script, quick, monkeypatch):
    small, text = quick
    found = json.loads((small.out / "study.json").read_text())
    assert found["pictures"] == ["000000", "000001"]
    assert list(found["change"]) == ["horizontal", "static", "horizontal + static"]
    assert found["ceiling"]["pan"]["true"]["right"] == 1.0
    assert "| camera-static |" in text
    assert len(found["selected"]) == 2
    for preset, each in found["selected"].items():
        assert 0 < each["right"] <= each["selected"], preset
        assert each["there"] == 4
    for stage in ("film", "run"):
        monkeypatch.setattr(
            {"film": script.make_videos, "run": train}[stage],
            stage,
            lambda *_, **__: pytest.fail("made again"),
        )
    script.train_small(small, jobs=1)
    assert script.report(script.of_small(small), small, jobs=1) == text
