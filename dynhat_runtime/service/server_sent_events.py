"""Server-sent events as bytes: names and JSON in, the lines that `EventSource` reads out. Sends nothing itself."""

from __future__ import annotations

import json
from typing import Any

EVENT_STREAM = "text/event-stream"

EVENT_STREAM_CONTENT: dict[str, Any] = {
    EVENT_STREAM: {
        "schema": {
            "type": "object",
            "description": "each event; its data is one JSON object",
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
            "required": ["event", "data"],
        }
    }
}
"""What OpenAPI says of such an answer."""

STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""So that no proxy holds events back."""

HEARTBEAT = b": still here\n\n"
"""A comment: readers ignore it, and a connection that is gone shows by it."""


def server_sent_event(name: str, data: object) -> bytes:
    """One event. JSON has no raw line breaks, so that its data is one line."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode("utf-8", "replace")
