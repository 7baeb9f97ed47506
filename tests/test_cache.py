"""`svd3d cache` on real encoders: stored is what encoding gives, and an interruption costs nothing."""

import dataclasses
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from svd3d import cache, cli, images, runs, sample
from svd3d.data import latents, shards
from svd3d.data.latents import Latents
from svd3d.errors import ConfigError, InputError, OutputError
from svd3d.model import TINY_FOLDER, conditioning, vae
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.sample import Capture
from svd3d.settings import CacheConfig, CacheVerifyConfig

VIEWS = 3


@pytest.fixture(scope="module")
def views(make_sample, tmp_path_factory):
    """Five orbits of three views."""
    folder = tmp_path_factory.mktemp("views")
    for number, solid in enumerate(("sphere", "boxes", "boxes", "sphere", "boxes")):
        make_sample(
            folder / f"o{number}",
            uid=f"o{number}",
            solid=solid,
            num_views=VIEWS,
            elevation_deg=10.0 * number,
            azimuth_deg=7.0 * number,
            depth=False,
            about={"licence": "cc0" if number else "cc-by"},
        )
    return folder


@pytest.fixture(scope="module")
def settings(views):
    return CacheConfig(
        views, Path("replaced"), num_views=VIEWS, all_condition_views=True, objects_per_shard=2, device="cpu"
    )


@pytest.fixture(scope="module")
def made(settings, tmp_path_factory):
    """A cache of all of them, which no test changes."""
    out = tmp_path_factory.mktemp("cache")
    assert [each.status for each in run(settings, out)] == ["done"] * 5
    return out


@pytest.fixture(scope="module")
def pipeline():
    return SVDMVPipeline.load("tiny")


def run(settings, out, **changed):
    return list(cache.run(dataclasses.replace(settings, out=out, **changed)))


def rows(folder):
    opened = Latents.open(folder)
    return [opened.read(index, variant=variant) for index in range(len(opened)) for variant in range(2)]


def same(one, other):
    return all(
        torch.equal(getattr(a, field.name), getattr(b, field.name))
        if torch.is_tensor(getattr(a, field.name))
        else getattr(a, field.name) == getattr(b, field.name)
        for a, b in zip(one, other, strict=True)
        for field in dataclasses.fields(a)
    )


@pytest.mark.parametrize("variant", [0, 1])
def test_what_is_stored_is_what_encoding_gives(made, views, pipeline, variant):
    row = Latents.open(made).rows(["o2"], variant=variant)[0]
    source = sample.read(views / "o2").resized(64)
    flat = images.to_uint8(images.composite(source.images, background=row.background))
    pixels = torch.from_numpy(flat / 127.5 - 1).permute(0, 3, 1, 2).float()
    assert (row.background == images.WHITE) == (variant == 0)
    with torch.no_grad():
        close = {"rtol": 2e-3, "atol": 2e-3}  # float16
        factor = pipeline.vae.config.scaling_factor
        posterior = pipeline.vae.encode(pixels).latent_dist
        torch.testing.assert_close(row.latents, factor * posterior.mode(), **close)
        torch.testing.assert_close(row.cond_latents[:, 0], posterior.mode(), **close)
        embedding = pipeline._encode_image([Image.fromarray(each) for each in flat], "cpu", 1, False)
        torch.testing.assert_close(row.clip, embedding[:, 0], **close)
    assert row.elevations_deg.tolist() == [20.0] * 3
    assert row.azimuths_deg.tolist() == [14.0, 134.0, 254.0]
    assert row.licence == "cc0"


def test_noise_lies_in_the_pixels_and_its_strength_is_known(made, pipeline):
    """Noisy encodings lie as far from the clean one as encodings of pictures with such noise do."""
    row = Latents.open(made).rows(["o1"])[0]
    assert torch.equal(row.noise_aug[:, 0], torch.zeros(VIEWS))
    assert row.noise_aug[:, 1:].unique().numel() == 2 * VIEWS
    assert (row.noise_aug[:, 1:].log() + 3).abs().max() < 2.5  # log strength ~ N(-3, 0.5^2): five deviations
    with torch.no_grad():
        clean = vae.decode(pipeline.vae, row.cond_latents[:, 0][None] * pipeline.vae.config.scaling_factor)[0]
        strength = row.noise_aug[:, 1]
        generator = torch.Generator().manual_seed(0)
        again = conditioning.augmented(clean, strength=strength, generator=generator)
        expected = vae.encode_condition(pipeline.vae, again) - vae.encode_condition(pipeline.vae, clean)
    found = row.cond_latents[:, 1] - row.cond_latents[:, 0]
    ratio = found.square().mean((1, 2, 3)).sqrt() / expected.square().mean((1, 2, 3)).sqrt()
    assert (ratio.log().abs() < 0.5).all(), ratio


def test_captures_and_orbits_share_a_cache(make_sample, settings, pipeline, tmp_path):
    """Of a capture the middle square is stored, before no background, with angles that nobody knows."""
    random = np.random.default_rng(0)
    film = random.integers(0, 256, (VIEWS, 64, 96, 3), dtype=np.uint8)
    sample.write_capture(Capture("walk", film, {"licence": "cc-by"}), tmp_path / "views/walk")
    make_sample(tmp_path / "views/o1", uid="o1", num_views=VIEWS, depth=False)
    run(settings, tmp_path / "cache", views=tmp_path / "views")
    opened = Latents.open(tmp_path / "cache")
    assert opened.uids == ["o1", "walk"]
    for variant in range(2):
        row = opened.read(1, variant=variant)
        pixels = torch.from_numpy(film[:, :, 16:80] / 127.5 - 1).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            expected = pipeline.vae.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(row.cond_latents[:, 0], expected, rtol=2e-3, atol=2e-3)
        assert row.elevations_deg.isnan().all()
        assert row.azimuths_deg.isnan().all()
    assert opened.read(0).elevations_deg.isfinite().all()
    licences = json.loads((tmp_path / "cache/manifest.json").read_text())["licences"]
    assert "cc-by" in licences


def test_another_model_never_joins_a_cache(settings, views, tmp_path):
    model = shutil.copytree(TINY_FOLDER, tmp_path / "model")
    some = shutil.copytree(views / "o1", tmp_path / "views/o1").parent
    run(settings, tmp_path / "cache", views=some, model=str(model))
    weights = model / "vae/diffusion_pytorch_model.safetensors"
    save_file({name: 2 * each for name, each in load_file(weights).items()}, weights)
    with pytest.raises(ConfigError, match="its orbits were made by another model or at another size"):
        run(settings, tmp_path / "cache", model=str(model))


def test_the_condition_view_of_a_sample_comes_first(make_sample, settings, tmp_path):
    make_sample(tmp_path / "views/o", uid="o", num_views=VIEWS, condition_view=2, depth=False)
    run(settings, tmp_path / "cache", views=tmp_path / "views", all_condition_views=False)
    row = Latents.open(tmp_path / "cache").read(0)
    assert row.azimuths_deg.tolist() == [240.0, 0.0, 120.0]
    assert len(row.cond_latents) == len(row.clip) == 1


def test_the_index_tells_model_and_counts(made, pipeline):
    info = latents.read_index(made)
    assert info.encoders.vae == latents.vae_digest(pipeline.vae)
    assert info.encoders.clip == latents.clip_digest(pipeline.image_encoder)
    assert (info.objects, info.failed) == (5, 0)
    assert sorted(each.objects for each in info.shards) == [1, 2, 2]
    assert json.loads((made / "manifest.json").read_text())["licences"] == ["cc-by", "cc0"]


def test_running_again_does_nothing(made, settings, monkeypatch):
    monkeypatch.setattr(cache, "_load", lambda *_, **__: pytest.fail("the model was loaded"))
    before = latents.read_index(made).fingerprint
    assert {each.status for each in run(settings, made)} == {"skipped"}
    assert latents.read_index(made).fingerprint == before


def test_what_was_interrupted_goes_on_to_the_same_bytes(made, settings, tmp_path, monkeypatch):
    encode, calls = cache.encode, []

    def interrupted(*arguments, **options):
        calls.append(arguments[1])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(*arguments, **options)

    monkeypatch.setattr(cache, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path)
    assert not cache.is_finished(tmp_path)
    assert sorted(each.status for each in run(settings, tmp_path)) == ["done"] * 3 + ["skipped"] * 2
    assert latents.read_index(tmp_path).fingerprint == latents.read_index(made).fingerprint
    assert not list(tmp_path.rglob("*.tmp"))


def test_parts_share_the_work_and_the_last_one_finishes(made, settings, tmp_path):
    first = run(settings, tmp_path, part=0, parts=2, objects_per_shard=9)
    assert not cache.is_finished(tmp_path)
    second = run(settings, tmp_path, part=1, parts=2, encode_chunk=1, workers=1)
    assert {each.uid for each in first} ^ {each.uid for each in second} == {"o0", "o1", "o2", "o3", "o4"}
    assert first
    assert second
    for one, other in zip(rows(tmp_path), rows(made), strict=True):
        assert one.uid == other.uid
        assert torch.equal(one.noise_aug, other.noise_aug)
        torch.testing.assert_close(one.latents, other.latents, rtol=2e-3, atol=2e-3)


def test_broken_samples_are_named_and_counted_and_tried_again(settings, views, tmp_path):
    broken = shutil.copytree(views, tmp_path / "views")
    (broken / "o1/images/001.png").write_bytes(b"no picture")
    results = {each.uid: each for each in run(settings, tmp_path / "cache", views=broken)}
    assert {uid: each.status for uid, each in results.items() if each.status != "done"} == {"o1": "failed"}
    assert "images/001.png: not an image" in results["o1"].message
    assert latents.read_index(tmp_path / "cache").failed == 1
    assert runs.read_lines(tmp_path / "cache/ledger.jsonl")[1]["status"] == "failed"
    shutil.copytree(views / "o1", broken / "o1", dirs_exist_ok=True)
    again = run(settings, tmp_path / "cache", views=broken)
    assert sorted(each.status for each in again) == ["done"] + ["skipped"] * 4
    info = latents.read_index(tmp_path / "cache")
    assert (info.objects, info.failed) == (5, 0)


def test_samples_that_cannot_be_trained_on_are_refused(make_sample, settings, tmp_path):
    make_sample(tmp_path / "views/a", uid="a", num_views=4, depth=False)
    made = make_sample(num_views=VIEWS, depth=False)
    sample.write(dataclasses.replace(made, uid="b", orbit=None), tmp_path / "views/b")
    with pytest.raises(InputError, match="none of 2 samples could be encoded; see ledger"):
        run(settings, tmp_path / "cache", views=tmp_path / "views")
    told = {each["uid"]: each["message"] for each in runs.read_lines(tmp_path / "cache/ledger.jsonl")}
    assert "holds 4 views, expected 3; set --num-views" in told["a"]
    assert "holds no orbit, so no elevations" in told["b"]


def test_other_settings_are_refused(made, settings):
    with pytest.raises(ConfigError, match=r"made with other settings \(seed was 0, now 1\)"):
        run(settings, made, seed=1)


def test_a_disk_that_is_too_small_is_told_before_anything_is_encoded(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(OutputError, match=r"the next shard needs 0.00 GB, and 0.00 GB are free; free some"):
        run(settings, tmp_path)


@pytest.mark.parametrize("damage", ["rotted", "gone", "shard gone"])
def test_damage_is_found_and_repaired_to_the_same_bytes(made, tmp_path, damage):
    folder = shutil.copytree(made, tmp_path / "cache")
    shard = latents.read_index(folder).shards[1]
    path = folder / "shards" / shard.name / "latents.parquet"
    if damage == "rotted":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "gone":
        path.unlink()
    else:
        shutil.rmtree(path.parent)
    found = {each.uid: each for each in cache.verify(CacheVerifyConfig(folder, repair=True))}
    assert [uid for uid, each in found.items() if each.status == "failed"] == [shard.name]
    assert str(path) in found[shard.name].message
    list(cache.run(cache.settings_of(folder)))
    assert latents.read_index(folder).fingerprint == latents.read_index(made).fingerprint
    assert {each.status for each in cache.verify(CacheVerifyConfig(folder))} == {"done"}


def test_a_sample_that_is_gone_cannot_be_repaired(made, views, settings, tmp_path):
    folder = shutil.copytree(made, tmp_path / "cache")
    for shard in latents.read_index(folder).shards:
        (folder / "shards" / shard.name / "latents.parquet").unlink()
    fewer = shutil.copytree(views, tmp_path / "views")
    shutil.rmtree(fewer / "o3")
    with pytest.raises(InputError, match=r"o3 must be encoded again \(its shard is damaged\), and is not"):
        run(settings, folder, views=fewer)


def test_the_commands_tell_what_they_found_by_their_exit_codes(made, views, tmp_path, capsys):
    def command(*words):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(word) for word in words])
        return caught.value.code, capsys.readouterr().err

    folder = shutil.copytree(made, tmp_path / "cache")
    assert command("cache", "verify", folder)[0] == 0
    shard = latents.read_index(folder).shards[0]
    (folder / "shards" / shard.name / "latents.parquet").unlink()
    code, told = command("cache", "verify", folder)
    assert code == 1
    assert f"failed: {shard.name}: " in told
    assert f"Encode them again with: svd3d cache verify {folder} --repair" in told
    code, told = command("cache", "verify", folder, "--repair", "True")
    assert code == 0
    assert "Next: svd3d train" in told
    assert command("cache", "verify", folder)[0] == 0
    code, told = command("cache", views, "--out", folder, "--num-views", 7)
    assert code == 2
    assert "made with other settings (num_views was 3, now 7" in told


def test_the_weights_of_the_unet_are_not_needed(made, settings, tmp_path):
    model = shutil.copytree(TINY_FOLDER, tmp_path / "model")
    (model / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    run(settings, tmp_path / "cache", model=str(model))
    assert latents.read_index(tmp_path / "cache").fingerprint == latents.read_index(made).fingerprint


def test_a_name_that_shards_cannot_hold_is_refused_by_name(views, settings, tmp_path):
    name = os.fsdecode(b"o\xff")
    shutil.copytree(views / "o1", tmp_path / "views" / name)
    shutil.copytree(views / "o2", tmp_path / "views/o2")
    results = run(settings, tmp_path / "cache", views=tmp_path / "views")
    assert {each.uid: each.status for each in results} == {name: "failed", "o2": "done"}
    assert "its name is not UTF-8, which shards need; rename the folder" in results[1].message
    assert latents.read_index(tmp_path / "cache").failed == 1
    again = run(settings, tmp_path / "cache", views=tmp_path / "views")
    assert sorted(each.status for each in again) == ["failed", "skipped"]


@pytest.fixture(scope="module")
def begin(views):
    """Begins `svd3d cache` on the five orbits in a process of its own that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "datasets", "svd3d.cli", "svd3d.cache", "svd3d.model.memory"])
    words = ["cache", views, "--num-views", VIEWS, "--all-condition-views", True, "--objects-per-shard", 2]

    def begin(out, *more):
        process = context.Process(
            target=cli.main, args=([str(each) for each in (*words, "--out", out, *more)],)
        )
        process.start()
        return process

    return begin


def end(*processes):
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_parts_at_the_same_time_make_what_one_makes(made, begin, tmp_path):
    end(*(begin(tmp_path, "--part", part, "--parts", 2) for part in range(2)))
    assert same(rows(tmp_path), rows(made))


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(made, begin, tmp_path, kills):
    expected = latents.read_index(made).fingerprint
    for moment in np.random.default_rng(0).uniform(0, 2, kills):
        process = begin(tmp_path / "cache")
        process.join(moment)
        process.kill()
        process.join()
        assert not any(shard.is_damaged for shard in shards.read_shards(tmp_path / "cache"))
        if cache.is_finished(tmp_path / "cache"):
            assert latents.read_index(tmp_path / "cache").fingerprint == expected
            shutil.rmtree(tmp_path / "cache")
    end(begin(tmp_path / "cache"))
    assert latents.read_index(tmp_path / "cache").fingerprint == expected
    assert same(rows(tmp_path / "cache"), rows(made))
