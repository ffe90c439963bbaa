"""Batch normalisation over the batch of all processes.

torch's own SyncBatchNorm works on GPUs only. With this one, several processes on CPUs give what one process with
the whole batch gives, which is what the tests of training on several processes rest on.

Shapes: N images of this process, C channels, H rows, W columns.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """All-reduce through which each process's gradient reaches every other."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class TeamBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics are those of all processes' images together."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W); statistics in float32 whatever the dtype."""
        return self._normalised(x) if self.training else super().forward(x)

    def _normalised(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            values_NCHW = x.float()
            num = torch.full((1,), float(values_NCHW.numel() // self.num_features), device=x.device)
            sums = _Sum.apply(torch.cat([values_NCHW.sum((0, 2, 3)), num]))
            total = sums[-1].detach()
            mean_C = sums[:-1] / total
            centred_NCHW = values_NCHW - mean_C.view(1, -1, 1, 1)
            # Summed after centring: squares of values far from zero would lose the variance in rounding.
            variance_C = _Sum.apply(centred_NCHW.square().sum((0, 2, 3))) / total
            self._follow(mean_C.detach(), variance_C.detach() * total / (total - 1.0).clamp_min(1.0))
            scale_C = torch.rsqrt(variance_C + self.eps) * (self.weight if self.affine else 1.0)
            out_NCHW = centred_NCHW * scale_C.view(1, -1, 1, 1)
            if self.affine:
                out_NCHW = out_NCHW + self.bias.view(1, -1, 1, 1)
        return cast(Tensor, out_NCHW.to(x.dtype))

    @torch.no_grad()
    def _follow(self, mean_C: Tensor, variance_C: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean_C, share)
        self.running_var.lerp_(variance_C, share)


class TeamBatchNormAct(BatchNormAct2d, TeamBatchNorm):
    """The same for timm's layer, which joins normalisation, dropout and activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W), and activate."""
        if not self.training:
            return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]
        return cast(Tensor, self.act(self.drop(self._normalised(x))))


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch normalisation of a network count the images of all processes; names and weights stay."""
    if device.type == "cuda":
        return convert_sync_batchnorm(model)  # type: ignore[no-untyped-call, no-any-return]
    for module in model.modules():
        if not isinstance(module, nn.BatchNorm2d):
            continue
        # In place, so that whatever holds the module (hooks, lists of frozen stages) keeps holding it.
        module.__class__ = TeamBatchNormAct if isinstance(module, BatchNormAct2d) else TeamBatchNorm
    return model
