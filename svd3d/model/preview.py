"""Views that a model paints while it learns: from cached latents, without CLIP."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from svd3d.model import conditioning, vae
from svd3d.model.checkpoints import Checkpoint
from svd3d.model.conditioning import Kind
from svd3d.model.interpolation_pipeline import FrameInterpolationPipeline
from svd3d.model.pipeline import SVDMVPipeline

DECODED_AT_ONCE = 4
"""Views that the autoencoder decodes together."""


class Painter:
    """Paints views with the UNet in training, guided as its pipeline is by default."""

    def __init__(self, unet: Any, start: Checkpoint, *, kind: Kind, steps: int) -> None:
        """`start` has the other parts of the pipeline; `steps` are those of denoising."""
        device = next(unet.parameters()).device
        self.kind: Kind = kind
        self.max_guidance_scale = float(start.max_guidance_scale)
        both_ends = conditioning.frames_seen(unet) == 2
        self.pipeline = (FrameInterpolationPipeline if both_ends else SVDMVPipeline)(
            vae=start.network("vae").to(device),
            image_encoder=None,
            unet=unet,
            scheduler=copy.deepcopy(start.scheduler),
            feature_extractor=None,
            conditioning=kind,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.steps = steps
        self.device = device

    @torch.no_grad()
    def views(
        self, batch: Mapping[str, Any]
    ) -> tuple[Float[np.ndarray, "v h w 3"], Float[np.ndarray, "v h w 3"]]:
        """Painted views, and what the autoencoder makes of the true ones, in [0, 1], of a batch of one orbit.

        The batch is one of `svd3d.data.dataset.Batches`. Its seed gives the noise, so that two states of a
        model differ in nothing else.
        """
        pipeline, true = self.pipeline, batch["latents"].to(self.device)
        pipeline.scheduler.set_timesteps(self.steps, device=self.device)
        generator = torch.Generator().manual_seed(int(batch["draw_seed"]))
        noise = torch.randn(true.shape, generator=generator).to(self.device)
        painted = pipeline.denoise(
            noise * pipeline.scheduler.init_noise_sigma,
            conditioning.shown(batch).to(self.device),
            batch["clip"].to(self.device),
            conditioning.time_ids_of(self.kind, batch).to(self.device),
            scales=conditioning.guidance_scales(
                true.shape[1],
                shape="linear" if self.kind == "svd" else "triangular",
                min_scale=1.0,
                max_scale=self.max_guidance_scale,
            ),
        )
        return self._decoded(painted), self._decoded(true)

    def _decoded(self, latents: Float[Tensor, "1 v c h w"]) -> Float[np.ndarray, "v _H _W 3"]:
        (views,) = vae.decode(self.pipeline.vae, latents, chunk=DECODED_AT_ONCE)
        return ((views + 1) / 2).clamp(0, 1).movedim(1, -1).cpu().numpy()
