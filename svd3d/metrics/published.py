"""Figures that others published, to stand beside ours with their source and protocol in the same table.

They compare with each other within one table only: one method differs by four decibels between tables.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd3d import config as configs
from svd3d.metrics.catalog import Kind

FILE = Path(__file__).resolve().parents[1] / "assets/published.yaml"
UNSTATED = {"lpips": "LPIPS, network not stated", "clip-s": "CLIP-S, model not stated"}
"""Columns of published tables that are no metric of ours, because the source leaves it open."""


@dataclass(frozen=True)
class Published:
    """One published table."""

    name: str
    source: str
    kind: Kind
    like: str
    """The protocol here that comes nearest."""
    protocol: str
    """What the source says about how it measured."""
    metrics: tuple[str, ...]
    digits: tuple[int, ...]
    """Decimals of each metric, as printed."""
    rows: tuple[tuple[Any, ...], ...]
    """The method and its figures, in the order of the metrics."""

    def figures(self) -> dict[str, dict[str, str]]:
        """The figures as printed, by method and metric."""
        printed = zip(self.metrics, self.digits, strict=True)
        columns = list(enumerate(printed, start=1))
        return {
            str(row[0]): {metric: f"{row[place]:.{digits}f}" for place, (metric, digits) in columns}
            for row in self.rows
        }


@dataclass(frozen=True)
class _File:
    tables: tuple[Published, ...]


@functools.cache
def tables(kind: Kind) -> tuple[Published, ...]:
    """All published tables of views or of meshes."""
    content = configs.build(_File, configs.read_recipe(_File, FILE), where=str(FILE))
    return tuple(table for table in content.tables if table.kind == kind)
