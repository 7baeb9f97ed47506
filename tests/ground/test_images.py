"""Pictures: what is read, what is refused, and properties of resizing, cutting out and sheets."""

import contextlib
import io
import logging
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from svd3d import images
from svd3d.errors import ImageError, InputError

pictures = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(4)))
sizes = st.integers(1, 24)


def encoded(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


def decode(picture: Image.Image, format: str = "PNG", **options) -> np.ndarray:
    return images.decode(encoded(picture, format, **options), where="x")


@pytest.fixture
def photo():
    """A smooth picture of 40 by 30 without any symmetry."""
    y, x = np.mgrid[:30, :40]
    return Image.fromarray(np.stack([x * 6, y * 8, 255 - x * 3 - y * 2], -1).astype(np.uint8))


@given(pictures)
def test_what_was_written_is_read(image):
    np.testing.assert_array_equal(images.decode(images.encode_png(image), where="x"), image)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG", "AVIF", "PPM"])
def test_common_formats_are_read(photo, format):
    options = (
        {"lossless": True} if format == "WEBP" else {"quality": 100} if format in ("JPEG", "AVIF") else {}
    )
    found = decode(photo, format, **options).astype(int)
    tolerance = {"JPEG": 6, "AVIF": 12, "GIF": 60}.get(format, 0)
    assert np.abs(found[..., :3] - np.array(photo)).max() <= tolerance
    assert (found[..., 3] == 255).all()


def test_sixteen_bits_are_scaled_not_clipped():
    steps = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert decode(Image.fromarray(steps))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert decode(Image.fromarray(steps), "TIFF")[0, :, 1].tolist() == [0, 1, 128, 255]


def test_float_pictures_are_scaled_from_zero_to_one():
    values = np.array([[0, 0.5, 1, 7]], np.float32)
    assert decode(Image.fromarray(values), "TIFF")[0, :, 0].tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_refused(value):
    with pytest.raises(ImageError, match="x: 1 of 3 pixels are not finite;"):
        images.decode(encoded(Image.fromarray(np.array([[0, value, 1]], np.float32)), "TIFF"), where="x")


def test_palettes_keep_colour_and_transparency():
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)
    assert decode(picture, transparency=1)[0].tolist() == [[255, 0, 0, 255], [0, 255, 0, 0]]


def test_a_transparent_colour_is_transparent():
    picture = Image.new("RGB", (2, 1), (1, 2, 3))
    picture.putpixel((1, 0), (9, 9, 9))
    assert decode(picture, transparency=(1, 2, 3))[0, :, 3].tolist() == [0, 255]


def test_grey_with_alpha_keeps_alpha():
    assert decode(Image.new("LA", (1, 1), (100, 40)))[0, 0].tolist() == [100, 100, 100, 40]


def test_one_bit_is_black_and_white():
    assert decode(Image.new("1", (1, 1), 1))[0, 0].tolist() == [255, 255, 255, 255]


def test_print_colours_become_screen_colours():
    found = decode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(found[4, 4].astype(int) - [255, 0, 0, 255]).max() < 8


def test_the_rotation_of_a_phone_is_applied(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    found = decode(photo, "JPEG", exif=exif, quality=100)
    assert found.shape == (40, 30, 4)
    upright = np.rot90(np.array(photo), -1)
    assert np.abs(found[..., :3].astype(int) - upright).max() <= 6


def test_the_first_frame_of_an_animation_is_used_with_a_warning(caplog):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    with caplog.at_level(logging.WARNING):
        found = decode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert found[0, 0].tolist() == [255, 0, 0, 255]
    assert caplog.messages == ["x: animated; only its first frame is used"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


@pytest.mark.parametrize("side", [8001, 50_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ImageError, match=r"x: larger than the limit of 64 megapixels \(.*\); resize it first"
    ):
        images.decode(png_header(side, side), where="x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x: the file is empty"),
        (b"<html><body>404</body></html>", "x: not an image (starts with b'<html><body>')"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey', "x: not an image (starts with b'<?xml versio')"),
        (b"\x80\x04\x95pickle", "x: not an image"),
        (b"glTF\x02\0\0\0", "x: not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x: not an image"),
        (b"\x89PNG\r\n\x1a\n", "x: not an image"),
        (b"\0" * 64, "x: not an image"),
    ],
)
def test_what_is_no_image_is_refused(data, message):
    with pytest.raises(ImageError) as caught:
        images.decode(data, where="x")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused_and_not_half_grey(photo, format, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    with pytest.raises(ImageError, match="x: "):
        images.decode(data[: int(len(data) * share)], where="x")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF"])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_image_is_read_or_refused_but_nothing_else(format, damage):
    exif = Image.Exif()
    exif[0x0112] = 3
    options = {"exif": exif} if format in ("PNG", "JPEG", "WEBP") else {}
    data = bytearray(encoded(Image.new("RGB", (9, 7), "teal"), format, **options))
    for place, value in damage:
        data[int(place * min(len(data), 200))] = value
    with contextlib.suppress(ImageError):
        assert images.decode(bytes(data), where="x").shape[2] == 4


def test_a_file_is_named_in_errors(tmp_path):
    with pytest.raises(InputError, match=r"cup\.png: no such image; the nearest folder that exists is"):
        images.read(tmp_path / "cup.png")
    with pytest.raises(ImageError, match=f"{tmp_path}: a folder, not an image"):
        images.read(tmp_path)
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(ImageError, match=r"page\.png: not an image"):
        images.read(tmp_path / "page.png")


@given(arrays.arrays(np.uint16, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_depth_pictures_keep_sixteen_bits(steps):
    np.testing.assert_array_equal(images.decode_depth(images.encode_png(steps), where="x"), steps)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I"])
def test_a_depth_picture_of_another_kind_is_refused(mode):
    with pytest.raises(ImageError, match=f"x: a picture of kind {mode}, expected 16-bit grey"):
        images.decode_depth(encoded(Image.new(mode, (2, 2)), "TIFF"), where="x")


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))))
def test_float_and_back_changes_nothing(image):
    np.testing.assert_array_equal(images.to_uint8(images.to_float(image)), image)


@given(pictures, st.tuples(*[st.floats(0, 1)] * 3))
def test_compositing_shows_the_object_where_opaque_and_the_background_where_not(image, background):
    seen = images.composite(image, background=background)
    opaque, clear = image[..., 3] == 255, image[..., 3] == 0
    np.testing.assert_allclose(seen[opaque], images.to_float(image)[opaque][:, :3], atol=1e-6)
    np.testing.assert_allclose(seen[clear], np.tile(background, (clear.sum(), 1)), atol=1e-6)
    assert seen.min() >= 0
    assert seen.max() <= 1 + 1e-6


@given(sizes, sizes, sizes, sizes, st.tuples(*[st.integers(0, 255)] * 3))
def test_resizing_keeps_a_constant_colour(height, width, new_height, new_width, colour):
    image = np.full((height, width, 4), (*colour, 255), np.uint8)
    found = images.resize(image, height=new_height, width=new_width)
    assert (found == (*colour, 255)).all()


@given(st.integers(2, 20), sizes, sizes, st.tuples(*[st.integers(0, 255)] * 3), st.integers(0, 2**32 - 1))
def test_resizing_lets_no_background_bleed_into_the_outline(side, new_height, new_width, colour, seed):
    random = np.random.default_rng(seed)
    image = np.where(random.random((side, side, 1)) < 0.5, (*colour, 255), (0, 0, 0, 0)).astype(np.uint8)
    image[..., 3] = np.where(image[..., 3] > 0, random.integers(1, 256, (side, side)), 0)
    found = images.resize(image, height=new_height, width=new_width)
    if (side, side) != (new_height, new_width):
        seen = found[..., 3] > 0
        assert np.abs(found[seen][:, :3].astype(int) - colour).max(initial=0) <= 1


def test_halving_a_smooth_picture_keeps_its_mean(photo):
    image = np.dstack([np.array(photo), np.full((30, 40), 255, np.uint8)])
    half = images.resize(image, height=15, width=20)
    np.testing.assert_allclose(half.mean((0, 1)), image.mean((0, 1)), atol=1)


def scene(background, colour=(200, 40, 40), size=64, box=(20, 30, 44, 50)):
    """A plain picture with a rectangle (top, left, bottom, right) on it."""
    image = np.full((size, size, 4), 255, np.uint8)
    image[..., :3] = background
    image[box[0] : box[2], box[1] : box[3], :3] = colour
    return image


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (90, 160, 90)])
def test_a_plain_background_is_cut_away_exactly(background):
    cut = images.cut_out(scene(background))
    expected = np.zeros((64, 64), np.uint8)
    expected[20:44, 30:50] = 255
    np.testing.assert_array_equal(cut[..., 3], expected)


def test_noise_of_a_jpeg_in_the_background_does_no_harm():
    image = scene((240, 240, 240))
    noise = np.random.default_rng(0).integers(-6, 7, (*image.shape[:2], 3))
    image[..., :3] = (image[..., :3].astype(int) + noise).clip(0, 255)
    found = images.cut_out(image)[..., 3] > 127
    assert found.sum() == pytest.approx(24 * 20, rel=0.02)


def test_a_hole_of_the_background_colour_stays_part_of_the_object():
    image = scene((255, 255, 255))
    image[30:34, 38:42, :3] = 255
    assert images.cut_out(image)[32, 40, 3] == 255


def test_a_background_behind_many_corners_is_reached():
    labyrinth = np.full((9, 9), True)
    labyrinth[1:8:2, :-1], labyrinth[3::4] = False, ~labyrinth[1]
    labyrinth[3, 1:], labyrinth[3, 0], labyrinth[7, 1:], labyrinth[7, 0] = False, True, False, True
    closed = np.pad(labyrinth, 1, constant_values=False)
    closed[0, 1] = True
    np.testing.assert_array_equal(images._connected_to_border(closed), closed)
    closed[0, 1] = False
    assert not images._connected_to_border(closed).any()


def test_transparency_is_kept_as_it_is():
    image = scene((255, 255, 255))
    image[:20, ..., 3] = 0
    np.testing.assert_array_equal(images.cut_out(image), image)


def test_a_busy_background_is_refused():
    image = scene((255, 255, 255))
    image[..., :3] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    with pytest.raises(ImageError, match=r"cup\.jpg: the background is not plain.*with rembg"):
        images.cut_out(image, where="cup.jpg")


@pytest.mark.parametrize(
    "image",
    [np.zeros((32, 32, 4), np.uint8), np.full((32, 32, 4), 255, np.uint8), np.zeros((1, 1, 4), np.uint8)],
    ids=["transparent", "white", "one pixel"],
)
def test_an_image_without_object_is_refused(image):
    with pytest.raises(ImageError, match="x: no object found"):
        images.cut_out(image, where="x")


def test_centring_nothing_is_refused():
    with pytest.raises(ImageError, match="no object found"):
        images.center(np.zeros((4, 4, 4), np.uint8), size=8)


@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(0, 9), st.integers(0, 9),
    st.integers(8, 64), st.floats(0.3, 1),
)  # fmt: skip
def test_centring_fills_the_asked_part_in_the_middle(height, width, top, left, size, fill):
    image = np.zeros((40, 40, 4), np.uint8)
    image[top : top + height, left : left + width] = (10, 200, 30, 255)
    found = images.center(image, size=size, fill=fill)
    rows, columns = np.nonzero(found[..., 3] > 127)
    spans = rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()
    assert max(spans) == round(fill * size)
    assert min(spans) == pytest.approx(max(spans) * min(height, width) / max(height, width), abs=1)
    assert abs(rows.min() + rows.max() + 1 - size) <= 1
    assert abs(columns.min() + columns.max() + 1 - size) <= 1
    assert (found[rows, columns] == (10, 200, 30, 255)).all()


@pytest.mark.parametrize(("views", "shape"), [(21, (3, 7)), (1, (1, 1)), (8, (2, 7)), (3, (1, 3))])
def test_a_contact_sheet_shows_views_in_reading_order(views, shape):
    cells = np.zeros((views, 4, 5, 4), np.uint8)
    cells[..., 3] = 255
    cells[..., 0] = np.arange(views)[:, None, None]
    sheet = images.contact_sheet(cells)
    assert sheet.shape == (shape[0] * 4, shape[1] * 5, 3)
    assert sheet[::4, ::5, 0].ravel().tolist() == [*range(views), *[255] * (shape[0] * shape[1] - views)]


def test_a_contact_sheet_has_the_background_asked_for():
    sheet = images.contact_sheet(np.zeros((2, 3, 3, 4), np.uint8), background=(0.0, 1.0, 0.0))
    assert (sheet == (0, 255, 0)).all()


def test_a_film_can_be_decoded_again(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra video").get_ffmpeg_exe()
    colours = [(220, 30, 30), (30, 220, 30), (30, 30, 220)]
    frames = [np.full((33, 47, 3), colour, np.uint8) for colour in colours]
    images.write_film(tmp_path / "turn.mp4", frames, fps=5, repeat=2)
    command = [ffmpeg, "-i", tmp_path / "turn.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    decoded = np.frombuffer(done.stdout, np.uint8).reshape(6, 34, 48, 3)
    assert all(word in done.stderr.decode() for word in ("h264", "yuv420p", "5 fps"))
    for frame, colour in zip(decoded, colours * 2, strict=True):
        assert np.abs(frame[16, 20].astype(int) - colour).max() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["turn.mp4"]


def test_a_film_that_fails_leaves_nothing(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    frames = [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)]
    with pytest.raises(Exception, match="size"):
        images.write_film(tmp_path / "turn.mp4", frames)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("side", [4000])
@pytest.mark.slow
def test_a_picture_of_a_phone_is_cut_out_in_seconds(side):
    cut = images.cut_out(scene((255, 255, 255), size=side, box=(1000, 1000, 3000, 3000)))
    assert (cut[..., 3] > 0).sum() == 2000**2
    assert sys.getsizeof(cut) < 2e8
