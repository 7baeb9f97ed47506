"""Settings of the stages in `svd3d`: frozen dataclasses that are recipe, command line and help at once.

`render` and `recon` keep theirs in `render/config.py` and `recon/config.py`. No torch here: `--help` must
answer at once.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from svd3d.cameras import DEFAULT_VIEWS
from svd3d.config import check

Metric = Literal[
    "psnr", "foreground-psnr", "ssim", "ssim-with-border", "mse", "mask-iou", "lpips", "lpips-alex",
    "lpips-vgg", "clip-s", "clip-s-b32", "clip-s-l14", "reprojection-psnr", "chamfer", "chamfer-squared",
    "fscore", "fscore-0.01", "fscore-0.02", "iou", "normal-consistency",
]  # fmt: skip
Background = Literal["keep", "plain", "rembg"]
MAX_VIEWS = 1000
"""Of one orbit: the views are denoised jointly, and published models were trained on 14 to 25."""
DECODE_CHUNK = 7
"""Views decoded at once unless somebody says otherwise."""


@dataclass(frozen=True)
class GenerateConfig:
    """Views around an object from one picture of it, by a Stable-Video-Diffusion multi-view model."""

    image: Positional[Path]
    """A picture, a folder of pictures, a sample folder (condition view and orbit), or a folder of them."""
    out: Path
    """Folder for the results: OUT/<name>/ is a sample, with contact_sheet.png and orbit.mp4 inside."""
    model: str = "tiny"
    """Hub id or folder of a diffusers pipeline, or `tiny`, the small model that ships with svd3d."""
    background: Background = "plain"
    """`plain` removes one of one colour, `rembg` any (extra `cutout`); transparency that is there is kept by
    both. `keep` takes the picture as it is, padded to a square."""
    cutout_network: str = "u2net"
    """Network of `rembg`; its weights are taken from the folder $U2NET_HOME, or downloaded."""
    elevation_deg: float | None = None
    """Elevation of the camera that took the picture; default: the sample's, or 10 for a plain picture."""
    estimate_elevation: bool = False
    """Ask the model for the elevation of a plain picture: costs about as much as an orbit of 48 steps without
    guidance; scripts/benchmark_elevation.py tells how far off it is."""
    num_views: int | None = None
    """Views around the object; view 0 is the picture. Default: the sample's, or 21 for a plain picture."""
    size: int | None = None
    """Height and width of the views in pixels; default: the size the model was trained at."""
    steps: int = 25
    """Denoising steps."""
    solver: Literal["euler", "dpm++2m", "dpm++3m"] = "euler"
    """`euler` is what the published checkpoints come with; the others need fewer steps for the same views."""
    fast: bool = False
    """Compute deep features at every second step only; scripts/benchmark_sampling.py measures the cost."""
    guidance: Literal["constant", "linear", "triangular"] = "triangular"
    """How classifier-free guidance changes over the views; all of `constant` have the largest."""
    min_guidance: float = 1.0
    """Classifier-free guidance at the input view; 1 means none."""
    max_guidance: float | None = None
    """Largest classifier-free guidance, at the opposite view; default: what the model's card asks for."""
    samples: int = 1
    """Orbits per picture: OUT/<name>-s0/, -s1/ … with the seeds SEED, SEED + 1 …"""
    batch_size: int = 1
    """Orbits of one picture generated at once; more need more memory."""
    seed: int = 0
    """Seed of the noise; the same seed gives the same bytes on the same machine."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Number format of the networks; default: float32, or what --vram asks for."""
    vram: Literal[8, 12, 16, 24, 40, 80] | None = None
    """Fit into a GPU of so many GB: number format, parts in main memory, views decoded at once."""
    decode_chunk_size: int | None = None
    """Views decoded at once; fewer need less memory. Default: 7, or what --vram asks for."""

    def __post_init__(self) -> None:
        views, size, elevation, chunk = self.num_views, self.size, self.elevation_deg, self.decode_chunk_size
        check(
            views is None or 2 <= views <= MAX_VIEWS,
            f"num_views must lie between 2 and {MAX_VIEWS}; got {views}",
        )
        check(size is None or size >= 16, f"size must be at least 16 pixels; got {size}")
        for name in ("steps", "samples", "batch_size"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
        check(chunk is None or chunk >= 1, f"decode_chunk_size must be at least 1; got {chunk}")
        last = self.seed + self.samples - 1
        check(
            self.seed >= 0 and last < 2**63, f"seeds must lie between 0 and 2^63; got {self.seed} to {last}"
        )
        check(
            elevation is None or abs(elevation) <= 90,
            f"elevation_deg must lie between -90 and 90; got {elevation}",
        )
        check(
            elevation is None or not self.estimate_elevation,
            f"estimate_elevation: elevation_deg is given as {elevation}; leave out one of them",
        )
        for name in ("min_guidance", "max_guidance"):
            scale = getattr(self, name)
            check(scale is None or math.isfinite(scale), f"{name} must be a finite number; got {scale}")


def lora_and_weight(given: str) -> tuple[str, float]:
    """Where an adapter is, and its weight: 1 unless `SOURCE=WEIGHT` says otherwise."""
    source, _, number = given.rpartition("=")
    if not source:
        return given, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    check(math.isfinite(weight), f"lora {given}: {number!r} is not a weight; write SOURCE or SOURCE=0.7")
    return source, weight


@dataclass(frozen=True)
class VideoConfig:
    """Videos from texts, from pictures as first frames, or between two, by a Stable Video Diffusion."""

    prompt: Positional[str]
    """A text, or a .txt file with one a line; a picture, or a folder of pictures."""
    model: str
    """Hub id or folder of a diffusers pipeline: one with a text encoder for texts, one with an image encoder
    for pictures, such as stabilityai/stable-video-diffusion-img2vid-xt."""
    out: Path
    """Folder for the results: OUT/<name>/ holds video.mp4, frames/000.png … and video.json."""
    last: Path | None = None
    """Picture that the video ends with, for a model that fills in the frames between it and a first one."""
    lora: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Low-rank adapters of this model, such as camera motions: a file, a folder with one, or a hub id;
    SOURCE=0.7 gives it a weight. May be given more than once."""
    num_frames: int | None = None
    """Frames of each video; default: as many as the model was trained on."""
    size: tuple[int, int] | None = None
    """Height and width of the frames in pixels; pictures are scaled until they just cover it, and cropped.
    Default: 576 1024 for models as large as the published ones, else a square as high as what they learnt."""
    fps: int = 7
    """Frames per second: the model is told, and the file plays at this rate."""
    motion: float | Literal["unknown"] | None = None
    """How much shall move: the motion bucket of published models, 1 to 255, or the motion score of the clips
    that a model learnt from. Default: 127 for pictures, `unknown` for texts and pairs of pictures."""
    noise_aug: float = 0.02
    """Standard deviation of the noise on a picture; more of it frees the video from the picture."""
    steps: int = 25
    """Denoising steps."""
    min_guidance: float | None = None
    """Classifier-free guidance of the first frame; default: 1 for pictures, for texts the largest."""
    max_guidance: float | None = None
    """That of the last frame, with a straight line between; default: 3 for pictures, 7 for texts, 1 (none)
    for a pair of pictures."""
    samples: int = 1
    """Videos of each text or picture: OUT/<name>-s0/, -s1/ … with the seeds SEED, SEED + 1 …"""
    seed: int = 0
    """Seed of the noise; the same seed gives the same frames on the same machine."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Number format of the networks; default: float32, or what --vram asks for."""
    vram: Literal[8, 12, 16, 24, 40, 80] | None = None
    """Fit into a GPU of so many GB: number format, parts in main memory, frames decoded at once."""
    decode_chunk_size: int | None = None
    """Frames decoded at once; fewer need less memory. Default: 7, or what --vram asks for."""

    def __post_init__(self) -> None:
        frames, chunk = self.num_frames, self.decode_chunk_size
        check(
            frames is None or 2 <= frames <= MAX_VIEWS,
            f"num_frames must lie between 2 and {MAX_VIEWS}; got {frames}",
        )
        check(self.size is None or min(self.size) >= 16, f"size must be at least 16 pixels; got {self.size}")
        for name in ("fps", "steps", "samples"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
        check(chunk is None or chunk >= 1, f"decode_chunk_size must be at least 1; got {chunk}")
        for each in self.lora:
            lora_and_weight(each)
        for name in ("motion", "noise_aug", "min_guidance", "max_guidance"):
            value = getattr(self, name)
            told = isinstance(value, int | float)
            check(not told or 0 <= value < math.inf, f"{name} must be a number, at least 0; got {value}")
        last = self.seed + self.samples - 1
        check(
            self.seed >= 0 and last < 2**63, f"seeds must lie between 0 and 2^63; got {self.seed} to {last}"
        )


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores of predictions against references: sample folders, plain folders of images, or GLB files."""

    pred: tyro.conf.UseAppendAction[tuple[str, ...]]
    """Prediction: a sample folder, a folder of them, a folder of images, or a mesh file. NAME=PATH names its
    row; may be given more than once."""
    ref: Path
    """Reference, of the same kind."""
    out: Path
    """Folder for report.json, report.md, report.tex and report.html."""
    protocol: str = "svd-mv"
    """How views are compared (background, size, which views): a name from svd3d/assets/protocols, or a YAML
    file of one's own."""
    metrics: tuple[Metric, ...] = ()
    """Which metrics; default: all of the protocol that can be computed here."""
    method: str = "prediction"
    """Name of a prediction that is given without one."""
    training_views: Path | None = None
    """Orbits that the model was trained on, for nearest-training-view and mean-training-view."""
    lpips_weights: Path | None = None
    """Folder with AlexNet and VGG-16 as torchvision publishes them; default: where torchvision keeps them."""
    clip_b32: str = "openai/clip-vit-base-patch32"
    """CLIP ViT-B/32 for clip-s-b32: a folder, or a hub id that was downloaded before."""
    clip_l14: str = "openai/clip-vit-large-patch14"
    """CLIP ViT-L/14 for clip-s-l14: a folder, or a hub id that was downloaded before."""
    device: str = "auto"
    """Where networks compute: cpu, cuda, cuda:N, or auto: a GPU if there is one."""

    def __post_init__(self) -> None:
        check(len(self.pred) > 0, "pred is empty; name at least one prediction")


@dataclass(frozen=True)
class EvaluateVerifyConfig:
    """Whether a report still fits its inputs, its protocol and its own rows."""

    report: Positional[Path]
    """report.json, or the folder that holds it."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Models and peers over the same objects: reference orbits, views, meshes, scores and one page."""

    objects: Path
    """Folder that svd3d download gso made, or any folder of 3-D files."""
    out: Path
    """Folder for everything; running again resumes. OUT/reference/ is what a peer needs to take part."""
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Hub id or folder of a pipeline, or `tiny`; NAME=MODEL names its row. May be given more than once."""
    pred: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=DIR: views of all objects by another method, DIR/<uid>/ sample folders or plain pictures. May be
    given more than once."""
    split: str = "disk"
    """`disk`: all objects of the folder; the name of a list in svd3d/assets/splits/, such as seeded-50; or a
    text file with one name a line."""
    protocol: str = "svd-mv"
    """How views are compared, and which orbits the references have: a name from svd3d evaluate."""
    mesh_protocol: str = "mesh-world"
    """How meshes are compared."""
    metrics: tuple[Metric, ...] = ()
    """Which metrics of views; default: all of the protocol that can be computed here."""
    views_only: bool = False
    """Make and compare no meshes."""
    orbit: Literal["static", "dynamic", "random"] | None = None
    """Of the reference views; default: what the protocol asks for, or static."""
    size: int | None = None
    """Height and width of the reference views in pixels; default: the protocol's, or 576."""
    samples: int = 8
    """Light paths per pixel in Blender, as for svd3d render."""
    steps: int = 25
    """Denoising steps of the models."""
    method: Literal["fast", "nerf", "sdf", "nerfstudio"] = "fast"
    """How surfaces are found, see svd3d reconstruct; those with a field also tell how well the views fit."""
    seed: int = 0
    """Seed of light, noise and fields."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    workers: int = 1
    """Blender processes at once."""
    blender: str | None = None
    """Blender's executable; default: the package bpy."""
    training_views: Path | None = None
    """Orbits that the model was trained on, for nearest-training-view and mean-training-view."""
    lpips_weights: Path | None = None
    """Folder of the weights of LPIPS, as for svd3d evaluate."""
    clip_b32: str = "openai/clip-vit-base-patch32"
    """CLIP-S: hub id or folder of ViT-B/32."""
    clip_l14: str = "openai/clip-vit-large-patch14"
    """CLIP-S: hub id or folder of ViT-L/14."""


@dataclass(frozen=True)
class DemoConfig:
    """The whole chain on one object, with a page to look at: OUT/index.html."""

    out: Path = Path("demo_out")
    """Folder for everything the demo makes."""
    object: Path | None = None
    """A GLB, OBJ, PLY or FBX file; default: a toy car that the bundled model has never seen."""
    model: str = "tiny"
    """Hub id or folder of a diffusers pipeline, or `tiny`."""
    size: int = 128
    """Height and width of the rendered views in pixels."""
    samples: int = 16
    """Light paths per pixel in Blender."""
    seed: int = 0
    """Seed of light and noise."""


@dataclass(frozen=True)
class MeshConfig:
    """One picture to a textured mesh: generate, then reconstruct."""

    image: Positional[Path]
    """A picture with transparency or a plain background."""
    out: Path
    """Folder for the views and the mesh."""
    model: str = "tiny"
    """Hub id or folder of a diffusers pipeline, or `tiny`."""
    elevation_deg: float | None = None
    """Elevation of the camera that took the picture; default 10."""
    steps: int = 25
    """Denoising steps."""
    seed: int = 0
    """Seed of the noise."""
    method: Literal["fast", "nerf", "sdf", "nerfstudio"] = "fast"
    """How the surface is found, see svd3d reconstruct."""


@dataclass(frozen=True)
class ConvertConfig:
    """Foreign weights to a diffusers folder of our pipelines: a multi-view model, or the start of a model."""

    source: Positional[str]
    """A file in Stability's naming (svd, svd_xt, sv3d_u, sv3d_p.safetensors), a diffusers folder or hub id,
    or `tiny`; with --prior scratch also `svd`: random weights at the real size."""
    out: Path
    """Folder to make: model_index.json and safetensors weights, and the manifest."""
    prior: Annotated[
        Literal["auto", "svd", "sv3d_u", "sv3d_p", "sd21", "scratch"], tyro.conf.arg(aliases=["--from"])
    ] = "auto"
    """What training starts from. `svd`: the video prior, widened for the elevation; `sv3d_u`, `sv3d_p`:
    finished multi-view models; `sd21`: the image prior, Stable Diffusion 2.1 with temporal layers that change
    nothing yet; `scratch`: SOURCE with a UNet of random weights; `auto`: what SOURCE holds."""
    to: Literal["svd3d", "text-to-video", "image-to-video", "interpolation", "original"] = "svd3d"
    """`svd3d`: a multi-view model, or the start of one. `text-to-video`: the start of one that is told texts,
    from Stable Diffusion 2.1, whose text encoder stays as it is. `image-to-video`: Stable Video Diffusion as
    diffusers has it; from text-to-video or Stable Diffusion 2.1, the start of one. `interpolation`: from
    text-to-video, the start of one that fills in the frames between two. `original` goes back:
    OUT/model.safetensors in Stability's naming."""
    dtype: Literal["source", "float32", "float16", "bfloat16"] = "source"
    """Number format of the weights; `source` keeps every bit."""
    size: int | None = None
    """Height and width of the views in pixels; default: 576, or what SOURCE makes views at already."""
    max_guidance_scale: float | None = None
    """Largest guidance that a multi-view model samples with unless it is told, 1 for none; default: that of
    SOURCE, or 2.5."""
    image_encoder: str = "stabilityai/stable-video-diffusion-img2vid-xt"
    """Where SOURCE has none: hub id or folder of a pipeline whose image encoder, CLIP ViT-H/14, is taken."""
    seed: int = 0
    """Seed of all weights that SOURCE does not give."""

    def __post_init__(self) -> None:
        size = self.size
        check(size is None or (size >= 16 and size % 8 == 0), f"size must be a multiple of 8; got {size}")
        check(
            self.to != "text-to-video" or self.prior in ("auto", "sd21", "scratch"),
            f"prior: for text-to-video it is sd21 or scratch; got {self.prior}",
        )
        scale = self.max_guidance_scale
        check(
            scale is None or (self.to == "svd3d" and 0 <= scale < math.inf),
            f"max_guidance_scale must be a number, at least 0, and of --to svd3d; got {scale} of {self.to}",
        )
        check(0 <= self.seed < 2**63, f"seed must lie between 0 and 2^63; got {self.seed}")


@dataclass(frozen=True)
class TrainConfig:
    """Finetune a model on cached latents. Names that users of diffusers know are kept."""

    data: Path
    """Folder of latents of orbits or clips, made by svd3d cache; for an autoencoder, of samples."""
    out: Path
    """Folder of the run: config.yaml, metrics.jsonl and checkpoints/step-N, a model each."""
    model: str = "stabilityai/stable-video-diffusion-img2vid-xt"
    """Hub id or folder of the pipeline to start from, or `tiny`; other starts are made by svd3d convert."""
    trains: Literal["all", "spatial", "temporal", "time-embedding", "lora", "autoencoder", "decoder"] = "all"
    """`all` weights of the UNet; its layers within views (`spatial`) or across them (`temporal`); those that
    embed the noise level (`time-embedding`); low-rank adapters (`lora`), which leave what it knows of the
    elevation as it is, as `temporal` does; or instead the `autoencoder` or its `decoder` alone."""
    max_train_steps: int = 12_000
    """Steps of the optimizer in all, those before a resume included."""
    train_batch_size: int = 1
    """Orbits at once in each process; more need more memory and change nothing else."""
    gradient_accumulation_steps: int | None = None
    """Batches of each process summed to a step; default: what --global-batch-size needs, or 1."""
    global_batch_size: int | None = None
    """Orbits per step over all processes; default: the product of the two above and the processes."""
    auto_batch: bool = False
    """Try train_batch_size before the first step and halve it until it fits, at the same orbits per step."""
    num_views: int | None = None
    """Views to thin out the cached orbits to, evenly, or frames to cut clips to; 1: clips are images. For an
    autoencoder, neighbouring views seen together. Default: all of them, or 7."""
    image_share: float = 0.0
    """Share of the steps that see single frames of clips, as with num_views 1, among steps of videos."""
    tells_motion: bool = True
    """Whether the UNet is told frame rate and motion score of clips; if not, nobody knows them."""
    dataloader_num_workers: int = 0
    """Processes that read ahead, for each process that trains; they change nothing else."""
    learning_rate: float = 1e-5
    """Of AdamW, after the warm-up."""
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    """After the warm-up: as it is, or down to zero at the last step."""
    lr_warmup_steps: int = 0
    """Steps over which the learning rate rises to its full size."""
    adam_beta1: float = 0.9
    """Decay of the mean of gradients."""
    adam_beta2: float = 0.999
    """Decay of the mean of squared gradients."""
    adam_weight_decay: float = 0.01
    """Decay of weights, in units of the learning rate."""
    adam_epsilon: float = 1e-8
    """Keeps AdamW from dividing by zero."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    use_8bit_adam: bool = False
    """AdamW whose moments take 8 bits each (package bitsandbytes)."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """`bf16`: the UNet computes in bfloat16; weights, noise and loss stay float32."""
    gradient_checkpointing: bool = False
    """Compute activations twice to keep fewer: less memory, about a third more time."""
    p_mean: float = 1.0
    """Mean of log sigma, the noise level."""
    p_std: float = 1.6
    """Standard deviation of log sigma."""
    drop_image: float = 0.1
    """How often an orbit is trained without the latents of its input, for classifier-free guidance."""
    drop_clip: float = 0.1
    """The same for the CLIP embedding, independently."""
    drop_text: float = 0.15
    """The same for the caption, of models that are told texts."""
    ema_decay: float = 0.9999
    """Largest decay of the average of the weights, which is the model; after t steps it is (1 + t) / (10 + t)
    at most, so that short runs are averaged too."""
    latents: Literal["learned", "linear"] = "learned"
    """Of the autoencoder: found in training, or told to be the principal directions of patches of pixels, for
    small ones that learn in minutes."""
    latent_noise: float = 0.0
    """Of the autoencoder and its decoder: largest standard deviation of noise on latents to decode, in their
    own units, because generated ones are not exact."""
    kl_weight: float = 1e-6
    """Weight of the divergence of learned latents from a normal distribution."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: int | None = None
    """Scale of the adapters times their rank; default: the rank."""
    lora_where: Literal["all", "spatial", "temporal"] = "all"
    """Which attention gets adapters."""
    checkpointing_steps: int = 500
    """Steps between checkpoints; the last step always has one."""
    checkpoints_total_limit: int = 3
    """Newest checkpoints to keep; the one of the lowest validation loss is kept besides."""
    resume_from_checkpoint: str = "latest"
    """`latest`: continue, or begin if there is no checkpoint yet. `step-N`: continue from that one."""
    validation_steps: int | None = None
    """Steps between looks at held-out objects, with the averaged weights: their loss, and views painted of
    them; default: never."""
    validation_batches: int = 4
    """Batches of each process for the loss, always the same."""
    validation_objects: int = 4
    """Held-out objects whose views are painted and compared with the true ones; 0: none."""
    validation_sampling_steps: int = 10
    """Denoising steps of these views."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Who else is told the numbers of metrics.jsonl, if installed."""
    held_out: float = 0.02
    """Share of the objects that are never trained on."""
    damaged: Literal["error", "skip"] = "error"
    """What an object whose latents changed on disk does: end the training, or count for nothing, by name."""
    max_bad_steps: int = 10
    """Stop after so many steps in a row whose loss or gradient is not finite; each is skipped."""
    seed: int = 0
    """Of the order of the orbits, of all noise, and of new adapters."""
    device: Literal["auto", "cpu"] = "auto"
    """A GPU for each process if there is one, or the CPU."""
    gpus: int | None = None
    """GPUs of this machine to train on, a process each (with --device cpu, processes); default: one."""
    nodes: int = 1
    """Machines with so many GPUs each; for more than one, the line to run on each is printed."""
    fsdp: bool = False
    """Spread weights, gradients and moments over the GPUs (FSDP2) instead of a whole copy on each."""
    prove_resume: int | None = None
    """Train so many steps straight, and again with a kill in the middle, compare bit by bit, and stop."""

    def __post_init__(self) -> None:
        at_least_one = ("max_train_steps", "train_batch_size", "checkpointing_steps", "max_bad_steps")
        at_least_one += ("checkpoints_total_limit", "validation_batches", "validation_sampling_steps")
        at_least_one += ("lora_rank", "nodes")
        optional = ("gradient_accumulation_steps", "global_batch_size", "validation_steps", "lora_alpha")
        optional += ("gpus",)
        check(
            self.num_views is None or self.num_views >= 1,
            f"num_views must be at least 1; got {self.num_views}",
        )
        for name in (*at_least_one, *optional):
            value = getattr(self, name)
            check(value is None or value >= 1, f"{name} must be at least 1; got {value}")
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm", "p_std"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, f"{name} must be a number above 0; got {value}")
        from_zero = ("adam_weight_decay", "lr_warmup_steps", "seed", "dataloader_num_workers")
        from_zero += ("latent_noise", "kl_weight")
        for name in (*from_zero, "validation_objects"):
            value = getattr(self, name)
            check(0 <= value < 2**63, f"{name} must be at least 0 and below 2^63; got {value}")
        rates = ("drop_image", "drop_clip", "drop_text", "image_share")
        for name in (*rates, "held_out", "ema_decay", "adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            check(0 <= value < 1, f"{name} must be at least 0 and below 1; got {value}")
        check(math.isfinite(self.p_mean), f"p_mean must be a finite number; got {self.p_mean}")
        steps = self.prove_resume
        check(steps is None or steps >= 4, f"prove_resume must be at least 4 steps; got {steps}")
        check(
            not (self.image_share and self.trains in ("autoencoder", "decoder")),
            f"image_share: the {self.trains} sees pictures as they are; leave it out",
        )
        check(not (self.fsdp and self.trains == "lora"), "fsdp: adapters are small; train them without it")
        check(not (self.fsdp and self.use_8bit_adam), "fsdp: needs AdamW in 32 bits; drop use_8bit_adam")


@dataclass(frozen=True)
class CurateConfig:
    """Raw videos to a table of clips with all their scores; every video is decoded once."""

    videos: Positional[Path]
    """A video file, a folder of them (also nested), or a videos.jsonl with one {"path": …} a line."""
    out: Path
    """Folder for clips.parquet, report.html, parts/, thumbnails/ and ledger.jsonl. Running again resumes."""
    limit_s: float = 3600.0
    """Seconds of a video that are read; longer ones are cut there, and their ledger row says so."""
    min_clip_s: float = 1.0
    """Shorter shots make no clip."""
    max_clip_s: float = 60.0
    """Longer shots make several clips."""
    write_clips: bool = False
    """Whether to copy each clip to OUT/clips, without re-encoding, from keyframe to keyframe."""
    flow: Literal["farneback", "dis", "raft"] = "farneback"
    """Optical flow of the motion score: the paper's, a faster one, or RAFT at full size (torchvision)."""
    raft_weights: Path | None = None
    """File of RAFT's weights as torchvision publishes them; default: where torchvision keeps them."""
    text: bool = True
    """Whether to look for text."""
    clip: str = "openai/clip-vit-large-patch14"
    """CLIP for clip_score, aesthetic and near-duplicates: a folder, or a hub id downloaded before."""
    aesthetic: Path | None = None
    """Aesthetic predictor on that CLIP's embeddings (safetensors); default: none, and no aesthetic score."""
    image_captioner: str | None = None
    """Captions middle frames: a folder or a hub id that was downloaded before, such as a BLIP or CoCa."""
    video_captioner: str | None = None
    """Captions clips: a folder or a hub id that was downloaded before."""
    language_model: str | None = None
    """Merges both captions: a folder or a hub id that was downloaded before."""
    device: str = "auto"
    """Where networks compute: cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    engine: Literal["local", "ray"] = "local"
    """Where the work runs: child processes on this machine, or a Ray cluster that shares the folder OUT."""
    ray_address: str | None = None
    """Ray cluster to join, such as auto or HOST:6379; default: one of its own on this machine."""
    chunk: int = 16
    """Videos per Ray task; one process serves them all and loads its networks once."""
    workers: int = 1
    """Processes at once; each holds its own networks."""
    threads: int = 1
    """Threads of each process."""
    timeout_s: float = 7200.0
    """Wall-clock limit per video; a process that takes longer is stopped."""
    silence_s: float = 300.0
    """A process that makes no progress for so long is stopped."""
    attempts: int = 3
    """How often a video may crash or hang its process before it is quarantined."""
    memory_mb: float = 8000.0
    """Resident memory of one process above which it is stopped."""

    def __post_init__(self) -> None:
        for name in ("limit_s", "min_clip_s", "timeout_s", "silence_s", "memory_mb"):
            value = getattr(self, name)
            check(0 < value < math.inf, f"{name} must be above 0; got {value}")
        check(
            self.min_clip_s <= self.max_clip_s < math.inf,
            f"max_clip_s must be at least min_clip_s = {self.min_clip_s:g}; got {self.max_clip_s}",
        )
        for name in ("workers", "threads", "attempts", "chunk"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")


@dataclass(frozen=True)
class CurateSelectConfig:
    """Clips for training by their stored scores; no video is opened.

    A rule on a score leaves out clips without it. A flag overrides the preset's rule, and a share of 0 takes
    it back.
    """

    folder: Positional[Path]
    """Folder that `svd3d curate` has written."""
    out: Path
    """File for the chosen clips: Parquet with the columns of clips.parquet."""
    preset: Literal["lvd-f", "high-quality", "camera-pan", "camera-zoom", "camera-static"] | None = None
    """Rules to start from; lvd-f are the paper's: 0.25 by motion, aesthetic and text, 0.5 by CLIP score."""
    drop_motion: float | None = None
    """Share of the clips with the least motion that is dropped."""
    drop_aesthetic: float | None = None
    """Share of the clips with the lowest aesthetic score that is dropped."""
    drop_clip: float | None = None
    """Share of the clips with the lowest CLIP score that is dropped."""
    drop_text: float | None = None
    """Share of the clips with the largest text area that is dropped."""
    min_motion: float | None = None
    """Lowest motion score, in pixels of a short side of 16 per half second."""
    min_aesthetic: float | None = None
    """Lowest aesthetic score, 1 to 10."""
    min_clip: float | None = None
    """Lowest CLIP score, a cosine."""
    max_text: float | None = None
    """Largest part of the picture in boxes around text; the paper speaks of 0.07."""
    camera: tuple[Literal["static", "pan", "tilt", "zoom", "roll", "mixed", "unknown"], ...] | None = None
    """Kinds of camera motion."""
    min_camera_confidence: float | None = None
    """Lowest confidence in the kind of camera motion, 0 to 1."""
    min_seconds: float | None = None
    """Shortest clip."""
    min_short_side: int | None = None
    """Least pixels of the shorter side."""
    drop_duplicates: bool | None = None
    """Whether clips that show the same as an earlier one are dropped."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.startswith(("drop_", "max_text")) and not (value is None or isinstance(value, bool)):
                check(0 <= value < 1, f"{name} must be 0 or more and below 1; got {value}")


@dataclass(frozen=True)
class CurateStatusConfig:
    """How many videos of a folder are done, failed or open."""

    out: Positional[Path]
    """Folder that `svd3d curate` writes or has written; also while it is running."""


@dataclass(frozen=True)
class CurateFailuresConfig(CurateStatusConfig):
    """Failed videos by class, each with an example."""

    markdown: bool = False
    """Print the table as Markdown."""


@dataclass(frozen=True)
class CurateWhyConfig:
    """The whole story of one video: every attempt, with the last words of its process."""

    out: Positional[Path]
    """Folder that `svd3d curate` has written."""
    uid: Positional[str]
    """The video, by the column video_id."""


@dataclass(frozen=True)
class CurateRetryConfig:
    """Let failed videos be tried again by the next `svd3d curate`."""

    out: Positional[Path]
    """Folder that `svd3d curate` has written."""
    uids: tuple[str, ...] = ()
    """Only these videos; default: all that failed."""
    kinds: tuple[str, ...] = ()
    """Only failures of these classes, such as crash or damaged (see: svd3d curate failures)."""


@dataclass(frozen=True)
class CurateVoteConfig:
    """People choose between clips of two thresholds; Elo ratings with intervals tell which they prefer."""

    folder: Positional[Path]
    """Folder that `svd3d curate` has written."""
    by: Literal["motion", "aesthetic", "clip_score", "text_area"] = "motion"
    """The score whose threshold is voted on."""
    thresholds: tuple[float, ...] = (0.0, 0.125, 0.25, 0.5)
    """Shares dropped; each makes a group of clips, and groups play against each other."""
    tasks: int = 64
    """Pairs of clips for each two groups."""
    votes_per_task: int = 3
    """People who are asked about one pair."""
    voter: str = ""
    """Name under which votes are kept; default: the login name."""
    port: int = 0
    """Port on 127.0.0.1; 0 takes a free one."""
    seed: int = 0
    """Seed of pairs and bootstraps."""
    report: bool = False
    """Do not vote, report the ratings of the votes that are there."""
    votes: Path | None = None
    """Report on this file of votes (CSV or JSON lines) instead of FOLDER/votes-BY.jsonl."""

    def __post_init__(self) -> None:
        check(len(set(self.thresholds)) >= 2, f"thresholds must name at least two; got {self.thresholds}")
        for share in self.thresholds:
            check(0 <= share < 1, f"thresholds are shares, 0 or more and below 1; got {share}")
        for name in ("tasks", "votes_per_task"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
        check(0 <= self.port < 65536, f"port must lie between 0 and 65535; got {self.port}")
        check(0 <= self.seed < 2**63, f"seed must lie between 0 and 2^63; got {self.seed}")


@dataclass(frozen=True)
class CacheConfig:
    """Sample folders or clips to latent shards: what the encoders make of them, once, for training.

    Of captures the largest square in the middle is taken, of clips frames around the middle one, scaled until
    they just cover the size and cropped.
    """

    views: Positional[Path]
    """A sample folder or a folder of them, also of captures; or clips: a folder of svd3d curate, or a Parquet
    file of svd3d curate select."""
    out: Path
    """Folder for the shards."""
    model: str = "tiny"
    """Hub id or folder of a diffusers pipeline, or `tiny`, whose autoencoder and CLIP are used; captions of
    clips need a text encoder."""
    size: int | None = None
    """Height and width of the views in pixels; default: the size the model was trained at."""
    num_views: int = DEFAULT_VIEWS
    """Views that each sample must hold; `svd3d train` can thin them out."""
    clip_size: tuple[int, int] = (320, 576)
    """Height and width of the frames of clips in pixels; those of the base model of the SVD paper."""
    clip_frames: int = 14
    """Frames of each clip; shorter ones are left out."""
    clip_fps: float = 7.0
    """Frames per second of clips; slower videos are left out."""
    clip_stride: int | None = None
    """Instead: every so many-th frame of clips, at the rate that this gives."""
    all_condition_views: bool = False
    """Let training begin orbits at any view, not at view 0 alone; shards grow by about 1 + K times."""
    noise_variants: int = 2
    """K: noisy encodings of each condition view, beside the clean one; training picks one of them."""
    backgrounds: tuple[Literal["white", "random"], ...] = ("white", "random")
    """One row for each; `random` is one colour an object, and may be given more than once."""
    objects_per_shard: int = 128
    """Objects or clips that are lost at most when a run is killed; orbits of 576 pixels take 256 MB for two
    backgrounds."""
    part: int = 0
    """Which of PARTS this process does; several may share --out at a time, one a GPU, say."""
    parts: int = 1
    """How many processes share the work; the last to end finishes the cache."""
    encode_chunk: int = 7
    """Views encoded at once; fewer need less memory."""
    workers: int = 2
    """Threads that read pictures ahead, or that decode a video."""
    seed: int = 0
    """Seed of noise and colours."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the encoders."""

    def __post_init__(self) -> None:
        check(self.size is None or self.size >= 16, f"size must be at least 16 pixels; got {self.size}")
        check(
            2 <= self.num_views <= MAX_VIEWS,
            f"num_views must lie between 2 and {MAX_VIEWS}; got {self.num_views}",
        )
        for name in ("objects_per_shard", "parts", "encode_chunk", "workers"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
        check(
            1 <= self.clip_frames <= MAX_VIEWS,
            f"clip_frames must lie between 1 and {MAX_VIEWS}; got {self.clip_frames}",
        )
        check(0 < self.clip_fps < math.inf, f"clip_fps must be above 0; got {self.clip_fps}")
        stride, clip_size = self.clip_stride, self.clip_size
        check(stride is None or stride >= 1, f"clip_stride must be at least 1; got {stride}")
        check(min(clip_size) >= 16, f"clip_size must be at least 16 pixels; got {clip_size}")
        check(self.noise_variants >= 0, f"noise_variants must not be below 0; got {self.noise_variants}")
        check(len(self.backgrounds) > 0, "backgrounds must name at least one of white, random")
        last = self.parts - 1
        check(0 <= self.part <= last, f"part must lie between 0 and parts - 1 = {last}; got {self.part}")
        check(0 <= self.seed < 2**63, f"seed must lie between 0 and 2^63; got {self.seed}")


@dataclass(frozen=True)
class CacheVerifyConfig:
    """Read every byte of a latent cache and name what changed or is missing."""

    out: Positional[Path]
    """The folder that `svd3d cache` made."""
    repair: bool = False
    """Encode damaged shards again, from the views and the model that made them."""


@dataclass(frozen=True)
class CurateCapturesConfig:
    """Walks around real objects, as in MVImgNet, to training samples without cameras."""

    source: Positional[Path]
    """A folder with CLASS/ID/images/000.jpg …, folders of frames or films below it, or one of these."""
    out: Path
    """Folder for the samples: OUT/CLASS-ID/."""
    num_views: int = DEFAULT_VIEWS
    """Views to thin each capture out to, evenly from its first to its last frame."""
    size: int = 576
    """Shorter side of the views in pixels; smaller frames stay as they are."""
    portrait: Literal["rotate", "keep"] = "rotate"
    """`rotate` turns frames in portrait by 90 degrees counter-clockwise, as in the SVD paper; `keep` leaves
    their objects upright, which suits training at square sizes."""
    reverse: bool = True
    """Play captures backwards: their last frame becomes view 0, the condition."""
    licence: str = ""
    """Of the pictures; kept with the samples and with whatever learns from them."""
    part: int = 0
    """Which of PARTS this process does; several may share --out at a time."""
    parts: int = 1
    """How many processes share the work."""

    def __post_init__(self) -> None:
        check(
            2 <= self.num_views <= MAX_VIEWS,
            f"num_views must lie between 2 and {MAX_VIEWS}; got {self.num_views}",
        )
        check(self.size >= 16, f"size must be at least 16 pixels; got {self.size}")
        check(self.parts >= 1, f"parts must be at least 1; got {self.parts}")
        last = self.parts - 1
        check(0 <= self.part <= last, f"part must lie between 0 and parts - 1 = {last}; got {self.part}")


@dataclass(frozen=True)
class DoctorConfig:
    """What is installed, what each stage lacks, which device, how much disk."""

    out: Path = Path(".")
    """Folder whose free disk space is reported."""
