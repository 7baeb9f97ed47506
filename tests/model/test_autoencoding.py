"""What an autoencoder learns: principal directions against numpy, terms of the loss against formulas."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from svd3d.errors import TrainingError
from svd3d.model import autoencoding, learner, tiny, vae
from svd3d.model.autoencoding import Autoencoding, linear_latents, principal_directions
from svd3d.model.checkpoints import Checkpoint
from svd3d.settings import TrainConfig
from tests.trainings import small_unet, small_vae

PATCH, CHANNELS = 2, 4


def smooth(count, *, seed=0, size=8):
    """Pictures in [-1, 1] whose pixels resemble their neighbours, with white corners."""
    noise = torch.randn(count, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    found = torch.nn.functional.interpolate(noise, size=size, mode="bilinear").tanh()
    found[..., : size // 2, : size // 2] = 1
    return found


def patches(pictures):
    """Every patch as a row of numbers, by numpy: [n * rows * columns, 3 * PATCH * PATCH]."""
    count, _, size, _ = pictures.shape
    grid = pictures.numpy().reshape(count, 3, size // PATCH, PATCH, size // PATCH, PATCH)
    return grid.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3 * PATCH * PATCH)


def test_the_matrix_has_the_principal_directions_that_numpy_finds():
    pictures = smooth(40)
    rows = patches(pictures).astype(np.float64) - 1
    rows = rows[np.abs(rows).max(axis=1) > 0.02]
    variances, directions = np.linalg.eigh(rows.T @ rows / len(rows))
    variances, directions = variances[::-1], directions[:, ::-1]
    matrix = principal_directions(pictures, channels=CHANNELS, patch=PATCH).numpy()
    assert matrix.shape == (CHANNELS, 12)
    expected = (directions[:, :CHANNELS] * variances[:CHANNELS] ** -0.25).T
    signs = np.sign((matrix * expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(matrix, signs * expected, rtol=1e-4, atol=1e-5)
    latents = linear_latents(pictures, torch.from_numpy(matrix))
    seen = latents.movedim(1, -1).flatten(0, -2).double().numpy()
    gram = seen.T @ seen / len(rows)  # white adds nothing: half-way to equal spread, and uncorrelated
    np.testing.assert_allclose(gram, np.diag(variances[:CHANNELS] ** 0.5), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4, 9, 12])
def test_what_comes_back_lacks_the_variance_left_out_and_no_more(channels):
    """The promise of principal components: the mean squared error is the sum of the variances left out."""
    pictures = smooth(40)
    matrix = principal_directions(pictures, channels=channels, patch=PATCH)
    latents = linear_latents(pictures, matrix).movedim(1, -1).flatten(0, -2).double().numpy()
    rows = patches(pictures).astype(np.float64) - 1
    back = latents @ np.linalg.pinv(matrix.double().numpy()).T
    error = ((back - rows) ** 2).sum(axis=1).mean()
    left_out = np.linalg.eigvalsh(rows.T @ rows / len(rows))[: 12 - channels].sum()
    assert error == pytest.approx(left_out, rel=1e-3, abs=1e-9)


def test_white_is_zero_and_changes_no_direction():
    pictures = smooth(20)
    matrix = principal_directions(pictures, channels=CHANNELS, patch=PATCH)
    white = torch.ones(30, 3, 8, 8)
    assert not linear_latents(white, matrix).any()
    more = principal_directions(torch.cat([white, pictures]), channels=CHANNELS, patch=PATCH)
    torch.testing.assert_close(more, matrix, rtol=1e-4, atol=1e-5)


def test_a_latent_sees_its_own_patch_alone():
    pictures = smooth(1)
    matrix = principal_directions(smooth(20), channels=CHANNELS, patch=PATCH)
    other = pictures.clone()
    other[..., 6:8, 4:6] -= 0.5
    changed = (linear_latents(other, matrix) != linear_latents(pictures, matrix)).any(dim=1)
    assert changed.nonzero().tolist() == [[0, 3, 2]]


@pytest.mark.parametrize(("colours", "channels"), [(0, 1), (2, 4)])
def test_pictures_with_too_little_in_them_are_refused(colours, channels):
    """White alone, or two colours for four directions."""
    pictures = torch.ones(6, 3, 8, 8)
    for colour in range(colours):
        pictures[colour] = torch.tensor([0.2 * colour, -0.5, 0.5])[:, None, None]
    with pytest.raises(TrainingError, match=f"latents linear: .* fewer than {channels} principal directions"):
        principal_directions(pictures, channels=channels, patch=PATCH)


@pytest.fixture
def config(tmp_path):
    return TrainConfig(data=tmp_path, out=tmp_path, trains="autoencoder", latents="linear", kl_weight=0.01)


@pytest.fixture(scope="module")
def start():
    parts = {**tiny.components(), "unet": small_unet(channels=CHANNELS), "vae": small_vae()}
    networks = {name: parts[name] for name in ("unet", "vae", "image_encoder")}
    weights = {name: network.state_dict() for name, network in networks.items()}
    return Checkpoint("svd-mv", networks, weights, parts["scheduler"], parts["feature_extractor"])


def objective_of(start, config, *, views=3):
    first = [{"pictures": smooth(views, seed=seed)} for seed in range(4)]
    return Autoencoding.of(start, start.network("vae"), config, first=first)


def batch_of(count, *, views=3):
    pictures = torch.stack([smooth(views, seed=10 + each) for each in range(count)])
    return {"pictures": pictures, "draw_seed": torch.arange(count)}


class Answer(torch.nn.Module):
    """Gives what is told: an error of the pixels, one of the latents, and a variance."""

    def __init__(self, error, *, mean=0.0, log_variance=0.0) -> None:
        super().__init__()
        self.error, self.mean, self.log_variance = error, mean, log_variance

    def forward(self, pictures, told, noise, num_frames):
        mean = self.mean + (torch.zeros_like(noise) if told is None else told)
        return pictures + self.error, mean, torch.full_like(mean, self.log_variance)


def test_each_term_of_the_loss_is_what_it_says(start, config):
    batch = batch_of(2)
    told = objective_of(start, config)
    learned = objective_of(start, dataclasses.replace(config, latents="learned"))
    decoder = objective_of(start, dataclasses.replace(config, trains="decoder"))

    def loss(objective, **answer):
        found, _ = objective.losses(Answer(**answer), batch)
        assert found.shape == (2,)
        assert torch.allclose(found, found[0], rtol=1e-5)
        return found[0].item()

    perfect = {"error": 0.0, "log_variance": autoencoding.LOG_VARIANCE}
    assert loss(told, **perfect) == 0
    assert loss(told, **{**perfect, "error": 0.3}) == pytest.approx(2 * 0.09 + 0.3, rel=1e-4)
    ramp = 0.1 * torch.arange(8.0)  # from left to right, so that neighbours differ by 0.1
    expected = (2 * ramp.square().mean() + ramp.mean() + 0.1).item()
    assert loss(decoder, error=ramp) == pytest.approx(expected, rel=1e-4)
    assert loss(told, **{**perfect, "mean": 0.5}) == pytest.approx(0.25, rel=1e-4)
    assert loss(told, error=0.0, log_variance=autoencoding.LOG_VARIANCE + 2) == pytest.approx(0.04, rel=1e-4)
    gaussian = Normal(torch.tensor(0.7), torch.tensor(-1.5).exp().sqrt())
    divergence = 0.01 * kl_divergence(gaussian, Normal(0.0, 1.0)).item()
    assert loss(learned, error=0.0, mean=0.7, log_variance=-1.5) == pytest.approx(divergence, rel=1e-4)
    assert loss(decoder, error=0.0, mean=9.0, log_variance=9.0) == 0


def test_the_decoder_sees_what_is_told_with_noise_of_at_most_what_was_said(start, config):
    config = dataclasses.replace(config, latent_noise=0.3)
    objective, batch = objective_of(start, config), batch_of(40)
    seen, decode = [], objective.network.decode

    def spy(latents, *, num_frames):
        seen.append(latents)
        return decode(latents, num_frames=num_frames)

    objective.network.decode = spy
    with torch.no_grad():
        _, levels = objective.losses(objective.module(), batch)
    assert 0 <= levels.min() < 0.05
    assert 0.25 < levels.max() <= 0.3
    told = linear_latents(batch["pictures"].flatten(0, 1), objective.matrix)
    noise = (seen[0] - told).reshape(40, -1)
    torch.testing.assert_close(noise.std(dim=1), levels, rtol=0.25, atol=0)


@torch.no_grad()
def test_a_sample_has_its_own_loss_whatever_it_is_with(start, config):
    config = dataclasses.replace(config, latent_noise=0.3)
    objective, batch = objective_of(start, config), batch_of(3)
    together, levels = objective.losses(objective.module(), batch)
    for i in range(3):
        alone, level = objective.losses(
            objective.module(), {name: each[i, None] for name, each in batch.items()}
        )
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-6)
        assert level == levels[i]


@pytest.mark.parametrize("trains", ["autoencoder", "decoder"])
@pytest.mark.parametrize("kind", ["linear", "learned"])
def test_what_is_named_gets_gradients_all_of_it_and_nothing_else(start, config, trains, kind):
    """Several processes would wait for ever for a gradient that does not come."""
    objective = objective_of(start, dataclasses.replace(config, trains=trains, latents=kind))
    learner.select(objective.network, objective.config)
    loss, _ = objective.losses(objective.module(), batch_of(1))
    loss.sum().backward()
    named = dict(objective.network.named_parameters())
    learns = {name for name, each in named.items() if each.requires_grad}
    assert learns == {name for name, each in named.items() if each.grad is not None}
    assert {name for name in named if trains == "autoencoder" or name.startswith("decoder.")} - learns == {
        name for name in named if name.startswith("decoder.mid_block.attentions.0.")
    }  # which diffusers leaves out in autoencoders of one layer per block


def test_new_latents_are_scaled_to_a_standard_deviation_of_one(start, config):
    objective = objective_of(start, config)
    objective.settle()
    pictures = torch.cat([smooth(3, seed=seed) for seed in range(4)])
    with torch.no_grad():
        scaled = vae.encode_views(objective.network, pictures)
    assert scaled.std().item() == pytest.approx(1, rel=1e-4)
    kept = objective_of(start, dataclasses.replace(config, trains="decoder"))
    before = kept.network.config["scaling_factor"]
    kept.settle()
    assert kept.network.config["scaling_factor"] == before


@torch.no_grad()
def test_what_is_painted_is_what_encoding_and_decoding_gives(start, config):
    objective, batch = objective_of(start, config), batch_of(1)
    painted, true = objective.views(batch)
    (pictures,) = batch["pictures"]
    np.testing.assert_allclose(true, ((pictures + 1) / 2).movedim(1, -1), atol=1e-6)
    network = objective.network
    network.register_to_config(scaling_factor=0.5)
    (decoded,) = vae.decode(network, vae.encode_views(network, pictures)[None])
    np.testing.assert_allclose(painted, ((decoded + 1) / 2).clamp(0, 1).movedim(1, -1), atol=1e-5)
    assert objective_of(start, dataclasses.replace(config, num_views=1)).painter() is None
