"""CLIP and the aesthetic predictor: against the library's own call and the network as LAION wrote it."""

import math
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svd3d.curation import semantic
from svd3d.errors import ConfigError, DependencyError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")
SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A CLIP with few, random weights, as its library saves it: letters are its words."""
    folder = tmp_path_factory.mktemp("clip")
    letters = sorted(transformers.models.clip.tokenization_clip.pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokens = transformers.CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[])
    few = {"intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 32}
    marks = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(
        text_config={**few, **marks, "vocab_size": len(words), "max_position_embeddings": 24},
        vision_config={**few, "patch_size": 16, "image_size": SIZE},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder)
    preparation = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    preparation.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder) -> semantic.Clip:
    return semantic.Clip.load(str(folder))


def scenes(seed: int, *sizes: tuple[int, int]) -> list[np.ndarray]:
    """Pictures of coloured blobs of so many rows and columns."""
    rng = np.random.default_rng(seed)
    coarse = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)) for _ in sizes]
    return [np.asarray(each.resize(size[::-1])) for each, size in zip(coarse, sizes, strict=True)]


def test_embeddings_and_similarities_are_those_of_the_library(clip, folder):
    images = scenes(0, (90, 160), (64, 64), (200, 70))
    texts = ["a cup", "two dogs run"]
    network = transformers.CLIPModel.from_pretrained(folder).eval()
    prepared = transformers.CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = network(**tokens, **prepared)
        theirs = (expected.logits_per_image / network.logit_scale.exp()).numpy()
    embeddings = clip.embed(images)
    assert embeddings == pytest.approx(expected.image_embeds.numpy(), abs=1e-6)
    ours = np.array([clip.similarity(embeddings, text) for text in texts]).T
    assert np.ptp(theirs) > 1e-3
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_many_pictures_are_embedded_in_batches_and_in_their_order(clip, monkeypatch):
    images = scenes(1, *[(70, 80)] * 7)
    alone = np.concatenate([clip.embed([image]) for image in images])
    monkeypatch.setattr(semantic, "PICTURES_AT_ONCE", 3)
    together = clip.embed(images)
    assert together == pytest.approx(alone, abs=1e-6)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(7), abs=1e-6)
    assert np.ptp(together, axis=0).max() > 1e-3
    assert clip.embed([]).shape == (0, clip.width)


def test_a_long_text_loses_its_end(clip):
    embeddings = clip.embed(scenes(2, (64, 64)))
    long = "abcdefghijklmnopqrstuvwxyz " * 4
    assert clip.similarity(embeddings, long) == clip.similarity(embeddings, long + "but not this")
    assert clip.similarity(embeddings, long) != clip.similarity(embeddings, "z" + long)


def test_loading_leaves_the_random_state(folder):
    before = torch.random.get_rng_state()
    semantic.Clip.load(str(folder))
    assert torch.equal(torch.random.get_rng_state(), before)


def copied(folder: Path, where: Path, **changes: bytes | None) -> Path:
    """The folder with some files of other content, or without them."""
    where.mkdir()
    for path in folder.iterdir():
        content = changes.get(path.stem, path.read_bytes())
        if content is not None:
            (where / path.name).write_bytes(content)
    return where


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None}, r"holds no model\.safetensors; pass a folder with config\.json, "),
        ({"tokenizer": None}, r"holds no tokenizer\.json"),
        ({"model": b"nothing"}, r"cannot be read \(.*\); get the whole model"),
        ({"config": b"{"}, r"cannot be read"),
        ({"preprocessor_config": b"[]"}, r"cannot be read"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(folder, tmp_path, changes, reason):
    with pytest.raises(DependencyError, match=rf"^clip_score: .*{reason}") as caught:
        semantic.Clip.load(str(copied(folder, tmp_path / "clip", **changes)))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_drawn_at_random(folder, tmp_path):
    weights = safetensors.load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    less = safetensors.save(weights, {"format": "pt"})
    with pytest.raises(DependencyError, match=r"1 weights are missing, such as visual_projection\.weight"):
        semantic.Clip.load(str(copied(folder, tmp_path / "clip", model=less)))


def test_a_hub_id_that_is_not_there_is_not_downloaded():
    with pytest.raises(
        DependencyError, match=r"nobody/nothing is neither a folder nor in the cache of the hub;"
    ):
        semantic.Clip.load("nobody/nothing")


def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(ConfigError, match=r"^device nowhere: not usable here"):
        semantic.Clip.load(str(folder), device="nowhere")


# --- the aesthetic score


def laion_network(width: int) -> "torch.nn.Module":
    """The released network: class MLP with its layers under the name `layers`."""
    layers: list[torch.nn.Module] = []
    for inputs, outputs, dropout in [(width, 1024, 0.2), (1024, 128, 0.2), (128, 64, 0.1)]:
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Dropout(dropout)]
    layers += [torch.nn.Linear(64, 16), torch.nn.Linear(16, 1)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers:
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
    return torch.nn.ModuleDict({"layers": torch.nn.Sequential(*layers)}).eval()


@pytest.fixture(scope="module")
def laion() -> "torch.nn.Module":
    return laion_network(768)


def test_the_aesthetic_score_is_that_of_the_released_network(laion, tmp_path):
    path = tmp_path / "aesthetic.safetensors"
    safetensors.save_file(laion.state_dict(), path)
    embeddings = np.random.default_rng(0).normal(size=(5, 768)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    with torch.inference_mode():
        expected = laion["layers"](torch.from_numpy(embeddings))[:, 0].tolist()
    found = semantic.Aesthetic.load(path, width=768).score(embeddings)
    assert found == pytest.approx(expected, abs=1e-6)
    assert np.ptp(expected) > 1e-4


def test_the_released_pickle_is_refused_with_a_command_that_converts_it(laion, tmp_path, monkeypatch):
    path = tmp_path / "it's sac+logos.pth"
    torch.save(laion.state_dict(), path)
    with pytest.raises(DependencyError, match=r"is a pickle, .* weights_only=True") as caught:
        semantic.Aesthetic.load(path, width=768)
    command = shlex.split(str(caught.value).split("with: ")[1])
    monkeypatch.setattr(sys, "argv", ["-c", *command[3:]])
    exec(command[2], {})
    (score,) = semantic.Aesthetic.load(path.with_suffix(".safetensors"), width=768).score(np.zeros((1, 768)))
    with torch.inference_mode():
        assert score == pytest.approx(laion["layers"](torch.zeros(768)).item(), abs=1e-6)
    assert math.isfinite(score)


def test_another_network_is_not_taken_for_the_predictor(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.save_file(laion_network(512).state_dict(), path)
    with pytest.raises(DependencyError, match=r"layers\.0\.weight is \(1024, 512\), expected \(1024, 768\)"):
        semantic.Aesthetic.load(path, width=768)
    with_activations = {f"layers.{3 * n}.weight": torch.zeros(1, 768) for n in range(5)}
    safetensors.save_file(with_activations, path)
    with pytest.raises(DependencyError, match=r"layers\.0\.bias is missing, expected \(1024,\)"):
        semantic.Aesthetic.load(path, width=768)


def test_what_is_no_predictor_is_named(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"<html>404</html>")
    with pytest.raises(DependencyError, match=r"broken\.safetensors is not a whole safetensors file"):
        semantic.Aesthetic.load(broken, width=768)
    with pytest.raises(DependencyError, match=r"absent\.safetensors is not a file"):
        semantic.Aesthetic.load(tmp_path / "absent.safetensors", width=768)
    with pytest.raises(DependencyError, match=r"no predictor is named; pass --aesthetic FILE"):
        semantic.Aesthetic.load(None, width=768)
