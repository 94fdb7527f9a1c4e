"""Dev loss, BLEU and chrF of any architecture of one bundle, each measured once and kept in a file.

Measures no latency: what a point says does not depend on the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from dynhat_runtime.decoding.translator import Translator, search_options
from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.laid_out import available_precisions, for_decoding
from dynhat_runtime.offline.evaluate import (
    dev_batches,
    dev_loss,
    dev_loss_as_decoded,
    load_pairs,
    score,
    translate_all,
)
from dynhat_runtime.offline.figure_cache import FigureCache, Figures, file_sha256, search_key
from dynhat_runtime.offline.profile import PointQuality
from dynhat_runtime.operating_point import Precision

NOTHING_KNOWN = PointQuality()


class PointScorer:
    """Scores SubTransformers of one bundle on one dev and one test set."""

    def __init__(
        self,
        bundle: Bundle,
        dev: Path | None,
        test: Path | None,
        *,
        beam_size: int,
        cache: FigureCache,
        console: Console,
        precisions: Sequence[Precision] | None = None,
    ) -> None:
        """Read text and weights.

        Args:
            bundle: Whose SubTransformers are scored.
            dev: Gzipped TSV for the dev loss; without it there is none.
            test: Gzipped TSV to translate; without it there are no BLEU and chrF.
            beam_size: Hypotheses per sentence; the length penalty is the bundle's.
            cache: Where figures are looked up and kept.
            console: Shows progress.
            precisions: Those that will be asked about; None means all that can be computed here.

        Raises:
            DynhatError: A file that cannot be used, or a precision that is not there.
        """
        self._bundle, self._cache, self._console = bundle, cache, console
        self._dev, dev_pairs = dev, None if dev is None else load_pairs(dev)
        self._test, self._test_pairs = test, [] if test is None else load_pairs(test)
        self._hashes = {path: file_sha256(path) for path in (dev, test) if path is not None}
        self._search = search_options(bundle, beam_size)
        # Losses are computed many sentences at a time, decoding row by row: each has its own layout.
        self._trained = bundle.super_transformer()
        self.precisions = tuple(precisions or available_precisions(self._trained))
        self.decoding = for_decoding(self._trained, self.precisions, bundle.shortlist())
        self._translator = Translator.of_bundle(bundle)
        tokenizer = self._translator.tokenizer
        self._dev_batches = [] if dev_pairs is None else dev_batches(self._trained, tokenizer, dev_pairs)

    def dev_loss(self, config: SubTransformerConfig, precision: Precision = "fp32") -> float:
        """Label-smoothed cross-entropy per target token, natural logarithm; needs a dev set.

        Over the whole vocabulary, with a shortlist as without: it judges the network.
        """
        assert self._dev is not None

        def measure() -> Figures:
            if precision == "fp32":
                return {"dev_loss": dev_loss(self._trained, config, self._dev_batches)}
            sub = self.decoding.extract(config, precision)
            return {"dev_loss": dev_loss_as_decoded(sub, self._dev_batches, self._trained.spec.pad_id)}

        return float(self._cache.get(self._key(config, precision, self._dev), measure)["dev_loss"] or 0)

    def quality(
        self,
        config: SubTransformerConfig,
        precision: Precision,
        label: str,
        known: PointQuality = NOTHING_KNOWN,
        *,
        has_shortlist: bool = False,
    ) -> PointQuality:
        """What is `known` of an architecture, with what there is text for measured; `label` names it in progress."""
        quality = known
        if self._dev is not None:
            quality = replace(quality, dev_loss=self.dev_loss(config, precision))
        if self._test is not None:
            scores = self._scores(config, precision, label, self._test, has_shortlist)
            quality = replace(
                quality,
                bleu=float(scores["bleu"] or 0),
                bleu_signature=str(scores["bleu_signature"]),
                chrf=float(scores["chrf"] or 0),
                chrf_signature=str(scores["chrf_signature"]),
            )
        return quality

    def _scores(
        self, config: SubTransformerConfig, precision: Precision, label: str, test: Path, has_shortlist: bool
    ) -> Figures:
        sources = [source for source, _ in self._test_pairs]
        references = [target for _, target in self._test_pairs]
        beam = f"beam:{self._search.beam_size}"

        def measure() -> Figures:
            with _bar(self._console, f"translating with {label}", len(sources)) as show:
                sub = self.decoding.extract(config, precision, has_shortlist=has_shortlist)
                outputs = translate_all(self._translator, sub, sources, self._search, show)
            found = score([output.text for output in outputs], references, test.name.split(".")[0])
            return {
                "bleu": found.bleu,
                "bleu_signature": f"{found.bleu_signature}|{beam}",
                "chrf": found.chrf,
                "chrf_signature": f"{found.chrf_signature}|{beam}",
            }

        search: dict[str, object] = {
            **search_key(self._search),
            **({"shortlist_sha256": self._bundle.shortlist_sha256} if has_shortlist else {}),
        }
        return self._cache.get({**self._key(config, precision, test), **search}, measure)

    def _key(self, config: SubTransformerConfig, precision: Precision, text: Path) -> dict[str, object]:
        return {
            # Not named where it is fp32, so that figures kept from before there was another are found.
            **({} if precision == "fp32" else {"precision": precision}),
            "weights_sha256": self._bundle.weights_sha256,
            "gene": self._bundle.design_space.gene(config),
            "text_sha256": self._hashes[text],
        }


@contextlib.contextmanager
def _bar(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar that is told how much is done; one line instead where there is no terminal."""
    if not console.is_terminal:
        console.print(f"{what}: {total} sentences")
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
