"""Read request bodies: bounded in bytes while they arrive, then parsed. Knows no field by its meaning."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

from fastapi import Request

from dynhat_runtime.errors import RequestError, RequestTooLargeError

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def described(*media_types: str, schema: dict[str, Any], is_required: bool = True) -> dict[str, Any]:
    """What OpenAPI says of a body that is read by `read_fields`."""
    content = {media_type: {"schema": schema} for media_type in media_types}
    return {"requestBody": {"required": is_required, "content": content}}


DISCARD_BYTES = 4 * 1024 * 1024
"""How much of a body that is too large is still read, so that its sender gets to read the answer."""


async def read_fields(request: Request, max_bytes: int, max_fields: int) -> dict[str, Any]:
    """The body's fields, from a JSON object or a form. A form field given more than once is a list.

    Raises:
        RequestTooLargeError: The body is larger than `max_bytes`.
        RequestError: Not a content type we read, or not what it says it is.
    """
    content_type = _content_type(request)
    if content_type == FORM:
        return _parse_form(await read_body(request, max_bytes), max_fields)
    if content_type == JSON:
        return _parse_json_object(await read_body(request, max_bytes))
    raise RequestError(
        f"Content-Type {content_type!r} is not read here: send {JSON} or {FORM}", "Content-Type"
    )


async def read_query_and_fields(request: Request, max_bytes: int, max_fields: int) -> dict[str, Any]:
    """The fields of body and query, for clients that use either; the body wins. An empty body without a type is none.

    Raises:
        RequestTooLargeError, RequestError: As `read_fields` has it.
    """
    query = _parse_form(request.scope["query_string"], max_fields) if request.url.query else {}
    if query and not request.headers.get("content-type"):
        await read_body(request, max_bytes)
        return query
    return {**query, **await read_fields(request, max_bytes, max_fields)}


async def read_json_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """The body's JSON object; raises as `read_fields` does."""
    content_type = _content_type(request)
    if content_type != JSON:
        raise RequestError(f"Content-Type {content_type!r} is not read here: send {JSON}", "Content-Type")
    return _parse_json_object(await read_body(request, max_bytes))


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body, never holding more than `max_bytes` of it."""
    chunks = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes <= max_bytes:
            chunks.append(chunk)
        elif num_bytes > max_bytes + DISCARD_BYTES:
            break
    if num_bytes > max_bytes:
        raise RequestTooLargeError(
            f"body is larger than {max_bytes} bytes: send fewer or shorter texts", "body"
        )
    return b"".join(chunks)


def _content_type(request: Request) -> str:
    """The media type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _parse_json_object(body: bytes) -> dict[str, Any]:
    """A JSON object, or RequestError; nesting that exhausts the parser counts as malformed."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(
            'body is not valid JSON: send one object, such as {"name": "value"}', "body"
        ) from None
    if not isinstance(value, dict):
        raise RequestError('body is not a JSON object: send one, such as {"name": "value"}', "body")
    return value


def _parse_form(body: bytes, max_fields: int) -> dict[str, Any]:
    """A form's fields, or RequestError."""
    try:
        fields = parse_qs(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=max_fields
        )
    except ValueError:
        raise RequestError(
            f"body is not a form of at most {max_fields} fields in percent-encoded UTF-8", "body"
        ) from None
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
