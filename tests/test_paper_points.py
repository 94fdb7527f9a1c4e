"""Published operating points as data, HAT's YAML files, and what is said where weights are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import BundleError, SettingsError
from dynhat_runtime.model.checkpoint import PAPER_POINTS, Bundle, shipped_bundle_path
from dynhat_runtime.offline.import_hat import config_from_hat_yaml, search_from_hat_yaml, space_from_hat_yaml
from dynhat_runtime.offline.paper_points import PaperPoints
from dynhat_runtime.offline.point_files import points_from_any, table_ii_points

SHIPPED = shipped_bundle_path("wmt14-en-de") / PAPER_POINTS
PAPER_SPACE = preset("paper-wmt14-ende")

SUB_TRANSFORMER_YAML = """
encoder-embed-dim-subtransformer: 512
decoder-embed-dim-subtransformer: 640
encoder-ffn-embed-dim-all-subtransformer: [3072, 3072, 3072, 2048, 3072, 1024]
decoder-ffn-embed-dim-all-subtransformer: [1024, 2048, 3072, 1024]
encoder-layer-num-subtransformer: 6
decoder-layer-num-subtransformer: 3
encoder-self-attention-heads-all-subtransformer: [8, 8, 8, 8, 8, 4]
decoder-self-attention-heads-all-subtransformer: [4, 8, 8]
decoder-ende-attention-heads-all-subtransformer: [8, 4, 8]
# -1: last encoder layer, 1: last two, 2: last three
decoder-arbitrary-ende-attn-all-subtransformer: [-1, 1, 2]
"""

SPACE_YAML = """
arch: transformersuper_wmt_en_de
share-all-embeddings: True
adam-betas: (0.9, 0.98)
lr: 1e-7
encoder-embed-dim: 640
encoder-layers: 6
qkv-dim: 512
encoder-embed-choice: [640, 512]
decoder-embed-choice: [640, 512]
encoder-ffn-embed-dim-choice: {ffn}
decoder-ffn-embed-dim-choice: {ffn}
encoder-layer-num-choice: [6]
decoder-layer-num-choice: [6, 5, 4, 3, 2, 1]
encoder-self-attention-heads-choice: {heads}
decoder-self-attention-heads-choice: {heads}
decoder-ende-attention-heads-choice: {heads}
decoder-arbitrary-ende-attn-choice: [-1, 1, 2]
"""

SEARCH_YAML = """
evo-iter: 10
population-size: 40
parent-size: 5
mutation-size: 20
crossover-size: 20
mutation-prob: 0.25
ckpt-path: ./predictor.pt
feature-norm: [640, 6, 2048, 6, 640, 6, 2048, 6, 6, 2]
lat-norm: 5000
restore-file: ./super.pt
latency-constraint: 6000
"""


def _file(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


# --- the shipped data ---


def test_points_lie_in_the_papers_space() -> None:
    """Every published architecture is one of the paper's design space, under an id of its own."""
    published = PaperPoints.load(SHIPPED)
    assert published.design_space == PAPER_SPACE.name
    for point in published.points:
        PAPER_SPACE.check(point.config)
    assert {"jetson-nano-gpu", "jetson-nano-cpu"} <= set(published.devices)
    assert len(published.devices) == 5


def test_table_ii_is_the_papers() -> None:
    """The six GPU points of Table II stand with the paper's latency, BLEU and loss, from one to six layers."""
    points = [point for point in PaperPoints.load(SHIPPED).points if point.source == "paper, Table II"]
    rows = []
    for point in points:
        assert point.latency_ms
        assert point.bleu
        assert point.validation_loss
        assert {point.latency_ms.whose, point.bleu.whose, point.validation_loss.whose} == {"the paper's"}
        rows.append(
            (
                point.latency_ms.value,
                point.bleu.value,
                point.validation_loss.value,
                point.config.num_decoder_layers,
            )
        )
    assert rows == [
        (356.11, 23.66, 4.8229, 1),
        (608.95, 26.23, 4.3821, 2),
        (854.85, 26.17, 4.231, 3),
        (994.96, 26.67, 4.155, 4),
        (1255.38, 26.52, 4.1177, 5),
        (1526.54, 26.53, 4.1048, 6),
    ]


def test_every_figure_says_whose_it_is() -> None:
    """A point of HAT's has HAT's figures, a point of the authors' searches the paper's or none."""
    for point in PaperPoints.load(SHIPPED).points:
        figures = [figure for figure in (point.latency_ms, point.bleu, point.validation_loss) if figure]
        expected = "HAT's" if point.source == "HAT, published" else "the paper's"
        assert all(figure.whose == expected and figure.how for figure in figures)
        assert figures or point.source == "authors' search"


def test_points_of_a_device() -> None:
    """A device selects its points; an unknown one lists those there are."""
    chosen = points_from_any(SHIPPED, PAPER_SPACE, "jetson-nano-gpu")
    assert len(chosen) > 6
    assert len(points_from_any(SHIPPED, PAPER_SPACE)) > len(chosen)
    with pytest.raises(SettingsError, match=r"'toaster'.*jetson-nano-cpu"):
        points_from_any(SHIPPED, PAPER_SPACE, "toaster")


def test_default_points_of_an_import() -> None:
    """The paper's space gets Table II; a space that cannot hold it gets its two ends."""
    assert len(table_ii_points(PAPER_SPACE)) == 6
    quarter = preset("quarter-wmt14-ende")
    assert [point.config for point in table_ii_points(quarter)] == [quarter.smallest(), quarter.largest()]


@pytest.mark.parametrize(
    "content", ["", "{}", '{"points": 3}', "[1]", '{"task": "x", "design_space": "y", "points": []}']
)
def test_broken_points_file(tmp_path: Path, content: str) -> None:
    """A file that lists no points is named in one line."""
    file = _file(tmp_path, "points.json", content)
    with pytest.raises(SettingsError, match=r"points\.json") as error:
        PaperPoints.load(file)
    assert "\n" not in str(error.value)


# --- where the weights are missing ---


def test_weights_are_not_shipped() -> None:
    """Opening the folder says what to download and which command to run."""
    with pytest.raises(
        BundleError, match=r"not shipped.*wmt14-en-de.*dynhat import-hat CHECKPOINT --dict DICT"
    ):
        Bundle.open(SHIPPED.parent)


def test_serve_without_weights() -> None:
    """`dynhat serve` on it ends with status 2 and that one line."""
    command = [
        sys.executable,
        "-m",
        "dynhat_runtime",
        "serve",
        "--port",
        "0",
        "--bundle",
        str(SHIPPED.parent),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    errors = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert done.returncode == 2
    assert len(errors) == 1
    assert "import-hat" in errors[0]


# --- HAT's YAML files ---


def test_sub_transformer_yaml(tmp_path: Path) -> None:
    """A SubTransformer file gives its architecture; entries beyond the depth are ignored, codes become spans."""
    config = config_from_hat_yaml(_file(tmp_path, "point.yml", SUB_TRANSFORMER_YAML))
    assert (config.encoder_embed_dim, config.decoder_embed_dim) == (512, 640)
    assert config.decoder_ffn_dims == (1024, 2048, 3072)
    assert config.decoder_attention_heads == (4, 8, 8)
    assert config.cross_attention_heads == (8, 4, 8)
    assert config.cross_attention_spans == (1, 2, 3)
    (point,) = points_from_any(tmp_path / "point.yml", PAPER_SPACE)
    assert (point.id, point.config) == ("point", config)


@pytest.mark.parametrize(
    ("ffn", "heads"), [("[3072, 2048, 1024]", "[8, 4]"), ("[3072, 2048, 1024, 512]", "[8, 4, 2]")]
)
def test_space_yaml(tmp_path: Path, ffn: str, heads: str) -> None:
    """A SuperTransformer or latency-dataset file gives its design space, choices in their order."""
    space = space_from_hat_yaml(_file(tmp_path, "space.yml", SPACE_YAML.format(ffn=ffn, heads=heads)))
    assert isinstance(space, DesignSpace)
    assert str(list(space.encoder_ffn_dim)) == ffn
    assert str(list(space.cross_attention_heads)) == heads
    assert space.cross_attention_span == (1, 2, 3)
    if ffn == "[3072, 2048, 1024]":
        assert space.model_copy(update={"name": PAPER_SPACE.name}) == PAPER_SPACE


def test_search_yaml(tmp_path: Path) -> None:
    """A search file gives the search's parameters and HAT's defaults for those it leaves out."""
    search = search_from_hat_yaml(_file(tmp_path, "search.yml", SEARCH_YAML))
    assert (search.evo_iter, search.population_size, search.parent_size) == (10, 40, 5)
    assert (search.mutation_prob, search.latency_constraint, search.lat_norm) == (0.25, 6000, 5000)
    bare = search_from_hat_yaml(_file(tmp_path, "bare.yml", "latency-constraint: 200"))
    assert (bare.population_size, bare.mutation_size, bare.crossover_size, bare.evo_iter) == (125, 50, 50, 30)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "broken.yml"),
        ("- a\n- b", "broken.yml"),
        ("a: [1", "broken.yml"),
        (SUB_TRANSFORMER_YAML.replace("[-1, 1, 2]", "[-1, 1, 7]"), "7"),
        (
            SUB_TRANSFORMER_YAML.replace("[4, 8, 8]", "[4, 8]"),
            "decoder_self_attention_heads_all_subtransformer",
        ),
        (
            SUB_TRANSFORMER_YAML.replace("decoder-layer-num-subtransformer: 3", ""),
            "decoder_layer_num_subtransformer",
        ),
    ],
)
def test_broken_yaml(tmp_path: Path, text: str, words: str) -> None:
    """A file that is not HAT's is named in one line, with the setting at fault."""
    with pytest.raises(SettingsError) as error:
        config_from_hat_yaml(_file(tmp_path, "broken.yml", text))
    assert words in str(error.value)
    assert "broken.yml" in str(error.value)
    assert "\n" not in str(error.value)


def test_point_outside_the_space_is_named(tmp_path: Path) -> None:
    """A point that the bundle's space does not hold is refused by name."""
    file = _file(tmp_path, "point.yml", SUB_TRANSFORMER_YAML)
    with pytest.raises(SettingsError, match=r"point\.yml.*encoder_embed_dim=512"):
        points_from_any(file, preset("quarter-wmt14-ende"))
