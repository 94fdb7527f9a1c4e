"""HAT's latency predictor, retrained as its authors publish it: the baseline that ours is compared with.

A multi-layer perceptron on ten averaged features. Not used to predict anything: a fit reports its error beside ours.

Source: HAT (Wang et al., ACL 2020), section 3.2, and the settings published with it.

Shapes: N architectures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynhat_runtime.offline.latency_basis import Array

FEATURE_CONSTANTS = (640.0, 6.0, 2048.0, 6.0, 640.0, 6.0, 2048.0, 6.0, 6.0, 2.0)
"""HAT divides the features by these, in the order of `LatencyFeatures`."""
HIDDEN_SIZE = 400
NUM_HIDDEN_LAYERS = 4
LEARNING_RATE = 1e-5
NUM_STEPS = 5000
BATCH_SIZE = 128
STEPS_PER_CHECK = 100

Rows = np.ndarray[Any, np.dtype[np.int64]]


def hat_predictions_ms(
    features: Array,
    latency_ms: Array,
    train: Rows,
    validation: Rows,
    *,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Array:
    """Train HAT's predictor on the rows `train` and predict every row [N].

    Published: features and latency divided by constants, squared error, Adam, batches drawn without replacement. HAT's
    latency constants are set by hand (5000, 300 and 200 ms for its devices), about the mean latency of each data set;
    here it is the mean of the training rows. HAT prints the validation loss every 100 steps and keeps the last
    weights; we keep the best of those, which favours HAT where they differ.

    Args:
        features: `LatencyFeatures` in rows [N, 10].
        latency_ms: Measured [N].
        seed: Of the initial weights and the batches.
        progress: Hears how many of `NUM_STEPS` are done.
    """
    constant_ms = float(latency_ms[train].mean())
    inputs = torch.tensor(features / np.array(FEATURE_CONSTANTS), dtype=torch.float32)
    targets = torch.tensor(latency_ms / constant_ms, dtype=torch.float32)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network()
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    best_loss, best = float("inf"), inputs.new_zeros(len(inputs))
    for step in range(1, NUM_STEPS + 1):
        batch = torch.from_numpy(rng.choice(train, min(BATCH_SIZE, len(train)), replace=False))
        loss = _loss(network, inputs[batch], targets[batch])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimiser.step()
        if step % STEPS_PER_CHECK == 0:
            progress(step)
            with torch.no_grad():
                validation_loss = float(_loss(network, inputs[validation], targets[validation]))
                if validation_loss < best_loss:
                    best_loss, best = validation_loss, network(inputs)[:, 0]
    return best.double().numpy() * constant_ms


def _network() -> nn.Sequential:
    layers: list[nn.Module] = []
    size = len(FEATURE_CONSTANTS)
    for _ in range(NUM_HIDDEN_LAYERS):
        layers += [nn.Linear(size, HIDDEN_SIZE), nn.ReLU()]
        size = HIDDEN_SIZE
    return nn.Sequential(*layers, nn.Linear(size, 1))


def _loss(network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(network(inputs)[:, 0], targets)
