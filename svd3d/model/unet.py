"""What the vector condition of diffusers' UNet lacks: numbers that are not known, and a vector per view.

A number that is not known (NaN) is embedded as zeros, which no sinusoid is: the columns of the first layer
that belong to it add nothing and get no gradient.

SV3D_p tells every view its own camera. Three hooks let such vectors [b, v, d] pass through the stock
`forward`, which is neither copied nor replaced; there is no new weight and no new class, so checkpoints,
adapters and wrappers see the UNet that they know.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.embeddings import Timesteps
from jaxtyping import Float
from torch import Tensor, nn


class KnownTimesteps(Timesteps):
    """Sinusoids of numbers as in stock SVD; zeros for those that are not known (NaN)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, flip_sin_to_cos=True, downscale_freq_shift=0)

    def forward(self, numbers: Float[Tensor, "n"]) -> Float[Tensor, "n _width"]:  # type: ignore[override]
        """A row for each number."""
        return super().forward(numbers).masked_fill(numbers.isnan()[:, None], 0)


class Sinusoids(nn.Module):
    """Sinusoids of several widths for rows of numbers: `len(widths)` numbers a row to sum(widths)."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.columns = nn.ModuleList(KnownTimesteps(width) for width in widths)

    def forward(self, numbers: Float[Tensor, "_n"]) -> Float[Tensor, "_rows _width"]:
        """All rows, which come flattened."""
        rows = numbers.unflatten(0, (-1, len(self.columns)))
        return torch.cat([embed(rows[:, i]) for i, embed in enumerate(self.columns)], dim=1)


def per_view(
    unet: UNetSpatioTemporalConditionModel, *, widths: tuple[int, ...]
) -> UNetSpatioTemporalConditionModel:
    """Let a UNet take `added_time_ids` [b, v, n] with n = `len(widths)` numbers per view, in place.

    `widths` are those of the sinusoids of the numbers; together they are what `add_embedding` takes. The same
    numbers in all views give what stock code gives for one row of them. Once is enough: a UNet that has the
    hooks already is returned as it is.
    """
    if isinstance(unet.add_time_proj, Sinusoids):
        return unet
    unet.add_time_proj = Sinusoids(widths)  # type: ignore[assignment]
    unet.add_embedding.register_forward_pre_hook(_split_views)
    unet.time_embedding.register_forward_hook(_add_view_axis)
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        block.register_forward_pre_hook(_own_view, with_kwargs=True)
    return unet


def _split_views(embedding: Any, inputs: tuple[Tensor]) -> Float[Tensor, "b v _d"]:
    """`forward` flattens each sample's sinusoids to [b, v * d]."""
    return inputs[0].unflatten(1, (-1, embedding.linear_1.in_features))


def _add_view_axis(_embedding: Any, _inputs: Any, output: Float[Tensor, "b e"]) -> Float[Tensor, "b 1 e"]:
    """The embedding of the noise level, to which `forward` adds that of the vectors [b, v, e]."""
    return output[:, None]


def _own_view(_block: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """`forward` repeats the sum for each view, to [b * v, v, e]; here each view takes its own row of it."""
    repeated: Tensor = named["temb"]
    own = repeated[:: repeated.shape[1]].flatten(0, 1)
    return inputs, {**named, "temb": own}
