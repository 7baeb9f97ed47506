"""`svd3d video` as its user sees it, and the way to a model of one's own: convert, train, watch."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image, ImageOps
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from svd3d import cli, convert, images, runs, train, video
from svd3d.curation import footage
from svd3d.curation.video import probe
from svd3d.data import latents
from svd3d.errors import CheckpointError, ConfigError, InputError
from svd3d.model import lora, tiny
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.model.video_pipeline import TextToVideoPipeline
from svd3d.settings import ConvertConfig, TrainConfig, VideoConfig
from tests.test_train_clips import HEIGHT, TEXT, write_clips
from tests.trainings import assert_same, published, trained
from tests.videos import WIDTH, text_model

assert WIDTH == TEXT


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A small Stable Video Diffusion, saved by diffusers."""
    folder = tmp_path_factory.mktemp("models") / "stock"
    StableVideoDiffusionPipeline(**tiny.components(time_ids=3)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def told_texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "text-to-video"
    text_model(folder / "tokenizer").save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Two pictures that are wider than the frames, and a text file among them that says it is one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(256, size=(2, 8, 12, 3), dtype=np.uint8)
    for name, each in zip("ac", noise, strict=True):
        wide = Image.fromarray(each).resize((96, 48), Image.Resampling.BICUBIC)
        images.write_png(folder / f"{name}.png", np.array(wide))
    (folder / "b.png").write_text("not a picture")
    return folder


def settings(prompt, model, out, **changes) -> VideoConfig:
    quick = {"num_frames": 2, "size": (32, 48), "steps": 1, "device": "cpu"}
    return VideoConfig(str(prompt), str(model), out, **{**quick, **changes})


def run(config):
    said = []
    return list(video.run(config, tell=said.append))


def frames_of(folder):
    return np.stack([images.read(each)[..., :3] for each in sorted((folder / "frames").iterdir())])


def test_a_picture_becomes_the_video_that_diffusers_makes_of_its_middle(stock, pictures, tmp_path):
    config = settings(pictures / "a.png", stock, tmp_path / "out", num_frames=3, fps=5, motion=40.0, seed=3)
    (made,) = run(config)
    assert (made.uid, made.folder, made.status) == ("a", tmp_path / "out/a", "done")
    found = frames_of(made.folder)

    pipeline = StableVideoDiffusionPipeline.from_pretrained(stock)
    pipeline.set_progress_bar_config(disable=True)
    middle = ImageOps.fit(Image.open(pictures / "a.png"), (48, 32), Image.Resampling.LANCZOS)
    expected = pipeline(
        middle,
        height=32,
        width=48,
        num_frames=3,
        num_inference_steps=1,
        fps=5,
        motion_bucket_id=40,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).frames[0]
    assert np.array_equal(found, images.to_uint8(expected))
    assert json.loads((made.folder / "video.json").read_text()) == {
        "picture": str(pictures / "a.png"),
        "model": str(stock),
        "lora": [],
        "num_frames": 3,
        "height": 32,
        "width": 48,
        "fps": 5,
        "motion": 40.0,
        "steps": 1,
        "seed": 3,
    }
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["inputs"]["picture"]["sha256"] == runs.sha256(pictures / "a.png")
    assert manifest["inputs"]["model"]["sha256"] == runs.sha256(stock)


def test_motion_that_is_not_known_is_embedded_as_zeros(stock, pictures, tmp_path):
    config = settings(pictures / "a.png", stock, tmp_path / "out", motion="unknown")
    (made,) = run(config)
    assert json.loads((made.folder / "video.json").read_text())["motion"] is None
    pipeline = SVDMVPipeline.load(str(stock), conditioning="svd")
    pipeline.set_progress_bar_config(disable=True)
    middle = ImageOps.fit(Image.open(pictures / "a.png"), (48, 32), Image.Resampling.LANCZOS)
    quick = {"height": 32, "width": 48, "num_views": 2, "num_inference_steps": 1, "guidance": "linear"}
    quick |= {
        "max_guidance_scale": 3.0,
        "keep_input_view": False,
        "generator": [torch.Generator().manual_seed(0)],
    }
    add = pipeline.unet.add_embedding.linear_1
    with torch.no_grad():
        width = add.in_features // 3
        add.weight[:, width : 2 * width] = 0  # whatever is told
    expected = pipeline([middle], **quick, motion_bucket_id=60.0).views[0]
    assert np.array_equal(frames_of(made.folder), images.to_uint8(expected))


def test_curation_reads_what_was_made(told_texts, tmp_path):
    (tmp_path / "texts.txt").write_text("A red car, to the left!\n\nA dog\n", encoding="utf-8")
    results = run(settings(tmp_path / "texts.txt", told_texts, tmp_path / "out", fps=6))
    assert [each.uid for each in results] == ["a-red-car-to-the-left", "a-dog"]
    found = footage.find(tmp_path / "out")
    assert len(found) == 2
    for each in results:
        film = probe(each.folder / "video.mp4")
        assert (film.width, film.height, round(film.fps)) == (48, 32, 6)
        assert json.loads((each.folder / "video.json").read_text())["motion"] is None


def test_running_again_resumes_and_other_settings_are_refused(told_texts, tmp_path, monkeypatch):
    config = settings("a dog", told_texts, tmp_path / "out", samples=2)
    (tmp_path / "texts.txt").write_text("a dog\na cat\n", encoding="utf-8")
    going = video.run(config, tell=lambda _: None)
    assert next(going).uid == "a-dog-s0"
    going.close()  # between two videos
    assert [(each.uid, each.status) for each in run(config)] == [
        ("a-dog-s0", "skipped"),
        ("a-dog-s1", "done"),
    ]
    first, second = (frames_of(tmp_path / "out" / name) for name in ("a-dog-s0", "a-dog-s1"))
    assert (first != second).mean() > 0.1
    alone = settings("a dog", told_texts, tmp_path / "alone", seed=1)
    assert np.array_equal(frames_of(run(alone)[0].folder), second)
    with monkeypatch.context() as patch:
        patch.setattr(video, "_load", lambda *_, **__: pytest.fail("loaded again"))
        assert [each.status for each in run(config)] == ["skipped", "skipped"]
        with pytest.raises(ConfigError, match=r"steps was 1, now 2.*choose another --out"):
            run(settings("a dog", told_texts, tmp_path / "alone", seed=1, steps=2))
    monkeypatch.setattr(images, "write_film", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(settings(tmp_path / "texts.txt", told_texts, tmp_path / "killed"))
    assert list((tmp_path / "killed").iterdir()) == []


def test_from_the_command_line_a_bad_picture_is_named_and_the_others_go_on(stock, pictures, tmp_path, capsys):
    words = [pictures, "--model", stock, "--out", tmp_path / "out", "--num-frames", 2, "--size", 32, 48]
    words += ["--steps", 1, "--device", "cpu", "--json"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["video", *map(str, words)])
    assert ended.value.code == cli.FAILED
    said = capsys.readouterr()
    told = [json.loads(line) for line in said.out.splitlines()]
    assert [(each["uid"], each["status"]) for each in told] == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert f"{pictures / 'b.png'}: not an image" in told[1]["message"]
    assert "Next: svd3d curate" in said.err
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["a", "c"]


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ("PICTURE", CheckpointError, "makes videos of a text, and was given a picture"),
        ("nowhere/cup.png", InputError, "nowhere/cup.png: no such picture"),
        ("nowhere.txt", InputError, "nowhere.txt: no such file of texts"),
        ("  ", InputError, "prompt: an empty text"),
        ("EMPTY", InputError, "holds no picture"),
        ("BLANK", InputError, "holds no text"),
        ("LATIN", InputError, "pass texts in UTF-8"),
    ],
)
def test_what_is_no_prompt_is_refused_and_nothing_is_left(
    told_texts, pictures, tmp_path, prompt, error, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    places = {"PICTURE": pictures / "a.png", "EMPTY": tmp_path / "empty"}
    places |= {"BLANK": tmp_path / "blank.txt", "LATIN": tmp_path / "latin.txt"}
    with pytest.raises(error, match=message):
        run(settings(places.get(prompt, prompt), told_texts, tmp_path / "out"))
    assert sorted((tmp_path / "out").rglob("*")) == []


def test_texts_with_one_name_are_told_apart(told_texts, tmp_path):
    (tmp_path / "texts.txt").write_text("a dog\nA dog!\n", encoding="utf-8")
    results = run(settings(tmp_path / "texts.txt", told_texts, tmp_path / "out"))
    assert [each.status for each in results] == ["done", "failed"]
    assert "A dog!: its name, a-dog, is that of a dog too" in results[1].message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 1}, "num_frames must lie between 2 and"),
        ({"fps": 0}, "fps must be at least 1"),
        ({"size": (8, 32)}, "size must be at least 16"),
        ({"motion": -1.0}, "motion must be a number, at least 0"),
        ({"max_guidance": float("nan")}, "max_guidance must be a number"),
        ({"seed": -1}, "seeds must lie between 0"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ConfigError, match=message):
        settings("a dog", "model", Path("out"), **change)


def test_text_to_video_starts_from_stable_diffusion_or_from_nothing():
    with pytest.raises(ConfigError, match="for text-to-video it is sd21 or scratch; got svd"):
        ConvertConfig("svd", Path("out"), prior="svd", to="text-to-video")


# --- a model of one's own


@pytest.fixture
def recipe(told_texts, tmp_path, monkeypatch):
    """Two steps on captions; a checkpoint after each."""
    monkeypatch.setattr(train.page, "write", lambda run: run)
    digest = latents.vae_digest(TextToVideoPipeline.load(str(told_texts)).vae)
    return TrainConfig(
        data=write_clips(tmp_path / "clips", digest=digest, text=True, picture=False),
        out=tmp_path / "straight",
        model=str(told_texts),
        max_train_steps=2,
        train_batch_size=2,
        learning_rate=1e-3,
        checkpointing_steps=1,
        held_out=0.0,
        report_to=(),
        device="cpu",
    )


def test_training_on_captions_makes_models_that_paint_texts_and_resumes(recipe, told_texts, tmp_path):
    learns = sum(each.numel() for each in TextToVideoPipeline.load(str(told_texts)).unet.parameters()) / 1e6
    assert f"2 steps of 2 samples; {learns:.1f} million parameters learn" in train.plan(recipe)
    trained(recipe)
    stopped = {"out": tmp_path / "stopped"}
    trained(recipe, **stopped, max_train_steps=1)
    assert len(trained(recipe, **stopped)) == 1
    weights, state = published(recipe, 2)
    again = published(TrainConfig(**{**vars(recipe), **stopped}), 2)
    assert_same(again[0], weights)
    assert_same(again[1], state)

    checkpoint = recipe.out / "checkpoints/step-2"
    index = json.loads((checkpoint / "model_index.json").read_text())
    assert index["_class_name"] == "TextToVideoPipeline"
    for part in ("text_encoder", "tokenizer", "vae", "scheduler"):
        assert runs.sha256(checkpoint / part) == runs.sha256(told_texts / part)
    loaded = TextToVideoPipeline.load(str(checkpoint))
    assert_same(dict(loaded.unet.state_dict()), weights)
    assert loaded.unet.config.num_frames == 4  # of the clips
    (made,) = run(settings("a dog", checkpoint, tmp_path / "out", num_frames=None, size=None))
    assert frames_of(made.folder).shape == (4, 8 * HEIGHT, 8 * HEIGHT, 3)


def test_scratch_of_a_model_told_texts_is_told_texts_and_has_learnt_nothing(told_texts, tmp_path, capsys):
    words = ["convert", told_texts, "--from", "scratch", "--to", "text-to-video", "--size", 16, "--seed", 3]
    with pytest.raises(SystemExit) as ended:
        cli.main([*map(str, words), "--out", str(tmp_path / "scratch")])
    assert ended.value.code == 0
    assert "Next: svd3d train RECIPE" in capsys.readouterr().err
    trained_, new = (TextToVideoPipeline.load(str(each)) for each in (told_texts, tmp_path / "scratch"))
    assert_same(dict(new.text_encoder.state_dict()), dict(trained_.text_encoder.state_dict()))
    assert_same(dict(new.vae.state_dict()), dict(trained_.vae.state_dict()))
    assert not torch.equal(new.unet.conv_in.weight, trained_.unet.conv_in.weight)
    assert new.size == 16
    texts = ["a dog"]
    assert new.tokenizer(texts) == trained_.tokenizer(texts)


def test_stable_video_diffusion_goes_through_conversion_as_it_is(stock, tmp_path):
    convert.run(ConvertConfig(str(stock), tmp_path / "same", to="image-to-video"))
    index, before = (
        json.loads((each / "model_index.json").read_text()) for each in (tmp_path / "same", stock)
    )
    assert index == before
    for part in ("unet", "vae", "image_encoder"):
        (found,), (expected,) = ((each / part).glob("*.safetensors") for each in (tmp_path / "same", stock))
        assert_same(load_file(found), load_file(expected))


@pytest.mark.parametrize(
    ("source", "to", "message"),
    [
        ("TEXTS", "svd3d", "told a text, of which --to svd3d cannot be made"),
        ("TEXTS", "original", "told a text, of which --to original cannot be made"),
        ("tiny", "text-to-video", "told a picture of an object, of which --to text-to-video cannot be made"),
        (
            "tiny",
            "image-to-video",
            "told a picture of an object, of which --to image-to-video cannot be made",
        ),
        ("FILE", "text-to-video", "needs a diffusers folder of Stable Diffusion 2.1"),
    ],
)
def test_what_no_conversion_can_make_is_one_line(told_texts, tmp_path, capsys, source, to, message):
    file = shutil.copyfile(
        told_texts / "unet/diffusion_pytorch_model.safetensors", tmp_path / "a.safetensors"
    )
    places = {"TEXTS": told_texts, "FILE": file}
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", str(places.get(source, source)), "--to", to, "--out", str(tmp_path / "out")])
    assert ended.value.code == cli.WRONG_INPUT
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_fills_in_frames_from_text_to_video_to_its_first_film(
    told_texts, pictures, tmp_path, monkeypatch, capsys
):
    """convert, train on clips of both ends, video --last; other commands name what it is."""
    monkeypatch.setattr(train.page, "write", lambda run: run)
    sizes = tiny.image_encoder().config.to_dict() | {"projection_dim": WIDTH}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes)).save_pretrained(tmp_path / "clip/image_encoder")
    (tmp_path / "clip/model_index.json").write_text("{}")
    convert.run(
        ConvertConfig(
            str(told_texts), tmp_path / "start", to="interpolation", image_encoder=str(tmp_path / "clip")
        )
    )
    digest = latents.vae_digest(TextToVideoPipeline.load(str(told_texts)).vae)
    recipe = TrainConfig(
        data=write_clips(tmp_path / "clips", digest=digest, ends=True, width=WIDTH),
        out=tmp_path / "run",
        model=str(tmp_path / "start"),
        max_train_steps=2,
        train_batch_size=2,
        learning_rate=1e-3,
        held_out=0.3,
        validation_steps=2,
        validation_objects=1,
        validation_sampling_steps=2,
        report_to=(),
        device="cpu",
    )
    *_, last = trained(recipe)
    assert last.validation is not None
    assert np.isfinite(last.validation["psnr"])
    checkpoint = recipe.out / "checkpoints/step-2"
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    config = settings(pictures / "a.png", checkpoint, tmp_path / "out", num_frames=5)
    config = dataclasses.replace(config, last=tmp_path / "red.png")
    (made,) = run(config)
    found = frames_of(made.folder)
    assert found.shape == (5, 32, 48, 3)
    middle = ImageOps.fit(Image.open(pictures / "a.png"), (48, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(found[0], np.array(middle))
    assert (found[-1] == (255, 0, 0)).all()
    told = json.loads((made.folder / "video.json").read_text())
    assert (told["first"], told["last"]) == (str(pictures / "a.png"), str(tmp_path / "red.png"))
    assert run(config)[0].status == "skipped"
    for wrong, error, message in [
        ({"last": tmp_path / "none.png"}, InputError, "none.png: no such last picture"),
        ({"prompt": str(pictures)}, InputError, "a folder, and --last ends one video"),
        ({"last": None}, CheckpointError, "makes videos of a pair of pictures, and was given a picture"),
        ({"model": str(told_texts)}, CheckpointError, "makes videos of a text, and was given a pair of pic"),
    ]:
        with pytest.raises(error, match=message):
            run(dataclasses.replace(config, out=tmp_path / "other", **wrong))
    cut_out = Image.new("RGBA", (64, 64))
    cut_out.paste("red", (16, 16, 48, 48))
    cut_out.save(tmp_path / "cut-out.png")
    for words in (["generate", tmp_path / "cut-out.png", "--model", checkpoint], ["convert", checkpoint]):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, words), "--out", str(tmp_path / "views")])
        assert ended.value.code == cli.WRONG_INPUT
        said = capsys.readouterr().err.splitlines()[-1]
        assert "pair of pictures" in said or "between two pictures" in said


def adapter(model: Path, file: Path, *, learnt: bool = True) -> Path:
    """Of the temporal attention; one that has not learnt still has B = 0."""
    unet = TextToVideoPipeline.load(str(model)).unet
    lora.add(unet, rank=2, where="temporal")
    if learnt:
        source = torch.Generator().manual_seed(0)
        for name, parameter in unet.named_parameters():
            if ".lora_B." in name:
                parameter.data = 20 * torch.randn(parameter.shape, generator=source)
    return lora.save(unet, file)


def test_adapters_change_a_video_by_their_weight_and_two_halves_are_one(told_texts, tmp_path):
    file = adapter(told_texts, tmp_path / "left.safetensors")
    words = {"whole": [file], "halves": [f"{file}=0.25", f"{file}=0.75"], "none": [f"{file}=0"], "plain": []}
    found = {}
    for name, given in words.items():
        config = settings("a dog", told_texts, tmp_path / name, lora=tuple(map(str, given)))
        (made,) = run(config)
        found[name] = frames_of(made.folder).astype(float)
    assert np.array_equal(found["none"], found["plain"])
    assert np.abs(found["whole"] - found["halves"]).max() <= 1
    assert np.abs(found["whole"] - found["plain"]).max() > 10
    manifest = json.loads((tmp_path / "whole/a-dog/manifest.json").read_text())
    assert manifest["inputs"][str(file)]["sha256"] == runs.sha256(file)
    assert json.loads((tmp_path / "whole/a-dog/video.json").read_text())["lora"] == [str(file)]


def test_an_adapter_that_changes_nothing_or_has_no_weight_is_refused(told_texts, tmp_path):
    file = adapter(told_texts, tmp_path / "new.safetensors", learnt=False)
    with pytest.raises(CheckpointError, match="changes nothing"):
        run(settings("a dog", told_texts, tmp_path / "out", lora=(str(file),)))
    with pytest.raises(ConfigError, match="'much' is not a weight"):
        settings("a dog", told_texts, tmp_path / "out", lora=(f"{file}=much",))
