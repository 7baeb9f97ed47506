"""Training an autoencoder on pictures: what it learns, what it leaves alone, and what comes out."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from svd3d import runs, train
from svd3d.data import latents
from svd3d.data.dataset import Batches, collate
from svd3d.data.pictures import Pictures
from svd3d.errors import ConfigError, InputError
from svd3d.model import checkpoints, saving, vae
from svd3d.model.autoencoding import Autoencoding, linear_latents, principal_directions
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.settings import TrainConfig
from tests.trainings import assert_same, command, published, save_model, small_unet, small_vae, trained

SIZE, CHANNELS = 16, 4
EXAMPLES = train.EXAMPLES


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pipeline for 16 pixels whose autoencoder and UNet have random weights."""
    unet = small_unet(channels=CHANNELS)
    return save_model(tmp_path_factory.mktemp("model"), unet=unet, vae=small_vae())


@pytest.fixture(scope="module")
def views(tmp_path_factory, make_sample):
    """Six samples of two solids."""
    folder = tmp_path_factory.mktemp("views")
    for number in range(6):
        uid, solid = f"o{number}", ("sphere", "boxes")[number % 2]
        make_sample(folder / uid, uid=uid, solid=solid, num_views=4, size=SIZE, azimuth_deg=20.0 * number)
    return folder


@pytest.fixture
def config(tmp_path, views, model, monkeypatch):
    monkeypatch.setattr(train.page, "write", lambda run: run)  # takes a second; told by tests of its own
    monkeypatch.setattr(train, "EXAMPLES", 8)
    return TrainConfig(
        data=views,
        out=tmp_path / "run",
        model=str(model),
        trains="autoencoder",
        latents="linear",
        num_views=2,
        max_train_steps=3,
        train_batch_size=2,
        learning_rate=2e-3,
        checkpointing_steps=2,
        held_out=0.0,
        report_to=(),
        device="cpu",
    )


def objective_of(config, model) -> Autoencoding:
    """As a training makes it, from the weights of a folder."""
    data, start = train.open_data(config, checkpoints.from_folder(model))
    assert isinstance(data, Pictures)
    assert data.size == SIZE
    batches = Batches(data, seed=config.seed, global_batch=1, micro_batch=1, held_out=0.0, num_views=2)
    found = train.objective_of(config, start, batches.draws)
    assert isinstance(found, Autoencoding)
    return found


def folder_of(config, step):
    return config.out / f"checkpoints/step-{step}"


def test_latents_become_those_told_and_pictures_come_back(config, model):
    plan = dataclasses.replace(config, max_train_steps=30, checkpointing_steps=30, validation_steps=30)
    steps = trained(plan, held_out=0.3, latent_noise=0.1)
    assert {"psnr", "ssim", "baseline-psnr"} <= steps[-1].validation.keys()
    assert (plan.out / "validation/step-30.png").is_file()

    before = objective_of(config, model)
    pictures, matrix = before.examples, before.matrix
    assert pictures is not None
    assert matrix is not None
    told = linear_latents(pictures, matrix)
    apart, errors = [], []
    for objective in (before, objective_of(config, folder_of(plan, 30))):
        with torch.no_grad():
            latents = objective.network.encode(pictures).latent_dist.mode()
        painted, true = objective.views({"pictures": pictures[None]})
        apart.append((latents - told).square().mean().item())
        errors.append(np.square(painted - true).mean())
    assert apart[1] < 0.4 * apart[0]
    assert errors[1] < 0.6 * errors[0]  # 2.2 dB


def test_the_published_model_generates_from_latents_of_unit_spread(config, model, views):
    trained(config, max_train_steps=2)
    folder = folder_of(config, 2)
    pipeline = SVDMVPipeline.load(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    weights, _ = published(config, 2)
    assert_same(dict(pipeline.vae.state_dict()), weights)
    examples = objective_of(config, model).examples
    with torch.no_grad():
        assert vae.encode_views(pipeline.vae, examples).std().item() == pytest.approx(1, rel=1e-3)
    picture = Image.fromarray(np.full((SIZE, SIZE, 3), 90, np.uint8))
    found = pipeline(picture, num_views=2, num_inference_steps=1).views
    assert found.shape == (1, 2, SIZE, SIZE, 3)
    assert np.isfinite(found).all()
    for part in ("unet", "image_encoder"):  # what did not learn
        assert_same(checkpoints.folder_weights(folder, part), checkpoints.folder_weights(model, part))
    index = [json.loads((place / "model_index.json").read_text()) for place in (folder, model)]
    assert index[0] == index[1]
    manifest = json.loads((config.out / "manifest.json").read_text())
    assert manifest["inputs"]["data"]["sha256"] == Pictures(views, size=SIZE).fingerprint


def test_a_decoder_learns_alone_and_old_latents_stay_right(config, model):
    plan = dataclasses.replace(config, trains="decoder", max_train_steps=2, latent_noise=0.2)
    trained(plan)
    before, (after, state) = checkpoints.folder_weights(model, "vae"), published(plan, 2)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert len(changed) > 40
    assert {name.split(".")[0] for name in changed} == {"decoder"}
    assert {name.split("/")[-1].split(".")[0] for name in state} == {"decoder"}
    digests = [
        latents.vae_digest(checkpoints.from_folder(folder).network("vae"))
        for folder in (model, folder_of(plan, 2))
    ]
    assert digests[0] == digests[1]


def test_a_run_stopped_and_resumed_is_never_stopped_to_the_last_bit(config, tmp_path):
    straight = dataclasses.replace(config, out=tmp_path / "straight", latent_noise=0.2)
    losses = [step.loss for step in trained(straight)]
    stopped = dataclasses.replace(straight, out=tmp_path / "stopped")
    first = [step.loss for step in itertools.islice(train.run(stopped), 2)]
    assert first + [step.loss for step in trained(stopped)] == losses
    for one, other in zip(published(straight, 3), published(stopped, 3), strict=True):
        assert_same(one, other)
    configs = [
        json.loads((folder_of(each, 3) / "vae/config.json").read_text()) for each in (straight, stopped)
    ]
    assert configs[0] == configs[1]


@pytest.mark.slow
@pytest.mark.parametrize("trains", ["autoencoder", "decoder"])
def test_two_processes_are_one(config, trains, monkeypatch):
    monkeypatch.setattr(train, "EXAMPLES", EXAMPLES)  # as in the processes
    alone = dataclasses.replace(config, trains=trains, train_batch_size=1, global_batch_size=2)
    alone = dataclasses.replace(alone, held_out=0.3, validation_steps=3, latent_noise=0.2)
    steps = trained(alone)
    two = dataclasses.replace(alone, out=config.out.with_name("two"))
    done = command(two, "--gpus", "2")
    assert done.returncode == 0, done.stderr
    lines = runs.read_lines(two.out / saving.METRICS)
    assert [each["loss"] for each in lines] == pytest.approx([each.loss for each in steps], rel=1e-4)
    assert lines[-1]["validation"] == pytest.approx(steps[-1].validation, rel=1e-3)
    (one, _), (other, _) = published(alone, 3), published(two, 3)
    for name in one:  # a step of AdamW is the sign of a gradient where that is nearly 0
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=3 * 3 * config.learning_rate)


def test_a_damaged_sample_is_left_out_by_name_or_ends_the_run(config, make_sample, tmp_path, caplog):
    data = tmp_path / "views"
    for number in range(3):
        make_sample(data / f"o{number}", uid=f"o{number}", num_views=3, size=SIZE, depth=False)
    (data / "o1/images/002.png").unlink()
    with pytest.raises(InputError, match=r"o1/transforms\.json: frame 2"):
        trained(config, data=data)
    skipping = dataclasses.replace(config, data=data, out=tmp_path / "skipping", damaged="skip")
    steps = trained(skipping, train_batch_size=3, max_train_steps=1)
    assert steps[-1].damaged == 1
    assert steps[-1].loss is not None
    assert "left out: " in caplog.text


def test_an_autoencoder_is_not_spread_over_gpus(config, model):
    data, start = train.open_data(config, checkpoints.from_folder(model))
    draws = Batches(data, seed=0, global_batch=1, micro_batch=1, held_out=0.0).draws
    with pytest.raises(ConfigError, match="fsdp: the autoencoder fits each GPU whole"):
        train.objective_of(dataclasses.replace(config, fsdp=True), start, draws)


def test_the_plan_counts_what_learns(config, model):
    for trains in ("autoencoder", "decoder"):
        plan = dataclasses.replace(config, trains=trains)
        learns = [name for name in checkpoints.folder_weights(model, "vae").items()]
        count = (
            sum(each.numel() for name, each in learns if trains == "autoencoder" or "decoder" in name) / 1e6
        )
        assert f"{count:.1f} million parameters learn" in train.plan(plan)


def test_the_first_samples_alone_set_the_scale(config, model):
    """So that every process, and every start of a run, finds the same latents."""
    first = objective_of(config, model)
    data = Pictures(config.data, size=SIZE)
    draws = Batches(data, seed=0, global_batch=2, micro_batch=2, held_out=0.0, num_views=2, start=5).draws
    expected = collate([draws[position] for position in range(8)])["pictures"].flatten(0, 1)
    assert torch.equal(first.examples, expected)
    assert torch.equal(first.matrix, principal_directions(expected, channels=CHANNELS, patch=2))
