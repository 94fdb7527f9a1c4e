"""The bundle in `operating_points/en-de`: what it promises, it keeps."""

from __future__ import annotations

import pytest

from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.tokenizer import tokenizer_of
from dynhat_runtime.decoding.translator import LengthLimits, Translator
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.policy import GovernorRules, GovernorState, decide
from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

MAX_BUNDLE_MIB = 60


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped one, every file checked against the manifest."""
    return Bundle.open(shipped_bundle_path())


@pytest.fixture(scope="module")
def super_transformer(bundle: Bundle) -> SuperTransformer:
    """Its weights, as they are served."""
    return bundle.super_transformer().laid_out_for_decoding()


def test_size(bundle: Bundle) -> None:
    """It is small enough to travel."""
    assert sum(record.size_bytes for record in bundle.manifest.files.values()) <= MAX_BUNDLE_MIB * 2**20


def test_points_are_measured(bundle: Bundle) -> None:
    """At least six points from one to six decoder layers, each with latency, dev loss and a signed BLEU."""
    table = bundle.table()
    assert len(table) >= 6
    assert {point.config.num_decoder_layers for point in table} >= set(range(1, 7))
    for point in table:
        assert {row.num_src_tokens for row in point.latencies} >= {10, 30, 60}
        assert {row.num_cpus for row in point.latencies} >= {1, 2}
        assert point.dev_loss is not None
        assert point.bleu is not None
        assert "tatoeba_test|" in (point.bleu_signature or "")


def test_slower_is_better(bundle: Bundle) -> None:
    """Dev loss falls with every slower point, and the best point scores what counts as translating."""
    losses = [point.dev_loss for point in bundle.table()]
    assert losses == sorted(losses, reverse=True)
    assert (bundle.table().best.bleu or 0) >= 15


def test_record_names_open_data_only(bundle: Bundle) -> None:
    """The training record names its corpora with licences, all of them open, and the updates done."""
    record = bundle.training_record()
    assert all(corpus["licence"] for corpus in record["data"])
    assert all(corpus["file"].startswith("train/open/") for corpus in record["data"])
    assert record["updates"] > 0
    assert record["dev_loss"].keys() >= {"dev_loss_largest", "dev_loss_smallest"}


def test_it_translates(bundle: Bundle, super_transformer: SuperTransformer) -> None:
    """Every point turns everyday English into German; the best gets a simple sentence right."""
    translator = Translator(tokenizer_of(bundle), LengthLimits(max_src_tokens=bundle.manifest.max_src_tokens))
    for point in bundle.table():
        sub = super_transformer.extract(point.config)
        where, bicycle = (
            output.text
            for output in translator.translate(
                sub, ["Where do you live?", "A man is riding a bicycle."], BeamOptions()
            )
        )
        assert where in {"Wo wohnen Sie?", "Wo wohnst du?", "Wo lebst du?", "Wo leben Sie?", "Wo wohnt ihr?"}
        assert bicycle.startswith("Ein Mann ")
    assert bicycle in {
        "Ein Mann fährt Fahrrad.",
        "Ein Mann fährt mit dem Fahrrad.",
        "Ein Mann fährt auf einem Fahrrad.",
    }


def _point_on(table: OperatingPointTable, active_id: str, cpus: tuple[int, ...]) -> str:
    rules = GovernorRules(latency_budget_ms=table.default_latency_budget_ms)
    snapshot = ResourceSnapshot(monotonic_s=100.0, source="test", usable_cpus=cpus)
    state = GovernorState(active_id=active_id, since_monotonic_s=0.0)
    return decide(snapshot, state, rules, LatencyModel(table, rules.num_busy_neighbours)).point_id


def test_default_budget_answers_a_lost_cpu(bundle: Bundle) -> None:
    """With the default budget the best point serves on two CPUs, a faster one on one, and the best again after."""
    table = bundle.table()
    best = table.best.id
    on_one = _point_on(table, best, (0,))
    assert on_one != best
    assert _point_on(table, best, (0, 1)) == best
    assert _point_on(table, on_one, (0, 1)) == best
