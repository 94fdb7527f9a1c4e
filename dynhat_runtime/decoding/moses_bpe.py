"""The text pipeline of imported HAT / fairseq models: Moses words, byte-pair pieces, fairseq dictionaries.

The only importer of sacremoses and subword-nmt (extra `[hat]`), and that only when such a model is loaded.

Source to ids: control characters out, punctuation normalised, Moses tokenised with XML entities, compounds split at
their hyphens, BPE with `@@` at pieces that go on, dictionary. Ids to target text is the way back. What comes back
exactly and what does not: `docs/decisions/0005-moses-bpe.md`.
"""

from __future__ import annotations

import functools
import io
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dynhat_runtime.decoding.tokenizer import UNK_ID
from dynhat_runtime.errors import BundleError, SettingsError

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
CONTINUES = "@@"
"""Ends a piece that the next one continues."""

AT_MARK, MOSES_MARK = "##AT##-##AT##", "@-@"
"""The hyphen of a split compound: in Google's WMT'16 En-De data, which HAT's En-De models were trained on, and as
Moses writes it (fairseq's WMT'14 En-Fr)."""
_ANY_MARK = re.compile(rf"\s*(?:{re.escape(AT_MARK)}|{re.escape(MOSES_MARK)})\s*")

CACHED_WORDS = 1 << 16
"""Words whose ids are remembered; some 20 MB when full."""


class FairseqDictionary:
    """The symbols of one language: the four special ones, then the file's lines, in order.

    Args:
        content: A fairseq `dict.*.txt`: a symbol, a space and its count on every line.
        name: Where it came from, for messages.

    Raises:
        BundleError: A line is malformed, or a symbol stands there twice; names the line.
    """

    def __init__(self, content: bytes, name: str = "dictionary") -> None:
        self.symbols: list[str] = list(SPECIAL_SYMBOLS)
        self.id_of: dict[str, int] = {symbol: number for number, symbol in enumerate(SPECIAL_SYMBOLS)}
        for line_number, line in enumerate(_lines(content, name), start=1):
            symbol, space, count = line.rpartition(" ")
            if not (symbol and space and count.isdecimal()):
                raise BundleError(
                    f"{name}: line {line_number} is {line[:40]!r}; each line needs a symbol, a space and a count"
                )
            if symbol in self.id_of:
                raise BundleError(
                    f"{name}: line {line_number} has {symbol!r} a second time: restore the file"
                )
            self.id_of[symbol] = len(self.symbols)
            self.symbols.append(symbol)

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self.id_of


@dataclass(frozen=True, slots=True)
class TextStyle:
    """How a model's training text was prepared, where preparations differ.

    Attributes:
        compound_mark: What stands for the hyphen of a split compound (Moses's aggressive dash splitting, `-a`);
            None leaves compounds whole.
        is_lowercase: All text was lower-cased (IWSLT'14).
        normalises_punctuation: Typographic quotes and dashes were made plain. No dictionary tells.
    """

    compound_mark: str | None = AT_MARK
    is_lowercase: bool = False
    normalises_punctuation: bool = True

    @classmethod
    def of(cls, dictionary: FairseqDictionary) -> TextStyle:
        """The style that a source dictionary was made from: its compound mark, and whether it has capitals."""
        words = [symbol for symbol in dictionary.symbols[len(SPECIAL_SYMBOLS) :] if symbol != AT_MARK]
        return cls(
            compound_mark=next((mark for mark in (AT_MARK, MOSES_MARK) if mark in dictionary), None),
            is_lowercase=not any(character.isupper() for word in words for character in word),
        )


class MosesBpeTokenizer:
    """Moses words and BPE pieces over a source and a target dictionary; a piece not in it is unknown.

    Args:
        src_dict: fairseq's dictionary of the source, as bytes.
        tgt_dict: Likewise of the target.
        bpe_codes: subword-nmt's merges; empty where words are not split.
        src_lang: Code of the source language, for Moses's rules.
        tgt_lang: Code of the target language.
        name: Where the files came from, for messages.
        style: How the training text was prepared; without it what the source dictionary shows, which is `##AT##-##AT##`
            and capitals for HAT's En-De models. Decoding undoes both compound marks whatever the style.

    Raises:
        BundleError: A dictionary or the codes are not what they should be.
        SettingsError: sacremoses or subword-nmt is not installed.
    """

    def __init__(
        self,
        src_dict: bytes,
        tgt_dict: bytes,
        bpe_codes: bytes,
        src_lang: str,
        tgt_lang: str,
        name: str = "text pipeline",
        *,
        style: TextStyle | None = None,
    ) -> None:
        self._src = FairseqDictionary(src_dict, f"{name}: source dictionary")
        self._tgt = FairseqDictionary(tgt_dict, f"{name}: target dictionary")
        self.style = TextStyle.of(self._src) if style is None else style
        sacremoses = _sacremoses()
        self._normalise = sacremoses.MosesPunctNormalizer(src_lang).normalize
        self._words_of = sacremoses.MosesTokenizer(src_lang).tokenize
        self._detokenise = sacremoses.MosesDetokenizer(tgt_lang).detokenize
        segment = _bpe(bpe_codes, f"{name}: BPE codes")
        id_of = self._src.id_of

        @functools.lru_cache(CACHED_WORDS)
        def ids_of_word(word: str) -> tuple[int, ...]:
            return tuple(id_of.get(piece, UNK_ID) for piece in segment(word))

        self._ids_of_word = ids_of_word

    @property
    def src_vocab_size(self) -> int:
        """Number of source symbols, special ones included."""
        return len(self._src)

    @property
    def tgt_vocab_size(self) -> int:
        """Number of target symbols, special ones included."""
        return len(self._tgt)

    def src_pieces(self) -> list[str]:
        """Source symbols by id."""
        return list(self._src.symbols)

    def tgt_pieces(self) -> list[str]:
        """Target symbols by id."""
        return list(self._tgt.symbols)

    def words(self, text: str) -> list[str]:
        """Words of one sentence as the model's training text had them, before BPE."""
        text = _without_control_characters(text)
        if self.style.normalises_punctuation:
            text = self._normalise(text)
        if self.style.is_lowercase:
            text = text.lower()
        mark = self.style.compound_mark
        words = self._words_of(text, aggressive_dash_splits=mark is not None)
        return [mark if word == MOSES_MARK and mark is not None else word for word in words]

    def encode(self, text: str) -> list[int]:
        """Source ids of one sentence, without bos or eos."""
        return [piece_id for word in self.words(text) for piece_id in self._ids_of_word(word)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Source ids of many sentences."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of target ids; special symbols, the unknown one among them, say nothing."""
        pieces = " ".join(self._tgt.symbols[i] for i in ids if i > UNK_ID)
        words = pieces.replace(f"{CONTINUES} ", "").removesuffix(CONTINUES)
        return str(self._detokenise(_ANY_MARK.sub("-", words).split()))


def moses_words(texts: Sequence[str], language: str) -> list[list[str]]:
    """Moses words of plain text, compounds whole and without XML entities, for scores on tokenised text.

    Raises:
        SettingsError: sacremoses is not installed.
    """
    words_of = _sacremoses().MosesTokenizer(language).tokenize
    return [list(words_of(text, escape=False)) for text in texts]


def _without_control_characters(text: str) -> str:
    """Drop what only steers the layout, such as soft hyphens; other control characters become spaces."""
    if text.isprintable():
        return text
    return "".join(
        "" if unicodedata.category(c) == "Cf" else " " if unicodedata.category(c) == "Cc" else c for c in text
    )


def _lines(content: bytes, name: str) -> list[str]:
    """Lines of UTF-8 text. Only a line feed ends one: dictionaries hold other white space as symbols."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line_number = content[: error.start].count(b"\n") + 1
        raise BundleError(f"{name}: line {line_number} is not UTF-8: restore the file") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if not lines[-1] else lines


class _ForgetfulDict(dict[str, Any]):
    """subword-nmt remembers every word for good; we remember ids instead, and only so many."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Forget it."""


def _bpe(codes: bytes, name: str) -> Callable[[str], list[str]]:
    """Pieces of a word by these merges; the word itself where there are none.

    A compound mark stays whole, as it is in the dictionaries of those who use one.
    """
    if not codes.strip():
        return lambda word: [word]
    lines = _lines(codes, name)
    has_version = lines[0].startswith("#version:")
    if has_version and lines[0].split()[-1] not in ("0.1", "0.2"):
        raise BundleError(f"{name}: line 1 is {lines[0]!r}; subword-nmt's versions are 0.1 and 0.2")
    for line_number, line in enumerate(lines[has_version:], start=1 + has_version):
        pair = line.strip(" ").split(" ")
        if len(pair) != 2 or not all(pair):
            raise BundleError(
                f"{name}: line {line_number} is {line[:40]!r}; each line needs two pieces with a space between"
            )
    try:
        from subword_nmt.apply_bpe import BPE
    except ImportError:
        raise _missing("subword-nmt") from None
    bpe = BPE(io.StringIO("\n".join(lines) + "\n", newline="\n"), separator=CONTINUES)
    bpe.cache = _ForgetfulDict()

    def pieces_of(word: str) -> list[str]:
        return [word] if word in (AT_MARK, MOSES_MARK) else list(bpe.segment_tokens([word]))

    return pieces_of


def _sacremoses() -> Any:
    try:
        import sacremoses
    except ImportError:
        raise _missing("sacremoses") from None
    return sacremoses


def _missing(library: str) -> SettingsError:
    return SettingsError(
        f"{library} is not installed; this text pipeline needs it: pip install 'dynhat-runtime[hat]'"
    )
