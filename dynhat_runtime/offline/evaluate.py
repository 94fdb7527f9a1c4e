"""`dynhat evaluate`: BLEU and chrF with sacreBLEU's signatures, HAT's BLEU, and dev loss of operating points."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dynhat_runtime.decoding.moses_bpe import AT_MARK, moses_words
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.tokenizer import Tokenizer
from dynhat_runtime.decoding.translator import SentenceTranslation, Translator
from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.model.decodable import Decodable
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.data import Batch, padded_batches, tokenise
from dynhat_runtime.offline.parallel_text import Pair, read_pairs
from dynhat_runtime.offline.trainer import evaluate_loss

BATCH_SENTENCES = 64
MAX_TOKENS_PER_BATCH = 4000


@dataclass(frozen=True, slots=True)
class Scores:
    """What a point scores on one test set.

    Attributes:
        bleu_signature: sacreBLEU's, with the test set's name; likewise for chrF.
    """

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    num_sentences: int


def load_pairs(path: Path, limit: int | None = None) -> list[Pair]:
    """Pairs of a gzipped TSV test set, the first `limit` of them.

    Raises:
        TrainingError: The file cannot be read.
    """
    pairs = list(read_pairs(path))
    return pairs if limit is None else pairs[:limit]


def translate_all(
    translator: Translator,
    sub: Decodable,
    sources: Sequence[str],
    options: BeamOptions,
    progress: Callable[[int], None] = lambda _: None,
) -> list[SentenceTranslation]:
    """Translate test sentences in batches of similar length; `progress` hears how many are done."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    translations: dict[int, SentenceTranslation] = {}
    for begin in range(0, len(order), BATCH_SENTENCES):
        indices = order[begin : begin + BATCH_SENTENCES]
        outputs = translator.translate(sub, [sources[i] for i in indices], options)
        translations.update(zip(indices, outputs, strict=True))
        progress(begin + len(indices))
    return [translations[i] for i in range(len(sources))]


def score(translations: Sequence[str], references: Sequence[str], test_set: str) -> Scores:
    """BLEU and chrF of detokenised text."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(), CHRF()
    bleu_score = bleu.corpus_score(list(translations), [list(references)])
    chrf_score = chrf.corpus_score(list(translations), [list(references)])
    return Scores(
        bleu=round(float(bleu_score.score), 2),
        bleu_signature=f"{test_set}|{bleu.get_signature()}",
        chrf=round(float(chrf_score.score), 2),
        chrf_signature=f"{test_set}|{chrf.get_signature()}",
        num_sentences=len(translations),
    )


def split_compounds(words: str) -> str:
    """Put the mark around hyphens within words: `x-y` -> `x ##AT##-##AT## y`.

    As the published script does, a character belongs to one hyphen only: `a-b-c` is split once.
    """
    return re.sub(r"(\S)-(\S)", rf"\1 {AT_MARK} \2", words)


def compound_split_bleu(
    translations: Sequence[str], references: Sequence[str], language: str, test_set: str
) -> tuple[float, str]:
    """HAT's BLEU and its signature: case-sensitive, on Moses words, compounds split on both sides.

    Raises:
        SettingsError: sacremoses is not installed.
    """
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize="none", force=True)
    hypotheses, targets = (
        [split_compounds(" ".join(words)) for words in moses_words(texts, language)]
        for texts in (translations, references)
    )
    score = float(bleu.corpus_score(hypotheses, [targets]).score)
    return round(score, 2), f"{test_set}|words:moses-{language}|compounds:split|{bleu.get_signature()}"


def dev_batches(
    super_transformer: SuperTransformer, tokenizer: Tokenizer, pairs: Sequence[Pair]
) -> list[Batch]:
    """Pairs made ready for `dev_loss`: once for any number of architectures."""
    corpus = tokenise(pairs, tokenizer, super_transformer.spec.max_positions)
    return padded_batches(corpus, corpus.tgt_lengths.argsort(kind="stable"), MAX_TOKENS_PER_BATCH)


def dev_loss(
    super_transformer: SuperTransformer,
    config: SubTransformerConfig,
    batches: Sequence[Batch],
    label_smoothing: float = 0.1,
) -> float:
    """Label-smoothed cross-entropy per target token, natural logarithm."""
    return round(evaluate_loss(super_transformer, config, batches, label_smoothing).smoothed.item(), 4)


@torch.inference_mode()
def dev_loss_as_decoded(
    sub: Decodable, batches: Sequence[Batch], pad_id: int, label_smoothing: float = 0.1
) -> float:
    """The same loss of a network that only decodes: the reference is fed to it token by token."""
    smoothed, num_tokens = 0.0, 0
    for batch in batches:
        decoder = sub.start(sub.encode(batch.src_BS), 1)
        for prev_N, target_N in zip(batch.prev_output_BT.T, batch.target_BT.T, strict=True):
            is_token_N = target_N.ne(pad_id)
            log_p_NV = decoder.step(prev_N.contiguous())[is_token_N].log_softmax(dim=1)
            nll = -log_p_NV.gather(1, target_N[is_token_N, None]).sum()
            uniform = -log_p_NV.mean(dim=1).sum()
            smoothed += ((1 - label_smoothing) * nll + label_smoothing * uniform).item()
        num_tokens += batch.num_target_tokens
    return round(smoothed / num_tokens, 4)
