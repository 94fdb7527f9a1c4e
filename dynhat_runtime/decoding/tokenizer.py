"""Text to pieces and back. The only importer of sentencepiece.

Ids of the special tokens are the reference's everywhere: bos 0, pad 1, eos 2, unk 3.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

from dynhat_runtime.errors import BundleError
from dynhat_runtime.model.checkpoint import BPE_CODES, SENTENCEPIECE_MODEL, SRC_DICT, TGT_DICT, Bundle

BOS_ID, PAD_ID, EOS_ID, UNK_ID = 0, 1, 2, 3


class Tokenizer(Protocol):
    """One sentence's text as token ids of the source vocabulary, and ids of the target vocabulary as text."""

    @property
    def src_vocab_size(self) -> int:
        """Number of source tokens, special ones included."""

    @property
    def tgt_vocab_size(self) -> int:
        """Number of target tokens, special ones included."""

    def src_pieces(self) -> list[str]:
        """Source tokens by id, as their vocabulary writes them."""

    def tgt_pieces(self) -> list[str]:
        """Target tokens by id."""

    def encode(self, text: str) -> list[int]:
        """Source token ids of one sentence, without bos or eos."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many sentences."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of target token ids; special tokens say nothing."""


def tokenizer_of(bundle: Bundle) -> Tokenizer:
    """The tokenizer that `bundle` names in its manifest.

    Raises:
        BundleError: Its files are not what they should be, or belong to other weights.
        SettingsError: A library that its text pipeline needs is not installed.
    """
    tokenizer = _tokenizer_in(bundle)
    has = (tokenizer.src_vocab_size, tokenizer.tgt_vocab_size)
    needed = (bundle.spec.src_vocab_size, bundle.spec.tgt_vocab_size)
    if has != needed:
        raise BundleError(
            f"{bundle.path}: the tokenizer has {has[0]} source and {has[1]} target tokens, the weights have "
            f"{needed[0]} and {needed[1]}: it belongs to another bundle, restore its own"
        )
    return tokenizer


def _tokenizer_in(bundle: Bundle) -> Tokenizer:
    if bundle.manifest.text_pipeline == "moses-bpe":
        from dynhat_runtime.decoding.moses_bpe import MosesBpeTokenizer

        src_dict, tgt_dict, bpe_codes = map(bundle.text_file, (SRC_DICT, TGT_DICT, BPE_CODES))
        return MosesBpeTokenizer(
            src_dict, tgt_dict, bpe_codes, bundle.src_lang, bundle.tgt_lang, str(bundle.path)
        )
    return SentencePieceTokenizer(bundle.text_file(SENTENCEPIECE_MODEL), str(bundle.path))


class SentencePieceTokenizer:
    """A trained sentencepiece model: one joint vocabulary, with byte fallback, so that no input is unrepresentable.

    Args:
        model: The serialised model.
        name: Where it came from, for messages.

    Raises:
        BundleError: It is no sentencepiece model, or its special ids are not ours.
    """

    def __init__(self, model: bytes, name: str = "tokenizer") -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{name}: not a sentencepiece model: restore the file") from error
        ids = (
            self._processor.bos_id(),
            self._processor.pad_id(),
            self._processor.eos_id(),
            self._processor.unk_id(),
        )
        if ids != (BOS_ID, PAD_ID, EOS_ID, UNK_ID):
            raise BundleError(f"{name}: special ids are {ids}; this format needs bos 0, pad 1, eos 2, unk 3")

    @classmethod
    def load(cls, path: Path) -> SentencePieceTokenizer:
        """Read a model file.

        Raises:
            BundleError: The file cannot be read or is no sentencepiece model.
        """
        try:
            return cls(path.read_bytes(), str(path))
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}): restore the file") from error

    @property
    def src_vocab_size(self) -> int:
        """Number of pieces, special tokens included."""
        return int(self._processor.GetPieceSize())

    @property
    def tgt_vocab_size(self) -> int:
        """The same pieces serve the target."""
        return self.src_vocab_size

    def src_pieces(self) -> list[str]:
        """Pieces by id."""
        return [self._processor.IdToPiece(i) for i in range(self.src_vocab_size)]

    def tgt_pieces(self) -> list[str]:
        """The same pieces serve the target."""
        return self.src_pieces()

    def encode(self, text: str) -> list[int]:
        """Piece ids of one sentence, without bos or eos."""
        return list(self._processor.EncodeAsIds(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Piece ids of many sentences."""
        return [list(ids) for ids in self._processor.Encode(list(texts), out_type=int)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of piece ids; special tokens say nothing."""
        return str(self._processor.DecodeIds([i for i in ids if i > UNK_ID]))


def train_tokenizer(sentences: Iterable[str], vocab_size: int, *, max_sentences: int = 1_000_000) -> bytes:
    """Train a joint unigram vocabulary with byte fallback.

    Args:
        sentences: Training text of both languages.
        vocab_size: Number of pieces, the 4 special tokens and 256 bytes included.
        max_sentences: Upper bound on the sentences read into memory; of more, as many are drawn, others every time.

    Returns:
        The serialised model.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="unigram",
        character_coverage=0.9998,
        byte_fallback=True,
        bos_id=BOS_ID,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        input_sentence_size=max_sentences,
        shuffle_input_sentence=True,
        num_threads=2,
        minloglevel=2,
    )
    return model.getvalue()
