"""The command line: svd3d <stage> [recipe.yaml] [--field value ...].

A default is overridden by the recipe and the recipe by a flag. Results go to stdout (paths, or one JSON
object a line with --json), everything else to stderr. `--dry-run` prints the resolved settings, where it can
what they would cost, and stops.
Exit codes: 0 all done; 1 done with failures that are listed, or an internal error with its traceback;
2 the input is wrong, in one line; 130 interrupted.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import itertools
import json
import logging
import os
import re
import shlex
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd3d import config as configs
from svd3d import console
from svd3d.errors import CheckpointError, ConfigError, Svd3dError

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


@dataclass(frozen=True)
class Stage:
    """One command: its settings (module:class), what it does, and the function that runs it."""

    settings: str
    summary: str
    run: Callable[[Any, "Output"], int]
    plan: Callable[[Any], str] | None = None
    """What the run would cost, in a line, for --dry-run."""


class Output:
    """Where results go: one path a line, or one JSON object a line with --json."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, path: Path | None, **facts: Any) -> None:
        """One result; without --json only its path is printed."""
        if self.as_json:
            named = {"path": None if path is None else str(path), **facts}
            console.result(json.dumps(named, default=str, ensure_ascii=False))
        elif path is not None:
            console.result(str(path))


def _each_object(
    label: str,
    results: Iterable[Any],
    total: int,
    output: Output,
    *,
    place: str = "folder",
    unit: str = "objects",
) -> int:
    """Run a stage to its end with a progress bar, tell every failure, and return the exit code."""
    failures = 0
    for each in console.progress(
        results, label=label, total=total, failed=lambda result: result.status == "failed", unit=unit
    ):
        facts = {"uid": each.uid, "status": each.status, "message": each.message, "seconds": each.seconds}
        output.result(getattr(each, place), **facts)
        if each.status == "failed":
            failures += 1
            console.say(f"failed: {each.uid}: {each.message}")
    return FAILED if failures else 0


def _render(config: Any, output: Output) -> int:
    from render import run as stage

    code = _each_object("render", stage.run(config), stage.count(config), output)
    views = shlex.quote(str(config.out))
    if code:
        console.say(f"What failed and why: svd3d render failures {views}; svd3d render why {views} UID")
    console.say(f"{config.out}: samples. Next: svd3d generate {views}/UID --out generated")
    return code


def _status(config: Any, output: Output, *, stage: str) -> int:
    from render import ledger

    _table(ledger.status(config.out, stage=stage), output)
    return 0


def _failures(config: Any, output: Output, *, stage: str) -> int:
    from render import ledger

    _table(ledger.failures(config.out, stage=stage), output, markdown=config.markdown)
    return 0


def _why(config: Any, output: Output, *, stage: str) -> int:
    from render import ledger

    rows = ledger.why(config.out, config.uid, stage=stage)
    if output.as_json:
        for row in rows:
            output.result(None, **dataclasses.asdict(row))
    else:
        console.result(ledger.as_story(rows))
    return 0


def _retry(config: Any, output: Output, *, stage: str, unit: str = "objects", place: str = "{uid}") -> int:
    from render import ledger

    reopened = ledger.retry(config.out, uids=config.uids, kinds=config.kinds, stage=stage)
    for uid in reopened:
        output.result(config.out / place.format(uid=uid), uid=uid)
    console.say(
        f"{len(reopened)} {unit} are open again. Next: the svd3d {stage} command that made {config.out}"
    )
    return 0


def _render_select(config: Any, output: Output) -> int:
    from render import ledger
    from render import select as stage

    selection = stage.run(config)
    console.say(ledger.as_text(selection.table()))
    output.result(config.out, chosen=len(selection.chosen), rejected=len(selection.rejected))
    return 0


def _table(lines: list[Any], output: Output, *, markdown: bool = False) -> None:
    from render import ledger

    if output.as_json:
        for line in lines:
            output.result(None, **dataclasses.asdict(line))
    else:
        console.result(ledger.as_markdown(lines) if markdown else ledger.as_text(lines))


def _download(config: Any, output: Output) -> int:
    from render import download as stage

    download = stage.Download(config)
    code = _each_object("download", download.run(), download.total, output, place="path")
    console.say(download.summary())
    listed = config.out / "objects.jsonl"
    if listed.exists():
        console.say(f"Next: svd3d render {shlex.quote(str(listed))} --out views")
    return code


def _curate(config: Any, output: Output) -> int:
    from svd3d import curate as stage

    results, total = stage.run(config), stage.count(config)
    code = _each_object("curate", results, total, output, place="part", unit="videos")
    found, folder = stage.summary(config.out), shlex.quote(str(config.out))
    for reason in dict.fromkeys(found.not_computed.values()):
        columns = [column for column, why in found.not_computed.items() if why == reason]
        console.say(f"{', '.join(columns)}: not computed, because {reason}")
    if code:
        console.say(f"What failed and why: svd3d curate failures {folder}; svd3d curate why {folder} UID")
    output.result(config.out / "clips.parquet", clips=found.clips, clip_seconds=found.seconds)
    console.say(
        f"{config.out}: {found.clips} clips, {console.duration(found.seconds)}; report.html to look at. "
        f"Next: svd3d curate select {folder} --drop-motion 0.25 --out selected.parquet"
    )
    return code


def _plan_curate(config: Any) -> str:
    from svd3d import curate as stage

    return stage.plan(config)


def _curate_select(config: Any, output: Output) -> int:
    from svd3d import curate as stage

    found = stage.select(config)
    console.say(found.as_text())
    output.result(config.out, **dataclasses.asdict(found))
    console.say(
        f"{config.out}: {found.chosen} of {found.total} clips; the report shows what each rule removed"
    )
    return 0


def _curate_vote(config: Any, output: Output) -> int:
    import getpass

    from svd3d.curation import ballot, contest, elo

    votes = config.votes or contest.votes_file(config.folder, config.by)
    if config.report or config.votes:
        rated = elo.report(votes, config.folder, seed=config.seed)
        console.say(elo.as_markdown(rated))
        output.result(config.folder / f"{votes.stem}{elo.RATINGS}", ratings=elo.as_json(rated))
        return 0
    drawn = contest.draw(
        config.folder,
        by=config.by,
        thresholds=config.thresholds,
        tasks=config.tasks,
        votes_per_task=config.votes_per_task,
        seed=config.seed,
    )
    with ballot.Server(drawn, voter=config.voter or getpass.getuser(), port=config.port) as server:
        console.say(f"Open {server.url} to vote; Ctrl-C ends it. Votes are kept in {votes}")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    console.say(f"Next: svd3d curate vote {shlex.quote(str(config.folder))} --by {config.by} --report")
    return 0


def _curate_captures(config: Any, output: Output) -> int:
    from svd3d.curation import captures as stage

    made = 0

    def told() -> Iterable[Any]:
        nonlocal made
        for each in stage.run(config):
            made += each.status != "failed"
            if each.status == "done" and each.message:
                console.say(f"{each.uid}: {each.message}")
            yield each

    code = _each_object("captures", told(), stage.count(config), output)
    folder = shlex.quote(str(config.out))
    if made:
        following = f"svd3d cache {folder} --model MODEL --out latents"
        console.say(f"{folder}: {made} samples without cameras. Next: {following}")
    return code


def _cache(config: Any, output: Output) -> int:
    from svd3d import cache as stage

    code = _each_object(
        "cache", stage.run(config, tell=console.say), stage.count(config), output, place="shard"
    )
    if stage.is_finished(config.out):
        data = shlex.quote(str(config.out))
        following = f"Next: svd3d train RECIPE --data {data} --out RUN"
        if stage.holds(config.out) == "clips":
            following = "svd3d.data.latents.ClipLatents reads them"
        console.say(f"{config.out}: latent shards. {following}")
    return code


def _cache_verify(config: Any, output: Output) -> int:
    from svd3d import cache as stage

    settings = stage.settings_of(config.out) if config.repair else None
    code = _each_object("verify", stage.verify(config), stage.count_shards(config), output, place="shard")
    if code and settings:
        return _cache(settings, output)
    if code:
        console.say(f"Encode them again with: svd3d cache verify {shlex.quote(str(config.out))} --repair")
    return code


def _generate(config: Any, output: Output) -> int:
    from svd3d import generate as stage

    code = _each_object("generate", stage.run(config, tell=console.say), stage.count(config), output)
    folder = shlex.quote(str(config.out))
    console.say(f"{config.out}: views around the objects. Next: svd3d reconstruct {folder}/UID --out recon")
    return code


def _plan_generate(config: Any) -> str:
    from svd3d import generate as stage

    return stage.plan(config)


def _video(config: Any, output: Output) -> int:
    from svd3d import video as stage

    results, total = stage.run(config, tell=console.say), stage.count(config)
    code = _each_object("video", results, total, output, unit="videos")
    folder = shlex.quote(str(config.out))
    console.say(f"{config.out}: videos and their frames. Next: svd3d curate {folder} --out curated")
    return code


def _prove_resume(config: Any, output: Output) -> int:
    from svd3d import proof as stage

    proof = stage.run(config)
    verdict = "the same to the last bit" if proof.passed else "NOT the same"
    console.say(f"{proof.steps} steps straight, and killed after {proof.killed_after}: {verdict}")
    output.result(None, passed=proof.passed, **dataclasses.asdict(proof))
    return 0 if proof.passed else FAILED


def _launch(config: Any, output: Output) -> int:
    from svd3d import launch

    if config.nodes == 1:
        launch.run(config)
    recipe = launch.write_recipe(config)
    console.say(f"Run one line on each of {config.nodes} machines, which all see {config.out}:")
    for node in range(config.nodes):
        output.result(None, node=node, command=launch.line(config, recipe, node=node))
        if not output.as_json:
            console.result(shlex.join(launch.line(config, recipe, node=node)))
    return 0


def _train(config: Any, output: Output) -> int:
    from svd3d import launch
    from svd3d import train as stage

    if config.prove_resume:
        return _prove_resume(config, output)
    if launch.is_wanted(config):
        return _launch(config, output)
    steps = stage.run(config)
    if os.environ.get("RANK", "0") != "0":  # of `torchrun`: one process speaks for all
        for _ in steps:
            pass
        return 0
    left = stage.steps_left(config)
    for step in console.progress(
        steps, label="train", total=left, failed=lambda step: step.loss is None, unit="steps"
    ):
        if step.checkpoint is not None:
            loss = "not finite" if step.loss is None else f"{step.loss:.4g}"
            console.say(f"step {step.step}: loss {loss}; {step.checkpoint}")
        if step.validation_loss is not None:
            scores = {"loss": step.validation_loss, **(step.validation or {})}
            told = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
            console.say(f"step {step.step}: held out: {told}")
        if step.checkpoint is not None:
            output.result(step.checkpoint, step=step.step, loss=step.loss, skipped=step.skipped)
    console.say(f"{config.out}: trained, see index.html. Next: {_after_training(config)}")
    return 0


def _after_training(config: Any) -> str:
    """The command that takes what was trained."""
    folder = config.out / "checkpoints" / f"step-{config.max_train_steps}"
    index = json.loads((folder / "model_index.json").read_bytes())
    commands = {
        "TextToVideoPipeline": "video TEXT",
        "FrameInterpolationPipeline": "video FIRST --last LAST",
        "StableVideoDiffusionPipeline": "video IMAGE",
    }
    multi_view = "video IMAGE" if index.get("conditioning") == "svd" else "generate IMAGE"
    command = commands.get(index["_class_name"], multi_view)
    if config.trains in ("autoencoder", "decoder"):
        command = "cache VIEWS"
    return f"svd3d {command} --model {shlex.quote(str(folder))} --out DIR"


def _plan_train(config: Any) -> str:
    from svd3d import train as stage

    try:
        return stage.plan(config)
    except CheckpointError as error:
        return f"what it takes is not known before the model is there: {error}"


def _reconstruct(config: Any, output: Output) -> int:
    from recon import run as stage

    code = _each_object("reconstruct", stage.run(config), stage.count(config), output)
    renders = config.out / ("renders" if (config.out / "mesh.glb").exists() else "UID/renders")
    console.say(
        f"{config.out}: meshes. Next: svd3d evaluate --pred {shlex.quote(str(renders))} --ref REF --out DIR"
    )
    return code


def _render_field(config: Any, output: Output) -> int:
    from recon import render_field as stage

    made = stage.run(config)
    output.result(made.folder, views=made.views, seconds=made.seconds)
    pred = shlex.quote(str(made.folder))
    console.say(f"{pred}: views, see orbit.mp4. Next: svd3d evaluate --pred {pred} --ref REF --out DIR")
    return 0


def _evaluate(config: Any, output: Output) -> int:
    from svd3d import evaluate as stage

    report = stage.run(
        config,
        watch=lambda pairs, total: console.progress(pairs, label="evaluate", total=total, unit="objects"),
    )
    _tell_scores([report])
    output.result(config.out / "report.json", methods=report.to_json()["methods"])
    folder = shlex.quote(str(config.out))
    console.say(f"{config.out}: report.html to look at; .md, .tex and .json hold the same figures")
    console.say(f"Whether it still fits its inputs: svd3d evaluate verify {folder}")
    return 0


def _evaluate_verify(config: Any, output: Output) -> int:
    from svd3d import evaluate as stage

    checks = stage.verify(config)
    code = _each_object("verify", checks, len(checks), output, place="path")
    changed = sum(check.status == "failed" for check in checks)
    console.say(f"{config.report}: {changed or 'none'} of {len(checks)} checks failed")
    return code


def _tell_scores(reports: Iterable[Any]) -> None:
    for report in reports:
        for method, metrics in report.methods.items():
            means = "  ".join(f"{name} {score.mean:.4g}" for name, score in metrics.items())
            console.say(f"{method}: {means}")
        for name, reason in report.not_computed.items():
            console.say(f"{name}: not computed, because {reason}")


def _benchmark(config: Any, output: Output) -> int:
    from svd3d import benchmark

    done = benchmark.run(
        config,
        watch=lambda step, results, total: console.progress(
            results,
            label=step,
            total=total,
            failed=lambda each: getattr(each, "status", "done") == "failed",
            unit="objects",
        ),
    )
    for uid, steps in done.failed.items():
        for step, reason in steps.items():
            console.say(f"failed: {uid}: {step}: {reason}")
    _tell_scores(done.reports.values())
    output.result(done.page, objects=done.objects, failed=done.failed)
    console.say(f"{done.objects - len(done.failed)} of {done.objects} objects; open {done.page} in a browser")
    return FAILED if done.failed else 0


def _plan_benchmark(config: Any) -> str:
    from svd3d import benchmark

    return benchmark.plan(config).text()


def _mesh(config: Any, output: Output) -> int:
    from svd3d import workflow

    folder = workflow.mesh(config)
    output.result(folder / "mesh.glb")
    return 0


def _demo(config: Any, output: Output) -> int:
    from svd3d import workflow

    page = workflow.demo(config)
    output.result(page)
    console.say(f"Open {page} in a browser; it works offline.")
    return 0


def _convert(config: Any, output: Output) -> int:
    from svd3d import convert as stage

    made = stage.run(config)
    output.result(made.path, status=made.status, seconds=made.seconds)
    there = "was there already" if made.status == "skipped" else "made"
    following = {
        "svd3d": "Next: svd3d generate IMAGE --model {} --out generated",
        "text-to-video": "Next: svd3d train RECIPE --model {} --data CLIPS --out RUN",
        "image-to-video": "Next: svd3d video IMAGE --model {} --out videos",
        "interpolation": "Next: svd3d train RECIPE --model {} --data CLIPS --out RUN",
        "original": "Its tensors have Stability's names",
    }[config.to]
    console.say(f"{made.path}: {there}. {following.format(shlex.quote(str(made.path)))}")
    return 0


def _doctor(config: Any, output: Output) -> int:
    from svd3d import doctor

    checks = doctor.examine(config.out)
    for check in checks:
        console.say(f"{'ok     ' if check.ok else 'missing'}  {check.name}: {check.finding}")
        output.result(None, name=check.name, ok=check.ok, finding=check.finding)
    return 0


STAGES: dict[str, Stage] = {
    "demo": Stage(
        "svd3d.settings:DemoConfig", "the whole chain on one object, with a page to look at", _demo
    ),
    "download objaverse": Stage(
        "render.config:ObjaverseConfig", "3-D objects of Objaverse or Objaverse-XL", _download
    ),
    "download gso": Stage("render.config:GsoConfig", "3-D scans of Google Scanned Objects", _download),
    "render": Stage("render.config:RenderConfig", "3-D files to sample folders, by Blender", _render),
    "render status": Stage(
        "render.config:LedgerConfig",
        "how many objects are done, failed, open",
        functools.partial(_status, stage="render"),
    ),
    "render failures": Stage(
        "render.config:FailuresConfig", "what failed, by class", functools.partial(_failures, stage="render")
    ),
    "render why": Stage(
        "render.config:WhyConfig", "the story of one object", functools.partial(_why, stage="render")
    ),
    "render retry": Stage(
        "render.config:RetryConfig",
        "let failed objects be tried again",
        functools.partial(_retry, stage="render"),
    ),
    "render select": Stage(
        "render.config:SelectConfig", "a training list by licence and stored scores", _render_select
    ),
    "curate": Stage(
        "svd3d.settings:CurateConfig", "raw videos to a table of scored clips", _curate, plan=_plan_curate
    ),
    "curate status": Stage(
        "svd3d.settings:CurateStatusConfig",
        "how many videos are done, failed, open",
        functools.partial(_status, stage="curate"),
    ),
    "curate failures": Stage(
        "svd3d.settings:CurateFailuresConfig",
        "what failed, by class",
        functools.partial(_failures, stage="curate"),
    ),
    "curate why": Stage(
        "svd3d.settings:CurateWhyConfig", "the story of one video", functools.partial(_why, stage="curate")
    ),
    "curate retry": Stage(
        "svd3d.settings:CurateRetryConfig",
        "let failed videos be tried again",
        functools.partial(_retry, stage="curate", unit="videos", place="parts/{uid}.json"),
    ),
    "curate select": Stage(
        "svd3d.settings:CurateSelectConfig", "clips for training by their stored scores", _curate_select
    ),
    "curate captures": Stage(
        "svd3d.settings:CurateCapturesConfig",
        "walks around real objects to samples without cameras",
        _curate_captures,
    ),
    "curate vote": Stage(
        "svd3d.settings:CurateVoteConfig",
        "which threshold people prefer: a page and Elo ratings",
        _curate_vote,
    ),
    "cache": Stage("svd3d.settings:CacheConfig", "sample folders to latent shards for training", _cache),
    "cache verify": Stage(
        "svd3d.settings:CacheVerifyConfig", "whether latent shards are whole, and their repair", _cache_verify
    ),
    "train": Stage(
        "svd3d.settings:TrainConfig", "finetune a model on cached latents", _train, plan=_plan_train
    ),
    "generate": Stage(
        "svd3d.settings:GenerateConfig",
        "pictures to views around their objects",
        _generate,
        plan=_plan_generate,
    ),
    "video": Stage("svd3d.settings:VideoConfig", "texts or pictures to videos", _video),
    "reconstruct": Stage("recon.config:ReconConfig", "views to a textured mesh", _reconstruct),
    "render-field": Stage(
        "recon.config:RenderFieldConfig", "a reconstructed field from any camera", _render_field
    ),
    "mesh": Stage("svd3d.settings:MeshConfig", "one picture to a textured mesh", _mesh),
    "evaluate": Stage(
        "svd3d.settings:EvaluateConfig", "scores of views or meshes against references", _evaluate
    ),
    "evaluate verify": Stage(
        "svd3d.settings:EvaluateVerifyConfig",
        "whether a report still fits its inputs and rows",
        _evaluate_verify,
    ),
    "benchmark gso": Stage(
        "svd3d.settings:BenchmarkConfig",
        "models and peers over Google Scanned Objects: one table",
        _benchmark,
        plan=_plan_benchmark,
    ),
    "convert": Stage("svd3d.settings:ConvertConfig", "foreign weights to our pipeline, and back", _convert),
    "doctor": Stage("svd3d.settings:DoctorConfig", "what is installed and what each stage lacks", _doctor),
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `svd3d` and `python -m svd3d`; ends the process with the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = _run(arguments)
    except Svd3dError as error:
        who = f"svd3d, process {os.environ['RANK']}" if "RANK" in os.environ else "svd3d"
        console.say(f"{who}: {' '.join(str(error).split())}")
        code = WRONG_INPUT
    except KeyboardInterrupt:
        console.say(f"interrupted; resume with the same command: svd3d {shlex.join(arguments)}")
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    flags = {flag for flag in ("--json", "--dry-run") if flag in arguments}
    rest = [argument for argument in arguments if argument not in flags]
    if not rest or rest[0] in ("-h", "--help"):
        console.result(_overview())
        return 0
    if rest[0] in ("-V", "--version"):
        from svd3d import __version__

        console.result(__version__)
        return 0
    name, rest = _command(rest)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # read when they load; they greet the user otherwise
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    module, _, settings = STAGES[name].settings.partition(":")
    config = parse(getattr(importlib.import_module(module), settings), rest, prog=f"svd3d {name}")
    if "--dry-run" in flags:
        console.result(configs.to_yaml(config).rstrip())
        if plan := STAGES[name].plan:
            console.say(plan(config))
        return 0
    return STAGES[name].run(config, Output(as_json="--json" in flags))


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command that the first one or two words name, and the words that are left."""
    pair = " ".join(words[:2])
    if pair in STAGES:
        return pair, words[2:]
    if words[0] in STAGES:
        return words[0], words[1:]
    below = [name.split()[1] for name in STAGES if name.startswith(f"{words[0]} ")]
    if below:
        raise ConfigError(
            f"svd3d {words[0]} needs one of: {', '.join(below)}; got {' '.join(words[1:2]) or 'nothing'}"
        )
    raise ConfigError(f"unknown command {words[0]!r}. {configs.did_you_mean(words[0], list(STAGES))}")


def parse(settings: type, arguments: list[str], *, prog: str) -> Any:
    """Settings from a recipe (a first argument that ends in .yaml) and flags.

    Raises `ConfigError` in one line where tyro would print a box; `--help` prints and exits.
    """
    import tyro

    recipe: dict[str, Any] = {}
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        recipe = configs.read_recipe(settings, Path(arguments[0]))
        arguments = arguments[1:]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(
                _with_defaults(settings, recipe) if recipe else settings,
                prog=prog,
                args=_switched_on(settings, arguments),
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise ConfigError(f"{_one_line(complaint.getvalue())} See: {prog} --help") from exit_
    return settings(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(settings)})


def _switched_on(settings: type, arguments: list[str]) -> list[str]:
    """The arguments with `True` after every switch that is named without a value."""
    hints = typing.get_type_hints(settings)
    switches = {f"--{name}" for name, kind in hints.items() if kind in (bool, bool | None)}
    found = []
    for word, following in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        found.append(word)
        if word.replace("_", "-") in {each.replace("_", "-") for each in switches} and following.startswith(
            "--"
        ):
            found.append("True")
    return found


def _with_defaults(settings: type, recipe: dict[str, Any]) -> type:
    """The settings with the recipe's values as defaults, so that flags override them and help shows them."""
    hints = typing.get_type_hints(settings, include_extras=True)
    fields = [(name, hints[name], dataclasses.field(default=value)) for name, value in recipe.items()]
    return dataclasses.make_dataclass(settings.__name__, fields, bases=(settings,), frozen=True, kw_only=True)


def _one_line(box: str) -> str:
    """What tyro says in a box, as one line."""
    text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─┃━]|-{4,}", " ", box)  # colours and borders
    text = re.sub(r"For full helptext, (run|see).*", "", text, flags=re.DOTALL)
    text = re.sub(
        r"^(Parsing error|Missing argument|Required options|Unrecognized options) ",
        "",
        " ".join(text.split()),
    )
    text = text.strip()
    return text if text.endswith((".", "?")) else text + "."


def _overview() -> str:
    lines = ["usage: svd3d <command> [recipe.yaml] [--field value ...] [--json] [--dry-run]", ""]
    lines += [f"  {name:<19} {stage.summary}" for name, stage in STAGES.items()]
    return "\n".join(
        [*lines, "", "svd3d <command> --help shows its settings. Running a command again resumes it."]
    )
