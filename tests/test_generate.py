"""`generate.run`: from a picture or a sample to a sample folder, with random weights."""

import json

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from svd3d import generate, images, runs, sample
from svd3d.cameras import Orbit
from svd3d.errors import CheckpointError, ConfigError, ImageError, InputError, SampleError
from svd3d.settings import GenerateConfig

torch = pytest.importorskip("torch", reason="needs the extra `model`")
VIEWS = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from svd3d.model import tiny
    from svd3d.model.pipeline import SVDMVPipeline

    folder = tmp_path_factory.mktemp("random")
    SVDMVPipeline(**tiny.components()).save_pretrained(folder)
    return folder


@pytest.fixture
def picture(tmp_path):
    """A red disc off the centre of a wide transparent picture, with a soft outline."""
    y, x = np.mgrid[:60, :100] + 0.5
    alpha = np.clip(20 - np.hypot(x - 70, y - 25), 0, 1)
    rgba = np.zeros((60, 100, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[..., 3] = (255 * alpha).round()
    images.write_png(tmp_path / "disc.png", rgba)
    return tmp_path / "disc.png"


@pytest.fixture
def config(checkpoint, picture, tmp_path):
    """A function that makes settings for few views and steps."""

    def make(image=picture, **settings):
        quick = {"model": str(checkpoint), "num_views": VIEWS, "steps": 2, "device": "cpu"}
        return GenerateConfig(image=image, out=tmp_path / "out", **{**quick, **settings})

    return make


def made(out):
    """Everything below a folder; nothing where it does not exist."""
    return sorted(out.rglob("*")) if out.exists() else []


def test_a_picture_becomes_a_sample_with_sheet_film_and_manifest(config, picture, checkpoint, capfd):
    settings = config(elevation_deg=25.0, seed=3)
    result = generate.run(settings)
    assert (result.uid, result.folder) == ("disc", settings.out / "disc")
    assert result.seconds > 0

    found = sample.read(result.folder)
    orbit = Orbit.static(num_views=VIEWS, elevation_deg=25.0)
    assert found.orbit == orbit
    assert (found.uid, found.origin, found.condition_view) == ("disc", "generated", 0)
    expected = orbit.cameras(height=64, width=64)
    np.testing.assert_array_equal(found.cameras.camera_to_world, expected.camera_to_world)
    np.testing.assert_array_equal(found.cameras.intrinsics, expected.intrinsics)
    assert found.about["source"] == str(picture)
    assert {key: found.about[key] for key in ("model", "steps", "seed")} == {
        "model": str(checkpoint),
        "steps": 2,
        "seed": 3,
    }

    rows, columns = np.nonzero(found.images[0][..., 3] > 127)  # view 0: the disc, centred, 0.9 of the frame
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == pytest.approx((63, 63), abs=1)
    assert rows.max() - rows.min() + 1 == pytest.approx(0.9 * 64, abs=1.5)
    assert (found.images[0][rows, columns, 0] == 200).mean() > 0.95

    sheet = np.asarray(Image.open(result.folder / "contact_sheet.png"))
    np.testing.assert_array_equal(sheet, images.contact_sheet(found.images))
    frames, _ = imageio_ffmpeg.count_frames_and_secs(result.folder / "orbit.mp4")
    assert frames == 2 * VIEWS

    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["stage"] == "generate"
    assert manifest["device"] == "cpu"
    assert manifest["inputs"]["image"]["sha256"] == runs.sha256(picture)
    assert manifest["inputs"]["model"]["sha256"] == runs.sha256(checkpoint)
    assert manifest["config"]["elevation_deg"] == 25.0
    assert manifest["config"]["seed"] == 3
    assert set(manifest["seconds"]) == {"load", "generate"}

    said = capfd.readouterr()
    assert said.out == ""  # results on stdout are for the command line
    assert "%|" not in said.err  # no bars where nobody watches


def test_running_again_skips_and_other_settings_are_refused(config, picture, monkeypatch):
    first = generate.run(config())
    before = {path: path.read_bytes() for path in made(first.folder) if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(generate, "generate", lambda *_, **__: pytest.fail("generated again"))
        again = generate.run(config())
        assert (again.folder, again.seconds) == (first.folder, 0.0)
        with pytest.raises(ConfigError, match=r"steps was 2, now 3.*choose another --out"):
            generate.run(config(steps=3))
        images.write_png(picture, images.read(picture)[:, ::-1])
        with pytest.raises(ConfigError, match="image was"):
            generate.run(config())
    assert before == {path: path.read_bytes() for path in made(first.folder) if path.is_file()}


def test_the_same_seed_gives_the_same_views(config, tmp_path):
    one = sample.read(generate.run(config()).folder)
    (tmp_path / "out").rename(tmp_path / "first")
    two = sample.read(generate.run(config()).folder)
    np.testing.assert_array_equal(one.images, two.images)


def test_a_sample_keeps_its_camera_and_its_condition_view(config, make_sample, tmp_path):
    source = make_sample(
        tmp_path / "chair",
        solid="boxes",
        size=64,
        elevation_deg=-5.0,
        azimuth_deg=40.0,
        condition_view=3,
        about={"licence": "CC0-1.0"},
    )
    found = sample.read(generate.run(config(tmp_path / "chair")).folder)
    assert found.uid == "boxes"
    assert found.orbit.num_views == VIEWS
    assert found.orbit.azimuths_deg[0] == source.orbit.azimuths_deg[3] == 175.0
    assert set(found.orbit.elevations_deg) == {-5.0}
    assert (found.orbit.distance, found.orbit.fov_deg) == (source.orbit.distance, source.orbit.fov_deg)
    np.testing.assert_array_equal(found.images[0], source.images[3])  # with its own alpha
    np.testing.assert_allclose(
        found.cameras.camera_to_world[0], source.cameras.camera_to_world[3], atol=1e-12
    )
    manifest = json.loads((tmp_path / "out/boxes/manifest.json").read_text())
    assert manifest["licences"] == ["CC0-1.0"]
    assert found.about["licence"] == "CC0-1.0"


def test_an_elevation_that_is_given_wins_over_that_of_the_sample(config, make_sample, tmp_path):
    make_sample(tmp_path / "chair", size=64, elevation_deg=-5.0)
    result = generate.run(config(tmp_path / "chair", elevation_deg=10.0, size=32))
    found = sample.read(result.folder)
    assert set(found.orbit.elevations_deg) == {10.0}
    assert found.images.shape == (VIEWS, 32, 32, 4)


@pytest.mark.parametrize("size", [48, 80])
def test_the_size_can_differ_from_that_of_training(config, size):
    assert sample.read(generate.run(config(size=size)).folder).images.shape[1:3] == (size, size)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("missing.png", None, InputError, "no such image or sample folder"),
        ("empty.png", b"", ImageError, "the file is empty"),
        ("text.png", b"not a picture", ImageError, "not an image"),
        ("cut.png", images.encode_png(np.full((64, 64, 4), 9, np.uint8))[:60], ImageError, "broken image"),
        ("clear.png", images.encode_png(np.zeros((64, 64, 4), np.uint8)), ImageError, "no object found"),
        ("white.png", images.encode_png(np.full((64, 64, 3), 255, np.uint8)), ImageError, "no object found"),
    ],
)
def test_a_useless_picture_is_refused_and_nothing_is_written(
    config, tmp_path, monkeypatch, name, content, error, message
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(generate, "require", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(error, match=message) as caught:
        generate.run(config(tmp_path / name))
    assert name in str(caught.value)
    assert made(tmp_path / "out") == []


def test_a_useless_sample_is_refused(config, make_sample, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SampleError, match=r"holds no transforms\.json"):
        generate.run(config(tmp_path / "nothing"))
    make_sample(tmp_path / "free", condition_view=None)
    with pytest.raises(SampleError, match="no orbit or condition view"):
        generate.run(config(tmp_path / "free"))
    made_ = make_sample(tmp_path / "clear")
    images.write_png(tmp_path / "clear/images/000.png", np.zeros_like(made_.images[0]))
    with pytest.raises(ImageError, match=r"clear: view 0: no object found"):
        generate.run(config(tmp_path / "clear"))
    assert made(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": "/no/such/model"}, CheckpointError, "no such model folder"),
        ({"device": "cuda:99"}, ConfigError, "device cuda:99: not usable here"),
        ({"device": "toaster"}, ConfigError, "device toaster: not usable here"),
        ({"decode_chunk_size": 0}, ConfigError, "decode_chunk_size"),
    ],
)
def test_wrong_settings_leave_nothing_behind(config, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        generate.run(config(**settings))
    assert made(tmp_path / "out") == []


def test_a_failure_while_writing_leaves_nothing_behind(config, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(sample, "write", full)
    with pytest.raises(OSError, match="disk is full"):
        generate.run(config())
    assert made(tmp_path / "out") == []


class Painter:
    """A stand-in for the pipeline that paints what it is told."""

    size = 16

    def __init__(self, views):
        self.views = views

    def __call__(self, image, **settings):
        self.image, self.settings = np.asarray(image), settings
        return self


def test_the_model_sees_the_object_on_white_and_its_white_becomes_transparent(caplog):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[8:24, 8:24] = (10, 20, 30, 255)
    painted = np.ones((1, 3, 16, 16, 3), np.float32)
    painted[0, 1, 4:12, 4:12] = (0.2, 0.4, 0.6)
    painter = Painter(painted)
    orbit = Orbit.static(num_views=3, elevation_deg=12.0, azimuth_deg=7.0, distance=1.5)
    views = generate.generate(painter, rgba, orbit, steps=9)
    assert painter.settings["elevation_deg"] == 12.0
    assert painter.settings["num_inference_steps"] == 9
    assert (painter.image[0, 0] == 255).all()
    assert (painter.image[8, 8] == (10, 20, 30)).all()
    np.testing.assert_array_equal(views[0], images.resize(rgba, height=16, width=16))
    assert (views[1, 5:11, 5:11] == (51, 102, 153, 255)).all()
    assert (views[1, :3, :, 3] == 0).all()
    assert not views[2, ..., 3].any()
    assert "views without any object: [2]" in caplog.text


def test_views_that_are_not_finite_are_refused():
    broken = np.full((1, 2, 16, 16, 3), np.nan, np.float32)
    rgba = np.full((16, 16, 4), 255, np.uint8)
    with pytest.raises(CheckpointError, match="not finite"):
        generate.generate(Painter(broken), rgba, Orbit.static(num_views=2))
