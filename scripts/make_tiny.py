"""Train the bundled tiny model from scratch on a CPU: python scripts/make_tiny.py {vae,unet,export,gate}.

    python scripts/make_objects.py --count 1664 --seed 0 --out DATA
    python scripts/make_orbits.py DATA/objects.jsonl --out DATA/orbits --size 64
    python scripts/make_tiny.py vae    --data DATA/orbits --out RUN
    python scripts/make_tiny.py unet   --data DATA/orbits --out RUN
    python scripts/make_tiny.py export --data DATA/orbits --out RUN
    python scripts/make_tiny.py gate   --data DATA/orbits --out RUN

Every part resumes when it is run again. The last 64 objects are held out from all training.
"""

import argparse
import copy
import json
import logging
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from svd3d import images, sample
from svd3d.model import conditioning, edm, tiny
from svd3d.model.pipeline import SVDMVPipeline

HELD_OUT = 64
NOISE_AUG = 0.02
"""Noise on the input view in pixels, the default of SVD pipelines."""
CONDITION_NOISE = 0.1
"""Noise on the latents of the input view: the pixel noise above and what the encoder gets wrong."""
DECODER_NOISE = 0.3
"""Largest noise on the latents that the decoder learns from."""
log = logging.getLogger("make_tiny")


def load_orbits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All orbits over white: uint8 [n, 21, 64, 64, 3] and the elevations in degrees [n]."""
    views, elevations = [], []
    for path in sorted(folder.glob("orbits-*.npz")):
        with np.load(path) as shard:
            views.append(np.stack([images.to_uint8(images.composite(orbit)) for orbit in shard["rgba"]]))
            elevations.append(shard["elevation_deg"])
    if not views:
        sys.exit(f"{folder}: no orbits-*.npz; run scripts/make_orbits.py first")
    return np.concatenate(views), np.concatenate(elevations)


def to_tensor(views: np.ndarray) -> Tensor:
    """uint8 [..., h, w, 3] to float32 [..., 3, h, w] in [-1, 1], the range of the autoencoder."""
    return torch.from_numpy(views).movedim(-1, -3).float() / 127.5 - 1


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Per picture, in dB, of pictures in [-1, 1]: [..., 3, h, w] to [...]."""
    error = (prediction.clamp(-1, 1) - target).square().mean(dim=(-3, -2, -1)) / 4
    return -10 * error.clamp_min(1e-10).log10()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 100 steps, then a cosine down to a hundredth of the peak."""
    return peak * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


class Trainer:
    """A network, its optimiser, its moving average and its file: saved every `every` steps, resumable."""

    def __init__(
        self, name: str, network: nn.Module, out: Path, *, steps: int, peak: float, decay: float
    ) -> None:
        self.name, self.network, self.steps, self.peak, self.decay = name, network, steps, peak, decay
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.parameters, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
        self.file = out / f"{name}.safetensors"
        self.losses = out / f"{name}.jsonl"
        self.step = 0
        self.started = time.monotonic()
        if self.file.exists():
            self._load()

    def update(self, loss: Tensor) -> None:
        """One optimiser step and one step of the moving average."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.peak)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)

    def save(self, record: dict[str, float]) -> None:
        """Checkpoint (temporary file, then rename) and one line in the log."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            tensors |= {f"optimiser.{index}.{k}": v for k, v in self.optimiser.state[parameter].items()}
        temporary = self.file.with_suffix(".tmp")
        save_file(
            {k: v.contiguous().clone() for k, v in tensors.items()}, temporary, {"step": str(self.step)}
        )
        temporary.replace(self.file)
        record = {"step": self.step, "seconds": round(time.monotonic() - self.started), **record}
        with open(self.losses, "a") as file:
            file.write(json.dumps(record) + "\n")
        log.info("%s %s", self.name, " ".join(f"{k} {v:.4g}" for k, v in record.items()))

    def _load(self) -> None:
        from safetensors import safe_open

        with safe_open(self.file, "pt") as file:
            self.step = int(file.metadata()["step"])
        tensors = load_file(self.file)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimiser": {}}
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            parts[part][rest] = value
        self.network.load_state_dict(parts["network"])
        self.average.load_state_dict(parts["average"])
        for key, value in parts["optimiser"].items():
            index, _, name = key.partition(".")
            self.optimiser.state[self.parameters[int(index)]][name] = value
        log.info("%s resumes at step %d", self.name, self.step)


def patches(pixels: Tensor) -> Tensor:
    """What differs from white, by 8 x 8 patches: [n, 3, 64, 64] in [-1, 1] to [n, 192, 8, 8]."""
    return nn.functional.pixel_unshuffle(pixels - 1, 8)


def fit_codec(data: Path, out: Path) -> Tensor:
    """The matrix [16, 192] that turns patches into latents. Cached.

    Principal directions of the patches that are not white, each scaled by the inverse square root of its
    standard deviation: white is the zero latent, and faint directions count less than in a full whitening.
    """
    file = out / "codec.safetensors"
    if not file.exists():
        views, _ = load_orbits(data)
        seen = (
            patches(to_tensor(views[: len(views) - HELD_OUT : 10, ::2]).flatten(0, 1))
            .movedim(1, -1)
            .reshape(-1, 192)
        )
        seen = seen[seen.abs().amax(dim=1) > 0.02].double()
        directions, variances, _ = torch.linalg.svd(seen.T @ seen / len(seen))
        matrix = directions[:, : tiny.LATENT_CHANNELS] * variances[: tiny.LATENT_CHANNELS] ** -0.25
        save_file({"matrix": matrix.T.float().contiguous()}, file)
    return load_file(file)["matrix"]


def encode(matrix: Tensor, pixels: Tensor) -> Tensor:
    """Pictures to latents: [n, 3, 64, 64] to [n, 16, 8, 8]."""
    return torch.einsum("cp,nphw->nchw", matrix, patches(pixels))


def train_vae(data: Path, out: Path, *, steps: int) -> None:
    """The autoencoder of SVD: its encoder learns the linear latents, its decoder to see more in them.

    Trained end to end, 20 minutes of one core gave grey cars (21 dB); the linear latents have colour from the
    start. The decoder sees noised latents, because generated ones are not exact. 2 objects x 7 views a step.
    """
    views, _ = load_orbits(data)
    matrix = fit_codec(data, out)
    torch.manual_seed(0)
    trainer = Trainer("vae", tiny.vae().train(), out, steps=steps, peak=1e-3, decay=0.995)
    network = trainer.network
    watch = to_tensor(views[-16:, ::3]).flatten(0, 1)
    while trainer.step < steps:
        random = np.random.default_rng([0, trainer.step])
        torch.manual_seed(trainer.step)
        objects = random.integers(len(views) - HELD_OUT, size=2)
        starts = random.integers(21, size=2)
        chosen = np.stack([views[o][(s + np.arange(7)) % 21] for o, s in zip(objects, starts, strict=True)])
        target = to_tensor(chosen).flatten(0, 1)
        latents = encode(matrix, target)
        noise = torch.randn_like(latents) * (DECODER_NOISE * torch.rand(2, 1, 1, 1)).repeat_interleave(
            7, dim=0
        )
        with torch.autocast("cpu", torch.bfloat16):
            posterior = network.encode(target).latent_dist
            output = network.decode(latents + noise, num_frames=7).sample
        error = output.float() - target
        edges = sum(error.diff(dim=d).abs().mean() for d in (-1, -2))
        distilled = (posterior.mean - latents).square().mean() + 0.01 * (posterior.logvar + 6).square().mean()
        trainer.update(2 * error.square().mean() + error.abs().mean() + edges + distilled)
        if trainer.step % 100 == 0 or trainer.step == steps:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                exact = encode(matrix, watch)
                found = trainer.average.encode(watch).latent_dist.mode().float()
                again = trainer.average.decode(exact, num_frames=7).sample.float()
                round_trip = trainer.average.decode(found, num_frames=7).sample.float()
            trainer.save(
                {
                    "distilled": distilled.item(),
                    "latent_rmse": (found - exact).square().mean().sqrt().item(),
                    "held_out_psnr": psnr(again, watch).mean().item(),
                    "round_trip_psnr": psnr(round_trip, watch).mean().item(),
                }
            )


def encode_all(data: Path, out: Path) -> dict[str, Tensor]:
    """Latents of all orbits, their scale, CLIP embeddings of the input views, elevations. Cached."""
    file = out / "latents.safetensors"
    if file.exists():
        return load_file(file)
    views, elevations = load_orbits(data)
    matrix = fit_codec(data, out)
    pipeline = SVDMVPipeline(**tiny.components())
    latents, embeddings = [], []
    for index, orbit in enumerate(views):
        latents.append(encode(matrix, to_tensor(orbit)).half())
        with torch.no_grad():
            picture = Image.fromarray(orbit[0])
            embeddings.append(pipeline._encode_image(picture, torch.device("cpu"), 1, False)[0, 0])
        if index % 400 == 0:
            log.info("encoded %d of %d", index, len(views))
    stacked = {
        "latents": torch.stack(latents).contiguous(),
        "embeddings": torch.stack(embeddings).contiguous(),
        "elevations": torch.from_numpy(elevations),
    }
    stacked["scale"] = 1 / stacked["latents"][:-HELD_OUT].float().std()
    save_file(stacked, file)
    return stacked


def train_unet(data: Path, out: Path, *, steps: int) -> None:
    """The multi-view UNet on cached latents: EDM loss, 4 orbits a step, bf16 autocast, float32 weights."""
    cache = encode_all(data, out)
    views, _ = load_orbits(data)
    train = len(views) - HELD_OUT
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = tiny.unet().train()
    network.set_attn_processor(
        AttnProcessor()
    )  # its backward is a third faster than fused attention on a CPU
    trainer = Trainer("unet", network, out, steps=steps, peak=1e-3, decay=0.998)
    running = 0.0
    while trainer.step < steps:
        random = np.random.default_rng([2, trainer.step])
        torch.manual_seed(trainer.step)
        chosen = torch.from_numpy(random.integers(train, size=4))
        clean = cache["latents"][chosen].float() * cache["scale"]
        condition = cache["latents"][chosen, :1].float()
        condition = condition + CONDITION_NOISE * torch.randn_like(condition)
        condition = condition.repeat(1, 21, 1, 1, 1)
        keep = (torch.rand(4) > 0.04).float()
        sigma = edm.sample_sigmas(4, p_mean=0.7, p_std=1.6)
        noisy = clean + sigma[:, None, None, None, None] * torch.randn_like(clean)
        _, _, c_in, c_noise = edm.scalings(sigma)
        ids = conditioning.added_time_ids(
            "svd-mv",
            elevations_deg=cache["elevations"][chosen, None],
            azimuths_deg=torch.zeros(4, 1),
            noise_aug_strength=NOISE_AUG,
        )
        with torch.autocast("cpu", torch.bfloat16):
            output = network(
                torch.cat(
                    [noisy * c_in[:, None, None, None, None], condition * keep[:, None, None, None, None]], 2
                ),
                c_noise,
                encoder_hidden_states=(cache["embeddings"][chosen] * keep[:, None])[:, None],
                added_time_ids=ids,
            ).sample
        loss = edm.loss(edm.denoised(output, noisy, sigma), clean, sigma).mean()
        trainer.update(loss)
        running = 0.98 * running + 0.02 * loss.item() if running else loss.item()
        if (trainer.step % 500 == 0 or trainer.step == steps) and (out / "vae.safetensors").exists():
            scores = gate(
                assemble(out, cache, trainer.average), views[-8:], cache["elevations"][-8:], steps=10
            )
            trainer.save(
                {"loss": running, "sampled": scores["ours"]["psnr"], "copied": scores["copied"]["psnr"]}
            )
        elif trainer.step % 100 == 0:
            trainer.save({"loss": running})


def assemble(out: Path, cache: dict[str, Tensor], unet: nn.Module) -> SVDMVPipeline:
    """The pipeline of the averaged weights."""
    parts = tiny.components()
    parts["vae"].load_state_dict(_average(out / "vae.safetensors"))
    parts["vae"].register_to_config(scaling_factor=float(cache["scale"]), force_upcast=False)
    parts["unet"].load_state_dict(unet.state_dict())
    pipeline = SVDMVPipeline(**parts, max_guidance_scale=1.0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def gate(
    pipeline: SVDMVPipeline, views: np.ndarray, elevations: Tensor, *, steps: int, guidance: float = 1.0
) -> dict[str, dict[str, float]]:
    """PSNR and SSIM over views 1 to 20 of sampled orbits, of the input copied, and of it copied and mirrored.

    Each method has its mean, and its paired advantage of ours over it with standard error over objects.
    """
    target = to_tensor(views)
    generated = []
    for orbit, elevation in zip(views, elevations.tolist(), strict=True):
        result = pipeline(
            Image.fromarray(orbit[0]),
            elevation_deg=elevation,
            num_inference_steps=steps,
            max_guidance_scale=guidance,
            decode_chunk_size=7,
            generator=torch.Generator().manual_seed(0),
        )
        generated.append(torch.from_numpy(result.views[0]).movedim(-1, -3) * 2 - 1)
    copied = target[:, :1].expand_as(target)
    mirrored = copied.clone()
    mirrored[:, 6:16] = copied[:, 6:16].flip(-1)  # azimuths 103 to 257 degrees from the input
    scores: dict[str, dict[str, Tensor]] = {}
    for name, prediction in (("ours", torch.stack(generated)), ("copied", copied), ("mirrored", mirrored)):
        scores[name] = {
            "psnr": psnr(prediction, target)[:, 1:].mean(1),
            "ssim": torch.tensor([_ssim(p[1:], t[1:]) for p, t in zip(prediction, target, strict=True)]),
        }
    table: dict[str, dict[str, float]] = {}
    for name, values in scores.items():
        table[name] = {metric: value.mean().item() for metric, value in values.items()}
        for metric, value in values.items():
            ahead = scores["ours"][metric] - value
            table[name][f"{metric}_ours_ahead"] = ahead.mean().item()
            table[name][f"{metric}_ours_ahead_se"] = (ahead.std() / math.sqrt(len(ahead))).item()
    return table


def export(data: Path, out: Path, *, folder: Path) -> None:
    """Write the pipeline as a diffusers folder of float16 safetensors."""
    with torch.random.fork_rng():
        unet = tiny.unet()
    unet.load_state_dict(_average(out / "unet.safetensors"))
    pipeline = assemble(out, encode_all(data, out), unet)
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    weights = list(folder.rglob("*.safetensors"))
    for file in weights:
        file.chmod(0o644)  # diffusers writes them for the owner only, and a wheel keeps that
    size = sum(file.stat().st_size for file in weights)
    log.info("%s: %.1f MB of safetensors", folder, size / 1e6)


def judge(data: Path, out: Path, *, model: str, samples: Path | None, steps: int) -> None:
    """The gate, on the held-out orbits of the data or on sample folders that `svd3d render` made of them."""
    pipeline = SVDMVPipeline.load(model)
    pipeline.set_progress_bar_config(disable=True)
    if samples is None:
        views, elevations = load_orbits(data)
        views, elevations = views[-HELD_OUT:], elevations[-HELD_OUT:]
    else:
        found = [sample.read(folder).resized(tiny.SIZE) for folder in sample.find(samples)]
        views = np.stack([images.to_uint8(images.composite(each.images)) for each in found])
        elevations = np.array([each.orbit.elevations_deg[0] for each in found if each.orbit], np.float32)
    table = gate(pipeline, views, torch.from_numpy(elevations), steps=steps)
    result = {
        "objects": len(views),
        "steps": steps,
        "source": "ray caster" if samples is None else "Blender",
        **table,
    }
    (out / ("gate.json" if samples is None else "gate_blender.json")).write_text(json.dumps(result, indent=1))
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


def _ssim(prediction: Tensor, target: Tensor) -> float:
    values = (prediction.clamp(-1, 1) / 2 + 0.5, target / 2 + 0.5)
    return structural_similarity_index_measure(*values, data_range=1.0).item()  # type: ignore[union-attr]


def _average(file: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint."""
    return {k.removeprefix("average."): v for k, v in load_file(file).items() if k.startswith("average.")}


def main() -> None:
    """Run one part."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["vae", "unet", "export", "gate"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="training steps, or denoising steps of the gate")
    parser.add_argument("--model", default="tiny", help="what the gate scores")
    parser.add_argument("--samples", type=Path, help="rendered held-out objects for the gate")
    parser.add_argument("--folder", type=Path, default=tiny.FOLDER, help="where export writes")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.part == "vae":
        train_vae(arguments.data, arguments.out, steps=arguments.steps or 2200)
    elif arguments.part == "unet":
        train_unet(arguments.data, arguments.out, steps=arguments.steps or 4500)
    elif arguments.part == "export":
        export(arguments.data, arguments.out, folder=arguments.folder)
    else:
        judge(
            arguments.data,
            arguments.out,
            model=arguments.model,
            samples=arguments.samples,
            steps=arguments.steps or 25,
        )


if __name__ == "__main__":
    main()
