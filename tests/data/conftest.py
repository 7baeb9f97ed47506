"""A small latent cache whose numbers say where they come from: object, background, view and encoding."""

import pytest
import torch

from svd3d.data import latents, shards

SHAPE = latents.Shape(
    size=16,
    num_views=6,
    condition_views=6,
    noise_variants=2,
    backgrounds=("white", "random"),
    latent=(2, 2, 2),
    clip_dim=3,
)
ENCODERS = latents.Encoders(vae="a" * 64, clip="b" * 64, scaling_factor=0.18215)


def make_row(uid, variant, *, shape=SHAPE):
    """Latents are 100 variant + view, conditions 10 view + encoding; angles follow the view."""
    number, views = int(uid[1:]), torch.arange(shape.num_views, dtype=torch.float32)
    conditions, encodings = views[: shape.condition_views], torch.arange(1.0 + shape.noise_variants)
    each = 10 * conditions[:, None] + encodings
    return latents.Row(
        uid=uid,
        licence="cc0" if number % 2 else "cc-by",
        background=(1.0, 1.0, 1.0) if variant == 0 else (0.5, 0.25, 0.0),
        latents=(100 * variant + views)[:, None, None, None].repeat(1, *shape.latent),
        cond_latents=each[..., None, None, None].repeat(1, 1, *shape.latent),
        noise_aug=encodings.repeat(len(conditions), 1) / 8,
        clip=conditions[:, None].repeat(1, shape.clip_dim),
        elevations_deg=number + views,
        azimuths_deg=60 * views,
    )


def write_cache(folder, uids, *, shape=SHAPE, encoders=ENCODERS, per_shard=4):
    for first in range(0, len(uids), per_shard):
        group = uids[first : first + per_shard]
        objects = ([make_row(uid, v, shape=shape) for v in range(len(shape.backgrounds))] for uid in group)
        shards.write_shard(folder, f"shard-{first}", objects, shape=shape, encoders=encoders)
    shards.write_index(folder, shards.read_shards(folder), failed=0)
    return folder


@pytest.fixture
def make_cache():
    return write_cache


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Twenty-three objects in six shards."""
    folder = tmp_path_factory.mktemp("cache")
    return write_cache(folder, [f"o{number:02}" for number in range(23)])


@pytest.fixture(scope="session")
def opened(cache):
    return latents.Latents.open(cache)


@pytest.fixture(name="make_row")
def _make_row():
    return make_row
