"""What serves: every point in its precision where that can be computed, in fp32 where not."""

from __future__ import annotations

import pytest
import torch

from dynhat_runtime.engine import TranslationEngine
from dynhat_runtime.errors import BundleError, NativeUnavailableError
from dynhat_runtime.model import decodable_super, laid_out
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.decodable_super import PointCutter
from dynhat_runtime.model.laid_out import available_precisions, for_decoding
from dynhat_runtime.model.native_network import NativeSubTransformer
from dynhat_runtime.model.shortlisted import ShortlistedSubTransformer
from dynhat_runtime.model.spec import Weights
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.operating_point import OperatingPointTable
from tests.listed_tokens import random_shortlist
from tests.native_library import native_library


def int8_beside(table: OperatingPointTable) -> OperatingPointTable:
    """The table with its last point once more, in int8 and first."""
    best = table.points[-1]
    fast = best.model_copy(update={"id": f"{best.id}-int8", "precision": "int8"})
    faster = tuple(row.model_copy(update={"total_ms": 0.1}) for row in best.latencies)
    return table.model_copy(update={"points": (fast.model_copy(update={"latencies": faster}), *table.points)})


def test_int8_is_served(tiny_bundle: Bundle) -> None:
    """An engine cuts an int8 point out of int8 weights, and says so by its name."""
    native_library()
    engine = TranslationEngine.load(tiny_bundle, int8_beside(tiny_bundle.table()), beam_size=2)
    assert engine.refused == {}
    networks = {point_id: point.sub for point_id, point in engine._points.by_id.items()}
    assert isinstance(networks["large-int8"], NativeSubTransformer)
    assert isinstance(networks["large"], NativeSubTransformer)
    src_BS = torch.tensor([[7, 8, 9, 2]])
    scores = [sub.start(sub.encode(src_BS), 1).step(torch.tensor([2])) for sub in networks.values()]
    as_int8, *_, as_fp32 = scores
    assert not torch.equal(as_int8, as_fp32)
    assert torch.allclose(as_int8, as_fp32, atol=0.05 * as_fp32.abs().max().item())
    engine.start()
    try:
        engine.switch_to("large-int8")
        (translated,) = engine.submit(["The man sees a red house."]).result(30.0)
        assert translated.operating_point == "large-int8"
    finally:
        engine.stop(5.0)


def without_native_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a compiler."""

    def load() -> None:
        raise NativeUnavailableError("it is not there: install a C++ compiler")

    for module in (decodable_super, laid_out):
        monkeypatch.setattr(module, "load", load)


def test_without_the_native_decoder(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All points serve in fp32 on PyTorch; the log names the remedy, and the points that are not what they were."""
    without_native_decoder(monkeypatch)
    trained, table = tiny_bundle.super_transformer(), int8_beside(tiny_bundle.table())
    assert available_precisions(trained) == ("fp32",)
    points = PointCutter(tiny_bundle.weights).cut_out(table)
    assert {type(sub) for sub in points.values()} == {SubTransformer}
    assert points.keys() == {"large-int8", "small", "middle", "large"}
    assert [record.getMessage() for record in caplog.records] == [
        "it is not there: install a C++ compiler",
        "operating point large-int8 serves in fp32: int8 is not there",
    ]


def test_what_is_measured_is_not_replaced(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for int8 by name is told that it is not there; so it is for weights that are not packed."""
    trained = tiny_bundle.super_transformer()
    doubled = SuperTransformer(trained.spec, {name: w.double() for name, w in trained.weights.items()})
    with pytest.raises(NativeUnavailableError, match="only the native decoder has int8"):
        for_decoding(doubled, ("int8",))
    without_native_decoder(monkeypatch)
    with pytest.raises(NativeUnavailableError, match="install a C"):
        for_decoding(tiny_bundle.super_transformer(), ("fp32", "int8"))


def test_memory_is_that_of_the_weights(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many points are cut out; int8 takes less than fp32, and both together the sum."""
    native_library()
    trained = tiny_bundle.super_transformer()
    fp32, int8, both = (
        for_decoding(trained, precisions).size_bytes
        for precisions in (("fp32",), ("int8",), ("fp32", "int8"))
    )
    assert int8 < fp32
    assert both == fp32 + int8
    num_weights = sum(weight.numel() for weight in trained.parameters())
    assert fp32 >= 4 * num_weights
    without_native_decoder(monkeypatch)
    decodable = for_decoding(trained)
    size_bytes = decodable.size_bytes
    for point in tiny_bundle.table():
        decodable.extract(point.config)
    assert decodable.size_bytes == size_bytes >= 4 * num_weights


def test_weights_are_read_once_for_a_precision(tiny_bundle: Bundle) -> None:
    """Another table of the same precisions reads nothing and shares the memory; a new precision reads again."""
    native_library()
    reads = []

    def read() -> Weights:
        reads.append(tiny_bundle.weights())
        return reads[-1]

    cutter, table = PointCutter(read), tiny_bundle.table()
    cutter.cut_out(table)
    cutter.cut_out(table.points[:1])
    assert len(reads) == 1
    assert cutter.cut_out(int8_beside(table)).keys() == {"large-int8", "small", "middle", "large"}
    cutter.cut_out(int8_beside(table))
    assert len(reads) == 2
    assert cutter.size_bytes == for_decoding(tiny_bundle.super_transformer(), ("fp32", "int8")).size_bytes


@pytest.mark.parametrize("is_native", [True, False])
def test_a_shortlist_is_served(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, is_native: bool) -> None:
    """Of one table some points say what is listed only and the others anything, with either decoder."""
    if is_native:
        native_library()
    else:
        without_native_decoder(monkeypatch)
    vocab_size = tiny_bundle.spec.tgt_vocab_size
    shortlist = random_shortlist(tiny_bundle.spec.src_vocab_size, vocab_size, per_token=5)
    first, *others = tiny_bundle.table()
    points = [first.model_copy(update={"has_shortlist": True}), *others]
    subs = PointCutter(tiny_bundle.weights, shortlist).cut_out(points)
    expected = NativeSubTransformer if is_native else ShortlistedSubTransformer
    assert isinstance(subs[first.id], expected)
    src_BS = torch.tensor([[7, 8, 9, 2]])
    listed, *whole = (
        sub.start(sub.encode(src_BS), 1).step(torch.tensor([2])).isfinite().sum() for sub in subs.values()
    )
    assert listed == len(shortlist.listed([7, 8, 9, 2]))
    assert whole == [vocab_size] * len(others)


def test_a_shortlist_that_is_not_there(tiny_bundle: Bundle) -> None:
    """A point that needs one is not served without it, and the message says how to make it."""
    points = [point.model_copy(update={"has_shortlist": True}) for point in tiny_bundle.table()]
    with pytest.raises(BundleError, match="has none: make it with 'dynhat make-shortlist'"):
        PointCutter(tiny_bundle.weights).cut_out(points)
    with pytest.raises(BundleError, match="has none: make it with 'dynhat make-shortlist'"):
        for_decoding(tiny_bundle.super_transformer()).point(points[0])
