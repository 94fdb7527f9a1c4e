"""Validation losses of inherited SubTransformers: measured over processes and machines, each only once.

One forward pass over batches sorted by length, one torch thread per process. What a loss is does not depend on how
many processes share the work. Under `torchrun` the first process searches and the others measure what it hands
round. Knows no search method.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
import torch.distributed as dist

from dynhat_runtime.decoding.translator import Translator
from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import SearchError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.candidates import Rung
from dynhat_runtime.offline.data import (
    Batch,
    TokenisedCorpus,
    padded_batches,
    tokenise,
)
from dynhat_runtime.offline.figure_cache import file_sha256
from dynhat_runtime.offline.loss_cache import LossCache, LossKey, MeasuredLoss
from dynhat_runtime.offline.parallel_text import read_pairs
from dynhat_runtime.offline.trainer import evaluate_loss

LABEL_SMOOTHING = 0.1
SUBSET_SEED = 1
MAX_TOKENS_PER_BATCH = 1000
"""Padded tokens of the longer side: small enough that a batch's activations stay in the cache."""
ROUND_PER_PROCESS = 4
"""Architectures per process between two exchanges under `torchrun`."""


@dataclass(frozen=True, slots=True)
class LossTask:
    """What a process needs to measure a loss.

    Attributes:
        fingerprints: Identifies, per rung, everything a loss depends on but the architecture.
    """

    super_transformer: SuperTransformer
    batches: Mapping[Rung, Sequence[Batch]]
    fingerprints: Mapping[Rung, str]

    @classmethod
    def of_bundle(cls, bundle: Bundle, dev: Path, num_subset_sentences: int) -> LossTask:
        """The bundle's weights on a dev set and on a fixed random subset of its sentences.

        Raises:
            DynhatError: The bundle or the dev set cannot be used.
        """
        super_transformer = bundle.super_transformer()
        tokenizer = Translator.of_bundle(bundle).tokenizer
        corpus = tokenise(list(read_pairs(dev)), tokenizer, super_transformer.spec.max_positions)
        if len(corpus) == 0:
            raise SearchError(f"{dev}: has no pair that fits the model: give another --dev")
        everything = np.arange(len(corpus))
        rng = np.random.default_rng(SUBSET_SEED)
        size = min(num_subset_sentences, len(corpus))
        subset = rng.choice(everything, size, replace=False) if size < len(corpus) else everything
        common = [bundle.weights_sha256, file_sha256(dev), LABEL_SMOOTHING]
        return cls(
            super_transformer,
            {"subset": _batches(corpus, subset), "all": _batches(corpus, everything)},
            {
                "subset": _fingerprint([*common, SUBSET_SEED, size]),
                "all": _fingerprint([*common, len(corpus)]),
            },
        )

    @torch.inference_mode()
    def measure(self, config: SubTransformerConfig, rung: Rung) -> MeasuredLoss:
        """Label-smoothed loss of one SubTransformer."""
        began = time.perf_counter()
        loss = evaluate_loss(self.super_transformer, config, self.batches[rung], LABEL_SMOOTHING).smoothed
        return MeasuredLoss(float(loss), time.perf_counter() - began)


class LossEvaluator:
    """Measures losses that the cache lacks. A context: it holds processes.

    Args:
        task: What is measured.
        cache: Where losses are kept; the first process alone writes it.
        num_processes: On this machine; 1 measures in this very process.
        heard: Told every loss that is asked for, cached or not.
    """

    def __init__(
        self,
        task: LossTask,
        cache: LossCache | None,
        num_processes: int = 1,
        heard: Callable[[SubTransformerConfig, Rung, MeasuredLoss], None] = lambda *_: None,
    ) -> None:
        self.task, self.cache, self.num_processes, self.heard = task, cache, num_processes, heard
        self.space = task.super_transformer.spec.design_space
        self._pool: ProcessPoolExecutor | None = None
        self._num_threads = torch.get_num_threads()

    def __enter__(self) -> LossEvaluator:
        # One thread before anything forks: a copied pool of threads would wait for threads that were not copied.
        torch.set_num_threads(1)
        if self.num_processes > 1:
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.num_processes, context, _become_worker, (self.task,))
            self._pool.submit(int).result()  # forks them all, before others start threads here
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._num_threads)

    def measure(self, configs: Sequence[SubTransformerConfig], rung: Rung) -> list[MeasuredLoss]:
        """Losses in order; those not in the cache are measured, and kept one by one.

        Raises:
            SearchError: A measuring process died, or the cache cannot be written.
        """
        assert self.cache is not None, "only the first process asks"
        missing = [one for one in dict.fromkeys(configs) if self.cache.get(self._key(one, rung)) is None]
        fresh = set(missing)
        for config in dict.fromkeys(configs):
            if config not in fresh:
                self.heard(config, rung, self._cached(config, rung))
        for config, measured in zip(missing, self._measured(missing, rung), strict=True):
            self.cache.add(self._key(config, rung), measured)
            self.heard(config, rung, measured)
        return [self._cached(config, rung) for config in configs]

    def serve(self) -> None:
        """Measure what the first process hands round until it is done (`torchrun`, all other processes)."""
        while (handed := _broadcast(None)) is not None:
            configs, rung = handed
            _gather(list(self._locally(_share(configs), rung)))

    @contextlib.contextmanager
    def releasing(self) -> Iterator[None]:
        """Tell those that serve, at the end of the context, that nothing more comes.

        An interruption reaches every process by itself.
        """
        try:
            yield
        except Exception:
            self._release()
            raise
        self._release()

    def _release(self) -> None:
        if _world_size() > 1:
            _broadcast(None)

    def _key(self, config: SubTransformerConfig, rung: Rung) -> LossKey:
        return LossKey(self.task.fingerprints[rung], rung, self.space.gene(config))

    def _cached(self, config: SubTransformerConfig, rung: Rung) -> MeasuredLoss:
        found = self.cache.get(self._key(config, rung)) if self.cache is not None else None
        assert found is not None, "measured above"
        return found

    def _measured(self, configs: Sequence[SubTransformerConfig], rung: Rung) -> Iterator[MeasuredLoss]:
        """Losses in order, by this machine or by all."""
        world_size = _world_size()
        if world_size == 1:
            yield from self._locally(configs, rung)
            return
        size = ROUND_PER_PROCESS * world_size * self.num_processes
        for begin in range(0, len(configs), size):
            handed = configs[begin : begin + size]
            _broadcast((handed, rung))
            shares = _gather(list(self._locally(_share(handed), rung)))
            yield from (shares[i % world_size][i // world_size] for i in range(len(handed)))

    def _locally(self, configs: Sequence[SubTransformerConfig], rung: Rung) -> Iterator[MeasuredLoss]:
        if self._pool is None:
            yield from (self.task.measure(config, rung) for config in configs)
            return
        try:
            yield from self._pool.map(_measure, configs, [rung] * len(configs))
        except BrokenProcessPool as error:
            raise SearchError(
                f"a measuring process ended by itself, perhaps for want of memory: give fewer than "
                f"{self.num_processes} processes with --num-processes"
            ) from error


class LossLedger:
    """Losses for one search, with what it asked for counted whether cached or not.

    Attributes:
        num_measured: Distinct architectures asked for, by rung.
        seconds: What measuring them took when they were measured, by rung.
    """

    def __init__(self, evaluator: LossEvaluator) -> None:
        self.evaluator = evaluator
        self.num_measured: dict[Rung, int] = {"subset": 0, "all": 0}
        self.seconds: dict[Rung, float] = {"subset": 0.0, "all": 0.0}
        self._asked: set[tuple[Rung, SubTransformerConfig]] = set()

    def losses(self, configs: Sequence[SubTransformerConfig], rung: Rung) -> list[float]:
        """Nats per target token, in order."""
        measured = self.evaluator.measure(configs, rung)
        for config, one in zip(configs, measured, strict=True):
            if (rung, config) not in self._asked:
                self._asked.add((rung, config))
                self.num_measured[rung] += 1
                self.seconds[rung] += one.seconds
        return [one.loss for one in measured]


# --- what runs in worker processes -------------------------------------------------------------------------------

_task: LossTask | None = None
"""Of this worker process; it came with the fork and was never copied."""


def _become_worker(task: LossTask) -> None:
    """Take the task; Ctrl-C is the parent's to answer."""
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def _measure(config: SubTransformerConfig, rung: Rung) -> MeasuredLoss:
    assert _task is not None
    return _task.measure(config, rung)


# --- several machines --------------------------------------------------------------------------------------------

_Handed = tuple[Sequence[SubTransformerConfig], Rung]


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _share(configs: Sequence[SubTransformerConfig]) -> Sequence[SubTransformerConfig]:
    """This process's part."""
    return configs[dist.get_rank() :: dist.get_world_size()]


def _broadcast(handed: _Handed | None) -> _Handed | None:
    """What the first process hands round, in every process."""
    box: list[_Handed | None] = [handed]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _gather(share: list[MeasuredLoss]) -> list[list[MeasuredLoss]]:
    """Every process's part, in every process."""
    shares: list[list[MeasuredLoss]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, share)
    return shares


def _batches(corpus: TokenisedCorpus, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[Batch]:
    """The pairs `indices`, sorted by length and padded."""
    order = indices[np.lexsort((corpus.src_lengths[indices], corpus.tgt_lengths[indices]))]
    return padded_batches(corpus, order, MAX_TOKENS_PER_BATCH)


def _fingerprint(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
