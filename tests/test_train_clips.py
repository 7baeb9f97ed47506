"""Training on clips and on their single frames: SVD's loss, what is told and what not, what comes of it."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from PIL import Image

from svd3d import runs, train
from svd3d.data import clips, latents
from svd3d.data.dataset import Batches, collate
from svd3d.data.latents import ClipLatents, Latents
from svd3d.data.shards import read_shards, write_index, write_shard
from svd3d.errors import ConfigError
from svd3d.model import checkpoints, conditioning, denoising, learner, saving
from svd3d.model.denoising import Denoising
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.settings import TrainConfig
from tests import videos
from tests.trainings import (
    CHANNELS,
    FRAMES,
    HEIGHT,
    LATENT,
    PICTURE,
    TEXT,
    WIDTH,
    assert_same,
    normal,
    published,
    save_model,
    small_unet,
    small_vae,
    trained,
    write_clips,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Stock SVD with a UNet of one level."""
    return save_model(
        tmp_path_factory.mktemp("svd"),
        unet=small_unet(time_ids=3),
        vae=small_vae(channels=CHANNELS),
        conditioning="svd",
    )


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """The same with a UNet that takes no picture and reads captions."""
    unet = small_unet(time_ids=3, in_channels=CHANNELS, cross_attention_dim=TEXT)
    folder = tmp_path_factory.mktemp("text")
    reader = videos.text_model(folder / "tokenizer", unet=unet, vae=small_vae(channels=CHANNELS))
    reader.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def still_model(tmp_path_factory):
    """The same with layers across frames that change nothing."""
    unet = small_unet(time_ids=3)
    unet.load_state_dict(checkpoints.still_weights(unet, seed=1))
    return save_model(
        tmp_path_factory.mktemp("still"), unet=unet, vae=small_vae(channels=CHANNELS), conditioning="svd"
    )


@pytest.fixture(scope="module")
def digest(model):
    """Of the autoencoder that all of these models have."""
    return latents.vae_digest(checkpoints.from_folder(model).network("vae"))


@pytest.fixture(scope="module")
def cached(tmp_path_factory, digest):
    return write_clips(tmp_path_factory.mktemp("clips"), digest=digest)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory, digest):
    """Clips with captions and with pictures."""
    return write_clips(tmp_path_factory.mktemp("captioned"), digest=digest, text=True)


@pytest.fixture
def config(tmp_path, cached, model, monkeypatch):
    monkeypatch.setattr(train.page, "write", lambda run: run)  # takes a second; told by tests of its own
    return TrainConfig(
        data=cached,
        out=tmp_path / "run",
        model=str(model),
        max_train_steps=4,
        train_batch_size=2,
        learning_rate=1e-3,
        checkpointing_steps=2,
        held_out=0.0,
        report_to=(),
        device="cpu",
    )


def objective_of(config) -> Denoising:
    data, start = train.open_data(config, checkpoints.from_folder(Path(config.model)))
    batches = Batches(data, seed=0, global_batch=1, micro_batch=1, held_out=0.0, num_views=config.num_views)
    found = train.objective_of(config, start, batches.draws)
    assert isinstance(found, Denoising)
    return found


def draws_of(config, count):
    """The first samples of a training, one at a time."""
    data = ClipLatents.open(config.data)
    batches = Batches(data, seed=0, global_batch=1, micro_batch=1, held_out=0.0, num_views=config.num_views)
    return [batches.draws[position] for position in range(count)]


def layers(weights, words):
    return {name: each for name, each in weights.items() if any(word in f".{name}" for word in words)}


@torch.no_grad()
def test_the_loss_is_what_diffusers_own_parts_give(config, model):
    """Stock UNet, stock scheduler at the drawn noise level, stock time ids; of unknown motion, zeros."""
    config = dataclasses.replace(config, drop_image=0.0, drop_clip=0.0)
    objective, samples = objective_of(config), draws_of(config, 8)
    found, sigmas = objective.losses(objective.network, collate(samples))
    stock = StableVideoDiffusionPipeline.from_pretrained(model)
    unknown = [i for i, each in enumerate(samples) if each["motion"].isnan()]
    assert 0 < len(unknown) < 8
    for i, (each, sigma) in enumerate(zip(samples, sigmas, strict=True)):
        clean, noise = each["latents"][None], denoising.draw(collate([each]), config)["noise"]
        motion = 0.0 if i in unknown else each["motion"].item()
        ids = stock._get_add_time_ids(
            each["fps"].item() - 1, motion, each["noise_aug"].item(), torch.float32, 1, 1, False
        )
        row = torch.ones(3, 1)
        row[1] = float(i not in unknown)
        handle = stock.unet.add_time_proj.register_forward_hook(lambda _, __, output, row=row: output * row)
        stock.scheduler.set_timesteps(sigmas=[sigma.item(), 0.0])
        (time,) = stock.scheduler.timesteps
        noisy = clean + sigma * noise
        image = each["cond_latents"][None, None].expand(1, FRAMES, -1, -1, -1)
        output = stock.unet(
            torch.cat([stock.scheduler.scale_model_input(noisy, time), image], dim=2),
            time,
            encoder_hidden_states=each["clip"][None],
            added_time_ids=ids,
        ).sample
        handle.remove()
        estimate = stock.scheduler.step(output, time, noisy).pred_original_sample
        weight = (sigma**2 + 1) / sigma**2  # Karras et al. 2022, table 1, sigma_data = 1
        expected = weight * (estimate - clean).square().mean()
        torch.testing.assert_close(found[i], expected, rtol=2e-4, atol=0)


def test_pictures_are_never_seen_by_a_unet_that_reads_texts(config, text_model, captioned):
    plan = dataclasses.replace(config, model=str(text_model), data=captioned)
    objective, batch = objective_of(plan), collate(draws_of(plan, 4))
    found, _ = objective.losses(objective.network, batch)
    for name in ("clip", "cond_latents", "noise_aug"):
        batch[name] = torch.full_like(batch[name], torch.nan)
    again, _ = objective.losses(objective.network, batch)
    assert torch.equal(again, found)
    batch["text"] = batch["text"].flip(0)  # the caption matters
    assert not torch.isclose(objective.losses(objective.network, batch)[0], found).any()


def test_a_unet_learns_from_captions_alone(config, text_model, digest, tmp_path):
    data = write_clips(tmp_path / "texts", digest=digest, text=True, picture=False)
    plan = dataclasses.replace(config, model=str(text_model), data=data, max_train_steps=2)
    steps = trained(plan, held_out=0.5, validation_steps=2)
    assert steps[-1].validation_loss is not None
    assert steps[-1].validation is None  # of a text, any film would do
    before = checkpoints.folder_weights(text_model, "unet")
    after, _ = published(plan, 2)
    moot = [name for name in after if learner.MOOT.search(name)]
    assert len(moot) == 32  # four of each of eight transformers, four within and four across frames
    assert not [name for name in moot if torch.equal(after[name], before[name])]


@pytest.mark.parametrize(("channels", "learns"), [(32, False), (16, True)])
def test_layers_before_the_softmax_over_one_token_are_frozen_and_over_many_they_learn(
    config, channels, learns
):
    unet = small_unet(in_channels=channels)
    learner.select(unet, config)
    found = {each.requires_grad for name, each in unet.named_parameters() if learner.MOOT.search(name)}
    assert found == {learns}


@pytest.fixture
def images(config, still_model):
    """The recipe of the image prior."""
    return dataclasses.replace(config, model=str(still_model), num_views=1, trains="spatial")


def test_single_images_are_all_frames_without_any_condition(images):
    samples = draws_of(images, 64)
    shown = [each["latents"][0, -1, 0, 0].item() for each in samples]
    assert {each["latents"].shape for each in samples} == {(1, *LATENT)}
    assert set(shown) == set(range(FRAMES))
    assert min(shown.count(frame) for frame in range(FRAMES)) > 64 / FRAMES / 3
    for each in samples:
        assert not each["clip"].any()
        assert not each["cond_latents"].any()
        assert each["noise_aug"].isnan()


@torch.no_grad()
def test_images_of_a_batch_know_nothing_of_each_other(images):
    objective, samples = objective_of(images), draws_of(images, 3)
    together, sigma = objective.losses(objective.network, collate(samples))
    alone = [objective.losses(objective.network, collate([each])) for each in samples]
    torch.testing.assert_close(torch.cat([loss for loss, _ in alone]), together, rtol=1e-4, atol=1e-6)
    assert torch.equal(torch.cat([level for _, level in alone]), sigma)


@torch.no_grad()
def changed_frames(unet, frame):
    """Which frames of an output change together with one of the input."""
    noisy = normal(1, FRAMES, 2 * CHANNELS, HEIGHT, WIDTH, seed=5)
    other = noisy.clone()
    other[:, frame] += 1
    ids, token = torch.tensor([[6.0, 127.0, 0.02]]), normal(1, 1, PICTURE, seed=6)
    first, second = (unet(each, 0.3, token, ids).sample[0] for each in (noisy, other))
    return [i for i in range(FRAMES) if not torch.allclose(first[i], second[i], rtol=0, atol=1e-5)]


def test_spatial_training_leaves_layers_across_frames_and_then_frames_are_images(images, still_model, model):
    steps = trained(images, max_train_steps=2, learning_rate=1e-2, held_out=0.5, validation_steps=2)
    assert steps[-1].validation_loss is not None
    assert steps[-1].validation is None  # nothing but noise is given, so nothing to compare
    before = checkpoints.folder_weights(still_model, "unet")
    after, _ = published(images, 2)
    temporal = layers(after, learner.TEMPORAL)
    assert temporal
    assert_same(temporal, {name: before[name] for name in temporal})
    rest = [name for name in after if name not in temporal and not torch.equal(after[name], before[name])]
    assert len(rest) > 60
    unet = UNetSpatioTemporalConditionModel.from_pretrained(images.out / "checkpoints/step-2/unet")
    assert changed_frames(unet, 2) == [2]
    stock = UNetSpatioTemporalConditionModel.from_pretrained(model / "unet")
    assert changed_frames(stock, 2) == list(range(FRAMES))  # it can fail


def test_what_clips_made_is_stock_svd_and_the_start_of_multi_view(config, digest, tmp_path):
    plan = dataclasses.replace(
        config, max_train_steps=2, held_out=0.4, validation_steps=2, validation_objects=2
    )
    steps = trained(plan, validation_sampling_steps=2)
    assert {"psnr", "ssim", "baseline-psnr"} <= steps[-1].validation.keys()
    assert (plan.out / "validation/step-2.png").is_file()

    folder = plan.out / "checkpoints/step-2"
    weights, _ = published(plan, 2)
    stock = StableVideoDiffusionPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    assert type(stock) is StableVideoDiffusionPipeline
    assert_same(dict(stock.unet.state_dict()), weights)
    assert stock.unet.config["num_frames"] == FRAMES
    film = stock(
        Image.fromarray(np.full((16, 24, 3), 90, np.uint8)),
        height=16,
        width=24,
        num_inference_steps=1,
        output_type="latent",
    ).frames
    assert film.shape == (1, FRAMES, *LATENT)
    assert film.isfinite().all()

    orbits = write_orbits(tmp_path / "orbits", digest=digest)
    after = dataclasses.replace(config, data=orbits, model=str(folder), out=tmp_path / "multi-view")
    trained(after, max_train_steps=1, learning_rate=1e-12)
    wide, _ = published(after, 1)
    label = "add_embedding.linear_1.weight"
    torch.testing.assert_close(wide[label][:, :96], weights[label], rtol=0, atol=1e-9)
    assert wide[label][:, 96:].abs().max() < 1e-9
    pipeline = SVDMVPipeline.load(str(after.out / "checkpoints/step-1"))
    assert (pipeline.conditioning, pipeline.size) == ("svd-mv", 16)


def write_orbits(folder, *, digest):
    shape = latents.Shape(16, 3, 1, 1, ("white",), (CHANNELS, 8, 8), PICTURE)
    rows = (
        [
            latents.Row(
                uid=f"object-{number}",
                licence="",
                background=(1.0, 1.0, 1.0),
                latents=normal(3, *shape.latent, seed=number),
                cond_latents=normal(1, 2, *shape.latent, seed=10 + number),
                noise_aug=torch.tensor([[0.0, 0.05]]),
                clip=normal(1, PICTURE, seed=20 + number),
                elevations_deg=torch.full((3,), 10.0),
                azimuths_deg=torch.arange(3) * 120.0,
            )
        ]
        for number in range(2)
    )
    write_shard(folder, "only", rows, shape=shape, encoders=latents.Encoders(digest, "clip", 1.0))
    write_index(folder, read_shards(folder), failed=0)
    return folder


def test_clips_of_a_video_are_held_out_together(cached):
    parts = [
        {
            name
            for batch in itertools.islice(Batches(data, part=part, **sizes), 8)
            for name in map(clips.video_of, batch["uid"])
        }
        for data in [ClipLatents.open(cached)]
        for sizes in [{"seed": 0, "global_batch": 1, "micro_batch": 1, "held_out": 0.4}]
        for part in ("train", "held-out")
    ]
    assert all(parts)
    assert not parts[0] & parts[1]


def test_a_clip_run_stopped_and_resumed_is_never_stopped_to_the_last_bit(config, tmp_path):
    straight = dataclasses.replace(config, out=tmp_path / "straight", num_views=2, max_train_steps=3)
    losses = [step.loss for step in trained(straight)]
    stopped = dataclasses.replace(straight, out=tmp_path / "stopped")
    first = [step.loss for step in itertools.islice(train.run(stopped), 2)]
    second = [step.loss for step in trained(stopped)]
    assert first + second == losses
    for one, other in zip(published(straight, 3), published(stopped, 3), strict=True):
        assert_same(one, other)
    assert [each["loss"] for each in runs.read_lines(stopped.out / saving.METRICS)] == losses


def test_what_does_not_fit_is_refused_in_a_line(config, text_model, captioned, digest, tmp_path):
    start = checkpoints.from_folder(Path(config.model))
    texts = write_clips(tmp_path / "texts", digest=digest, text=True, picture=False, count=1)
    orbits = write_orbits(tmp_path / "orbits", digest=digest)
    reader = checkpoints.from_folder(text_model)
    refused = [
        (
            config,
            dataclasses.replace(start, kind="sv3d_u"),
            "kind sv3d_u does not learn from clips; take svd",
        ),
        (dataclasses.replace(config, data=orbits, num_views=1), start, "num_views 1: an orbit has 2 or more"),
        (
            dataclasses.replace(config, data=orbits, image_share=0.1),
            start,
            "image_share 0.1: .* holds orbits",
        ),
        (dataclasses.replace(config, num_views=5), start, "num_views 5: the clips have 4 frames"),
        (dataclasses.replace(config, data=texts), start, "holds no embeddings of pictures, and the UNet of"),
        (config, reader, "holds no embeddings of texts, and the UNet of"),
        (dataclasses.replace(config, data=orbits), reader, "holds no embeddings of texts, and the UNet of"),
    ]
    reader.networks["unet"].register_to_config(cross_attention_dim=77)
    for plan, model, message in refused:
        with pytest.raises(ConfigError, match=message) as error:
            train.open_data(plan, model)
        assert "\n" not in str(error.value)
    other = dataclasses.replace(config, data=captioned)
    with pytest.raises(ConfigError, match=r"embeddings of width 24 of texts, .* is told ones of width 77"):
        train.open_data(other, reader)


def test_the_kind_of_cache_is_found_by_itself(cached, digest, tmp_path):
    assert isinstance(latents.open_any(cached, vae_digest=digest), ClipLatents)
    assert isinstance(latents.open_any(write_orbits(tmp_path / "orbits", digest=digest)), Latents)
    assert json.loads((cached / "index.json").read_text())["kind"] == "clips"


def test_unknown_numbers_of_clips_are_embedded_as_zeros():
    """Without a picture nobody knows its noise either; the elevation of clips is never known."""
    batch = {"fps": torch.tensor([7.0, 9.0]), "motion": torch.tensor([torch.nan, 30.0])}
    ids = conditioning.time_ids_of("svd-mv", batch)
    torch.testing.assert_close(ids[:, 0], torch.tensor([6.0, 8.0]))
    assert ids.isnan().tolist() == [[False, True, True, True], [False, False, True, True]]
