"""Parallel text: reading, filtering, tokenising and batching, all deterministic.

Files are gzipped TSV, one pair per line: source, tab, target. An epoch is drawn from weighted corpora, sorted
into buckets of similar length and cut into batches of bounded size; the same seed and epoch give the same
batches in any process.

Shapes: B sentences, S source length, T target length.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynhat_runtime.decoding.tokenizer import EOS_ID, PAD_ID, SentencePieceTokenizer, Tokenizer
from dynhat_runtime.errors import TrainingError
from dynhat_runtime.offline.recipe import CorpusRecipe

Pair = tuple[str, str]

_OLD_SPELLINGS = (
    ("daß", "dass"), ("Daß", "Dass"), ("muß", "muss"), ("Muß", "Muss"), ("mußt", "musst"), ("läßt", "lässt"),
    ("Thür", "Tür"), ("thür", "tür"), ("Theil", "Teil"), ("theil", "teil"), ("Thal", "Tal"), ("Thier", "Tier"),
    ("Thun", "Tun"), ("thun", "tun"), ("that ", "tat "), ("seyn", "sein"), ("seyd", "seid"), ("giebt", "gibt"),
    ("wußt", "wusst"), ("müßt", "müsst"), ("gewiß", "gewiss"), ("Gewiß", "Gewiss"), ("Fluß", "Fluss"),
    ("Schloß", "Schloss"), ("laßt", "lasst"), ("Laßt", "Lasst"), ("bißchen", "bisschen"), ("Kuß", "Kuss"),
    ("häßlich", "hässlich"), ("faßt", "fasst"), ("Roth", "Rot"), ("roth", "rot"), ("Noth", "Not"), ("noth", "not"),
)  # fmt: skip


def modern_spelling(german: str) -> str:
    """Common spellings from before 1996 (and 1901) in today's form."""
    for old, new in _OLD_SPELLINGS:
        german = german.replace(old, new)
    return german


def read_pairs(path: Path) -> Iterator[Pair]:
    """Pairs of one gzipped TSV file.

    Raises:
        TrainingError: The file cannot be read, or a line has not exactly two columns.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                columns = line.rstrip("\n").split("\t")
                if len(columns) != 2:
                    raise TrainingError(
                        f"{path}:{number}: {len(columns)} columns; each line needs source, tab, target"
                    )
                yield columns[0], columns[1]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TrainingError(
            f"{path}: cannot be read as gzipped UTF-8 TSV ({error}): give --data-dir its folder"
        ) from error


def read_corpus(data_dir: Path, corpus: CorpusRecipe) -> Iterator[Pair]:
    """Pairs of one corpus after its recipe's filters."""
    for source, target in read_pairs(data_dir / corpus.file):
        num_words = (len(source.split()), len(target.split()))
        if min(num_words) == 0 or max(num_words) > corpus.max_words:
            continue
        yield source, modern_spelling(target) if corpus.modernise_spelling else target


@dataclass(frozen=True, slots=True)
class TokenisedCorpus:
    """Piece ids of many pairs in flat arrays; sequence i is `ids[offsets[i]:offsets[i + 1]]`, eos included."""

    src_ids: npt.NDArray[np.int32]
    src_offsets: npt.NDArray[np.int64]
    tgt_ids: npt.NDArray[np.int32]
    tgt_offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.src_offsets) - 1

    @property
    def src_lengths(self) -> npt.NDArray[np.int64]:
        """Source lengths in tokens, eos included."""
        return np.diff(self.src_offsets)

    @property
    def tgt_lengths(self) -> npt.NDArray[np.int64]:
        """Target lengths in tokens, eos included."""
        return np.diff(self.tgt_offsets)

    def source(self, index: int) -> npt.NDArray[np.int32]:
        """Source token ids of one pair, ending in eos."""
        return self.src_ids[self.src_offsets[index] : self.src_offsets[index + 1]]

    def target(self, index: int) -> npt.NDArray[np.int32]:
        """Target token ids of one pair, ending in eos."""
        return self.tgt_ids[self.tgt_offsets[index] : self.tgt_offsets[index + 1]]

    @classmethod
    def join(cls, corpora: Sequence[TokenisedCorpus]) -> TokenisedCorpus:
        """One corpus after another."""
        lengths = [
            np.concatenate([[0], *(getattr(c, side) for c in corpora)])
            for side in ("src_lengths", "tgt_lengths")
        ]
        return cls(
            np.concatenate([c.src_ids for c in corpora]),
            np.cumsum(lengths[0]),
            np.concatenate([c.tgt_ids for c in corpora]),
            np.cumsum(lengths[1]),
        )


def tokenise(pairs: Sequence[Pair], tokenizer: Tokenizer, max_tokens: int) -> TokenisedCorpus:
    """Tokenise pairs, leaving out those with a side longer than `max_tokens` (eos included)."""
    sources = tokenizer.encode_batch([source for source, _ in pairs])
    targets = tokenizer.encode_batch([target for _, target in pairs])
    kept = [
        (np.array([*src, EOS_ID], np.int32), np.array([*tgt, EOS_ID], np.int32))
        for src, tgt in zip(sources, targets, strict=True)
        if src and tgt and max(len(src), len(tgt)) < max_tokens
    ]
    empty = np.empty(0, np.int32)
    return TokenisedCorpus(
        np.concatenate([src for src, _ in kept]) if kept else empty,
        np.cumsum([0] + [len(src) for src, _ in kept]),
        np.concatenate([tgt for _, tgt in kept]) if kept else empty,
        np.cumsum([0] + [len(tgt) for _, tgt in kept]),
    )


def tokenised_corpus(
    data_dir: Path, corpus: CorpusRecipe, tokenizer_path: Path, max_tokens: int, cache_dir: Path
) -> TokenisedCorpus:
    """One corpus in tokens, kept on disk so that a resumed training starts at once.

    Raises:
        TrainingError: The corpus or the tokens kept of it cannot be read.
    """
    key = hashlib.sha256(f"{corpus.model_dump_json(exclude={'weight'})}|{max_tokens}|".encode())
    key.update(tokenizer_path.read_bytes())
    key.update(_content(data_dir / corpus.file))
    cached = cache_dir / f"{Path(corpus.file).name.split('.')[0]}-{key.hexdigest()[:16]}.npz"
    if cached.exists():
        return _read_tokens(cached)
    tokens = tokenise(
        list(read_corpus(data_dir, corpus)), SentencePieceTokenizer.load(tokenizer_path), max_tokens
    )
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(".partial.npz")
    np.savez(
        partial,
        src_ids=tokens.src_ids,
        src_offsets=tokens.src_offsets,
        tgt_ids=tokens.tgt_ids,
        tgt_offsets=tokens.tgt_offsets,
    )
    partial.replace(cached)
    return tokens


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be read ({error.strerror}): give --data-dir its folder"
        ) from error


def _read_tokens(path: Path) -> TokenisedCorpus:
    try:
        with np.load(path) as arrays:
            return TokenisedCorpus(**arrays)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise TrainingError(f"{path}: holds no tokens ({error}): remove it") from error


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded token ids: sources on the left, targets on the right (HAT)."""

    src_BS: Tensor
    prev_output_BT: Tensor
    target_BT: Tensor
    num_target_tokens: int

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        return Batch(
            self.src_BS.to(device),
            self.prev_output_BT.to(device),
            self.target_BT.to(device),
            self.num_target_tokens,
        )


def collate(corpus: TokenisedCorpus, indices: Sequence[int]) -> Batch:
    """Pad the pairs `indices` into one batch."""
    sources = [corpus.source(i) for i in indices]
    targets = [corpus.target(i) for i in indices]
    src = np.full((len(indices), max(map(len, sources))), PAD_ID, np.int64)
    tgt = np.full((len(indices), max(map(len, targets))), PAD_ID, np.int64)
    prev = np.full_like(tgt, PAD_ID)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        src[row, src.shape[1] - len(source) :] = source
        tgt[row, : len(target)] = target
        prev[row, 0] = EOS_ID
        prev[row, 1 : len(target)] = target[:-1]
    return Batch(torch.from_numpy(src), torch.from_numpy(prev), torch.from_numpy(tgt), sum(map(len, targets)))


def batches_by_tokens(
    corpus: TokenisedCorpus, order: npt.NDArray[np.int64], max_tokens: int
) -> list[npt.NDArray[np.int64]]:
    """Cut `order` (sorted by length) into batches whose padded longer side holds at most `max_tokens`."""
    longest = np.maximum(corpus.src_lengths, corpus.tgt_lengths)
    batches: list[npt.NDArray[np.int64]] = []
    begin, widest = 0, 0
    for position, index in enumerate(order):
        widest_with = max(widest, int(longest[index]))
        if position > begin and widest_with * (position - begin + 1) > max_tokens:
            batches.append(order[begin:position])
            begin, widest_with = position, int(longest[index])
        widest = widest_with
    if begin < len(order):
        batches.append(order[begin:])
    return batches


def padded_batches(corpus: TokenisedCorpus, order: npt.NDArray[np.int64], max_tokens: int) -> list[Batch]:
    """The pairs `order` (sorted by length), padded, in batches of at most `max_tokens` on the longer side."""
    return [collate(corpus, batch.tolist()) for batch in batches_by_tokens(corpus, order, max_tokens)]


def epoch_batches(
    corpus: TokenisedCorpus, weights: npt.NDArray[np.float64], *, max_tokens: int, seed: int, epoch: int
) -> list[npt.NDArray[np.int64]]:
    """The batches of one epoch in training order.

    Args:
        corpus: All pairs.
        weights: Expected number of times each pair occurs in an epoch.
        max_tokens: Bound on the padded tokens of the longer side of a batch.
        seed: Of the training run.
        epoch: Counted from 0.

    Returns:
        Index arrays; a function of the arguments alone.
    """
    rng = np.random.default_rng([seed, epoch])
    whole = np.floor(weights).astype(np.int64)
    counts = whole + (rng.random(len(weights)) < weights - whole)
    indices = rng.permutation(np.repeat(np.arange(len(weights)), counts))
    by_length = np.lexsort((corpus.src_lengths[indices], corpus.tgt_lengths[indices]))
    batches = batches_by_tokens(corpus, indices[by_length], max_tokens)
    return [batches[i] for i in rng.permutation(len(batches))]
