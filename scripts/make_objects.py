"""Procedural objects of chosen families: GLB files and their objects.jsonl, seeded, no two alike.

python scripts/make_objects.py --families car furniture --count 100 --seed 0 --out data
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

from objects import base, families

from svd3d import runs

SOURCE = "svd3d/scripts/make_objects.py"
LICENCE = "CC0-1.0"
PROGRESS_EVERY_S = 10.0


def content(glb: bytes) -> str:
    """A digest of the geometry and textures of a GLB, whatever it is called: of its binary chunk."""
    header = 20 + int.from_bytes(glb[12:16], "little")  # file header, chunk header, JSON
    return hashlib.sha256(glb[header:]).hexdigest()


def make_new(family: str, number: int, uid: str, seen: dict[str, str]) -> bytes:
    """GLB bytes of an object that equals none of `seen` (digest -> uid); a repeat is drawn again."""
    attempt = 0
    while True:
        glb = base.to_glb(families.make(family, number, attempt), name=uid)
        if (twin := seen.get(content(glb))) is None:
            return glb
        attempt += 1
        print(f"{uid}: equals {twin}, drawn again ({attempt})", file=sys.stderr)


def write_objects(*, names: list[str], count: int, seed: int, out: Path) -> Path:
    """Write `count` objects, the families in turn, and objects.jsonl last; returns its path.

    Object i is number seed + i // families of its family, so that the first few are as mixed as all. Files
    that exist are kept.
    """
    (out / "objects").mkdir(parents=True, exist_ok=True)
    rows, seen, made = [], {}, 0
    started = said = time.monotonic()
    for index in range(count):
        turn, place = divmod(index, len(names))
        family, number = names[place], seed + turn
        uid = f"{family}-{number:06d}"
        path = Path("objects") / f"{uid}.glb"
        if (out / path).exists():
            glb = (out / path).read_bytes()
        else:
            glb = make_new(family, number, uid, seen)
            runs.write_file(out / path, glb)
            made += 1
        seen[content(glb)] = uid
        row = {"uid": uid, "path": path.as_posix(), "sha256": hashlib.sha256(glb).hexdigest()}
        row |= {"bytes": len(glb), "licence": LICENCE, "source": SOURCE, "seed": number, "family": family}
        rows.append(json.dumps(row))
        if made and time.monotonic() - said > PROGRESS_EVERY_S:
            said = time.monotonic()
            left = (count - index - 1) * (said - started) / made
            print(f"{index + 1} of {count} objects, {left / 60:.1f} min left", file=sys.stderr)
    listing = out / "objects.jsonl"
    runs.write_file(listing, "".join(f"{row}\n" for row in rows).encode())
    return listing


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write procedural objects as GLB files and an objects.jsonl."
    )
    parser.add_argument(
        "--families",
        nargs="+",
        choices=list(families.FAMILIES),
        default=["car", "furniture"],
        metavar="FAMILY",
        help=f"one or more of {', '.join(families.FAMILIES)}",
    )
    parser.add_argument("--count", type=int, required=True, help="number of objects of all families together")
    parser.add_argument(
        "--seed", type=int, default=0, help="number of the first of each family; the next count up"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    names = list(dict.fromkeys(args.families))
    listing = write_objects(names=names, count=args.count, seed=args.seed, out=args.out)
    print(
        f"wrote {args.count} objects and {listing}\nnext: scripts/make_orbits.py {listing}", file=sys.stderr
    )


if __name__ == "__main__":
    main()
