"""Makers of small test videos: known frames in, a file of any codec, rate, rotation and key frames out."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

PICTURES = (
    "triposr_hamburger.png",
    "instantmesh_chair_armed.png",
    "triposr_teapot.png",
    "instantmesh_cake.jpg",
    "triposr_robot.png",
)


@pytest.fixture(scope="session")
def write_video():
    """A function that writes a video from RGB frames, each with its own time if `times_s` is given.

    `gop` is the number of frames from key frame to key frame; key frames come nowhere else unless
    `scene_keys` is set (then the encoder also puts them where it sees a cut). `options` go to the encoder.
    """
    av = pytest.importorskip("av")

    def write(
        path: Path,
        frames,
        *,
        fps: int | Fraction = 25,
        codec: str = "libx264",
        pixel_format: str = "yuv420p",
        gop: int = 12,
        bframes: int = 2,
        scene_keys: bool = False,
        rotation_deg: int = 0,
        times_s=None,
        quality: int = 18,
        options: dict[str, str] | None = None,
    ) -> Path:
        settings = {"threads": "1"}
        if codec.startswith("libx26"):
            settings |= {"crf": str(quality), "preset": "ultrafast", "bf": str(bframes)}
        if codec == "libx264" and not scene_keys:
            settings |= {"sc_threshold": "0"}
        time_base = 1 / Fraction(fps) if times_s is None else Fraction(1, 90000)
        with av.open(f"file:{path}", "w") as container:
            stream = container.add_stream(codec, rate=Fraction(fps), options=settings | (options or {}))
            stream.pix_fmt, stream.gop_size = pixel_format, gop
            stream.height, stream.width = frames[0].shape[:2]
            stream.codec_context.time_base = time_base
            if rotation_deg:
                stream.set_display_rotation(rotation_deg)
            for index, image in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                picture.pts = index if times_s is None else round(times_s[index] / time_base)
                picture.time_base = time_base
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def make_texture():
    """A function that makes a picture with detail at all scales (pink noise in colour), by seed."""

    def make(seed: int, *, height: int = 180, width: int = 320):
        generator = np.random.default_rng(seed)
        rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
        spectrum = 1 / np.maximum(np.hypot(rows, columns), 1 / width)
        noise = [generator.standard_normal((height, width)) for _ in range(3)]
        planes = np.stack([np.fft.irfft2(np.fft.rfft2(n) * spectrum, s=(height, width)) for n in noise], -1)
        planes = planes / planes.std() * 45 + generator.uniform(80, 176, 3)
        return planes.clip(0, 255).round().astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def make_scene(make_texture):
    """A function that makes the frames of a shot: a camera that moves `speed_px` per frame over a texture.

    The movement is exact (whole pixels), the shot of a seed always the same; `brightness` multiplies it.
    """

    def make(
        seed: int, count: int, *, speed_px: int = 0, height: int = 180, width: int = 320, brightness=1.0
    ):
        wide = make_texture(seed, height=height, width=width + abs(speed_px) * count)
        offsets = [
            index * speed_px if speed_px >= 0 else (index - count) * speed_px for index in range(count)
        ]
        shot = np.stack([wide[:, offset : offset + width] for offset in offsets])
        return (shot * brightness).round().astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def pictures(shared_data):
    """Real photographs and renders over plain colours, RGB of 180 x 320; skips without the shared data."""
    from PIL import Image, ImageOps

    found = []
    for name in PICTURES:
        with Image.open(shared_data / "inputs" / name) as picture:
            whole = picture.convert("RGBA")
        flat = Image.new("RGBA", whole.size, (40 + 30 * len(found), 120, 200 - 35 * len(found), 255))
        flat.alpha_composite(whole)
        found.append(np.asarray(ImageOps.fit(flat.convert("RGB"), (320, 180))))
    return found


@pytest.fixture(scope="session")
def scenes(shared_data):
    """Real surroundings, RGB of 720 x 2048: two rooms and a town; skips without the shared data."""
    cv2 = pytest.importorskip("cv2")

    found = []
    for name in ("empty_warehouse_01_1k", "lebombo_1k", "venice_sunset_1k"):
        light = cv2.imread(str(shared_data / "hdri" / f"{name}.hdr"), cv2.IMREAD_UNCHANGED)[100:460]
        light = light / np.percentile(light, 90)
        tones = (255 * (light / (1 + light / 3)).clip(0, 1) ** (1 / 2.2)).astype(np.uint8)
        found.append(cv2.resize(tones[..., ::-1], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
    return found


@pytest.fixture(scope="session")
def film():
    """A function that films a picture with an exact camera: frames sampled at 2 fps, the middle one centred.

    Speeds are per second: pan in widths (right), tilt in heights (up), zoom in doublings, roll in degrees
    (clockwise). With `fov_deg` the camera turns as a pinhole, else it shifts. `subject` is a picture that
    moves over the scene by `subject_speed` widths and heights per second and fills `subject_share` of it.
    """
    cv2 = pytest.importorskip("cv2")

    def homography(width, height, fov_deg, pan=0.0, tilt=0.0, zoom=0.0, roll=0.0):
        angle = np.deg2rad(roll)
        spin = np.diag([2**-zoom, 2**-zoom, 1.0]) @ [
            [np.cos(angle), -np.sin(angle), 0],
            [np.sin(angle), np.cos(angle), 0],
            [0, 0, 1],
        ]
        if fov_deg is None:
            return np.array([[1, 0, pan * width], [0, 1, -tilt * height], [0, 0, 1]]) @ spin
        focal = width / 2 / np.tan(np.deg2rad(fov_deg) / 2)
        yaw, pitch = pan * width / focal, tilt * height / focal
        right = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
        up = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
        lens = np.diag([focal, focal, 1])
        return lens @ right @ up @ np.linalg.inv(lens) @ spin

    def make(
        picture,
        *,
        count: int = 4,
        height: int = 144,
        width: int = 256,
        fov_deg: float | None = None,
        subject=None,
        subject_share: float = 0.3,
        subject_speed: tuple[float, float] = (0.15, 0.1),
        noise: float = 0.0,
        flicker: float = 0.0,
        seed: int = 0,
        **speeds: float,
    ):
        generator = np.random.default_rng(seed)
        centre = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1]])
        middle = np.array([[1, 0, picture.shape[1] / 2], [0, 1, picture.shape[0] / 2], [0, 0, 1]])
        side = np.sqrt(subject_share)
        cut = None if subject is None else cv2.resize(subject, (round(side * width), round(side * height)))
        frames = []
        for index in range(count):
            time_s = (index - (count - 1) / 2) / 2
            pose = homography(width, height, fov_deg, **{name: time_s * v for name, v in speeds.items()})
            way = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            seen = cv2.warpPerspective(
                picture, middle @ pose @ centre, (width, height), flags=way, borderMode=cv2.BORDER_REFLECT_101
            )
            if cut is not None:
                x, y = (0.5 - side / 2 + time_s * np.array(subject_speed)) * [width, height]
                shift = np.float32([[1, 0, x], [0, 1, y]])
                seen = cv2.warpAffine(cut, shift, (width, height), seen, borderMode=cv2.BORDER_TRANSPARENT)
            light = 1 + flicker * generator.uniform(-1, 1)
            grainy = seen * light + noise * generator.standard_normal(seen.shape)
            frames.append(grainy.clip(0, 255).round().astype(np.uint8))
        return frames

    return make


@pytest.fixture(scope="session")
def real_videos(shared_data):
    """Folder of real videos with `TRUTH.json`; skips without the shared data."""
    return shared_data / "videos"
