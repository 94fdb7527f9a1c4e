"""Encodings, decoders and searches that live in C++, each owned by one Python object. Reads numpy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynhat_runtime.native.library import Library
from dynhat_runtime.native.structures import Network

INITIAL_CAPACITY = 64
SLICE_S = 0.01
"""Seconds a search runs before it asks whether it is still wanted. Longer than most searches: coming back to Python
waits for whatever other Python thread is running."""

Int32s = NDArray[np.int32]


class RawHypothesis(NamedTuple):
    """A finished output.

    Attributes:
        tokens: Ends in eos.
        totals: Sum of log-probabilities up to and with each token, in single precision.
    """

    tokens: list[int]
    totals: list[float]


class _Owner:
    """Owns one C++ object, and keeps alive what that object points into."""

    def __init__(self, pointer: int | None, free: Callable[[int], None], *needs: object) -> None:
        if not pointer:
            raise MemoryError("the native decoder found no memory")
        self.pointer, self._free, self._needs = pointer, free, needs

    def __del__(self) -> None:
        if pointer := getattr(self, "pointer", None):
            self._free(pointer)


class Point:
    """A network as C reads it, with the library that runs it and everything it points into.

    Args:
        library: Where it runs.
        network: Sizes and pointers.
        needs: What the pointers point into.
    """

    def __init__(self, library: Library, network: Network, *needs: object) -> None:
        self.library, self.network, self._needs = library, network, needs

    def encode(
        self, sentences: Sequence[NDArray[np.int64]], listed: Sequence[Int32s] | None = None
    ) -> Encoding:
        """Encode sentences of token ids, none of them empty.

        Args:
            sentences: Source tokens.
            listed: Per sentence the target tokens it may be translated with, ascending and not none; without it all.

        Raises:
            IndexError: A token is outside the vocabulary, or a sentence longer than there are positions for.
        """
        return Encoding(self, sentences, None if listed is None else _Listed(self, listed))


class _Listed:
    """Target tokens of several sentences, as C reads them."""

    def __init__(self, point: Point, lists: Sequence[Int32s]) -> None:
        self.counts = np.array([len(tokens) for tokens in lists], np.int32)
        assert self.counts.min() > 0, "an empty list"
        self.tokens = _token_ids(np.concatenate(lists), point.network.output.num_out)


class Encoding:
    """Encoder outputs of several sentences, and the target tokens each may be translated with."""

    def __init__(
        self, point: Point, sentences: Sequence[NDArray[np.int64]], listed: _Listed | None = None
    ) -> None:
        lengths = np.array([len(sentence) for sentence in sentences], np.int32)
        assert lengths.size > 0, "no sentences"
        assert lengths.min() > 0, "an empty sentence"
        src = point.network.src
        _check_positions(int(lengths.max()), src)
        tokens = _token_ids(np.concatenate(sentences), src.vocab_size)
        library = point.library
        self.num_sentences, self.listed = len(lengths), listed
        assert listed is None or len(listed.counts) == len(lengths), "one list per sentence"
        self._owner = _Owner(
            library.encode(
                ctypes.byref(point.network), tokens.ctypes.data, lengths.ctypes.data, self.num_sentences
            ),
            library.free_encoding,
        )

    @property
    def pointer(self) -> int:
        """The C++ object."""
        return self._owner.pointer


class Decoder:
    """Decodes sentences with several rows each, one position at a time. What is not listed for a sentence scores minus
    infinity."""

    def __init__(self, point: Point, encoding: Encoding, num_beams: int) -> None:
        self._point, self._library = point, point.library
        self.num_sentences, self.num_beams = encoding.num_sentences, num_beams
        self.num_rows, self.length = encoding.num_sentences * num_beams, 0
        self._owner = _Owner(
            self._library.start(
                ctypes.byref(point.network),
                encoding.pointer,
                None if encoding.listed is None else encoding.listed.tokens.ctypes.data,
                None if encoding.listed is None else encoding.listed.counts.ctypes.data,
                num_beams,
                INITIAL_CAPACITY,
            ),
            self._library.free_decoder,
            point,
        )

    def step(self, tokens_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores (N, V) of what follows the last token of every row."""
        network = self._point.network
        assert len(tokens_N) == self.num_rows, "one token per row"
        _check_positions(self.length + 1, network.tgt)
        logits_NV = np.empty((self.num_rows, network.output.num_out), np.float32)
        tokens = _token_ids(tokens_N, network.tgt.vocab_size)
        _check(self._library.step(self._owner.pointer, tokens.ctypes.data, logits_NV.ctypes.data))
        self.length += 1
        return logits_NV

    def keep(self, rows_N: NDArray[np.int64]) -> None:
        """Continue with these rows, in this order; each stays within its sentence."""
        assert len(rows_N) <= self.num_rows, "rows may go, but not come"
        rows = _token_ids(rows_N, self.num_rows)
        self._library.keep(self._owner.pointer, rows.ctypes.data, len(rows))
        self.num_rows = len(rows)

    def search(
        self,
        max_lengths: Sequence[int],
        *,
        min_length: int,
        no_repeat_size: int,
        eos_id: int,
        pad_id: int,
        is_cancelled: Callable[[], bool],
    ) -> list[list[RawHypothesis]] | None:
        """Beam search from the first position on.

        Args:
            max_lengths: Per sentence, tokens before eos is forced.
            min_length: Tokens before eos may be produced.
            no_repeat_size: No run of so many tokens comes twice in an output; 0 lets everything repeat.
            eos_id: Begins and ends every output.
            pad_id: Is never produced.
            is_cancelled: Asked before the first step and then every `SLICE_S`.

        Returns:
            Per sentence its hypotheses in the order they finished; None when cancelled.
        """
        assert self.length == 0, "a search begins at the first position"
        assert len(max_lengths) == self.num_sentences, "one cap per sentence"
        _check_positions(max(max_lengths) + 1, self._point.network.tgt)
        library, caps = self._library, np.array(max_lengths, np.int32)
        owner = _Owner(
            library.search(
                self._owner.pointer,
                caps.ctypes.data,
                self.num_sentences,
                self.num_beams,
                min_length,
                no_repeat_size,
                eos_id,
                pad_id,
            ),
            library.free_search,
        )
        has_more = True
        while has_more:
            if is_cancelled():
                return None
            has_more = bool(_check(library.search_for(owner.pointer, SLICE_S)))
        return [
            [
                _hypothesis(library, owner.pointer, s, i)
                for i in range(library.num_hypotheses(owner.pointer, s))
            ]
            for s in range(self.num_sentences)
        ]

    @property
    def size_bytes(self) -> int:
        """Memory of the caches."""
        return int(self._library.decoder_bytes(self._owner.pointer))


def _hypothesis(library: Library, search: int, sentence: int, index: int) -> RawHypothesis:
    length = library.hypothesis(search, sentence, index, None, None)
    tokens, totals = np.empty(length, np.int32), np.empty(length, np.float32)
    library.hypothesis(search, sentence, index, tokens.ctypes.data, totals.ctypes.data)
    return RawHypothesis(tokens.tolist(), totals.tolist())


def _token_ids(ids: NDArray[np.int64] | Int32s, end: int) -> Int32s:
    """Ids as C reads them.

    Raises:
        IndexError: One is not below `end`: C would read what is not there.
    """
    if len(ids) and not (ids.min() >= 0 and ids.max() < end):
        raise IndexError(
            f"id {ids.max() if ids.min() >= 0 else ids.min()} is out of range: use 0 to {end - 1}"
        )
    return np.ascontiguousarray(ids, np.int32)


def _check_positions(num_tokens: int, embedding: Any) -> None:
    """See that positions exist for a sentence.

    Raises:
        IndexError: It is too long.
    """
    num_positions = embedding.num_positions - embedding.pad_id - 1
    if num_tokens > num_positions:
        raise IndexError(f"{num_tokens} tokens are too long: there are positions for {num_positions}")


def _check(status: int) -> int:
    if status < 0:
        raise MemoryError("the native decoder found no memory")
    return status
