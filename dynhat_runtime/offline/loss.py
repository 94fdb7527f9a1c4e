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
"""Rows of a chunk on a CPU: its logits stay in the cache."""
GPU_CHUNK_ROWS = 16384
"""On a GPU: as few kernels as memory allows; half a gigabyte of logits at 8,000 words."""


class LossSums(NamedTuple):
    """Sums over target tokens, natural logarithm."""

    smoothed: Tensor
    """(1 - eps) nll + eps / V * sum over the vocabulary of -log p (fairseq's label smoothing)."""
    nll: Tensor


class Teacher(NamedTuple):
    """A network whose distribution of the same target tokens another one learns."""

    features_NE: Tensor
    """Its decoder features; their width may be another one."""
    output_VE: Tensor
    weight: float
    """Share of the loss that follows it, 0 to 1; the rest follows the text."""


def _at_least_float32(x: Tensor) -> Tensor:
    """Half precision is too coarse for a softmax over thousands of classes."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Sums of the smoothed loss and of the nll; the gradient is made during the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        features_NE: Tensor,
        output_VE: Tensor,
        targets_N: Tensor,
        smoothing: float,
        teacher: Teacher | None,
    ) -> tuple[Tensor, Tensor]:
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        vocab_size = output_VE.shape[0]
        text_share = 1.0 if teacher is None else 1.0 - teacher.weight
        smoothed = _at_least_float32(features_NE.new_zeros(()))
        nll = torch.zeros_like(smoothed)
        grad_features = torch.empty_like(features_NE) if needs_grad else None
        grad_output = (
            torch.zeros_like(output_VE, memory_format=torch.contiguous_format) if needs_grad else None
        )
        chunk_rows = CHUNK_ROWS if features_NE.device.type == "cpu" else GPU_CHUNK_ROWS
        for begin in range(0, features_NE.shape[0], chunk_rows):
            rows = slice(begin, begin + chunk_rows)
            chunk_CE, target_C1 = features_NE[rows], targets_N[rows, None]
            logits_CV = _at_least_float32(chunk_CE @ output_VE.T)
            log_z_C1 = logits_CV.logsumexp(dim=1, keepdim=True)
            chunk_nll = (log_z_C1 - logits_CV.gather(1, target_C1)).sum()
            uniform = vocab_size * log_z_C1.sum() - logits_CV.sum()
            nll += chunk_nll
            smoothed += text_share * ((1 - smoothing) * chunk_nll + smoothing / vocab_size * uniform)
            taught_CV = None
            if teacher is not None:
                taught_CV = _at_least_float32(teacher.features_NE[rows] @ teacher.output_VE.T).softmax(dim=1)
                taught_CV *= teacher.weight
                smoothed += teacher.weight * log_z_C1.sum() - torch.dot(
                    taught_CV.flatten(), logits_CV.flatten()
                )
            if grad_features is not None and grad_output is not None:
                grad_CV = logits_CV.sub_(log_z_C1).exp_().sub_(text_share * smoothing / vocab_size)
                if taught_CV is not None:
                    grad_CV -= taught_CV
                on_target = text_share * (smoothing - 1)
                grad_CV.scatter_add_(1, target_C1, grad_CV.new_full(target_C1.shape, on_target))
                grad_CV = grad_CV.to(features_NE.dtype)
                torch.mm(grad_CV, output_VE, out=grad_features[rows])
                grad_output.addmm_(grad_CV.T, chunk_CE)
        ctx.save_for_backward(grad_features, grad_output)
        ctx.mark_non_differentiable(nll)
        return smoothed, nll

    @staticmethod
    def backward(ctx: Any, grad_smoothed: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_features, grad_output = ctx.saved_tensors
        return grad_features * grad_smoothed, grad_output * grad_smoothed, None, None, None


def smoothed_cross_entropy(
    features_NE: Tensor,
    output_VE: Tensor,
    targets_N: Tensor,
    smoothing: float,
    teacher: Teacher | None = None,
) -> LossSums:
    """Loss of target tokens given decoder features and the output matrix.

    Args:
        features_NE: Decoder features of real target positions.
        output_VE: Output projection without bias.
        targets_N: Token ids.
        smoothing: Weight of the uniform distribution, 0 for plain cross-entropy.
        teacher: Whose distribution takes its share of the smoothed loss (Hinton et al. 2015); it gets no gradient.

    Returns:
        Sums over the N tokens; only `smoothed` carries a gradient.
    """
    sums: tuple[Tensor, Tensor] = _SmoothedCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch has no types here
        features_NE, output_VE, targets_N, smoothing, teacher
    )
    return LossSums(*sums)
