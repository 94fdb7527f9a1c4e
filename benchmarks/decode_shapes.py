"""What the decode benchmark decodes: architectures with span 1 everywhere, their weights, and sources of set lengths.

Measures nothing. The shipped bundle's points have its weights; those of the paper's size have random ones, cut out of
one SuperTransformer of the paper's space, as they would be served.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.figures import BenchmarkError
from benchmarks.sentences import sentences_of_30_words
from dynhat_runtime.decoding.tokenizer import EOS_ID, UNK_ID, tokenizer_of
from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.decodable_super import DecodableSuper
from dynhat_runtime.model.laid_out import for_decoding
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.export_ctranslate2 import Vocabulary, why_not
from dynhat_runtime.offline.point_files import NamedConfig
from dynhat_runtime.offline.point_selection import architecture_name
from dynhat_runtime.operating_point import Precision

PAPER_SPACE = "paper-wmt14-ende"
PAPER_VOCABULARY = 32_000
PAPER_POINTS = (
    NamedConfig(
        id="paper-512-2048-3", num_decoder_layers=3, num_heads=8, encoder_embed_dim=512, encoder_ffn_dim=2048,
        decoder_embed_dim=512, decoder_ffn_dim=2048,
    ),
    NamedConfig(
        id="paper-512-2048-6", num_decoder_layers=6, num_heads=8, encoder_embed_dim=512, encoder_ffn_dim=2048,
        decoder_embed_dim=512, decoder_ffn_dim=2048,
    ),
    NamedConfig(
        id="paper-640-3072-6", num_decoder_layers=6, num_heads=8, encoder_embed_dim=640, encoder_ffn_dim=3072,
        decoder_embed_dim=640, decoder_ffn_dim=3072,
    ),
)  # fmt: skip
SEED = 1
LONGEST_SOURCE = 200


class NumberedPieces:
    """A vocabulary without a language: piece i is called i. For random weights, which say nothing anyway."""

    def __init__(self, size: int) -> None:
        self._pieces = ["<s>", "<pad>", "</s>", "<unk>", *map(str, range(UNK_ID + 1, size))]

    def src_pieces(self) -> list[str]:
        """Pieces by id."""
        return self._pieces

    def tgt_pieces(self) -> list[str]:
        """The same."""
        return self._pieces


class Stock:
    """One SuperTransformer, as it is stored and as it is served in each precision, made when first asked for.

    Args:
        weights: As stored.
        vocabulary: Names of its tokens.
        text_ids: Tokens to make sources of.
        shortlist: Vocabulary shortlist that its points are served with; None where they have none.
    """

    def __init__(
        self,
        weights: SuperTransformer,
        vocabulary: Vocabulary,
        text_ids: Sequence[int],
        shortlist: Shortlist | None = None,
    ) -> None:
        self.weights, self.vocabulary, self.text_ids, self.shortlist = (
            weights,
            vocabulary,
            text_ids,
            shortlist,
        )
        self._prepared: dict[Precision, DecodableSuper] = {}

    def prepared(self, precision: Precision) -> DecodableSuper:
        """As it is served.

        Raises:
            NativeUnavailableError: This machine has only PyTorch to decode with, and that has no such precision.
        """
        if precision not in self._prepared:
            self._prepared[precision] = replace(
                for_decoding(self.weights, (precision,)), shortlist=self.shortlist
            )
        return self._prepared[precision]


@dataclass(frozen=True, slots=True)
class Shape:
    """One architecture to decode with.

    Attributes:
        name: An operating point's id without how it computes, or one of `PAPER_POINTS`.
        stock: What it is cut out of.
    """

    name: str
    config: SubTransformerConfig
    stock: Stock

    def stored(self) -> SubTransformer:
        """Cut out of the weights as they are stored."""
        return self.stock.weights.extract(self.config)

    def source(self, num_tokens: int) -> list[int]:
        """Ids of a sentence of `num_tokens` tokens, eos included."""
        return [*self.stock.text_ids[: num_tokens - 1], EOS_ID]


class Shapes:
    """Shapes by name; a SuperTransformer is made when the first of its shapes is asked for, and kept."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._points: Mapping[str, SubTransformerConfig] = {
            architecture_name(point.id): point.config.model_copy(
                update={"cross_attention_spans": (1,) * point.config.num_decoder_layers}
            )
            for point in bundle.table()
        }
        self.not_compared = {
            name: reason for name, config in self._points.items() if (reason := why_not(config)) is not None
        }
        """Points that CTranslate2 cannot express, each with the reason."""
        self.names = [
            *(name for name in self._points if name not in self.not_compared),
            *(point.id for point in PAPER_POINTS),
        ]

    @property
    def shipped_names(self) -> list[str]:
        """Those of the bundle, fastest first."""
        return [name for name in self.names if name in self._points]

    def __getitem__(self, name: str) -> Shape:
        """The shape called `name`.

        Raises:
            BenchmarkError: There is none.
        """
        if name in self._points and name not in self.not_compared:
            return Shape(name, self._points[name], self._shipped)
        for point in PAPER_POINTS:
            if point.id == name:
                return Shape(name, point.config(preset(PAPER_SPACE)), self._paper_size)
        reason = self.not_compared.get(name)
        raise BenchmarkError(
            f"shape {name!r}: CTranslate2 cannot express it: {reason}"
            if reason
            else f"no shape {name!r}: choose among {', '.join(self.names)}"
        )

    @functools.cached_property
    def _shipped(self) -> Stock:
        weights, tokenizer = self._bundle.super_transformer(), tokenizer_of(self._bundle)
        ids = [i for text in sentences_of_30_words()[:5] for i in tokenizer.encode(text)]
        shortlist = None if self._bundle.shortlist_sha256 is None else self._bundle.shortlist()
        return Stock(weights, tokenizer, ids, shortlist)

    @functools.cached_property
    def _paper_size(self) -> Stock:
        spec = SuperTransformerSpec(
            design_space=preset(PAPER_SPACE),
            src_vocab_size=PAPER_VOCABULARY,
            tgt_vocab_size=PAPER_VOCABULARY,
        )
        weights = SuperTransformer.random(spec, SEED)
        chance = random.Random(SEED)
        ids = [chance.randrange(UNK_ID + 1, PAPER_VOCABULARY) for _ in range(LONGEST_SOURCE)]
        return Stock(weights, NumberedPieces(PAPER_VOCABULARY), ids)
