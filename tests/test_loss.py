"""The chunked loss against a plain one, in value and in gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dynhat_runtime.offline.loss import CHUNK_ROWS, Teacher, smoothed_cross_entropy

NUM_ROWS = CHUNK_ROWS * 2 + 77
VOCAB_SIZE = 23


def _problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Features, output matrix and targets."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(NUM_ROWS, 6, generator=generator, dtype=torch.float64).to(dtype)
    output = torch.randn(VOCAB_SIZE, 6, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(VOCAB_SIZE, (NUM_ROWS,), generator=generator)
    return features.requires_grad_(), output.requires_grad_(), targets


def _plain(features: Tensor, output: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """fairseq's label-smoothed loss and nll as one writes them down."""
    log_p = torch.log_softmax(features @ output.T, dim=1)
    nll = -log_p.gather(1, targets[:, None]).sum()
    return (1 - smoothing) * nll + smoothing / output.shape[0] * -log_p.sum(), nll


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_value(smoothing: float) -> None:
    """Smoothed loss and nll equal the plain formulation's over several chunks."""
    features, output, targets = _problem()
    ours = smoothed_cross_entropy(features, output, targets, smoothing)
    torch.testing.assert_close(tuple(ours), _plain(features, output, targets, smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_gradient(smoothing: float, factor: float) -> None:
    """Gradients of features and of the output matrix equal autograd's, also of a scaled loss."""
    features, output, targets = _problem()
    (factor * smoothed_cross_entropy(features, output, targets, smoothing).smoothed).backward()
    got = features.grad, output.grad
    features.grad = output.grad = None
    (factor * _plain(features, output, targets, smoothing)[0]).backward()
    torch.testing.assert_close(got, (features.grad, output.grad))


def test_gradient_reaches_a_slice_of_a_tied_matrix() -> None:
    """An output matrix that is the leading columns of a larger one gets its gradient there and zero beyond."""
    features, _, targets = _problem()
    whole = torch.randn(VOCAB_SIZE, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    whole.requires_grad_()
    smoothed_cross_entropy(features, whole[:, :6], targets, 0.1).smoothed.backward()
    got = whole.grad
    whole.grad = None
    _plain(features, whole[:, :6], targets, 0.1)[0].backward()
    torch.testing.assert_close(got, whole.grad)


def test_nll_carries_no_gradient() -> None:
    """Only the smoothed loss can be trained on."""
    features, output, targets = _problem()
    loss = smoothed_cross_entropy(features, output, targets, 0.1)
    assert loss.smoothed.requires_grad
    assert not loss.nll.requires_grad


def test_half_precision_sums_in_single() -> None:
    """bfloat16 features give a float32 sum near the exact one, and bfloat16 gradients."""
    features, output, targets = _problem(torch.bfloat16)
    loss = smoothed_cross_entropy(features, output, targets, 0.1)
    exact, _ = _plain(features.detach().double(), output.detach().double(), targets, 0.1)
    assert loss.smoothed.dtype == torch.float32
    assert loss.smoothed.item() == pytest.approx(exact.item(), rel=1e-2)
    loss.smoothed.backward()
    assert features.grad is not None
    assert features.grad.dtype == torch.bfloat16


def _teacher(weight: float) -> Teacher:
    """A wider network's features of the same tokens, and its output matrix."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(NUM_ROWS, 8, generator=generator, dtype=torch.float64)
    return Teacher(features, torch.randn(VOCAB_SIZE, 8, generator=generator, dtype=torch.float64), weight)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_distillation(weight: float) -> None:
    """Value and gradients with a teacher equal the plain formulation's: its share of the loss is the cross-entropy
    under the teacher's distribution."""
    features, output, targets = _problem()
    teacher = _teacher(weight)
    ours = smoothed_cross_entropy(features, output, targets, 0.1, teacher)
    ours.smoothed.backward()
    got = features.grad, output.grad
    features.grad = output.grad = None
    smoothed, nll = _plain(features, output, targets, 0.1)
    taught = torch.softmax(teacher.features_NE @ teacher.output_VE.T, dim=1)
    distilled = -(taught * torch.log_softmax(features @ output.T, dim=1)).sum()
    expected = (1 - weight) * smoothed + weight * distilled
    torch.testing.assert_close(tuple(ours), (expected, nll))
    expected.backward()
    torch.testing.assert_close(got, (features.grad, output.grad))


def test_a_student_that_agrees_learns_nothing() -> None:
    """Of a loss that follows the teacher alone, the student's gradient vanishes where both agree."""
    features, output, targets = _problem()
    teacher = Teacher(features.detach().clone(), output.detach().clone(), 1.0)
    smoothed_cross_entropy(features, output, targets, 0.1, teacher).smoothed.backward()
    torch.testing.assert_close(features.grad, torch.zeros_like(features), atol=1e-9, rtol=0)
