"""Training: what it computes, that a stop changes nothing, and that no half checkpoint is ever used."""

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel

from svd3d import cli, images, launch, runs, train
from svd3d import config as configs
from svd3d import proof as proofs
from svd3d.data import latents as shards
from svd3d.data.dataset import Batches
from svd3d.data.latents import Encoders, Info, Latents, Row, Shape
from svd3d.data.shards import read_shards, write_index, write_shard
from svd3d.errors import CheckpointError, ConfigError, InputError, OutputError, TrainingError
from svd3d.metrics import semantic
from svd3d.model import (
    checkpoints,
    conditioning,
    denoising,
    edm,
    learner,
    memory,
    preview,
    saving,
)
from svd3d.model import lora as adapters
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.settings import TrainConfig
from tests.trainings import assert_same, command, published, save_model, trained

VIEWS, CHANNELS = 3, 16
OPEN = train.shards.open_any


class InMemory(Latents):
    """Latents of a few made-up objects, as `svd3d.data.latents.Latents` gives them."""

    def __init__(self, objects: int = 8) -> None:
        self.folder = Path("in-memory")
        self.uids = [f"object-{i}" for i in range(objects)]
        self.info = Info(
            encoders=Encoders(vae="vae", clip="clip", scaling_factor=0.18215),
            shape=Shape(64, VIEWS, VIEWS, 1, ("white",), (CHANNELS, 8, 8), 32),
            shards=(),
            objects=objects,
            failed=0,
            objects_sha256=str(objects),
        )

    def __len__(self) -> int:
        return len(self.uids)

    def read(self, index: int, *, variant: int = 0) -> Row:
        source = torch.Generator().manual_seed(index)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=source)

        return Row(
            uid=self.uids[index],
            licence="CC0-1.0",
            background=(1.0, 1.0, 1.0),
            latents=normal(VIEWS, CHANNELS, 8, 8),
            cond_latents=normal(VIEWS, 2, CHANNELS, 8, 8),
            noise_aug=torch.full((VIEWS, 2), 0.02 * (1 + index)),
            clip=normal(VIEWS, 32),
            elevations_deg=torch.full((VIEWS,), float(index)),
            azimuths_deg=torch.arange(VIEWS) * 360 / VIEWS,
        )


@pytest.fixture
def data(monkeypatch):
    """What `--data` names, whatever it says."""
    latents = InMemory()
    monkeypatch.setattr(train.shards, "open_any", lambda folder, *, vae_digest: latents)
    monkeypatch.setattr(train.page, "write", lambda run: run)  # takes a second; told by tests of its own
    return latents


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A pipeline with a UNet of one level and random weights, as a folder."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(tmp_path, data, model):
    return TrainConfig(
        data=Path("in-memory"),
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


def batch_of(data: InMemory, size: int, *, seed: int = 0) -> train.Batch:
    batches = Batches(data, seed=seed, global_batch=size, micro_batch=size, held_out=0.0)
    return next(iter(batches))


class Recorder(torch.nn.Module):
    """A network that notes what it is asked and gives zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, sample, time, *, encoder_hidden_states, added_time_ids):
        self.sample, self.time, self.clip, self.ids = sample, time, encoder_hidden_states, added_time_ids
        return SimpleNamespace(sample=sample[:, :, :CHANNELS] * self.weight)


def test_the_loss_falls_on_a_few_objects(config, data, monkeypatch):
    few = InMemory(objects=2)
    monkeypatch.setattr(train.shards, "open_any", lambda folder, *, vae_digest: few)
    steps = trained(
        config, max_train_steps=60, checkpointing_steps=100, p_mean=0.0, p_std=0.5, learning_rate=5e-3
    )
    losses = [step.loss for step in steps]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert losses == [each["loss"] for each in runs.read_lines(config.out / "metrics.jsonl")]


def test_stopped_and_resumed_is_never_stopped_to_the_last_bit(config, tmp_path):
    straight = dataclasses.replace(config, out=tmp_path / "straight", lr_warmup_steps=3)
    losses = [step.loss for step in trained(straight)]
    stopped = dataclasses.replace(config, lr_warmup_steps=3)
    first = [step.loss for step in itertools.islice(train.run(stopped), 3)]  # lost after step 2
    second = [step.loss for step in trained(stopped, dataloader_num_workers=0, train_batch_size=2)]
    assert (first, second) == (losses[:3], losses[2:])
    lines = runs.read_lines(stopped.out / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["loss"] for line in lines] == losses
    for one, other in zip(published(straight, 4), published(stopped, 4), strict=True):
        assert_same(one, other)


def test_another_micro_batch_is_the_same_step(config, tmp_path):
    whole = dataclasses.replace(config, max_train_steps=1, global_batch_size=2)
    parts = dataclasses.replace(whole, out=tmp_path / "parts", train_batch_size=1)
    (one,), (other,) = trained(whole), trained(parts)
    assert train.accumulation_steps(parts, processes=1) == 2
    assert other.loss == pytest.approx(one.loss, rel=1e-6)
    assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    assert other.loss_by_sigma == pytest.approx(one.loss_by_sigma, rel=1e-6)
    first, second = (published(each, 1)[1] for each in (whole, parts))
    moments = [name for name in first if name.startswith("adamw/exp_avg/")]
    assert max((first[name] - second[name]).abs().max() for name in moments) < 1e-6


@pytest.mark.parametrize(
    ("micro", "accumulated", "whole", "processes", "expected"),
    [(2, None, None, 1, 1), (2, None, 16, 2, 4), (1, 3, None, 8, 3), (2, 2, 8, 2, 2)],
)
def test_batch_sizes_fit_together(config, micro, accumulated, whole, processes, expected):
    sizes = dataclasses.replace(
        config, train_batch_size=micro, gradient_accumulation_steps=accumulated, global_batch_size=whole
    )
    assert train.accumulation_steps(sizes, processes=processes) == expected


@pytest.mark.parametrize(("accumulated", "whole"), [(None, 15), (3, 16), (None, 1)])
def test_contradicting_batch_sizes_are_refused(config, accumulated, whole):
    sizes = dataclasses.replace(config, gradient_accumulation_steps=accumulated, global_batch_size=whole)
    with pytest.raises(ConfigError, match=f"global_batch_size {whole}"):
        train.accumulation_steps(sizes, processes=1)


def test_the_loss_is_that_of_v_prediction(config, data):
    """EDM's loss with sigma_data = 1 is the plain error of v, whatever the noise level."""
    network, batch = Recorder(), batch_of(data, 4)
    loss, sigma = denoising.losses(network, "svd-mv", batch, config)
    noise = denoising.draw(batch, config)["noise"]
    level = sigma.reshape(-1, 1, 1, 1, 1)
    velocity = (noise - level * batch["latents"]) / (1 + level**2).sqrt()
    torch.testing.assert_close(loss, velocity.square().flatten(1).mean(1), rtol=1e-4, atol=0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(edm.loss_weight(sigma) * edm.scalings(sigma)[1] ** 2, torch.ones(4))


def test_each_sample_has_its_own_conditions_and_nothing_is_edited(config, data):
    network, batch = Recorder(), batch_of(data, 4)
    before = {name: each.clone() for name, each in batch.items() if isinstance(each, torch.Tensor)}
    _, sigma = denoising.losses(
        network, "svd-mv", batch, dataclasses.replace(config, drop_image=0, drop_clip=0)
    )
    for name, each in before.items():
        torch.testing.assert_close(batch[name], each, rtol=0, atol=0)
    fixed = torch.tensor([6.0, 127.0]).expand(4, 2)
    told = torch.stack([batch["noise_aug"], batch["elevations_deg"][:, 0]], dim=1)
    torch.testing.assert_close(network.ids, torch.cat([fixed, told], dim=1))
    assert len(set(told[:, 0].tolist())) == 4
    assert len(set(sigma.tolist())) == 4
    torch.testing.assert_close(network.time, 0.25 * sigma.log())
    for view in range(VIEWS):  # the condition as it was cached: not scaled, and no noise added
        torch.testing.assert_close(network.sample[:, view, CHANNELS:], batch["cond_latents"], rtol=0, atol=0)


def test_captures_train_among_orbits_and_teach_the_elevation_nothing(config, data, model, monkeypatch):
    """Of a capture no elevation is known: its columns get the gradient of the orbits in the batch alone."""
    network = checkpoints.from_folder(model).network("unet")
    network = conditioning.prepare(network, "svd-mv")
    columns, batch = network.add_embedding.linear_1.weight, batch_of(data, 4)

    def gradient(chosen):
        network.zero_grad()
        some = {name: each[chosen] for name, each in batch.items() if isinstance(each, torch.Tensor)}
        loss, _ = denoising.losses(network, "svd-mv", some, config)
        loss.sum().backward()
        assert loss.isfinite().all()
        return columns.grad[:, 96:].clone()

    alone = gradient([0, 1])
    for name in ("elevations_deg", "azimuths_deg"):
        batch[name] = batch[name].clone()
        batch[name][2:] = math.nan
    mixed = gradient([0, 1, 2, 3])
    assert alone.any()
    torch.testing.assert_close(mixed, alone, rtol=1e-3, atol=1e-6)
    assert not gradient([2, 3]).any()


def test_drop_outs_are_drawn_per_sample_and_independently(config, data):
    rates = dataclasses.replace(config, drop_image=0.3, drop_clip=0.6)
    source = torch.Generator().manual_seed(0)
    count = 2000
    batch = {
        "latents": torch.zeros(count, 1, 1, 1, 1),
        "cond_latents": torch.ones(count, 1, 1, 1),
        "clip": torch.ones(count, 1, 1),
        "draw_seed": torch.randint(2**62, (count,), generator=source),
    }
    drawn = denoising.draw(batch, rates)
    image, clip = (1 - drawn[name].flatten() for name in ("shown", "tokens"))
    spread = 4 * math.sqrt(0.25 / count)
    assert image.mean() == pytest.approx(0.3, abs=spread)
    assert clip.mean() == pytest.approx(0.6, abs=spread)
    assert (image * clip).mean() == pytest.approx(0.18, abs=spread)
    log_sigma = drawn["sigma"].log()
    assert log_sigma.mean() == pytest.approx(config.p_mean, abs=4 * config.p_std / math.sqrt(count))
    assert log_sigma.std() == pytest.approx(config.p_std, rel=0.1)


def test_draws_belong_to_the_sample_not_to_the_batch(config, data):
    whole = denoising.draw(batch_of(data, 4), config)
    alone = [
        denoising.draw(batch, config)
        for batch in itertools.islice(Batches(data, seed=0, global_batch=4, micro_batch=1, held_out=0.0), 4)
    ]
    for name, each in whole.items():
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), each, rtol=0, atol=0)


def test_the_published_model_is_the_average_and_loads(config):
    for _ in train.run(config):
        pass
    model, state = published(config, 4)
    assert not [name for name in state if name.startswith("ema/")]  # the model has it
    raw = state["weights/conv_in.weight"]
    assert not torch.equal(raw, model["conv_in.weight"])  # not the raw weights
    pipeline = SVDMVPipeline.load(str(config.out / "checkpoints/step-4"))
    assert isinstance(pipeline.unet, UNetSpatioTemporalConditionModel)
    assert_same(dict(pipeline.unet.state_dict()), model)
    assert pipeline.config["max_guidance_scale"] == 1.0  # of the start
    assert (pipeline.unet.config["num_frames"], pipeline.size) == (VIEWS, 64)


def test_the_average_is_the_running_mean_that_the_help_says(config):
    start = checkpoints.folder_weights(Path(config.model), "unet")["conv_in.weight"]
    raw = []
    for step in train.run(dataclasses.replace(config, max_train_steps=3, checkpointing_steps=1)):
        raw.append(published(config, step.step)[1]["weights/conv_in.weight"])
    mean = start
    for t, weights in enumerate(raw):
        decay = 0 if t == 0 else (1 + t) / (10 + t)
        mean = decay * mean + (1 - decay) * weights
    torch.testing.assert_close(published(config, 3)[0]["conv_in.weight"], mean, rtol=1e-5, atol=1e-7)


def test_temporal_training_leaves_the_spatial_layers(config):
    before = checkpoints.folder_weights(Path(config.model), "unet")
    trained(config, trains="temporal", max_train_steps=2)
    after, state = published(config, 2)
    changed = {name for name in after if not torch.equal(after[name], before[name].float())}
    assert changed
    assert changed <= {name.removeprefix("weights/") for name in state if name.startswith("weights/")}
    words = ("temporal_transformer_blocks", "temporal_res_block", "time_pos_embed", "time_mixer")
    assert all(any(word in name for word in words) for name in changed)
    for word in words:
        assert any(word in name for name in changed), word


def test_lora_training_learns_adapters_alone(config):
    trained(config, trains="lora", lora_rank=2, lora_where="temporal", max_train_steps=2)
    model, state = published(config, 2)
    assert all(".lora_" in name and "temporal_transformer" in name for name in state)
    folder = config.out / "checkpoints/step-2"
    plain = SVDMVPipeline.load(config.model).unet
    before = {name: each.clone() for name, each in plain.state_dict().items()}
    changed = {name for name in model if not torch.equal(model[name], before[name])}
    assert changed
    assert all("temporal_transformer" in name and "attn" in name for name in changed)
    adapters.load(plain, folder)  # the file alone gives the same model
    adapters.fuse(plain)
    adapters.remove(plain)
    torch.testing.assert_close(dict(plain.state_dict()), model)
    trained(config, trains="lora", lora_rank=2, lora_where="temporal", max_train_steps=3)  # and resumes


def test_half_a_checkpoint_is_never_chosen(config):
    trained(config)
    newest = config.out / "checkpoints/step-4"
    unet = newest / "unet/diffusion_pytorch_model.safetensors"
    assert saving.find(config.out).step == 4
    content = bytearray(unet.read_bytes())
    content[-1] ^= 1
    unet.write_bytes(content)
    assert saving.find(config.out).step == 2
    with pytest.raises(
        CheckpointError, match=r"unet/.* is not what was written; choose one of step-2, step-4"
    ):
        saving.find(config.out, "step-4")
    (newest / saving.INDEX).unlink()
    assert [each.step for each in saving.every(config.out)] == [2]
    (config.out / "checkpoints/step-2" / saving.STATE).unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        saving.find(config.out)


def test_a_missing_checkpoint_is_told_with_those_that_exist(config):
    with pytest.raises(CheckpointError, match="step-7: not there; there are no checkpoints"):
        trained(config, resume_from_checkpoint="step-7")
    trained(config)
    with pytest.raises(CheckpointError, match="step-7: not there; choose one of step-2, step-4"):
        trained(config, resume_from_checkpoint="step-7")


def test_a_run_is_not_continued_with_other_data_batch_or_settings(config, monkeypatch):
    trained(config, max_train_steps=2)
    with pytest.raises(CheckpointError, match="global_batch 2, now 4"):
        trained(config, gradient_accumulation_steps=2)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.001, now 0\.1"):
        trained(config, learning_rate=0.1)
    other = InMemory(objects=5)
    monkeypatch.setattr(train.shards, "open_any", lambda folder, *, vae_digest: other)
    with pytest.raises(CheckpointError, match="made with data"):
        trained(config)


def test_a_checkpoint_of_other_parameters_names_the_first(config, tmp_path):
    trained(config, trains="temporal", max_train_steps=2)
    shutil.copytree(config.out / "checkpoints", tmp_path / "other/checkpoints")
    with pytest.raises(CheckpointError, match=r"of other parameters \(weights/"):
        trained(config, out=tmp_path / "other")


def test_a_full_disk_leaves_the_former_checkpoint(config, monkeypatch):
    trained(config, max_train_steps=2)

    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        trained(config)
    monkeypatch.undo()
    assert saving.find(config.out).step == 2
    assert [each.name for each in (config.out / "checkpoints").iterdir()] == ["step-2"]


def test_what_reads_differently_than_written_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(
        checkpoints, "write_weights", lambda weights, path: runs.write_file(path, _as_bytes(weights))
    )
    with pytest.raises(OutputError, match="a reads differently than written"):
        saving.write({"a": torch.ones(2)}, tmp_path / "x.safetensors")


def _as_bytes(weights: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: each + 1e-7 for name, each in weights.items()})


def test_old_checkpoints_go_and_the_best_stays(tmp_path):
    for step, loss in ((1, 0.5), (2, 0.1), (3, None), (4, 0.3), (5, 0.2)):
        saving.publish(
            tmp_path,
            step,
            fill=lambda folder: saving.write({"a": torch.ones(1)}, folder / saving.STATE),
            facts={"validation_loss": loss},
        )
    saving.prune(tmp_path, keep=2)
    assert [each.step for each in saving.every(tmp_path)] == [2, 4, 5]
    assert saving.find(tmp_path).step == 5


def test_steps_that_are_not_finite_are_skipped_and_counted(config, data, monkeypatch):
    read = InMemory.read

    def with_nan(self, index, *, variant=0):
        row = read(self, index, variant=variant)
        return dataclasses.replace(row, latents=row.latents * float("nan")) if index == 3 else row

    monkeypatch.setattr(InMemory, "read", with_nan)
    steps = trained(config, max_train_steps=4)  # an epoch: each of 8 objects once
    assert [step.skipped for step in steps][-1] == 1
    assert sum(step.loss is None for step in steps) == 1
    model, _ = published(config, 4)
    assert all(each.isfinite().all() for each in model.values())
    lines = (config.out / "metrics.jsonl").read_text()
    assert "NaN" not in lines
    assert json.loads(lines.splitlines()[-1])["skipped"] == 1


def test_training_stops_when_nothing_is_finite_and_names_the_objects(config, monkeypatch):
    read = InMemory.read
    monkeypatch.setattr(
        InMemory,
        "read",
        lambda self, index, *, variant=0: dataclasses.replace(
            read(self, index, variant=variant), latents=torch.full((VIEWS, CHANNELS, 8, 8), float("inf"))
        ),
    )
    with pytest.raises(TrainingError, match=r"step 2: .* 2 times in a row, now with object-\d, object-\d;"):
        trained(config, max_bad_steps=2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_saves_first_and_resumes_exactly(config, tmp_path, monkeypatch, number):
    straight = dataclasses.replace(config, out=tmp_path / "straight", max_train_steps=2)
    trained(straight)
    before = signal.getsignal(number)
    steps = train.run(dataclasses.replace(config, max_train_steps=2, checkpointing_steps=100))
    read, sent = InMemory.read, []

    def interrupted(*arguments, **named):
        if not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return read(*arguments, **named)

    monkeypatch.setattr(InMemory, "read", interrupted)
    assert next(steps).checkpoint.name == "step-1"
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert signal.getsignal(number) is before
    trained(config, max_train_steps=2)
    for one, other in zip(published(straight, 2), published(config, 2), strict=True):
        assert_same(one, other)


def test_held_out_objects_are_judged_with_the_average_and_the_same_noise(config):
    share = 0.5
    plan = dataclasses.replace(config, held_out=share, validation_steps=2, validation_objects=0)
    steps = trained(plan, learning_rate=1e-12)
    found = [step.validation_loss for step in steps]
    assert (found[0], found[2]) == (None, None)
    assert found[1] == pytest.approx(found[3], rel=1e-5)  # nothing was learned, so nothing may change
    assert saving.find(config.out).facts["validation_loss"] == found[3]


def test_bf16_keeps_weights_and_losses_in_float32(config):
    (step,) = trained(config, mixed_precision="bf16", gradient_checkpointing=True, max_train_steps=1)
    _, state = published(config, 1)
    assert {each.dtype for each in state.values()} == {torch.float32}
    (exact,) = trained(config, out=config.out.with_name("exact"), max_train_steps=1)
    assert step.loss == pytest.approx(exact.loss, rel=0.02)
    assert step.loss != exact.loss


def test_the_learning_rate_warms_up_and_falls(config):
    plan = dataclasses.replace(config, lr_warmup_steps=3, max_train_steps=10, lr_scheduler="cosine")
    factors = [train.learning_rate_factor(plan, step) for step in range(1, 11)]
    assert factors[:3] == [0.25, 0.5, 0.75]
    assert factors[3:] == sorted(factors[3:], reverse=True)
    assert factors[-1] == pytest.approx(0, abs=1e-9)
    steady = dataclasses.replace(plan, lr_scheduler="constant")
    assert [train.learning_rate_factor(steady, step) for step in (4, 10)] == [1, 1]


@pytest.fixture(scope="session")
def cached(tmp_path_factory, model):
    """The same latents on disk, for processes of their own."""
    folder = tmp_path_factory.mktemp("latents")
    made_up = InMemory()
    encoders = Encoders(shards.vae_digest(checkpoints.from_folder(model).network("vae")), "clip", 0.18215)
    rows = ([made_up.read(i)] for i in range(len(made_up)))
    write_shard(folder, "only", rows, shape=made_up.info.shape, encoders=encoders)
    write_index(folder, read_shards(folder), failed=0)
    return folder


def test_the_command_trains_a_model_that_generates(cached, model, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    words = ["--data", cached, "--out", out, "--model", model, "--device", "cpu", "--max_train_steps", 2]
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *map(str, words), "--learning_rate", "1e-4", "--train_batch_size", "2"])
    assert ended.value.code == 0
    told = capsys.readouterr()
    assert told.out.split() == [str(out / "checkpoints/step-2")]
    assert f"Next: svd3d generate IMAGE --model {out / 'checkpoints/step-2'} --out DIR" in told.err
    assert (out / "manifest.json").is_file()
    with pytest.raises(SystemExit) as again:  # there is nothing left to do
        cli.main(["train", *map(str, words), "--learning_rate", "1e-4", "--train_batch_size", "2"])
    assert again.value.code == 0
    assert len(runs.read_lines(out / "metrics.jsonl")) == 2


def test_latents_of_another_autoencoder_are_refused(cached, config, monkeypatch):
    monkeypatch.setattr(train.shards, "open_any", OPEN)
    monkeypatch.setattr(shards, "vae_digest", lambda vae: "f" * 64)
    with pytest.raises(InputError, match="latents of the VAE"):
        trained(config, data=cached)


@pytest.mark.slow
def test_a_real_kill_in_the_middle_changes_nothing(cached, model, tmp_path):
    proof = proofs.run(
        TrainConfig(
            data=cached,
            out=tmp_path,
            model=str(model),
            train_batch_size=2,
            device="cpu",
            held_out=0.0,
            prove_resume=12,
        )
    )
    assert proof.passed, proof
    assert 6 <= proof.killed_after < 12
    moved = tmp_path / "stopped/checkpoints/step-12"
    weights = checkpoints.read(moved / saving.STATE)
    name = next(iter(weights))
    checkpoints.write_weights({**weights, name: weights[name] + 1}, moved / saving.STATE)
    differing = proofs.differing(moved, tmp_path / "straight/checkpoints/step-12")
    assert list(differing) == [name]  # the proof can fail


@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["--fsdp"]])
def test_two_processes_are_one(cached, config, monkeypatch, how):
    monkeypatch.setattr(train.shards, "open_any", OPEN)
    alone = dataclasses.replace(config, data=cached, held_out=0.4, validation_steps=2, train_batch_size=1)
    alone = dataclasses.replace(alone, global_batch_size=2)
    steps = trained(alone)
    two = dataclasses.replace(alone, out=config.out.with_name("two"))
    done = command(two, "--gpus", "2", *how)
    assert done.returncode == 0, done.stderr
    assert json.loads((two.out / "manifest.json").read_text())["device"] == "2 x cpu"
    lines = runs.read_lines(two.out / "metrics.jsonl")
    assert [each["loss"] for each in lines] == pytest.approx([each.loss for each in steps], rel=1e-5)
    for line, step in zip(lines, steps, strict=True):
        assert (line["validation"] or {}) == pytest.approx(step.validation or {}, rel=1e-3)
    for one, other in zip(published(alone, 4), published(two, 4), strict=True):
        assert one.keys() == other.keys()
        for name in one:  # a step of AdamW is the sign of a gradient where that is nearly 0
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=4e-3)
    more = command(dataclasses.replace(two, max_train_steps=6), "--gpus", "2", *how)  # and resumes
    assert more.returncode == 0, more.stderr
    longer = [step.loss for step in trained(alone, max_train_steps=6)]
    losses = [each["loss"] for each in runs.read_lines(two.out / "metrics.jsonl")]
    assert losses[4:] == pytest.approx(longer, rel=1e-4)


@pytest.mark.slow
def test_one_process_that_fails_ends_all_and_says_why_first(cached, config, tmp_path):
    data = tmp_path / "latents"
    shutil.copytree(cached, data)
    (shard,) = (data / "shards").glob("*/*.parquet")
    content = bytearray(shard.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 4000, 400):
        content[place] ^= 1
    shard.write_bytes(content)
    broken = dataclasses.replace(config, data=data, train_batch_size=1, global_batch_size=2)
    done = command(broken, "--gpus", "2")
    assert done.returncode != 0
    first = next(line for line in done.stderr.splitlines() if "svd3d, process" in line)
    assert "cannot be read" in first
    assert str(shard.parent) in first


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing(cached, config, tmp_path, monkeypatch):
    """Thirty kill -9, each followed by the same command, then compared with a run that nobody touched."""
    monkeypatch.setattr(train.shards, "open_any", OPEN)
    plan = dataclasses.replace(config, data=cached, max_train_steps=60, checkpointing_steps=1)
    straight = dataclasses.replace(plan, out=tmp_path / "straight", checkpointing_steps=60)
    losses = [step.loss for step in trained(straight)]
    moments, steps_of_kills = random.Random(0), []
    for _ in range(30):
        child = multiprocessing.get_context("fork").Process(target=trained, args=(plan,))
        child.start()
        child.join(moments.uniform(0.2, 2.5))
        child.kill()
        child.join()
        saved = saving.find(plan.out)  # every byte of it is read
        steps_of_kills.append(saved.step if saved else 0)
        assert runs.read_lines(plan.out / "metrics.jsonl")[: steps_of_kills[-1]] != [] or not saved
    assert steps_of_kills == sorted(steps_of_kills)
    assert len(set(steps_of_kills)) > 3
    trained(plan)
    assert [each["loss"] for each in runs.read_lines(plan.out / "metrics.jsonl")] == losses
    for one, other in zip(published(straight, 60), published(plan, 60), strict=True):
        assert_same(one, other)


class Full:
    """Losses on a device that has room for so many samples at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.losses = denoising.losses

    def __call__(self, network, kind, batch, config):
        if len(batch["uid"]) > self.room:
            raise torch.OutOfMemoryError("out of memory, as it were")
        return self.losses(network, kind, batch, config)


def test_a_full_device_is_explained(config, monkeypatch):
    monkeypatch.setattr(denoising, "losses", Full(1))
    with pytest.raises(TrainingError, match=r"step 1: out of memory with 2 orbits at once .*--auto_batch"):
        trained(config)


def test_the_batch_is_halved_until_it_fits_and_nothing_else_changes(config, monkeypatch, tmp_path):
    plan = dataclasses.replace(config, max_train_steps=2, global_batch_size=8)
    small = [step.loss for step in trained(plan, out=tmp_path / "small", train_batch_size=2)]
    monkeypatch.setattr(denoising, "losses", Full(3))
    steps = trained(plan, train_batch_size=8, auto_batch=True)
    assert [step.loss for step in steps] == small
    assert saving.find(plan.out).facts["global_batch"] == 8


@pytest.mark.parametrize(
    ("size", "room", "expected"), [(8, 8, 8), (8, 5, 4), (8, 1, 1), (6, 2, 2), (1, 1, 1)]
)
def test_largest_that_fits(size, room, expected):
    tried = []

    def attempt(count: int) -> None:
        tried.append(count)
        if count > room:
            raise torch.OutOfMemoryError

    assert memory.largest_that_fits(size, attempt, network=torch.nn.Linear(2, 2)) == expected
    assert tried == sorted(tried, reverse=True)
    assert all(size % each == 0 for each in tried)


def test_too_little_disk_is_told_before_the_first_step(config, monkeypatch):
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(OutputError, match=r"2 checkpoints of \d\.\d\d GB need .* 0\.00 GB are free"):
        trained(config)
    assert not (config.out / "metrics.jsonl").exists()


@pytest.mark.parametrize("trains", ["all", "temporal", "lora"])
def test_the_size_of_a_checkpoint_is_known_before_it_is_written(config, trains):
    plan = dataclasses.replace(config, trains=trains, max_train_steps=1)
    start = checkpoints.multi_view(checkpoints.from_folder(Path(config.model)), num_views=VIEWS, size=64)
    unet = start.network("unet")
    learner.select(unet, plan)
    expected = saving.size_on_disk(plan, unet)
    trained(plan)
    folder = plan.out / "checkpoints/step-1"
    written = [folder / saving.STATE, folder / saving.weights("unet")]
    assert sum(path.stat().st_size for path in written) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("trains", ["all", "temporal", "lora"])
def test_the_plan_says_what_a_run_will_take(config, trains):
    plan = dataclasses.replace(config, trains=trains, max_train_steps=1, gpus=2)
    trained(plan)
    folder = plan.out / "checkpoints/step-1"
    state = checkpoints.read(folder / saving.STATE)
    learns = sum(each.numel() for name, each in state.items() if name.startswith("weights/")) / 1e6
    told = train.plan(plan)
    assert told.startswith(f"1 steps of 4 samples; {learns:.1f} million parameters learn;")
    size = sum(each.stat().st_size for each in (folder / saving.STATE, folder / saving.weights("unet"))) / 1e9
    assert float(re.search(r"checkpoints of (.*) GB", told)[1]) == pytest.approx(size, abs=0.006)


def test_held_out_objects_are_painted_and_scored(config, data, monkeypatch):
    distance = semantic.Measure("lpips-alex", {}, 31, lambda ours, theirs: abs(ours - theirs).mean((1, 2, 3)))
    monkeypatch.setattr(train, "_lpips", lambda: distance)
    plan = dataclasses.replace(
        config, held_out=0.5, validation_steps=2, validation_objects=2, validation_sampling_steps=2
    )
    steps = trained(plan, learning_rate=1e-12)
    (first, second) = (step.validation for step in steps if step.validation)
    assert first.keys() == {"psnr", "ssim", "baseline-psnr", "lpips-alex"}
    assert first == pytest.approx(second, rel=1e-4)  # the same noise
    sheet = images.read(plan.out / "validation/step-4.png")
    assert sheet.shape[0] == 4 * 112  # two objects, true and painted
    assert [each["validation"] is None for each in runs.read_lines(plan.out / "metrics.jsonl")] == [
        True,
        False,
        True,
        False,
    ]


def test_validation_without_lpips_is_said_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "lpips", None)
    train._lpips.cache_clear()
    assert train._lpips() is None
    assert train._lpips() is None
    (record,) = caplog.records
    assert "without LPIPS: lpips-alex needs the package lpips" in record.getMessage()
    train._lpips.cache_clear()


def test_no_room_to_paint_does_not_end_training(config, monkeypatch, caplog):
    def full(*_arguments: object, **_named: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(preview.Painter, "views", full)
    steps = trained(config, held_out=0.5, validation_steps=4)
    assert (steps[-1].step, steps[-1].validation) == (4, None)
    assert steps[-1].validation_loss is not None
    assert "no room to paint" in caplog.text


def test_damaged_objects_count_for_nothing_and_are_named(config, data, monkeypatch, caplog):
    read = InMemory.read

    def damaged(self, index, *, variant=0):
        if index == 3:
            raise InputError("shard x: object-3 cannot be read; repair it")
        return read(self, index, variant=variant)

    monkeypatch.setattr(InMemory, "read", damaged)
    monkeypatch.setattr(InMemory, "zeros", lambda self, index: _empty(read(self, index)), raising=False)
    with pytest.raises(InputError, match="object-3 cannot be read"):
        trained(config)
    steps = trained(config, damaged="skip", max_train_steps=4, out=config.out.with_name("skipping"))
    assert [step.damaged for step in steps][-1] == 1
    assert all(step.loss is not None for step in steps)
    assert "left out: shard x: object-3" in caplog.text


def _empty(row: Row) -> Row:
    zeros = {name: torch.zeros_like(getattr(row, name)) for name in ("latents", "cond_latents", "clip")}
    return dataclasses.replace(row, **zeros)


def test_a_sample_of_weight_zero_changes_no_gradient(config, data):
    network, batch = Recorder(), batch_of(data, 2)
    batch["weight"] = torch.tensor([1.0, 0.0])
    loss, _ = denoising.losses(network, "svd-mv", batch, config)
    (batch["weight"] * loss).mean().backward()
    both = network.weight.grad.clone()
    alone = {name: each[:1] for name, each in batch_of(data, 2).items()}
    network.zero_grad()
    (denoising.losses(network, "svd-mv", alone, config)[0].mean() / 2).backward()
    torch.testing.assert_close(network.weight.grad, both)


def test_adam_in_eight_bits_resumes_to_the_last_bit(config, tmp_path):
    pytest.importorskip("bitsandbytes", reason="AdamW in 8 bits needs the extra gpu")
    plan = dataclasses.replace(config, use_8bit_adam=True)
    straight = dataclasses.replace(plan, out=tmp_path / "straight")
    losses = [step.loss for step in trained(straight)]
    trained(plan, max_train_steps=2)
    assert [step.loss for step in trained(plan)] == losses[2:]
    for one, other in zip(published(straight, 4), published(plan, 4), strict=True):
        assert_same(one, other)
    _, state = published(plan, 4)
    assert torch.uint8 in {each.dtype for each in state.values()}


def test_the_launch_line_names_processes_and_machines(config, monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    assert not launch.is_wanted(config)
    several = dataclasses.replace(config, gpus=8, nodes=2)
    words = ["--data", "d", "--out", str(config.out), "--gpus", "8", "--nodes", "2"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *words])
    assert ended.value.code == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    recipe = config.out / "launch.yaml"
    assert lines == [launch.line(several, recipe, node=node) for node in range(2)]
    assert configs.read_recipe(TrainConfig, recipe)["gpus"] is None  # what is started starts nothing
    monkeypatch.setenv("RANK", "0")
    assert not launch.is_wanted(several)


def test_one_process_has_nobody_to_share_weights_with(config):
    with pytest.raises(ConfigError, match=r"fsdp: .* add --gpus 2"):
        trained(config, fsdp=True)


def test_the_manifest_of_a_run_names_licences_and_data(cached, config, tmp_path, monkeypatch):
    data = tmp_path / "latents"
    shutil.copytree(cached, data)
    runs.write_json(data / "manifest.json", {"licences": ["CC-BY-4.0", "CC0-1.0"]})
    monkeypatch.setattr(train.shards, "open_any", OPEN)
    trained(config, data=data, max_train_steps=1)
    manifest = json.loads((config.out / "manifest.json").read_text())
    assert manifest["licences"] == ["CC-BY-4.0", "CC0-1.0"]
    assert manifest["inputs"]["data"]["sha256"] == Latents.open(data).info.fingerprint


def test_a_plan_reads_no_weights(config, model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    assert train.plan(dataclasses.replace(config, model=str(bare))) == train.plan(config)


def test_more_gpus_than_there_are_is_refused(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="gpus 4: this machine has 1"):
        launch.run(dataclasses.replace(config, gpus=4, device="auto"))


def test_switches_need_no_value():
    words = ["--data", "d", "--out", "o", "--gradient_checkpointing", "--fsdp", "--use-8bit-adam", "False"]
    parsed = cli.parse(TrainConfig, words, prog="svd3d train")
    assert (parsed.gradient_checkpointing, parsed.fsdp, parsed.use_8bit_adam) == (True, True, False)
    last = cli.parse(TrainConfig, ["--data", "d", "--out", "o", "--auto_batch"], prog="svd3d train")
    assert last.auto_batch
