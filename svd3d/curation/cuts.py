"""Where shots begin and end: a cascade of PySceneDetect detectors, each suspicion judged on small pictures.

The paper runs three detectors at different frame rates and thresholds, so that slow transitions are caught
too, and does not give the figures. Here they are:

    every frame    AdaptiveDetector, 3 times the surroundings    hard cuts, also in moving shots
    8 a second     ContentDetector, 20 levels                    short dissolves, cuts in turmoil
    2 a second     ContentDetector, 10 levels                    long dissolves
    every frame    ThresholdDetector, 12 and 243 levels          fades through black and white

At low rates a pan looks like a cut, and a flash looks like two at any rate, so no detector has the last
word. Around a suspicion let A be the old shot, B the new one, and split each frame: f = A + α(B − A) + rest.
Over a dissolve α climbs from 0 to 1 and little is left; over a cut it jumps; over a pan, or something that
passes, much is left; after a flash B is A again. The same α tells which frames are blended.
"""

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from svd3d.curation.video import Frame
from svd3d.errors import require

DETECTOR_WIDTH = 256
"""Pixels across what the detectors see, as PySceneDetect does by itself."""
SMALL = (32, 18)
"""Width and height of the pictures on which suspicions are judged; small movements vanish in them."""
REACHES_S = (0.2, 0.4, 0.8, 1.6, 2.4)
"""How far from a suspicion pure frames of both shots are looked for, nearest first."""
SLACK_S = 1e-4
"""A frame that is early by so little is in time for a low rate."""
MAX_RATE = 120.0
"""Frames per second that fit the memory; of a film in slow motion, less time does."""
FLASH_S = 0.5
"""A picture that comes back within this time was interrupted by a flash or a dropout."""
FLASH_LEVELS = 20.0
"""How much brighter or darker a flash is; levels are of 255."""
DARK, BRIGHT = 12, 243
"""Mean levels below and above which a picture is faded out."""
PLAIN = 12.0
"""Standard deviation in levels up to which a picture shows nothing."""
BRIGHTNESS = 0.8
"""Share of a change from which on it is mostly one of brightness."""
SHIFT = 3
"""Pixels of a small picture by which the camera may have moved between two that are compared."""
SAME = 0.5
"""Correlation of details, one picture shifted, from which on two pictures are of one shot."""
ALIKE, ALIKE_DETAILS = 0.5, 0.2
"""Correlation of pictures and of details from which on a dissolve cannot be told from movement."""
PURE = 0.1
"""How far α may be from 0 or 1 in frames that are not blended: movement changes it a little."""
STEADY = 0.3
"""How far it may be before and after the transition."""
REST = 0.35
"""Most of the difference of two shots that may be left of their blend."""
BACK = 0.35
"""Most of the change in brightness by a flash that may be left after it."""
SOONER = 0.6
"""Share of the frames looked at in which a fade must have ended."""
NEAR = 3
"""Frames around a hard cut that may be blended."""
RECENT = 32
"""Suspected hard cuts that are remembered."""
ENDS = 2
"""Frames that must be pure at both ends of where a dissolve is looked for."""
PADDING = 2
"""Frames before the first and after the last that an AdaptiveDetector needs to judge those."""


@dataclass(frozen=True)
class Transition:
    """One shot gives way to another. Frames before `first` and from `end` on are pure."""

    kind: Literal["cut", "dissolve", "fade"]
    first: int
    """First frame that is not purely of the old shot."""
    cut: int
    """From here on the new shot prevails: its first frame after a hard cut or a fade."""
    end: int
    """First frame that is purely of the new shot; `first` itself in a clean cut."""


class _Suspicion(NamedTuple):
    """Something happens after frame `before` and until frame `after`."""

    kind: Literal["cut", "change", "fade out", "fade in"]
    before: int
    after: int


class CutDetector:
    """Finds cuts and transitions of a video from all its frames; memory does not grow with the pictures.

    `fps` is the average rate. The results are complete after `end`.
    """

    def __init__(self, fps: float) -> None:
        self.cuts: list[int] = []
        """Where new shots begin, ascending: `Transition.cut` of each transition."""
        self.transitions: list[Transition] = []
        """Ascending, none touching another."""
        self._cv2 = require("cv2", extra="curation", reason="finding cuts")
        rate = min(fps, MAX_RATE)
        self._reaches = [max(5, round(reach * rate)) for reach in REACHES_S]
        self._flash = max(2, round(FLASH_S * rate))
        self._window = _Window(3 * self._reaches[-1] + PADDING)
        self._watches = _cascade(fps)
        self._suspicions: list[_Suspicion] = []
        self._found: list[Transition] = []
        self._settled: deque[int] = deque(maxlen=RECENT)
        """Frames last judged by themselves, which explain what low rates see later."""
        self._fade: Transition | None = None
        """A fade-out that waits for its fade-in."""
        self._last: tuple[Frame, np.ndarray, np.ndarray] | None = None

    def see(self, frame: Frame) -> None:
        """Take the next frame."""
        cv2, (height, width) = self._cv2, frame.image.shape[:2]
        scale = min(1.0, DETECTOR_WIDTH / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.cvtColor(cv2.resize(frame.image, size), cv2.COLOR_RGB2BGR)
        small = cv2.resize(image, SMALL, interpolation=cv2.INTER_AREA)
        self._window.append(small)
        if self._last is None:
            self._watch(frame, image, small, times=PADDING)
            if small.std() < PLAIN and not DARK <= small.mean() < BRIGHT:
                self._fade = Transition("fade", 0, 0, 0)
        self._watch(frame, image, small)
        self._last = frame, image, small
        self._judge(until=frame.index - self._reaches[-1])

    def end(self) -> None:
        """The video has ended: judge what is left and put the results in order."""
        if self._last is None:
            return
        self._watch(*self._last, times=PADDING)
        frame = self._last[0]
        self._judge(until=frame.index)
        if self._fade is not None:
            self._found.append(Transition("fade", self._fade.first, self._fade.cut, frame.index + 1))
        self.transitions = _merged(self._found)
        self.cuts = [transition.cut for transition in self.transitions]

    def _watch(self, frame: Frame, image: np.ndarray, small: np.ndarray, *, times: int = 1) -> None:
        for watch in self._watches:
            for _ in range(times if watch.per_s is None else 1):
                self._suspicions.extend(watch.see(frame, small if watch.small else image))

    def _judge(self, *, until: int) -> None:
        """Settle the suspicions about frames up to `until`, around which the window reaches far enough."""
        due = [each for each in self._suspicions if each.after <= until]
        self._suspicions = [each for each in self._suspicions if each.after > until]
        for suspicion in sorted(due, key=lambda each: (each.after, each.kind != "cut")):
            if suspicion.kind == "cut":
                self._found += self._cut(suspicion.after)
            elif suspicion.kind == "change":
                self._found += self._change(suspicion.before, suspicion.after)
            else:
                self._found += self._fading(suspicion)

    def _cut(self, cut: int) -> list[Transition]:
        """The hard cut before a frame, unless the same shot goes on or comes back at once."""
        self._settled.append(cut)
        frames = self._window.floats(cut - NEAR, cut + NEAR)
        offset = max(cut - NEAR, self._window.first)
        if _similarity(frames[0], frames[-1]) > SAME or self._is_flash(cut):
            return []
        alpha, rest = _split(frames, frames[0], frames[-1])
        blended = (alpha > PURE) & (alpha < 1 - PURE) & (rest < REST)
        first = end = cut - offset
        while first > 1 and blended[first - 1]:
            first -= 1
        while end < len(frames) and blended[end]:
            end += 1
        return [Transition("cut", offset + first, cut, offset + end)]

    def _is_flash(self, cut: int) -> bool:
        """Whether a picture is interrupted here by one that is much brighter or darker."""
        frames = self._window.floats(cut - self._flash, cut + self._flash)
        cut -= max(cut - self._flash, self._window.first)
        for base, peak, others in (
            (frames[cut - 1], frames[cut], frames[cut + 1 :]),
            (frames[cut], frames[cut - 1], frames[: cut - 1]),
        ):
            flashes = abs(peak.mean() - base.mean()) > FLASH_LEVELS
            if flashes and _comes_back(base, peak=peak, others=others):
                return True
        return False

    def _change(self, before: int, after: int) -> list[Transition]:
        """The dissolve or cut that explains what low rates saw, if the frames around it say so."""
        if any(before < cut <= after for cut in self._settled):
            return []
        for reach in self._reaches:
            offset = max(before - reach, self._window.first)
            frames = self._window.floats(offset, after + reach)
            if frames[[0, -1]].std(-1).min() < PLAIN or _similarity(frames[0], frames[-1]) > SAME:
                continue
            frames = _in_one_light(frames)
            found = _dissolve(frames, alike=ALIKE) or _dissolve(_details(frames), alike=ALIKE_DETAILS)
            if found is not None:
                first, cut, end = (offset + frame for frame in found)
                return [Transition("dissolve", first, cut, end)] if end - first > NEAR else self._cut(cut)
        return []

    def _fading(self, suspicion: _Suspicion) -> list[Transition]:
        """A fade-out waits for its fade-in, which makes one transition of both."""
        near = self._window.floats(suspicion.before - NEAR, suspicion.after + NEAR)
        plain = near[np.argmin(near.std(-1))]
        if plain.std() > PLAIN:
            return []
        if suspicion.kind == "fade out":
            first = suspicion.before - self._climb(suspicion.before, plain, step=-1) + 1
            self._fade = Transition("fade", first, suspicion.after, suspicion.after)
            return []
        fade, self._fade = self._fade, None
        if fade is None:
            return []
        end = suspicion.after + self._climb(suspicion.after, plain, step=1)
        sudden = fade.cut - fade.first <= NEAR and suspicion.after - fade.cut <= self._flash
        if sudden and fade.first > self._window.first:
            base, *_ = self._window.floats(fade.first - 1, fade.first)
            others = self._window.floats(suspicion.after, suspicion.after + self._flash)
            if _comes_back(base, peak=plain, others=others):
                return []
        return [Transition("fade", fade.first, suspicion.after, end)]

    def _climb(self, start: int, plain: Float[np.ndarray, "d"], *, step: Literal[1, -1]) -> int:
        """How many frames from `start`, forwards or backwards, are not purely of the shot that follows."""
        for reach in self._reaches[1:]:
            limits = (start, start + reach) if step > 0 else (start - reach + 1, start + 1)
            light = np.linalg.norm(self._window.floats(*limits)[::step] - plain, axis=1)
            light /= light[-ENDS:].mean() + 1e-6
            blended = int(np.argmax(light > 1 - PURE))
            if blended < SOONER * len(light) and light[blended:].min() > 1 - STEADY:
                return blended + int(np.ceil(3 * PURE * blended))
        return 0


class _Watch:
    """A detector that sees every frame, or some of them, and what it makes one suspect."""

    def __init__(
        self, kind: Any, detector: Any, fps: float, *, per_s: float | None = None, small: bool = False
    ) -> None:
        self.kind, self.detector, self.fps, self.per_s, self.small = kind, detector, fps, per_s, small
        self._before, self._next_s = 0, 0.0

    def see(self, frame: Frame, image: UInt8[np.ndarray, "h w 3"]) -> list[_Suspicion]:
        """Suspicions that arise with a frame."""
        from scenedetect.common import FrameTimecode

        if self.per_s is not None:
            if frame.time_s < self._next_s:
                return []
            self._next_s = frame.time_s + 1 / self.per_s - SLACK_S
        found = self.detector.process_frame(FrameTimecode(frame.index, fps=self.fps), image)
        at = [each.frame_num for each in found]
        before, self._before = self._before, frame.index
        if self.per_s is not None:
            return [_Suspicion(self.kind, before, after) for after in at]
        return [_Suspicion(self.kind, after - 1, after) for after in at if after > 0]


def _cascade(fps: float) -> list[_Watch]:
    require("scenedetect", extra="curation", reason="finding cuts")
    from scenedetect.detectors import AdaptiveDetector, ContentDetector, ThresholdDetector

    below, above = ThresholdDetector.Method.FLOOR, ThresholdDetector.Method.CEILING

    def crosses(level: int, method: Any) -> Any:
        """Tells the frame in which the mean level comes back from below or above a threshold."""
        return ThresholdDetector(threshold=level, method=method, min_scene_len=0, fade_bias=1.0)

    return [
        _Watch("cut", AdaptiveDetector(min_scene_len=0, window_width=PADDING), fps),
        _Watch("change", ContentDetector(threshold=20, min_scene_len=0), fps, per_s=8),
        _Watch("change", ContentDetector(threshold=10, min_scene_len=0), fps, per_s=2),
        _Watch("fade out", crosses(DARK, above), fps, small=True),
        _Watch("fade in", crosses(DARK, below), fps, small=True),
        _Watch("fade out", crosses(BRIGHT, below), fps, small=True),
        _Watch("fade in", crosses(BRIGHT, above), fps, small=True),
    ]


class _Window:
    """The last small pictures of a video, by frame number."""

    def __init__(self, length: int) -> None:
        self._pictures: deque[np.ndarray] = deque(maxlen=length)
        self.end = 0

    @property
    def first(self) -> int:
        """The oldest frame that is remembered."""
        return self.end - len(self._pictures)

    def append(self, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Remember the next frame."""
        self._pictures.append(picture)
        self.end += 1

    def floats(self, first: int, end: int) -> Float[np.ndarray, "n d"]:
        """Frames from `first` to before `end`, as far as they are remembered, one in a row."""
        first, end = max(first, self.first), min(end, self.end)
        pictures = islice(self._pictures, first - self.first, max(first, end) - self.first)
        rows = [picture.ravel() for picture in pictures]
        return np.array(rows, np.float32).reshape(len(rows), SMALL[0] * SMALL[1] * 3)


def _split(
    frames: Float[np.ndarray, "n d"], old: Float[np.ndarray, "d"], new: Float[np.ndarray, "d"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """α of each frame, and what is left of it as a share of the difference of the two."""
    difference = new - old
    length = np.linalg.norm(difference) + 1e-6
    alpha = (frames - old) @ difference / length**2
    return alpha, np.linalg.norm(frames - old - alpha[:, None] * difference, axis=1) / length


def _in_one_light(frames: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """The pictures, of one brightness and contrast if it is mostly their brightness that changes."""
    change = frames[-1] - frames[0]
    if abs(change.mean()) < BRIGHTNESS * np.abs(change).mean():
        return frames
    return (frames - frames.mean(-1, keepdims=True)) / (frames.std(-1, keepdims=True) + 1)


def _details(frames: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Pictures without their large patches of light, which many shots have in common."""
    cv2, (width, height) = require("cv2", extra="curation", reason="finding cuts"), SMALL
    pictures = frames.reshape(-1, height, width, 3)
    patches = [cv2.GaussianBlur(picture, (0, 0), width / 16) for picture in pictures]
    return (pictures - np.array(patches)).reshape(frames.shape)


def _dissolve(frames: Float[np.ndarray, "n d"], *, alike: float) -> tuple[int, int, int] | None:
    """First, middle and end of the transition in frames that begin and end in pure shots, if there is one.

    Shots differ if the correlation of two pictures is below `alike`.
    """
    if len(frames) < 2 * ENDS + 2:
        return None
    old, new = frames[:ENDS].mean(0), frames[-ENDS:].mean(0)
    if _correlation(old, new) > alike:
        return None
    alpha, rest = _split(frames, old, new)
    middle = int(np.argmax(alpha >= 0.5))
    if middle == 0:
        return None
    low = middle - 1 - int(np.argmax(alpha[:middle][::-1] < PURE))
    high = middle + int(np.argmax(alpha[middle:] > 1 - PURE))
    ramp = slice(low, high + 1)
    if (
        not alpha[low] < PURE
        or not alpha[high] > 1 - PURE
        or alpha[:low].max(initial=0) > STEADY
        or alpha[high:].min(initial=1) < 1 - STEADY
        or rest[ramp].mean() > REST
        or np.diff(alpha[ramp]).min() < -PURE
    ):
        return None
    slope = (alpha[high] - alpha[low]) / (high - low)
    margin = 0.1 * (high - low - 1)
    first = int(np.floor(low + 1 - max(0.0, alpha[low]) / slope - margin)) if high - low > 1 else high
    end = int(np.ceil(high + max(0.0, 1 - alpha[high]) / slope + margin)) if high - low > 1 else high
    if first < ENDS or end > len(frames) - ENDS:
        return None
    return first, middle, end


def _comes_back(
    base: Float[np.ndarray, "d"], *, peak: Float[np.ndarray, "d"], others: Float[np.ndarray, "n d"]
) -> bool:
    """Whether one of the other frames shows the base again, as bright as before the peak."""
    left = np.abs(others.mean(-1) - base.mean()) < BACK * abs(peak.mean() - base.mean())
    return any(_similarity(base, other) > SAME for other in others[left])


def _similarity(one: Float[np.ndarray, "d"], other: Float[np.ndarray, "d"]) -> float:
    """The best correlation of the details in the middle of one picture with another's, over small shifts."""
    cv2, (width, height) = require("cv2", extra="curation", reason="finding cuts"), SMALL
    middle, whole = _details(np.stack([one, other])).reshape(2, height, width, 3)
    middle = np.ascontiguousarray(middle[SHIFT:-SHIFT, SHIFT:-SHIFT])
    return float(cv2.matchTemplate(whole, middle, cv2.TM_CCOEFF_NORMED).max())


def _correlation(one: Float[np.ndarray, "d"], other: Float[np.ndarray, "d"]) -> float:
    """Of two pictures: 1 for the same up to brightness and contrast; of plain ones 1 if they are equal."""
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other) + 1e-6))


def _merged(found: list[Transition]) -> list[Transition]:
    """Transitions in order; of those that touch, the longest gives the kind; dissolves yield to fades."""
    fades = [each for each in found if each.kind == "fade"]
    merged: list[Transition] = []
    for each in sorted(found, key=lambda transition: (transition.first, transition.end)):
        if each.kind == "dissolve" and any(
            each.first <= fade.end and fade.first <= each.end for fade in fades
        ):
            continue
        if merged and each.first <= merged[-1].end:
            last = merged.pop()
            longest = max(last, each, key=lambda transition: transition.end - transition.first)
            each = Transition(longest.kind, last.first, longest.cut, max(last.end, each.end))
        merged.append(each)
    return merged
