"""Low-rank adapters on the attention of the UNet (Hu et al. 2021): W + weight * alpha / rank * B A, by peft.

The file is the one that diffusers' users know: `pytorch_lora_weights.safetensors`, with keys such as
`unet.<module>.lora_A.weight` and the rank and alpha in its header. The paper's camera motions are adapters of
rank 16 in the temporal attention alone (SVD paper, section 4.3 and appendix D.4).

While adapters are fused into the weights, nothing else can be changed about them: what is taken out of the
weights again must be what was put in.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily and huggingface_hub those of its HTTP library; pyright sees neither)

import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.utils import (
    convert_unet_state_dict_to_peft,
    delete_adapter_layers,
    get_peft_kwargs,
    recurse_remove_peft_layers,
    set_weights_and_activate_adapters,
)
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import cast_adapter_dtype, check_target_module_exists
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from svd3d import runs
from svd3d.errors import CheckpointError, ConfigError
from svd3d.model import HUB_ID

Where = Literal["all", "spatial", "temporal"]
BLOCKS = {"all": "(temporal_)?", "spatial": "", "temporal": "temporal_"}
PREFIX = "unet."
"""Of every key in a file."""
OTHER = "take a LoRA that was made for this model"


def add(
    unet: UNetSpatioTemporalConditionModel,
    *,
    rank: int,
    alpha: int | None = None,
    where: Where = "all",
    name: str = "default",
    seed: int = 0,
) -> None:
    """A new adapter in self- and cross-attention, beside those already there.

    At first it changes nothing (B = 0), to the last bit. `alpha` is the rank by default, a factor of 1.
    `trainable` prepares it for training.
    """
    if where not in get_args(Where):
        raise ConfigError(f"where {where!r}: not known; choose one of {', '.join(get_args(Where))}")
    if rank < 1 or (alpha is not None and alpha <= 0):
        raise ConfigError(f"LoRA of rank {rank} and alpha {alpha}: both must be above 0; choose others")
    targets = rf".*\.{BLOCKS[where]}transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)"
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _inject(unet, config, name)


def trainable(unet: UNetSpatioTemporalConditionModel, *, name: str = "default") -> list[nn.Parameter]:
    """The parameters of one adapter, in float32 and alone with gradients; everything else is frozen."""
    _check_known(unet, [name])
    cast_adapter_dtype(unet, name)
    unet.requires_grad_(False)
    found = [
        parameter for key, parameter in unet.named_parameters() if re.search(rf"\.lora_[AB]\.{name}\.", key)
    ]
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def set_weights(unet: UNetSpatioTemporalConditionModel, weights: dict[str, float]) -> None:
    """Use these adapters, each with its weight, and no others: `{"zoom": 0.7, "pan": 0.3}`."""
    _check_known(unet, weights)
    _check_not_fused(unet)
    set_weights_and_activate_adapters(unet, list(weights), list(weights.values()))


def fuse(unet: UNetSpatioTemporalConditionModel) -> None:
    """Add the adapters in use to the weights, so that they cost no time. `remove` then makes it permanent.

    Raises `CheckpointError` for an adapter that is not finite.
    """
    _check_not_fused(unet)
    try:
        for layer in _layers(unet):
            layer.merge(safe_merge=True)
    except ValueError as error:
        unfuse(unet)
        raise CheckpointError(f"LoRA: not finite ({error}); load another file") from error


def unfuse(unet: UNetSpatioTemporalConditionModel) -> None:
    """Subtract what `fuse` added: the weights are again what they were, to the rounding of their type."""
    for layer in _layers(unet):
        if layer.merged:
            layer.unmerge()


def remove(unet: UNetSpatioTemporalConditionModel, name: str | None = None) -> None:
    """Forget one adapter, or all of them; fused ones then stay in the weights for good.

    Without any adapter the UNet is a plain one again, to be saved as such.
    """
    if name is not None:
        _check_known(unet, [name])
        _check_not_fused(unet)
        others = [each for each in _in_use(unet) if each != name]
        delete_adapter_layers(unet, name)
        del unet.peft_config[name]
        _use(unet, others)
    if name is None or not _names(unet):
        recurse_remove_peft_layers(unet)
        unet.__dict__.pop("peft_config", None)


def changes_nothing(unet: UNetSpatioTemporalConditionModel, *, name: str = "default") -> bool:
    """Whether an adapter is still as it began, with B = 0: it has learnt nothing."""
    _check_known(unet, [name])
    found = [layer.lora_B[name].weight for layer in _layers(unet) if name in layer.lora_B]
    return not any(bool(weight.any()) for weight in found)


def save(unet: UNetSpatioTemporalConditionModel, path: Path, *, name: str = "default") -> Path:
    """Write one adapter into a folder, or to a file named *.safetensors; returns the file."""
    _check_known(unet, [name])
    file = path if path.suffix == ".safetensors" else path / LORA_WEIGHT_NAME_SAFE
    state = {PREFIX + key: value for key, value in get_peft_model_state_dict(unet, adapter_name=name).items()}
    about = {
        PREFIX + key: sorted(value) if isinstance(value, set) else value
        for key, value in unet.peft_config[name].to_dict().items()
    }
    metadata = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(about, indent=2, sort_keys=True)}
    runs.write_file(runs.output_folder(file.parent) / file.name, to_bytes(state, metadata))
    return file


def load(
    unet: UNetSpatioTemporalConditionModel, source: str | Path, *, name: str = "default", weight: float = 1.0
) -> None:
    """Add the adapter of a safetensors file, of a folder with one or of a hub id, beside those already there.

    Raises `CheckpointError`, with the UNet as it was, unless every weight has its place and its shape.
    """
    file = _file(source)
    state, about = _read(file)
    state = {key.removeprefix(PREFIX): value for key, value in state.items()}
    if not any(".lora_A." in key for key in state):
        state = convert_unet_state_dict_to_peft(state)
    about = {key.removeprefix(PREFIX): value for key, value in about.items()}
    _check_fits(unet, state, targets=about.get("target_modules"), file=file)

    ranks = {f"^{key}": value.shape[1] for key, value in state.items() if ".lora_B." in key}
    settings = get_peft_kwargs(ranks, None, state)
    told = {key: about[key] for key in ("lora_alpha", "alpha_pattern", "use_rslora") if key in about}
    _inject(unet, LoraConfig(**{**settings, **told}), name, state=state, weight=weight)


def _inject(
    unet: Any,
    config: LoraConfig,
    name: str,
    *,
    state: dict[str, Tensor] | None = None,
    weight: float = 1.0,
) -> None:
    """A new adapter in use beside those that are; peft alone would switch the others off and freeze the UNet.

    Frozen or not is no matter of training alone: matrix products round in another order (torch's `matmul`).
    """
    _check_not_fused(unet)
    if name in _names(unet) or not re.fullmatch(r"[\w-]+", name):
        used = ", ".join(_names(unet)) or "none"
        raise ConfigError(f"LoRA {name!r}: taken or not a plain word (in use: {used}); choose another name")
    in_use = _in_use(unet)
    learning = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # that is what we want
        inject_adapter_in_model(config, unet, adapter_name=name, state_dict=state)
    if state is not None:
        set_peft_model_state_dict(unet, state, adapter_name=name)
    _use(unet, [*in_use, name])
    for layer in _layers(unet):
        layer.set_scale(name, weight)
    for parameter in learning:
        parameter.requires_grad_(True)


def _layers(unet: nn.Module) -> list[Any]:
    return [module for module in unet.modules() if isinstance(module, LoraLayer)]


def _names(unet: nn.Module) -> list[str]:
    return list(getattr(unet, "peft_config", {}))


def _in_use(unet: nn.Module) -> list[str]:
    """The same in every layer, because `_use` keeps it so."""
    return list(next((layer.active_adapters for layer in _layers(unet)), []))


def _use(unet: nn.Module, names: list[str]) -> None:
    for layer in _layers(unet):
        layer.set_adapter(names)


def _check_known(unet: nn.Module, names: Iterable[str]) -> None:
    if unknown := [name for name in names if name not in _names(unet)]:
        known = ", ".join(_names(unet)) or "none"
        raise ConfigError(f"LoRA {unknown[0]!r}: not loaded (loaded: {known}); load it first")


def _check_not_fused(unet: nn.Module) -> None:
    if any(layer.merged for layer in _layers(unet)):
        raise ConfigError("LoRA: fused into the weights; unfuse first")


def _file(source: str | Path) -> Path:
    """The safetensors file that `source` names, from the hub if need be."""
    path = Path(source)
    file = path / LORA_WEIGHT_NAME_SAFE if path.is_dir() else path
    if not file.exists() and HUB_ID.fullmatch(str(source)):
        try:
            return Path(hf_hub_download(str(source), LORA_WEIGHT_NAME_SAFE))
        except (OSError, ValueError, HTTPError) as error:
            reason = " ".join(str(error).split())[:300]
            advice = "pass a file, a folder, or a hub id that can be reached"
            raise CheckpointError(f"{source}: no LoRA ({reason}); {advice}") from error
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; pass a LoRA file, a folder with one or a hub id")
    if file.suffix != ".safetensors":
        raise CheckpointError(f"{file}: not a safetensors file, and others may run code; convert it first")
    return file


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and the settings in the header if it has some."""
    try:
        with safe_open(file, framework="pt") as content:
            about = json.loads((content.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
            return {key: content.get_tensor(key) for key in content.keys()}, about  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a readable LoRA ({error}); fetch it again") from error


def _check_fits(unet: nn.Module, state: dict[str, Tensor], *, targets: Any, file: Path) -> None:
    """Refuse a file that is not wholly for this UNet, before anything is changed."""
    linears = {
        key.replace(".base_layer", ""): module
        for key, module in unet.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in key
    }
    ours = [key for key in state if key.rpartition(".lora_")[0] in linears]
    if not ours:
        theirs, mine = next(iter(state), "nothing"), f"{next(iter(linears))}.lora_A.weight"
        raise CheckpointError(f"{file}: no key is of this UNet ({theirs}, expected such as {mine}); {OTHER}")
    wanted = {key.rpartition(".lora_")[0] for key in ours}
    if targets:
        config = LoraConfig(target_modules=targets)
        wanted |= {key for key in linears if check_target_module_exists(config, key)}
    expected = {f"{key}.lora_{letter}.weight" for key in wanted for letter in "AB"}
    missing, extra = sorted(expected - set(state)), sorted(set(state) - expected)
    if missing or extra:
        story = f"{len(missing)} weights missing {missing[:3]}, {len(extra)} without a place {extra[:3]}"
        raise CheckpointError(f"{file}: {story}; {OTHER}")
    for key in sorted(wanted):
        down, up = (state[f"{key}.lora_{letter}.weight"] for letter in "AB")
        rank, linear = down.shape[0], linears[key]
        takes = (rank, linear.in_features), (linear.out_features, rank)
        if (down.shape, up.shape) != takes:
            story = f"{key} has A {list(down.shape)} and B {list(up.shape)}"
            raise CheckpointError(f"{file}: {story}, expected {[*map(list, takes)]}; {OTHER}")
