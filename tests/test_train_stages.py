"""The stages before multi-view: the paper's numbers, each recipe in miniature, images among videos, costs."""

import dataclasses
import itertools
import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from scripts import stage_costs
from svd3d import cli, train
from svd3d import config as configs
from svd3d.data import latents
from svd3d.data.dataset import Batches
from svd3d.data.latents import ClipLatents
from svd3d.errors import ConfigError, TrainingError
from svd3d.model import checkpoints, denoising, learner, lora, tiny
from svd3d.model.interpolation_pipeline import FrameInterpolationPipeline
from svd3d.settings import CacheConfig, TrainConfig
from tests.trainings import (
    CHANNELS,
    FRAMES,
    TEXT,
    assert_same,
    published,
    save_model,
    small_unet,
    small_vae,
    trained,
    write_clips,
)
from tests.videos import text_model

CONFIGS = Path(__file__).parents[1] / "configs"
PAPER = {  # appendix D: frames, steps, batch, learning rate, P_mean, P_std, height, width
    "image-edm-1": (1, 1_000, None, None, -1.2, 1.0, 512, 512),
    "image-edm-2": (1, 30_000, None, None, -1.2, 1.0, 256, 384),
    "video-a": (14, 150_000, 1536, 1e-4, -1.2, 1.0, 256, 384),
    "video-b": (14, 100_000, 768, 1e-4, 0.0, 1.0, 320, 576),
    "t2v-hq": (14, 50_000, 768, 3e-5, 0.5, 1.4, 576, 1024),
    "i2v-base": (14, 50_000, 768, 3e-5, 0.7, 1.6, 320, 576),
    "i2v-hq-14": (14, 50_000, 768, 3e-5, 1.0, 1.6, 576, 1024),
    "i2v-hq-25": (25, 50_000, 768, 3e-5, 1.0, 1.6, 576, 1024),
    "interpolation": (5, 10_000, 256, 1e-4, 1.0, 1.2, 576, 1024),
}
CAMERAS = tuple(f"camera-lora-{motion}" for motion in ("horizontal", "zoom", "static"))
BOTH_ENDS = ("interpolation",)
TOLD_TEXTS = ("image-edm-1", "image-edm-2", "video-a", "video-b", "t2v-hq")


def path_of(name):
    return CONFIGS / f"train/{name}.yaml"


def recipe_of(name, **changes) -> TrainConfig:
    needed = {"data": Path("data"), "out": Path("out")}
    content = {**configs.read_recipe(TrainConfig, path_of(name)), **needed, **changes}
    return configs.build(TrainConfig, content, where=name)


def cache_of(name) -> CacheConfig:
    """The settings of the `svd3d cache` that a recipe asks for."""
    (line,) = (each for each in path_of(name).read_text().splitlines() if "svd3d cache" in each)
    words = shlex.split(line.partition("svd3d cache")[2])
    told = dict(itertools.pairwise(words[1:]))
    height, width = words[words.index("--clip-size") + 1 :][:2]
    return CacheConfig(
        views=Path(words[0]),
        out=Path(told["--out"]),
        model=told["--model"],
        clip_size=(int(height), int(width)),
        clip_frames=int(told["--clip-frames"]),
    )


@pytest.mark.parametrize("name", PAPER)
def test_recipes_have_the_numbers_of_the_paper(name):
    frames, steps, batch, rate, p_mean, p_std, height, width = PAPER[name]
    found, cache = recipe_of(name), cache_of(name)
    assert (found.num_views, found.max_train_steps) == (frames, steps)
    assert batch in (None, found.global_batch_size)
    assert rate in (None, found.learning_rate)
    assert (found.p_mean, found.p_std, found.ema_decay) == (p_mean, p_std, 0.9999)
    assert (cache.clip_frames, cache.clip_size) == (frames, (height, width))
    if name in TOLD_TEXTS:
        assert found.drop_text == 0.15
    assert found.tells_motion == (name != "video-a")  # from the base model on


def test_every_stage_starts_from_the_last_step_of_the_one_before():
    starts = {name: recipe_of(name).model for name in (*PAPER, *CAMERAS)}
    for name, before in [
        ("image-edm-2", "image-edm-1"),
        ("video-a", "image-edm-2"),
        ("video-b", "video-a"),
        ("t2v-hq", "video-b"),
        ("i2v-hq-14", "i2v-base"),
        ("i2v-hq-25", "i2v-hq-14"),
        *((camera, "i2v-hq-14") for camera in CAMERAS),
    ]:
        assert starts[name] == f"{before}/checkpoints/step-{recipe_of(before).max_train_steps}"
    assert (starts["image-edm-1"], starts["i2v-base"]) == ("t2v-start", "i2v-start")
    assert starts["interpolation"] == "interpolation-start"
    for name, before, to in [
        ("i2v-base", "video-b", "image-to-video"),
        ("interpolation", "t2v-hq", "interpolation"),
    ]:
        last = f"{before}/checkpoints/step-{recipe_of(before).max_train_steps}"
        assert f"svd3d convert {last} --to {to} " in path_of(name).read_text()


def test_camera_motions_are_one_recipe_for_three_presets():
    first, *others = (recipe_of(name) for name in CAMERAS)
    assert others == [first, first]
    assert (first.trains, first.lora_where, first.lora_rank) == ("lora", "temporal", 16)
    assert first.max_train_steps == 5_000
    presets = ["camera-pan", "camera-zoom", "camera-static"]
    assert [
        f"--preset {preset} " in path_of(name).read_text()
        for name, preset in zip(CAMERAS, presets, strict=True)
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small ones by what they are told, of one autoencoder."""
    vae = small_vae(channels=CHANNELS)
    texts, pictures, ends = (tmp_path_factory.mktemp(name) for name in ("texts", "pictures", "ends"))
    reader = small_unet(time_ids=3, in_channels=CHANNELS, cross_attention_dim=TEXT)
    text_model(tmp_path_factory.mktemp("tokenizer"), vae=vae, unet=reader).save_pretrained(texts)
    save_model(pictures, unet=small_unet(time_ids=3), vae=vae, conditioning="svd")
    filling = small_unet(time_ids=3, in_channels=2 * CHANNELS + 1)
    FrameInterpolationPipeline(**{**tiny.components(), "unet": filling, "vae": vae}).save_pretrained(ends)
    return {"texts": texts, "pictures": pictures, "ends": ends}


@pytest.fixture(scope="module")
def cached(tmp_path_factory, models):
    """Clips with captions and pictures."""
    digest = latents.vae_digest(checkpoints.from_folder(models["texts"]).network("vae"))
    return write_clips(tmp_path_factory.mktemp("clips"), digest=digest, text=True)


@pytest.fixture(scope="module")
def cached_ends(tmp_path_factory, models):
    """The same for a model that fills in frames."""
    digest = latents.vae_digest(checkpoints.from_folder(models["ends"]).network("vae"))
    return write_clips(tmp_path_factory.mktemp("ends"), digest=digest, ends=True)


@pytest.fixture
def miniature(cached, cached_ends, models, tmp_path, monkeypatch):
    """A recipe for small models and clips: two steps."""
    monkeypatch.setattr(train.page, "write", lambda run: run)  # takes a second; told by tests of its own

    def made(name, **changes):
        found = recipe_of(name)
        told = "texts" if name in TOLD_TEXTS else "ends" if name in BOTH_ENDS else "pictures"
        small = {
            "data": cached_ends if told == "ends" else cached,
            "out": tmp_path / "run",
            "model": str(models[told]),
            "num_views": 1 if found.num_views == 1 else FRAMES,
            "max_train_steps": 2,
            "global_batch_size": 2,
            "train_batch_size": 2,
            "mixed_precision": "no",
            "gradient_checkpointing": False,
            "learning_rate": 1e-3,
            "checkpointing_steps": 2,
            "dataloader_num_workers": 0,
            "held_out": 0.0,
            "report_to": (),
            "device": "cpu",
        }
        return dataclasses.replace(found, **{**small, **changes})

    return made


LEARNS = {
    "image-edm-1": lambda name: name.startswith("time_embedding."),
    "image-edm-2": lambda name: not any(part in f".{name}" for part in learner.TEMPORAL),
    CAMERAS[0]: lambda name: "temporal_transformer_blocks" in name and ".attn" in name,
}
"""Which parameters may change; of others, all."""


@pytest.mark.parametrize("name", ["image-edm-1", "image-edm-2", "i2v-base", *BOTH_ENDS, CAMERAS[0]])
def test_a_recipe_in_miniature_resumes_to_the_last_bit(miniature, tmp_path, name):
    """Text-to-video: with images among the videos, below. Others differ from these in numbers alone."""
    straight = miniature(name, out=tmp_path / "straight")
    losses = [step.loss for step in trained(straight)]
    stopped = miniature(name, out=tmp_path / "stopped", checkpointing_steps=1)
    first = [step.loss for step in itertools.islice(train.run(stopped), 1)]
    assert first + [step.loss for step in trained(stopped)] == losses
    for one, other in zip(published(straight, 2), published(stopped, 2), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("name", [*(each for each in PAPER if each != "i2v-hq-25"), CAMERAS[0]])
def test_a_recipe_in_miniature_makes_its_kind_of_model(miniature, name):
    plan = miniature(name, max_train_steps=1)
    trained(plan)
    folder = plan.out / "checkpoints/step-1"
    index = json.loads((folder / "model_index.json").read_text())
    told_texts = name in TOLD_TEXTS
    kind = "TextToVideoPipeline" if told_texts else "StableVideoDiffusionPipeline"
    assert index["_class_name"] == ("FrameInterpolationPipeline" if name in BOTH_ENDS else kind)
    assert (folder / ("text_encoder" if told_texts else "image_encoder")).is_dir()
    again = checkpoints.from_folder(folder)
    assert again.networks["unet"].config["num_frames"] == plan.num_views
    before = checkpoints.folder_weights(Path(plan.model), "unet")
    changed = [key for key, each in again.weights["unet"].items() if not torch.equal(each, before[key])]
    assert changed
    assert all(map(LEARNS.get(name, bool), changed))
    assert (folder / "pytorch_lora_weights.safetensors").is_file() == (plan.trains == "lora")
    takes = "TEXT" if told_texts else "FIRST --last LAST" if name in BOTH_ENDS else "IMAGE"
    assert cli._after_training(plan) == f"svd3d video {takes} --model {folder} --out DIR"
    decoder = dataclasses.replace(plan, trains="decoder")
    assert cli._after_training(decoder) == f"svd3d cache VIEWS --model {folder} --out DIR"


def test_adapters_that_learnt_nothing_are_an_error(miniature):
    plan = miniature(CAMERAS[0], learning_rate=1e-300)
    with pytest.raises(
        TrainingError, match="the adapters change nothing, all their B are zero after 2 steps"
    ):
        trained(plan)
    unet = small_unet()
    lora.add(unet, rank=2, where="temporal")
    assert lora.changes_nothing(unet)
    with torch.no_grad():
        next(each for name, each in unet.named_parameters() if "lora_B" in name)[0, 0] = 1e-9
    assert not lora.changes_nothing(unet)


def batches_of(cached, **changes):
    settings = {"seed": 1, "global_batch": 4, "micro_batch": 2, "held_out": 0.0, "image_share": 0.4}
    return Batches(ClipLatents.open(cached), **{**settings, **changes})


def test_steps_of_images_are_among_those_of_videos_by_seed_and_position_alone(cached):
    draws = batches_of(cached).draws
    kinds = [draws.sample_at(4 * step) is draws.image for step in range(1000)]
    assert not kinds[0]
    assert abs(sum(kinds) / 1000 - 0.4) < 4 * (0.4 * 0.6 / 1000) ** 0.5
    other = batches_of(cached, seed=2).draws
    assert kinds != [other.sample_at(4 * step) is other.image for step in range(1000)]

    def frames(count, **changes):
        """Of each micro-batch."""
        return [batch["latents"].shape[1] for batch in itertools.islice(batches_of(cached, **changes), count)]

    expected = [1 if each else FRAMES for each in kinds[:8]]
    assert {1, FRAMES} == set(expected)
    assert frames(8, micro_batch=4) == expected
    assert frames(16) == [each for each in expected for _ in range(2)]
    assert frames(8, world=2, rank=0) == frames(8, world=2, rank=1) == expected
    assert frames(4, micro_batch=4, start=16) == expected[4:]
    assert set(frames(2, part="held-out", held_out=0.5)) == {FRAMES}


def test_an_image_has_neither_rate_nor_motion_nor_a_picture_before_it(cached):
    for batch in itertools.islice(batches_of(cached, micro_batch=4), 8):
        image = batch["latents"].shape[1] == 1
        assert batch["fps"].isnan().all() == image
        assert batch["clip"].any() != image
        assert batch["text"].flatten(1).any(dim=1).all()


def test_images_among_videos_resume_to_the_last_bit(miniature, tmp_path):
    mixed = {"image_share": 0.5, "max_train_steps": 3, "seed": 1}
    straight = miniature("video-b", out=tmp_path / "straight", **mixed)
    draws = batches_of(straight.data, global_batch=2, image_share=0.5).draws
    assert [draws.sample_at(2 * step) is draws.image for step in range(3)] == [False, True, False]
    losses = [step.loss for step in trained(straight)]
    stopped = miniature("video-b", out=tmp_path / "stopped", **mixed)
    first = [step.loss for step in itertools.islice(train.run(stopped), 2)]
    assert first + [step.loss for step in trained(stopped)] == losses
    assert_same(published(straight, 3)[0], published(stopped, 3)[0])


def test_rate_and_motion_are_told_or_unknown(cached):
    """What is unknown is embedded as zeros: tests/test_train_clips.py."""
    told, untold = (
        next(iter(batches_of(cached, micro_batch=4, image_share=0.0, tells_motion=each)))
        for each in (True, False)
    )
    assert not told["fps"].isnan().any()
    assert not told["motion"].isnan().all()
    assert untold["fps"].isnan().all()
    assert untold["motion"].isnan().all()


def test_captions_are_dropped_at_a_rate_of_their_own(miniature):
    count = 2000
    batch = {
        "latents": torch.zeros(count, 1, 1, 1, 1),
        "draw_seed": torch.arange(count),
        "text": torch.ones(count, 2, 3),
    }
    drawn = denoising.draw(batch, miniature("video-a", drop_clip=0.9))
    lost = (drawn["tokens"] == 0).flatten(1).all(dim=1).float().mean().item()
    assert abs(lost - 0.15) < 4 * (0.15 * 0.85 / count) ** 0.5


def test_both_ends_are_seen_at_their_places_with_the_noise_that_is_told(miniature):
    """And dropped with their mark, apart from the two tokens of CLIP."""
    config = miniature("interpolation")
    data = ClipLatents.open(config.data)
    batches = Batches(data, seed=1, global_batch=8, micro_batch=8, held_out=0.0)
    batch = next(iter(batches))
    whole = denoising.draw(batch, dataclasses.replace(config, drop_image=0.0, drop_clip=0.0))
    shown, clean = whole["shown"], batch["latents"]
    assert shown.shape == (8, FRAMES, CHANNELS + 1, *clean.shape[3:])
    assert not shown[:, 1:-1].any()
    assert (shown[:, [0, -1], -1] == 1).all()
    noise = (shown[:, [0, -1], :-1] - clean[:, [0, -1]]) / whole["noise_aug"].reshape(8, 1, 1, 1, 1)
    assert abs(noise.mean().item()) < 5 / noise.numel() ** 0.5
    assert abs(noise.std().item() - 1) < 5 / noise.numel() ** 0.5
    assert torch.equal(whole["tokens"], batch["clip"])
    assert whole["tokens"].shape[1] == 2
    strengths = torch.cat(
        [denoising.draw(each, config)["noise_aug"] for each in itertools.islice(batches, 200)]
    )
    assert abs(strengths.log().mean().item() + 3) < 4 * 0.5 / len(strengths) ** 0.5
    assert abs(strengths.log().std().item() - 0.5) < 4 * 0.5 / (2 * len(strengths)) ** 0.5
    lost = [
        (shown == 0).flatten(1).all(1)
        for shown in (denoising.draw(each, config)["shown"] for each in itertools.islice(batches, 200))
    ]
    assert abs(torch.cat(lost).float().mean().item() - 0.1) < 4 * (0.09 / len(strengths)) ** 0.5


@torch.no_grad()
def test_the_loss_of_filling_in_is_that_of_the_unet_on_what_was_drawn(miniature, models):
    config = miniature("interpolation", drop_image=0.0, drop_clip=0.0)
    data, start = train.open_data(config, checkpoints.from_folder(models["ends"]))
    batches = Batches(data, seed=1, global_batch=4, micro_batch=4, held_out=0.0)
    batch, objective = next(iter(batches)), train.objective_of(config, start, batches.draws)
    losses, sigmas = objective.losses(objective.network, batch)
    drawn = denoising.draw(batch, config)
    for i, (loss, sigma) in enumerate(zip(losses, sigmas, strict=True)):
        clean, noisy = batch["latents"][i], batch["latents"][i] + sigma * drawn["noise"][i]
        seen = torch.cat([noisy / (sigma**2 + 1) ** 0.5, drawn["shown"][i]], dim=1)
        ids = torch.stack([batch["fps"][i] - 1, batch["motion"][i], drawn["noise_aug"][i]])
        output = objective.network(seen[None], sigma.log() / 4, batch["clip"][i : i + 1], ids[None]).sample[0]
        estimate = noisy / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5
        expected = ((1 + sigma**2) / sigma**2 * (estimate - clean) ** 2).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_views": 3},
            "num_views 3, image_share 0: a model that fills in frames sees whole clips, here of 4",
        ),
        ({"image_share": 0.5}, "num_views 4, image_share 0.5: a model that fills in frames"),
        ({"data": "CLIPS"}, "holds no embeddings of both ends"),
    ],
)
def test_filling_in_needs_whole_clips_and_both_their_ends(miniature, cached, changes, message):
    changes = {name: cached if each == "CLIPS" else each for name, each in changes.items()}
    with pytest.raises(ConfigError, match=message):
        trained(miniature("interpolation", **changes))


def test_clips_of_both_ends_are_nothing_for_a_model_that_is_shown_one(miniature, cached_ends):
    with pytest.raises(ConfigError, match="holds no embeddings of pictures"):
        trained(miniature("i2v-base", data=cached_ends))


@pytest.mark.parametrize("trains", ["autoencoder", "decoder"])
def test_images_among_what_is_no_video_are_refused(trains, miniature):
    with pytest.raises(ConfigError, match=f"image_share: the {trains} sees pictures as they are"):
        miniature("video-a", trains=trains, image_share=0.1)


def test_the_table_of_costs_is_what_the_script_computes():
    """Of the cheapest to count; the operations of one convolution are told by a pencil."""
    stage = next(each for each in stage_costs.STAGES if each.recipe == "image-edm-2")
    row = stage_costs.row_of(stage)
    cells = [
        f"`{row['recipe']}`", row["clip"], f"{row['trained']:.1f}", f"{row['held']:.1f}",
        f"{row['latents']:.2f}", f"{row['pass']:.1f}",
    ]  # fmt: skip
    assert "| " + " | ".join(cells) + " | " in (CONFIGS / "README.md").read_text()
    assert {each.recipe for each in stage_costs.STAGES} >= PAPER.keys()
    for stage in stage_costs.STAGES:
        if stage.recipe in (*PAPER, *CAMERAS):
            assert stage.size == cache_of(stage.recipe).clip_size


def test_scores_become_buckets_as_the_page_of_recipes_says(tmp_path, monkeypatch):
    scores = pa.array([1.0, 2.0, None, 5.0], "float32")
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"id": ["a", "b", "c", "d"], "motion": scores}), "camera.parquet")
    (code,) = re.findall(r"```python\n(.*?)```", (CONFIGS / "README.md").read_text(), re.DOTALL)
    exec(code, {})
    found = pq.read_table("buckets.parquet")
    assert found["motion"].to_pylist() == [63.5, 127.0, None, 255.0]
    assert found.schema == pa.schema({"id": pa.string(), "motion": pa.float32()})
