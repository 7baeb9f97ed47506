"""`svd3d cache` of clips: stored is what encoding gives, whatever happens on the way; training reads it."""

import dataclasses
import json
import math
import multiprocessing
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from svd3d import cache, cli, runs
from svd3d.curation import table, windows
from svd3d.data import clips, latents, shards
from svd3d.data.dataset import Batches
from svd3d.data.latents import ClipLatents, Latents
from svd3d.errors import CheckpointError, ConfigError, InputError
from svd3d.model import tiny
from svd3d.model.interpolation_pipeline import FrameInterpolationPipeline
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.settings import CacheConfig, CacheVerifyConfig
from tests.trainings import small_unet
from tests.videos import text_encoder, write_tokenizer

HEIGHT, WIDTH, FRAMES = 32, 48, 3
CLOSE = {"rtol": 2e-3, "atol": 2e-3}  # float16
CLIPS = {"a": ((0, 12), (12, 20), (20, 24)), "b": ((0, 10), (10, 24)), "c": ((0, 24),)}
"""First frame and the one after the last of the clips of each video; the last one of `a` is too short."""
CAPTIONS = ("a red cup", "the camera turns around a cup", "a turning cup")


def make_clip(video, number, start, end):
    captions = dict(zip(table.CAPTIONS, CAPTIONS, strict=True))
    if video == "b":
        captions["caption_video"] = None
    if video == "c":
        captions = dict.fromkeys(captions)
    return table.Clip(
        id=f"{video}-{number:04d}",
        video=f"films/{video}.mp4",
        video_id=video,
        clip=number,
        start_frame=start,
        end_frame=end,
        start_s=start / 25,
        end_s=end / 25,
        fps=25.0,
        width=WIDTH,
        height=HEIGHT,
        motion=None if video == "c" else 0.25 * number,
        caption_probabilities=table.probabilities(captions),
        **captions,
    )


@pytest.fixture(scope="module")
def curated(write_video, make_texture, tmp_path_factory):
    """A folder of svd3d curate with six clips of three videos."""
    folder = tmp_path_factory.mktemp("curated")
    (folder / "films").mkdir()
    for seed, name in enumerate(CLIPS):
        frames = [make_texture(100 * seed + each, height=HEIGHT, width=WIDTH) for each in range(24)]
        write_video(folder / f"films/{name}.mp4", frames)
    rows = [make_clip(video, n, *each) for video, all_ in CLIPS.items() for n, each in enumerate(all_)]
    table.write(folder / table.NAME, rows, facts=lambda: {"videos": str(folder)})
    return folder


def write_text_model(folder, *, seed=0):
    """A model in the manner of Stable Diffusion 2.1: autoencoder, text encoder and tokenizer."""
    write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
        ).save_pretrained(folder / "vae")
        text_encoder(width=16).save_pretrained(folder / "text_encoder")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "image_encoder": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture(scope="module")
def settings(curated, model):
    return CacheConfig(
        curated,
        Path("replaced"),
        model=str(model),
        clip_size=(HEIGHT, WIDTH),
        clip_frames=FRAMES,
        clip_stride=2,
        objects_per_shard=2,
        device="cpu",
    )


def run(settings, out, **changed):
    return {each.uid: each for each in cache.run(dataclasses.replace(settings, out=out, **changed))}


@pytest.fixture(scope="module")
def made(settings, tmp_path_factory):
    """A cache of all that fit, which no test changes."""
    out = tmp_path_factory.mktemp("cache")
    results = run(settings, out)
    failed = {uid: each.message for uid, each in results.items() if each.status == "failed"}
    assert list(failed) == ["a-0002"]
    assert "a.mp4: clip a-0002: has 4 frames, fewer than the 5 of every 2th" in failed["a-0002"]
    assert len(results) == 6
    return out


@pytest.fixture(scope="module")
def opened(made):
    return ClipLatents.open(made)


def decoded(path):
    """All frames of a film, by another reader."""
    cv2 = pytest.importorskip("cv2")
    film, frames = cv2.VideoCapture(str(path)), []
    while (frame := film.read()[1]) is not None:
        frames.append(frame[..., ::-1])
    return np.stack(frames)


def pixels(frames):
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("uid", ["a-0001", "b-0001", "c-0000"])
def test_what_is_stored_is_what_encoding_gives(opened, curated, model, uid):
    (row,) = opened.rows([uid])
    start, end = CLIPS[uid[0]][int(uid[-1])]
    first = (start + end - 1 - 4) // 2
    assert row.frames == (first, first + 2, first + 4)
    assert row.fps == pytest.approx(12.5)
    vae = AutoencoderKL.from_pretrained(model / "vae")
    frames = decoded(curated / row.video)[list(row.frames)]
    with torch.no_grad():
        expected = vae.config.scaling_factor * vae.encode(pixels(frames)).latent_dist.mode()
    torch.testing.assert_close(row.latents, expected, rtol=2e-2, atol=2e-2)  # two decoders of colour
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder")
    shares = {"a": (0.5, 0.25, 0.25), "b": (2 / 3, 1 / 3), "c": ()}[uid[0]]
    texts = {"a": CAPTIONS, "b": (CAPTIONS[0], CAPTIONS[2]), "c": ()}[uid[0]]
    assert row.texts == texts
    assert row.texts_drawn == pytest.approx(shares)
    assert row.captions.shape == (len(texts), 77, 16)
    for text, states in zip(texts, row.captions, strict=True):
        tokens = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        assert tokens[0, 2:].unique().numel() > 3  # the words arrive as letters
        with torch.no_grad():
            torch.testing.assert_close(states, encoder(tokens)[0][0], **CLOSE)
    assert math.isnan(row.motion) if uid[0] == "c" else row.motion == 0.25
    assert row.clip is row.cond_latents is row.noise_aug is None


def test_what_is_stored_is_what_encoding_the_window_gives_to_the_last_bit(opened, settings, curated):
    """The same decoder and encoders, called without a cache."""
    source = cache.Clips.of(settings, curated / table.NAME)
    loaded = source.load(tell=lambda _: None)
    plan = windows.Plan(FRAMES, None, 2, HEIGHT, WIDTH)
    for clip, window in windows.read(curated / "films/b.mp4", list(source.clips.values())[3:5], plan):
        direct = cache.encode_clip(loaded, clip, window, seed=0, chunk=7)
        (row,) = opened.rows([clip.id])
        assert torch.equal(row.latents, direct.latents.half().float())
        assert torch.equal(row.captions, direct.captions.half().float())


def test_a_model_with_an_image_encoder_gives_the_first_frame_as_condition(settings, curated, tmp_path):
    results = run(settings, tmp_path, model="tiny")
    assert sum(each.status == "done" for each in results.values()) == 5
    opened = ClipLatents.open(tmp_path)
    (row,) = opened.rows(["b-0000"])
    assert row.captions is None
    assert row.texts == (CAPTIONS[0], CAPTIONS[2])
    pipeline = SVDMVPipeline.load("tiny")
    frame = next(iter(windows.read(curated / row.video, [_window_clip("b", 0)], _plan())))[1].images[0]
    with torch.no_grad():
        mode = pipeline.vae.encode(pixels(frame[None])).latent_dist.mode()[0]
        embedding = pipeline._encode_image(Image.fromarray(frame), "cpu", 1, False)[0, 0]
    torch.testing.assert_close(row.cond_latents[0], mode, **CLOSE)
    torch.testing.assert_close(row.latents[0], pipeline.vae.config.scaling_factor * mode, **CLOSE)
    torch.testing.assert_close(row.clip, embedding, **CLOSE)
    assert row.noise_aug[0] == 0
    assert (row.noise_aug[1:].log() + 3).abs().max() < 2.5
    apart = (row.cond_latents[1:] - row.cond_latents[0]).square().mean((1, 2, 3)).sqrt()
    assert (apart > 0.01).all()
    with pytest.raises(InputError, match="holds clips, expected orbits"):
        Latents.open(tmp_path)


def test_a_model_that_fills_in_frames_gives_both_ends_as_conditions(settings, curated, tmp_path):
    """And noise in pixels is not encoded: that of their latents is drawn in training."""
    parts = tiny.components(time_ids=3)
    filling = small_unet(time_ids=3, in_channels=2 * tiny.LATENT_CHANNELS + 1)
    pipeline = FrameInterpolationPipeline(**{**parts, "unet": filling})
    pipeline.save_pretrained(tmp_path / "model")
    run(settings, tmp_path / "cache", model=str(tmp_path / "model"))
    opened = ClipLatents.open(tmp_path / "cache")
    (row,) = opened.rows(["b-0000"])
    frames = next(iter(windows.read(curated / row.video, [_window_clip("b", 0)], _plan())))[1].images
    embeddings = [
        pipeline._encode_image(Image.fromarray(frames[end]), "cpu", 1, False)[0, 0] for end in (0, -1)
    ]
    torch.testing.assert_close(row.clip, torch.stack(embeddings), **CLOSE)
    assert row.cond_latents is row.noise_aug is None
    batch = next(iter(Batches(opened, seed=0, global_batch=2, micro_batch=2, held_out=0.0)))
    assert torch.equal(batch["ends"], batch["latents"][:, [0, -1]])
    assert batch["clip"].shape == (2, 2, 32)
    assert not batch["noise_aug"].any()


def _window_clip(video, number):
    start, end = CLIPS[video][number]
    return windows.Clip(f"{video}-{number:04d}", "", video, start, end, start / 25, end / 25, 25.0, None, {})


def _plan():
    return windows.Plan(FRAMES, None, 2, HEIGHT, WIDTH)


def test_the_index_tells_kind_model_and_counts(made, opened):
    assert json.loads((made / "index.json").read_text())["kind"] == "clips"
    info = opened.info
    assert (info.objects, info.failed) == (5, 1)
    assert (info.shape.size, info.shape.num_frames, info.shape.stride) == ((HEIGHT, WIDTH), FRAMES, 2)
    assert (info.shape.text, info.shape.clip_dim) == ((77, 16), None)
    assert ClipLatents.open(made, vae_digest=info.encoders.vae, size=(HEIGHT, WIDTH)).uids == opened.uids
    with pytest.raises(InputError, match="and the model has 000000000000"):
        ClipLatents.open(made, vae_digest="0" * 64)
    with pytest.raises(InputError, match=r"latents of \(32, 48\) pixels, and the training is for \(32, 32\)"):
        ClipLatents.open(made, size=(32, 32))


def test_what_was_interrupted_goes_on_to_the_same_bytes(made, settings, tmp_path, monkeypatch):
    encode, calls = cache.encode_clip, []

    def interrupted(*arguments, **options):
        calls.append(arguments[1].id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(*arguments, **options)

    monkeypatch.setattr(cache, "encode_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path)
    assert not cache.is_finished(tmp_path)
    again = run(settings, tmp_path)
    assert sorted(each.status for each in again.values()) == ["done"] * 2 + ["failed"] + ["skipped"] * 3
    assert latents.read_index(tmp_path).objects == 5
    assert same(ClipLatents.open(tmp_path), ClipLatents.open(made))


def same(one, other):
    assert one.uids == other.uids
    pairs = [(one.read(index), other.read(index)) for index in range(len(one))]
    return all(
        torch.equal(a.latents, b.latents) and torch.equal(a.captions, b.captions) and a.frames == b.frames
        for a, b in pairs
    )


def test_parts_never_share_a_video(made, settings, tmp_path):
    parts = [run(settings, tmp_path, part=part, parts=2) for part in range(2)]
    assert not {uid[0] for uid in parts[0]} & {uid[0] for uid in parts[1]}
    assert sum(map(len, parts)) == 6
    assert same(ClipLatents.open(tmp_path), ClipLatents.open(made))


def test_a_selection_and_more_clips_later_join_one_cache(made, settings, curated, tmp_path):
    chosen = [make_clip("b", n, *each) for n, each in enumerate(CLIPS["b"])]
    table.write(tmp_path / "chosen.parquet", chosen, facts=lambda: {"videos": str(curated)})
    assert list(run(settings, tmp_path / "out", views=tmp_path / "chosen.parquet")) == ["b-0000", "b-0001"]
    assert latents.read_index(tmp_path / "out").objects == 2
    run(settings, tmp_path / "out")
    assert same(ClipLatents.open(tmp_path / "out"), ClipLatents.open(made))


def test_damaged_videos_are_named_left_out_and_tried_again(settings, curated, tmp_path):
    videos = shutil.copytree(curated / "films", tmp_path / "films")
    rows = [make_clip(video, n, *each) for video, all_ in CLIPS.items() for n, each in enumerate(all_)]
    table.write(tmp_path / table.NAME, rows, facts=lambda: {"videos": str(tmp_path)})
    (videos / "b.mp4").write_bytes(b"<!doctype html>")
    (videos / "c.mp4").unlink()
    results = run(settings, tmp_path / "out", views=tmp_path)
    assert {uid for uid, each in results.items() if each.status == "failed"} == {
        "a-0002", "b-0000", "b-0001", "c-0000"
    }  # fmt: skip
    assert f"{videos / 'b.mp4'}: not a video" in results["b-0001"].message
    assert f"{videos / 'c.mp4'}: no such video" in results["c-0000"].message
    assert latents.read_index(tmp_path / "out").failed == 4
    told = {each["uid"]: each["status"] for each in runs.read_lines(tmp_path / "out/ledger.jsonl")}
    assert told == {uid: each.status for uid, each in results.items()}
    shutil.copy(curated / "films/c.mp4", videos)
    again = run(settings, tmp_path / "out", views=tmp_path)
    assert again["c-0000"].status == "done"
    assert latents.read_index(tmp_path / "out").failed == 3


def test_another_model_or_size_never_joins_a_cache(settings, model, tmp_path):
    mine = shutil.copytree(model, tmp_path / "model")
    some = [make_clip("c", 0, 0, 24)]
    table.write(tmp_path / "some.parquet", some, facts=lambda: {"videos": str(settings.views)})
    run(settings, tmp_path / "out", model=str(mine), views=tmp_path / "some.parquet")
    shutil.rmtree(mine)
    write_text_model(mine, seed=1)
    with pytest.raises(ConfigError, match="its clips were made by another model or at another size"):
        run(settings, tmp_path / "out", model=str(mine))
    with pytest.raises(
        ConfigError, match=r"made with other settings \(clip_size was \[32, 48\], now \[32, 32"
    ):
        run(settings, tmp_path / "out", model=str(mine), clip_size=(32, 32))


def test_models_that_cannot_encode_clips_are_refused(settings, model, tmp_path):
    with pytest.raises(ConfigError, match="clip_size 32 46: must be multiples of 4; choose others"):
        run(settings, tmp_path / "a", clip_size=(32, 46))
    mine = shutil.copytree(model, tmp_path / "model")
    (mine / "text_encoder/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model: cannot be loaded"):
        run(settings, tmp_path / "b", model=str(mine))
    index = json.loads((mine / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderKLWan"]
    (mine / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="vae is a AutoencoderKLWan, expected one of AutoencoderKL, "):
        run(settings, tmp_path / "c", model=str(mine))


def test_damage_is_found_and_repaired_to_the_same_bytes(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "cache")
    shard = latents.read_index(folder).shards[0]
    path = folder / "shards" / shard.name / "latents.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = {each.uid: each.status for each in cache.verify(CacheVerifyConfig(folder, repair=True))}
    assert [uid for uid, status in found.items() if status == "failed"] == [shard.name]
    list(cache.run(cache.settings_of(folder)))
    assert latents.read_index(folder).fingerprint == latents.read_index(made).fingerprint


def test_captions_are_drawn_by_their_shares_from_seed_and_position_alone(opened):
    def drawn(count, **changed):
        options = {"seed": 3, "global_batch": 8, "micro_batch": 8, "held_out": 0.0, **changed}
        for batch in islice(Batches(opened, **options), count):
            yield from zip(batch["uid"], batch["caption"], batch["text"], strict=True)

    def texts(*arguments, **changed):
        return [(uid, text) for uid, text, _ in drawn(*arguments, **changed)]

    assert texts(3) == texts(3, workers=1) == texts(6, micro_batch=4) != texts(3, seed=4)
    found = texts(25)
    of_a = [text for uid, text in found if uid.startswith("a-")]
    shares = [of_a.count(text) / len(of_a) for text in CAPTIONS]
    assert np.abs(np.array(shares) - [0.5, 0.25, 0.25]).max() < 4 * math.sqrt(0.25 / len(of_a))
    assert {text for uid, text in found if uid.startswith("b-")} == {CAPTIONS[0], CAPTIONS[2]}
    rows = dict(zip(opened.uids, opened.rows(opened.uids), strict=True))
    for uid, text, states in drawn(3):
        if uid.startswith("c-"):
            assert (text, states.any().item()) == ("", False)  # no caption is as one that is dropped out
        else:
            assert torch.equal(states, rows[uid].captions[rows[uid].texts.index(text)])


@pytest.mark.parametrize(
    ("shares", "expected"), [((), [None] * 4), ((0.5, 0.25, 0.25), [0, 0, 1, 2]), ((1.0,), [0] * 4)]
)
def test_a_number_falls_into_the_share_that_covers_it(shares, expected):
    assert [clips._drawn(shares, number) for number in (0.0, 0.49, 0.5, 1 - 2**-53)] == expected


def test_a_batch_of_clips_holds_what_training_needs(opened):
    batch = next(iter(Batches(opened, seed=0, global_batch=5, micro_batch=5, held_out=0.0)))
    assert batch["latents"].shape == (5, FRAMES, 4, HEIGHT // 4, WIDTH // 4)
    assert batch["text"].shape == (5, 77, 16)
    assert batch["fps"].tolist() == [12.5] * 5
    assert {uid for uid, motion in zip(batch["uid"], batch["motion"], strict=True) if motion.isnan()} == {
        "c-0000"
    }
    assert batch["weight"].tolist() == [1.0] * 5
    assert {"clip", "cond_latents", "noise_aug"}.isdisjoint(batch)


def test_clips_of_one_video_are_held_out_together(opened):
    for fraction in (0.3, 0.5, 0.7):
        parts = {}
        for part in ("train", "held-out"):
            try:
                objects = Batches(
                    opened, seed=0, global_batch=1, micro_batch=1, held_out=fraction, part=part
                ).draws.objects
            except ConfigError:
                objects = []
            parts[part] = {opened.uids[each][0] for each in objects}
        assert not parts["train"] & parts["held-out"]
        assert parts["train"] | parts["held-out"] == set(CLIPS)


def test_a_damaged_row_keeps_its_place_as_zeros(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "cache")
    opened = ClipLatents.open(folder)
    for shard in opened.info.shards:
        path = folder / "shards" / shard.name / "latents.parquet"
        path.write_bytes(b"\0" * shard.bytes)
    batches = Batches(opened, seed=0, global_batch=5, micro_batch=5, held_out=0.0, damaged="skip")
    batch = next(iter(batches))
    assert batch["weight"].tolist() == [0.0] * 5
    assert not batch["latents"].any()
    assert len(batch["damaged"]) == 5


@pytest.fixture(scope="module")
def begin(settings):
    """Begins `svd3d cache` on the clips in a process of its own that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "datasets", "svd3d.cli", "svd3d.cache", "svd3d.model.memory"])
    words = ["cache", settings.views, "--model", settings.model, "--clip-size", HEIGHT, WIDTH]
    words += ["--clip-frames", FRAMES, "--clip-stride", 2, "--objects-per-shard", 2, "--device", "cpu"]

    def begin(out):
        process = context.Process(target=cli.main, args=([str(each) for each in (*words, "--out", out)],))
        process.start()
        return process

    return begin


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_numbers(made, begin, tmp_path, kills):
    for moment in np.random.default_rng(0).uniform(0, 2, kills):
        process = begin(tmp_path / "cache")
        process.join(moment)
        process.kill()
        process.join()
        assert not any(shard.is_damaged for shard in shards.read_shards(tmp_path / "cache"))
        if cache.is_finished(tmp_path / "cache"):
            shutil.rmtree(tmp_path / "cache")
    process = begin(tmp_path / "cache")
    process.join()
    assert process.exitcode == 1  # one clip is too short
    assert same(ClipLatents.open(tmp_path / "cache"), ClipLatents.open(made))
    assert latents.read_index(tmp_path / "cache").objects == 5
