"""What a row of a latent cache holds, told once for writing and reading."""

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

AT_MOST = 3
"""Of a column that holds as many values as there are: a clip has three captions."""


class Column(NamedTuple):
    """The type of one field of a row."""

    kind: str
    """string, int64, float16 or float32, as Arrow calls them."""
    size: tuple[int | None, ...] = ()
    """Shape of an array, whose first side may be None: as many as there are; () for a single value."""
    plain: bool = False
    """Whether a list is read as a tuple, not as a tensor."""

    @property
    def bytes(self) -> int:
        """How long it is on disk, nearly; without text."""
        count = math.prod(AT_MOST if side is None else side for side in self.size)
        return count * {"float16": 2, "float32": 4, "int64": 8}.get(self.kind, 0)

    def read(self, column: pa.ChunkedArray) -> Any:
        """The value in a column of one row: tensors are float32."""
        if not self.size:
            return column[0].as_py()
        if self.kind == "string":
            return tuple(column[0].as_py())
        values = _flat(column)
        if self.plain:
            return tuple(values.tolist())
        size = [-1 if side is None else side for side in self.size]
        return torch.from_numpy(values.astype(np.float32).reshape(size))

    def zero(self) -> Any:
        """In place of a value that cannot be read."""
        if not self.size:
            return "" if self.kind == "string" else 0.0
        size = [side or 0 for side in self.size]
        nothing = torch.zeros(size, dtype=torch.int64 if self.kind == "int64" else torch.float32)
        return tuple(nothing.tolist()) if self.plain else nothing


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """All numbers of a column of nested lists of one row."""
    values: Any = column.chunk(0)
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False)
