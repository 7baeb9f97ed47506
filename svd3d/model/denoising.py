"""What teaches a UNet to denoise: the loss of EDM on latents of orbits or clips, under their conditions."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from svd3d.model import conditioning, edm, learner, preview
from svd3d.model.checkpoints import Checkpoint
from svd3d.model.conditioning import Kind
from svd3d.settings import TrainConfig

Batch = dict[str, Any]
"""Of `svd3d.data.dataset.Batches`."""
PICTURE = ("clip", "cond_latents", "noise_aug")
"""What a batch tells of the picture that is the condition."""


@dataclass(frozen=True, eq=False)
class Denoising:
    """A UNet that learns to denoise; the other parts of its pipeline are those of `start`."""

    start: Checkpoint
    network: Any
    config: TrainConfig
    part = "unet"

    @property
    def kind(self) -> Kind:
        """What the UNet is told besides the picture."""
        return self.start.kind

    def module(self) -> nn.Module:
        """What is called in a step."""
        return self.network

    def losses(self, module: nn.Module, batch: Batch) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Loss and noise level of each sample. A UNet without channels for a picture reads the text alone."""
        if not conditioning.sees_pictures(self.network):
            batch = {name: each for name, each in batch.items() if name not in PICTURE}
        return losses(module, self.kind, batch, self.config)

    def painter(self) -> preview.Painter | None:
        """What paints views with the network as it is; the autoencoder is in memory for as long.

        None without a picture that they could be compared by: a text, or single images.
        """
        if self.config.num_views == 1 or not conditioning.sees_pictures(self.network):
            return None
        return preview.Painter(
            self.network, self.start, kind=self.kind, steps=self.config.validation_sampling_steps
        )

    def settle(self) -> None:
        """Nothing besides the weights is learnt."""


def losses(
    network: nn.Module, kind: Kind, batch: Batch, config: TrainConfig
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The loss of EDM and the noise level of each sample; the batch is left as it is."""
    device = next(network.parameters()).device
    drawn = draw(batch, config)
    clean, noise = batch["latents"].to(device), drawn["noise"].to(device)
    sigma = drawn["sigma"].to(device)

    level = sigma.reshape(-1, 1, 1, 1, 1)
    noisy = clean + level * noise
    _, _, c_in, _ = edm.scalings(level)
    _, _, _, c_noise = edm.scalings(sigma)
    seen = c_in * noisy
    if "cond_latents" in drawn:
        image = drawn["cond_latents"].to(device)[:, None].expand(-1, clean.shape[1], -1, -1, -1)
        seen = torch.cat([seen, image], dim=2)
    with learner.number_format(device, config):
        output = network(
            conditioning.to_network(seen, kind),
            c_noise,
            encoder_hidden_states=drawn["tokens"].to(device),
            added_time_ids=conditioning.time_ids_of(kind, batch).to(device),
        ).sample
    estimate = edm.denoised(conditioning.from_network(output, kind), noisy, sigma)
    return edm.loss(estimate, clean, sigma), sigma


def draw(batch: Batch, config: TrainConfig) -> dict[str, Tensor]:
    """Noise level, noise and drop-outs of each sample, from its own seed, on the CPU.

    `tokens` are those of the picture, or of the text where batches have no picture.
    """
    names = {"tokens": ("text", config.drop_text)}
    if "clip" in batch:
        names = {"cond_latents": ("cond_latents", config.drop_image), "tokens": ("clip", config.drop_clip)}
    drawn: dict[str, list[Tensor]] = {"sigma": [], "noise": [], **{name: [] for name in names}}
    for i, seed in enumerate(batch["draw_seed"].tolist()):
        source = torch.Generator().manual_seed(seed)
        drawn["sigma"].append(
            edm.sample_sigmas(1, p_mean=config.p_mean, p_std=config.p_std, generator=source)
        )
        drawn["noise"].append(torch.randn(batch["latents"][i : i + 1].shape, generator=source))
        for name, (key, rate) in names.items():
            drawn[name].append(conditioning.dropped(batch[key][i : i + 1], rate=rate, generator=source))
    return {name: torch.cat(each) for name, each in drawn.items()}
