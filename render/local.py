"""Many objects with Blenders of this machine: the engine `local`, and every task of the engine `ray`."""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

from render import orbit, pool
from render.config import RenderConfig
from render.objects import Source3D
from svd3d import sample

OnView = Callable[[str, int, int], None]
Outcome = pool.Outcome[Source3D, orbit.Made]
Outcomes = Generator[Outcome, None, None]


def run(
    config: RenderConfig,
    sources: Sequence[Source3D],
    *,
    attempts: Mapping[str, int],
    lights: list[Path],
    command: tuple[str, ...],
    on_view: OnView | None = None,
) -> Outcomes:
    """Render objects with child processes of this one; yields the outcome of every attempt.

    `attempts` counts those of earlier runs by uid. What ends the run is raised as in `pool.run`.
    """
    limits = pool.Limits(timeout_s=config.timeout_s, attempts=config.attempts, memory_mb=config.memory_mb)
    yield from pool.run(
        command,
        sources,
        lambda worker, source: orbit.render(worker, source, config, lights=lights, on_view=on_view),
        workers=min(config.workers, max(len(sources), 1)),
        limits=limits,
        describe=lambda source: source.name,
        attempts_before=lambda source: attempts.get(source.uid, 0),
    )


def made_before(out: Path, source: Source3D) -> orbit.Made | None:
    """What is known of a sample in `out` that an earlier run or task has finished, if one has."""
    folder = out / source.uid
    return orbit.made_before(folder) if sample.is_sample(folder) else None
