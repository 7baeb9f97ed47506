"""`generate.run`: from a picture or a sample to a sample folder, with random weights."""

import functools
import json
import re
import sys
import types

import imageio_ffmpeg
import numpy as np
import pytest
import yaml
from PIL import Image

from svd3d import cli, cutout, generate, images, runs, sample
from svd3d.cameras import Orbit
from svd3d.errors import (
    CheckpointError,
    ConfigError,
    DependencyError,
    ImageError,
    InputError,
    SampleError,
)
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


@pytest.fixture(scope="module")
def estimate():
    """The estimate of memory, computed once for the same settings."""
    from svd3d.model import memory

    return functools.cache(memory.estimate)


@pytest.fixture(autouse=True)
def _estimate_once(estimate, monkeypatch):
    monkeypatch.setattr("svd3d.model.memory.estimate", estimate)


def run(settings, **options):
    """All results of a run."""
    return list(generate.run(settings, **options))


def run_one(settings):
    """The result of a run that makes one orbit."""
    (made_,) = run(settings)
    assert made_.status == "done"
    return made_


@pytest.fixture
def config(checkpoint, picture, tmp_path):
    """A function that makes settings for few views and steps."""

    def make(image=picture, **settings):
        quick: dict = {"model": str(checkpoint), "num_views": VIEWS, "steps": 2, "device": "cpu"}
        return GenerateConfig(image=image, out=tmp_path / "out", **{**quick, **settings})

    return make


def made(out):
    """Everything below a folder; nothing where it does not exist."""
    return sorted(out.rglob("*")) if out.exists() else []


def test_a_picture_becomes_a_sample_with_sheet_film_and_manifest(config, picture, checkpoint, capfd):
    settings = config(elevation_deg=25.0, seed=3)
    result = run_one(settings)
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
    first = run_one(config())
    before = {path: path.read_bytes() for path in made(first.folder) if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(generate, "generate", lambda *_, **__: pytest.fail("generated again"))
        patch.setattr(generate, "_load", lambda *_, **__: pytest.fail("loaded again"))
        (again,) = run(config())
        assert (again.folder, again.status, again.seconds) == (first.folder, "skipped", 0.0)
        with pytest.raises(ConfigError, match=r"steps was 2, now 3.*choose another --out"):
            run(config(steps=3))
        images.write_png(picture, images.read(picture)[:, ::-1])
        with pytest.raises(ConfigError, match="image was"):
            run(config())
    assert before == {path: path.read_bytes() for path in made(first.folder) if path.is_file()}


def test_the_same_seed_gives_the_same_views(config, tmp_path):
    one = sample.read(run_one(config()).folder)
    (tmp_path / "out").rename(tmp_path / "first")
    two = sample.read(run_one(config()).folder)
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
    found = sample.read(run_one(config(tmp_path / "chair")).folder)
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
    result = run_one(config(tmp_path / "chair", elevation_deg=10.0, size=32))
    found = sample.read(result.folder)
    assert set(found.orbit.elevations_deg) == {10.0}
    assert found.images.shape == (VIEWS, 32, 32, 4)


@pytest.mark.parametrize("size", [48, 80])
def test_the_size_can_differ_from_that_of_training(config, size):
    assert sample.read(run_one(config(size=size)).folder).images.shape[1:3] == (size, size)


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
        run(config(tmp_path / name))
    assert name in str(caught.value)
    assert made(tmp_path / "out") == []


def test_a_useless_sample_is_refused(config, make_sample, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"holds no picture .* and no sample folder"):
        run(config(tmp_path / "nothing"))
    make_sample(tmp_path / "free", condition_view=None)
    with pytest.raises(SampleError, match="no orbit or condition view"):
        run(config(tmp_path / "free"))
    made_ = make_sample(tmp_path / "clear")
    images.write_png(tmp_path / "clear/images/000.png", np.zeros_like(made_.images[0]))
    with pytest.raises(ImageError, match=r"clear: view 0: no object found"):
        run(config(tmp_path / "clear"))
    assert made(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": "/no/such/model"}, CheckpointError, "no such model folder"),
        ({"model": __file__}, CheckpointError, "a file, not a diffusers folder.*never opened"),
        ({"device": "cuda:99"}, ConfigError, "device cuda:99: not usable here"),
        ({"device": "toaster"}, ConfigError, "device toaster: not usable here"),
        ({"decode_chunk_size": 0}, ConfigError, "decode_chunk_size"),
    ],
)
def test_wrong_settings_leave_nothing_behind(config, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        run(config(**settings))
    assert made(tmp_path / "out") == []


def test_a_failure_while_writing_leaves_nothing_behind(config, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(sample, "write", full)
    with pytest.raises(OSError, match="disk is full"):
        run(config())
    assert made(tmp_path / "out") == []


class Painter:
    """A stand-in for the pipeline that paints what it is told."""

    size = 16

    def __init__(self, views):
        self.views = views

    def __call__(self, image, **settings):
        self.image, self.settings = np.asarray(image[0]), settings
        return self


def test_the_model_sees_the_object_on_white_and_its_white_becomes_transparent(caplog):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[8:24, 8:24] = (10, 20, 30, 255)
    painted = np.ones((1, 3, 16, 16, 3), np.float32)
    painted[0, 1, 4:12, 4:12] = (0.2, 0.4, 0.6)
    painter = Painter(painted)
    orbit = Orbit.static(num_views=3, elevation_deg=12.0, azimuth_deg=7.0, distance=1.5)
    (views,) = generate.generate(painter, rgba, orbit, steps=9, generators=[torch.Generator()])
    assert painter.settings["orbit"] == orbit
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
        generate.generate(Painter(broken), rgba, Orbit.static(num_views=2), generators=[torch.Generator()])


# --- many pictures, many samples


@pytest.fixture
def folder(picture, tmp_path):
    """Three pictures in a folder, the second of which is a text file."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/b.png").write_text("not a picture")
    (tmp_path / "pictures/notes.txt").write_text("left out")
    for name in ("a.png", "c.png"):
        (tmp_path / "pictures" / name).write_bytes(picture.read_bytes())
    return tmp_path / "pictures"


def test_a_bad_picture_in_a_folder_is_named_and_the_others_go_on(config, folder):
    settings = config(folder, num_views=2, steps=1)
    results = run(settings)
    assert generate.count(settings) == 3
    assert [(each.uid, each.status) for each in results] == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert str(folder / "b.png") in results[1].message
    assert results[1].folder is None
    assert sorted(path.name for path in settings.out.iterdir()) == ["a", "c"]
    for each in (results[0], results[2]):
        assert sample.read(each.folder).about["source"] == str(folder / f"{each.uid}.png")


def test_what_was_finished_before_a_kill_stays_and_the_rest_is_made(config, folder):
    settings = config(folder, num_views=2, steps=1)
    (folder / "b.png").unlink()
    killed = generate.run(settings)
    assert next(killed).uid == "a"
    killed.close()  # between two pictures
    before = (settings.out / "a/transforms.json").stat().st_mtime_ns
    assert [(each.uid, each.status) for each in run(settings)] == [("a", "skipped"), ("c", "done")]
    assert (settings.out / "a/transforms.json").stat().st_mtime_ns == before


def test_a_kill_in_the_middle_of_a_picture_leaves_nothing_of_it(config, folder, monkeypatch):
    settings = config(folder, num_views=2, steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(images, "write_film", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    assert made(settings.out) == []


def test_samples_differ_and_each_is_the_run_with_its_seed(config, tmp_path):
    """From a batch of three the views agree within one step of 8 bits: sums run in another order there."""
    results = run(config(samples=3, batch_size=3, seed=7))
    assert [each.uid for each in results] == ["disc-s0", "disc-s1", "disc-s2"]
    batch = [sample.read(each.folder) for each in results]
    assert [each.about["seed"] for each in batch] == [7, 8, 9]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (batch[one].images[1:] != batch[other].images[1:]).mean() > 0.1
    (tmp_path / "out").rename(tmp_path / "batch")
    alone = sample.read(run_one(config(seed=8)).folder)
    difference = np.abs(alone.images.astype(int) - batch[1].images.astype(int))
    assert difference.max() <= 1


def test_more_samples_continue_and_are_the_same_bytes_in_batches_of_one(config, tmp_path):
    run(config(samples=1, seed=8, num_views=2))
    first = run(config(samples=2, seed=7, num_views=2))
    more = run(config(samples=3, seed=7, num_views=2))
    assert [each.status for each in more] == ["skipped", "skipped", "done"]
    alone, second = (sample.read(tmp_path / "out" / name) for name in ("disc", "disc-s1"))
    np.testing.assert_array_equal(alone.images, second.images)
    assert first[1].folder == more[1].folder


def test_two_pictures_of_one_name_are_not_mixed_up(config, folder):
    (folder / "b.png").unlink()
    (folder / "c.png").rename(folder / "a.webp")
    results = run(config(folder, num_views=2, steps=1))
    assert [each.status for each in results] == ["done", "failed"]
    assert "its name, a, is that of" in results[1].message


def test_a_folder_of_samples_gives_their_orbits(config, make_sample, tmp_path):
    for name, elevation in (("low", 0.0), ("high", 30.0)):
        make_sample(tmp_path / "views" / name, uid=name, size=32, num_views=3, elevation_deg=elevation)
    results = run(config(tmp_path / "views", num_views=None, steps=1))
    found = {each.uid: sample.read(each.folder).orbit for each in results}
    assert {uid: orbit.elevations_deg[0] for uid, orbit in found.items()} == {"low": 0.0, "high": 30.0}
    assert {orbit.num_views for orbit in found.values()} == {3}


def test_the_input_is_no_place_for_the_output(config, folder):
    with pytest.raises(InputError, match="is itself the input"):
        run(GenerateConfig(image=folder, out=folder))


# --- whatever a picture may be


def disc(*, mode="RGBA", side=64):
    """A blue disc on white; transparent outside where the mode can be."""
    y, x = np.mgrid[:side, :side]
    rgba = np.full((side, side, 4), 255, np.uint8)
    inside = np.hypot(x - side / 2, y - side / 2) < side / 3
    rgba[inside] = (20, 40, 200, 255)
    rgba[..., 3] = np.where(inside, 255, 0)
    return Image.fromarray(rgba) if mode == "RGBA" else Image.fromarray(rgba[..., :3]).convert(mode)


def seen(config, path):
    """The picture as the model gets it."""
    return generate._read(config(path), path, cutout.choose("plain", network="u2net")).rgba


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("P", "png"), ("P", "gif"), ("RGB", "webp")])
def test_other_colour_models_are_converted(config, tmp_path, mode, suffix):
    disc(mode=mode).save(tmp_path / f"p.{suffix}")
    rgba = seen(config, tmp_path / f"p.{suffix}")
    middle = len(rgba) // 2
    assert np.abs(rgba[middle, middle].astype(int) - (20, 40, 200, 255)).max() < 24
    assert not rgba[0, 0, 3]


def test_sixteen_bits_are_scaled_not_clipped(config, tmp_path):
    grey = np.full((64, 64), 65535, np.uint16)
    grey[16:48, 16:48] = 32768
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert seen(config, tmp_path / "deep.png")[32, 32].tolist() == [128, 128, 128, 255]


def test_a_photograph_is_turned_as_its_camera_says(config, tmp_path):
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[16:48, 16:32] = (200, 0, 0)  # red left, blue right
    picture[16:48, 32:48] = (0, 0, 200)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    rgba = seen(config, tmp_path / "turned.jpg").astype(int)
    assert rgba[16, 32, 0] > 150 > rgba[16, 32, 2]  # red above
    assert rgba[48, 32, 2] > 150 > rgba[48, 32, 0]  # blue below


def test_an_animation_gives_its_first_picture_and_says_so(config, tmp_path, caplog):
    disc(mode="RGB").save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (64, 64), (0, 255, 0))]
    )
    assert seen(config, tmp_path / "a.gif")[32, 32, 2] > 150
    assert "only its first frame is used" in caplog.text


@pytest.mark.parametrize(
    ("size", "message"),
    [((1, 1), "1 x 1 pixels; pass one of at least"), ((12000, 9000), "limit of 64 megapixels")],
)
def test_a_picture_of_a_wrong_size_is_refused(config, tmp_path, size, message):
    Image.new("1", size).save(tmp_path / "p.png")
    with pytest.raises(ImageError, match=message):
        run(config(tmp_path / "p.png"))
    assert made(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"elevation_deg": 120}, "elevation_deg must lie between -90 and 90; got 120"),
        ({"num_views": 1}, "num_views must lie between 2 and"),
        ({"num_views": 10_000}, "got 10000"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"seed": 2**63 - 2, "samples": 3}, "seeds must lie between"),
    ],
)
def test_settings_out_of_range_are_refused(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


# --- the background


@pytest.fixture
def rembg(monkeypatch):
    """A stand-in for rembg that finds the left half of every picture, and counts its networks."""
    stand_in = types.ModuleType("rembg")
    stand_in.loaded = []

    def new_session(name):
        if name == "nonesuch":
            raise ValueError(f"No session class found for model '{name}'")
        stand_in.loaded.append(name)
        return name

    def remove(picture, *, session, only_mask):
        assert picture.mode == "RGB"
        assert session in stand_in.loaded
        assert only_mask
        mask = np.zeros((picture.height, picture.width), np.uint8)
        mask[:, : picture.width // 2] = 255
        return Image.fromarray(mask)

    stand_in.new_session, stand_in.remove = new_session, remove
    monkeypatch.setitem(sys.modules, "rembg", stand_in)
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    return stand_in


@pytest.fixture
def busy(tmp_path):
    """An opaque picture without a plain background."""
    picture = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "busy.png")
    return tmp_path / "busy.png"


def test_a_network_cuts_out_what_plain_cannot(rembg, busy):
    picture = images.read(busy)
    with pytest.raises(ImageError, match="not plain"):
        cutout.choose("plain", network="u2net")(picture, where="busy")
    cut = cutout.choose("rembg", network="isnet-general-use")
    assert rembg.loaded == []  # not before the first picture
    for _ in range(2):
        found = cut(picture, where="busy")
        np.testing.assert_array_equal(found[..., :3], picture[..., :3])
        assert (found[:, :30, 3] == 255).all()
        assert not found[:, 30:, 3].any()
    assert rembg.loaded == ["isnet-general-use"]


def test_transparency_that_is_there_needs_no_network(rembg):
    picture = np.array(disc())
    cut = cutout.choose("rembg", network="u2net")
    np.testing.assert_array_equal(cut(picture, where="disc"), picture)
    assert rembg.loaded == []


def test_an_unknown_network_and_a_missing_library_say_what_to_do(rembg, busy, monkeypatch, config):
    with pytest.raises(ConfigError, match=r"rembg nonesuch: cannot be loaded .*U2NET_HOME"):
        cutout.choose("rembg", network="nonesuch")(images.read(busy), where="busy")
    for name in ("rembg", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(DependencyError, match=r"pip install 'svd3d\[cutout\]'"):
                run(config(busy, background="rembg"))


def test_a_background_that_is_kept_stays_where_it_is(config, busy):
    found = sample.read(run_one(config(busy, background="keep", num_views=2, size=64, steps=1)).folder)
    shown = found.images[0]
    assert (shown[13:51, 1:-1, 3] == 255).all()  # 60 x 40 in a square of 60, at 64 pixels
    assert not shown[:8, :, 3].any()
    assert not shown[-8:, :, 3].any()


# --- what it costs


def test_a_dry_run_tells_the_cost_and_loads_no_weights(config, folder, checkpoint, capsys, monkeypatch):
    from svd3d.model.pipeline import SVDMVPipeline

    monkeypatch.setattr(SVDMVPipeline, "load", lambda *_, **__: pytest.fail("loaded"))
    words = [
        "generate",
        folder,
        "--out",
        folder / "out",
        "--model",
        checkpoint,
        "--samples",
        "2",
        "--dry-run",
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert ended.value.code == 0
    assert yaml.safe_load(captured.out)["samples"] == 2
    (line,) = captured.err.splitlines()
    assert re.fullmatch(r"6 orbits: about .* GB of memory .* in float32 .*; roughly .* s on .*", line)
    assert not (folder / "out").exists()


def test_twice_the_steps_take_longer_and_guidance_doubles_them(checkpoint, monkeypatch):
    from svd3d.model import duration

    monkeypatch.setattr(duration, "_operations_per_s", lambda *_: 1e9)

    def seconds(steps, guided):
        return duration.estimate_s(
            str(checkpoint),
            size=None,
            views=4,
            steps=steps,
            guided=guided,
            dtype=torch.float32,
            device="cpu",
        )

    assert seconds(5, True) == seconds(10, False) > seconds(5, False) > 0


def test_the_command_tells_the_memory_before_and_after(config, folder, checkpoint, capsys):
    """Exit code 1: a bad picture is named and counted, the others are made."""
    words = ["generate", folder, "--out", folder / "out", "--model", checkpoint, "--num-views", "2"]
    words += [
        "--steps",
        "2",
        "--dtype",
        "bfloat16",
        "--solver",
        "dpm++2m",
        "--fast",
        "True",
        "--device",
        "cpu",
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert ended.value.code == 1
    assert captured.out.split() == [str(folder / "out" / name) for name in ("a", "c")]
    said = captured.err.splitlines()
    assert "GB of memory" in said[0]
    assert any(line.startswith("failed: b: ") for line in said)
    assert any(re.match(r"generate  3/3 objects  1 failed", line) for line in said)
    assert any(re.fullmatch(r"peak memory: \d+\.\d GB", line) for line in said)


def test_an_estimated_elevation_is_that_of_the_cameras(tmp_path, monkeypatch):
    from svd3d.model import elevation

    monkeypatch.setattr(elevation, "estimate", lambda pipeline, picture, *, num_views: 21.5)
    picture = tmp_path / "cube.png"
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[10:30, 12:28] = (200, 60, 30, 255)
    Image.fromarray(pixels).save(picture)
    config = GenerateConfig(picture, tmp_path / "out", steps=1, num_views=3, estimate_elevation=True)
    (made,) = generate.run(config)
    found = sample.read(made.folder)
    assert found.orbit.elevations_deg == (21.5,) * 3
    assert found.about["elevation"] == "estimated"
    with pytest.raises(ConfigError, match=r"elevation_deg is given as 5\.0; leave out one"):
        GenerateConfig(picture, tmp_path / "out", elevation_deg=5.0, estimate_elevation=True)
