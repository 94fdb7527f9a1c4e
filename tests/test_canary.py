"""Canary sentences: a point that cannot translate is refused when a table is loaded, and named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from dynhat_runtime.decoding.canary import CANARIES, check_points
from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.decoding.translator import Translator
from dynhat_runtime.engine import TranslationEngine
from dynhat_runtime.errors import BundleError
from dynhat_runtime.model.checkpoint import (
    SENTENCEPIECE_MODEL,
    SHORTLIST,
    Bundle,
    shipped_bundle_path,
    write_bundle,
)
from dynhat_runtime.operating_point import OperatingPointTable

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    """The shipped bundle."""
    return Bundle.open(shipped_bundle_path())


def _with_noise(shipped: Bundle, folder: Path, layer: str) -> tuple[Bundle, OperatingPointTable]:
    """A copy of the shipped bundle with noise in one layer, and the shipped table for those weights."""
    torch.manual_seed(1)
    weights = {
        key: torch.randn_like(weight) if key.startswith(layer) else weight
        for key, weight in shipped.super_transformer().weights.items()
    }
    bundle = write_bundle(
        folder,
        name="noisy",
        languages=(shipped.src_lang, shipped.tgt_lang),
        spec=shipped.spec,
        weights=weights,
        text_files={SENTENCEPIECE_MODEL: shipped.text_file(SENTENCEPIECE_MODEL)},
        training_record={},
        max_src_tokens=shipped.manifest.max_src_tokens,
    ).with_shortlist(bytes(shipped.contents[SHORTLIST]))
    return bundle, shipped.table().model_copy(update={"weights_sha256": bundle.weights_sha256})


def test_every_shipped_point_passes(shipped: Bundle) -> None:
    """All points of the shipped table translate the canaries, and their output is guarded."""
    engine = TranslationEngine.load(shipped, shipped.table())
    assert engine.refused == {}
    assert len(engine.table) == len(shipped.table())
    assert len(engine._points.larger) == len(engine.table) - 1


def test_a_broken_point_is_refused_and_named(
    shipped: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With noise in the layer that only the deepest points have, those are refused, and all others translate."""
    bundle, table = _with_noise(shipped, tmp_path, "decoder.5.")
    broken_ids = [point.id for point in table if point.config.num_decoder_layers == 6]
    with caplog.at_level(logging.WARNING):
        engine = TranslationEngine.load(bundle, table)
    assert list(engine.refused) == broken_ids
    assert all("canary sentence" in reason for reason in engine.refused.values())
    assert [point.id for point in engine.table] == [point.id for point in table if point.id not in broken_ids]
    for broken_id in broken_ids:
        named = f"operating point {broken_id} is refused"
        assert any(named in record.getMessage() for record in caplog.records)
    engine.start()
    try:
        (translated,) = engine.submit(["Good morning."]).result(PATIENCE_S)
    finally:
        engine.stop(PATIENCE_S)
    assert translated.text == "Guten Morgen."
    assert translated.operating_point == engine.table.best.id


def test_nothing_left(shipped: Bundle, tmp_path: Path) -> None:
    """Where every point is refused, loading fails in one line that names one, what it said, and the remedy."""
    bundle, table = _with_noise(shipped, tmp_path, "decoder.0.")
    with pytest.raises(
        BundleError, match=rf"all {len(table)} operating points were refused \(.*restore the bundle"
    ):
        TranslationEngine.load(bundle, table)


def test_who_claims_nothing_is_kept_unguarded(tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    """Points whose table states no quality are served although they talk nonsense, with a warning, unguarded."""
    with caplog.at_level(logging.WARNING):
        engine = TranslationEngine.load(tiny_bundle, tiny_bundle.table())
    assert engine.refused == {}
    assert [point.id for point in engine.table] == ["small", "middle", "large"]
    assert engine._points.larger == {}
    warnings = [record.getMessage() for record in caplog.records if "canary" in record.name]
    assert all("serves unguarded" in warning for warning in warnings)
    assert len(warnings) == 3


def test_a_language_without_canaries(tiny_bundle: Bundle) -> None:
    """In a language we have no canaries for, points are kept unchecked, and guarded."""
    super_transformer, table = tiny_bundle.super_transformer(), tiny_bundle.table()
    subs = {point.id: super_transformer.extract(point.config) for point in table}
    translator = Translator(SentencePieceTokenizer(tiny_bundle.text_file(SENTENCEPIECE_MODEL)))
    checked = check_points(translator, subs, table, "tlh")
    assert checked.guarded_ids == {"small", "middle", "large"}


def test_canaries_are_plain() -> None:
    """Every language has three different sentences, the longest last."""
    for sentences in CANARIES.values():
        assert len(set(sentences)) == 3
        assert sorted(sentences, key=len)[-1] == sentences[-1]
