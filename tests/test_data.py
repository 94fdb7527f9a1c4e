"""Parallel text: what is read, what is left out, and how it is cut into batches."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from dynhat_runtime.decoding.tokenizer import EOS_ID, PAD_ID
from dynhat_runtime.errors import TrainingError
from dynhat_runtime.offline.data import (
    TokenisedCorpus,
    collate,
    epoch_batches,
    modern_spelling,
    read_corpus,
    read_pairs,
    tokenise,
    tokenised_corpus,
)
from dynhat_runtime.offline.recipe import CorpusRecipe
from tests.toy_text import toy_pairs, toy_tokenizer, toy_tokenizer_model, write_pairs


def _corpus(lengths: list[tuple[int, int]]) -> TokenisedCorpus:
    """Pairs of these lengths, eos included; sequence i is 10 + i over and over."""

    def side(place: int) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.array([10 + i] * (pair[place] - 1) + [EOS_ID], np.int32) for i, pair in enumerate(lengths)]
        return np.concatenate(rows), np.cumsum([0, *map(len, rows)])

    return TokenisedCorpus(*side(0), *side(1))


def _random_corpus(count: int, seed: int = 0) -> TokenisedCorpus:
    rng = np.random.default_rng(seed)
    return _corpus([(int(s), int(t)) for s, t in rng.integers(2, 30, (count, 2))])


def _epoch(
    corpus: TokenisedCorpus, weight: float = 1.0, seed: int = 1, epoch: int = 0, max_tokens: int = 100
) -> list[list[int]]:
    weights = np.full(len(corpus), weight)
    batches = epoch_batches(corpus, weights, max_tokens=max_tokens, seed=seed, epoch=epoch)
    return [batch.tolist() for batch in batches]


# --- reading ---


def test_pairs_are_read_in_order(tmp_path: Path) -> None:
    """What stands in the file comes out, umlauts included."""
    pairs = toy_pairs(5)
    assert list(read_pairs(write_pairs(tmp_path / "a.tsv.gz", pairs))) == pairs


@pytest.mark.parametrize(("line", "columns"), [("no tab", 1), ("one\ttwo\tthree", 3), ("", 1)])
def test_malformed_line_is_named(tmp_path: Path, line: str, columns: int) -> None:
    """A line without exactly two columns is refused by file and number."""
    path = tmp_path / "a.tsv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(f"a\tb\n{line}\nc\td\n")
    with pytest.raises(TrainingError, match=rf"a\.tsv\.gz:2: {columns} columns"):
        list(read_pairs(path))


def _whole(path: Path) -> bytes:
    return write_pairs(path, toy_pairs(500)).read_bytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[:-200],
        lambda whole: whole[:5],
        lambda whole: whole[:400] + b"\xff" * 40 + whole[440:],
        lambda whole: whole[:-8] + b"\0" * 8,
        lambda whole: b"source\ttarget\n",
        lambda whole: gzip.compress(b"\xff\xfe\t\xff\n"),
    ],
    ids=["truncated", "header only", "altered", "wrong checksum", "not gzip", "not UTF-8"],
)
def test_spoilt_file_is_named(tmp_path: Path, spoil) -> None:
    """A corpus file that is truncated, altered, or of another kind is refused by name in one line."""
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(spoil(_whole(path)))
    with pytest.raises(TrainingError, match=r"a\.tsv\.gz: cannot be read as gzipped UTF-8 TSV") as raised:
        list(read_pairs(path))
    assert "\n" not in str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A corpus file that is not there is refused by name, with the option that says where to look."""
    with pytest.raises(TrainingError, match=r"b\.tsv\.gz: .*--data-dir"):
        list(read_pairs(tmp_path / "b.tsv.gz"))


def test_long_and_empty_sides_are_left_out(tmp_path: Path) -> None:
    """max_words bounds both sides; a pair with an empty side is dropped."""
    kept = ("three words here", "drei Wörter hier")
    write_pairs(
        tmp_path / "a.tsv.gz",
        [kept, ("four words are here", "vier"), ("four", "vier Wörter sind hier"), ("", "leer"), ("x", " ")],
    )
    assert list(read_corpus(tmp_path, CorpusRecipe(file="a.tsv.gz", max_words=3))) == [kept]


def test_spelling_is_modernised_on_request(tmp_path: Path) -> None:
    """Old German spellings are renewed only where the recipe says so, and never in the source."""
    write_pairs(tmp_path / "a.tsv.gz", [("daß that ", "Er muß wissen, daß die Thür roth ist.")])
    plain, modern = (
        list(read_corpus(tmp_path, CorpusRecipe(file="a.tsv.gz", modernise_spelling=renew)))
        for renew in (False, True)
    )
    assert plain == [("daß that ", "Er muß wissen, daß die Thür roth ist.")]
    assert modern == [("daß that ", "Er muss wissen, dass die Tür rot ist.")]


def test_modern_text_stays() -> None:
    """Text in today's spelling is left as it is, with its ß."""
    text = "Große Straßen heißen auch heute so; das macht Spaß."
    assert modern_spelling(text) == text


# --- tokens ---


def test_tokens_end_in_eos() -> None:
    """Every side ends in eos and decodes to what went in."""
    pairs = toy_pairs(30)
    corpus = tokenise(pairs, toy_tokenizer(), max_tokens=100)
    assert len(corpus) == 30
    for i, (source, target) in enumerate(pairs):
        assert corpus.source(i)[-1] == corpus.target(i)[-1] == EOS_ID
        assert toy_tokenizer().decode(corpus.source(i).tolist()) == source
        assert toy_tokenizer().decode(corpus.target(i).tolist()) == target


def test_token_limit_counts_eos() -> None:
    """A pair whose longer side has exactly max_tokens tokens with eos stays; one token more, and it goes."""
    pair = toy_pairs(1)[0]
    length = max(len(toy_tokenizer().encode(side)) for side in pair) + 1
    assert len(tokenise([pair], toy_tokenizer(), max_tokens=length)) == 1
    assert len(tokenise([pair], toy_tokenizer(), max_tokens=length - 1)) == 0


def test_joined_corpora_follow_each_other() -> None:
    """Joining keeps every pair, in order."""
    first, second = _random_corpus(4, seed=1), _random_corpus(3, seed=2)
    joined = TokenisedCorpus.join([first, second])
    assert len(joined) == 7
    for i in range(7):
        part, place = (first, i) if i < 4 else (second, i - 4)
        assert joined.source(i).tolist() == part.source(place).tolist()
        assert joined.target(i).tolist() == part.target(place).tolist()


def _cached(folder: Path, corpus: CorpusRecipe, max_tokens: int = 100) -> TokenisedCorpus:
    (folder / "tokenizer.model").write_bytes(toy_tokenizer_model())
    return tokenised_corpus(folder, corpus, folder / "tokenizer.model", max_tokens, folder / "tokens")


def test_cache_is_reused(tmp_path: Path) -> None:
    """The second time nothing is tokenised, whatever the weight; the tokens are the same."""
    write_pairs(tmp_path / "a.tsv.gz", toy_pairs(20))
    first = _cached(tmp_path, CorpusRecipe(file="a.tsv.gz"))
    (file,) = (tmp_path / "tokens").iterdir()
    written = file.stat().st_mtime_ns
    again = _cached(tmp_path, CorpusRecipe(file="a.tsv.gz", weight=3.0))
    assert list((tmp_path / "tokens").iterdir()) == [file]
    assert file.stat().st_mtime_ns == written
    assert again.src_ids.tolist() == first.src_ids.tolist()
    assert again.tgt_offsets.tolist() == first.tgt_offsets.tolist()


def test_cache_knows_what_it_was_made_of(tmp_path: Path) -> None:
    """Other filters, another token limit or other text under the same name are tokenised anew."""
    write_pairs(tmp_path / "a.tsv.gz", toy_pairs(20))
    assert len(_cached(tmp_path, CorpusRecipe(file="a.tsv.gz"))) == 20
    assert len(_cached(tmp_path, CorpusRecipe(file="a.tsv.gz", max_words=1))) == 0
    assert len(_cached(tmp_path, CorpusRecipe(file="a.tsv.gz"), max_tokens=2)) == 0
    write_pairs(tmp_path / "a.tsv.gz", toy_pairs(21))
    assert len(_cached(tmp_path, CorpusRecipe(file="a.tsv.gz"))) == 21


def test_spoilt_cache_is_named(tmp_path: Path) -> None:
    """A cache file that cannot be read is refused by name, with what to do."""
    write_pairs(tmp_path / "a.tsv.gz", toy_pairs(20))
    _cached(tmp_path, CorpusRecipe(file="a.tsv.gz"))
    (file,) = (tmp_path / "tokens").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TrainingError, match=rf"{file.name}: .*: remove it"):
        _cached(tmp_path, CorpusRecipe(file="a.tsv.gz"))


# --- batches ---


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    """The same seed and epoch give the same batches in the same order; another of either does not."""
    corpus = _random_corpus(300)
    assert _epoch(corpus) == _epoch(corpus)
    assert _epoch(corpus) != _epoch(corpus, seed=2)
    assert _epoch(corpus) != _epoch(corpus, epoch=1)


@pytest.mark.parametrize("max_tokens", [29, 64, 500])
def test_token_bound_is_kept(max_tokens: int) -> None:
    """No batch holds more padded tokens than allowed on its longer side."""
    corpus = _random_corpus(400)
    for indices in _epoch(corpus, max_tokens=max_tokens):
        batch = collate(corpus, indices)
        assert max(batch.src_BS.numel(), batch.target_BT.numel()) <= max_tokens


def test_batches_are_filled() -> None:
    """Batches are of similar length and nearly full: the next pair in order would not have fitted."""
    corpus = _random_corpus(2000)
    batches = _epoch(corpus, max_tokens=600)
    padded = sum(collate(corpus, indices).target_BT.numel() for indices in batches)
    assert padded < 1.1 * corpus.tgt_lengths.sum()
    assert len(batches) < 1.25 * np.maximum(corpus.src_lengths, corpus.tgt_lengths).sum() / 600


def test_pair_longer_than_the_bound_stands_alone() -> None:
    """A pair that exceeds the bound by itself is a batch of its own, not lost."""
    corpus = _corpus([(3, 3), (50, 4), (3, 3)])
    assert sorted(map(sorted, _epoch(corpus, max_tokens=20))) == [[0, 2], [1]]


def test_weight_one_takes_every_pair_once() -> None:
    """At weight 1 an epoch holds every pair exactly once."""
    corpus = _random_corpus(300)
    assert sorted(i for batch in _epoch(corpus) for i in batch) == list(range(300))


def test_weights_are_expected_occurrences() -> None:
    """Whole parts of a weight always occur; the fraction occurs in its share of pairs, others each epoch."""
    corpus = _random_corpus(1000)
    weights = np.repeat([0.3, 2.7], 500)
    epochs = []
    for epoch in (0, 1):
        batches = epoch_batches(corpus, weights, max_tokens=100, seed=1, epoch=epoch)
        epochs.append(np.bincount(np.concatenate(batches), minlength=1000))
    for counts in epochs:
        assert set(counts[:500]) == {0, 1}
        assert set(counts[500:]) == {2, 3}
        assert counts[:500].mean() == pytest.approx(0.3, abs=0.07)
        assert counts[500:].mean() == pytest.approx(2.7, abs=0.07)
    assert (epochs[0] != epochs[1]).any()


def test_collate_pads_and_shifts() -> None:
    """Sources are padded on the left, targets on the right; the decoder reads eos, then the target less its end."""
    batch = collate(_corpus([(2, 4), (4, 2)]), [0, 1])
    assert batch.src_BS.tolist() == [[PAD_ID, PAD_ID, 10, EOS_ID], [11, 11, 11, EOS_ID]]
    assert batch.target_BT.tolist() == [[10, 10, 10, EOS_ID], [11, EOS_ID, PAD_ID, PAD_ID]]
    assert batch.prev_output_BT.tolist() == [[EOS_ID, 10, 10, 10], [EOS_ID, 11, PAD_ID, PAD_ID]]
    assert batch.num_target_tokens == 6


def test_batch_moves_whole() -> None:
    """Moving a batch keeps its tokens and their number."""
    batch = collate(_corpus([(2, 4), (4, 2)]), [0, 1])
    moved = batch.to(torch.device("meta"))
    assert {t.device.type for t in (moved.src_BS, moved.prev_output_BT, moved.target_BT)} == {"meta"}
    assert moved.src_BS.shape == batch.src_BS.shape
    assert moved.num_target_tokens == 6
