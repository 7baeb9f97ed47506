"""The file from which a killed fit goes on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from svd3d.runs import output_folder, write_file


@dataclass(frozen=True)
class Unfinished:
    """One file of tensors, and the digest of what is fitted: the state of another fit is not gone on from."""

    path: Path | None
    """None: nothing is kept."""
    key: str

    @classmethod
    def of(cls, path: Path | None, settings: Sequence[object], *arrays: np.ndarray) -> "Unfinished":
        """The file of the fit with these settings (JSON types) to these arrays."""
        digest = hashlib.sha256(json.dumps(settings).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        return cls(path, digest.hexdigest())

    def save(self, tensors: Mapping[str, Tensor], **about: object) -> None:
        """Replace the file, atomically; its folder is made. `about` is JSON types."""
        if self.path is None:
            return
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"svd3d.unfinished": json.dumps({"key": self.key, **about})}
        output_folder(self.path.parent)
        write_file(self.path, to_bytes(content, metadata=metadata))

    def restored(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """`about` and the tensors as saved; None when there is no whole file of this very fit."""
        if self.path is None or not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("svd3d.unfinished", "{}"))
                if about.get("key") != self.key:
                    return None
                return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError):
            return None
