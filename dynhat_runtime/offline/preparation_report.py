"""What a preparation kept and left out, as a Markdown page for people; `prepared.json` has the same for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dynhat_runtime.offline.cleaning import REASONS
from dynhat_runtime.offline.prepared_data import CorpusRecord, PreparedManifest


def as_markdown(manifest: PreparedManifest) -> str:
    """The page."""
    return "\n".join(_page(manifest)) + "\n"


def _page(manifest: PreparedManifest) -> Iterable[str]:
    data, rules = manifest.data, manifest.data.cleaning
    yield f"# Prepared data {data.src_lang}-{data.tgt_lang}"
    yield ""
    yield "Training text: lines, those removed by each filter (the first that applies), and what stays."
    yield ""
    yield from _table([*manifest.corpora, _total(manifest.corpora)])
    yield ""
    yield "Dev text, which no filter but length cleans:"
    yield ""
    yield from _table(manifest.dev)
    yield ""
    held_out = [corpus.file for corpus in data.dev] + list(data.held_out)
    yield f"- vocabulary: {data.vocab_size:,} pieces, sha256 {manifest.tokenizer_sha256[:12]}"
    yield f"- filters: {', '.join(rules.filters) or 'none'}; normalised: {'yes' if rules.normalise else 'no'}"
    yield (
        f"- length_ratio: over {rules.max_length_ratio:g}, {rules.length_slack_characters} characters added to both; "
        f"language: confidence {rules.language_confidence:g} from {rules.min_language_words} words on; "
        f"overlap: sentences of {rules.min_overlap_words} words or more with {', '.join(held_out)}"
    )
    yield f"- too_many_tokens: over {data.max_tokens_per_sentence} on a side, eos included"


def _total(records: Sequence[CorpusRecord]) -> CorpusRecord:
    removed = {reason: sum(record.removed.get(reason, 0) for record in records) for reason in REASONS}
    return CorpusRecord(
        file="all",
        text_sha256="",
        num_lines=sum(record.num_lines for record in records),
        removed={reason: count for reason, count in removed.items() if count},
        examples={},
        shards=tuple(shard for record in records for shard in record.shards),
    )


def _table(records: Sequence[CorpusRecord]) -> Iterable[str]:
    reasons = [reason for reason in REASONS if any(reason in record.removed for record in records)]
    headings = ["corpus", "lines", *reasons, "pairs kept", "kept %", "source tokens", "target tokens"]
    yield f"| {' | '.join(headings)} |"
    yield f"|---{'|--:' * (len(headings) - 1)}|"
    for record in records:
        cells = [
            record.file,
            f"{record.num_lines:,}",
            *(f"{record.removed.get(reason, 0):,}" for reason in reasons),
            f"{record.num_pairs:,}",
            f"{100 * record.num_pairs / record.num_lines:.1f}",
            f"{record.num_src_tokens:,}",
            f"{record.num_tgt_tokens:,}",
        ]
        yield f"| {' | '.join(cells)} |"
