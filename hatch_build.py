"""Compiles the native decoder when the package is built or installed, where there is a compiler; else goes on without.

Compiles nothing itself: `dynhat_runtime/native/build.py` does, and can be run by hand.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeDecoderHook(BuildHookInterface[Any]):
    """Adds the compiled libraries to a wheel, and leaves them beside their sources for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a failure costs speed, not the installation."""
        build = _load(Path(self.root) / "dynhat_runtime" / "native" / "build.py")
        try:
            libraries = build.build()
        except build.BuildError as error:
            self.app.display_warning(f"dynhat-runtime is installed without its native decoder: {error}")
            return
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
            build_data["artifacts"] += [str(path.relative_to(self.root)) for path in libraries]


def _load(path: Path) -> ModuleType:
    """A module by its file: the package itself needs what is not installed yet."""
    spec = importlib.util.spec_from_file_location("dynhat_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
