"""Batch normalization with the statistics of the whole batch across all ranks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the statistics of all ranks' images; ranks may have uneven or empty batches.

    torch.nn.SyncBatchNorm does not run on a CPU. This one computes the same with tensor operations, so that CPU
    tests cover the code that runs on GPUs. [B, C, ...] -> [B, C, ...].
    """

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any shape [B, C, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.float()
        mean, variance, count = _Statistics.apply(wide)
        with torch.no_grad():
            self.num_batches_tracked += 1
            rate = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), rate)
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return torch.addcmul(shift.view(shape), wide, scale.view(shape)).to(x.dtype)


class _Statistics(torch.autograd.Function):
    """The mean and variance of each channel over all ranks, float32 [C], and the number of elements."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        over = [0, *range(2, x.ndim)]
        count = x.numel() // x.shape[1]
        sums = torch.cat([x.sum(over), x.new_full((1,), count)])
        dist.all_reduce(sums)
        mean, total = sums[:-1] / sums[-1], sums[-1]
        # A second all-reduce, since E[x^2] - E[x]^2 loses precision.
        shape = (1, -1, *[1] * (x.ndim - 2))
        squares = (x - mean.view(shape)).square().sum(over)
        dist.all_reduce(squares)
        ctx.save_for_backward(x, mean, total)
        ctx.mark_non_differentiable(total)
        return mean, squares / total, total

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor, _: Tensor) -> Tensor:
        x, mean, total = ctx.saved_tensors
        sums = torch.cat([of_mean, of_variance])
        dist.all_reduce(sums)
        shape = (1, -1, *[1] * (x.ndim - 2))
        of_mean, of_variance = (part.view(shape) / total for part in sums.chunk(2))
        return of_mean + 2 * of_variance * (x - mean.view(shape))


def synchronise_batch_norm(model: nn.Module) -> None:
    """Convert all batch normalisation in `model` to SyncBatchNorm in place; weights and statistics are kept."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = SyncBatchNorm
