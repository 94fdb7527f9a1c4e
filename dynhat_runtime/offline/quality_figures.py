"""What a bundle's operating points score on several test sets: measured once each, kept in a cache as they come.

Writes no page: `quality_page.py` does. Measures no latency: the table has it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from dynhat_runtime.decoding.moses_bpe import moses_words
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.translator import SentenceTranslation, Translator, search_options
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.decodable_super import DecodableSuper
from dynhat_runtime.model.laid_out import for_decoding
from dynhat_runtime.offline.evaluate import compound_split_bleu, load_pairs, score, translate_all
from dynhat_runtime.offline.evaluation_progress import EvaluationJob, EvaluationProgress
from dynhat_runtime.offline.figure_cache import FigureCache, Figures, file_sha256, search_key
from dynhat_runtime.offline.output_counts import count_output
from dynhat_runtime.offline.parallel_text import Pair
from dynhat_runtime.operating_point import OperatingPoint, OperatingPointTable, precisions_of

FIGURES_VERSION = 1
"""Of what is measured: figures kept from another version are measured again."""
SAMPLE_QUANTILES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
MIN_SAMPLE_WORDS = 5


@dataclass(frozen=True, slots=True)
class TestSet:
    """A test set and what is wanted of it.

    Attributes:
        does_split: Whether HAT's BLEU is, too.
        gives_samples: Whether sentences of it may be shown.
    """

    __test__ = False  # nothing for pytest

    name: str
    sha256: str
    pairs: tuple[Pair, ...]
    does_split: bool
    gives_samples: bool

    @classmethod
    def read(cls, path: Path, limit: int | None, *, split: Sequence[str], samples: str | None) -> TestSet:
        """Read a file's first `limit` pairs; `split` and `samples` name test sets by their files' names.

        Raises:
            TrainingError: It cannot be read.
        """
        name = path.name.split(".")[0]
        pairs = tuple(load_pairs(path, limit))
        return cls(name, file_sha256(path), pairs, name in split, name == samples)

    @property
    def mean_words(self) -> float:
        """Of its sources, for the time a sentence takes."""
        return sum(len(source.split()) for source, _ in self.pairs) / max(len(self.pairs), 1)


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One point on one test set with one beam.

    Attributes:
        figures: Scores, signatures, and the counts of `OutputCounts`.
        samples: Translations by the rule of `chosen_samples`; empty where none were wanted.
    """

    id: str
    test_set: str
    beam_size: int
    figures: Figures
    samples: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class _Job:
    """A row to come."""

    point: OperatingPoint
    test: TestSet
    search: BeamOptions
    key: dict[str, object]
    wants_samples: bool


def quality_rows(
    bundle: Bundle,
    table: OperatingPointTable,
    points: Sequence[OperatingPoint],
    tests: Sequence[TestSet],
    beam_sizes: Sequence[int],
    cache: FigureCache,
    console: Console,
) -> list[QualityRow]:
    """Score points on test sets, set by set and beam by beam, fastest first; what the cache has is not measured.

    Samples are taken of the fastest and the slowest point, with the first beam.

    Raises:
        DynhatError: What is wrong with the bundle, or that the cache cannot be written.
    """
    jobs = [
        _job(
            bundle,
            point,
            test,
            beam_size,
            wants_samples=beam_size == beam_sizes[0] and _is_end(point, points),
        )
        for test in tests
        for beam_size in beam_sizes
        for point in points
    ]
    if any(test.does_split for test in tests):
        moses_words([], bundle.tgt_lang)  # says now that sacremoses is missing, not after hours
    missing = [job for job in jobs if not cache.has(job.key)]
    progress = EvaluationProgress([_progress_job(job, table) for job in missing], console=console)
    if missing:
        super_transformer = for_decoding(
            bundle.super_transformer(), precisions_of(points), bundle.shortlist()
        )
        translator = Translator.of_bundle(bundle)
        with progress:
            for job in missing:
                progress.begin()
                measure = partial(_measured, job, bundle, translator, super_transformer, progress)
                figures = cache.get(job.key, measure)
                progress.end(f"BLEU {figures['bleu']:.2f}  chrF {figures['chrf']:.2f}")
    return [_row(job, cache) for job in jobs]


def chosen_samples(
    pairs: Sequence[Pair], translations: Sequence[str], scores: Sequence[float]
) -> list[dict[str, Any]]:
    """The sentences at fixed quantiles of the sentences' own scores, worst first.

    Only sources of `MIN_SAMPLE_WORDS` words or more count; of equal scores the earlier sentence comes first. So nobody
    picks them.
    """
    eligible = [i for i, (source, _) in enumerate(pairs) if len(source.split()) >= MIN_SAMPLE_WORDS]
    ranked = sorted(eligible, key=lambda i: (scores[i], i))
    positions = dict.fromkeys(round(quantile * (len(ranked) - 1)) for quantile in SAMPLE_QUANTILES if ranked)
    return [
        {
            "quantile": round(position / max(len(ranked) - 1, 1), 2),
            "chrf": round(scores[ranked[position]], 1),
            "source": pairs[ranked[position]][0],
            "reference": pairs[ranked[position]][1],
            "translation": translations[ranked[position]],
        }
        for position in positions
    ]


def _is_end(point: OperatingPoint, points: Sequence[OperatingPoint]) -> bool:
    return point.id in (points[0].id, points[-1].id)


def _job(
    bundle: Bundle, point: OperatingPoint, test: TestSet, beam_size: int, *, wants_samples: bool
) -> _Job:
    search = search_options(bundle, beam_size)
    wants_samples = wants_samples and test.gives_samples
    key: dict[str, object] = {
        "figures": f"quality-{FIGURES_VERSION}",
        "weights_sha256": bundle.weights_sha256,
        "gene": bundle.design_space.gene(point.config),
        "precision": point.precision,
        "text_sha256": test.sha256,
        "num_sentences": len(test.pairs),
        **search_key(search),
        **({"shortlist_sha256": bundle.shortlist_sha256} if point.has_shortlist else {}),
        "compound_split": test.does_split,
        "samples": wants_samples,
    }
    return _Job(point, test, search, key, wants_samples)


def _progress_job(job: _Job, table: OperatingPointTable) -> EvaluationJob:
    """A sentence's cost: the point's latency, by words, and by beams beside what all beams share."""
    label = f"{job.point.id} on {job.test.name}, beam {job.search.beam_size}"
    cost = table.reference_latency_ms(job.point) * (2 + job.search.beam_size) * job.test.mean_words
    return EvaluationJob(label, cost, len(job.test.pairs))


def _measured(
    job: _Job,
    bundle: Bundle,
    translator: Translator,
    super_transformer: DecodableSuper,
    progress: EvaluationProgress,
) -> Figures:
    sources, references = [source for source, _ in job.test.pairs], [target for _, target in job.test.pairs]
    sub = super_transformer.point(job.point)
    outputs: list[SentenceTranslation] = translate_all(translator, sub, sources, job.search, progress.advance)
    translations = [output.text for output in outputs]
    beam = f"beam:{job.search.beam_size}"
    found = score(translations, references, job.test.name)
    figures: Figures = {
        "bleu": found.bleu,
        "bleu_signature": f"{found.bleu_signature}|{beam}",
        "chrf": found.chrf,
        "chrf_signature": f"{found.chrf_signature}|{beam}",
        **asdict(count_output(sources, references, translations, [output.fault for output in outputs])),
    }
    if job.test.does_split:
        split, signature = compound_split_bleu(translations, references, bundle.tgt_lang, job.test.name)
        figures |= {"compound_split_bleu": split, "compound_split_bleu_signature": f"{signature}|{beam}"}
    if job.wants_samples:
        samples = chosen_samples(job.test.pairs, translations, _sentence_chrf(translations, references))
        figures["samples"] = json.dumps(samples, ensure_ascii=False)
    return figures


def _sentence_chrf(translations: Sequence[str], references: Sequence[str]) -> list[float]:
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF()
    return [
        float(chrf.sentence_score(translation, [reference]).score)
        for translation, reference in zip(translations, references, strict=True)
    ]


def _row(job: _Job, cache: FigureCache) -> QualityRow:
    figures = dict(cache.get(job.key, dict))
    samples = json.loads(str(figures.pop("samples", "[]")))
    return QualityRow(job.point.id, job.test.name, job.search.beam_size, figures, tuple(samples))
