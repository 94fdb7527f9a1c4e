"""Figures that are expensive to measure and always the same, such as a dev loss, kept in a file as they come.

An interrupted command finds them again. A figure is looked up by everything that decides it; what is not in the key
must not change the figure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.offline.whole_files import append_line

Figures = dict[str, float | int | str | None]


class FigureCache:
    """An append-only JSONL file of figures by key; without a file they last as long as this object."""

    def __init__(self, path: Path | None = None) -> None:
        """Read what the file has; a line that an interruption tore is measured again.

        Raises:
            SettingsError: The file cannot be read or written.
        """
        self._path = path
        self._figures: dict[str, Figures] = {}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            self._ends_torn = bool(text) and not text.endswith("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{path}: cannot be used to keep figures in ({error}): give another"
            ) from error
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self._figures[row["key"]] = row["figures"]
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, what: Mapping[str, object], measure: Callable[[], Figures]) -> Figures:
        """The figures that `what` decides: from the file, or measured now and kept.

        Raises:
            SettingsError: The file cannot be written.
        """
        key = _key(what)
        if key not in self._figures:
            self._keep(key, what, measure())
        return self._figures[key]

    def has(self, what: Mapping[str, object]) -> bool:
        """Whether nothing needs to be measured."""
        return _key(what) in self._figures

    def _keep(self, key: str, what: Mapping[str, object], figures: Figures) -> None:
        self._figures[key] = figures
        if self._path is None:
            return
        row = {"key": key, "of": dict(what), "figures": figures}
        try:
            append_line(self._path, ("\n" if self._ends_torn else "") + json.dumps(row, default=str) + "\n")
            self._ends_torn = False
        except OSError as error:
            raise SettingsError(f"{self._path}: cannot be written ({error.strerror})") from error


def _key(what: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def search_key(search: BeamOptions) -> dict[str, object]:
    """How a search is named in a key. The bound on repeats only where there is one, so that figures kept from before
    there was any are found."""
    bound = {"no_repeat_size": search.no_repeat_size} if search.no_repeat_size else {}
    return {"beam_size": search.beam_size, "length_penalty": search.length_penalty, **bound}


def file_sha256(path: Path) -> str:
    """Content hash of a file, for keys.

    Raises:
        SettingsError: The file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
