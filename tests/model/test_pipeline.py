"""`SVDMVPipeline` against stock Stable Video Diffusion, and the promises of its own."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from svd3d import sample
from svd3d.cameras import Orbit
from svd3d.errors import CameraError, CheckpointError, ConfigError, ImageError
from svd3d.images import composite, to_uint8
from svd3d.model import tiny, vae
from svd3d.model.pipeline import SVDMVPipeline

SIZE = 32
"""Smaller than the model's own: four times as fast."""
SMALL = {"height": SIZE, "width": SIZE}
QUICK = {**SMALL, "num_views": 4, "num_inference_steps": 2}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pictures(pictures):
    """Two small pictures without any symmetry."""
    return [each.resize((SIZE, SIZE)) for each in pictures]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def generate(pipeline, image, *, seed=0, **settings):
    return pipeline(image, generator=seeded(seed), **{**QUICK, **settings}).views


@pytest.fixture(scope="module")
def checkpoint(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "whole"
    pipeline.save_pretrained(folder)
    return folder


def by_stock(pipeline, image, *, seed=0, **settings):
    quick = {**SMALL, "num_frames": 4, "num_inference_steps": 2, "output_type": "np"}
    return pipeline(image, generator=seeded(seed), **{**quick, **settings}).frames


@pytest.mark.parametrize("max_guidance", [3.0, 1.0])
def test_with_zero_columns_it_is_the_stock_pipeline(stock, widened, pictures, max_guidance):
    expected = by_stock(stock, pictures[0], max_guidance_scale=max_guidance)
    for elevation in (-5.0, 30.0) if max_guidance > 1 else (10.0,):
        found = generate(
            widened,
            pictures[0],
            elevation_deg=elevation,
            guidance="linear",
            max_guidance_scale=max_guidance,
            keep_input_view=False,
        )
        if max_guidance > 1:
            assert np.array_equal(found, expected)
        else:  # one row only: see test_conditioning
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_batch_of_two_with_zero_columns_is_the_stock_pipeline(stock, widened, pictures):
    settings = {"max_guidance_scale": 3.0, "fps": 12, "motion_bucket_id": 60, "noise_aug_strength": 0.1}
    expected = by_stock(stock, pictures, seed=4, **settings)
    found = generate(widened, pictures, seed=4, guidance="linear", keep_input_view=False, **settings)
    assert found.shape == (2, 4, SIZE, SIZE, 3)
    assert np.array_equal(found, expected)


class StockSV3D(StableVideoDiffusionPipeline):
    """Stock code with the vector condition of SV3D, in SV3D's order of views."""

    ids: torch.Tensor

    def _get_add_time_ids(self, *_, **__):
        return torch.cat([self.ids, self.ids])


@pytest.fixture(params=["sv3d_u", "sv3d_p"])
def sv3d(request):
    """A pipeline of SV3D's kinds with random weights, stock code of the same weights, and an orbit of it."""
    parts = tiny.components(seed=2, time_ids={"sv3d_u": 1, "sv3d_p": 5}[request.param])
    ours = SVDMVPipeline(**parts, conditioning=request.param)
    stock = StockSV3D(**ours.components)
    if request.param == "sv3d_u":
        orbit = Orbit.static(num_views=4, elevation_deg=20.0)
        stock.ids = torch.tensor([[1e-5]])
    else:
        orbit = Orbit((30.0, 100.0, 170.0, 355.0), (20.0, 25.0, 10.0, -5.0), 2.0)
        polars, azimuths = np.deg2rad([65, 80, 95, 70]), np.deg2rad([70, 140, 325, 0])
        rows = np.stack([np.full(4, 1e-5), polars, azimuths], axis=1)
        stock.ids = torch.from_numpy(rows).float()[None]
    for each in (ours, stock):
        each.set_progress_bar_config(disable=True)
    return ours, stock, orbit


def test_sv3d_is_stock_code_with_the_input_as_last_view(sv3d, pictures):
    ours, stock, orbit = sv3d
    noise = torch.randn(1, 4, 16, 4, 4, generator=seeded(9))
    settings = {**SMALL, "num_inference_steps": 2, "min_guidance_scale": 2.0, "max_guidance_scale": 2.0}
    settings["output_type"] = "latent"
    expected = by_stock(stock, pictures[0], latents=noise.roll(-1, 1), noise_aug_strength=1e-5, **settings)
    found = ours(pictures[0], orbit=orbit, latents=noise, generator=seeded(), **settings)
    assert torch.equal(found.views, expected.roll(1, 1))
    assert found.orbits == [orbit]


def test_sv3d_survives_the_disk_and_paints_the_first_view_as_it_is(sv3d, pictures, tmp_path):
    ours, _, orbit = sv3d
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["conditioning"] == ours.conditioning
    again = SVDMVPipeline.load(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    found = [
        each(pictures[0], orbit=orbit, num_inference_steps=2, generator=seeded(), **SMALL)
        for each in (ours, again)
    ]
    assert np.array_equal(found[0].views, found[1].views)
    np.testing.assert_allclose(found[0].views[0, 0], np.asarray(pictures[0]) / 255, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"1 numbers|5 numbers"):
        SVDMVPipeline(**ours.components)


def test_only_sv3d_p_takes_uneven_orbits(sv3d, pipeline, pictures):
    ours = sv3d[0]
    uneven = Orbit((0.0, 80.0, 180.0), (10.0, 10.0, 10.0), 2.0)
    wavy = Orbit((0.0, 120.0, 240.0), (10.0, 0.0, 10.0), 2.0)
    even = Orbit((355.0, 115.0, 235.0), (10.0, 10.0, 10.0), 1.7)
    for network in (ours, pipeline):
        for orbit in (uneven, wavy, even):
            if orbit is even or network.conditioning == "sv3d_p":
                assert network(pictures[0], orbit=orbit, num_inference_steps=1, **SMALL).orbits == [orbit]
            else:
                with pytest.raises(
                    ConfigError, match=r"take Orbit\.static or a model of conditioning 'sv3d_p'"
                ):
                    network(pictures[0], orbit=orbit, num_inference_steps=1, **SMALL)


def test_what_a_view_of_sv3d_p_shows_follows_its_own_camera(pictures):
    ours = SVDMVPipeline(**tiny.components(seed=2, time_ids=5), conditioning="sv3d_p")
    ours.set_progress_bar_config(disable=True)
    azimuths, elevations = (0.0, 90.0, 180.0, 270.0), [10.0] * 4
    settings = {**SMALL, "num_inference_steps": 1, "output_type": "latent", "max_guidance_scale": 1.0}
    base = ours(pictures[0], orbit=Orbit(azimuths, tuple(elevations), 2.0), generator=seeded(), **settings)
    elevations[2] = -60.0
    moved = ours(pictures[0], orbit=Orbit(azimuths, tuple(elevations), 2.0), generator=seeded(), **settings)
    change = (moved.views - base.views).abs().mean(dim=(0, 2, 3, 4))
    assert change.argmax() == 2


def test_the_same_seed_gives_the_same_bytes_and_elevation_counts(pipeline, pictures):
    first = generate(pipeline, pictures[0], elevation_deg=0.0)
    assert first.dtype == np.float32
    assert first.shape == (1, 4, SIZE, SIZE, 3)
    assert np.array_equal(first, generate(pipeline, pictures[0], elevation_deg=0.0))
    assert not np.array_equal(first, generate(pipeline, pictures[0], elevation_deg=0.0, seed=1))
    assert not np.array_equal(first, generate(pipeline, pictures[0], elevation_deg=30.0))


def test_a_batch_of_two_is_two_batches(pipeline, pictures):
    small = pictures[1].resize((48, 40))
    both = pipeline(
        [pictures[0], small],
        elevation_deg=[0.0, 30.0],
        generator=[seeded(5), seeded(6)],
        decode_chunk_size=3,
        **QUICK,
    )
    for index, (picture, elevation, seed) in enumerate([(pictures[0], 0.0, 5), (small, 30.0, 6)]):
        alone = generate(pipeline, picture, elevation_deg=elevation, seed=seed, decode_chunk_size=3)
        np.testing.assert_allclose(both.views[index], alone[0], atol=1e-4)
        assert set(both.orbits[index].elevations_deg) == {elevation}


def test_tensors_lists_and_transparent_pictures_agree_with_pictures(pipeline, pictures):
    rgba = np.random.default_rng(1).integers(256, size=(SIZE, SIZE, 4), dtype=np.uint8)
    over_white = to_uint8(composite(rgba))
    expected = generate(pipeline, Image.fromarray(over_white))
    assert np.array_equal(generate(pipeline, [Image.fromarray(over_white)]), expected)
    tensor = torch.from_numpy(over_white).permute(2, 0, 1)[None] / 255
    untouched = tensor.clone()
    assert np.array_equal(generate(pipeline, tensor), expected)
    assert torch.equal(tensor, untouched)
    assert np.array_equal(generate(pipeline, Image.fromarray(rgba)), expected)


def test_the_first_view_is_the_input_and_the_others_do_not_depend_on_that(pipeline, pictures):
    kept = generate(pipeline, pictures[0])[0]
    painted = generate(pipeline, pictures[0], keep_input_view=False)[0]
    np.testing.assert_allclose(kept[0], np.asarray(pictures[0]) / 255, atol=1e-6)
    assert np.array_equal(kept[1:], painted[1:])
    assert not np.allclose(painted[0], kept[0], atol=0.05)


def test_cameras_are_those_of_the_orbit_asked_for(pipeline, pictures):
    found = pipeline(
        pictures[0],
        elevation_deg=25.0,
        azimuth_deg=40.0,
        distance=1.7,
        **{**QUICK, "height": 40, "width": 40},
    )
    orbit = Orbit.static(num_views=4, azimuth_deg=40.0, elevation_deg=25.0, distance=1.7)
    assert found.orbits == [orbit]
    assert orbit.azimuths_deg == (40.0, 130.0, 220.0, 310.0)
    assert found.views.shape == (1, 4, 40, 40, 3)
    expected = orbit.cameras(height=40, width=40)
    assert np.array_equal(found.cameras.camera_to_world, expected.camera_to_world)
    assert np.array_equal(found.cameras.intrinsics, expected.intrinsics)


@pytest.mark.parametrize(
    ("low", "high", "halves"),
    [(1.0, 1.0, 1), (1.0, 2.0, 2), (3.0, 1.0, 2), (0.0, 0.0, 2)],  # stock loses guidance that falls to 1
)
def test_the_unconditional_half_is_computed_where_guidance_needs_it(pipeline, pictures, low, high, halves):
    batches = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    try:
        generate(pipeline, pictures[0], guidance="linear", min_guidance_scale=low, max_guidance_scale=high)
    finally:
        hook.remove()
    assert batches == [halves, halves]


def test_guidance_of_scale_one_written_out_is_no_guidance(pipeline, pictures):
    plain = generate(pipeline, pictures[0], max_guidance_scale=1.0)
    almost = generate(pipeline, pictures[0], max_guidance_scale=1.0 + 1e-6)  # both halves, scale 1
    np.testing.assert_allclose(almost, plain, atol=1e-4)
    assert np.abs(generate(pipeline, pictures[0], max_guidance_scale=4.0) - plain).max() > 1e-3


def test_the_default_guidance_is_that_of_the_checkpoint(pipeline, pictures):
    expected = generate(pipeline, pictures[0], max_guidance_scale=2.0)
    assert np.array_equal(generate(pipeline, pictures[0]), expected)


def test_own_noise_and_a_callback_that_replaces_latents(pipeline, pictures):
    noise = torch.randn(1, 4, 16, 4, 4, generator=seeded(9))
    seen = []

    def watch(owner, step, time, tensors):
        seen.append((owner is pipeline, step, time.item(), tensors["latents"].std().item()))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else {}

    found = generate(pipeline, pictures[0], latents=noise, callback_on_step_end=watch, keep_input_view=False)
    assert [each[:2] for each in seen] == [(True, 0), (True, 1)]
    assert [each[2] for each in seen] == pipeline.scheduler.timesteps.tolist()
    blank = pipeline.decode_latents(torch.zeros(1, 4, 16, 4, 4), 4, 4)
    np.testing.assert_array_equal(found[0], (blank[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1).detach())
    assert pipeline.num_timesteps == 2


def test_types_of_output_agree(pipeline, pictures):
    quick = {**SMALL, "num_views": 2, "num_inference_steps": 1, "max_guidance_scale": 1.0}
    found = {
        kind: pipeline(pictures, generator=seeded(), output_type=kind, **quick)
        for kind in ("np", "pt", "pil", "latent")
    }
    arrays = found["np"].views
    tensors = found["pt"].views
    assert tensors.shape == (2, 2, 3, SIZE, SIZE)
    assert np.array_equal(tensors.movedim(2, 4).numpy(), arrays)
    pil = np.stack([[np.asarray(view) for view in each] for each in found["pil"].views])
    assert np.array_equal(pil, to_uint8(arrays))
    assert found["latent"].views.shape == (2, 2, 16, 4, 4)
    decoded = vae.decode(pipeline.vae, found["latent"].views).movedim(2, 4) / 2 + 0.5
    np.testing.assert_allclose(decoded[:, 1:].clamp(0, 1), arrays[:, 1:], atol=1e-6)
    for each in found.values():
        assert (each.cameras.height, each.cameras.width) == (SIZE, SIZE)
    views, orbits = pipeline(pictures, generator=seeded(), return_dict=False, **quick)
    assert np.array_equal(views, arrays)
    assert orbits == found["np"].orbits


def test_views_go_straight_into_sample_folders(pipeline, pictures, tmp_path):
    found = pipeline(pictures, elevation_deg=[5.0, 25.0], generator=seeded(), **QUICK)
    samples = found.samples(["a", "b"], about={"seed": 0})
    for index, each in enumerate(samples):
        sample.write(each, tmp_path / each.uid)
        again = sample.read(tmp_path / each.uid)
        assert again.orbit == found.orbits[index]
        assert (again.origin, again.condition_view, again.about) == ("generated", 0, {"seed": 0})
        np.testing.assert_allclose(composite(again.images), found.views[index], atol=0.03)
    with pytest.raises(ConfigError, match="1 uids for 2 objects"):
        found.samples(["a"])
    found.views[0, 1, 0, 0, 0] = np.nan
    with pytest.raises(CheckpointError, match="views that are not finite"):
        found.samples(["a", "b"])
    tensors = pipeline(pictures[0], output_type="pt", **QUICK)
    with pytest.raises(ConfigError, match="call the pipeline with output_type='np'"):
        tensors.samples(["a"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"height": 60}, ConfigError, "size 32 x 60: must be a multiple of 8"),
        ({"width": 65}, ConfigError, "size 65 x 32: must be a multiple of 8"),
        ({"width": -8}, ConfigError, "size -8 x 32: must be a multiple of 8"),
        ({"height": 80_000, "width": 80_000}, ConfigError, "size 80000 x 80000: above 64 megapixels"),
        ({"num_views": 0}, ConfigError, "num_views is 0: must be from 2 to 1000"),
        ({"num_views": 1}, ConfigError, "num_views is 1: must be from 2 to 1000"),
        ({"num_views": 10_000}, ConfigError, "num_views is 10000: must be from 2 to 1000"),
        ({"num_inference_steps": 0}, ConfigError, "num_inference_steps is 0"),
        ({"decode_chunk_size": 0}, ConfigError, "decode_chunk_size is 0"),
        ({"elevation_deg": [1.0, 2.0]}, ConfigError, "give one, or one for each of 1 images"),
        ({"elevation_deg": 120.0}, CameraError, "elevation 120.0 degrees is not possible"),
        ({"elevation_deg": float("nan")}, CameraError, "elevation nan degrees is not possible"),
        ({"azimuth_deg": float("inf")}, CameraError, "azimuth nan degrees is not possible"),
        ({"distance": 0.0}, CameraError, "distance 0.0 must be above 0"),
        ({"noise_aug_strength": float("nan")}, ConfigError, "noise_aug_strength is nan"),
        ({"max_guidance_scale": float("inf")}, ConfigError, "max_guidance_scale is inf"),
        ({"min_guidance_scale": -1.0}, ConfigError, "min_guidance_scale is -1.0"),
        ({"fps": -1}, ConfigError, "fps is -1"),
        ({"generator": [seeded(), seeded()]}, ConfigError, "2 generators for 1 images"),
        ({"orbit": Orbit.static(num_views=4)}, ConfigError, "orbit: given together with num_views"),
        ({"orbit": Orbit.static(num_views=1), "num_views": None}, ConfigError, "num_views is 1"),
        ({"orbit": [Orbit.static()] * 2, "num_views": None}, ConfigError, "2 orbits for 1 images"),
        (
            {"latents": torch.zeros(1, 4, 4, 4, 4)},
            ConfigError,
            r"\(1, 4, 4, 4, 4\), but .* \(1, 4, 16, 4, 4\)",
        ),
        ({"latents": torch.full((1, 4, 16, 4, 4), torch.nan)}, ConfigError, "latents: .* not finite"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(pipeline, pictures, monkeypatch, settings, error, message):
    monkeypatch.setattr(pipeline.image_encoder, "forward", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(error, match=message) as caught:
        pipeline(pictures[0], **{**QUICK, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([], ConfigError, "empty list"),
        (Image.new("RGB", (1, 1)), ImageError, "image: 1 x 1 pixels; pass one of at least 8 pixels a side"),
        (
            Image.new("1", (10_000, 10_001)),
            ImageError,
            "10000 x 10001 pixels, above the limit of 64 megapixels",
        ),
        (torch.zeros(3, 64, 64), ConfigError, r"float32 of shape \(3, 64, 64\); pass floats"),
        (torch.zeros(1, 4, 64, 64), ConfigError, r"shape \(1, 4, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ConfigError, "uint8 of shape"),
        (torch.zeros(1, 3, 0, 0), ImageError, "0 x 0 pixels"),
        (torch.zeros(0, 3, 64, 64), ConfigError, "empty list"),
        (torch.zeros(1, 3, 64, 64) - 1, ConfigError, r"values from -1 to -1; they must lie in \[0, 1\]"),
        (torch.full((1, 3, 64, 64), torch.nan), ConfigError, "values from nan to nan"),
    ],
)
def test_what_is_no_picture_is_refused(pipeline, image, error, message):
    with pytest.raises(error, match=message) as caught:
        pipeline(image, **QUICK)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_survives_the_disk(pipeline, checkpoint, pictures):
    suffixes = {path.suffix for path in checkpoint.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    index = json.loads((checkpoint / "model_index.json").read_text())
    assert index["max_guidance_scale"] == 2.0
    assert index["_class_name"] == "SVDMVPipeline"
    again = SVDMVPipeline.load(str(checkpoint))
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(generate(again, pictures[0]), generate(pipeline, pictures[0]))


def test_a_stock_checkpoint_loads_and_is_widened(stock, widened, tmp_path):
    stock.save_pretrained(tmp_path)
    loaded = SVDMVPipeline.load(str(tmp_path))
    assert loaded.config["max_guidance_scale"] == 2.5
    for name, weight in widened.unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], weight)


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """A checkpoint stored in float16, and its pipeline."""
    pipeline = SVDMVPipeline(**tiny.components(seed=1)).to(dtype=torch.float16)
    pipeline.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp("halved")
    pipeline.save_pretrained(folder)
    return folder, pipeline


def test_float16_on_disk_is_float32_in_memory(halved):
    folder, stored = halved
    assert {w.dtype for w in load_file(folder / "unet" / WEIGHTS).values()} == {torch.float16}
    loaded = SVDMVPipeline.load(str(folder))
    for name in ("vae", "image_encoder", "unet"):
        wide, narrow = (each.components[name].state_dict() for each in (loaded, stored))
        floats = [key for key, value in wide.items() if value.is_floating_point()]
        assert floats
        assert all(wide[key].dtype == torch.float32 for key in floats)
        assert all(torch.equal(wide[key], narrow[key].float()) for key in floats)


def test_float16_runs_with_an_autoencoder_that_must_encode_in_float32(halved, pipeline, pictures):
    assert halved[1].vae.config.force_upcast
    found = generate(halved[1], pictures[0], max_guidance_scale=2.0)
    assert halved[1].vae.dtype == torch.float16
    np.testing.assert_allclose(found, generate(pipeline, pictures[0]), atol=0.02)


def test_bfloat16_runs_close_to_float32(pipeline, pictures):
    narrow = SVDMVPipeline(**tiny.components(seed=1)).to(dtype=torch.bfloat16)
    narrow.set_progress_bar_config(disable=True)
    found = generate(narrow, pictures[0], max_guidance_scale=2.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, generate(pipeline, pictures[0]), atol=0.1)


def test_offloaded_parts_give_the_same(pipeline, pictures):
    expected = generate(pipeline, pictures[0], decode_chunk_size=2)
    offloaded = SVDMVPipeline(**tiny.components(seed=1), max_guidance_scale=2.0)
    offloaded.set_progress_bar_config(disable=True)
    offloaded.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert np.array_equal(generate(offloaded, pictures[0], decode_chunk_size=2), expected)


def drop_a_weight(folder, name):
    path = next((folder / name).glob("*.safetensors"))
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    path.unlink()
    save_file(weights, path, {"format": "pt"})


def to_pickle(folder, name):
    path = next((folder / name).glob("*.safetensors"))
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def rewrite(path, content):
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "holds no model_index.json"),
        (lambda f: (f / "unet" / WEIGHTS).unlink(), f"no file named {WEIGHTS}"),
        (lambda f: shutil.rmtree(f / "vae"), "config.json"),
        (lambda f: to_pickle(f, "unet"), f"no file named {WEIGHTS}"),
        (lambda f: to_pickle(f, "image_encoder"), "no file named model.safetensors"),
        (lambda f: drop_a_weight(f, "unet"), "unet: 1 weights are not in its file, such as add_embedding"),
        (lambda f: drop_a_weight(f, "image_encoder"), "image_encoder: 1 weights are not in its file"),
        (lambda f: drop_a_weight(f, "vae"), "vae: 1 weights are not in its file"),
        (lambda f: rewrite(f / "unet" / WEIGHTS, b"version https://git-lfs"), "git-lfs"),
        (lambda f: rewrite(f / "image_encoder/model.safetensors", bytes(100)), "cannot be loaded"),
        (lambda f: rewrite(f / "vae/config.json", b"{"), "not a valid JSON"),
        (lambda f: rewrite(f / "model_index.json", b"{"), "not a valid JSON"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of foreign loaders, about what we refuse anyway
def test_a_broken_checkpoint_is_refused_in_one_line(checkpoint, tmp_path, break_it, message):
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint, folder, copy_function=os.link)
    break_it(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        SVDMVPipeline.load(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "; pass " in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-folder", "./no/such", "/no/such", "a/b/c", "~/model", "x" * 999])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(name):
    with pytest.raises(CheckpointError, match="no such model folder, and not a hub id"):
        SVDMVPipeline.load(name)


def test_a_unet_of_another_width_is_refused(tmp_path):
    parts = tiny.components()
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    tiny.unet(time_ids=2).save_pretrained(tmp_path / "unet")
    index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SVDMVPipeline", **index}))
    with pytest.raises(CheckpointError, match="holds 2 numbers"):
        SVDMVPipeline.load(str(tmp_path))


@pytest.mark.parametrize("name", ["unet", "image_encoder", "vae"])
@pytest.mark.filterwarnings("ignore")  # of foreign loaders, about what we refuse anyway
def test_from_pretrained_never_opens_a_pickle(checkpoint, tmp_path, monkeypatch, name):
    folder = tmp_path / "pickled"
    shutil.copytree(checkpoint, folder, copy_function=os.link)
    to_pickle(folder, name)
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("a pickle was opened"))
    with pytest.raises(OSError, match="no file named"):
        SVDMVPipeline.from_pretrained(str(folder))


def test_it_is_pushed_to_the_hub_as_it_is_saved(pipeline, checkpoint, monkeypatch):
    pushed = {}

    def upload(self, working_dir, repo_id, **_):
        folder = Path(working_dir)
        files = [file for file in folder.rglob("*") if file.is_file() and file.name != "README.md"]
        pushed[repo_id] = {str(file.relative_to(folder)): file.read_bytes() for file in files}

    monkeypatch.setattr(SVDMVPipeline, "_upload_folder", upload)
    hub = "diffusers.utils.hub_utils"
    monkeypatch.setattr(f"{hub}.create_repo", lambda repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(f"{hub}.load_or_create_model_card", lambda *_, **__: ModelCard("---\n{}\n---\n"))
    pipeline.push_to_hub("somebody/svd-mv")
    saved = {str(f.relative_to(checkpoint)): f.read_bytes() for f in checkpoint.rglob("*") if f.is_file()}
    assert pushed == {"somebody/svd-mv": saved}


@pytest.fixture
def offline_hub(monkeypatch, tmp_path):
    """A cache of the hub, with the hub out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_hub_id_out_of_reach_is_refused_in_one_line(offline_hub):
    with pytest.raises(CheckpointError, match=r"somebody/svd: cannot be loaded .*hub id that can be reached"):
        SVDMVPipeline.load("somebody/svd")


@pytest.fixture
def downloaded(offline_hub, checkpoint):
    """`somebody/svd` in the cache of the hub."""
    revision = "0" * 40
    stored = offline_hub / "models--somebody--svd"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs/main").write_text(revision)
    return shutil.copytree(checkpoint, stored / "snapshots" / revision, copy_function=os.link)


@pytest.mark.parametrize("hub_id", [False, True])
def test_encoders_load_without_the_weights_of_the_unet(downloaded, pipeline, hub_id):
    (downloaded / "unet" / WEIGHTS).unlink()
    loaded = SVDMVPipeline.load("somebody/svd" if hub_id else str(downloaded), encoders_only=True)
    assert (loaded.size, loaded.conditioning) == (pipeline.size, pipeline.conditioning)
    assert sum(each.numel() for each in loaded.unet.parameters() if not each.is_meta) < 100  # mixing factors
    for name in ("vae", "image_encoder"):
        for weight, expected in zip(
            getattr(loaded, name).parameters(), getattr(pipeline, name).parameters(), strict=True
        ):
            assert torch.equal(weight, expected), name


def test_a_hub_id_loads_from_the_cache_when_offline(downloaded, pipeline):
    loaded = SVDMVPipeline.load("somebody/svd")
    weight = "conv_in.weight"
    assert torch.equal(loaded.unet.state_dict()[weight], pipeline.unet.state_dict()[weight])


def test_lora_on_temporal_attention_changes_views_only_once_trained(pictures):
    pipeline = SVDMVPipeline(**tiny.components(seed=1))
    pipeline.set_progress_bar_config(disable=True)
    before = generate(pipeline, pictures[0])
    targets = r".*temporal_transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)"
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=targets), pipeline.unet)
    np.testing.assert_allclose(generate(pipeline, pictures[0]), before, atol=1e-4)
    adapters = [p for n, p in pipeline.unet.named_parameters() if "lora_B" in n]
    assert adapters
    with torch.no_grad():
        for parameter in adapters:
            parameter.normal_(generator=seeded())
    assert np.abs(generate(pipeline, pictures[0]) - before).max() > 1e-3
