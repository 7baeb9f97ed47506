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
PICTURES = ("clip", "cond_latents", "ends", "noise_aug")
"""What a batch tells of the pictures that are the condition."""


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
        """Loss and noise level of each sample. A UNet that sees no picture reads the text alone."""
        if not conditioning.frames_seen(self.network):
            batch = {name: each for name, each in batch.items() if name not in PICTURES}
        return losses(module, self.kind, batch, self.config)

    def painter(self) -> preview.Painter | None:
        """What paints views with the network as it is; the autoencoder is in memory for as long.

        None without a picture that they could be compared by: a text, or single images.
        """
        if self.config.num_views == 1 or not conditioning.frames_seen(self.network):
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
    if "shown" in drawn:
        seen = torch.cat([seen, drawn["shown"].to(device)], dim=2)
    with learner.number_format(device, config):
        output = network(
            conditioning.to_network(seen, kind),
            c_noise,
            encoder_hidden_states=drawn["tokens"].to(device),
            added_time_ids=conditioning.time_ids_of(kind, {**batch, **drawn}).to(device),
        ).sample
    estimate = edm.denoised(conditioning.from_network(output, kind), noisy, sigma)
    return edm.loss(estimate, clean, sigma), sigma


def draw(batch: Batch, config: TrainConfig) -> dict[str, Tensor]:
    """Noise level, noise and drop-outs of each sample, from its own seed, on the CPU.

    `tokens` are those of the pictures, or of the text where batches have none; `shown` is what the UNet sees
    beside the noisy latents, as of `conditioning.shown`. Two frames at both ends get their noise here, in
    their latents (appendix D.5): `noise_aug` is its strength.
    """
    samples = [
        _drawn({name: each[i : i + 1] for name, each in batch.items()}, config)
        for i in range(len(batch["draw_seed"]))
    ]
    return {name: torch.cat([each[name] for each in samples]) for name in samples[0]}


def _drawn(one: Batch, config: TrainConfig) -> dict[str, Tensor]:
    """The same of a batch of one sample."""
    source = torch.Generator().manual_seed(one["draw_seed"].item())
    drawn = {
        "sigma": edm.sample_sigmas(1, p_mean=config.p_mean, p_std=config.p_std, generator=source),
        "noise": torch.randn(one["latents"].shape, generator=source),
    }
    if "clip" not in one:
        return {**drawn, "tokens": conditioning.dropped(one["text"], rate=config.drop_text, generator=source)}
    if "ends" in one:
        drawn["noise_aug"] = edm.sample_sigmas(1, **conditioning.NOISE_AUG, generator=source)
        noisy = conditioning.augmented(one["ends"], strength=drawn["noise_aug"], generator=source)
        one = {**one, "ends": noisy}
    drawn["shown"] = conditioning.dropped(conditioning.shown(one), rate=config.drop_image, generator=source)
    drawn["tokens"] = conditioning.dropped(one["clip"], rate=config.drop_clip, generator=source)
    return drawn
