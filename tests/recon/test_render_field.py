"""svd3d render-field: from the file of a field to a sample that evaluate can score."""

import json

import numpy as np
import pytest
import torch

from recon import render_field
from recon.config import RenderFieldConfig
from recon.field import BIAS, Field
from recon.grid import Grid
from recon.volume import Volume
from svd3d import Orbit, cli, sample
from svd3d.errors import ConfigError, InputError


@pytest.fixture
def saved(tmp_path):
    """An opaque red ball of radius 0.4 in a folder named ball, fitted to cameras at distance 2.2."""
    volume = Volume.covering(np.full(3, -0.5), np.full(3, 0.5), resolution=32)
    index = np.stack(np.meshgrid(*map(np.arange, volume.values.shape), indexing="ij"), axis=-1)
    grid = Grid.of(volume, np.linalg.norm(volume.points(index), axis=-1) < 0.4)
    rows = grid.num_rows
    density = torch.full((rows, 1), 20.0 - BIAS)
    field = Field(grid, density, torch.tensor([[9.0, -9.0, -9.0]]).repeat(rows, 1), torch.ones(rows))
    density[0] = 0
    path = tmp_path / "ball/field.safetensors"
    path.parent.mkdir()
    field.save(path, Orbit.static(num_views=3, distance=2.2, fov_deg=40).cameras(height=24, width=24))
    return path


def test_an_orbit_of_a_field_is_a_sample_with_depth_and_a_film(saved, tmp_path, capsys):
    out = tmp_path / "spin"
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "render-field",
                str(saved),
                "--out",
                str(out),
                "--views",
                "5",
                "--elevation-deg",
                "-30",
                "--json",
            ]
        )
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(out)
    made = sample.read(out)
    assert made.uid == "ball"
    assert made.orbit is not None
    assert made.orbit.elevations_deg == (-30.0,) * 5
    assert made.orbit.distance == pytest.approx(2.2)
    assert made.orbit.fov_deg == pytest.approx(40)
    assert made.images.shape == (5, 24, 24, 4)
    np.testing.assert_allclose(made.depth[:, 11:13, 11:13], 1.8, atol=0.06)
    assert (made.images[:, 12, 12] == [255, 0, 0, 255]).all()
    assert (out / "orbit.mp4").stat().st_size > 500
    assert json.loads((out / "manifest.json").read_text())["stage"] == "render-field"


def test_the_licence_beside_a_field_goes_with_its_pictures(saved, tmp_path):
    (saved.parent / "manifest.json").write_text('{"licences": ["CC-BY-4.0"]}')
    out = render_field.run(RenderFieldConfig(saved, tmp_path / "out", views=2, size=16)).folder
    assert json.loads((out / "manifest.json").read_text())["licences"] == ["CC-BY-4.0"]


def test_the_cameras_of_a_sample_make_a_prediction_that_can_be_scored(saved, tmp_path, make_sample):
    reference = make_sample(tmp_path / "reference", num_views=2, size=24)
    config = RenderFieldConfig(saved, tmp_path / "out", cameras_from=tmp_path / "reference")
    made = sample.read(render_field.run(config).folder)
    assert made.uid == reference.uid
    np.testing.assert_array_equal(made.cameras.camera_to_world, reference.cameras.camera_to_world)
    larger = RenderFieldConfig(saved, tmp_path / "large", cameras_from=tmp_path / "reference", size=40)
    assert sample.read(render_field.run(larger).folder).images.shape == (2, 40, 40, 4)


def test_what_cannot_be_rendered_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="no such field"):
        render_field.run(RenderFieldConfig(tmp_path / "none.safetensors", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    for wrong in ({"views": 0}, {"elevation_deg": 91.0}, {"size": 4}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RenderFieldConfig(tmp_path, tmp_path, **wrong)
