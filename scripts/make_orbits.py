"""Orbits around objects as sample folders, by the fast ray caster: training data for the bundled model.

    OMP_NUM_THREADS=1 python scripts/make_orbits.py data/objects.jsonl --out data/views --size 64

One thread is fastest, because all arrays are small. Finished sample folders are kept, so running it again
resumes. The front of an object is glTF's +Z; view 0 lies some degrees to either side of it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import raycast

from render.config import RenderConfig
from svd3d import console, sample
from svd3d.cameras import DEFAULT_VIEWS, Orbit
from svd3d.errors import Svd3dError
from svd3d.runs import atomic_folder, input_path, output_folder, read_lines

FRONT_DEG = -90.0
"""Azimuth of the front, glTF's +Z, which is -Y in the world."""


def generator_of(seed: int, uid: str) -> np.random.Generator:
    """Random numbers that depend on nothing but the seed and the uid."""
    digest = hashlib.sha256(f"{seed}:{uid}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def orbit_of(solid: raycast.Solid, args: argparse.Namespace, generator: np.random.Generator) -> Orbit:
    """A static orbit that holds the whole object."""
    if args.start_deg is None:
        azimuth = generator.uniform(0, 360)
    else:
        azimuth = FRONT_DEG + generator.choice([-1, 1]) * generator.uniform(*args.start_deg)
    orbit = Orbit.static(
        num_views=args.views,
        azimuth_deg=round(azimuth % 360, 3),
        elevation_deg=round(generator.uniform(*args.elevation_deg), 3),
    )
    return orbit.fitted(solid.vertices)


def make_sample(row: dict, uid: str, args: argparse.Namespace) -> sample.Sample:
    """One orbit around the object of a row of objects.jsonl."""
    generator = generator_of(args.seed, uid)
    solid = raycast.read(args.objects.parent / row["path"])
    orbit = orbit_of(solid, args, generator)
    sky = raycast.Sky.random(generator) if args.light == "random" else raycast.Sky.fixed()
    cameras = orbit.cameras(height=args.size, width=args.size)
    about = {key: row[key] for key in ("source", "sha256", "licence", "seed", "family") if key in row}
    return sample.Sample(
        uid=uid,
        cameras=cameras,
        images=raycast.render(solid, cameras, sky=sky, seed=int(generator.integers(2**32))),
        origin="rendered",
        orbit=orbit,
        object_to_world=solid.object_to_world,
        about={
            **about,
            "object": row["uid"],
            "light": sky.about(),
            "renderer": "scripts/raycast.py",
            "orbit_seed": args.seed,
        },
    )


def write_orbits(rows: list[dict], args: argparse.Namespace) -> Iterator[Path]:
    """Write the sample folders that are not there yet, one by one."""
    for row in rows:
        for number in range(args.orbits_per_object):
            uid = f"{row['uid']}-{number}" if number else row["uid"]
            folder = args.out / uid
            if not sample.is_sample(folder):
                with atomic_folder(folder) as place:
                    sample.write(make_sample(row, uid, args), place)
            yield folder


def start(text: str) -> float | None:
    """Degrees, or None for `any`."""
    return None if text == "any" else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Orbits around objects as sample folders.")
    parser.add_argument("objects", type=Path, help="objects.jsonl; mesh paths are relative to its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sample folders")
    parser.add_argument("--size", type=int, default=64, help="side of a picture in pixels")
    parser.add_argument("--views", type=int, default=DEFAULT_VIEWS, help="views of an orbit")
    parser.add_argument("--seed", type=int, default=0, help="of cameras and light")
    parser.add_argument("--limit", type=int, help="only the first N objects")
    parser.add_argument("--orbits-per-object", type=int, default=1, help="each with cameras of its own")
    parser.add_argument(
        "--elevation-deg", type=float, nargs=2, default=RenderConfig.elevation_deg, metavar=("LOW", "HIGH")
    )
    parser.add_argument(
        "--light", choices=("fixed", "random"), default="fixed", help="sky of svd3d render, or any"
    )
    parser.add_argument(
        "--start-deg",
        type=start,
        nargs="+",
        default=(25.0, 60.0),
        help="view 0 from the front, LOW HIGH or any",
    )
    args = parser.parse_args()
    if None in args.start_deg:
        args.start_deg = None
    elif len(args.start_deg) != 2:
        parser.error("--start-deg: give two angles, or any")
    try:
        output_folder(args.out)
        rows = read_lines(input_path(args.objects, what="list of objects"))[: args.limit]
        total = len(rows) * args.orbits_per_object
        for _ in console.progress(write_orbits(rows, args), label="orbits", total=total):
            pass
    except Svd3dError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
