"""Vectors per view in the stock UNet, against the stock UNet."""

import copy

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.resnet import AlphaBlender

from svd3d.model import tiny
from svd3d.model.unet import Sinusoids, per_view

VIEWS = 3
IDS = torch.tensor([[0.02, 1.3, 0.0], [1e-5, 1.6, 2.1]])


def unet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.unet(time_ids=3, num_frames=VIEWS).eval()


@pytest.fixture(scope="module")
def stock():
    return unet()


@pytest.fixture(scope="module")
def ours():
    return per_view(unet(), widths=(32, 32, 32))


@pytest.fixture(scope="module")
def inputs():
    random = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(2, VIEWS, 32, 4, 4, generator=random),
        "timestep": torch.tensor([0.3, -1.0]),
        "encoder_hidden_states": torch.randn(2, 1, 32, generator=random),
    }


def row_by_row(network):
    """Linear algebra in which a row does not depend on how many others there are, as it does in a GEMM."""
    for layer in (network.add_embedding.linear_1, network.add_embedding.linear_2):
        layer.forward = lambda rows, layer=layer: (rows[..., None, :] * layer.weight).sum(-1) + layer.bias
    return network


@torch.no_grad()
def test_the_same_vector_in_all_views_gives_exactly_what_stock_code_gives(stock, ours, inputs):
    everywhere = IDS[:, None].expand(-1, VIEWS, -1)
    expected, found = stock(**inputs, added_time_ids=IDS), ours(**inputs, added_time_ids=everywhere)
    torch.testing.assert_close(found.sample, expected.sample, rtol=0, atol=1e-5)
    expected = row_by_row(unet())(**inputs, added_time_ids=IDS)
    found = per_view(row_by_row(unet()), widths=(32, 32, 32))(**inputs, added_time_ids=everywhere)
    assert torch.equal(found.sample, expected.sample)


def test_each_view_gets_its_own_vector(inputs):
    """With all mixing over views switched off, a view is what stock code makes of it alone."""
    networks = [unet(), per_view(unet(), widths=(32, 32, 32))]
    for network in networks:
        for module in network.modules():
            if isinstance(module, AlphaBlender):
                torch.nn.init.constant_(module.mix_factor, 100.0)  # sigmoid(100) is 1: all spatial
    vectors = torch.rand(2, VIEWS, 3, generator=torch.Generator().manual_seed(1))

    def alone(view, vector):
        sample, (_, time, context) = inputs["sample"][:, view, None], inputs.values()
        return networks[0](sample, time, context, vectors[:, vector]).sample

    with torch.no_grad():
        expected = [alone(view, view) for view in range(VIEWS)]
        found = networks[1](**inputs, added_time_ids=vectors).sample
        assert (alone(0, 1) - expected[0]).abs().max() > 1e-3
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=0, atol=1e-5)


def test_sinusoids_are_those_of_the_published_embedders():
    widths, numbers = (32, 64, 64), torch.tensor([[0.02, 1.3, 6.1], [1e-5, 0.0, 3.0]])
    columns = []
    for column, width in enumerate(widths):  # cosines first, frequencies 10000^(-i / half)
        angles = numbers[:, column, None] * 10_000.0 ** (-torch.arange(width // 2) / (width // 2))
        columns += [angles.cos(), angles.sin()]
    torch.testing.assert_close(Sinusoids(widths)(numbers.flatten()), torch.cat(columns, dim=1))


def test_weights_have_the_names_and_shapes_of_stock_and_survive_the_disk(stock, ours, inputs, tmp_path):
    shapes = [{name: w.shape for name, w in network.state_dict().items()} for network in (stock, ours)]
    assert shapes[0] == shapes[1]
    ours.save_pretrained(tmp_path)
    again = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(
            again(**inputs, added_time_ids=IDS).sample, stock(**inputs, added_time_ids=IDS).sample
        )


def test_twice_is_once_and_a_copy_stands_alone(ours, inputs):
    ids = torch.rand(2, VIEWS, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = ours(**inputs, added_time_ids=ids).sample
        clone = copy.deepcopy(ours)
        clone.add_embedding.linear_2.bias += 1.0
        assert torch.equal(per_view(ours, widths=(32, 32, 32))(**inputs, added_time_ids=ids).sample, expected)
        assert not torch.equal(clone(**inputs, added_time_ids=ids).sample, expected)


def test_it_trains_with_and_without_checkpointing(inputs):
    """Gradients reach the embedding of the vectors, the same ones when activations are computed again."""
    network = per_view(unet(), widths=(32, 32, 32)).train()
    ids = torch.rand(2, VIEWS, 3, generator=torch.Generator().manual_seed(1))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            network.enable_gradient_checkpointing()
        network.zero_grad()
        network(**inputs, added_time_ids=ids).sample.square().mean().backward()
        gradients.append(network.add_embedding.linear_1.weight.grad.clone())
    assert gradients[0].abs().max() > 1e-6
    torch.testing.assert_close(*gradients)
