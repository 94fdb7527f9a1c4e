"""`dynhat make-shortlist`: learn from the training text which target tokens may translate which source tokens.

Pairs are drawn from the corpora by their weights, with a seed; an alignment model says what stands for what. What a
sentence's list holds is measured on a dev set when there is one; what the list does to translations is `evaluate`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress

from dynhat_runtime.decoding.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer, tokenizer_of
from dynhat_runtime.errors import SettingsError, TrainingError, first_complaint
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.shortlist import Shortlist, Tokens
from dynhat_runtime.offline.alignment import EMPTY_WORD, TranslationTable, learn_translations
from dynhat_runtime.offline.cleaning import Cleaner
from dynhat_runtime.offline.data import TokenisedCorpus, tokenise
from dynhat_runtime.offline.parallel_text import Pair, read_pairs
from dynhat_runtime.offline.recipe import CleaningRecipe, CorpusRecipe, Recipe

NUM_PER_TOKEN = 50
NUM_COMMON = 500
"""Both from the table in docs/decisions/0023-shortlist.md."""


@dataclass(frozen=True, slots=True)
class ShortlistOptions:
    """How large the lists are, and what draws the pairs.

    Attributes:
        num_per_token: Most target tokens of one source token, beside the common ones and itself.
        num_common: Target tokens of every list: the most frequent ones.
        seed: Of the draw.
    """

    num_per_token: int = NUM_PER_TOKEN
    num_common: int = NUM_COMMON
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Coverage:
    """What lists hold of a dev set's references.

    Attributes:
        token_fraction: Reference tokens that are on their sentence's list.
        sentence_fraction: Sentences whose reference is on the list entirely.
        mean_listed: Tokens of a list.
    """

    token_fraction: float
    sentence_fraction: float
    mean_listed: float


@dataclass(frozen=True, slots=True)
class MadeShortlist:
    """The bundle with its new file, and what is known of it."""

    bundle: Bundle
    num_pairs: int
    size_bytes: int
    coverage: Coverage | None


def make_shortlist(
    bundle: Bundle,
    data_dir: Path,
    options: ShortlistOptions,
    *,
    recipe: Path | None = None,
    dev: Path | None = None,
    console: Console | None = None,
) -> MadeShortlist:
    """Learn a bundle's shortlist and write it into the bundle.

    Args:
        bundle: Its tokenizer cuts the text; its training record says which text, unless a recipe does.
        data_dir: Folder below which the text lies.
        options: How large.
        recipe: Names the text instead.
        dev: Gzipped TSV to measure the coverage on.
        console: Shows progress.

    Raises:
        DynhatError: What is wrong with the text, the recipe, the dev set or the bundle, which needs one vocabulary
            for both languages.
    """
    console = console or Console(stderr=True)
    if recipe is None:
        corpora, cleaning = corpora_of(bundle), CleaningRecipe()
    else:
        data = Recipe.load(recipe).data
        corpora, cleaning = data.corpora, data.cleaning
    cleaner = Cleaner(cleaning, (bundle.src_lang, bundle.tgt_lang))
    dev_pairs = None if dev is None else list(read_pairs(dev))
    tokenizer = tokenizer_of(bundle)
    if tokenizer.src_pieces() != tokenizer.tgt_pieces():
        raise SettingsError(f"{bundle.path}: has two vocabularies: a shortlist needs one for both languages")
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=1.0)
        pairs = drawn_pairs(
            data_dir, corpora, cleaner, options.seed, lambda f: progress.update(task, completed=f)
        )
        progress.update(task, description="tokenising", completed=0.0)
        corpus = tokenise(pairs, tokenizer, bundle.manifest.max_src_tokens)
        if len(corpus) == 0:
            raise TrainingError(f"{data_dir}: no pair is left to learn from: give more text")
        progress.update(task, description="aligning")
        table = learn_translations(
            corpus, tokenizer.tgt_vocab_size, progress=lambda f: progress.update(task, completed=f)
        )
    shortlist = choose(table, corpus, tokenizer, options)
    coverage = None if dev_pairs is None else covered(shortlist, dev_pairs, tokenizer)
    content = shortlist.as_bytes(
        {
            "learned_from": [c.model_dump(mode="json") for c in corpora],
            "num_pairs": len(corpus),
            **asdict(options),
            **({} if coverage is None or dev is None else {"dev_set": dev.name, **asdict(coverage)}),
        }
    )
    return MadeShortlist(bundle.with_shortlist(content), len(corpus), len(content), coverage)


def corpora_of(bundle: Bundle) -> tuple[CorpusRecipe, ...]:
    """The text that a bundle says it was trained on.

    Raises:
        SettingsError: It does not say.
    """
    data: Any = bundle.training_record().get("data")
    try:
        corpora = TypeAdapter(tuple[CorpusRecipe, ...]).validate_python(data or ())
    except ValidationError as error:
        raise SettingsError(
            f"{bundle.path}: its training record names text in another way ({first_complaint(error)}): give --recipe"
        ) from error
    if not corpora:
        raise SettingsError(
            f"{bundle.path}: its training record names no text: give a --recipe with [[data.corpora]]"
        )
    return corpora


def drawn_pairs(
    data_dir: Path,
    corpora: Sequence[CorpusRecipe],
    cleaner: Cleaner,
    seed: int,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> list[Pair]:
    """Clean pairs of all corpora, each as often as its weight says in expectation: what an epoch of training draws.

    Raises:
        TrainingError: A corpus cannot be read.
    """
    rng, pairs = np.random.default_rng(seed), list[Pair]()
    for number, corpus in enumerate(corpora, start=1):
        whole, rest = divmod(corpus.weight, 1)
        for raw in read_pairs(data_dir / corpus.file):
            pair = cleaner.formed(raw, corpus)
            if cleaner.judge(pair, corpus) is not None:
                continue
            cleaner.remember(pair)
            pairs += [pair] * (int(whole) + int(rng.random() < rest))
        progress(number / len(corpora))
    return pairs


def choose(
    table: TranslationTable, corpus: TokenisedCorpus, tokenizer: Tokenizer, options: ShortlistOptions
) -> Shortlist:
    """Lists of the size asked for.

    Rules: (1) Every list has eos and the most frequent target tokens; it never has padding or the token that begins a
    sentence. (2) A source token has the likeliest of the others, as many as `num_per_token`; (3) and itself: names and
    numbers are copied.
    """
    frequency_V = np.bincount(corpus.tgt_ids, minlength=tokenizer.tgt_vocab_size)
    frequency_V[[BOS_ID, PAD_ID, EOS_ID]] = 0
    most_frequent = np.argsort(-frequency_V, kind="stable")[: options.num_common]
    common = np.union1d([EOS_ID], most_frequent[frequency_V[most_frequent] > 0])
    is_wanted_U = ~np.isin(table.tgt_U, [*common, BOS_ID, PAD_ID]) & (table.src_U != EMPTY_WORD)
    src_U, tgt_U, p_U = (array[is_wanted_U] for array in (table.src_U, table.tgt_U, table.probability_U))
    likeliest_first = np.lexsort((tgt_U, -p_U, src_U))
    src_U, tgt_U = src_U[likeliest_first], tgt_U[likeliest_first]
    rank_U = np.arange(len(src_U)) - np.searchsorted(src_U, src_U)
    src_U, tgt_U = src_U[rank_U < options.num_per_token], tgt_U[rank_U < options.num_per_token]
    copied = np.setdiff1d(np.arange(tokenizer.tgt_vocab_size), [*common, BOS_ID, PAD_ID])
    pairs = np.stack([np.concatenate([src_U, copied]), np.concatenate([tgt_U, copied])], axis=1)
    own = np.unique(pairs, axis=0)
    starts = np.searchsorted(own[:, 0], np.arange(tokenizer.src_vocab_size + 1))
    return Shortlist(_as_tokens(common), _as_tokens(starts), _as_tokens(own[:, 1]), tokenizer.tgt_vocab_size)


def covered(shortlist: Shortlist, pairs: Sequence[Pair], tokenizer: Tokenizer) -> Coverage:
    """What the lists hold of these pairs' references."""
    num_tokens = num_listed_tokens = num_whole = num_listed = 0
    sources = tokenizer.encode_batch([source for source, _ in pairs])
    targets = tokenizer.encode_batch([target for _, target in pairs])
    for source, target in zip(sources, targets, strict=True):
        listed = shortlist.listed([*source, EOS_ID])
        is_listed = np.isin([*target, EOS_ID], listed)
        num_tokens += len(is_listed)
        num_listed_tokens += int(is_listed.sum())
        num_whole += bool(is_listed.all())
        num_listed += len(listed)
    return Coverage(
        token_fraction=round(num_listed_tokens / num_tokens, 4),
        sentence_fraction=round(num_whole / len(pairs), 4),
        mean_listed=round(num_listed / len(pairs), 1),
    )


def _as_tokens(ids: NDArray[Any]) -> Tokens:
    return ids.astype(np.int32)
