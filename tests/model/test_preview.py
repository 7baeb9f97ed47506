"""Painting from cached latents gives what the pipeline gives from the picture."""

import numpy as np
import torch
from PIL import Image

from svd3d import images
from svd3d.cameras import Orbit
from svd3d.model import TINY_FOLDER, checkpoints, preview, vae
from svd3d.model.pipeline import SVDMVPipeline

VIEWS, STEPS = 5, 3


def test_views_are_those_of_the_pipeline_for_the_same_picture_and_noise():
    start = checkpoints.from_folder(TINY_FOLDER)
    pipeline = SVDMVPipeline.load("tiny")
    pipeline.set_progress_bar_config(disable=True)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    picture = Image.fromarray(images.to_uint8(pixels[0].movedim(0, 2).numpy()))
    encoded = pipeline.video_processor.preprocess([picture], height=64, width=64)
    orbit = Orbit.static(num_views=VIEWS, elevation_deg=20.0)
    noise = torch.randn(1, VIEWS, 16, 8, 8, generator=torch.Generator().manual_seed(7))
    expected = pipeline(
        picture,
        orbit=orbit,
        latents=noise,
        num_inference_steps=STEPS,
        noise_aug_strength=0.0,
        keep_input_view=False,
    ).views[0]

    with torch.no_grad():
        batch = {
            "latents": vae.encode_views(pipeline.vae, encoded.expand(VIEWS, -1, -1, -1))[None],
            "cond_latents": vae.encode_condition(pipeline.vae, encoded),
            "clip": pipeline._encode_image([picture], torch.device("cpu"), 1, False),
            "noise_aug": torch.zeros(1),
            "elevations_deg": torch.tensor([orbit.elevations_deg]),
            "azimuths_deg": torch.tensor([orbit.azimuths_deg]),
            "draw_seed": torch.tensor([7]),
        }
    painter = preview.Painter(start.network("unet"), start, kind="svd-mv", steps=STEPS)
    painted, true = painter.views(batch)
    np.testing.assert_allclose(painted, expected, atol=2e-5)
    (decoded,) = vae.decode(pipeline.vae, batch["latents"])
    np.testing.assert_allclose(true, ((decoded + 1) / 2).clamp(0, 1).movedim(1, -1), atol=2e-5)
    assert np.abs(true - painted).mean() > 0.01
