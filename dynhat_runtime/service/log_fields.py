"""What a request's log line says beside its route and status. The key itself and the texts are never in it unless
the operator asked for the texts."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request

from dynhat_runtime.service.keys import Caller


def note_in_log(request: Request, caller: Caller, texts: Sequence[str] | None) -> None:
    """Have the line about `request` name whose key it carried, and the texts where those are given."""
    fields: dict[str, object] = {"caller": caller.name}
    if texts is not None:
        fields["texts"] = list(texts)
    request.state.log_fields = fields
