"""Lights: which files are taken, which are refused by name, and what Blender and the sample are told."""

import numpy as np
import pytest

from render import light
from svd3d.errors import ImageError, InputError

HDR, EXR = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", b"\x76\x2f\x31\x01\x02\0\0\0"


@pytest.fixture
def folder(tmp_path):
    """Two environment pictures among other files."""
    made = tmp_path / "hdri"
    (made / "deeper").mkdir(parents=True)
    for name in ("sunset.hdr", ".sunset.hdr", "notes.txt", "deeper/hall.hdr"):
        (made / name).write_bytes(HDR)
    (made / "Forest.EXR").write_bytes(EXR)
    return made


def test_the_neutral_sky_is_nowhere_dark():
    sky = light.sky()
    assert np.linalg.norm(sky["slope"]) == pytest.approx(light.SKY_SLOPE)
    assert sky["mean"] > light.SKY_SLOPE


def test_a_folder_gives_its_pictures_by_name_and_a_file_itself(folder):
    assert light.find(folder) == [folder / "Forest.EXR", folder / "sunset.hdr"]
    assert light.find(folder / "sunset.hdr") == [folder / "sunset.hdr"]
    assert light.find(None) == []


def test_real_environment_pictures_are_taken(shared_data):
    found = light.find(shared_data / "hdri")
    assert len(found) == len(list((shared_data / "hdri").glob("*.hdr"))) > 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.hdr", b"\x89PNG\r\n", r"a\.hdr: neither Radiance HDR nor OpenEXR \(it starts with b'\\x89PNG"),
        (
            "a.exr",
            b"",
            r"a\.exr: neither Radiance HDR nor OpenEXR \(it starts with b''\); pass another --hdri",
        ),
        ("a.hdr/x", b"", r"a\.hdr: cannot be read \(Is a directory\); pass another --hdri"),
    ],
)
def test_one_bad_file_in_a_folder_is_refused_by_name(folder, name, content, message):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(ImageError, match=message):
        light.find(folder)


def test_a_path_without_pictures_is_refused(folder):
    with pytest.raises(InputError, match="no such environment picture; the nearest folder that exists is"):
        light.find(folder / "none.hdr")
    (folder / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty: holds no \.hdr or \.exr file; pass another --hdri"):
        light.find(folder / "empty")
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(ImageError, match=r"notes\.txt: neither Radiance HDR nor OpenEXR .*b'hello'"):
        light.find(folder / "notes.txt")


def test_blender_gets_the_path_and_the_sample_the_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    lights = light.find(folder.relative_to(folder.parent))
    asked = light.request(lights, "sunset.hdr", turn_deg=12.5)
    assert asked == {"kind": "hdri", "path": str(folder / "sunset.hdr"), "turn_deg": 12.5}
    told = light.about("sunset.hdr", turn_deg=12.5)
    assert told == {"kind": "hdri", "file": "sunset.hdr", "turn_deg": 12.5}
    assert light.request([], None, turn_deg=12.5) == light.about(None, turn_deg=12.5) == light.sky()
