"""Memory: the estimate against closed forms and against what torch's allocator really gave; the presets."""

import dataclasses
import resource
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import profile

from svd3d.errors import CheckpointError, ConfigError
from svd3d.model import checkpoints, memory, original, tiny
from svd3d.model.pipeline import SVDMVPipeline

UNET, VAE, CLIP = 1_524_623_082, 97_742_847, 632_076_800
"""Parameters of Stable Video Diffusion image-to-video, 14 and 25 frames."""


@pytest.fixture(scope="module")
def svd(tmp_path_factory):
    """The configurations of Stable Video Diffusion, without any weights."""
    folder = tmp_path_factory.mktemp("svd")
    for name, config in original.FULL_SIZE.items():
        network = checkpoints.empty(name, config)
        if name == "image_encoder":
            network.config.save_pretrained(folder / name)
        else:
            network.save_config(folder / name)
    (folder / "model_index.json").write_text("{}")
    return str(folder)


def test_parameters_of_the_real_configuration(svd):
    counts = [sum(p.numel() for p in each.parameters()) for each in memory.networks(svd, torch.float16)]
    assert counts == [UNET, VAE, CLIP]


def test_the_real_model_in_24_gb(svd):
    found = memory.estimate(svd, size=576, views=21, dtype="float16", vram=24)
    assert found.weights_gb == pytest.approx(2 * (UNET + VAE + CLIP) / 1e9)
    assert found.peak_gb == pytest.approx(found.weights_gb + max(found.activations_gb, found.decode_gb))
    assert 3.9 < found.activations_gb < 5
    assert found.text() == (
        f"about {found.peak_gb:.1f} GB of memory for 21 views of 576 x 576 in float16 (weights 4.5, "
        f"denoising {found.activations_gb:.1f}, decoding {found.decode_gb:.1f})"
    )


def test_the_bytes_alive_in_a_chain_of_layers():
    network = nn.Sequential(nn.Linear(10, 100, bias=False), nn.ReLU(), nn.Linear(100, 1, bias=False))
    network.to("meta")
    rows = 7
    alive = memory._most_alive(network, lambda: network(torch.empty(rows, 10, device="meta")))
    assert alive == 4 * rows * (10 + 100 + 100)  # the input, and a layer's input and output


def really_allocated(run):
    """The most bytes that torch's CPU allocator had given out at once during `run`."""
    with torch.no_grad(), profile(profile_memory=True) as found:
        run()
    changes = [each.nbytes() for each in found.profiler.kineto_results.events() if each.name() == "[memory]"]
    return max(np.cumsum(changes))


def test_denoising_and_decoding_take_what_was_estimated():
    parts, views, latent = tiny.components(), 5, 16
    estimate = memory.estimate("tiny", size=8 * latent, views=views, decode_chunk_size=2)
    sample = torch.zeros(2, views, 2 * tiny.LATENT_CHANNELS, latent, latent)
    denoising = really_allocated(
        lambda: parts["unet"](
            sample.clone(), 1.0, encoder_hidden_states=torch.zeros(2, 1, 32), added_time_ids=torch.zeros(2, 4)
        )
    )
    latents = sample[:1, :, : tiny.LATENT_CHANNELS]
    decoding = really_allocated(lambda: memory.autoencoder.decode(parts["vae"], latents, chunk=2))
    assert estimate.activations_gb * 1e9 == pytest.approx(denoising, rel=0.01)
    assert decoding <= estimate.decode_gb * 1e9 <= 1.4 * decoding


def test_more_of_anything_needs_more():
    base = {"views": 2, "size": 64, "dtype": "float16"}
    small = memory.estimate("tiny", **base)
    for more in ({"views": 3}, {"size": 128}, {"dtype": "float32"}, {"batch": 2}):
        large = memory.estimate("tiny", **base | more)
        assert large.peak_gb > small.peak_gb
        assert large.activations_gb > small.activations_gb


def test_a_smaller_gpu_never_needs_more():
    found = [memory.estimate("tiny", views=8, vram=vram) for vram in (8, 12, 16, 24)]
    peaks = [each.peak_gb for each in found]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[-1] / 2
    assert memory.PRESETS[40] == memory.PRESETS[80] == memory.Preset(decode_chunk_size=None)


def test_what_does_not_fit_is_refused_with_the_number():
    message = r"--vram 40: too little, tiny needs about 1\d\d\.\d GB .*; choose a smaller --size, fewer"
    with pytest.raises(ConfigError, match=message) as caught:
        memory.estimate("tiny", size=2048, vram=40)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vram": 10}, "--vram 10: no preset; choose one of 8, 12, 16, 24, 40, 80"),
        ({"dtype": "int8"}, "dtype 'int8': not known"),
    ],
)
def test_unknown_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        memory.estimate("tiny", **arguments)


def test_a_folder_without_configurations_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="its configuration cannot be read") as caught:
        memory.estimate(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.fixture
def fresh():
    pipeline = SVDMVPipeline(**tiny.components(seed=1))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_every_preset_offloads_or_places(fresh, monkeypatch):
    calls = []
    monkeypatch.setattr(fresh, "enable_model_cpu_offload", lambda device: calls.append(("offload", device)))
    monkeypatch.setattr(fresh, "to", lambda device: calls.append(("to", device)))
    for vram in (8, 12, 16, 80):
        memory.apply(fresh, dataclasses.replace(memory.preset(vram), split_guidance=False), device="cuda")
    memory.apply(fresh, memory.preset(8), device="cpu")
    assert calls == [("offload", "cuda"), ("offload", "cuda"), ("to", "cuda"), ("to", "cuda"), ("to", "cpu")]


def test_split_guidance_changes_memory_and_nothing_else(fresh, pictures):
    options = {"num_views": 3, "num_inference_steps": 2, "max_guidance_scale": 2.0, "output_type": "latent"}

    def generate():
        return fresh(pictures[0], generator=torch.Generator().manual_seed(0), **options).views

    batches = []
    fresh.unet.conv_in.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    expected = generate()
    memory.apply(fresh, memory.preset(8), device="cpu")
    torch.testing.assert_close(generate(), expected, atol=1e-4, rtol=0)
    assert batches == [6, 6, 3, 3, 3, 3]


def test_the_peak_of_this_process():
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    assert before <= memory.peak_gb("cpu") < before + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_on_a_gpu(fresh, pictures):
    torch.cuda.reset_peak_memory_stats()
    memory.apply(fresh, memory.preset(24), device="cuda")
    fresh(pictures[0], num_views=21, num_inference_steps=1, max_guidance_scale=2.0, decode_chunk_size=14)
    expected = memory.estimate("tiny", views=21, decode_chunk_size=14).peak_gb
    assert expected / 2 < memory.peak_gb("cuda") < 2 * expected
