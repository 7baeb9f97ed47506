"""How much of a picture is text: the paper's measure against subtitles, logos and slides (SVD, appendix C).

Text is found by the detector of PP-OCR (differentiable binarization, Liao et al. 2020) through RapidOCR,
whose package holds the weights: nothing is downloaded. The paper used CRAFT, whose weights are pickles.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from svd3d.curation import networks
from svd3d.errors import DependencyError, require

TEXT_SHARE = 0.07
"""Of the frame: with more text than this a clip was dropped (SVD, appendix C)."""
BOX_SCORE = 0.6
"""Mean probability of text in a box from which it counts; PP-OCR's own default. RapidOCR's, 0.5, finds text
in the fur of a rabbit."""
TALLEST_LINE = 0.5
"""Of the frame's short side; the detector takes a single object before a plain wall for one huge letter."""
LONG_SIDE = 2000
"""Pixels; larger pictures are reduced before they are searched."""


class TextDetector:
    """Finds the quadrilaterals around lines of text, of any script and direction."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    @classmethod
    def load(cls, *, threads: int = 1) -> "TextDetector":
        """The detector on the CPU. Raises `DependencyError` where its packages are missing or do not load."""
        for package in ("onnxruntime", "shapely"):
            _imported(package)
        settings = {
            "Global.use_cls": False,
            "Global.use_rec": False,
            "Global.log_level": "critical",  # else each picture without text is a warning
            "Global.max_side_len": LONG_SIDE,
            "Det.limit_type": "min",
            "Det.limit_side_len": 32,  # search the picture as it is, do not enlarge it
            "Det.box_thresh": BOX_SCORE,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
        try:
            detector = cls(_imported("rapidocr").RapidOCR(params=settings))
            detector.area([np.zeros((32, 32, 3), np.uint8)])  # weights are read at the first picture
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise DependencyError(
                f"text: the detector of rapidocr does not load ({networks.line(error)}); "
                "install it again with: pip install 'rapidocr>=3.10'"
            ) from error
        return detector

    def area(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[float]:
        """The part of each RGB picture inside the quadrilaterals around text, 0 to 1; overlaps count once."""
        return [covered(self.boxes(image), *image.shape[:2]) for image in images]

    def boxes(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "n 4 2"]:
        """The corners (x, y) in pixels of each quadrilateral around text, clockwise from the top left."""
        found = self.engine(np.ascontiguousarray(image[..., ::-1])).boxes
        if found is None:
            return np.empty((0, 4, 2))
        boxes = np.asarray(found, np.float64)
        sides = np.linalg.norm(boxes - np.roll(boxes, 1, axis=1), axis=-1)
        return boxes[sides.min(axis=1) <= TALLEST_LINE * min(image.shape[:2])]


def covered(boxes: Float[np.ndarray, "n 4 2"], height: int, width: int) -> float:
    """The part of a frame inside the union of convex quadrilaterals, whose corners (x, y) are pixels.

    >>> box = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 5.0], [0.0, 5.0]])
    >>> covered(np.stack([box, box + [2.0, 0.0]]), 10, 10)
    0.3
    """
    import shapely

    union = shapely.union_all(shapely.convex_hull(shapely.polygons(boxes)))
    return shapely.intersection(union, shapely.box(0, 0, width, height)).area / (height * width)


def _imported(package: str) -> Any:
    """A package that has compiled parts."""
    try:
        return require(package, extra="curation", reason="text")
    except (ImportError, OSError) as error:
        raise DependencyError(
            f"text: {package} is installed but does not load ({networks.line(error)}); install it again"
        ) from error
