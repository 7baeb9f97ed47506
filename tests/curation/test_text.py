"""The area of text: closed forms for the union of boxes, and the detector on real pictures."""

import importlib
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from svd3d.curation import text, video
from svd3d.errors import DependencyError

pytest.importorskip("shapely")
HEIGHT, WIDTH = 360, 640


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def turned(corners: np.ndarray, angle_deg: float) -> np.ndarray:
    angle, centre = np.radians(angle_deg), corners.mean(0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (corners - centre) @ turn.T + centre


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], 0.0),
        ([box(0, 0, 100, 50)], 0.5),
        ([box(0, 0, 60, 50), box(40, 0, 100, 50)], 0.5),  # 20 columns twice
        ([box(0, 0, 10, 10), box(20, 20, 30, 30)], 0.02),
        ([box(20, 20, 30, 30), box(0, 0, 100, 100)], 1.0),  # one inside the other
        ([box(-50, -50, 50, 50)], 0.25),  # three quarters outside the frame
        ([turned(box(40, 40, 60, 60), 45), turned(box(40, 40, 60, 60), -45)], 0.04),
        ([box(10, 10, 30, 20)[[0, 2, 1, 3]]], 0.02),  # corners out of order
    ],
)
def test_the_union_of_boxes_has_its_closed_form(boxes, expected):
    assert text.covered(np.array(boxes).reshape(-1, 4, 2), 100, 100) == pytest.approx(expected, abs=1e-12)


@given(
    st.lists(
        st.tuples(*[st.integers(-50, 250)] * 2, *[st.integers(5, 120)] * 2, st.integers(0, 180)), max_size=6
    )
)
def test_the_union_of_boxes_agrees_with_opencv_painting_them(rows):
    boxes = np.array([turned(box(x, y, x + w, y + h), angle) for x, y, w, h, angle in rows]).reshape(-1, 4, 2)
    painted = np.zeros((200, 200), np.uint8)
    for each in boxes:
        cv2.fillPoly(painted, [np.round(each * 256 - 128).astype(np.int32)], 1, shift=8)
    # OpenCV paints every pixel that an edge touches: half a pixel more along each box
    assert text.covered(boxes, 200, 200) == pytest.approx(painted.mean(), abs=2e-4 + 0.012 * len(boxes))


@pytest.fixture(scope="module")
def detector() -> text.TextDetector:
    pytest.importorskip("rapidocr")
    return text.TextDetector.load()


@pytest.fixture(scope="module")
def picture(shared_data) -> Image.Image:
    """A hamburger on a table, of the size of a video frame."""
    image = Image.open(shared_data / "inputs/triposr_hamburger.png").convert("RGBA")
    plate = Image.new("RGBA", image.size, (150, 140, 120))
    plate.alpha_composite(image)
    return plate.convert("RGB").resize((WIDTH, HEIGHT))


def written(picture: Image.Image, *lines: tuple[int, int, str, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The picture with lines (x, y, words, size) on it, and the box of each: advance by line height."""
    image, boxes = picture.copy(), []
    pen = ImageDraw.Draw(image)
    for x, y, words, size in lines:
        font = ImageFont.load_default(size)
        ascent, descent = font.getmetrics()
        pen.text((x, y), words, font=font, fill=(255, 240, 80), stroke_width=2, stroke_fill=(0, 0, 0))
        boxes.append(box(x, y, x + font.getlength(words), y + ascent + descent))
    return np.asarray(image), boxes


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two sets of boxes."""
    areas = [text.covered(each, HEIGHT, WIDTH) for each in (one, other, np.concatenate([one, other]))]
    return (areas[0] + areas[1] - areas[2]) / areas[2]


def test_the_segment_with_burned_in_text_is_found_and_no_other(detector, shared_data):
    source = video.probe(shared_data / "videos/cuts_concat.mp4")
    wanted = {20: False, 75: False, 118: False, 136: True, 185: True}
    images = {each.index: each.image for each in video.frames(source) if each.index in wanted}
    areas = dict(zip(images, detector.area(list(images.values())), strict=True))
    assert {index: area > 0.01 for index, area in areas.items()} == wanted
    # "SUBSCRIBE NOW 50% OFF" is 414 by 26 pixels of ink on a plate of 520 by 66, of 640 by 360
    for index in (136, 185):
        assert 414 * 26 < areas[index] * WIDTH * HEIGHT < 520 * 66
    (found,) = detector.boxes(images[185])
    assert (found.min(0) >= (60, 280)).all()
    assert (found.max(0) <= (581, 346)).all()


@pytest.mark.parametrize("size", [28, 48])
def test_rendered_lines_are_found_where_they_are(detector, picture, size):
    lines = [(40, 30, "Fresh every day", size), (300, 280, "Order now", size)]
    image, boxes = written(picture, *lines)
    expected = text.covered(np.array(boxes), HEIGHT, WIDTH)
    assert overlap(detector.boxes(image), np.array(boxes)) > 0.6
    assert detector.area([image])[0] == pytest.approx(expected, rel=0.3)


def test_the_area_does_not_depend_on_the_size_of_the_frame(detector, picture):
    image, boxes = written(picture, (60, 150, "MAGENTA CYAN", 64))
    half = np.asarray(Image.fromarray(image).resize((WIDTH // 2, HEIGHT // 2)))
    expected = text.covered(np.array(boxes), HEIGHT, WIDTH)
    assert detector.area([image, half]) == pytest.approx([expected] * 2, rel=0.3)


def test_a_picture_without_text_has_none(detector, picture, shared_data):
    elephant = Image.open(shared_data / "inputs/gsorender_elephant.png").convert("RGBA")
    wall = Image.new("RGBA", elephant.size, "white")
    wall.alpha_composite(elephant)
    alone = wall.convert("RGB").resize(
        (WIDTH, HEIGHT)
    )  # which the detector takes for a letter of frame height
    plain = np.full((7, 5, 3), 128, np.uint8)
    assert detector.area([np.asarray(picture), np.asarray(alone), plain]) == [0, 0, 0]


def test_the_same_picture_gives_the_same_area(detector, picture):
    image, _ = written(picture, (40, 30, "Fresh every day", 40))
    assert len(set(detector.area([image, image.copy()]))) == 1


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime", "shapely"])
def test_a_missing_package_is_named(monkeypatch, package):
    for other in {"rapidocr", "onnxruntime", "shapely"} - {package}:
        monkeypatch.setitem(sys.modules, other, sys)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=rf"^text needs the package {package}, .*svd3d\[curation\]"):
        text.TextDetector.load()


def test_a_package_that_does_not_load_is_named(monkeypatch):
    def broken(name):
        raise ImportError("libonnx.so: cannot open")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(DependencyError, match=r"^text: onnxruntime is installed but does not load \(libonnx"):
        text.TextDetector.load()
