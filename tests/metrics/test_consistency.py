"""Views that agree and views that do not: solids drawn in closed form, with exact depth."""

import dataclasses

import numpy as np
import pytest

from svd3d import Cameras, Orbit, Sample
from svd3d.errors import ImageError, InputError
from svd3d.images import decode, decode_depth
from svd3d.metrics import consistency, peer_meshes
from svd3d.metrics.consistency import reprojection_psnr

SIZE = 64
RING = Orbit.static(num_views=12, elevation_deg=15, distance=2.0).cameras(height=SIZE, width=SIZE)


def painted(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """A smooth colour of every point in space, fixed in the world."""
    waves = np.random.default_rng(seed).normal(size=(3, 3)) * 4
    return 0.5 + 0.4 * np.sin(points @ waves)


def drawn(points: np.ndarray, hit: np.ndarray, seed: int = 0) -> np.ndarray:
    colours = np.where(hit[..., None], painted(points, seed), 0)
    return np.round(255 * np.concatenate([colours, hit[..., None]], -1)).astype(np.uint8)


def sphere(cameras: Cameras = RING, *, seed: int = 0, radius: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Images and depth of a painted sphere."""
    origins, rays = cameras.rays()
    a, b = (rays**2).sum(-1), np.einsum("vhwi,vi->vhw", rays, origins)
    root = b**2 - a * ((origins**2).sum(-1)[:, None, None] - radius**2)
    depth = np.where(root > 0, (-b - np.sqrt(root.clip(0))) / a, 0)
    points = origins[:, None, None] + depth[..., None] * rays
    return drawn(points, depth > 0, seed), depth


def test_a_painted_sphere_agrees_with_itself():
    images, depth = sphere()
    found = reprojection_psnr(images, depth, RING)
    assert found.shape == (12,)
    assert found.min() > 55  # 59 dB is what rounding to 8 bits leaves


def test_a_painted_plane_agrees_with_itself():
    cameras = Orbit((0, 20, 40), (50, 60, 70), distance=2.0).cameras(height=SIZE, width=SIZE)
    origins, rays = cameras.rays()
    depth = -origins[:, 2, None, None] / rays[..., 2]  # the floor z = 0
    points = origins[:, None, None] + depth[..., None] * rays
    assert reprojection_psnr(drawn(points, depth > 0), depth, cameras).min() > 40


def test_a_view_of_another_object_disagrees_and_so_do_its_neighbours():
    images, depth = sphere()
    good = reprojection_psnr(images, depth, RING)
    mixed = images.copy()
    mixed[5] = sphere(seed=1)[0][5]
    found = reprojection_psnr(mixed, depth, RING)
    assert found[5] < 15
    assert found[[4, 6]].max() < 18
    assert np.delete(found, [4, 5, 6]) == pytest.approx(np.delete(good, [4, 5, 6]))


def test_plain_views_give_the_decibels_of_their_difference():
    """Every view of one colour: what is compared is known, wherever it is read."""
    images, depth = sphere()
    levels = np.random.default_rng(0).integers(50, 200, 12)
    images[..., :3] = levels[:, None, None, None]
    gaps = (levels - np.roll(levels, 1)) / 255, (levels - np.roll(levels, -1)) / 255
    expected = -10 * np.log10((gaps[0] ** 2 + gaps[1] ** 2) / 2)
    assert reprojection_psnr(images, depth, RING) == pytest.approx(expected, abs=0.2)  # areas differ a little
    images[..., :3] = 77
    assert (reprojection_psnr(images, depth, RING) == 100).all()


def test_what_is_hidden_from_the_neighbour_does_not_count(make_sample, monkeypatch):
    """The back of the chair and what stands before it: without the test of depth they are taken for one."""
    chair = make_sample(solid="boxes", num_views=12, size=96)
    plain = dataclasses.replace(chair, images=_unshaded(chair))
    found = reprojection_psnr(plain.images, plain.depth, plain.cameras)
    assert found.min() > 30
    monkeypatch.setattr(consistency, "OCCLUSION_PIXELS", 1e9)
    assert (reprojection_psnr(plain.images, plain.depth, plain.cameras) < found - 3).sum() >= 6


def _unshaded(chair: Sample) -> np.ndarray:
    """Painted anew by the position in the world, smooth across the edges of the boxes."""
    origins, rays = chair.cameras.rays()
    points = origins[:, None, None] + chair.depth[..., None] * rays
    return drawn(points, chair.depth > 0)


def test_depth_that_is_wrong_shows():
    images, depth = sphere()
    good = reprojection_psnr(images, depth, RING)
    flat = np.where(depth > 0, 2.0, 0)  # a wall through the middle of the sphere
    assert (reprojection_psnr(images, flat, RING) < good - 8).all()


def test_the_order_of_views_does_not_matter():
    images, depth = sphere()
    order = np.random.default_rng(0).permutation(12)
    shuffled = reprojection_psnr(images[order], depth[order], RING.view(order.tolist()))
    assert shuffled == pytest.approx(reprojection_psnr(images, depth, RING)[order])


def test_a_neighbour_without_overlap_is_left_to_the_other():
    cameras = Orbit((0, 20, 180), (15, 15, 15), distance=2.0).cameras(height=SIZE, width=SIZE)
    images, depth = sphere(cameras)
    with pytest.raises(ImageError, match=r"view 2: shows nothing that its neighbours 1, 0 see"):
        reprojection_psnr(images, np.where(depth > 1.7, 0, depth), cameras)
    found = reprojection_psnr(images[:2], depth[:2], cameras.view([0, 1]))
    assert found.min() > 35


def test_missing_depth_single_views_and_empty_pictures_are_named():
    images, depth = sphere()
    with pytest.raises(InputError, match="the views have no depth"):
        reprojection_psnr(images, None, RING)
    with pytest.raises(InputError, match="1 view has no neighbour"):
        reprojection_psnr(images[:1], depth[:1], RING.view(0))
    images[3] = 0
    with pytest.raises(ImageError, match="view 3: shows nothing"):
        reprojection_psnr(images, depth, RING)
    with pytest.raises(ImageError, match="view 0: shows nothing"):
        reprojection_psnr(images, np.zeros_like(depth), RING)


def test_a_peers_prediction_agrees_less_than_true_views(shared_data):
    """SyncDreamer's chicken and what it generated, through the depth that the authors publish."""
    cameras = peer_meshes.ORBIT.cameras(height=256, width=256)
    folder = shared_data / "multiview"
    files = [folder / f"chicken_gt/{view:03d}-depth.png" for view in range(16)]
    depth = np.stack([decode_depth(file.read_bytes(), where=file.name) for file in files]) / 65535 * 1.8 + 0.6
    depth = np.where(depth < 2.37, depth, 0)
    true, made = (
        np.stack([decode((folder / f"{name}/{view:03d}.png").read_bytes(), where=name) for view in range(16)])
        for name in ("chicken_gt", "chicken_syncdreamer_pred")
    )
    made[..., 3] = true[..., 3]
    best, found = (reprojection_psnr(each, depth, cameras) for each in (true, made))
    assert best.min() > 34
    assert found.max() < 28
    assert found.min() > 20
