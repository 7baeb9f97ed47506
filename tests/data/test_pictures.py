"""Pictures for an autoencoder: neighbours on the orbit, white behind them, and what cannot be read."""

import numpy as np
import pytest
import torch

from svd3d import sample as samples
from svd3d.data import pictures
from svd3d.data.dataset import Batches, draw
from svd3d.data.pictures import Orbit, Pictures
from svd3d.errors import InputError

VIEWS, SIZE = 5, 16


def numbered(*, channels=4, alpha=255):
    """View k is grey, of the value 10 k."""
    images = np.empty((VIEWS, 8, 8, channels), np.uint8)
    images[..., :3] = 10 * np.arange(VIEWS)[:, None, None, None]
    images[..., 3:] = alpha
    return Orbit("numbered", images)


def drawn(position, *, num_views=3, row=None):
    row = row or numbered()
    return pictures.sample(row, lambda bound, what: draw(bound, what, 0, position), num_views=num_views)[
        "pictures"
    ]


@pytest.fixture(scope="module")
def folder(make_sample, tmp_path_factory):
    """Eight samples of different sizes and a capture."""
    folder = tmp_path_factory.mktemp("views")
    for number in range(8):
        make_sample(
            folder / f"o{number}", uid=f"o{number}", num_views=VIEWS, size=SIZE if number else 24, depth=False
        )
    frames = np.random.default_rng(0).integers(256, size=(VIEWS, SIZE, 25, 3), dtype=np.uint8)
    samples.write_capture(samples.Capture("walk", frames), folder / "walk")
    return folder


def batches(folder, **options):
    settings = {"seed": 0, "global_batch": 3, "micro_batch": 3, "held_out": 0.0, "num_views": 2}
    return iter(Batches(Pictures(folder, size=SIZE), **{**settings, **options}))


@pytest.mark.parametrize("num_views", [1, 3, 5, 12])
def test_views_follow_each_other_around_the_orbit_from_any_on(num_views):
    starts = set()
    for position in range(60):
        found = drawn(position, num_views=num_views)
        assert found.shape == (num_views, 3, 8, 8)
        values = ((found[:, 0, 0, 0] + 1) * 127.5 / 10).round().int().tolist()
        assert values == [(values[0] + step) % VIEWS for step in range(num_views)]
        starts.add(values[0])
    assert starts == set(range(VIEWS))


def test_behind_an_object_is_white():
    for position in range(40):
        assert (drawn(position, row=numbered(alpha=0)) == 1).all()
        front = drawn(position)
        half = drawn(position, row=numbered(alpha=128))
        torch.testing.assert_close(half, front + (1 - front) * (127 / 255), rtol=0, atol=1.1 / 127.5)
    opaque, capture = ((drawn(0, row=each) + 1) * 127.5 for each in (numbered(), numbered(channels=3)))
    torch.testing.assert_close(opaque, opaque.round(), rtol=0, atol=1e-4)
    assert torch.equal(opaque, capture)


def test_samples_and_captures_are_read_square_and_by_name(folder):
    found = Pictures(folder, size=SIZE)
    assert found.uids == [*(f"o{number}" for number in range(8)), "walk"]
    assert {found.read(index).images.shape[1:3] for index in range(9)} == {(SIZE, SIZE)}
    first = samples.read(folder / "o3")
    assert np.array_equal(found.read(3).images, first.images)
    frames = samples.read_capture(folder / "walk").images
    assert np.array_equal(found.read(8).images, frames[:, :, 4:20])
    batch = next(batches(folder, global_batch=9, micro_batch=9))
    assert sorted(batch["uid"]) == found.uids  # each once an epoch
    assert batch["pictures"].shape == (9, 2, 3, SIZE, SIZE)
    assert batch["pictures"].abs().max() <= 1


def test_the_fingerprint_tells_names_and_size(folder, make_sample, tmp_path):
    for name in ("o0", "o1"):
        (tmp_path / "some").mkdir(exist_ok=True)
        (tmp_path / "some" / name).symlink_to(folder / name)
    some = Pictures(tmp_path / "some", size=SIZE).fingerprint
    assert some == Pictures(tmp_path / "some", size=SIZE).fingerprint
    assert some != Pictures(tmp_path / "some", size=2 * SIZE).fingerprint
    (tmp_path / "some/o1").unlink()
    assert some != Pictures(tmp_path / "some", size=SIZE).fingerprint


def test_a_damaged_sample_ends_the_training_or_counts_for_nothing(make_sample, tmp_path):
    for number in range(3):
        make_sample(tmp_path / f"o{number}", uid=f"o{number}", num_views=VIEWS, size=SIZE, depth=False)
    (tmp_path / "o1/images/002.png").write_bytes(b"half a picture")
    with pytest.raises(InputError, match=r"o1/transforms\.json: frame 2: file_path: .*002\.png"):
        next(batches(tmp_path))
    batch = next(batches(tmp_path, damaged="skip"))
    weights = dict(zip(batch["uid"], batch["weight"].tolist(), strict=True))
    assert weights == {"o0": 1.0, "o1": 0.0, "o2": 1.0}
    assert len(batch["damaged"]) == 1
    assert batch["pictures"].isfinite().all()


def test_a_folder_without_samples_says_how_to_make_some(tmp_path):
    with pytest.raises(InputError, match="holds no finished sample; make some with: svd3d render"):
        Pictures(tmp_path, size=SIZE)
