"""Foreign weights as our pipeline, and back: what `svd3d convert` is made of.

A `Checkpoint` is a pipeline as data. Its networks are on the meta device (configuration, names and shapes);
its weights are mapped from disk, so a model of 9 GB needs little memory until it is written. Sources:

- `from_folder`: a diffusers folder of Stable Video Diffusion, of SV3D or ours, for any kind of video;
- `from_original`: a file in Stability's own naming (`svd3d/model/original.py`), and `original_weights` back;
- `svd3d/model/priors.py`: the image prior of the SVD paper, and none.
"""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false
# (diffusers exports its names lazily, where pyright does not see them, and types all tuples as of length 1)

import copy
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

from svd3d.errors import CheckpointError
from svd3d.model import conditioning, local_folder, original, tiny
from svd3d.model.interpolation_pipeline import FrameInterpolationPipeline
from svd3d.model.original import Kind
from svd3d.model.pipeline import NETWORKS, SVDMVPipeline
from svd3d.model.video_pipeline import TextToVideoPipeline

VIEWS, VIEW_SIZE = 21, 576
"""Views of an orbit and their height and width in pixels (SVD paper, appendix D.6; SV3D)."""
FRAMES, FRAME_SAMPLE_SIZE = 25, 96
"""What the published folder of svd_xt says of its videos, which have 576 x 1024 pixels."""
SIGMA_MAX = 700.0
"""`EDMDiscretization` of all sampling configurations of SVD and SV3D."""
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
"""Name of the file of each network in a diffusers folder, without its ending."""
REMAINDER = "original.safetensors"
"""What an original file holds besides the pipeline, kept in the folder so that the way back is exact."""
CONSTANTS = {"vision_model.embeddings.position_ids"}
"""Not weights: counters that older versions of transformers stored."""
TEXT_WEIGHTS = "text_encoder/model.safetensors"
TEXT_FILES = ("text_encoder/config.json", TEXT_WEIGHTS, "tokenizer/*.json", "tokenizer/*.txt")
"""Of a text encoder and its tokenizer, which are neither trained nor changed."""
LABELS = "add_embedding.linear_1.weight"
IDS: dict[float, Kind] = {3: "svd", 4: "svd-mv", 1: "sv3d_u", 5: "sv3d_p"}
"""Kind by the width of the vector condition, in units of `addition_time_embed_dim`."""
STILL = re.compile(
    r"temporal_res_block\.conv2\.|time_pos_embed\.linear_2\.|time_mixer\.mix_factor$|time_conv_out\.bias$|"
    r"temporal_transformer_blocks\.\d+\.(attn[12]\.to_out\.0|ff_in\.net\.2|ff\.net\.2)\."
)
"""All that temporal layers add to what the spatial layers give comes through these: with zeros here they
change nothing, and they learn, because the gradient reaches them. Mixing factor 0 blends equal halves."""
UNTOLD = {
    "unet": ("addition_time_embed_dim", "num_attention_heads"),
    "vae": ("scaling_factor",),
    "image_encoder": ("hidden_act", "num_attention_heads"),
}
"""Settings that a file in Stability's naming does not hold, so that its readers assume those of SVD."""

Weights = dict[str, Tensor]
Told = Literal["text", "picture", "pair of pictures", "picture of an object"]


@dataclass(frozen=True)
class Checkpoint:
    """A pipeline as data: networks on the meta device with their weights, and the parts without weights.

    Raises `CheckpointError` unless the weights are those of the networks, name by name and shape by shape.
    """

    kind: Kind
    networks: dict[str, Any]
    weights: dict[str, Weights]
    scheduler: Any
    feature_extractor: Any
    """None where pictures are not looked at."""
    remainder: Weights = field(default_factory=dict)
    """What Stability's file holds besides, in its names."""
    max_guidance_scale: float = 2.5
    """That of the pipeline."""
    text: Path | None = None
    """The folder with the text encoder and the tokenizer, where these take the image encoder's place."""

    def __post_init__(self) -> None:
        if self.text is not None:
            _check_text(self.text, width=self.networks["unet"].config["cross_attention_dim"])
        for name, network in self.networks.items():
            _compare(name, expected=_shapes(network.state_dict()), found=_shapes(self.weights[name]))

    def network(self, name: str) -> Any:
        """A network with its weights in float32, of its own: changing it changes nothing here."""
        network = copy.deepcopy(self.networks[name])
        weights = {key: each.to(torch.float32, copy=True) for key, each in self.weights[name].items()}
        network.load_state_dict(weights, assign=True)
        return network

    @property
    def told(self) -> Told:
        """What it makes videos or views of."""
        unet = self.networks["unet"]
        of_videos: tuple[Told, ...] = ("text", "picture", "pair of pictures")
        return of_videos[conditioning.frames_seen(unet)] if self.kind == "svd" else "picture of an object"

    @property
    def scale(self) -> int:
        """Pixels per latent."""
        return 2 ** (len(self.networks["vae"].config["block_out_channels"]) - 1)


def fetch(model: str, *, only: str | None = None) -> Path:
    """The folder of a `--model`: local, or downloaded from the hub, safetensors only.

    `only` names the one network that is needed. Raises `CheckpointError` when it cannot be had.
    """
    folder = local_folder(model)
    if folder is not None:
        return folder
    try:
        if only is None:
            return Path(DiffusionPipeline.download(model, use_safetensors=True))
        needed = ["model_index.json", f"{only}/config.json", f"{only}/{WEIGHTS[only]}.safetensors"]
        return Path(snapshot_download(model, allow_patterns=needed))
    except (OSError, ValueError, HTTPError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{model}: cannot be downloaded ({reason}); pass a folder") from error


def read(path: Path) -> Weights:
    """All tensors of a safetensors file, mapped from disk. Nothing else is ever opened, whatever its name."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        with open(path, "rb") as file:
            is_pickle = file.read(4).startswith((b"PK\x03\x04", b"\x80"))
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: is a pickle, which may run any code when it is read; get the .safetensors of this model"
            if is_pickle
            else f"{path}: not a whole safetensors file ({reason}); download it again"
        ) from error


def from_original(tensors: Weights, *, where: str, seed: int = 0) -> Checkpoint:
    """A pipeline from tensors in Stability's naming.

    Raises `CheckpointError` for another kind of model, and with the number and the first names of tensors
    that are missing, unknown or of another shape. Files tell neither size nor number of views: those of SV3D
    are taken, which are the paper's, or of svd_xt. A plain image decoder gets temporal layers that change
    nothing; their inner weights are drawn from `seed`.
    """
    kind = original.recognize(_shapes(tensors), where=where)
    networks = original.build(_shapes(tensors), kind, where=where)
    places = original.places(networks, kind)
    weights: dict[str, Weights] = {name: {} for name in networks}
    if original.TEMPORAL_DECODER not in tensors:
        weights["vae"] = still_weights(networks["vae"], seed=seed)
        places = {name: place for name, place in places.items() if not original.is_temporal_decoder(name)}
    remainder = {name: tensor for name, tensor in tensors.items() if original.is_remainder(name, kind)}
    _compare(
        f"{where} ({kind})",
        expected={name: place.shape for name, place in places.items()},
        found=_shapes({name: tensor for name, tensor in tensors.items() if name not in remainder}),
    )
    for name, place in places.items():
        weights[place.network].update(original.to_ours(name, place, tensors[name]))
    made = Checkpoint(kind, networks, weights, scheduler(), feature_extractor(), remainder)
    if kind == "svd":
        networks["unet"].register_to_config(num_frames=FRAMES, sample_size=FRAME_SAMPLE_SIZE)
    else:
        networks["unet"].register_to_config(num_frames=VIEWS, sample_size=VIEW_SIZE // made.scale)
    return made


def original_weights(checkpoint: Checkpoint) -> Weights:
    """The weights in Stability's naming, with the remainder where there is one.

    Temporal layers of the decoder that change nothing are left out, as in `sv3d_u`. Raises `CheckpointError`
    for an architecture that these names cannot tell.
    """
    still = _is_still(checkpoint.weights["vae"])
    found = {
        name: original.to_original(name, place, checkpoint.weights[place.network])
        for name, place in original.places(checkpoint.networks, checkpoint.kind).items()
        if not (still and original.is_temporal_decoder(name))
    }
    understood = original.build(_shapes(found), checkpoint.kind, where="the result")
    for network, settings in UNTOLD.items():
        for setting in settings:
            ours, theirs = (_setting(each[network], setting) for each in (checkpoint.networks, understood))
            if ours != theirs:
                raise CheckpointError(
                    f"{network}: {setting} is {ours}, and readers of Stability's files take it for {theirs}; "
                    "only models of the architecture of SVD go back"
                )
    return {**found, **checkpoint.remainder}


def from_folder(folder: Path) -> Checkpoint:
    """A diffusers folder of Stable Video Diffusion, SV3D, SVD-MV or text-to-video, as it is.

    Raises `CheckpointError` for a folder of another pipeline, for weights that are not safetensors, and with
    the names of weights that are missing, unknown or of another shape.
    """
    expect_unet(folder, UNetSpatioTemporalConditionModel)
    text = is_told_texts(folder)
    names = [name for name in NETWORKS if not (text and name == "image_encoder")]
    networks = {name: empty(name, read_json(folder / name / "config.json")) for name in names}
    unet = networks["unet"].config
    ids = unet["projection_class_embeddings_input_dim"] / unet["addition_time_embed_dim"]
    if ids not in IDS:
        known = ", ".join(f"{count:g} ({kind})" for count, kind in IDS.items())
        raise CheckpointError(f"{folder}: its vector condition holds {ids:g} numbers, expected {known}")
    remainder = folder / REMAINDER
    return Checkpoint(
        kind=IDS[ids],
        networks=networks,
        weights={name: folder_weights(folder, name) for name in networks},
        scheduler=EulerDiscreteScheduler.from_pretrained(str(folder), subfolder="scheduler"),
        feature_extractor=(
            None if text else CLIPImageProcessor.from_pretrained(str(folder), subfolder="feature_extractor")
        ),
        remainder=read(remainder) if remainder.is_file() else {},
        max_guidance_scale=read_json(folder / "model_index.json").get("max_guidance_scale", 2.5),
        text=folder if text else None,
    )


def multi_view(
    checkpoint: Checkpoint,
    *,
    size: int | None = None,
    num_views: int | None = None,
    max_guidance_scale: float | None = None,
) -> Checkpoint:
    """A checkpoint that makes views: stock SVD becomes the start of SVD-MV, others stay as they are.

    The elevation gets zero weights, so that step 0 equals stock; the orbit is the paper's, 21 views of 576
    pixels. `size` is another height and width of the views, `num_views` another number of them, and
    `max_guidance_scale` another one. The networks of `checkpoint` are changed.
    """
    if max_guidance_scale is not None:
        checkpoint = replace(checkpoint, max_guidance_scale=max_guidance_scale)
    unet = checkpoint.networks["unet"]
    if checkpoint.kind == "svd":
        size, num_views = size or VIEW_SIZE, num_views or VIEWS
    if num_views is not None:
        unet.register_to_config(num_frames=num_views)
    if size is not None:
        unet.register_to_config(sample_size=size // checkpoint.scale)
    if checkpoint.kind != "svd":
        return checkpoint
    wide = conditioning.widen(unet).config["projection_class_embeddings_input_dim"]
    weights = {**checkpoint.weights["unet"], LABELS: zero_padded(checkpoint.weights["unet"][LABELS], wide)}
    return replace(checkpoint, kind="svd-mv", weights={**checkpoint.weights, "unet": weights})


def write(checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """A diffusers folder of `SVDMVPipeline`, of a pipeline for videos of ours, or of diffusers' own.

    `dtype` None keeps that of each tensor; a text encoder is copied as it is. Raises `CheckpointError` where
    a number is too large for `dtype`.
    """
    if checkpoint.text is None:
        parts = {"scheduler": checkpoint.scheduler, "feature_extractor": checkpoint.feature_extractor}
        if checkpoint.kind == "svd":
            both = checkpoint.told == "pair of pictures"
            stock = FrameInterpolationPipeline if both else StableVideoDiffusionPipeline
            pipeline = stock(**checkpoint.networks, **parts)
        else:
            settings: Any = {"conditioning": checkpoint.kind}
            settings["max_guidance_scale"] = checkpoint.max_guidance_scale
            pipeline = SVDMVPipeline(**checkpoint.networks, **parts, **settings)
        checkpoint.feature_extractor.save_pretrained(folder / "feature_extractor")
    else:
        with torch.device("meta"):
            text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(checkpoint.text / "text_encoder"))
        pipeline = TextToVideoPipeline(
            **checkpoint.networks,
            text_encoder=text_encoder,
            tokenizer=CLIPTokenizer.from_pretrained(checkpoint.text / "tokenizer"),
            scheduler=checkpoint.scheduler,
        )
        for path in (each for pattern in TEXT_FILES for each in sorted(checkpoint.text.glob(pattern))):
            copy = folder / path.relative_to(checkpoint.text)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    pipeline.save_config(folder)
    checkpoint.scheduler.save_pretrained(folder / "scheduler")
    for name, network in checkpoint.networks.items():
        (folder / name).mkdir()
        if name == "image_encoder":
            network.config.save_pretrained(folder / name)
        else:
            network.save_config(folder / name)
        write_weights(checkpoint.weights[name], folder / name / f"{WEIGHTS[name]}.safetensors", dtype=dtype)
    if checkpoint.remainder:
        write_weights(checkpoint.remainder, folder / REMAINDER, dtype=dtype)


def write_weights(weights: Weights, path: Path, *, dtype: torch.dtype | None = None) -> None:
    """A safetensors file; `dtype` None keeps that of each tensor."""
    save_file({name: _cast(name, each, dtype) for name, each in weights.items()}, path, {"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # the library lets nobody but the owner read it


def _check_text(folder: Path, *, width: int) -> None:
    """Refuse a text encoder that is not whole, or whose hidden states are not `width` numbers wide."""
    if not (folder / TEXT_WEIGHTS).is_file():
        raise CheckpointError(f"{folder / TEXT_WEIGHTS}: no such file; get the safetensors weights")
    found = read_json(folder / "text_encoder" / "config.json").get("hidden_size")
    if found != width:
        raise CheckpointError(
            f"{folder}: its cross-attention reads tokens of {width} numbers, those of its text encoder have "
            f"{found}; take a UNet and a text encoder that were trained together"
        )


def _cast(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    cast = tensor.detach().to(dtype or tensor.dtype).contiguous()
    if cast.dtype.itemsize < tensor.dtype.itemsize and bool(cast.isinf().any()):
        raise CheckpointError(f"{name}: holds numbers too large for {cast.dtype}; use --dtype float32")
    return cast


def _compare(where: str, *, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse weights that are not those expected: shapes by name."""
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    wrong = {name for name in expected.keys() & found.keys() if expected[name] != found[name]}
    story = [
        f"{len(few)} of {len(total)} {what} ({', '.join([*map(show, sorted(few)[:3]), '…'][: len(few)])})"
        for few, total, what, show in (
            (missing, expected, "weights are missing", str),
            (unknown, found, "weights are unknown", str),
            (
                wrong,
                expected,
                "weights have another shape",
                lambda n: f"{n} {found[n]}, expected {expected[n]}",
            ),
        )
        if few
    ]
    if story:
        raise CheckpointError(f"{where}: {'; '.join(story)}; pass a whole model of a known kind")


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _setting(network: Any, name: str) -> Any:
    value = getattr(network.config, name)
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def scheduler() -> Any:
    """The scheduler of SVD and SV3D."""
    return EulerDiscreteScheduler.from_config(tiny.scheduler().config, sigma_max=SIGMA_MAX)


def feature_extractor() -> CLIPImageProcessor:
    """What SVD pipelines prepare pictures for CLIP with."""
    return CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224)


def _new(name: str, config: Mapping[str, Any]) -> Any:
    """A network from its configuration, which may have more keys than the network knows."""
    if name == "image_encoder":
        return NETWORKS[name](CLIPVisionConfig.from_dict(dict(config)))
    known = NETWORKS[name].extract_init_dict(dict(config))[0]
    return NETWORKS[name](**known)


def empty(name: str, config: Mapping[str, Any]) -> Any:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return _new(name, config)


def random_weights(network: Any, *, seed: int) -> Weights:
    """New weights of a network, the same for the same seed."""
    name = next(name for name, kind in NETWORKS.items() if isinstance(network, kind))
    config = network.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _new(name, config.to_dict() if name == "image_encoder" else config).state_dict()


def still_weights(network: Any, *, seed: int) -> Weights:
    """New weights whose temporal layers change nothing."""
    weights = random_weights(network, seed=seed)
    for name in filter(STILL.search, weights):
        weights[name].zero_()
    if "decoder.time_conv_out.weight" in weights:
        nn.init.dirac_(weights["decoder.time_conv_out.weight"])
    return weights


def _is_still(weights: Weights) -> bool:
    """Whether the temporal layers of an autoencoder change nothing."""
    mix = weights["decoder.time_conv_out.weight"]
    same = torch.equal(mix, nn.init.dirac_(torch.empty_like(mix)))
    return same and not any(bool(weights[name].any()) for name in filter(STILL.search, weights))


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of a diffusers folder. Raises `CheckpointError` where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); pass a whole diffusers folder") from error


def is_told_texts(folder: Path) -> bool:
    """Whether a diffusers folder has a text encoder."""
    library, _ = read_json(folder / "model_index.json").get("text_encoder") or (None, None)
    return library is not None


def unet_class(folder: Path) -> str:
    """The class of the UNet that a diffusers folder names."""
    return (read_json(folder / "model_index.json").get("unet") or ["", "none"])[1]


def expect_unet(folder: Path, kind: type) -> None:
    """Raise `CheckpointError` for a diffusers folder with another UNet."""
    if (found := unet_class(folder)) != kind.__name__:
        raise CheckpointError(
            f"{folder}: its UNet is {found}, expected {kind.__name__}; check SOURCE and --prior"
        )


def folder_weights(folder: Path, name: str) -> Weights:
    """The weights of one network of a diffusers folder: one file, the half-precision one, or shards."""
    place, stem = folder / name, WEIGHTS[name]
    for path in (place / f"{stem}.safetensors", place / f"{stem}.fp16.safetensors"):
        if path.is_file():
            break
    paths = [path] if path.is_file() else sorted(place.glob(f"{stem}-*-of-*.safetensors"))
    if not paths:
        others = ", ".join(sorted(each.name for each in place.glob("*.bin"))) or "no weights"
        raise CheckpointError(f"{place}: holds {others}, not {stem}.safetensors; get the safetensors weights")
    return {key: each for path in paths for key, each in read(path).items() if key not in CONSTANTS}


def zero_padded(weight: Tensor, inputs: int) -> Tensor:
    """A layer's weight with more inputs, to which it does not react."""
    wider = weight.new_zeros((weight.shape[0], inputs, *weight.shape[2:]))
    wider[:, : weight.shape[1]] = weight.detach()
    return wider
