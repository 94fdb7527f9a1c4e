"""The settings' part about who may ask and how much: as limits, terms and a key ring. Opens the key file only."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import replace
from pathlib import Path

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.service.app import Terms
from dynhat_runtime.service.door import Door
from dynhat_runtime.service.keys import KeyRing
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.settings import Settings


def limits_of(settings: Settings) -> RequestLimits:
    """How much one request may ask for."""
    return RequestLimits(
        char_limit=settings.char_limit,
        batch_limit=settings.batch_limit,
        timeout_s=settings.request_timeout_s,
        log_texts=settings.log_texts,
    )


def keys_of(settings: Settings) -> KeyRing | None:
    """The keys there are; None where nobody is asked for one.

    Raises:
        SettingsError: The key file cannot be used, and why.
    """
    return None if settings.key_file is None else KeyRing.load(settings.key_file)


def terms_of(settings: Settings, keys: KeyRing | None) -> Terms:
    """On what terms the application serves."""
    return Terms(
        door=Door(keys, settings.rate_limit_per_minute),
        overload_status=settings.overload_status,
        cors_origins=settings.cors_origins,
        url_prefix=settings.url_prefix,
        shows_metrics=settings.metrics,
        metrics_token=settings.metrics_token,
    )


def answer_alike(one: Settings, other: Settings) -> bool:
    """Whether both make the same application, with the same keys."""
    mine, theirs = (
        (limits_of(each), replace(terms_of(each, None), door=None), each.rate_limit_per_minute)
        for each in (one, other)
    )
    return mine == theirs


# Rules: whoever can reach the daemon may translate and pin points, so that it listens beyond this machine only
#   1  with keys, or
#   2  when told that it may without.
def check_exposure(settings: Settings, listener: socket.socket) -> None:
    """Refuse to listen where strangers may come in.

    Raises:
        SettingsError: What to do about it.
    """
    if settings.key_file is not None or settings.allow_unauthenticated or is_local(listener):
        return
    raise SettingsError(
        f"host {listener.getsockname()[0]} can be reached from other machines and nobody is asked for a key: "
        "give --key-file, or --allow-unauthenticated if that is meant"
    )


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def check_tls(certificate: Path | None, key: Path | None) -> bool:
    """Whether HTTPS is to be served, after a look at its files.

    Raises:
        SettingsError: One of the two is missing, or they do not belong together.
    """
    if certificate is None and key is None:
        return False
    if certificate is None or key is None:
        missing = "tls_certificate" if certificate is None else "tls_key"
        raise SettingsError(f"setting {missing} is missing: HTTPS needs both tls_certificate and tls_key")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"tls_certificate {certificate} and tls_key {key} cannot be used ({error.strerror or error}): "
            "give a PEM certificate and its own private key"
        ) from None
    return True
