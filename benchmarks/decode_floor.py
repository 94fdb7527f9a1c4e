"""The least time that decoding can take on this machine: weights through memory, and the encoder's arithmetic.

Both rates are measured here and now, with this torch, at the thread count in question; the memory's rate on as many
bytes as a step touches, since what fits into a cache comes out of it. Times no engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dynhat_runtime.model.elastic import Linear
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.operating_point import Precision

BYTES_PER_FP32 = 4
MATRIX_SIZE = 768
"""Rows of the square matrices whose product is timed."""
MV_COLUMNS = 1024
MIN_BUFFER_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class Work:
    """What one sentence costs at least.

    Attributes:
        step_bytes: Weights that every decoder step reads: layers and output projection.
        flops_per_token: Operations of the encoder, and of keys and values made of its output, per source token.
        flops_per_token_pair: Operations of the encoder's self-attention per pair of source tokens.
    """

    step_bytes: int
    flops_per_token: int
    flops_per_token_pair: int

    @classmethod
    def of(cls, sub: SubTransformer, precision: Precision) -> Work:
        """The work of a SubTransformer. In int8 a matrix has one scale per row; the rest stays fp32."""
        read: list[Linear] = [sub.output]
        num_norm_weights = 0
        at_once: list[Linear] = []
        for layer in sub.decoder_layers:
            attention, cross, feed_forward = layer.self_attention, layer.cross_attention, layer.feed_forward
            read += [attention.qkv, attention.out, cross.query, cross.out]
            read += [feed_forward.expand, feed_forward.contract]
            num_norm_weights += 3 * 2 * attention.out.weight_OI.shape[0]
            at_once.append(cross.key_value)
        for enc in sub.encoder_layers:
            at_once += [enc.self_attention.qkv, enc.self_attention.out]
            at_once += [enc.feed_forward.expand, enc.feed_forward.contract]
        qkv_dim = sub.encoder_layers[0].self_attention.out.weight_OI.shape[1]
        return cls(
            step_bytes=sum(_bytes_of(linear, precision) for linear in read)
            + BYTES_PER_FP32 * num_norm_weights,
            flops_per_token=2 * sum(linear.weight_OI.numel() for linear in at_once),
            flops_per_token_pair=2 * 2 * qkv_dim * len(sub.encoder_layers),
        )

    def encoder_flops(self, num_src_tokens: int) -> int:
        """Operations before the first step."""
        return num_src_tokens * self.flops_per_token + num_src_tokens**2 * self.flops_per_token_pair


def _bytes_of(linear: Linear, precision: Precision) -> int:
    rows, columns = linear.weight_OI.shape
    num_bias = 0 if linear.bias_O is None else rows
    if precision == "int8":
        return rows * columns + BYTES_PER_FP32 * (rows + num_bias)
    return BYTES_PER_FP32 * (rows * columns + num_bias)


@dataclass(frozen=True, slots=True)
class Floor:
    """Milliseconds below which no engine gets on this machine."""

    encoder_ms: float
    step_ms: float
    num_steps: int

    @property
    def total_ms(self) -> float:
        """Of the whole sentence."""
        return self.encoder_ms + self.num_steps * self.step_ms


class Roof:
    """What this machine's memory and arithmetic give, each measured when it is first asked for, and kept.

    Args:
        measuring_s: How long each rate is looked at; the best of it counts.
    """

    def __init__(self, measuring_s: float) -> None:
        self._measuring_s = measuring_s
        self._memory: dict[tuple[int, int], float] = {}
        self._arithmetic: dict[tuple[Precision, int], float] = {}

    @property
    def memory_bytes_per_s(self) -> dict[tuple[int, int], float]:
        """By threads and bytes read."""
        return dict(self._memory)

    @property
    def flops_per_s(self) -> dict[tuple[Precision, int], float]:
        """By precision and threads."""
        return dict(self._arithmetic)

    def floor(self, work: Work, precision: Precision, num_threads: int, num_tokens: int) -> Floor:
        """Of a sentence of `num_tokens` tokens decoded in as many steps."""
        bytes_per_s = self.bandwidth(work.step_bytes, num_threads)
        flops_per_s = self.arithmetic(precision, num_threads)
        return Floor(
            encoder_ms=1e3 * work.encoder_flops(num_tokens) / flops_per_s,
            step_ms=1e3 * work.step_bytes / bytes_per_s,
            num_steps=num_tokens,
        )

    def bandwidth(self, num_bytes: int, num_threads: int) -> float:
        """Bytes per second of reading the same `num_bytes` again and again: the best of sum, dot and matrix-vector
        product, and never less than one thread alone reads."""
        key = (num_threads, num_bytes)
        if key not in self._memory:
            torch.set_num_threads(num_threads)
            num_rows = max(num_bytes, MIN_BUFFER_BYTES) // (BYTES_PER_FP32 * MV_COLUMNS)
            buffer = torch.ones(num_rows, MV_COLUMNS)
            flat, vector = buffer.view(-1), torch.ones(MV_COLUMNS)
            readers: list[Callable[[], Tensor]] = [
                lambda: flat.sum(),
                lambda: torch.dot(flat, flat),
                lambda: torch.mv(buffer, vector),
            ]
            best_s = min(_best_s(reader, self._measuring_s / len(readers)) for reader in readers)
            rate = buffer.numel() * BYTES_PER_FP32 / best_s
            self._memory[key] = rate if num_threads == 1 else max(rate, self.bandwidth(num_bytes, 1))
        return self._memory[key]

    def arithmetic(self, precision: Precision, num_threads: int) -> float:
        """Operations per second of a product of large matrices; in int8 the faster of int8's and fp32's, so that
        the floor stays one."""
        key = (precision, num_threads)
        if key not in self._arithmetic:
            torch.set_num_threads(num_threads)
            if precision == "fp32":
                matrix = torch.ones(MATRIX_SIZE, MATRIX_SIZE)
                best_s = _best_s(lambda: torch.mm(matrix, matrix), self._measuring_s)
                self._arithmetic[key] = 2 * MATRIX_SIZE**3 / best_s
            else:
                bytes_8 = torch.ones(MATRIX_SIZE, MATRIX_SIZE, dtype=torch.int8)
                best_s = _best_s(lambda: torch._int_mm(bytes_8, bytes_8), self._measuring_s)
                self._arithmetic[key] = max(2 * MATRIX_SIZE**3 / best_s, self.arithmetic("fp32", num_threads))
        return self._arithmetic[key]


def _best_s(run: Callable[[], Tensor], measuring_s: float) -> float:
    """Seconds of the fastest of as many runs as fit, two at least."""
    times_s: list[float] = []
    until_s = time.perf_counter() + measuring_s
    while len(times_s) < 2 or time.perf_counter() < until_s:
        began_s = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - began_s)
    return min(times_s)
