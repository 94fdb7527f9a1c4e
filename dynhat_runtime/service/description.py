"""The HTTP interface in words for programs: OpenAPI 3.1 as text, the same on every machine. Serves nothing."""

from __future__ import annotations

import json

from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits


def openapi_text() -> str:
    """The description, ending in a line break."""
    app = create_app(Lifecycle(), RequestLimits())
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
