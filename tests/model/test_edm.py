"""EDM against closed forms and against the scheduler of diffusers that the SVD checkpoints name."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from svd3d.model import edm, tiny

SIGMA_MIN, SIGMA_MAX = 0.002, 700.0
sigmas = st.floats(1e-3, 1e4).map(lambda value: torch.tensor([value]))


def svd_scheduler(steps):
    """The scheduler in the configuration of the released SVD checkpoints."""
    scheduler = EulerDiscreteScheduler.from_config(tiny.scheduler().config, sigma_max=SIGMA_MAX)
    scheduler.set_timesteps(steps)
    return scheduler


def euler(x, denoised, sigma, following):
    return x + (x - denoised) / sigma * (following - sigma)


@given(sigmas)
def test_the_weight_cancels_the_output_scale(sigma):
    _, c_out, _, _ = edm.scalings(sigma)
    torch.testing.assert_close(edm.loss_weight(sigma) * c_out**2, torch.ones(1), rtol=1e-6, atol=0)


@given(sigmas)
def test_scalings_keep_unit_variance(sigma):
    c_skip, c_out, c_in, c_noise = edm.scalings(sigma)
    one = torch.ones(1)
    torch.testing.assert_close(c_in**2 * (1 + sigma**2), one, rtol=1e-6, atol=0)  # of the network's input
    # ... and of its target (z - c_skip x) / c_out with x = z + sigma n and unit variance of z and n
    target = ((1 - c_skip) ** 2 + (c_skip * sigma) ** 2) / c_out**2
    torch.testing.assert_close(target, one, rtol=1e-3, atol=0)  # 1 - c_skip cancels where sigma is small
    torch.testing.assert_close((4 * c_noise).exp(), sigma, rtol=1e-5, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_noise_levels_are_those_of_the_scheduler(steps):
    scheduler = svd_scheduler(steps)
    ours = edm.karras_sigmas(steps, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    torch.testing.assert_close(ours.float(), scheduler.sigmas, rtol=1e-6, atol=0)
    assert ours[-1] == 0
    assert (ours.diff() < 0).all()
    _, _, _, c_noise = edm.scalings(scheduler.sigmas[:-1])
    torch.testing.assert_close(c_noise, scheduler.timesteps, rtol=1e-6, atol=1e-6)


def test_an_euler_step_is_that_of_the_scheduler():
    scheduler = svd_scheduler(25)
    random = torch.Generator().manual_seed(0)
    for index, (sigma, following) in enumerate(zip(scheduler.sigmas, scheduler.sigmas[1:], strict=False)):
        scale = (1 + sigma**2).sqrt()
        noisy = scale * torch.randn(2, 3, 4, 8, 8, generator=random)
        output = torch.randn(noisy.shape, generator=random)
        time = scheduler.timesteps[index]
        _, _, c_in, _ = edm.scalings(sigma)
        theirs = scheduler.scale_model_input(noisy, time)
        torch.testing.assert_close(c_in * noisy, theirs, rtol=1e-6, atol=1e-6)
        estimate = edm.denoised(output, noisy, sigma.expand(2))
        stepped = scheduler.step(output, time, noisy).prev_sample
        error = (euler(noisy, estimate, sigma, following) - stepped).abs().max() / scale
        assert error < 1e-6


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_sampling_a_gaussian_with_its_optimal_denoiser_gives_its_variance(spread):
    def sampled_variance(steps):
        levels = edm.karras_sigmas(steps, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
        x = levels[:1].float()  # one standard deviation of the first noise; everything is linear in it
        for sigma, following in zip(levels.float(), levels[1:].float(), strict=False):
            c_skip, c_out, _, _ = edm.scalings(sigma)
            optimal = spread**2 / (spread**2 + sigma**2) * x
            output = (optimal - c_skip * x) / c_out  # what a perfect network returns
            x = euler(x, edm.denoised(output, x, sigma[None]), sigma, following)
        return (x**2).item()

    coarse, fine = (abs(sampled_variance(steps) / spread**2 - 1) for steps in (400, 800))
    assert fine < 0.02
    assert coarse / fine == pytest.approx(2, abs=0.2)  # Euler is of first order


@given(sigma=st.floats(0.02, 100), seed=st.integers(0, 999))
def test_the_loss_is_the_squared_error_of_v(sigma, seed):
    random = torch.Generator().manual_seed(seed)
    clean, noise, output = torch.randn(3, 2, 20, generator=random)
    level = torch.tensor([sigma, 2 * sigma])
    wide = level[:, None]
    noisy = clean + wide * noise
    v = (noise - wide * clean) / (1 + wide**2).sqrt()  # Salimans and Ho 2022
    expected = (output - v).square().mean(dim=1)
    found = edm.loss(edm.denoised(output, noisy, level), clean, level)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-4)
    perfect = edm.loss(edm.denoised(v, noisy, level), clean, level)
    torch.testing.assert_close(perfect, torch.zeros(2), rtol=0, atol=1e-4)


def test_everything_is_float32_whatever_the_network_gives():
    random = torch.Generator().manual_seed(0)
    output, noisy, clean = torch.randn(3, 2, 3, 4, 4, generator=random).bfloat16()
    sigma = torch.tensor([0.5, 20.0]).bfloat16()
    estimate = edm.denoised(output, noisy, sigma)
    error = edm.loss(estimate, clean, sigma)
    for value in (*edm.scalings(sigma), edm.loss_weight(sigma), estimate, error):
        assert value.dtype == torch.float32
    assert torch.equal(estimate, edm.denoised(output.float(), noisy.float(), sigma.float()))


def test_noise_levels_for_training_are_log_normal_and_repeatable():
    def draw(seed):
        random = torch.Generator().manual_seed(seed)
        return edm.sample_sigmas(20_000, p_mean=0.7, p_std=1.6, generator=random)

    logs = draw(0).log()
    assert logs.mean().item() == pytest.approx(0.7, abs=0.04)
    assert logs.std().item() == pytest.approx(1.6, abs=0.04)
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_noise_levels_for_training_are_float32_where_the_default_is_smaller():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert edm.sample_sigmas(3, p_mean=0.7, p_std=1.6).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)
