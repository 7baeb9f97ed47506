"""The peer of `benchmark_recon.py`: nerfacto, trained and rendered by the programs of nerfstudio.

Its settings are the best known for one object in front of nothing (see `recon.nerfstudio`), with samples that
are even between the two planes, no appearance per view, and no evaluation on the way.
"""

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recon import nerfstudio
from svd3d import images, runs, sample
from svd3d.errors import DependencyError
from svd3d.sample import Sample

METHOD = "nerfacto"
NEVER = str(10**9)
SETTINGS = [
    *("--pipeline.model.proposal-initial-sampler", "uniform"),
    *("--pipeline.model.use-appearance-embedding", "False"),
    *("--steps-per-eval-batch", NEVER),
    *("--steps-per-eval-image", NEVER),
]
CPU_SETTINGS = [
    *("--pipeline.datamanager.train-num-rays-per-batch", "1024"),
    *("--pipeline.model.num-proposal-samples-per-ray", "48", "24"),
    *("--pipeline.model.num-nerf-samples-per-ray", "24"),
    *("--pipeline.model.log2-hashmap-size", "15"),
    *("--pipeline.model.num-levels", "8"),
    *("--pipeline.model.max-res", "256"),
]
"""As small as views of 128 pixels allow: the defaults leave a CPU 5 iterations in the seconds of ours."""
FULL_SCHEDULE = 30_000
"""Iterations that are the default, for a GPU."""
TRIAL = 40
"""Iterations on a CPU that tell what one takes."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a number of iterations took, and the views they gave."""

    iterations: int
    seconds: float
    """Without `start_s`."""
    start_s: float
    """What the program takes with one iteration alone."""
    pictures: np.ndarray
    """The held-out views as RGBA."""


class Nerfacto:
    """Nerfacto on the views of one object; each training starts anew, in a folder of its own.

    `place` is as in `recon.nerfstudio.Programs.find`, `clock` what seconds are told by. Raises
    `DependencyError` without nerfstudio, and `MeshError` where one of its programs fails.
    """

    def __init__(
        self,
        views: Sample,
        held_out: Sample,
        work: Path,
        *,
        place: Path | None,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.train = nerfstudio.Programs.find(place).train
        self.render = shutil.which("ns-render", path=str(Path(self.train).parent))
        if self.render is None:
            raise DependencyError(f"{METHOD}: there is no ns-render beside {self.train}; install nerfstudio")
        self.views, self.held_out, self.work = views, held_out, work
        self.device, self.clock = device, clock
        self.start_s = self._train(1)

    def budgeted(self, seconds: float) -> Trained:
        """Trained for about so many seconds, by what one iteration takes."""
        return self.trained(1 + round(seconds / self.each_s))

    @functools.cached_property
    def each_s(self) -> float:
        """Seconds of one iteration, by a short trial."""
        return (self._train(1 + TRIAL) - self.start_s) / TRIAL

    def trained(self, iterations: int) -> Trained:
        """Trained from the beginning."""
        seconds = self._train(iterations) - self.start_s
        return Trained(iterations, seconds, self.start_s, self._render(iterations))

    def _train(self, iterations: int) -> float:
        """Seconds of `ns-train`; its folder holds the views and knows which of them are held out."""
        folder = runs.output_folder(self.work / f"{METHOD}-{iterations}").resolve()
        write_dataset(self.views, self.held_out, folder / "data")
        arguments = nerfstudio.train_arguments(
            folder, METHOD, self.views.cameras, done=0, steps=iterations, device=self.device
        )
        arguments[1:1] = [*SETTINGS, *(CPU_SETTINGS if self.device == "cpu" else ())]
        start = self.clock()
        nerfstudio.run_program([self.train, *arguments], folder / "ns-train.log")
        return self.clock() - start

    def _render(self, iterations: int) -> np.ndarray:
        folder = (self.work / f"{METHOD}-{iterations}").resolve()
        config = folder / "train/views" / METHOD / "run/config.yml"
        wishes = ["--split", "test", "--rendered-output-names", "rgba", "--image-format", "png"]
        command = ["dataset", "--load-config", str(config), "--output-path", f"{folder}/renders", *wishes]
        nerfstudio.run_program([str(self.render), *command], folder / "ns-render.log")
        return np.stack([images.read(path) for path in sorted(folder.glob("renders/test/rgba/*.png"))])


def write_dataset(views: Sample, held_out: Sample, folder: Path) -> None:
    """One nerfstudio dataset of both; its split says what is trained on, and the rest is its test."""
    both, theirs = views.cameras, held_out.cameras
    cameras = dataclasses.replace(
        both,
        camera_to_world=np.concatenate([both.camera_to_world, theirs.camera_to_world]),
        intrinsics=np.concatenate([both.intrinsics, theirs.intrinsics]),
    )
    pictures = np.concatenate([views.images, held_out.images])
    sample.write(Sample(views.uid, cameras, pictures, "rendered"), folder)
    content = json.loads((folder / "transforms.json").read_text())
    names = [frame["file_path"] for frame in content["frames"]]
    train, test = names[: len(views)], names[len(views) :]
    split = {"train_filenames": train, "val_filenames": test, "test_filenames": test}
    runs.write_json(folder / "transforms.json", content | split)
