"""`svd3d train`: cached latents and a model in, a finetuned model out, by the recipes of the SVD paper.

Top to bottom: `run` is the whole training, of a UNet on latents of orbits or clips or of an autoencoder on
pictures; `objective_of` says what it learns; then how held-out objects are judged, and checkpoints. All that
is random about a sample comes from its `draw_seed`, so the order of samples, their number at once and the
number of processes change nothing but the rounding of sums.

A run is stopped at any moment and continued by the same command; it then ends bit for bit where it would have
without the stop (on one kind of device, and on GPUs where their kernels are deterministic).
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from svd3d import config as configs
from svd3d import runs
from svd3d.data import latents as shards
from svd3d.data.dataset import Batch, Batches, Draws, Part, collate
from svd3d.data.latents import ClipLatents, Latents
from svd3d.data.pictures import Pictures
from svd3d.errors import CheckpointError, ConfigError, DependencyError, Svd3dError, TrainingError
from svd3d.images import to_uint8
from svd3d.metrics import images as metrics
from svd3d.metrics import page as strips
from svd3d.metrics import semantic
from svd3d.model import checkpoints, conditioning, fast, lora, memory, saving
from svd3d.model import learner as learning
from svd3d.model.autoencoding import Autoencoding
from svd3d.model.checkpoints import Checkpoint
from svd3d.model.conditioning import Kind
from svd3d.model.denoising import Denoising
from svd3d.model.learner import AUTOENCODERS, Learner
from svd3d.settings import TrainConfig
from svd3d.tracking import page
from svd3d.tracking.trackers import Trackers

BUCKETS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Noise levels between which losses are averaged: a healthy finetune gains in all of them."""
MAY_CHANGE = (
    *("out", "data", "device", "gpus", "nodes", "fsdp", "dataloader_num_workers"),
    *(
        "max_train_steps",
        "train_batch_size",
        "gradient_accumulation_steps",
        "global_batch_size",
        "auto_batch",
    ),
    *("gradient_checkpointing", "checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint"),
    *("validation_steps", "validation_batches", "validation_objects", "validation_sampling_steps"),
    *("report_to", "damaged", "max_bad_steps", "prove_resume"),
)
"""Settings that another start of the same run may have; the batch per step is compared by itself."""
EXAMPLES = 32
"""Samples by which the latents of an autoencoder are scaled."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One step of the optimizer, as metrics.jsonl has it."""

    step: int
    """How many there were, this one included."""
    loss: float | None
    """Mean over the samples of all processes; None when it is not finite, and then the step was skipped."""
    loss_by_sigma: dict[str, float]
    """Mean by noise level, of levels that occurred."""
    learning_rate: float
    grad_norm: float | None
    """Before it is limited."""
    skipped: int
    """Steps skipped so far."""
    damaged: int
    """Samples left out so far, because their latents changed on disk."""
    seconds: float
    """Without looks at held-out objects and checkpoints."""
    samples_per_second: float
    validation_loss: float | None = None
    """Of the averaged weights, on objects that are held out."""
    validation: dict[str, float] | None = None
    """Mean PSNR (dB), SSIM and, where it can be computed, LPIPS (AlexNet) of their views but the first,
    sampled with the averaged weights, against what the autoencoder makes of the true ones; `baseline-psnr` is
    that of the first view in place of all."""
    checkpoint: Path | None = None
    """The checkpoint made after this step."""


def run(config: TrainConfig) -> Iterator[Step]:
    """Train, or continue to; yields every step. In all processes of `torchrun` alike.

    Raises `KeyboardInterrupt` when interrupted or terminated, after a checkpoint; `TrainingError` when losses
    stay not finite, memory does not suffice or adapters learnt nothing; `CheckpointError` for a checkpoint
    that is not of this run.
    """
    # 1. Devices, data, model
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision="no",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    device, main, processes = accelerator.device, accelerator.is_main_process, accelerator.num_processes
    if config.fsdp and processes == 1:
        raise ConfigError("fsdp: one process has nobody to share the weights with; add --gpus 2 or more")
    global_batch = accumulation_steps(config, processes=processes) * config.train_batch_size * processes
    base = checkpoints.fetch(config.model)
    start = checkpoints.from_folder(base)
    data, start = open_data(config, start)

    def batches_of(part: Part, *, start: int = 0, workers: int = 0, alone: bool = False) -> Batches:
        return Batches(
            data,
            seed=config.seed,
            global_batch=config.train_batch_size if alone else global_batch,
            micro_batch=config.train_batch_size,
            held_out=config.held_out,
            start=start,
            rank=0 if alone else accelerator.process_index,
            world=1 if alone else processes,
            part=part,
            num_views=config.num_views,
            image_share=config.image_share,
            tells_motion=config.tells_motion,
            workers=workers,
            damaged=config.damaged,
        )

    objective = objective_of(config, start, batches_of("train").draws)
    learns = objective.network.train().to(device)
    if config.gradient_checkpointing:
        learns.enable_gradient_checkpointing()

    with contextlib.ExitStack() as stack:
        if main:
            stack.enter_context(runs.lock(runs.output_folder(config.out)))
            runs.same_settings(config.out, config, ignore=MAY_CHANGE)
            runs.sweep(runs.output_folder(config.out / saving.FOLDER))
            saving.check_space(config, learns)
        accelerator.wait_for_everyone()
        if config.validation_steps:
            batches_of("held-out")  # refused now if there are none
        if config.auto_batch:
            at_once = fitting_batch(accelerator, objective, batches_of("train").draws, config)
            sizes = {"train_batch_size": at_once, "global_batch_size": global_batch}
            config = dataclasses.replace(config, **sizes, gradient_accumulation_steps=None)
        accumulation = accumulation_steps(config, processes=processes)

        # 2. What learns, in float32; optimizer and average
        if config.fsdp:
            learning.shard(learns, device=device.type, processes=processes)
        network = objective.module() if config.fsdp else accelerator.prepare(objective.module())
        learner = Learner.of(learns, config)

        # 3. Continue where the run stopped
        fixed = {"global_batch": global_batch, "data": data.fingerprint}
        done, position, skipped, damaged, bad = 0, 0, 0, 0, 0
        if saved := saving.find(config.out, config.resume_from_checkpoint):
            _check_same(saved, fixed)
            learner.restore(saved)
            done, position = saved.step, saved.facts["position"]
            skipped, damaged = saved.facts["skipped"], saved.facts["damaged"]
        accelerator.wait_for_everyone()
        watch = None
        if main:
            _forget_after(config.out / saving.METRICS, done)
            runs.write_manifest(
                config.out,
                stage="train",
                config=config,
                inputs={"data": config.data},
                digest=lambda _: data.fingerprint,
                licences=_licences(config.data),
                device=f"{processes} x {device.type}",
            )
            watch = stack.enter_context(watching(config, done=done))
        batches = batches_of("train", start=position, workers=config.dataloader_num_workers)
        feed = iter(batches)
        if objective.part == "unet":
            stack.enter_context(fast.single_token_attention(learns))
        if device.type == "cpu":
            stack.enter_context(fast.flat_convolutions(learns))
        asked_to_stop = stack.enter_context(_stop_signals())

        # 4. Steps
        for step in range(done + 1, config.max_train_steps + 1):
            began = time.perf_counter()
            rate = config.learning_rate * learning_rate_factor(config, step)
            parts, uids = [], []
            for each in range(accumulation):
                batch = _next(feed)
                uids += batch["uid"]
                for fault in batch["damaged"]:
                    log.warning("left out: %s", fault)
                weight = batch["weight"].to(device)
                last = each == accumulation - 1
                with (
                    _gradients_meet(accelerator, network, now=last),
                    memory.explained(learns, config, step=step),
                    _attention(device),
                ):
                    loss, sigma = objective.losses(network, batch)
                    ((weight * loss).mean() / accumulation).backward()
                parts.append(torch.stack([loss.detach(), sigma, weight]))
            norm = nn.utils.clip_grad_norm_(learner.trained.values(), config.max_grad_norm)
            norm = learning.whole(norm)
            samples = _everywhere(accelerator, torch.cat(parts, dim=1).T.contiguous())
            counting = samples[samples[:, 2] > 0]
            damaged += len(samples) - len(counting)
            loss, sigma, _ = counting.T.contiguous()
            if len(loss) and loss.isfinite().all() and norm.isfinite():
                with memory.explained(learns, config, step=step):
                    learner.step(learning_rate=rate)
                bad = 0
            else:
                bad, skipped = bad + 1, skipped + 1
            learner.optimizer.zero_grad()
            if bad >= config.max_bad_steps:
                raise TrainingError(_not_finite(step, bad, uids=gather_object(uids), run=config.out))

            seconds = time.perf_counter() - began

            # 5. Watch and save
            asked = torch.tensor([asked_to_stop.is_set()], device=device)
            stopping = bool(_everywhere(accelerator, asked).any())
            is_last = step == config.max_train_steps
            validation_loss = scores = None
            if config.validation_steps and (step % config.validation_steps == 0 or is_last):
                held_out = batches_of("held-out", alone=config.fsdp)
                with learner.averaged():
                    validation_loss = validate(accelerator, objective, network, held_out, config)
                    scores = validate_views(accelerator, objective, held_out, config, step=step)
            saving_now = step % config.checkpointing_steps == 0 or is_last or stopping
            folder = config.out / saving.FOLDER / f"step-{step}" if saving_now else None
            record = Step(
                step=step,
                loss=_finite(loss.double().mean()),
                loss_by_sigma=by_sigma(loss, sigma),
                learning_rate=rate,
                grad_norm=_finite(norm),
                skipped=skipped,
                damaged=damaged,
                seconds=seconds,
                samples_per_second=global_batch / seconds,
                validation_loss=validation_loss,
                validation=scores,
                checkpoint=folder,
            )
            if main:
                runs.append_line(config.out / saving.METRICS, configs.plain(record))
            if folder is not None:  # after the record, which a resume forgets if this fails
                facts = {"position": batches.position, "skipped": skipped, "damaged": damaged, **fixed}
                facts |= {"validation_loss": record.validation_loss}
                save(config, step, base, objective, learner, facts=facts, main=main)
                accelerator.wait_for_everyone()
            if watch is not None:
                watch(record)
            yield record
            if stopping and not is_last:
                raise KeyboardInterrupt
        if config.trains == "lora" and lora.changes_nothing(learns):
            raise TrainingError(
                f"{config.out}: the adapters change nothing, all their B are zero after "
                f"{config.max_train_steps} steps, {skipped} of them skipped; raise --learning-rate"
            )


@runtime_checkable
class Objective(Protocol):
    """What is learnt: a network, its loss, and what it paints."""

    part: str
    """Which part of the pipeline."""

    @property
    def kind(self) -> Kind | None:
        """What the UNet will be told; None: as before."""
        ...

    @property
    def network(self) -> Any:
        """The part itself."""
        ...

    def module(self) -> nn.Module:
        """What is called in a step, with the parameters of the network."""
        ...

    def losses(self, module: nn.Module, batch: Batch) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Loss of each sample, and the noise in it."""
        ...

    def painter(self) -> Any | None:
        """Has `views`: of a batch of one sample, views painted and true ones. None: nothing to compare."""
        ...

    def settle(self) -> None:
        """Fit what is not learnt, such as scales, to the weights; called before they are saved."""
        ...


def open_data(config: TrainConfig, start: Checkpoint) -> tuple[Latents | ClipLatents | Pictures, Checkpoint]:
    """What is trained on, and the start fitted to it: the size and number of its views or frames.

    Raises `ConfigError` for data that the model or the settings do not suit.
    """
    if config.trains in AUTOENCODERS:
        size = start.networks["unet"].config["sample_size"] * start.scale
        return Pictures(config.data, size=size), start
    found = shards.open_any(config.data, vae_digest=shards.vae_digest(start.network("vae")))
    unet = start.networks["unet"]
    if isinstance(found, Latents):
        shape = found.info.shape
        if (num_views := config.num_views or shape.num_views) < 2:
            raise ConfigError("num_views 1: an orbit has 2 or more; images are trained on clips")
        if config.image_share:
            raise ConfigError(f"image_share {config.image_share:g}: {config.data} holds orbits; leave it out")
        _check_told(config, unet, picture=shape.clip_dim, text=None)
        return found, checkpoints.multi_view(start, num_views=num_views, size=shape.size)
    if start.kind not in ("svd", "svd-mv"):
        raise ConfigError(f"{config.model}: a model of kind {start.kind} does not learn from clips; take svd")
    clip = found.info.shape
    frames = config.num_views or clip.num_frames
    if frames > clip.num_frames:
        raise ConfigError(f"num_views {frames}: the clips have {clip.num_frames} frames; choose no more")
    ends = conditioning.frames_seen(unet) == 2
    if ends and (config.image_share or frames < clip.num_frames):
        raise ConfigError(
            f"num_views {frames}, image_share {config.image_share:g}: a model that fills in frames sees "
            f"whole clips, here of {clip.num_frames}; leave both out, or cache with another --clip-frames"
        )
    fits = ends == (clip.noise_variants is None)
    _check_told(config, unet, picture=clip.clip_dim if fits else None, text=clip.text and clip.text[1])
    unet.register_to_config(num_frames=frames, sample_size=clip.latent[1])
    return found, start


def _check_told(config: TrainConfig, unet: Any, *, picture: int | None, text: int | None) -> None:
    """Refuse data without what the UNet is told: `picture` and `text` are the widths of embeddings there."""
    what = {0: "texts", 1: "pictures", 2: "both ends"}[conditioning.frames_seen(unet)]
    found = text if what == "texts" else picture
    wanted = unet.config["cross_attention_dim"]
    if found != wanted:
        raise ConfigError(
            f"{config.data}: holds {f'embeddings of width {found}' if found else 'no embeddings'} of {what}, "
            f"and the UNet of {config.model} is told ones of width {wanted}; cache them with its encoder"
        )


def objective_of(config: TrainConfig, start: Checkpoint, draws: Draws) -> Objective:
    """The network that `config.trains` names, ready to learn, and its loss."""
    if config.trains in AUTOENCODERS:
        if config.fsdp:
            raise ConfigError(f"fsdp: the {config.trains} fits each GPU whole; leave it out")
        vae = start.network("vae")
        learning.select(vae, config)
        return Autoencoding.of(start, vae, config, first=map(draws.__getitem__, range(EXAMPLES)))
    unet = conditioning.prepare(start.network("unet"), cast("Kind", start.kind))
    learning.select(unet, config)
    return Denoising(start, unet, config)


def plan(config: TrainConfig) -> str:
    """What a run costs, in a line, from the configuration of the model alone: no weights are fetched."""
    unet, vae, _ = memory.networks(config.model, torch.float32)
    if conditioning.count_time_ids(unet) == conditioning.STOCK_IDS:
        unet = conditioning.widen(unet)
    learns = vae if config.trains in AUTOENCODERS else unet
    learning.select(learns, config)
    trained = sum(each.numel() for each in learning.trainable(learns).values())
    processes = (config.gpus or 1) * config.nodes
    samples = accumulation_steps(config, processes=processes) * config.train_batch_size * processes
    return (
        f"{config.max_train_steps} steps of {samples} samples; {trained / 1e6:.1f} million parameters learn; "
        f"{memory.held_for_training(learns, config) / memory.GB:.2f} GB for weights, gradients, averages and "
        f"moments, activations besides; checkpoints of {saving.size_on_disk(config, learns) / 1e9:.2f} GB"
    )


@torch.no_grad()
def validate(
    accelerator: Accelerator,
    objective: Objective,
    network: nn.Module,
    held_out: Batches,
    config: TrainConfig,
) -> float:
    """Mean loss on the first batches of held-out objects, whose noise is the same at every call."""
    total = torch.zeros(2, device=accelerator.device)
    for batch in itertools.islice(held_out, config.validation_batches):
        loss, _ = objective.losses(network, batch)
        weight = batch["weight"].to(loss.device)
        total += torch.stack([(weight * loss).sum(), weight.sum()])
    summed, count = _everywhere(accelerator, total[None]).sum(dim=0).tolist()
    return summed / count


def validate_views(
    accelerator: Accelerator,
    objective: Objective,
    held_out: Batches,
    config: TrainConfig,
    *,
    step: int,
) -> dict[str, float] | None:
    """Mean scores of painted views of the first held-out objects; their pictures go to validation/step-N.png.

    What paints them is in memory for as long as it is needed. None where the device has no room for it:
    training goes on.
    """
    count = min(config.validation_objects, len(held_out.draws.objects))
    alone = config.fsdp or accelerator.num_processes == 1
    mine = range(count) if alone else range(count)[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[int, Any]] = []
    try:
        painter = objective.painter() if mine else None
        for place in mine:
            if painter is None:
                break
            with learning.number_format(accelerator.device, config):
                found.append((place, painter.views(collate([held_out.draws[place]]))))
    except torch.OutOfMemoryError as error:
        log.warning("step %d: no room to paint held-out objects (%s); training goes on", step, error)
        found = []
    everything = found if alone else gather_object(found)
    pairs = [pair for _, pair in sorted(everything, key=lambda each: each[0])]
    if not pairs:
        return None
    if accelerator.is_main_process:
        opaque = [(0, 0), (0, 0), (0, 0), (0, 1)]
        rows = [
            np.pad(to_uint8(stack), opaque, constant_values=255)
            for painted, true in pairs
            for stack in (true, painted)
        ]
        runs.output_folder(config.out / saving.VALIDATION)
        runs.write_file(config.out / saving.VALIDATION / f"step-{step}.png", strips.strip(rows))
    scores = {
        "psnr": [metrics.psnr(painted[1:], true[1:]) for painted, true in pairs],
        "ssim": [metrics.ssim(painted[1:], true[1:]) for painted, true in pairs],
        "baseline-psnr": [
            metrics.psnr(np.broadcast_to(true[:1], true[1:].shape), true[1:]) for _, true in pairs
        ],
    }
    lpips = _lpips()
    if lpips is not None and min(pairs[0][0].shape[1:3]) >= lpips.smallest:
        scores[lpips.metric] = [lpips(painted[1:], true[1:]) for painted, true in pairs]
    return {name: float(np.mean(each)) for name, each in scores.items()}


@functools.cache
def _lpips() -> semantic.Measure | None:
    """LPIPS, on the CPU to leave the device alone; None, said once, where it cannot be computed."""
    try:
        return semantic.load("lpips-alex", semantic.Networks())
    except DependencyError as error:
        log.warning("held-out views are compared without LPIPS: %s", error)
        return None


@contextlib.contextmanager
def watching(config: TrainConfig, *, done: int) -> Iterator[Callable[[Step], None]]:
    """What tells trackers of every step, and keeps the page of the run at its pictures and checkpoints."""
    with Trackers(config.report_to, run=config.out, config=configs.plain(config), done=done) as trackers:

        def watch(record: Step) -> None:
            plain = configs.plain(record)
            numbers = ("loss", "learning_rate", "grad_norm", "skipped", "samples_per_second")
            values = {f"train/{name}": plain[name] for name in numbers}
            values |= {f"loss_by_sigma/{name}": each for name, each in record.loss_by_sigma.items()}
            values |= {"validation/loss": record.validation_loss}
            values |= {f"validation/{name}": each for name, each in (record.validation or {}).items()}
            sheet = config.out / saving.VALIDATION / f"step-{record.step}.png"
            pictures = {"validation/views": sheet} if record.validation else {}
            told = {name: value for name, value in values.items() if value is not None}
            trackers.log(record.step, told, pictures)
            if record.checkpoint is not None or record.validation_loss is not None:
                try:
                    page.write(config.out)
                except Svd3dError as error:
                    log.warning("the page of the run is not up to date: %s", error)

        yield watch


def accumulation_steps(config: TrainConfig, *, processes: int) -> int:
    """Batches per step of each process. Raises `ConfigError` where the sizes contradict each other."""
    at_once = config.train_batch_size * processes
    asked, all_of_them = config.gradient_accumulation_steps, config.global_batch_size
    steps = asked or max((all_of_them or at_once) // at_once, 1)
    if all_of_them is not None and steps * at_once != all_of_them:
        raise ConfigError(
            f"global_batch_size {all_of_them}: not {steps} x train_batch_size {config.train_batch_size} x "
            f"{processes} processes; choose sizes whose product it is"
        )
    return steps


def fitting_batch(accelerator: Accelerator, objective: Objective, draws: Draws, config: TrainConfig) -> int:
    """The largest of train_batch_size and its halves at which a step fits into memory, on every device."""

    def attempt(size: int) -> None:
        batch = collate([draws[position] for position in range(size)])
        loss, _ = objective.losses(objective.module(), batch)
        loss.mean().backward()

    found = memory.largest_that_fits(config.train_batch_size, attempt, network=objective.network)
    smallest = int(_everywhere(accelerator, torch.tensor([found], device=accelerator.device)).min())
    if smallest < config.train_batch_size:
        log.warning("train_batch_size %d does not fit; taking %d", config.train_batch_size, smallest)
    return smallest


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """Share of the learning rate in a step, counted from 1."""
    warm = min(step / (config.lr_warmup_steps + 1), 1.0)
    if config.lr_scheduler == "constant" or warm < 1:
        return warm
    left = (config.max_train_steps - step) / max(config.max_train_steps - config.lr_warmup_steps, 1)
    return 0.5 * (1 - math.cos(math.pi * left))


def by_sigma(loss: Float[Tensor, "n"], sigma: Float[Tensor, "n"]) -> dict[str, float]:
    """Mean loss of the finite ones by noise level."""
    edges = torch.tensor(BUCKETS)
    names = [f"below {edge:g}" for edge in BUCKETS] + [f"from {BUCKETS[-1]:g}"]
    bucket = torch.bucketize(sigma, edges, right=True)
    found = {name: loss[(bucket == i) & loss.isfinite()] for i, name in enumerate(names)}
    return {name: each.double().mean().item() for name, each in found.items() if len(each)}


def save(
    config: TrainConfig,
    step: int,
    base: Path,
    objective: Objective,
    learner: Learner,
    *,
    facts: dict[str, Any],
    main: bool,
) -> None:
    """Publish a checkpoint, whose model has the averaged weights, then delete old ones.

    The main process writes; where weights are spread, the others bring their shares.
    """
    network = objective.network

    def fill(folder: Path) -> None:
        saving.link_frozen(base, folder, learns=objective.part, conditioning=objective.kind)
        saving.write(dict(learner.state()), folder / saving.STATE)
        with learner.averaged():
            objective.settle()
            model = network
            if config.trains == "lora":
                lora.save(network, folder)
                model = copy.deepcopy(network)
                lora.fuse(model)
                lora.remove(model)
            model.save_config(folder / objective.part)
            weights = {name: learning.whole(each) for name, each in model.state_dict().items()}
            saving.write(weights, folder / saving.weights(objective.part))

    if main:
        facts = {**facts, "learns": objective.part, "ema_steps": learner.average.optimization_step}
        saving.publish(config.out, step, fill=fill, facts=facts)
        saving.prune(config.out, keep=config.checkpoints_total_limit)
    elif config.fsdp:
        for _ in learner.state():
            pass
        with learner.averaged():
            for each in network.state_dict().values():
                learning.whole(each)


def _attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Attention in single operations on a CPU, where the gradient of the fused one is slow."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


@contextlib.contextmanager
def _gradients_meet(accelerator: Accelerator, network: Any, *, now: bool) -> Iterator[None]:
    """Processes add up their gradients in the last batch of a step only."""
    if isinstance(network, learning.FSDPModule):
        network.set_requires_gradient_sync(now)
        yield
        return
    with contextlib.nullcontext() if now else accelerator.no_sync(network):
        yield


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C or a termination; a second one ends the program at once."""
    asked = threading.Event()

    def ask(_number: int, _frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_same(saved: saving.Saved, fixed: dict[str, Any]) -> None:
    """Refuse to continue with other data or another batch per step: the order of samples would be another."""
    for name, now in fixed.items():
        if (was := saved.facts[name]) != now:
            raise CheckpointError(
                f"{saved.folder}: made with {name} {was}, now {now}; give what it was, or another --out"
            )


def _licences(data: Path) -> list[str]:
    """Of the objects in a cache, as its manifest says."""
    path = data / "manifest.json"
    return checkpoints.read_json(path)["licences"] if path.is_file() else []


def _forget_after(path: Path, step: int) -> None:
    """Cut from the metrics what a killed run noted after its last checkpoint."""
    records = runs.read_lines(path)
    kept = [each for each in records if each["step"] <= step]
    if len(kept) < len(records):
        runs.write_file(path, "".join(json.dumps(each) + "\n" for each in kept))


def _everywhere(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """The tensors of all processes, in a row along the first dimension, on the CPU."""
    gathered: Any = accelerator.gather(tensor)
    return gathered.cpu()


def _next(feed: Iterator[Batch]) -> Batch:
    """The next batch. Raises `TrainingError` where a process that reads ahead was killed."""
    try:
        return next(feed)
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"a process that reads ahead died ({reason}), for want of memory perhaps; run the same command "
            "again, it resumes, with fewer --dataloader_num_workers"
        ) from error


def _finite(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None


def _not_finite(step: int, bad: int, *, uids: list[str], run: Path) -> str:
    return (
        f"step {step}: loss or gradient not finite {bad} times in a row, now with {', '.join(uids)}; look at "
        f"these objects, or lower --learning-rate; {run / saving.FOLDER} has the checkpoints from before"
    )


def steps_left(config: TrainConfig) -> int:
    """Steps that `run` will take if its checkpoints are whole."""
    there = saving.every(config.out)
    wanted = config.resume_from_checkpoint
    done = max((each.step for each in there if wanted in ("latest", each.folder.name)), default=0)
    return max(config.max_train_steps - done, 0)
