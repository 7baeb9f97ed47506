"""The diffusion of Stable Video Diffusion: EDM (Karras et al. 2022) with sigma_data = 1, as pure functions.

Equation numbers are those of the SVD paper (arXiv 2311.15127, appendix D.1) unless said otherwise. All
arithmetic is float32 or better, whatever the precision of the network.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def sample_sigmas(
    count: int, *, p_mean: float, p_std: float, generator: torch.Generator | None = None
) -> Float[Tensor, "{count}"]:
    """Noise levels for training: log sigma ~ N(p_mean, p_std^2) (Karras et al. 2022, table 1)."""
    return (p_mean + p_std * torch.randn(count, generator=generator, dtype=torch.float32)).exp()


def scalings(sigma: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], ...]:
    """`c_skip, c_out, c_in, c_noise` (equations 11 to 14); this is v-prediction."""
    sigma = sigma.float()
    c_skip = 1 / (sigma**2 + 1)  # (11)
    c_out = -sigma / (sigma**2 + 1).sqrt()  # (12)
    c_in = 1 / (sigma**2 + 1).sqrt()  # (13)
    c_noise = 0.25 * sigma.log()  # (14)
    return c_skip, c_out, c_in, c_noise


def loss_weight(sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """lambda(sigma), so that lambda * c_out^2 = 1 (Karras et al. 2022, table 1)."""
    sigma = sigma.float()
    return 1 + 1 / sigma**2  # (sigma^2 + sigma_data^2) / (sigma sigma_data)^2


def denoised(
    output: Float[Tensor, "b ..."], noisy: Float[Tensor, "b ..."], sigma: Float[Tensor, "b"]
) -> Float[Tensor, "b ..."]:
    """The estimate D(x; sigma) of the clean latents, from the raw output F of the network; float32."""
    c_skip, c_out, _, _ = scalings(sigma.reshape(-1, *[1] * (noisy.ndim - 1)))
    return c_skip * noisy.float() + c_out * output.float()  # Karras et al. 2022, equation 7


def loss(
    estimate: Float[Tensor, "b ..."], clean: Float[Tensor, "b ..."], sigma: Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Weighted squared error of each sample, averaged over its elements; float32."""
    error = (estimate.float() - clean.float()).square().flatten(1).mean(dim=1)
    return loss_weight(sigma) * error  # lambda(sigma) |D - z|^2: Karras et al. 2022, equation 8


def karras_sigmas(steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Float[Tensor, "n"]:
    """Noise levels for sampling, high to low, and a last 0 (Karras et al. 2022, equation 5); float64."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho  # (5)
    return torch.cat([sigmas, sigmas.new_zeros(1)])
