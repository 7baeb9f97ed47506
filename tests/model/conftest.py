"""Parts of a tiny stock SVD with random weights, and pictures."""

import numpy as np
import pytest
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

from svd3d.model import tiny
from svd3d.model.pipeline import SVDMVPipeline


@pytest.fixture(scope="session")
def stock():
    """Stock Stable Video Diffusion at the size of `tiny`, with random weights."""
    pipeline = StableVideoDiffusionPipeline(**tiny.components(time_ids=3))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def widened():
    """The same weights in our pipeline."""
    pipeline = SVDMVPipeline(**tiny.components(time_ids=3))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pipeline():
    """Ours, with random weights for the elevation too."""
    pipeline = SVDMVPipeline(**tiny.components(seed=1), max_guidance_scale=2.0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pictures():
    """Two pictures of 64 x 64 without any symmetry."""
    noise = np.random.default_rng(0).integers(256, size=(2, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize((64, 64), Image.Resampling.BICUBIC) for each in noise]
