"""`svd3d train`: cached latents and a model in, a finetuned model out, by the recipe of the SVD paper.

Top to bottom: `run` is the whole training, `losses` one batch, then what is drawn at random, what is trained,
checkpoints, and `prove_resume`. All that is random about a sample comes from its `draw_seed`, so the order of
samples, their number at once and the number of processes change nothing but the rounding of sums.

A run is stopped at any moment and continued by the same command; it then ends bit for bit where it would have
without the stop (on one kind of device, and on GPUs where their kernels are deterministic).
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import contextlib
import copy
import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor, nn

from svd3d import config as configs
from svd3d import runs
from svd3d.data import latents as shards
from svd3d.data.dataset import Batches, Part
from svd3d.data.latents import Latents
from svd3d.errors import CheckpointError, ConfigError, TrainingError
from svd3d.model import checkpoints, conditioning, edm, lora, saving
from svd3d.model.checkpoints import Checkpoint
from svd3d.model.conditioning import Kind
from svd3d.settings import TrainConfig

METRICS = "metrics.jsonl"
BUCKETS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Noise levels between which losses are averaged: a healthy finetune gains in all of them."""
TEMPORAL = (".temporal_transformer_blocks.", ".temporal_res_block.", ".time_pos_embed.", ".time_mixer.")
MAY_CHANGE = (
    *("out", "data", "device", "max_train_steps", "train_batch_size", "gradient_accumulation_steps"),
    *("gradient_checkpointing", "checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint"),
    *(
        "global_batch_size",
        "dataloader_num_workers",
        "validation_steps",
        "validation_batches",
        "max_bad_steps",
        "prove_resume",
    ),
)
"""Settings that another start of the same run may have; the batch per step is compared by itself."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""
Batch = dict[str, Any]


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
    seconds: float
    samples_per_second: float
    validation_loss: float | None = None
    """Of the averaged weights, on objects that are held out."""
    checkpoint: Path | None = None
    """The checkpoint made after this step."""


def run(config: TrainConfig) -> Iterator[Step]:
    """Train, or continue to; yields every step. In all processes of `accelerate launch` alike.

    Raises `KeyboardInterrupt` when interrupted or terminated, after a checkpoint; `TrainingError` when losses
    stay not finite, `CheckpointError` for a checkpoint that is not of this run.
    """
    # 1. Devices, data, model
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision="no")
    device, main = accelerator.device, accelerator.is_main_process
    accumulation = accumulation_steps(config, processes=accelerator.num_processes)
    global_batch = accumulation * config.train_batch_size * accelerator.num_processes
    base = checkpoints.fetch(config.model)
    start = checkpoints.from_folder(base)
    latents = Latents.open(config.data, vae_digest=vae_digest(start))
    num_views = config.num_views or latents.info.shape.num_views
    unet, kind = load_unet(start, num_views=num_views, size=latents.info.shape.size)
    with contextlib.ExitStack() as stack:
        if main:
            stack.enter_context(runs.lock(runs.output_folder(config.out)))
            runs.same_settings(config.out, config, ignore=MAY_CHANGE)
            runs.sweep(runs.output_folder(config.out / saving.FOLDER))
        accelerator.wait_for_everyone()

        # 2. What learns, in float32; optimizer and average
        trained = select(unet, config)
        unet.train().to(device)
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        learner = Learner(
            trained,
            torch.optim.AdamW(
                trained.values(),
                lr=config.learning_rate,
                betas=(config.adam_beta1, config.adam_beta2),
                weight_decay=config.adam_weight_decay,
                eps=config.adam_epsilon,
                fused=True,
            ),
            EMAModel(trained.values(), decay=config.ema_decay, foreach=True),
        )

        # 3. Continue where the run stopped
        fixed = {"global_batch": global_batch, "data": latents.info.fingerprint}
        done, position, skipped = 0, 0, 0
        if saved := saving.find(config.out, config.resume_from_checkpoint):
            _check_same(saved, fixed)
            learner.restore(saved)
            done, position, skipped = saved.step, saved.facts["position"], saved.facts["skipped"]
        accelerator.wait_for_everyone()
        if main:
            _forget_after(config.out / METRICS, done)
            runs.write_manifest(config.out, stage="train", config=config, device=str(device))
        network = accelerator.prepare(unet)

        def batches_of(part: Part, *, start: int = 0, workers: int = 0) -> Batches:
            return Batches(
                latents,
                seed=config.seed,
                global_batch=global_batch,
                micro_batch=config.train_batch_size,
                held_out=config.held_out,
                start=start,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                part=part,
                num_views=num_views,
                workers=workers,
            )

        if config.validation_steps:
            batches_of("held-out")  # refused now if there are none
        batches = batches_of("train", start=position, workers=config.dataloader_num_workers)
        feed = iter(batches)
        asked_to_stop = stack.enter_context(_stop_signals())
        bad = 0

        # 4. Steps
        for step in range(done + 1, config.max_train_steps + 1):
            began = time.perf_counter()
            rate = config.learning_rate * learning_rate_factor(config, step)
            for group in learner.optimizer.param_groups:
                group["lr"] = rate
            parts, uids = [], []
            for each in range(accumulation):
                batch = next(feed)
                last = each == accumulation - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(network):
                    loss, sigma = losses(network, kind, batch, config)
                    (loss.mean() / accumulation).backward()
                parts.append(torch.stack([loss.detach(), sigma]))
                uids += batch["uid"]
            norm = nn.utils.clip_grad_norm_(trained.values(), config.max_grad_norm)
            loss, sigma = _everywhere(accelerator, torch.cat(parts, dim=1)[None]).movedim(1, 0).flatten(1)
            if loss.isfinite().all() and norm.isfinite():
                learner.optimizer.step()
                learner.average.step(trained.values())
                bad = 0
            else:
                bad, skipped = bad + 1, skipped + 1
            learner.optimizer.zero_grad()
            if bad >= config.max_bad_steps:
                raise TrainingError(_not_finite(step, bad, uids=gather_object(uids), run=config.out))

            # 5. Watch and save
            asked = torch.tensor([asked_to_stop.is_set()], device=device)
            stopping = bool(_everywhere(accelerator, asked).any())
            is_last = step == config.max_train_steps
            validation_loss = None
            if config.validation_steps and (step % config.validation_steps == 0 or is_last):
                with learner.averaged():
                    validation_loss = validate(accelerator, unet, kind, batches_of("held-out"), config)
            saving_now = step % config.checkpointing_steps == 0 or is_last or stopping
            folder = config.out / saving.FOLDER / f"step-{step}" if saving_now else None
            seconds = time.perf_counter() - began
            record = Step(
                step=step,
                loss=_finite(loss.double().mean()),
                loss_by_sigma=by_sigma(loss, sigma),
                learning_rate=rate,
                grad_norm=_finite(norm),
                skipped=skipped,
                seconds=seconds,
                samples_per_second=global_batch / seconds,
                validation_loss=validation_loss,
                checkpoint=folder,
            )
            if main:
                runs.append_line(config.out / METRICS, configs.plain(record))
            if folder is not None:
                if main:  # after the record, which a resume forgets if this fails
                    facts = {"position": batches.position, "skipped": skipped, **fixed}
                    facts |= {"validation_loss": record.validation_loss}
                    save(config, step, base, unet, kind, learner, facts=facts)
                accelerator.wait_for_everyone()
            yield record
            if stopping and not is_last:
                raise KeyboardInterrupt


def losses(
    network: nn.Module, kind: Kind, batch: Batch, config: TrainConfig
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The loss of EDM and the noise level of each sample; the batch is left as it is."""
    device = next(network.parameters()).device
    drawn = draw(batch, config)
    clean, noise = batch["latents"].to(device), drawn["noise"].to(device)
    image, clip = drawn["image"].to(device), drawn["clip"].to(device)
    sigma = drawn["sigma"].to(device)

    level = sigma.reshape(-1, 1, 1, 1, 1)
    noisy = clean + level * noise
    _, _, c_in, _ = edm.scalings(level)
    _, _, _, c_noise = edm.scalings(sigma)
    condition = image[:, None].expand(-1, clean.shape[1], -1, -1, -1)
    time_ids = conditioning.added_time_ids(
        kind,
        elevations_deg=batch["elevations_deg"],
        azimuths_deg=batch["azimuths_deg"],
        noise_aug_strength=batch["noise_aug"],
    ).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.mixed_precision == "bf16"):
        output = network(
            conditioning.to_network(torch.cat([c_in * noisy, condition], dim=2), kind),
            c_noise,
            encoder_hidden_states=clip,
            added_time_ids=time_ids,
        ).sample
    estimate = edm.denoised(conditioning.from_network(output, kind), noisy, sigma)
    return edm.loss(estimate, clean, sigma), sigma


def draw(batch: Batch, config: TrainConfig) -> dict[str, Tensor]:
    """Noise level, noise and drop-outs of each sample, from its own seed, on the CPU."""
    drawn: dict[str, list[Tensor]] = {"sigma": [], "noise": [], "image": [], "clip": []}
    for i, seed in enumerate(batch["draw_seed"].tolist()):
        source = torch.Generator().manual_seed(seed)
        drawn["sigma"].append(
            edm.sample_sigmas(1, p_mean=config.p_mean, p_std=config.p_std, generator=source)
        )
        drawn["noise"].append(torch.randn(batch["latents"][i : i + 1].shape, generator=source))
        for name, key, rate in (
            ("image", "cond_latents", config.drop_image),
            ("clip", "clip", config.drop_clip),
        ):
            kept = conditioning.dropped(batch[key][i : i + 1], rate=rate, generator=source)
            drawn[name].append(kept)
    return {name: torch.cat(each) for name, each in drawn.items()}


@torch.no_grad()
def validate(
    accelerator: Accelerator, network: nn.Module, kind: Kind, held_out: Batches, config: TrainConfig
) -> float:
    """Mean loss on the first batches of held-out objects, whose noise is the same at every call."""
    total = torch.zeros(2, device=accelerator.device)
    for batch in itertools.islice(held_out, config.validation_batches):
        loss, _ = losses(network, kind, batch, config)
        total += torch.stack([loss.sum(), loss.new_tensor(len(loss))])
    summed, count = _everywhere(accelerator, total[None]).sum(dim=0).tolist()
    return summed / count


def accumulation_steps(config: TrainConfig, *, processes: int) -> int:
    """Batches per step of each process. Raises `ConfigError` where the sizes contradict each other."""
    at_once = config.train_batch_size * processes
    asked, whole = config.gradient_accumulation_steps, config.global_batch_size
    steps = asked or max((whole or at_once) // at_once, 1)
    if whole is not None and steps * at_once != whole:
        raise ConfigError(
            f"global_batch_size {whole}: not {steps} x train_batch_size {config.train_batch_size} x "
            f"{processes} processes; choose sizes whose product it is"
        )
    return steps


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


def vae_digest(start: Checkpoint) -> str:
    """Digest of the autoencoder of a pipeline, read once to refuse latents of another one."""
    vae = copy.deepcopy(start.networks["vae"])
    vae.load_state_dict(start.weights["vae"], assign=True)
    return shards.vae_digest(vae)


def load_unet(start: Checkpoint, *, num_views: int, size: int) -> tuple[Any, Kind]:
    """The UNet of a pipeline in float32, stock SVD widened for the elevation, and its conditioning.

    Its configuration then names the orbits it is trained on: `num_views` of `size` pixels.
    """
    start = checkpoints.multi_view(start, size=size)
    unet, weights = start.networks["unet"], start.weights["unet"]
    unet.register_to_config(num_frames=num_views)
    unet.load_state_dict(
        {name: each.to(torch.float32, copy=True) for name, each in weights.items()}, assign=True
    )
    kind: Any = start.kind
    return conditioning.prepare(unet, kind), kind


def select(unet: Any, config: TrainConfig) -> dict[str, nn.Parameter]:
    """The parameters to train by name; all others are frozen."""
    if config.trains == "lora":
        lora.add(
            unet,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            where=config.lora_where,
            seed=config.seed,
        )
        lora.trainable(unet)
    elif config.trains == "temporal":
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(any(part in f".{name}" for part in TEMPORAL))
    else:
        unet.requires_grad_(True)
    return {name: each for name, each in unet.named_parameters() if each.requires_grad}


def save(
    config: TrainConfig,
    step: int,
    base: Path,
    unet: Any,
    kind: Kind,
    learner: "Learner",
    *,
    facts: dict[str, Any],
) -> None:
    """Publish a checkpoint, whose model has the averaged weights, then delete old ones."""

    def fill(folder: Path) -> None:
        saving.link_frozen(base, folder, conditioning=kind)
        with learner.averaged():
            model = unet
            if config.trains == "lora":
                lora.save(unet, folder)
                model = copy.deepcopy(unet)
                lora.fuse(model)
                lora.remove(model)
            model.save_config(folder / "unet")
            saving.write(model.state_dict(), folder / "unet" / f"{checkpoints.WEIGHTS['unet']}.safetensors")
        saving.write(learner.state(), folder / saving.STATE)

    facts = {**facts, "ema_steps": learner.average.optimization_step}
    saving.publish(config.out, step, fill=fill, facts=facts)
    saving.prune(config.out, keep=config.checkpoints_total_limit)


@dataclass(frozen=True)
class Learner:
    """The parameters that are trained, by name, their optimizer and their running average."""

    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: EMAModel

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The network has the averaged weights for a while."""
        self.average.store(self.trained.values())
        self.average.copy_to(self.trained.values())
        try:
            yield
        finally:
            self.average.restore(self.trained.values())

    def state(self) -> dict[str, Tensor]:
        """Weights, their averages and the moments of AdamW."""
        found: dict[str, Tensor] = {}
        for (name, parameter), mean in zip(self.trained.items(), self.average.shadow_params, strict=True):
            found |= {f"weights/{name}": parameter.detach(), f"ema/{name}": mean}
            found |= {f"adamw/{key}/{name}": each for key, each in self.optimizer.state[parameter].items()}
        return found

    @torch.no_grad()
    def restore(self, saved: saving.Saved) -> None:
        """Put the state of a checkpoint back. Raises `CheckpointError` if it is one of other parameters."""
        state = saved.state()
        expected = {f"weights/{name}": tuple(each.shape) for name, each in self.trained.items()}
        found = {name: tuple(each.shape) for name, each in state.items() if name.startswith("weights/")}
        if differing := sorted(set(expected.items()) ^ set(found.items())):
            name = differing[0][0]
            raise CheckpointError(
                f"{saved.folder}: of other parameters ({name} is {found.get(name, 'not there')}, expected "
                f"{expected.get(name, 'none')}); train with the settings it was made with, or another --out"
            )
        moments: dict[int, dict[str, Tensor]] = {}
        for i, (name, parameter) in enumerate(self.trained.items()):
            parameter.copy_(state[f"weights/{name}"])
            self.average.shadow_params[i].copy_(state[f"ema/{name}"])
            keys = {key: f"adamw/{key}/{name}" for key in MOMENTS}
            if keys["step"] in state:  # not before the first step that was not skipped
                moments[i] = {key: state[place] for key, place in keys.items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.average.optimization_step = saved.facts["ema_steps"]


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


@dataclass(frozen=True)
class Proof:
    """What a kill in the middle changed: nothing, if nothing is listed."""

    steps: int
    killed_after: int
    differing_losses: tuple[int, ...]
    """Steps whose loss is not the same to the last bit."""
    differing_weights: tuple[str, ...]
    """Tensors of model and state that are not."""

    @property
    def passed(self) -> bool:
        """Whether the stopped run is the straight one."""
        return not self.differing_losses and not self.differing_weights


def prove_resume(config: TrainConfig) -> Proof:
    """Train `config.prove_resume` steps straight, and again with a kill in the middle, in OUT.

    Children do it, so that the kill is a real one, at some moment after the checkpoint in the middle. Raises
    `TrainingError` when a child fails.
    """
    steps = config.prove_resume or 0
    middle = steps // 2
    folders = [config.out / name for name in ("straight", "stopped")]
    for folder in folders:
        if folder.exists():
            raise ConfigError(f"{folder}: there already; choose another --out for the proof")
    straight, stopped = (
        dataclasses.replace(
            config, out=folder, prove_resume=None, max_train_steps=steps, checkpointing_steps=middle
        )
        for folder in folders
    )
    _child(straight, kill_after=None)
    killed_after = _child(stopped, kill_after=middle)
    _child(stopped, kill_after=None)
    losses_ = [[each["loss"] for each in runs.read_lines(folder / METRICS)] for folder in folders]
    return Proof(
        steps=steps,
        killed_after=killed_after,
        differing_losses=tuple(
            step for step in range(1, steps + 1) if len({str(each[step - 1 : step]) for each in losses_}) > 1
        ),
        differing_weights=tuple(differing(*(folder / saving.FOLDER / f"step-{steps}" for folder in folders))),
    )


def _child(config: TrainConfig, *, kill_after: int | None) -> int:
    """Train in a process of its own; with `kill_after`, kill it after that step and tell how far it came."""
    runs.output_folder(config.out.parent)
    recipe = config.out.with_suffix(".yaml")
    runs.write_file(recipe, configs.to_yaml(config))
    log = config.out.with_suffix(".log")
    metrics = config.out / METRICS
    with open(log, "ab") as file:
        command = [sys.executable, "-m", "svd3d", "train", str(recipe)]
        child = subprocess.Popen(command, stdout=file, stderr=file, env=dict(os.environ))
        try:
            while kill_after is not None and child.poll() is None:
                there = saving.every(config.out)
                if there and there[-1].step >= kill_after:
                    child.kill()
                time.sleep(0.005)
            code = child.wait()
        finally:
            child.kill()
    if kill_after is not None and code == -signal.SIGKILL:
        return len(runs.read_lines(metrics))
    if kill_after is not None and code == 0:
        raise TrainingError(f"{config.out}: ended before it could be killed; prove more steps")
    if code:
        raise TrainingError(f"{config.out}: training ended with code {code}; {log} says why")
    return len(runs.read_lines(metrics))


def differing(one: Path, other: Path) -> Iterator[str]:
    """Names of tensors that two checkpoints do not have in common to the last bit."""
    for name in (saving.STATE, f"unet/{checkpoints.WEIGHTS['unet']}.safetensors"):
        first, second = (checkpoints.read(folder / name) for folder in (one, other))
        yield from sorted(set(first) ^ set(second))
        yield from (key for key in first if key in second and not saving.same_bits(first[key], second[key]))
