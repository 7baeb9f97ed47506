"""`scripts/make_tiny.py`: what it would run is runnable, and what it holds out is nowhere in training."""

import importlib
from pathlib import Path

import pytest
import torch

from svd3d import config as configs
from svd3d.model import checkpoints, tiny
from svd3d.settings import TrainConfig

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        return importlib.import_module("make_tiny")


@pytest.fixture(params=["narrow", "general"])
def plan(script, request):
    return script.PLANS[request.param]


def words_of(script, plan, out) -> dict[str, list[list[str]]]:
    found = script.stages(plan, out, folder=out / "model", processes=1)
    return {stage: [[str(word) for word in line] for line in lines] for stage, lines in found}


def test_every_stage_takes_what_one_before_it_made(script, plan, tmp_path):
    made = {str(tmp_path / "start")}
    for lines in words_of(script, plan, tmp_path).values():
        for line in lines:
            inputs = {word for word in line if word.startswith(str(tmp_path))}
            (output,) = (line[at + 1] for at, word in enumerate(line) if word == "--out")
            for needed in inputs - {output}:
                assert any(needed == each or needed.startswith(f"{each}/") for each in made), line
            made.add(output)


def test_the_model_of_a_stage_is_the_last_checkpoint_of_the_one_before(script, plan, tmp_path):
    lines = words_of(script, plan, tmp_path)
    for stage, after in zip(script.RECIPES, [*script.RECIPES[1:], "export"], strict=True):
        recipe = configs.read_recipe(TrainConfig, plan.recipes / f"{stage}.yaml")
        last = str(tmp_path / stage / f"checkpoints/step-{recipe['max_train_steps']}")
        assert last in lines[after][0]


def test_objects_that_are_held_out_are_of_other_numbers(script, plan):
    assert plan.objects < script.FIRST_HELD_OUT
    assert not set(plan.families) & script.families.HELD_OUT
    cars = range(-(-plan.objects // len(plan.families)))
    assert plan is not script.PLANS["narrow"] or 1659 not in cars  # the demo's object


def test_the_start_treats_every_frame_alone(script, tmp_path):
    script.make_start(tmp_path / "start")
    unet = checkpoints.from_folder(tmp_path / "start").network("unet").eval()
    source = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 3, 2 * tiny.LATENT_CHANNELS, 8, 8, generator=source)
    token, ids = torch.randn(1, 1, 32, generator=source), torch.zeros(1, 3)

    def answer(some: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return unet(some, torch.zeros(1), encoder_hidden_states=token, added_time_ids=ids).sample

    together = answer(frames)
    for frame in range(3):
        torch.testing.assert_close(together[:, frame], answer(frames[:, frame : frame + 1])[:, 0])
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3
