"""Matrix products of a CPU model in oneDNN's own weight layout: the same arithmetic, about twice as fast on some CPUs.

PyTorch multiplies float32 matrices by MKL, which leaves wide vector units of non-Intel CPUs half idle, and lays out
reduced-precision weights anew in every call. oneDNN with weights laid out once does neither. It also gives a row the
same result in a batch of any size, so that what shares a pass does not touch the last bits.
"""

from __future__ import annotations

import torch
from torch import nn

ROWS = 64
"""Rows for which weights are laid out: a few searches' worth. Any number can be multiplied."""


class PackedLinear(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A linear layer without gradients, whose weight `[out, in]` only oneDNN can read."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out


def pack_linears(model: nn.Module) -> bool:
    """Replace every linear layer of a CPU model that only computes. Returns whether it did: all of them, or none.

    The layer that gives logits is replaced, too; a tied embedding keeps the weights that it reads.
    """
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    if not linears or not all(_agrees(linear) for linear in linears.values()):
        return False
    for name, linear in linears.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, PackedLinear(linear))
    return True


def _agrees(linear: nn.Linear) -> bool:
    """Whether oneDNN is there for this layer, and gives what it gives."""
    weight = linear.weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-1, 1, 2 * linear.in_features).view(2, -1).to(weight.dtype)
    with torch.inference_mode():
        try:
            found, expected = PackedLinear(linear)(x).float(), linear(x).float()
        except (AttributeError, RuntimeError):
            return False  # This build of PyTorch has no such operator, or not for this type.
    tolerance = 1e-4 if weight.dtype == torch.float32 else 2e-2
    return bool((found - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max())))
