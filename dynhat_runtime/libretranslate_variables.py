"""LibreTranslate's environment variables as our settings, for whoever replaces that server by this one.

Reads no variable unless asked to. What LibreTranslate has and we do not is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

NO_LIMIT = "-1"
"""What LibreTranslate takes for no limit."""

NAMES = {
    "LT_HOST": "host",
    "LT_PORT": "port",
    "LT_CHAR_LIMIT": "char_limit",
    "LT_BATCH_LIMIT": "batch_limit",
    "LT_REQ_LIMIT": "rate_limit_per_minute",
    "LT_LOAD_ONLY": "load_only",
    "LT_METRICS": "metrics",
    "LT_METRICS_AUTH_TOKEN": "metrics_token",
    "LT_URL_PREFIX": "url_prefix",
}

LARGEST = {"char_limit": "1000000", "batch_limit": "4096"}
"""What stands for no limit where we always have one."""


def settings_from_libretranslate(variables: Mapping[str, str]) -> dict[str, str]:
    """Our settings, as the variables have them; an empty variable is none.

    Args:
        variables: The environment.
    """
    found: dict[str, str] = {}
    for variable, name in NAMES.items():
        value = variables.get(variable, "")
        if not value:
            continue
        if value == NO_LIMIT and name in LARGEST:
            found[name] = LARGEST[name]
        elif value not in (NO_LIMIT, "0") or name != "rate_limit_per_minute":
            found[name] = value
    return found
