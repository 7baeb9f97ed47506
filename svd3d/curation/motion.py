"""Optical flow between frames sampled at 2 fps, and the motion score of a clip (SVD paper, section 3.1).

Farnebäck's flow alone, as the paper takes it, loses fast motion: of a pan by 3 % of the width from sample to
sample it finds half, by 10 % a seventh, and less where there is little texture. So the second frame is first
laid over the first by what most of the picture does (matched SIFT features, a similarity fitted by RANSAC),
and the dense flow measures the rest. What has no texture is taken to move as the larger part does.

Everything is measured on grey pictures of one size, and stored on a map whose short side has 16 cells. The
unit is a sixteenth of the short side, so that nothing depends on the size of the video.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from svd3d import runs
from svd3d.curation import networks
from svd3d.curation.video import Frame
from svd3d.errors import DependencyError, require

Method = Literal["farneback", "dis", "raft"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Farnebäck 2003, as in the paper; DIS (Kroeger et al. 2016); RAFT (Teed and Deng 2020), a network."""
MAP_SIDE = 16
"""Cells along the short side of a map of flow, as in the paper."""
STEP_S = 0.5
"""Between two samples; motion is given for so long."""
SIDE = 128
"""Pixels along the short side of the grey picture on which Farnebäck and DIS work."""
GRADIENT = 1.0
"""Grey levels per pixel in every direction from which on a pixel has texture."""
NOISE = 5.0
"""Grey levels of contrast that may be noise."""
MIDDLE = 128
"""Brightness about which it is made even."""
EVEN_PX = 8.0
"""Reach within which contrast is made even."""
BETTER = 0.6
"""Part of the error, less a grey level, that a better alignment may leave."""
STATIC = 0.1
"""Motion below which a clip is a still picture, in sixteenths of the short side per half a second."""
FARNEBACK = {
    "pyr_scale": 0.5,
    "levels": 1,
    "winsize": 15,
    "iterations": 3,
    "poly_n": 7,
    "poly_sigma": 1.5,
    "flags": 0,
}
"""Settings of OpenCV's Farnebäck."""
RAFT_SIDE = 448
"""Pixels along the short side for RAFT: 450 in the paper, but the network wants multiples of 8."""
RAFT_FILE = "raft_large_C_T_SKHT_V2-ff5fadd5.pth"
"""Weights of torchvision; the name ends in the first digits of the SHA-256."""


@dataclass(frozen=True, eq=False)
class FlowPair:
    """What moved from one sample to the next."""

    index0: int
    """Frames of the video, of which the second is later."""
    index1: int
    dt_s: float
    """Seconds between them."""
    flow: Float32[np.ndarray, "h w 2"]
    """Where the content of each cell goes, right and down, in sixteenths of the short side."""
    extent: tuple[float, float]
    """Width and height of the picture in sixteenths of the short side; the map has as many cells, rounded."""
    texture: float
    """Share of the first picture that has texture, in which motion can be seen."""

    @property
    def motion(self) -> float:
        """Mean length of the flow, in sixteenths of the short side per half a second."""
        return float(np.linalg.norm(self.flow, axis=-1).mean()) * STEP_S / self.dt_s


def within(pairs: Sequence[FlowPair], start: int, end: int) -> list[FlowPair]:
    """The pairs with both frames in a clip, from frame `start` to before `end`: none crosses a cut."""
    return [pair for pair in pairs if start <= pair.index0 and pair.index1 < end]


def motion_score(pairs: Sequence[FlowPair], start: int, end: int) -> float | None:
    """Mean over time and space of the length of the flow within a clip, or None if it holds no pair.

    1.0 says that the picture moves by 1/16 of its short side in half a second, from sample to sample at
    2 fps, which is one pixel of the paper's maps. Below `STATIC`, nothing moves: noise alone makes 0.05.
    """
    clip = within(pairs, start, end)
    if not clip:
        return None
    return float(np.average([pair.motion for pair in clip], weights=[pair.dt_s for pair in clip]))


@runtime_checkable
class Flow(Protocol):
    """A way to measure the flow between two pictures."""

    def prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        """What is computed once per picture, of those that it shares with both neighbours."""
        ...

    def between(self, before: Any, after: Any) -> Float32[np.ndarray, "h w 2"]:
        """The flow in pixels of the method's own size."""
        ...


class FlowScorer:
    """Sees the samples of a video in order; `pairs` grows by one with each but the first.

    A video of one hour at 2 fps leaves 26 MB of maps.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.pairs: list[FlowPair] = []
        self._last: tuple[int, float, Any, float] | None = None

    def see(self, frame: Frame) -> None:
        """Take the next sample."""
        prepared = self.flow.prepare(frame.image)
        if self._last is not None:
            index, time_s, before, texture = self._last
            height, width = frame.image.shape[:2]
            extent = (MAP_SIDE * width / min(height, width), MAP_SIDE * height / min(height, width))
            flow = _on_map(self.flow.between(before, prepared), extent)
            self.pairs.append(FlowPair(index, frame.index, frame.time_s - time_s, flow, extent, texture))
        texture = float(_textured(_grey(frame.image)).mean())
        self._last = frame.index, frame.time_s, prepared, texture

    def end(self) -> None:
        """Forget the last sample."""
        self._last = None


def load(method: Method, *, raft_weights: Path | None = None, device: str = "cpu") -> Flow:
    """The method of a name, to be shared by the scorers of one process.

    Raises `DependencyError` with what to do where its package or its weights are absent; nothing is
    downloaded. `raft_weights` is a file; None is the one that torchvision downloads to.
    """
    if method == "raft":
        return Raft(_raft(raft_weights, device))
    cv2 = opencv()
    if method == "dis":
        return Aligned(cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc)
    return Aligned(functools.partial(cv2.calcOpticalFlowFarneback, **FARNEBACK))


Dense = Callable[[np.ndarray, np.ndarray, None], np.ndarray]
Affine = Float32[np.ndarray, "2 3"]


@dataclass(frozen=True, eq=False)
class _Picture:
    """A grey picture with its SIFT features."""

    grey: UInt8[np.ndarray, "h w"]
    points: Float32[np.ndarray, "n 2"]
    descriptors: Float32[np.ndarray, "n 128"]


def opencv() -> ModuleType:
    """The package cv2, or a `DependencyError` that names the extra."""
    return require("cv2", extra="curation", reason="optical flow")


class Aligned:
    """A dense flow that starts from the best of a few alignments of the whole picture.

    The alignments are: none, that of most matched features, and that of most of the remaining ones (a large
    subject may carry more features than the scene). The one that explains most of the textured picture is
    the base. Each starts a dense flow; a pixel takes that of the base unless another fits clearly better.
    """

    SEEN = 0.5
    """Share of the picture that must still be in view for an alignment to be believed."""
    MATCHES = 8
    """Features that must agree on an alignment."""
    APART = 0.25
    """Pixels by which two alignments must differ to be tried both."""
    CONTRAST = 8.0
    """Mean grey levels off the middle, from which on a fit means anything."""
    AT_BORDER = 0.02
    """Share of such a part that must be seen to move."""
    SUBJECT = 0.01
    """Share of the picture that must fit another alignment better than the base for it to be tried, too."""
    BORDER = 1 / 8
    """Part of the picture at each side that a moving camera must move, too."""
    INNER = 0.25
    """How much a pixel within these borders counts, where subjects are, against one in them."""

    def __init__(self, dense: Dense) -> None:
        cv2 = opencv()
        self.dense = dense
        self.features = cv2.SIFT.create(nfeatures=300, contrastThreshold=0.01)
        self.matcher = cv2.BFMatcher(cv2.NORM_L2)

    def prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> _Picture:
        """Grey, small, of even contrast, with features."""
        grey = _even(_grey(image))
        points, descriptors = self.features.detectAndCompute(grey, None)
        found = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
        return _Picture(grey, found, np.zeros((0, 128), np.float32) if descriptors is None else descriptors)

    def between(self, before: _Picture, after: _Picture) -> Float32[np.ndarray, "h w 2"]:
        """The flow at a short side of 128 pixels."""
        grid = _grid(before.grey.shape)
        alignments = [np.eye(2, 3, dtype=np.float32)]
        for found in self._alignments(before, after):
            moved = grid @ found[:, :2].T + found[:, 2]
            apart = min(np.abs(moved - grid @ each[:, :2].T - each[:, 2]).max() for each in alignments)
            if apart > self.APART and _inside(moved).mean() > self.SEEN:
                alignments.append(found)
        laid = [_laid_over(before.grey, after.grey, grid @ each[:, :2].T + each[:, 2]) for each in alignments]
        insides = [inside for _, inside in laid]
        fits = [np.where(inside, _error(before.grey, over), np.inf) for over, inside in laid]
        base = self._base(before.grey, insides, fits)
        fit = np.where(insides[base], fits[base], 0)  # what leaves the picture goes with the base
        tried = [n for n in range(len(fits)) if n == base or _better(fits[n], fit).mean() > self.SUBJECT]
        flows, errors = [], []
        for alignment, over in ((alignments[n], laid[n][0]) for n in tried):
            rest = grid + self.dense(before.grey, over, None)
            goal = rest @ alignment[:, :2].T + alignment[:, 2]
            over, inside = _laid_over(before.grey, after.grey, goal)
            flows.append(goal - grid)
            errors.append(np.where(inside, _error(before.grey, over), np.inf))
        first = tried.index(base)
        errors[first] = np.where(np.isfinite(errors[first]), errors[first], 0)
        best = np.argmin(errors, axis=0)
        chosen = np.where(_better(np.min(errors, axis=0), errors[first]), best, first)
        return np.take_along_axis(np.stack(flows), chosen[None, ..., None], axis=0)[0]

    def _alignments(self, before: _Picture, after: _Picture) -> list[Affine]:
        """Similarities that take points of the first picture to the second, those of most matches first."""
        cv2 = opencv()
        if min(len(before.points), len(after.points)) < self.MATCHES:
            return []
        nearest = self.matcher.knnMatch(before.descriptors, after.descriptors, k=2)
        matches = [first for first, second in nearest if first.distance < 0.8 * second.distance]
        start = before.points[[match.queryIdx for match in matches]].reshape(-1, 2)
        goal = after.points[[match.trainIdx for match in matches]].reshape(-1, 2)
        found = []
        while len(found) < 2 and len(start) >= self.MATCHES:
            alignment, agree = cv2.estimateAffinePartial2D(
                start, goal, method=cv2.RANSAC, ransacReprojThreshold=1.5
            )
            agree = agree.ravel().astype(bool)
            if alignment is None or agree.sum() < self.MATCHES:
                break
            found.append(alignment.astype(np.float32))
            start, goal = start[~agree], goal[~agree]
        return found

    def _base(
        self,
        grey: np.ndarray,
        insides: Sequence[np.ndarray],
        fits: Sequence[np.ndarray],
    ) -> int:
        """Which alignment explains most of what has contrast in the part that it leaves in view.

        One that explains nothing at two opposite sides is of a subject before a plain background.
        """
        contrast = _error(grey, np.full_like(grey, MIDDLE))
        rows, columns = (round(side * self.BORDER) for side in grey.shape)
        weights = np.ones(grey.shape)
        weights[rows:-rows, columns:-columns] = self.INNER

        def explained(number: int) -> float:
            share = np.clip(1 - fits[number] / np.maximum(contrast, self.CONTRAST), 0, 1)
            share[contrast < self.CONTRAST] = 0
            left, right, top, bottom = share[:, :columns], share[:, -columns:], share[:rows], share[-rows:]
            strips = [float((strip > 0.5).mean()) for strip in (left, right, top, bottom)]
            if number > 0 and max(min(strips[:2]), min(strips[2:])) < self.AT_BORDER:
                return 0.0
            return float((weights * share).sum() / (weights * insides[number]).sum())

        return max(range(len(fits)), key=explained)


def _grey(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_h _w"]:
    """The picture in grey, its short side `SIDE` pixels."""
    cv2 = opencv()
    height, width = image.shape[:2]
    scale = SIDE / min(height, width)
    size = max(SIDE, round(width * scale)), max(SIDE, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=way)


def _even(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The picture with the same brightness and contrast everywhere, except where there is only noise.

    So flicker and fades do not look like motion, and a dark scene counts as much as a bright subject.
    """
    cv2 = opencv()
    light = grey.astype(np.float32)
    rest = light - cv2.GaussianBlur(light, (0, 0), EVEN_PX)
    contrast = np.sqrt(cv2.GaussianBlur(rest**2, (0, 0), EVEN_PX))
    return (MIDDLE + 40 * rest / (contrast + NOISE)).clip(0, 255).round().astype(np.uint8)


def _textured(grey: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels around which the brightness changes in every direction, so that their movement can be seen."""
    cv2 = opencv()
    block = 5
    least = cv2.cornerMinEigenVal(grey.astype(np.float32), block)  # sum over a block of (8/4/block gradient)²
    return least > (2 * GRADIENT) ** 2


def _grid(shape: tuple[int, ...]) -> Float32[np.ndarray, "h w 2"]:
    """The place of each pixel: x right, y down."""
    rows, columns = np.indices(shape, dtype=np.float32)
    return np.stack([columns, rows], axis=-1)


def _inside(points: Float32[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "h w"]:
    """Which points lie in a picture of as many pixels."""
    height, width = points.shape[:2]
    x, y = points[..., 0], points[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _laid_over(
    before: UInt8[np.ndarray, "h w"], after: UInt8[np.ndarray, "h w"], goal: Float32[np.ndarray, "h w 2"]
) -> tuple[UInt8[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """`after` where each pixel of `before` goes, and where that lies in the picture; `before` elsewhere."""
    cv2 = opencv()
    inside = _inside(goal)
    over = cv2.remap(after, goal, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside, over, before), inside


def _error(before: UInt8[np.ndarray, "h w"], over: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """How badly one picture fits the other around each pixel, in grey levels."""
    cv2 = opencv()
    return cv2.blur(cv2.absdiff(before, over).astype(np.float32), (9, 9))


def _on_map(
    flow: Float32[np.ndarray, "h w 2"], extent: tuple[float, float]
) -> Float32[np.ndarray, "_h _w 2"]:
    """The mean flow of each cell of the map, from pixels into units of its extent."""
    cv2 = opencv()
    height, width = flow.shape[:2]
    cells = cv2.resize(flow, (round(extent[0]), round(extent[1])), interpolation=cv2.INTER_AREA)
    return cells * np.array([extent[0] / width, extent[1] / height], np.float32)


def _better(error: Float32[np.ndarray, "h w"], other: Float32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Where something fits so much better than another thing that it is neither noise nor chance."""
    return error < BETTER * other - 1


class Raft:
    """RAFT of torchvision at 800 x 448 pixels, or at any shape with a short side of 448.

    The paper takes it for the stage of high quality. A second per pair on a CPU and more.
    """

    def __init__(self, network: Any) -> None:
        self.network = network

    def prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        """The picture as the network wants it: (1, 3, h, w) in [-1, 1]."""
        import torch

        cv2 = opencv()

        height, width = image.shape[:2]
        scale = RAFT_SIDE / min(height, width)
        size = [max(RAFT_SIDE, 8 * round(side * scale / 8)) for side in (width, height)]
        picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        device = next(self.network.parameters()).device
        return torch.from_numpy(picture).to(device).movedim(-1, 0)[None].float() / 127.5 - 1

    def between(self, before: Any, after: Any) -> Float32[np.ndarray, "h w 2"]:
        """The flow at a short side of 448 pixels."""
        import torch

        with torch.inference_mode():
            flow = self.network(before, after)[-1]
        return np.ascontiguousarray(flow[0].movedim(0, -1).float().cpu().numpy())


def _raft(weights: Path | None, device: str) -> Any:
    """The network with the published weights, in memory."""
    torch = require("torch", extra="curation", reason="raft")
    try:
        models = require("torchvision.models.optical_flow", extra="curation", reason="raft")
    except (ImportError, OSError, RuntimeError) as error:
        raise DependencyError(
            f"raft: torchvision is installed but does not load ({networks.line(error)}); install the one "
            "that belongs to this torch"
        ) from error
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / RAFT_FILE
    if not path.is_file():
        raise DependencyError(
            f"raft: {path} is not there; put {RAFT_FILE} there or download it: python -c 'from "
            'torchvision.models.optical_flow import raft_large; raft_large(weights="DEFAULT")\''
        )
    digest = runs.sha256(path)
    if not RAFT_FILE.removesuffix(".pth").endswith(f"-{digest[:8]}"):
        raise DependencyError(
            f"raft: {path} is not the published file (its SHA-256 begins with {digest[:8]}) and is not "
            "opened; download it again"
        )
    network = models.raft_large(weights=None)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return networks.placed(network, device)
