"""The text pipeline of imported models: dictionaries, BPE, compounds, round trips, and a daemon engine on top."""

from __future__ import annotations

import builtins
import io
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sacremoses")
pytest.importorskip("subword_nmt")

from subword_nmt.learn_bpe import learn_bpe

from dynhat_runtime.decoding.moses_bpe import (
    AT_MARK,
    MOSES_MARK,
    FairseqDictionary,
    MosesBpeTokenizer,
    TextStyle,
)
from dynhat_runtime.decoding.tokenizer import UNK_ID, tokenizer_of
from dynhat_runtime.engine import TranslationEngine
from dynhat_runtime.errors import BundleError, SettingsError
from dynhat_runtime.model.checkpoint import BPE_CODES, SRC_DICT, TGT_DICT, Bundle, write_bundle
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import SuperTransformer
from tests.tiny_bundle import SENTENCES, SPACE, tiny_table

TATOEBA = Path(__file__).parent / "data" / "tatoeba" / "sentences.tsv"
MARKED = f"{AT_MARK} 1\nA 1\n".encode()


def dictionary_of(symbols: Iterable[str]) -> bytes:
    """A dictionary file of these symbols."""
    counts = Counter(list(symbols))
    return "".join(f"{symbol} {count}\n" for symbol, count in counts.items()).encode()


def covering(
    texts: Iterable[str], language: str, codes: bytes = b"", mark: str = AT_MARK
) -> MosesBpeTokenizer:
    """A tokenizer of one language whose dictionary has every word of `texts`."""
    words = MosesBpeTokenizer(MARKED, MARKED, b"", language, language, style=TextStyle(mark)).words
    symbols = [mark, *(word for text in texts for word in words(text))]
    content = dictionary_of(symbols)
    return MosesBpeTokenizer(content, content, codes, language, language)


def toy_codes() -> bytes:
    """Merges learned on the tiny bundle's sentences."""
    merges = io.StringIO()
    learn_bpe(io.StringIO("\n".join(SENTENCES) + "\n"), merges, num_symbols=60)
    return merges.getvalue().encode()


def toy_dictionary() -> bytes:
    """Every letter as a piece that goes on and one that ends, the longer pieces of the codes, and the mark."""
    letters = sorted({c for sentence in SENTENCES for c in sentence if c != " "})
    merged = ["".join(line.split(" ")) for line in toy_codes().decode().splitlines()[1:]]
    pieces = [m.removesuffix("</w>") if m.endswith("</w>") else m + "@@" for m in merged]
    return dictionary_of(dict.fromkeys([AT_MARK, *letters, *(c + "@@" for c in letters), *pieces]))


# --- dictionaries ---


def test_dictionary_ids() -> None:
    """The four special symbols come first, then the lines in order, white space of other kinds included."""
    dictionary = FairseqDictionary("the 10\n\u00a0 3\n\u2028x 1\nmadeupword0000 0\n".encode())
    assert dictionary.symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert [dictionary.id_of[s] for s in ("the", "\u00a0", "\u2028x", "madeupword0000")] == [4, 5, 6, 7]
    assert len(dictionary) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1\nb 1\na 2\n", r"en: line 3 has 'a' a second time"),
        (b"a 1\n</s> 1\n", r"en: line 2 has '</s>' a second time"),
        (b"a 1\nb\n", r"en: line 2 is 'b'; each line needs a symbol, a space and a count"),
        (b"a 1\n\nb 1\n", r"en: line 2 is ''"),
        (b"a one\n", r"en: line 1 is 'a one'"),
        (b"a 1\n\xff 1\n", r"en: line 2 is not UTF-8"),
    ],
)
def test_wrong_dictionary_line(content: bytes, message: str) -> None:
    """A line that is doubled or malformed is named by its number."""
    with pytest.raises(BundleError, match=message):
        FairseqDictionary(content, "en")


# --- styles and words ---


@pytest.mark.parametrize(
    ("dictionary", "mark", "is_lowercase"),
    [(MARKED, AT_MARK, False), (b"@-@ 1\nA 1\n", MOSES_MARK, False), (b"the 1\n", None, True)],
)
def test_dictionary_shows_its_style(dictionary: bytes, mark: str | None, is_lowercase: bool) -> None:
    """The compound mark and lower case are read off the source dictionary."""
    assert TextStyle.of(FairseqDictionary(dictionary)) == TextStyle(mark, is_lowercase)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        (AT_MARK, f"Aix {AT_MARK} en {AT_MARK} Provence"),
        (MOSES_MARK, "Aix @-@ en @-@ Provence"),
        (None, "Aix-en-Provence"),
    ],
)
def test_compounds(mark: str | None, words: str) -> None:
    """Every hyphen within a word is split off as the style writes it, or none is."""
    tokenizer = MosesBpeTokenizer(MARKED, MARKED, b"", "en", "de", style=TextStyle(mark))
    assert tokenizer.words("Aix-en-Provence") == words.split()


@pytest.mark.parametrize("mark", [AT_MARK, MOSES_MARK])
def test_both_marks_become_hyphens(mark: str) -> None:
    """Decoding restores compounds whichever mark the model produced."""
    content = dictionary_of(["rich", mark, "text", "format"])
    assert MosesBpeTokenizer(content, content, b"", "en", "de").decode([4, 5, 6, 7]) == "rich-text format"


def test_words_are_moses_words() -> None:
    """Punctuation is normalised and split off, entities are escaped, invisible characters are dropped."""
    tokenizer = MosesBpeTokenizer(MARKED, MARKED, b"", "en", "de")
    text = "“Don\u2019t worry,” he [Tom] said\u00ad & left.\x07"
    expected = "&quot; Don &apos;t worry , &quot; he &#91; Tom &#93; said &amp; left ."
    assert tokenizer.words(text) == expected.split()


def test_lowercase_dictionary_lowers_the_source() -> None:
    """A source dictionary without capitals gets lower-cased text."""
    content = dictionary_of(["the", "man", "."])
    assert MosesBpeTokenizer(content, content, b"", "en", "de").encode("The Man.") == [4, 5, 6]


# --- BPE ---


def test_pieces_join_again() -> None:
    """Words are cut into `@@` pieces of the dictionary and joined on the way back."""
    content = toy_dictionary()
    tokenizer = MosesBpeTokenizer(content, content, toy_codes(), "en", "en")
    for sentence in SENTENCES[::9]:
        ids = tokenizer.encode(sentence)
        assert UNK_ID not in ids
        assert tokenizer.decode(ids) == sentence
        assert len(ids) > len(sentence.split()) + 1


def test_unknown_pieces() -> None:
    """A piece that is not in the dictionary is unknown, and unknown says nothing; so do the special symbols."""
    content = dictionary_of(["The", "man", "."])
    tokenizer = MosesBpeTokenizer(content, content, b"", "en", "en")
    ids = tokenizer.encode("The 日 man.")
    assert ids == [4, UNK_ID, 5, 6]
    assert tokenizer.decode([0, 1, *ids, 2]) == "The man."


def test_output_that_ends_within_a_word() -> None:
    """A last piece that promises more is shown without its mark."""
    content = dictionary_of(["The", "ma@@"])
    assert MosesBpeTokenizer(content, content, b"", "en", "en").decode([4, 5]) == "The ma"


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (b"#version: 0.2\na b\na b 12\n", r"codes: line 3 is 'a b 12'; each line needs two pieces"),
        (b"a b\n\nc d\n", r"codes: line 2 is ''"),
        (b"#version: 0.9\na b\n", r"codes: line 1 is '#version: 0.9'"),
    ],
)
def test_wrong_codes(codes: bytes, message: str) -> None:
    """A line of codes that is no merge is named by its number."""
    with pytest.raises(BundleError, match=message):
        MosesBpeTokenizer(MARKED, MARKED, codes, "en", "de")


@pytest.mark.parametrize(
    ("module", "library"), [("sacremoses", "sacremoses"), ("subword_nmt", "subword-nmt")]
)
def test_missing_library(module: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a library the pip command is named."""
    real_import = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        SettingsError, match=rf"{library} is not installed.*pip install 'dynhat-runtime\[hat\]'"
    ):
        MosesBpeTokenizer(MARKED, MARKED, b"a b\n", "en", "de")


def test_large_vocabulary_is_quick() -> None:
    """32,000 symbols and merges load in under a second, and a sentence of 20 new words takes a few milliseconds."""
    words = [
        f"{a}{b}{c}"
        for a in "abcdefghijklmnopqrst"
        for b in "abcdefghijklmnopqrstuvwxyz" * 2
        for c in range(62)
    ]
    symbols = list(dict.fromkeys(words))[:32000]
    content = dictionary_of(symbols)
    codes = "#version: 0.2\n" + "".join(f"{s[:1]} {s[1:]}</w>\n" for s in symbols)
    begin = time.perf_counter()
    tokenizer = MosesBpeTokenizer(content, content, codes.encode(), "en", "de")
    loaded = time.perf_counter()
    for i in range(0, 2000, 20):
        tokenizer.encode(" ".join(symbols[i : i + 20]))
    encoded = time.perf_counter()
    assert loaded - begin < 3.0  # about 0.1 s on an idle machine
    assert (encoded - loaded) / 100 < 0.010  # about 0.4 ms


# --- round trips ---


@pytest.mark.parametrize(("column", "language", "share"), [(0, "en", 0.93), (1, "de", 0.76)])
def test_sentences_come_back(column: int, language: str, share: float) -> None:
    """Tatoeba's sentences come back exactly, but for typographic quotes and what Moses spaces out.

    The sample was chosen to be hard (quotes, hyphens, numbers); `docs/decisions/0005-moses-bpe.md` has whole dev sets.
    """
    texts = [line.split("\t")[column] for line in TATOEBA.read_text(encoding="utf-8").splitlines()]
    tokenizer = covering(texts, language)
    back = [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)]
    assert sum(a == b for a, b in zip(texts, back, strict=True)) / len(texts) >= share
    plain = [text for text in texts if not set(text) & set("„“”\u2019–—") and ":" not in text]
    assert sum(text in back for text in plain) >= len(plain) - 1


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "A well-known man's \"friend\" paid $5,000.50 (50%) & left; didn't he?"),
        ("de", 'Die U-Bahn-Station heißt "Süd", kostet 5.000,50 Euro und schließt um 3 Uhr!'),
        ("en", "x < y > z | [a] & 'b'"),
    ],
)
def test_sentence_comes_back(language: str, text: str) -> None:
    """Entities, quotes, amounts and compounds survive the round trip."""
    tokenizer = covering([text], language)
    ids = tokenizer.encode(text)
    assert UNK_ID not in ids
    assert tokenizer.decode(ids) == text


# --- in a bundle ---


def make_moses_bundle(folder: Path) -> Bundle:
    """A tiny bundle of random weights with a learned toy BPE."""
    content, codes = toy_dictionary(), toy_codes()
    size = len(FairseqDictionary(content))
    spec = SuperTransformerSpec(
        design_space=SPACE, src_vocab_size=size, tgt_vocab_size=size, norm_first=True, max_positions=64
    )
    bundle = write_bundle(
        folder,
        name="tiny-moses",
        languages=("en", "de"),
        spec=spec,
        weights=SuperTransformer.random(spec, seed=5).weights,
        text_files={SRC_DICT: content, TGT_DICT: content, BPE_CODES: codes},
        training_record={},
        max_src_tokens=24,
        text_pipeline="moses-bpe",
    )
    return bundle.with_table(tiny_table(bundle.weights_sha256))


def test_bundle_names_its_tokenizer(tmp_path: Path) -> None:
    """A bundle of this pipeline opens with this tokenizer, with the vocabulary its weights have."""
    make_moses_bundle(tmp_path / "b")
    bundle = Bundle.open(tmp_path / "b")
    tokenizer = tokenizer_of(bundle)
    assert isinstance(tokenizer, MosesBpeTokenizer)
    assert tokenizer.src_vocab_size == tokenizer.tgt_vocab_size == bundle.spec.src_vocab_size
    assert tokenizer.src_pieces()[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokenizer.decode(tokenizer.encode(SENTENCES[0])) == SENTENCES[0]


def test_engine_serves_it(tmp_path: Path) -> None:
    """The daemon's engine translates with such a bundle at every point."""
    bundle = make_moses_bundle(tmp_path / "b")
    engine = TranslationEngine.load(bundle, bundle.table(), beam_size=2)
    engine.start()
    try:
        for point in engine.table:
            engine.switch_to(point.id)
            (translated,) = engine.submit([SENTENCES[0]]).result(30.0)
            assert translated.operating_point == point.id
            assert "@@" not in translated.text
    finally:
        engine.stop(30.0)
