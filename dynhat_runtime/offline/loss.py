"""Label-smoothed cross-entropy over a large vocabulary without keeping the logits.

The projection to the vocabulary and its softmax are computed in chunks of rows, forward and gradient in one
pass, so that a chunk stays in the cache and memory does not grow with tokens x vocabulary.

Shapes: N target tokens, C rows of a chunk, E embedding, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_ROWS = 512


class LossSums(NamedTuple):
    """Sums over target tokens, natural logarithm."""

    smoothed: Tensor
    """(1 - eps) nll + eps / V * sum over the vocabulary of -log p (fairseq's label smoothing)."""
    nll: Tensor


def _at_least_float32(x: Tensor) -> Tensor:
    """Half precision is too coarse for a softmax over thousands of classes."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Sums of the smoothed loss and of the nll; the gradient is made during the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, features_NE: Tensor, output_VE: Tensor, targets_N: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        vocab_size = output_VE.shape[0]
        smoothed = _at_least_float32(features_NE.new_zeros(()))
        nll = torch.zeros_like(smoothed)
        grad_features = torch.empty_like(features_NE) if needs_grad else None
        grad_output = (
            torch.zeros_like(output_VE, memory_format=torch.contiguous_format) if needs_grad else None
        )
        for begin in range(0, features_NE.shape[0], CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
            chunk_CE, target_C1 = features_NE[rows], targets_N[rows, None]
            logits_CV = _at_least_float32(chunk_CE @ output_VE.T)
            log_z_C1 = logits_CV.logsumexp(dim=1, keepdim=True)
            chunk_nll = (log_z_C1 - logits_CV.gather(1, target_C1)).sum()
            uniform = vocab_size * log_z_C1.sum() - logits_CV.sum()
            nll += chunk_nll
            smoothed += (1 - smoothing) * chunk_nll + smoothing / vocab_size * uniform
            if grad_features is not None and grad_output is not None:
                grad_CV = logits_CV.sub_(log_z_C1).exp_().sub_(smoothing / vocab_size)
                grad_CV.scatter_add_(1, target_C1, grad_CV.new_full(target_C1.shape, smoothing - 1))
                grad_CV = grad_CV.to(features_NE.dtype)
                torch.mm(grad_CV, output_VE, out=grad_features[rows])
                grad_output.addmm_(grad_CV.T, chunk_CE)
        ctx.save_for_backward(grad_features, grad_output)
        ctx.mark_non_differentiable(nll)
        return smoothed, nll

    @staticmethod
    def backward(ctx: Any, grad_smoothed: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_features, grad_output = ctx.saved_tensors
        return grad_features * grad_smoothed, grad_output * grad_smoothed, None, None


def smoothed_cross_entropy(
    features_NE: Tensor, output_VE: Tensor, targets_N: Tensor, smoothing: float
) -> LossSums:
    """Loss of target tokens given decoder features and the output matrix.

    Args:
        features_NE: Decoder features of real target positions.
        output_VE: Output projection without bias.
        targets_N: Token ids.
        smoothing: Weight of the uniform distribution, 0 for plain cross-entropy.

    Returns:
        Sums over the N tokens; only `smoothed` carries a gradient.
    """
    sums: tuple[Tensor, Tensor] = _SmoothedCrossEntropy.apply(features_NE, output_VE, targets_N, smoothing)  # type: ignore[no-untyped-call]  # torch has no types here
    return LossSums(*sums)


def distillation_loss(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """Sum over tokens of the cross-entropy of the student under the teacher's distribution."""
    teacher = torch.softmax(_at_least_float32(teacher_NV), dim=1)
    return -(teacher * torch.log_softmax(_at_least_float32(student_NV), dim=1)).sum()
