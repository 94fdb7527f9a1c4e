"""`dynhat prepare-data`: from raw text to shards of tokens, chunk by chunk, resuming after any interruption.

Three stages: clean (chunks of pairs go to `work/` as text), vocabulary, tokenise (each chunk becomes a shard). What a
stage has finished stays; the manifest is written last and `work/` goes. What is removed and why: `cleaning.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from rich.console import Console

from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer, train_tokenizer
from dynhat_runtime.errors import TrainingError
from dynhat_runtime.offline.cleaning import REASONS, Cleaner, Reason
from dynhat_runtime.offline.data import tokenise
from dynhat_runtime.offline.parallel_text import BrokenLine, Pair, TextFile, read_lines, read_pairs
from dynhat_runtime.offline.preparation_progress import PreparationProgress, late_interrupt
from dynhat_runtime.offline.preparation_report import as_markdown
from dynhat_runtime.offline.preparation_work import ChunkRecord, WorkFolder
from dynhat_runtime.offline.prepared_data import (
    FREE_DATA_FIELDS,
    CorpusRecord,
    PreparedData,
    PreparedManifest,
    ShardRecord,
    manifest_path,
    packed,
    tokenizer_path,
)
from dynhat_runtime.offline.recipe import CleaningRecipe, CorpusRecipe, DataRecipe, dotted_fields
from dynhat_runtime.offline.whole_files import write_bytes

CHUNK_LINES = 50_000
"""Lines of a chunk: what an interruption costs at most, and what is in memory at once."""
NUM_PASSES = 2
"""Every line is cleaned, and those that stay are tokenised."""
MAX_VOCABULARY_PAIRS = 500_000
"""The vocabulary is made of so many pairs: of more, sentencepiece would draw some, and others every time."""
MAX_EXAMPLES = 10
"""Line numbers kept per reason and corpus."""


@dataclass(frozen=True, slots=True)
class _Corpus:
    """One corpus on its way.

    Attributes:
        name: Begins the names of its chunks.
        cleaner: Shared by all training corpora, so that duplicates are found across them.
    """

    name: str
    recipe: CorpusRecipe
    text: TextFile
    cleaner: Cleaner

    @property
    def chunk_names(self) -> list[str]:
        return [f"{self.name}-{i:03}" for i in range(-(-self.text.num_lines // CHUNK_LINES))]


def prepare(
    data: DataRecipe, data_dir: Path, out: Path, *, tokenizer: Path | None = None, console: Console
) -> PreparedData:
    """Make prepared data in `out`, or finish it; where it is ready already, nothing is done.

    Args:
        data: What to make, and of what.
        data_dir: Folder that the recipe's files lie below.
        out: Folder of the result.
        tokenizer: Use this vocabulary; without it one is trained on the cleaned text.
        console: Shows progress, and broken lines by their numbers.

    Raises:
        TrainingError: Text that cannot be read or leaves nothing, a vocabulary too large for it, a folder that
            cannot be written or that holds other data.
    """
    given = None if tokenizer is None else _given_tokenizer(tokenizer, data.vocab_size)
    files = (*(corpus.file for corpus in (*data.corpora, *data.dev)), *data.held_out)
    texts = {file: TextFile.inspect(data_dir / file) for file in dict.fromkeys(files)}
    if manifest_path(out).exists():
        return _ready(out, data, texts, given)
    work = WorkFolder(out / "work")
    work.begin(_identity(data, texts, given))
    corpora, dev = _corpora(data, texts)
    num_lines = sum(corpus.text.num_lines for corpus in (*corpora, *dev))
    with PreparationProgress(console, NUM_PASSES * num_lines) as progress:
        for corpus in (*corpora, *dev):
            _clean(corpus, work, progress)
        progress.begin("vocabulary")
        model = given or _vocabulary(corpora, data.vocab_size, work)
        write_bytes(tokenizer_path(out), model, "--out")
        pieces = SentencePieceTokenizer(model)
        records = [
            _tokenised(corpus, pieces, data.max_tokens_per_sentence, work, out, progress)
            for corpus in (*corpora, *dev)
        ]
    manifest = PreparedManifest(
        data=data,
        held_out_sha256={file: texts[file].sha256 for file in data.held_out},
        tokenizer_sha256=hashlib.sha256(model).hexdigest(),
        corpora=tuple(records[: len(corpora)]),
        dev=tuple(records[len(corpora) :]),
    )
    _check_not_empty(manifest)
    write_bytes(out / "report.md", as_markdown(manifest).encode(), "--out")
    write_bytes(manifest_path(out), (manifest.model_dump_json(indent=1) + "\n").encode(), "--out")
    shutil.rmtree(work.path)
    return PreparedData(out, manifest)


def _corpora(data: DataRecipe, texts: dict[str, TextFile]) -> tuple[list[_Corpus], list[_Corpus]]:
    """Training and dev corpora, each kind with the cleaner its corpora share."""
    languages = data.src_lang, data.tgt_lang
    held_out = [
        pair
        for file in (*(c.file for c in data.dev), *data.held_out)
        for pair in read_pairs(texts[file].path)
    ]
    dev_rules = CleaningRecipe(filters=(), normalise=data.cleaning.normalise)
    kinds = (
        ("train", data.corpora, Cleaner(data.cleaning, languages, held_out)),
        ("dev", data.dev, Cleaner(dev_rules, languages)),
    )
    train, dev = (
        [
            _Corpus(
                f"{kind}-{i:02}-{Path(corpus.file).name.split('.')[0]}", corpus, texts[corpus.file], cleaner
            )
            for i, corpus in enumerate(corpora)
        ]
        for kind, corpora, cleaner in kinds
    )
    return train, dev


def _given_tokenizer(path: Path, vocab_size: int) -> bytes:
    num_pieces = SentencePieceTokenizer.load(path).src_vocab_size
    if num_pieces != vocab_size:
        raise TrainingError(f"{path} has {num_pieces} pieces: give one of data.vocab_size={vocab_size}")
    return path.read_bytes()


def _ready(out: Path, data: DataRecipe, texts: dict[str, TextFile], given: bytes | None) -> PreparedData:
    """What is there already, if it is what is asked for.

    Raises:
        TrainingError: It was made with another recipe, of other text or with another tokenizer.
    """
    prepared = PreparedData.open(out)
    prepared.check_fits(data, "give the recipe it was prepared with, or another folder")
    made_of = {
        record.file: record.text_sha256 for record in (*prepared.manifest.corpora, *prepared.manifest.dev)
    }
    for file, sha256 in {**made_of, **prepared.manifest.held_out_sha256}.items():
        if texts[file].sha256 != sha256:
            raise TrainingError(
                f"{texts[file].path}: is not the text that {out} was prepared of: give another folder"
            )
    if given is not None and hashlib.sha256(given).hexdigest() != prepared.manifest.tokenizer_sha256:
        raise TrainingError(f"{out} was prepared with another tokenizer: give another folder")
    return prepared


def _identity(data: DataRecipe, texts: dict[str, TextFile], given: bytes | None) -> str:
    """What decides every byte that is made."""
    made_of = {
        "data": dotted_fields(data.model_dump(mode="json"), FREE_DATA_FIELDS),
        "texts": {file: text.sha256 for file, text in texts.items()},
        "tokenizer": None if given is None else hashlib.sha256(given).hexdigest(),
        "chunk_lines": CHUNK_LINES,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _clean(corpus: _Corpus, work: WorkFolder, progress: PreparationProgress) -> None:
    """First stage: pairs that stay go to the work folder, chunk by chunk."""
    progress.begin(f"cleaning {corpus.recipe.file}")
    lines = enumerate(read_lines(corpus.text.path), start=1)
    for name in corpus.chunk_names:
        chunk = islice(lines, CHUNK_LINES)
        if work.cleaned(name) is None:
            _clean_chunk(corpus, name, chunk, work, progress)
        else:
            for pair in work.pairs(name):
                corpus.cleaner.remember(pair)
            progress.advance(sum(1 for _ in chunk))
    records = [work.cleaned_record(name) for name in corpus.chunk_names]
    broken = [number for record in records for number in record.examples.get("broken_line", ())]
    if broken:
        count = sum(record.removed.get("broken_line", 0) for record in records)
        numbers = ", ".join(map(str, broken[:MAX_EXAMPLES])) + (", ..." if count > MAX_EXAMPLES else "")
        progress.say(f"{corpus.text.path}: {count} broken lines left out, at {numbers}")
    kept = sum(record.num_pairs for record in records)
    progress.end(f"{corpus.recipe.file}: {kept:,} of {corpus.text.num_lines:,} lines stay")


def _clean_chunk(
    corpus: _Corpus,
    name: str,
    lines: Iterator[tuple[int, Pair | BrokenLine]],
    work: WorkFolder,
    progress: PreparationProgress,
) -> None:
    kept: list[Pair] = []
    removed: dict[Reason, list[int]] = {reason: [] for reason in REASONS}
    for number, line in lines:
        progress.advance(1)
        if isinstance(line, BrokenLine):
            removed["broken_line"].append(number)
            continue
        pair = corpus.cleaner.formed(line, corpus.recipe)
        reason = corpus.cleaner.judge(pair, corpus.recipe)
        if reason is None:
            corpus.cleaner.remember(pair)
            kept.append(pair)
        else:
            removed[reason].append(number)
    work.keep_cleaned(
        name,
        kept,
        ChunkRecord(
            num_pairs=len(kept),
            removed={reason: len(numbers) for reason, numbers in removed.items() if numbers},
            examples={
                reason: tuple(numbers[:MAX_EXAMPLES]) for reason, numbers in removed.items() if numbers
            },
        ),
    )


def _vocabulary(corpora: list[_Corpus], vocab_size: int, work: WorkFolder) -> bytes:
    """Second stage: the joint vocabulary of the cleaned training text."""
    if (model := work.vocabulary()) is not None:
        return model
    chunks = [name for corpus in corpora for name in corpus.chunk_names]
    num_pairs = sum(work.cleaned_record(name).num_pairs for name in chunks)
    if num_pairs == 0:
        raise TrainingError(_NOTHING_LEFT)
    pairs = evenly(chain.from_iterable(map(work.pairs, chunks)), num_pairs, MAX_VOCABULARY_PAIRS)
    sides = chain.from_iterable(pairs)
    try:
        with late_interrupt():
            model = train_tokenizer(sides, vocab_size)
            work.keep_vocabulary(model)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise TrainingError(
            f"no vocabulary of vocab_size={vocab_size} can be made of this text: {reason}"
        ) from error
    return model


def evenly(pairs: Iterable[Pair], num_pairs: int, max_pairs: int) -> Iterator[Pair]:
    """At most `max_pairs` of `num_pairs`, evenly spaced and always the same ones."""
    wanted = min(num_pairs, max_pairs)
    for number, pair in enumerate(pairs):
        if (number + 1) * wanted // num_pairs > number * wanted // num_pairs:
            yield pair


def _tokenised(
    corpus: _Corpus,
    tokenizer: SentencePieceTokenizer,
    max_tokens: int,
    work: WorkFolder,
    out: Path,
    progress: PreparationProgress,
) -> CorpusRecord:
    """Third stage: a shard of every chunk that has pairs."""
    progress.begin(f"tokens of {corpus.recipe.file}")
    shards: list[ShardRecord] = []
    counts = dict.fromkeys(REASONS, 0)
    examples: dict[Reason, tuple[int, ...]] = {}
    for name in corpus.chunk_names:
        cleaned = work.cleaned_record(name)
        shard = work.shard(name)
        if shard is None:
            tokens = tokenise(list(work.pairs(name)), tokenizer, max_tokens)
            content = packed(tokens)
            shard = ShardRecord(
                file=f"{name}.npz",
                sha256=hashlib.sha256(content).hexdigest(),
                num_pairs=len(tokens),
                num_src_tokens=len(tokens.src_ids),
                num_tgt_tokens=len(tokens.tgt_ids),
            )
            write_bytes(out / shard.file, content, "--out")
            work.keep_shard(name, shard)
        shards.append(shard)
        progress.advance(cleaned.num_pairs + sum(cleaned.removed.values()))
        counts["too_many_tokens"] += cleaned.num_pairs - shard.num_pairs
        for reason, count in cleaned.removed.items():
            counts[reason] += count
        for reason, numbers in cleaned.examples.items():
            examples[reason] = (*examples.get(reason, ()), *numbers)[:MAX_EXAMPLES]
    return CorpusRecord(
        file=corpus.recipe.file,
        text_sha256=corpus.text.sha256,
        num_lines=corpus.text.num_lines,
        removed={reason: count for reason, count in counts.items() if count},
        examples={reason: examples[reason] for reason in REASONS if reason in examples},
        shards=tuple(shards),
    )


_NOTHING_LEFT = (
    "no training pair is left after the filters: raise max_words or max_tokens_per_sentence, "
    "or take filters out of [data.cleaning]"
)


def _check_not_empty(manifest: PreparedManifest) -> None:
    """Refuse what cannot be trained on.

    Raises:
        TrainingError: Training or dev pairs are all gone.
    """
    if not any(record.num_pairs for record in manifest.corpora):
        raise TrainingError(_NOTHING_LEFT)
    if not any(record.num_pairs for record in manifest.dev):
        raise TrainingError("no dev pair is left after the filters: give another dev file")
