"""Compositions of stages: one picture to a mesh, and the demo of the whole chain.

Each step is a command of its own with its own folder, so a composition resumes where it stopped and every
step can be repeated by hand.
"""

import dataclasses
import shlex
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from svd3d import config as configs
from svd3d import console, runs
from svd3d.errors import RenderError
from svd3d.settings import DemoConfig, EvaluateConfig, GenerateConfig, MeshConfig

DEMO_OBJECT = Path(__file__).resolve().parent / "assets" / "objects" / "toy_car.glb"
"""A member of the family that the bundled model knows, held out from its training."""
FRONT_AZIMUTH_DEG = 313.0
"""The front of a glTF object is world -Y (azimuth 270); from here it is seen at three quarters."""
ELEVATION_DEG = 12.0
HELD_OUT_ELEVATIONS_DEG = (0.0, 30.0)
"""Elevations of the views that no reconstruction sees."""
HELD_OUT_VIEWS = 7


def mesh(config: MeshConfig) -> Path:
    """One picture to a textured mesh; returns the folder of `mesh.glb`."""
    from recon.config import ReconConfig
    from recon.run import run as reconstruct
    from svd3d import generate

    settings = GenerateConfig(
        image=config.image,
        out=config.out / "generated",
        model=config.model,
        elevation_deg=config.elevation_deg,
        steps=config.steps,
        seed=config.seed,
    )
    if (found := generate.count(settings)) > 1:
        raise configs.ConfigError(f"{config.image}: holds {found} pictures; pass one")
    (views,) = _all_done(generate.run(settings))
    meshed = ReconConfig(sample=settings.out / views.uid, out=config.out / "mesh", method=config.method)
    _all_done(reconstruct(meshed))
    return config.out / "mesh"


def image_to_mesh(image: Path | str, out: Path | str, *, model: str = "tiny", **settings: Any) -> Path:
    """One picture to OUT/mesh/mesh.glb; further keyword arguments are fields of `MeshConfig`."""
    return mesh(MeshConfig(image=Path(image), out=Path(out), model=model, **settings)) / "mesh.glb"


def demo(config: DemoConfig) -> Path:
    """The whole chain on one object; returns the page OUT/index.html."""
    from recon.config import ReconConfig
    from recon.run import run as reconstruct
    from render import objects
    from render.config import RenderConfig
    from render.run import run as render
    from svd3d import demo_page, evaluate, generate
    from svd3d.model import local_folder

    source = config.object or DEMO_OBJECT
    found, *others = objects.find(source)
    if others:
        raise configs.ConfigError(f"{source}: holds {len(others) + 1} objects; pass the file of one")
    objects.check_header(found.path)
    local_folder(config.model)
    out = runs.output_folder(config.out)
    orbit = RenderConfig(
        source=found.path,
        out=out / "views",
        size=config.size,
        samples=config.samples,
        elevation_deg=(ELEVATION_DEG, ELEVATION_DEG),
        azimuth_deg=FRONT_AZIMUTH_DEG,
        seed=config.seed,
    )
    held_out = [
        dataclasses.replace(
            orbit,
            out=out / f"held_out_{elevation:.0f}",
            views=HELD_OUT_VIEWS,
            elevation_deg=(elevation, elevation),
            depth=False,
        )
        for elevation in HELD_OUT_ELEVATIONS_DEG
    ]
    views = orbit.out / found.uid
    steps: list[demo_page.Step] = []

    def step(title: str, command: str, settings: Any, action: Callable[[Any], Any]) -> None:
        """Run one step, tell the person, and remember what the page says about it."""
        console.say(f"{len(steps) + 1:2d}. {title} …")
        start = time.monotonic()
        action(settings)
        seconds = time.monotonic() - start
        steps.append(demo_page.Step(title, command_line(command, settings), seconds))
        console.say(f"    {console.duration(seconds)}")

    # 1. Blender: the orbit that everything starts from, and views that stay hidden from reconstruction
    step("Render 21 views with Blender", "render", orbit, lambda s: _all_done(render(s)))
    for each in held_out:
        title = f"Render {each.views} held-out views at {each.elevation_deg[0]:.0f} degrees"
        step(title, "render", each, lambda s: _all_done(render(s)))

    # 2. The multi-view model, from view 0 alone
    generated = GenerateConfig(image=views, out=out / "generated", model=config.model, seed=config.seed)
    step("Generate 21 views from view 0", "generate", generated, lambda s: _all_done(generate.run(s)))

    # 3. Two meshes
    hidden = tuple(each.out for each in held_out)
    from_rendered = ReconConfig(sample=views, out=out / "mesh_from_rendered", views_from=hidden)
    from_generated = ReconConfig(
        sample=generated.out / found.uid, out=out / "mesh_from_generated", views_from=hidden
    )
    step(
        "Reconstruct from the rendered views",
        "reconstruct",
        from_rendered,
        lambda s: _all_done(reconstruct(s)),
    )
    step(
        "Reconstruct from the generated views",
        "reconstruct",
        from_generated,
        lambda s: _all_done(reconstruct(s)),
    )

    # 4. Scores: each section compares one or two predictions with one reference
    meshes = {"rendered": from_rendered.out, "generated": from_generated.out}
    generated_views = {"generated": generated.out / found.uid}
    named_meshes = {f"from {kind} views": folder for kind, folder in meshes.items()}
    sections: list[tuple[str, str, Path, dict[str, Path]]] = [
        ("Generated views against the rendered ones", "svd-mv", views, generated_views),
        ("Meshes against the object", "mesh-world", found.path, named_meshes),
    ]
    for each in held_out:
        heading = f"Re-rendered meshes against held-out views at {each.elevation_deg[0]:.0f} degrees"
        renders = {method: folder / f"renders-{each.out.name}" for method, folder in named_meshes.items()}
        sections.append((heading, "views", each.out / found.uid, renders))
    scores: dict[str, list[Any]] = {heading: [] for heading, *_ in sections}
    for index, (heading, protocol, reference, predictions) in enumerate(sections):
        for method, prediction in predictions.items():
            settings = EvaluateConfig(
                pred=(str(prediction),),
                ref=reference,
                out=out / "scores" / f"{index}_{protocol}" / method.replace(" ", "_"),
                protocol=protocol,
                method=method,
            )
            title = f"Score: {heading[0].lower()}{heading[1:]} ({method})"
            step(title, "evaluate", settings, lambda s, into=scores[heading]: into.append(evaluate.run(s)))

    # 5. The page
    seconds = {each.title: each.seconds for each in steps}
    runs.write_manifest(out, stage="demo", config=config, inputs={"object": found.path}, seconds=seconds)
    return demo_page.write(
        out,
        name=found.uid,
        views=views,
        generated=generated.out / found.uid,
        meshes=meshes,
        scores=scores,
        steps=steps,
        familiar=config.object is None,
        tiny=config.model == "tiny",
    )


def command_line(command: str, settings: Any) -> str:
    """The shell command that repeats a step: only what differs from the defaults is named.

    >>> command_line("generate", GenerateConfig(image=Path("cup.png"), out=Path("o"), steps=50))
    'svd3d generate cup.png --out o --steps 50'
    """
    words = ["svd3d", command]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value == field.default:
            continue
        items = value if isinstance(value, tuple) else (value,)
        name = [] if field.name in ("source", "image", "sample") else [f"--{field.name.replace('_', '-')}"]
        words += [*name, *(f"{item:g}" if isinstance(item, float) else str(item) for item in items)]
    return shlex.join(words)


def _all_done(results: Iterable[Any]) -> list[Any]:
    """Run a stage to its end and return its results; a failed object ends the composition."""
    done = []
    for each in results:
        if each.status == "failed":
            raise RenderError(f"{each.uid}: {each.message}")
        done.append(each)
    return done
