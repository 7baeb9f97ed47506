"""Shortcuts for sampling that a user switches on; `scripts/benchmark_sampling.py` measures each of them.

    with single_token_attention(pipeline.unet), cache_features(pipeline.unet, every=2):
        views = pipeline(image).views

All of them work on any SVD pipeline, ours or stock, and are gone when the block ends. The attention and the
convolutions are exact; the others trade quality for time.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import EDMDPMSolverMultistepScheduler, UNetSpatioTemporalConditionModel
from diffusers.hooks import HookRegistry, ModelHook
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d

from svd3d.errors import ConfigError

SOLVER_ORDERS = {"euler": 1, "dpm++2m": 2, "dpm++3m": 3}
CACHE, FLAT, INTERVAL = "svd3d_cache_features", "svd3d_flat_convolutions", "svd3d_guidance_interval"
"""Names of our hooks in the registries of diffusers."""


@contextlib.contextmanager
def solver(pipeline: Any, name: str) -> Iterator[None]:
    """Another solver of the same differential equation, at the checkpoint's own Karras noise levels.

    `euler` is what the checkpoints come with; `dpm++2m` and `dpm++3m` (Lu et al. 2022) need fewer steps to
    come as near to the exact solution. Raises `ConfigError` for an unknown name and for a checkpoint whose
    scheduler is not that of Stable Video Diffusion.
    """
    if name not in SOLVER_ORDERS:
        raise ConfigError(f"solver {name!r}: not known; choose one of {', '.join(SOLVER_ORDERS)}")
    original = pipeline.scheduler
    config = original.config
    if config.prediction_type != "v_prediction" or not config.get("use_karras_sigmas"):
        raise ConfigError(
            f"solver {name!r}: the checkpoint has a {type(original).__name__} without v-prediction at Karras "
            "noise levels; use a Stable Video Diffusion checkpoint"
        )
    if name != "euler":
        pipeline.scheduler = EDMDPMSolverMultistepScheduler(
            sigma_min=config.sigma_min,
            sigma_max=config.sigma_max,
            sigma_data=1.0,
            prediction_type="v_prediction",
            solver_order=SOLVER_ORDERS[name],
        )
    try:
        yield
    finally:
        pipeline.scheduler = original


@contextlib.contextmanager
def single_token_attention(unet: UNetSpatioTemporalConditionModel) -> Iterator[None]:
    """Cross-attention to SVD's single CLIP token without queries and keys: exact.

    A softmax over one key is 1, so each query gets the projected value, whatever the query is.
    """
    originals: dict[str, Any] = dict(unet.attn_processors)
    single: dict[str, Any] = {name: _SingleToken(each) for name, each in originals.items()}
    unet.set_attn_processor(single)
    try:
        yield
    finally:
        unet.set_attn_processor(originals)


class _SingleToken:
    """An attention processor of diffusers that leaves all but single tokens to another one."""

    def __init__(self, otherwise: Callable[..., Tensor]) -> None:
        self.otherwise = otherwise

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any
    ) -> Tensor:
        tokens = encoder_hidden_states
        if tokens is None or tokens.shape[1] != 1:
            return self.otherwise(attn, hidden_states, encoder_hidden_states=tokens, **others)
        return attn.to_out[0](attn.to_v(tokens)).expand(-1, hidden_states.shape[1], -1)


@contextlib.contextmanager
def guidance_interval(unet: UNetSpatioTemporalConditionModel, *, low: float, high: float) -> Iterator[None]:
    """Guidance only at noise levels `low` < sigma <= `high` (Kynkaanniemi et al. 2024).

    Elsewhere the unconditional half is not computed: the conditional output stands in for it, which makes
    any guidance scale 1. A batch without guidance passes unchanged.
    """
    hooks = HookRegistry.check_if_exists_or_initialize(unet)
    hooks.register_hook(_GuidanceInterval(low, high), INTERVAL)
    try:
        yield
    finally:
        hooks.remove_hook(INTERVAL, recurse=False)


class _GuidanceInterval(ModelHook):
    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def new_forward(
        self,
        module: nn.Module,
        sample: Float[Tensor, "b v c h w"],
        timestep: Tensor,
        *,
        encoder_hidden_states: Float[Tensor, "b n d"],
        added_time_ids: Float[Tensor, "b ..."],
        **options: Any,
    ) -> Any:
        forward: Any = self.fn_ref.original_forward
        sigma = math.exp(4 * float(timestep))  # c_noise = ln(sigma) / 4
        half = len(sample) // 2
        guided = len(sample) % 2 == 0 and not encoder_hidden_states[:half].any()
        if not guided or self.low < sigma <= self.high:
            return forward(
                sample,
                timestep,
                encoder_hidden_states=encoder_hidden_states,
                added_time_ids=added_time_ids,
                **options,
            )
        output = forward(
            sample[half:],
            timestep,
            encoder_hidden_states=encoder_hidden_states[half:],
            added_time_ids=added_time_ids[half:],
            **options,
        )
        doubled = torch.cat([output[0], output[0]])
        return (doubled,) if isinstance(output, tuple) else type(output)(doubled)


@contextlib.contextmanager
def cache_features(
    unet: UNetSpatioTemporalConditionModel, *, every: int = 2, keep: int = 1
) -> Iterator[None]:
    """Extrapolate the deep features of the UNet, which change slowly, instead of computing them.

    The whole UNet runs at each `every`-th step. At the steps between, only the `keep` outermost skip
    connections and the layers they lead to do (DeepCache, Ma et al. 2024); what comes from below continues
    the line through the last two whole steps, over c_noise (TaylorSeer, Liu et al. 2025, to first order).
    A new sample, or another batch size, begins with a whole step. Not together with `torch.compile`.

    Raises `ConfigError` where `every` or `keep` do not fit.
    """
    down, up = _layers_by_skip(unet)
    if every < 1 or not 1 <= keep < len(up):
        raise ConfigError(
            f"every = {every}, keep = {keep}: every must be at least 1 and keep within 1 to {len(up) - 1}"
        )
    steps = _Steps(every)
    *hidden, last = itertools.chain(*down[keep - 1 :], [unet.mid_block], *up[:-keep])
    hooks = [(layer, _HiddenLayer(steps)) for layer in hidden] + [(last, _LastLayer(steps))]
    registries = [HookRegistry.check_if_exists_or_initialize(layer) for layer, _ in hooks]
    for registry, (_, hook) in zip(registries, hooks, strict=True):
        registry.register_hook(hook, CACHE)
    handle = unet.time_proj.register_forward_pre_hook(lambda _, inputs: steps.begin(inputs[0]))
    try:
        yield
    finally:
        handle.remove()
        for registry in registries:
            registry.remove_hook(CACHE, recurse=False)


def _layers_by_skip(unet: Any) -> tuple[list[list[nn.Module]], list[list[nn.Module]]]:
    """The layers that make each skip connection after the first, and those that take in each of them."""

    def pairs(block: Any) -> list[list[nn.Module]]:
        attentions = getattr(block, "attentions", ())
        return [list(filter(None, pair)) for pair in itertools.zip_longest(block.resnets, attentions)]

    down, up = [], []
    for block in unet.down_blocks:
        down += [*pairs(block), *([each] for each in block.downsamplers or ())]
    for block in unet.up_blocks:
        up += pairs(block)
        up[-1] += list(block.upsamplers or ())
    return down, up


class _Steps:
    """Where the sampling of one UNet is, as its hooks see it."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.index = 0
        self.batch = 0
        self.time = math.inf

    def begin(self, times: Float[Tensor, "b"]) -> None:
        """Count a step; noise that does not fall, or another batch size, means a new sample."""
        batch, time = len(times), float(times[0])
        self.index = self.index + 1 if batch == self.batch and time < self.time else 0
        self.batch, self.time = batch, time

    @property
    def whole(self) -> bool:
        """Whether this step runs the whole UNet."""
        return self.index % self.every == 0


class _HiddenLayer(ModelHook):
    """A layer below the cached features: between whole steps nobody looks at what it gives."""

    def __init__(self, steps: _Steps) -> None:
        super().__init__()
        self.steps = steps
        self.shape: Any = None

    def new_forward(self, module: nn.Module, *inputs: Any, **options: Any) -> Any:
        if not self.steps.whole:
            return self.shape
        forward: Any = self.fn_ref.original_forward
        output = forward(*inputs, **options)
        self.shape = _hollow(output)
        return output


class _LastLayer(ModelHook):
    """The layer whose output is the cached feature."""

    def __init__(self, steps: _Steps) -> None:
        super().__init__()
        self.steps = steps
        self.known: list[tuple[float, Tensor]] = []
        self.in_tuple = False

    def new_forward(self, module: nn.Module, *inputs: Any, **options: Any) -> Any:
        if not self.steps.whole:
            return (self._extrapolated(),) if self.in_tuple else self._extrapolated()
        forward: Any = self.fn_ref.original_forward
        output = forward(*inputs, **options)
        self.in_tuple = isinstance(output, tuple)
        earlier = self.known[-1:] if self.steps.index else []
        self.known = [*earlier, (self.steps.time, output[0] if self.in_tuple else output)]
        return output

    def _extrapolated(self) -> Tensor:
        time, feature = self.known[-1]
        if len(self.known) == 1:
            return feature
        earlier_time, earlier = self.known[0]
        return torch.lerp(earlier, feature, (self.steps.time - earlier_time) / (time - earlier_time))


def _hollow(output: Any) -> Any:
    """Zeros of the same shape, or shapes, that take no memory."""
    if isinstance(output, tuple):
        return tuple(map(_hollow, output))
    return output.new_zeros(1).expand(output.shape)


@contextlib.contextmanager
def flat_convolutions(*networks: nn.Module) -> Iterator[None]:
    """Convolutions over views alone, written in two dimensions, which CPUs do faster: exact but for rounding.

    Pass the UNet, the autoencoder or both.
    """
    layers = [
        layer
        for network in networks
        for layer in network.modules()
        if isinstance(layer, nn.Conv3d) and layer.kernel_size == (3, 1, 1)
    ]
    registries = [HookRegistry.check_if_exists_or_initialize(layer) for layer in layers]
    for registry in registries:
        registry.register_hook(_FlatConvolution(), FLAT)
    try:
        yield
    finally:
        for registry in registries:
            registry.remove_hook(FLAT, recurse=False)


class _FlatConvolution(ModelHook):
    def new_forward(self, module: nn.Conv3d, hidden: Float[Tensor, "b c v h w"]) -> Tensor:
        flat = conv2d(hidden.flatten(3), module.weight[..., 0], module.bias, padding=(1, 0))
        return flat.unflatten(3, hidden.shape[3:])


def compile_unet(pipeline: Any, **options: Any) -> None:
    """Compile the UNet in place with torch.compile and its options; the first step then takes minutes."""
    pipeline.unet.compile(**options)
