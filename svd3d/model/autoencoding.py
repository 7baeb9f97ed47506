"""What teaches an autoencoder: pictures in, the same pictures out, through latents that suit diffusion.

The paper takes the autoencoder of Stable Diffusion and finetunes its decoder, with temporal layers, to
pictures that do not flicker: `decoder` here, after which latents that were made before are still right.
`autoencoder` learns the whole, for models that begin from nothing. With `linear` latents the encoder is told
what to give: the principal directions of patches of pixels, in which colours are there from the first step;
a small autoencoder that finds latents by itself needs far longer to paint in colour.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from svd3d.errors import TrainingError
from svd3d.model import learner
from svd3d.model.checkpoints import Checkpoint
from svd3d.settings import TrainConfig

Batch = dict[str, Any]
"""Of `svd3d.data.dataset.Batches` over pictures."""
LOG_VARIANCE = -6.0
"""Of the posterior, where the latents are told: far below that of the latents."""
NOT_WHITE = 0.02
"""How far from white, of 2, a patch must reach to count for the principal directions."""
FAINTEST = 1e-9
"""Share of the largest variance below which a direction is rounding."""
ENCODED_AT_ONCE = 28
"""Examples whose latents are scaled."""
WHITENING = -0.25
"""Each direction is scaled by this power of its variance: half-way to latents of equal spread, so that faint
directions, which are mostly noise, stay fainter."""


@dataclass(frozen=True, eq=False)
class Autoencoding:
    """An autoencoder that learns; the other parts of its pipeline are those of `start`."""

    start: Checkpoint
    network: Any
    config: TrainConfig
    examples: Float[Tensor, "n 3 h w"] | None
    """Pictures by which latents are scaled, if they are new."""
    matrix: Float[Tensor, "c p"] | None
    """What the encoder is told, if it is: from patches to latents."""
    part = "vae"
    kind = None

    @classmethod
    def of(
        cls, start: Checkpoint, network: Any, config: TrainConfig, *, first: Iterable[Mapping[str, Any]]
    ) -> "Autoencoding":
        """`first` are the first samples of the training, always the same."""
        examples = matrix = None
        if config.trains == "autoencoder":
            examples = torch.cat([each["pictures"] for each in first])
        if config.latents == "linear" and examples is not None:
            channels = network.config["latent_channels"]
            matrix = principal_directions(examples, channels=channels, patch=start.scale)
        return cls(start, network, config, examples, matrix)

    def module(self) -> nn.Module:
        """What is called in a step."""
        return _RoundTrip(self.network)

    def losses(self, module: nn.Module, batch: Batch) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Loss of each sample, and the noise in the latents that its decoder saw.

        Squared and absolute error of pixels and of their differences to neighbours; of the latents, how far
        they are from those told, or from a normal distribution (Kullback-Leibler divergence).
        """
        device = next(self.network.parameters()).device
        pictures = batch["pictures"].to(device)
        count, views = pictures.shape[:2]
        target = pictures.flatten(0, 1)
        told = None if self.matrix is None else linear_latents(target, self.matrix.to(device))
        noise, level = self._noise(batch)
        with learner.number_format(device, self.config):
            output, mean, log_variance = module(target, told, noise.to(device), views)
        output, mean, log_variance = output.float(), mean.float(), log_variance.float()

        def per_sample(value: Tensor) -> Tensor:
            return value.reshape(count, -1).mean(dim=1)

        error = output - target
        loss = 2 * per_sample(error.square()) + per_sample(error.abs())
        loss = loss + sum(per_sample(error.diff(dim=side).abs()) for side in (-1, -2))
        if told is not None:
            spread = (log_variance - LOG_VARIANCE).square()
            loss = loss + per_sample((mean - told).square()) + 0.01 * per_sample(spread)
        elif self.config.trains == "autoencoder":
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
            loss = loss + self.config.kl_weight * per_sample(divergence)
        return loss, level.to(device)

    def _noise(self, batch: Batch) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "b"]]:
        """Noise on the latents, of up to `latent_noise`, and its standard deviation in each sample."""
        views, height, width = (batch["pictures"].shape[side] for side in (1, 3, 4))
        scale = self.start.scale
        size = (views, self.network.config["latent_channels"], height // scale, width // scale)
        noise, levels = [], []
        for seed in batch["draw_seed"].tolist():
            source = torch.Generator().manual_seed(seed)
            level = self.config.latent_noise * torch.rand((), generator=source)
            noise.append(level * torch.randn(size, generator=source))
            levels.append(level)
        return torch.cat(noise), torch.stack(levels)

    def painter(self) -> "Autoencoding | None":
        """What paints pictures: itself. None for single ones: the scores leave out the first of them."""
        return None if self.config.num_views == 1 else self

    @torch.no_grad()
    def views(
        self, batch: Mapping[str, Any]
    ) -> tuple[Float[np.ndarray, "v h w 3"], Float[np.ndarray, "v h w 3"]]:
        """What comes back of the pictures of a batch of one sample, and the pictures, in [0, 1]."""
        (true,) = batch["pictures"]
        latents = self._modes(true.to(next(self.network.parameters()).device))
        painted = self.network.decode(latents, num_frames=len(true)).sample.float().cpu()
        first, second = ((each + 1) / 2 for each in (painted, true))
        return tuple(each.clamp(0, 1).movedim(1, -1).numpy() for each in (first, second))  # type: ignore

    @torch.no_grad()
    def settle(self) -> None:
        """Scale new latents to a standard deviation of 1, as diffusion expects."""
        if self.examples is not None:
            device = next(self.network.parameters()).device
            parts = [self._modes(each.to(device)) for each in self.examples.split(ENCODED_AT_ONCE)]
            self.network.register_to_config(scaling_factor=1 / torch.cat(parts).float().std().item())

    def _modes(self, pictures: Float[Tensor, "n 3 h w"]) -> Tensor:
        return self.network.encode(pictures).latent_dist.mode()


class _RoundTrip(nn.Module):
    """An autoencoder as one call, for data parallelism: output, mean and log variance of the posterior.

    The decoder sees the latents that are told, if they are, with noise.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, pictures: Tensor, told: Tensor | None, noise: Tensor, num_frames: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.network.encode(pictures).latent_dist
        latents = (posterior.mean if told is None else told) + noise
        output = self.network.decode(latents, num_frames=num_frames).sample
        return output, posterior.mean, posterior.logvar


def principal_directions(
    pictures: Float[Tensor, "n 3 h w"], *, channels: int, patch: int
) -> Float[Tensor, "c p"]:
    """The matrix that turns what differs from white in a patch into latents; white is zero.

    Raises `TrainingError` for pictures with too little in them.
    """
    seen = _patches(pictures, patch).movedim(1, -1).flatten(0, -2)
    seen = seen[seen.abs().amax(dim=1) > NOT_WHITE].double()
    directions, variances, _ = torch.linalg.svd(seen.T @ seen / max(len(seen), 1))
    if variances[channels - 1] <= FAINTEST * variances[0]:
        raise TrainingError(
            f"latents linear: the patches of {len(pictures)} pictures that are not white, {len(seen)}, have "
            f"fewer than {channels} principal directions; look at the pictures, or take latents learned"
        )
    return (directions[:, :channels] * variances[:channels] ** WHITENING).T.float().contiguous()


def linear_latents(
    pictures: Float[Tensor, "n 3 h w"], matrix: Float[Tensor, "c p"]
) -> Float[Tensor, "n c _h _w"]:
    """Latents of pictures in [-1, 1] by a matrix of `principal_directions`."""
    patch = int((matrix.shape[1] // 3) ** 0.5)
    return torch.einsum("cp,nphw->nchw", matrix, _patches(pictures, patch))


def _patches(pictures: Tensor, patch: int) -> Tensor:
    return pixel_unshuffle(pictures - 1, patch)
