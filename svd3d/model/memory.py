"""How much memory a generation needs: an estimate before anything is loaded, and settings that fit a GPU.

Nothing is fitted. The networks are built from their configurations on the meta device, where tensors have
a shape but no storage, and one pass through each adds up the bytes of all tensors alive at once. A
convolution counts its input and output twice, because fast ones copy both into a layout of their own.

On a CPU, models of 7 and 237 million parameters took 1.0 to 1.2 times the estimate, and up to twice as much
where the allocator of the C library kept freed pieces. On a GPU nothing is measured yet.

A GB is 10^9 bytes. A card sold as 24 GB holds 24 * 2^30, 7 % more: those are for the driver.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily and huggingface_hub those of its HTTP library; pyright sees neither)

import contextlib
import functools
import resource
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from diffusers import AutoencoderKLTemporalDecoder, DiffusionPipeline, UNetSpatioTemporalConditionModel
from diffusers.hooks import HookRegistry, ModelHook
from huggingface_hub.errors import HTTPError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from svd3d.errors import CheckpointError, ConfigError, TrainingError
from svd3d.model import local_folder
from svd3d.model import vae as autoencoder
from svd3d.settings import DECODE_CHUNK, TrainConfig

GB = 1e9
SMALL_MODEL = 50_000_000
"""Parameters below which one CPU thread is used: two never won, and beside other work they lost tenfold."""
SPLIT = "svd3d_split"
Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Preset:
    """How to run in some amount of GPU memory. Feed-forward chunking is in none: it degrades the views."""

    dtype: Dtype = "float16"
    offload: bool = False
    """Only the network at work is on the GPU; the others wait in main memory. Slower by their copying."""
    split_guidance: bool = False
    """The halves of classifier-free guidance (and objects) one after another, not in one batch."""
    decode_chunk_size: int | None = None
    """Views decoded at once; None: all of them."""


PRESETS = {
    8: Preset(offload=True, split_guidance=True, decode_chunk_size=2),
    12: Preset(offload=True, decode_chunk_size=4),
    16: Preset(decode_chunk_size=7),
    24: Preset(decode_chunk_size=14),
    40: Preset(),
    80: Preset(),
}
"""By memory of the GPU in GB."""


@dataclass(frozen=True)
class Estimate:
    """Memory of one generation in GB, computed from the configuration of the model alone."""

    weights_gb: float
    """All networks."""
    activations_gb: float
    """Largest sum of the tensors alive in one denoising step."""
    decode_gb: float
    """The same while the views are decoded, the views themselves included."""
    peak_gb: float
    """The most at any time, together with the weights that are on the device then."""
    setting: str
    """What was estimated."""

    def text(self) -> str:
        """One line for the person at the keyboard."""
        peak, weights, denoising, decoding = (
            f"{value:.{1 if value >= 1 else 2}f}"
            for value in (self.peak_gb, self.weights_gb, self.activations_gb, self.decode_gb)
        )
        parts = f"weights {weights}, denoising {denoising}, decoding {decoding}"
        return f"about {peak} GB of memory for {self.setting} ({parts})"


def preset(vram_gb: int) -> Preset:
    """The settings for a GPU of that many GB. Raises `ConfigError` for one that has none."""
    if vram_gb not in PRESETS:
        raise ConfigError(f"--vram {vram_gb}: no preset; choose one of {', '.join(map(str, PRESETS))}")
    return PRESETS[vram_gb]


def chosen(vram_gb: int | None, *, dtype: Dtype | None, decode_chunk_size: int | None) -> Preset:
    """The settings for a GPU of that many GB, or for any device, under those that are given."""
    found = preset(vram_gb) if vram_gb else Preset(dtype="float32", decode_chunk_size=DECODE_CHUNK)
    return replace(
        found, dtype=dtype or found.dtype, decode_chunk_size=decode_chunk_size or found.decode_chunk_size
    )


def usable_device(name: str) -> str:
    """`auto` resolved; a GPU that is not there is refused rather than replaced."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name}: not usable here ({reason}); use --device cpu or auto") from error
    return name


def apply(pipeline: DiffusionPipeline, preset: Preset, *, device: str) -> None:
    """Place the networks, all on `device` or one at a time, and split batches if the preset says so.

    Its `dtype` is for the loading, its `decode_chunk_size` for the calls. On the CPU nothing is offloaded,
    since everything is in main memory already, and small models get one thread.
    """
    if preset.split_guidance:
        HookRegistry.check_if_exists_or_initialize(pipeline.components["unet"]).register_hook(_Split(), SPLIT)
    if preset.offload and torch.device(device).type != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if device == "cpu" and pipeline.components["unet"].num_parameters() < SMALL_MODEL:
        torch.set_num_threads(1)


class _Split(ModelHook):
    """One row of a batch at a time through the UNet."""

    def new_forward(self, module: nn.Module, sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Any:
        forward: Any = self.fn_ref.original_forward
        rows = zip(sample.split(1), *(each.split(1) for each in conditions.values()), strict=True)
        outputs = [
            forward(row, timestep, **dict(zip(conditions, others, strict=True))) for row, *others in rows
        ]
        outputs[0].sample = torch.cat([each.sample for each in outputs])
        return outputs[0]


def peak_gb(device: str) -> float:
    """The most memory used so far: by tensors on a CUDA device, by the whole process on the CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GB
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB


def estimate(
    model: str,
    *,
    size: int | None = None,
    views: int = 21,
    dtype: str = "float32",
    vram: int | None = None,
    decode_chunk_size: int | None = None,
    batch: int = 1,
) -> Estimate:
    """Memory for `batch` objects at once, from the small JSON files of `model`: `tiny`, a folder or a hub id.

    `size` in pixels is by default that of the model; `decode_chunk_size` replaces that of the preset of
    `vram`. Raises `ConfigError` with what to try when more than `vram` GB are needed.
    """
    if dtype not in get_args(Dtype):
        raise ConfigError(f"dtype {dtype!r}: not known; choose one of {', '.join(get_args(Dtype))}")
    settings = Preset() if vram is None else preset(vram)
    unet, vae, clip = networks(model, getattr(torch, dtype))
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = size or unet.config.sample_size * factor
    new = functools.partial(torch.empty, device="meta", dtype=unet.dtype)

    # 1. One pass through each network, as the pipeline calls it
    rows = 1 if settings.split_guidance else 2 * batch
    condition = unet.config.projection_class_embeddings_input_dim
    latents = new(max(rows, batch), views, unet.config.in_channels, pixels // factor, pixels // factor)
    denoising = _most_alive(
        unet,
        lambda: unet(
            latents[:rows],
            new(()),
            encoder_hidden_states=new(rows, 1, unet.config.cross_attention_dim),
            added_time_ids=new(rows, condition // unet.config.addition_time_embed_dim),
        ),
    )
    encoding = _most_alive(vae, lambda: autoencoder.encode_condition(vae, new(batch, 3, pixels, pixels)))
    chunk = decode_chunk_size or settings.decode_chunk_size
    channels = vae.config.latent_channels
    decoding = _most_alive(vae, lambda: autoencoder.decode(vae, latents[:batch, :, :channels], chunk=chunk))

    # 2. With the weights that are on the device at the time
    weights = {network: sum(p.nbytes for p in network.parameters()) for network in (unet, vae, clip)}
    resident = (lambda network: weights[network]) if settings.offload else (lambda _: sum(weights.values()))
    passes = ((unet, denoising), (vae, encoding), (vae, decoding), (clip, 0))
    peak = max(resident(network) + alive for network, alive in passes)
    objects = f"{batch} x " if batch > 1 else ""
    found = Estimate(
        weights_gb=sum(weights.values()) / GB,
        activations_gb=denoising / GB,
        decode_gb=decoding / GB,
        peak_gb=peak / GB,
        setting=f"{objects}{views} views of {pixels} x {pixels} in {dtype}",
    )
    if vram is not None and found.peak_gb > vram:
        advice = "choose a smaller --size, fewer --num-views or a larger GPU"
        raise ConfigError(f"--vram {vram}: too little, {model} needs {found.text()}; {advice}")
    return found


@contextlib.contextmanager
def explained(unet: nn.Module, config: TrainConfig, *, step: int) -> Iterator[None]:
    """Turn what a device without room raises in training into a `TrainingError` that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        held = held_for_training(unet, config) / GB
        raise TrainingError(
            f"step {step}: out of memory with {config.train_batch_size} orbits at once ({error}); weights, "
            f"gradients, averages and moments take {held:.1f} GB, activations the rest; try --auto_batch, "
            "--gradient_checkpointing, --mixed_precision bf16, --use_8bit_adam, --trains lora, or --fsdp on "
            "several GPUs"
        ) from error


def held_for_training(unet: nn.Module, config: TrainConfig) -> int:
    """Bytes of what stays on the device between steps: weights, gradients, averages, moments."""
    trained = sum(each.numel() for each in unet.parameters() if each.requires_grad)
    moments = 2 if config.use_8bit_adam else 8
    return sum(each.nbytes for each in unet.parameters()) + (4 + 4 + moments) * trained


def largest_that_fits(size: int, attempt: Callable[[int], None], *, network: nn.Module) -> int:
    """The batch size, halved until `attempt` of a forward and a backward pass finds room.

    Moments and averages, which are not there yet, have their room kept free. Halves are rounded down to
    divisors of `size`; 1 is not tried.
    """
    trained = [each for each in network.parameters() if each.requires_grad]
    for each in (
        part for part in range(size, 1, -1) if size % part == 0 and (part == size or part <= size // 2)
    ):
        try:
            kept_free = [torch.empty_like(parameter) for parameter in trained for _ in range(3)]
            attempt(each)
            del kept_free
            return each
        except torch.OutOfMemoryError:
            continue
        finally:
            network.zero_grad()
            torch.cuda.empty_cache()
    return 1


def networks(model: str, dtype: torch.dtype) -> list[Any]:
    """UNet, autoencoder and encoder of pictures or texts on the meta device, from configurations alone."""
    where = str(local_folder(model) or model)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            # diffusers passes it, and the hub's library says that it need not
            warnings.filterwarnings("ignore", message="The `local_dir_use_symlinks` argument")
            config: Any = UNetSpatioTemporalConditionModel.load_config(where, subfolder="unet")
            unet = UNetSpatioTemporalConditionModel.from_config(config)
            config = AutoencoderKLTemporalDecoder.load_config(where, subfolder="vae")
            vae = AutoencoderKLTemporalDecoder.from_config(config)
            index: Any = DiffusionPipeline.load_config(where)
            if (index.get("text_encoder") or [None])[0]:
                clip = CLIPTextModel(CLIPTextConfig.from_pretrained(where, subfolder="text_encoder"))
            else:
                config = CLIPVisionConfig.from_pretrained(where, subfolder="image_encoder")
                clip = CLIPVisionModelWithProjection(config)
    except (OSError, ValueError, TypeError, HTTPError) as error:
        reason = " ".join(str(error).split())[:300]
        advice = "pass a whole diffusers folder, or a hub id that can be reached"
        raise CheckpointError(f"{model}: its configuration cannot be read ({reason}); {advice}") from error
    # a few parameters are born on the CPU all the same; and the `to` of diffusers warns of any dtype
    networks: list[Any] = [unet, vae, clip]
    return [nn.Module.to(network, device="meta", dtype=dtype) for network in networks]


def _most_alive(network: nn.Module, run: Callable[[], object]) -> int:
    """Bytes of the tensors alive at once while `run` works with `network`; parameters are not counted."""
    with torch.no_grad(), _FusedAttention(), _Alive(network) as alive:
        run()
    return alive.most


class _Alive(TorchDispatchMode):
    """Adds up storages as operations make them, and takes them off as Python lets go of them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet(parameter.untyped_storage() for parameter in network.parameters())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage.nbytes())
        copies = args[0].nbytes + result.nbytes if func is torch.ops.aten.convolution.default else 0
        self.most = max(self.most, self.now + copies)
        return result

    def _gone(self, size: int) -> None:
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    """Attention as CPU and GPU compute it, without the matrix of scores that the meta device would make."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
