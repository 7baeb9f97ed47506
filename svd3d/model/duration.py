"""How long a generation takes, roughly, before anything is loaded.

The operations of one denoising step and of decoding are counted on the meta device, where tensors have no
storage, and divided by the speed at which this device multiplies two matrices now.
"""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from svd3d.model import memory, vae

EFFICIENCY = 0.2
"""Part of the speed of a large matrix product that the networks reach: 0.19 measured with `tiny` on a CPU;
not measured on a GPU. Good for the order of magnitude."""
SIDE = 2048
"""Of the matrices that are multiplied."""


@torch.no_grad()
def estimate_s(
    model: str, *, size: int | None, views: int, steps: int, guided: bool, dtype: torch.dtype, device: str
) -> float:
    """Seconds for one orbit of `model` (`tiny`, a folder or a hub id) on `device`, loading left out.

    `guided` steps compute the network twice. Raises `CheckpointError` if the model cannot be found.
    """
    unet, autoencoder, _ = memory.networks(model, dtype)
    side = size // 2 ** (len(autoencoder.config.block_out_channels) - 1) if size else unet.config.sample_size

    def new(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=dtype)

    ids = unet.config.projection_class_embeddings_input_dim // unet.config.addition_time_embed_dim
    with FlopCounterMode(display=False) as step:
        unet(
            new(1, views, unet.config.in_channels, side, side),
            new(),
            encoder_hidden_states=new(1, 1, unet.config.cross_attention_dim),
            added_time_ids=new(1, ids),
        )
    with FlopCounterMode(display=False) as decoding:
        vae.decode(autoencoder, new(1, views, autoencoder.config.latent_channels, side, side))
    operations = step.get_total_flops() * steps * (1 + guided) + decoding.get_total_flops()
    return operations / (EFFICIENCY * _operations_per_s(device, dtype))


def _operations_per_s(device: str, dtype: torch.dtype) -> float:
    """Of a product of two matrices; the best of three tries, the first of which warms up."""
    matrix = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # the transfer waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best
