"""Shortcuts of sampling: what is exact is exact, the rest converges, and everything can be undone."""

import contextlib

import diffusers
import numpy as np
import pytest
import torch

from svd3d.errors import ConfigError
from svd3d.model import edm, fast, tiny
from svd3d.model.pipeline import SVDMVPipeline

STEPS = 5


@pytest.fixture(scope="module")
def unet():
    """A random UNet whose output depends on all its layers."""
    return tiny.components(seed=1)["unet"].requires_grad_(False)


def walk(unet, *, batch=1, seed=0, steps=STEPS, guided=False):
    """Outputs [steps, b, v, c, h, w] at falling noise, each from a sample of its own."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batch, 2, 2 * tiny.LATENT_CHANNELS, 4, 4, generator=generator)
    drift = torch.randn(inputs.shape, generator=generator)
    tokens = torch.randn(batch, 1, 32, generator=generator)
    if guided:
        tokens[: batch // 2] = 0
    ids = torch.tensor([[6.0, 127.0, 0.02, 10.0]]).expand(batch, 4)
    return torch.stack(
        [
            unet(
                inputs + 0.1 * step * drift,
                torch.tensor(0.5 - 0.2 * step),
                encoder_hidden_states=tokens,
                added_time_ids=ids,
            ).sample
            for step in range(steps)
        ]
    )


@contextlib.contextmanager
def calls(layer):
    """Counts how often a layer really runs, and with which batch."""
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("shortcut", ["single_token_attention", "flat_convolutions"])
def test_exact_shortcuts_are_exact(unet, shortcut):
    plain = walk(unet, steps=1)
    with getattr(fast, shortcut)(unet):
        found = walk(unet, steps=1)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)


def test_attention_to_single_tokens_needs_no_queries_and_to_more_it_does(unet):
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    hidden, tokens = torch.randn(2, 7, 96), torch.randn(2, 3, 32)
    plain = attention(hidden, encoder_hidden_states=tokens)
    with fast.single_token_attention(unet), calls(attention.to_q) as queries:
        attention(hidden, encoder_hidden_states=tokens[:, :1])
        assert queries == []
        assert torch.equal(attention(hidden, encoder_hidden_states=tokens), plain)
        assert queries == [2]


@pytest.mark.parametrize(
    "enter",
    [
        fast.single_token_attention,
        fast.flat_convolutions,
        lambda unet: fast.cache_features(unet, every=2),
        lambda unet: fast.guidance_interval(unet, low=1.0, high=2.0),
    ],
)
def test_leaving_restores_the_original_bit_for_bit(unet, enter):
    plain = walk(unet, batch=2, guided=True)
    processors = unet.attn_processors
    with enter(unet):
        walk(unet, batch=2, steps=2)
    assert torch.equal(walk(unet, batch=2, guided=True), plain)
    assert unet.attn_processors == processors


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_caching_at_every_step_is_no_caching(unet, keep):
    plain = walk(unet)
    with fast.cache_features(unet, every=1, keep=keep):
        assert torch.equal(walk(unet), plain)


@pytest.mark.parametrize(("keep", "computed"), [(1, [3, 3, 3]), (2, [5, 3, 3]), (3, [5, 5, 3])])
def test_between_whole_steps_only_the_outer_layers_run(unet, keep, computed):
    outer = unet.down_blocks[0]
    layers = [
        outer.resnets[0].spatial_res_block,
        outer.downsamplers[0].conv,
        unet.mid_block.resnets[0],
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(fast.cache_features(unet, every=2, keep=keep))
        seen = [stack.enter_context(calls(layer)) for layer in layers]
        whole = stack.enter_context(calls(unet.conv_out))
        found = walk(unet)
    assert [len(each) for each in seen] == computed
    assert len(whole) == STEPS
    plain = walk(unet)
    same = [torch.equal(*pair) for pair in zip(found, plain, strict=True)]
    assert same == [True, False, True, False, True]


def test_features_that_move_evenly_are_extrapolated_exactly(unet):
    """The cached feature is made to be 3 + 2 t; then all steps come out as without a cache."""

    class Line(torch.nn.Module):
        def forward(self, hidden_states, temb, **_):
            return hidden_states.new_full(hidden_states.shape, 3 + 2 * float(self.time))

    line = Line()
    unet = tiny.components(seed=1)["unet"].requires_grad_(False)
    for layer in fast._layers_by_skip(unet)[1][0]:  # what lies between the mid block and the cache
        layer.forward = lambda hidden, *_, **options: (
            (hidden[:, :96],) if "return_dict" in options else hidden[:, :96]
        )
    unet.mid_block = line
    unet.time_proj.register_forward_pre_hook(lambda _, inputs: setattr(line, "time", inputs[0][0]))
    plain = walk(unet, steps=6)
    with fast.cache_features(unet, every=2, keep=3):
        found = walk(unet, steps=6)
    assert not torch.equal(found[1], plain[1])  # one point makes no line
    torch.testing.assert_close(found[2:], plain[2:], atol=1e-5, rtol=0)


def test_a_new_sample_or_another_batch_size_starts_anew(unet):
    with fast.cache_features(unet, every=3):
        first = walk(unet, steps=2)
        assert torch.equal(walk(unet, steps=2), first)
        walk(unet, batch=2, steps=2)
        assert torch.equal(walk(unet, steps=2), first)


def test_a_batch_of_two_is_two_batches_under_caching(unet):
    with fast.cache_features(unet, every=2):
        both = walk(unet, batch=2)
    inputs = []
    handle = unet.register_forward_pre_hook(lambda _, a, k: inputs.append((a, k)), with_kwargs=True)
    walk(unet, batch=2)
    handle.remove()
    for index in range(2):
        with fast.cache_features(unet, every=2):
            for step, ((sample, time), named) in enumerate(inputs):
                one = slice(index, index + 1)
                alone = unet(sample[one], time, **{name: value[one] for name, value in named.items()}).sample
                torch.testing.assert_close(alone[0], both[step, index], atol=1e-4, rtol=0)


def test_two_networks_do_not_share_a_cache(unet):
    other = tiny.components(seed=2)["unet"].requires_grad_(False)
    with fast.cache_features(unet, every=2):
        alone = walk(unet)
    with fast.cache_features(unet, every=2), fast.cache_features(other, every=2):
        in_turns = unet.register_forward_pre_hook(
            lambda _, inputs, named: other(*inputs, **named) and None, with_kwargs=True
        )
        try:
            assert torch.equal(walk(unet), alone)
        finally:
            in_turns.remove()


def test_guidance_outside_of_the_interval_is_that_of_scale_one(unet):
    plain = walk(unet, batch=2, guided=True)
    with fast.guidance_interval(unet, low=1.0, high=5.0), calls(unet.conv_in) as batches:
        found = walk(unet, batch=2, guided=True)
    # sigma = exp(4 c_noise) = 7.4, 3.3, 1.5, 0.67, 0.30
    assert batches == [2, 4, 4, 2, 2]
    for step, (ours, stock) in enumerate(zip(found, plain, strict=True)):
        if step in (1, 2):
            assert torch.equal(ours, stock)
        else:
            assert torch.equal(ours[0], ours[1])
            torch.testing.assert_close(ours[1], stock[1], atol=1e-4, rtol=0)


def test_a_batch_without_guidance_passes_the_interval(unet):
    plain = walk(unet, batch=2)
    with fast.guidance_interval(unet, low=1.0, high=2.0):
        assert torch.equal(walk(unet, batch=2), plain)


@pytest.mark.parametrize("shortcut", ["cache", "interval"])
def test_shortcuts_work_in_whole_pipelines_ours_and_stock(stock, widened, pictures, shortcut):
    def enter(unet):
        if shortcut == "cache":
            return fast.cache_features(unet, every=2)
        return fast.guidance_interval(unet, low=0.1, high=10.0)

    settings = {"height": 64, "width": 64, "num_inference_steps": 4, "max_guidance_scale": 3.0}
    with enter(stock.unet), enter(widened.unet):
        expected = stock(
            pictures[0], num_frames=3, output_type="np", generator=torch.manual_seed(0), **settings
        ).frames
        found = widened(
            pictures[0],
            num_views=3,
            guidance="linear",
            keep_input_view=False,
            generator=torch.manual_seed(0),
            **settings,
        ).views
    np.testing.assert_allclose(found, expected, atol=1e-4)


def gaussian(pipeline, *, steps, spread=0.5):
    """Sample N(0, spread^2) with its exact denoiser D(x) = x spread^2 / (spread^2 + sigma^2)."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    start = torch.linspace(-1, 1, 9)[None]
    sample = start * scheduler.init_noise_sigma
    for time, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        c_skip, c_out, _, _ = edm.scalings(sigma)
        scheduler.scale_model_input(sample, time)
        output = (sample * spread**2 / (spread**2 + sigma**2) - c_skip * sample) / c_out
        sample = scheduler.step(output, time, sample).prev_sample
    exact = start * scheduler.init_noise_sigma * spread / (spread**2 + scheduler.sigmas[0] ** 2) ** 0.5
    return (sample - exact).abs().max().item()


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("dpm++2m", 2), ("dpm++3m", 2)])
def test_solvers_converge_to_the_exact_solution_at_their_order(widened, name, order):
    with fast.solver(widened, name):
        coarse, fine = gaussian(widened, steps=80), gaussian(widened, steps=320)
    assert fine < 1.1 * coarse / 4**order
    assert coarse < 0.02


def test_better_solvers_are_nearer_with_fewer_steps(widened):
    errors = {}
    for name, steps in (("euler", 75), ("dpm++2m", 25), ("dpm++3m", 25)):
        with fast.solver(widened, name):
            errors[name] = gaussian(widened, steps=steps)
    assert max(errors["dpm++2m"], errors["dpm++3m"]) < errors["euler"]


def test_solvers_agree_on_noise_levels_and_the_original_comes_back(widened):
    original = widened.scheduler
    levels = []
    for name in ("euler", "dpm++2m"):
        with fast.solver(widened, name):
            widened.scheduler.set_timesteps(7)
            levels.append((widened.scheduler.sigmas, widened.scheduler.timesteps))
        assert widened.scheduler is original
    for ours, theirs in zip(*levels, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_solvers_converge_to_one_sample_of_the_network(pipeline, pictures):
    def sample(name, steps):
        settings = {"num_views": 2, "height": 32, "width": 32, "output_type": "latent"}
        with fast.solver(pipeline, name):
            generator = torch.Generator().manual_seed(0)
            return pipeline(pictures[0], num_inference_steps=steps, generator=generator, **settings).views

    limit = sample("dpm++2m", 32)
    errors = {name: (sample(name, 12) - limit).abs().max() for name in ("euler", "dpm++2m")}
    assert errors["dpm++2m"] < 0.6 * errors["euler"]
    assert errors["euler"] < 0.2 * limit.abs().max()


def test_compiling_is_asked_for_and_keeps_the_names_of_the_weights(widened):
    unet = tiny.unet()
    names = list(unet.state_dict())
    fast.compile_unet(SVDMVPipeline(**{**widened.components, "unet": unet}), backend="eager")
    assert unet._compiled_call_impl is not None
    assert list(unet.state_dict()) == names


@pytest.mark.parametrize(
    ("enter", "message"),
    [
        (lambda pipeline: fast.cache_features(pipeline.unet, every=0), "every = 0, keep = 1: every must"),
        (lambda pipeline: fast.cache_features(pipeline.unet, keep=0), "keep within 1 to 3"),
        (lambda pipeline: fast.cache_features(pipeline.unet, keep=4), "keep within 1 to 3"),
        (lambda pipeline: fast.solver(pipeline, "heun"), "solver 'heun': not known; choose one of euler"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(widened, enter, message):
    with pytest.raises(ConfigError, match=message) as caught, enter(widened):
        pass
    assert "\n" not in str(caught.value)


def test_a_scheduler_of_another_kind_is_refused(widened):
    original = widened.scheduler
    widened.scheduler = diffusers.DDIMScheduler()
    try:
        with (
            pytest.raises(ConfigError, match="has a DDIMScheduler without v-prediction"),
            fast.solver(widened, "dpm++2m"),
        ):
            pass
    finally:
        widened.scheduler = original
