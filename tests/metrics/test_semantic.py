"""LPIPS and CLIP-S: against the libraries they come from, and what they say where they cannot be computed.

LPIPS itself is tested where the packages lpips and torchvision are installed; what we put around it is tested
everywhere, with a small stand-in.
"""

import hashlib
import importlib.util
import json
import math
import pickle
import shutil
import socket
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svd3d import hub
from svd3d import images as pictures
from svd3d.errors import ConfigError, DependencyError, ImageError
from svd3d.metrics import catalog, images, semantic
from svd3d.metrics.semantic import Networks

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

FILES = " ".join(semantic.CLIP_FILES)
INCLUDE = " ".join(
    f"--include {name}" for name in ("'*.json'", "'*.safetensors'", "'*.txt'", "'*.model'", "'*.jinja'")
)
HAS_LPIPS = all(importlib.util.find_spec(name) for name in ("lpips", "torchvision"))
needs_lpips = pytest.mark.skipif(not HAS_LPIPS, reason="needs the packages lpips and torchvision")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Networks are kept per process; no test may meet those of another."""
    yield
    semantic.load.cache_clear()


def scenes(seed: int, *, count: int = 3, height: int = 64, width: int = 64) -> np.ndarray:
    """Pictures of blurred blobs with fine noise, 8-bit, so that networks see more than grey."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    smooth = np.stack(
        [Image.fromarray(each).resize((width, height), Image.Resampling.BILINEAR) for each in coarse]
    )
    return (smooth.astype(int) + rng.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8)


def colours(views: np.ndarray) -> np.ndarray:
    return views.astype(np.float32) / 255


# --- CLIP-S


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP with the patches of ViT-B/32 and few, random weights, as its library saves it."""
    folder = tmp_path_factory.mktemp("clip")
    few = {"intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 16}
    config = transformers.CLIPConfig(
        text_config={**few, "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 50},
        vision_config={**few, "hidden_size": 32, "num_hidden_layers": 2, "patch_size": 32, "image_size": 224},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture
def clip(clip_folder) -> semantic.Measure:
    return semantic.load("clip-s-b32", Networks(clip_b32=str(clip_folder)))


def library_embeddings(folder: Path, views: np.ndarray) -> np.ndarray:
    """What transformers makes of 8-bit pictures, with its own preparation."""
    network = transformers.CLIPModel.from_pretrained(folder).eval()
    prepared = transformers.CLIPImageProcessor.from_pretrained(folder)(list(views), return_tensors="pt")
    with torch.inference_mode():
        found = network.get_image_features(**prepared).pooler_output.double().numpy()
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def pillow_prepared(views: np.ndarray) -> np.ndarray:
    """CLIP's preparation by Pillow on floats, without the rounding to 8 bits after resizing."""
    height, width = views.shape[1:3]
    scale = 224 / min(height, width)
    size = (math.floor(width * scale + 1e-9), math.floor(height * scale + 1e-9))
    channels = [
        [np.asarray(Image.fromarray(each[..., c]).resize(size, Image.Resampling.BICUBIC)) for c in range(3)]
        for each in colours(views)
    ]
    left, top = ((side - 224) // 2 for side in size)
    cropped = np.clip(np.array(channels)[..., top : top + 224, left : left + 224], 0, 1)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return (cropped - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))


@pytest.mark.parametrize("size", [(224, 224), (60, 60), (300, 200), (200, 301), (576, 576)])
def test_clip_s_equals_the_cosine_that_transformers_gives(clip, clip_folder, size):
    ours, theirs = (scenes(seed, height=size[0], width=size[1]) for seed in (1, 2))
    expected = (library_embeddings(clip_folder, ours) * library_embeddings(clip_folder, theirs)).sum(-1)
    # Only at 224 pixels transformers does not round to 8 bits once more, after resizing.
    tolerance = 1e-6 if size == (224, 224) else 1e-3
    assert np.ptp(expected) > 20 * tolerance  # it would be noticed
    assert clip(colours(ours), colours(theirs)) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("size", [(60, 60), (300, 200), (200, 301), (576, 576)])
def test_pictures_are_prepared_as_pillow_does_without_rounding(clip, size):
    views = scenes(3, height=size[0], width=size[1])
    network = clip.compare.__self__.network
    seen = []
    network.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0].numpy()))
    clip(colours(views), colours(views))
    np.testing.assert_allclose(seen[0], pillow_prepared(views), atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.permutations(range(3)))
def test_clip_s_is_a_cosine_of_pairs(clip_folder, seed, order):
    clip = semantic.load("clip-s-b32", Networks(clip_b32=str(clip_folder)))
    one, other = colours(scenes(seed, height=40, width=40)), colours(scenes(seed + 1, height=40, width=40))
    value = clip(one, other)
    assert (abs(np.stack([value, clip(one, one)])) <= 1).all()
    assert clip(one, one) == pytest.approx([1, 1, 1], abs=1e-12)
    assert clip(other, one) == pytest.approx(value, abs=1e-12)
    assert clip(one[order], other[order]) == pytest.approx(value[list(order)], abs=1e-12)


def test_the_reference_is_embedded_once_for_all_methods(clip, monkeypatch):
    monkeypatch.setattr(semantic, "VIEWS_AT_ONCE", 2)
    counts = []
    clip.compare.__self__.network.register_forward_pre_hook(
        lambda _module, arguments: counts.append(len(arguments[0]))
    )
    reference, *methods = (colours(scenes(seed)) for seed in range(4))
    first = [clip(method, reference) for method in methods]
    assert (sum(counts), max(counts)) == (4 * 3, 2)
    copied = np.broadcast_to(reference[:1], reference.shape)
    clip(copied, reference)
    assert sum(counts) == 4 * 3
    monkeypatch.setattr(semantic, "VIEWS_REMEMBERED", 1)
    again = [clip(method, reference) for method in methods]
    assert sum(counts) > 4 * 3
    assert np.array(again) == pytest.approx(np.array(first), abs=1e-6)


def test_a_report_can_say_which_weights_were_used(clip, clip_folder):
    digest = hashlib.sha256((clip_folder / "model.safetensors").read_bytes()).hexdigest()
    assert clip.facts["sha256"] == {"model.safetensors": digest}
    assert clip.facts["source"] == str(clip_folder)
    assert json.loads(json.dumps(clip.facts)) == clip.facts


def test_loading_leaves_the_random_state_alone(clip_folder):
    before = torch.random.get_rng_state()
    semantic.load("clip-s-b32", Networks(clip_b32=str(clip_folder)))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture
def hub_cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def _no_network(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("something asked the network"))


@pytest.mark.usefixtures("hub_cache", "_no_network")
@pytest.mark.parametrize(
    ("metric", "command"),
    [
        ("clip-s-b32", f"hf download openai/clip-vit-base-patch32 --revision refs/pr/15 {INCLUDE}"),
        ("clip-s-l14", f"hf download openai/clip-vit-large-patch14 {INCLUDE}"),
    ],
)
def test_a_hub_id_that_is_not_here_is_named_with_the_way_to_get_it(metric, command):
    with pytest.raises(DependencyError) as caught:
        semantic.load(metric, Networks())
    source = command.split()[2]
    assert str(caught.value) == (
        f"{metric}: {source} is neither a folder nor in the cache of the hub; pass a folder with "
        f"{FILES.replace(' ', ', ')}, or fetch a hub id with: {command}"
    )


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("metric", list(semantic.PATCHES))
def test_a_model_of_the_cache_needs_no_network(monkeypatch, hub_cache, clip_folder, metric):
    monkeypatch.setitem(semantic.PATCHES, metric, 32)
    source = Networks().clip_b32 if metric == "clip-s-b32" else Networks().clip_l14
    repository = hub_cache / f"models--{source.replace('/', '--')}"
    reference = repository / "refs" / hub.REVISIONS.get(source, "main")
    reference.parent.mkdir(parents=True)
    reference.write_text("5" * 40)
    shutil.copytree(clip_folder, repository / "snapshots" / ("5" * 40))
    assert semantic.load(metric, Networks()).facts["source"] == f"{source}, revision {'5' * 40}"


def _drop(folder: Path, name: str) -> None:
    tensors = safetensors.load_file(folder / "model.safetensors")
    del tensors[name]
    safetensors.save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "holds no preprocessor_config.json;"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "holds no model.safetensors;",
        ),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{}"), "lacks 'image_mean';"),
        (lambda folder: _drop(folder, "visual_projection.weight"), "lacks 'visual_projection.weight';"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"PK\x03\x04" * 9),
            "cannot be read as CLIP",
        ),
        (lambda folder: (folder / "config.json").write_text("<html>"), "cannot be read as CLIP"),
    ],
)
def test_a_broken_folder_is_named_and_gives_no_number(tmp_path, clip_folder, spoil, reason):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    spoil(folder)
    with pytest.raises(DependencyError) as caught:
        semantic.load("clip-s-b32", Networks(clip_b32=str(folder)))
    assert str(caught.value).startswith(f"clip-s-b32: {folder} {reason}")
    assert "\n" not in str(caught.value)


def test_another_clip_than_the_metric_names_is_refused(clip_folder):
    with pytest.raises(DependencyError, match="patches of 32 pixels, expected 14"):
        semantic.load("clip-s-l14", Networks(clip_l14=str(clip_folder)))


def test_a_device_that_is_not_there_is_refused(clip_folder):
    with pytest.raises(ConfigError, match="device cuda:99: not usable here"):
        semantic.load("clip-s-b32", Networks(clip_b32=str(clip_folder), device="cuda:99"))
    found = semantic.load("clip-s-b32", Networks(clip_b32=str(clip_folder), device="auto"))
    assert found.facts["device"].startswith("cuda" if torch.cuda.is_available() else "cpu")


# --- what cannot be measured


def test_every_metric_is_in_the_catalog():
    assert set(semantic.METRICS) <= set(catalog.METRICS)


def test_what_cannot_be_compared_is_refused(clip):
    one = colours(scenes(0))
    with pytest.raises(ImageError, match=r"clip-s-b32: views of shape \(3, 64, 64, 3\) cannot be compared"):
        semantic.Measure.__call__.__wrapped__(clip, one, one[:2])  # past the shape hook, which is faster
    for value in (np.nan, np.inf, -0.01, 1.01):
        broken = one.copy()
        broken[1, 3, 3, 0] = value
        with pytest.raises(
            ImageError, match="clip-s-b32: reference: view 1 holds values that are not finite"
        ):
            clip(one, broken)


# --- LPIPS


def backbone_file(folder: Path, metric: str, network, monkeypatch) -> Path:
    """Weights of a network in the format and under the kind of name that torchvision publishes."""
    first, second = folder / "weights.pth", semantic.BACKBONES[metric]
    torch.save(network.state_dict(), first)
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    path = first.rename(folder / f"{second.name}-{digest[:8]}.pth")
    published = type(second)(second.net, second.name, path.name, second.smallest)
    monkeypatch.setitem(semantic.BACKBONES, metric, published)
    return path


class Distance(torch.nn.Module):
    """A stand-in for `lpips.LPIPS`: mean absolute difference behind one random layer."""

    def __init__(self, *, net: str, pnet_rand: bool, verbose: bool) -> None:
        super().__init__()
        assert (pnet_rand, verbose) == (True, False)  # else it downloads, and prints
        warnings.warn("out of date", UserWarning, stacklevel=2)
        self.net = torch.nn.Sequential()
        self.net.add_module("slice1", torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)))
        self.batches: list[int] = []

    def forward(self, one, other, *, normalize: bool):
        self.batches.append(len(one))
        one, other = (self.net(2 * each - 1 if normalize else each) for each in (one, other))
        return (one - other).abs().mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A module in place of `lpips`, and a folder with weights for it."""
    made = []

    def build(**arguments):
        made.append(Distance(**arguments))
        return made[-1]

    module = types.ModuleType("lpips")
    module.__file__, module.LPIPS = str(tmp_path / "lpips/__init__.py"), build
    (tmp_path / "lpips/weights/v0.1").mkdir(parents=True)
    (tmp_path / "lpips/weights/v0.1/alex.pth").write_bytes(b"linear")
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setattr(semantic, "_versions", lambda *names: dict.fromkeys(names, "1"))
    features = torch.nn.Module()
    features.features = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1))
    path = backbone_file(tmp_path, "lpips-alex", features, monkeypatch)
    return path, features, made


def test_lpips_gets_the_weights_of_the_file_and_pictures_in_its_range(stand_in, monkeypatch):
    path, features, made = stand_in
    measure = semantic.load("lpips-alex", Networks(lpips=path.parent))
    monkeypatch.setattr(semantic, "PIXELS_AT_ONCE", 2 * 40 * 48)
    one, other = (colours(scenes(seed, count=5, height=40, width=48)) for seed in (1, 2))
    weight = features.features[0].weight.detach().numpy()[..., 0, 0]  # the bias cancels
    expected = np.abs(2 * (one - other) @ weight.T).mean(axis=(1, 2, 3))
    assert measure(one, other) == pytest.approx(expected, rel=1e-5)
    assert made[0].batches == [2, 2, 1]
    assert measure.facts["sha256"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest(),
        "lpips/alex.pth": hashlib.sha256(b"linear").hexdigest(),
    }
    with pytest.raises(
        ImageError, match="lpips-alex: needs at least 31 x 31 pixels, these views have 48 x 30"
    ):
        measure(one[:, :30], other[:, :30])


def test_lpips_leaves_the_random_state_alone(stand_in):
    before = torch.random.get_rng_state()
    semantic.load("lpips-alex", Networks(lpips=stand_in[0].parent))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_that_are_absent_are_named_with_the_way_to_get_them(stand_in, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(DependencyError) as caught:
        semantic.load("lpips-vgg", Networks())
    text = str(caught.value)
    assert text.startswith(f"lpips-vgg: {tmp_path / 'hub/checkpoints'} holds no vgg16-397923af.pth, ")
    assert "--lpips-weights" in text
    assert "from torchvision.models import vgg16" in text
    assert "\n" not in text


def test_a_pickle_that_is_not_the_published_one_is_never_opened(stand_in, monkeypatch):
    path = stand_in[0]
    path.write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(DependencyError, match="is not the published file"):
        semantic.load("lpips-alex", Networks(lpips=path.parent))


class Payload:
    """What an evil pickle does: it makes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_not_even_a_file_of_the_right_digest_may_run_code(stand_in, monkeypatch, tmp_path):
    evil = types.SimpleNamespace(state_dict=lambda: {"features.0.weight": Payload(tmp_path / "owned")})
    path = backbone_file(tmp_path, "lpips-alex", evil, monkeypatch)
    with pytest.raises(pickle.UnpicklingError):
        semantic.load("lpips-alex", Networks(lpips=path.parent))
    assert not (tmp_path / "owned").exists()


def test_without_the_package_the_line_to_install_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(DependencyError, match=r"lpips-vgg needs .* pip install 'svd3d\[metrics\]'"):
        semantic.load("lpips-vgg", Networks())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "nms does not exist"),
        ("import torchvision_of_tomorrow", "No module named"),
    ],
)
def test_a_torchvision_that_does_not_fit_is_named(monkeypatch, tmp_path, source, reason):
    (tmp_path / "lpips.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    with pytest.raises(DependencyError, match=f"installed but does not load .*{reason}.*torchvision that"):
        semantic.load("lpips-alex", Networks())


@needs_lpips
@pytest.mark.parametrize("metric", list(semantic.BACKBONES))
def test_lpips_equals_what_its_package_makes_of_the_same_network(metric, tmp_path, monkeypatch):
    import lpips
    import torchvision

    backbone = semantic.BACKBONES[metric]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(torchvision.models, backbone.name)(weights=None)
    path = backbone_file(tmp_path, metric, network, monkeypatch)
    measure = semantic.load(metric, Networks(lpips=path.parent))
    monkeypatch.setattr(semantic, "PIXELS_AT_ONCE", 2 * 64 * 80)
    one, other = (colours(scenes(seed, height=64, width=80)) for seed in (1, 2))

    monkeypatch.setattr(torchvision.models, backbone.name, lambda *_, **__: network)  # the package's own way
    theirs = lpips.LPIPS(net=backbone.net, verbose=False)
    tensors = [2 * torch.from_numpy(each).movedim(-1, 1) - 1 for each in (one, other)]
    with torch.inference_mode():
        expected = theirs(*tensors).flatten().numpy()
    assert np.ptp(expected) > 1e-4 * expected.mean()
    assert measure(one, other) == pytest.approx(expected, rel=1e-5)
    assert measure(one, one) == pytest.approx([0, 0, 0])
    assert list(measure.facts["sha256"]) == [path.name, f"lpips/{backbone.net}.pth"]

    small = one[:, : backbone.smallest, : backbone.smallest]
    assert np.isfinite(measure(small, small)).all()
    with pytest.raises(RuntimeError):  # one pixel less, and a layer has nothing left
        measure.compare(small[:, 1:], small[:, 1:])


@needs_lpips
def test_published_weights_judge_as_people_do(shared_data):
    """The example of Zhang et al.: people find a warped picture nearer than a blurred one; PSNR does not."""
    try:
        lpips = semantic.load("lpips-alex", Networks())
    except DependencyError as error:
        pytest.skip(str(error))
    folder = shared_data / "reference/lpips"
    reference, blurred, warped = (
        pictures.composite(pictures.read(folder / f"ex_{name}.png"))[None] for name in ("ref", "p0", "p1")
    )
    assert lpips(warped, reference) < lpips(blurred, reference)
    assert images.psnr(warped, reference) < images.psnr(blurred, reference)
