"""Engine and control loop from settings, and from other settings over the same weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dynhat_runtime.errors import BundleError, SettingsError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.decodable import Decodable
from dynhat_runtime.model.native_network import NativeSubTransformer
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.runtime import Runtime, build_runtime
from dynhat_runtime.settings import Settings, load_settings
from tests.listed_tokens import random_shortlist
from tests.tiny_bundle import SENTENCES, tiny_table

PATIENCE_S = 30.0


@pytest.fixture
def folder(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle that a test may alter."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[..., Runtime]]:
    """Builds and starts runtimes on it, and sees to their end."""
    runtimes: list[Runtime] = []

    def run(**changes: Any) -> Runtime:
        runtimes.append(build_runtime(settings(folder, **changes)))
        runtimes[-1].start()
        return runtimes[-1]

    yield run
    for runtime in runtimes:
        runtime.stop(PATIENCE_S)


def settings(folder: Path, **changes: Any) -> Settings:
    """Settings for the bundle there."""
    return load_settings(command_line={"bundle": folder, "monitor": "host", **changes})


def translate(runtime: Runtime) -> str:
    """A translation on the point "small", whichever is active."""
    return str(runtime.engine.submit([SENTENCES[0]], point_id="small").result(PATIENCE_S)[0].text)


def test_nothing_differs(run: Callable[..., Runtime], folder: Path) -> None:
    """Settings that engine and control loop are not made of make no other ones."""
    runtime = run()
    assert runtime.renew(settings(folder, char_limit=7, log_level="debug")) is None


def output_address(sub: Decodable) -> int:
    """Where the output matrix lies."""
    if isinstance(sub, NativeSubTransformer):
        return int(sub._point.network.output.panels)
    assert isinstance(sub, SubTransformer)
    return sub.output.weight_OI.untyped_storage().data_ptr()


def test_another_runtime_over_the_same_weights(run: Callable[..., Runtime], folder: Path) -> None:
    """Another budget makes another runtime that says the same, shares the weights, and goes on with the totals."""
    runtime = run()
    before = translate(runtime)
    renewed = runtime.renew(settings(folder, latency_budget_ms=25, queue_limit_requests=3))
    assert renewed is not None
    renewed.take_over_from(runtime)
    try:
        assert translate(renewed) == before
        assert renewed.latency_budget_ms == 25
        assert renewed.engine.queue_load.limits.requests == 3
        assert renewed.engine.tallies.batch_sentences.copy().number == 2
        old, new = (each.engine._points["small"].sub for each in (runtime, renewed))  # type: ignore[attr-defined]
        assert output_address(old) == output_address(new)
        assert translate(runtime) == before  # who had looked it up is still served
    finally:
        renewed.stop(PATIENCE_S)


def test_another_table(run: Callable[..., Runtime], folder: Path) -> None:
    """A table measured anew is noticed and served; the bundle's manifest names it as before."""
    runtime = run()
    bundle = Bundle.open(folder)
    table = tiny_table(bundle.weights_sha256, budget_ms=44.0)
    bundle.with_table(table.model_copy(update={"points": table.points[:2]}))
    renewed = runtime.renew(settings(folder))
    assert renewed is not None
    assert renewed.latency_budget_ms == 44.0
    assert [point.id for point in renewed.engine.table] == ["small", "middle"]
    assert [point.id for point in runtime.engine.table] == ["small", "middle", "large"]


def test_a_table_that_cannot_be(run: Callable[..., Runtime], folder: Path) -> None:
    """A broken table, or one of other weights, makes nothing and harms nothing."""
    runtime = run()
    (table,) = (folder / "tables").glob("*.json")
    table.write_text("{", encoding="utf-8")
    with pytest.raises(BundleError):
        runtime.renew(settings(folder))
    other = folder.parent / "other.json"
    other.write_text(tiny_table("0" * 64).as_json(), encoding="utf-8")
    shutil.rmtree(folder)
    with pytest.raises(BundleError):
        runtime.renew(settings(folder, table=other))
    assert translate(runtime)


def test_another_shortlist_needs_a_restart(run: Callable[..., Runtime], folder: Path) -> None:
    """What is loaded once, and what points are cut out with, is not exchanged beneath them."""
    runtime = run()
    bundle = Bundle.open(folder)
    sizes = bundle.spec.src_vocab_size, bundle.spec.tgt_vocab_size
    bundle.with_shortlist(random_shortlist(*sizes, per_token=3).as_bytes({}))
    with pytest.raises(BundleError, match="the vocabulary shortlist is another now: restart to load it"):
        runtime.renew(settings(folder))
    assert translate(runtime)


def test_languages_that_may_be_served(folder: Path) -> None:
    """A bundle whose languages are not all listed is not loaded."""
    with pytest.raises(SettingsError, match=r"load_only = en,fr leaves out .*en to de"):
        build_runtime(settings(folder, load_only="en,fr"))
