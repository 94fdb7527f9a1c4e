"""Photographs the web page for the README: `python -m tests.page_screenshots` writes docs/images.

A real daemon on the shipped bundle is given and denied a CPU while somebody translates. Needs Chromium and two CPUs.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from dynhat_runtime.model.checkpoint import shipped_bundle_path
from tests.chromium import Chromium, Scheme, why_no_chromium
from tests.test_end_to_end import Daemon

FOLDER = Path(__file__).parent.parent / "docs" / "images"
LIGHT_DESK, DARK_PHONE = FOLDER / "web-page-light.png", FOLDER / "web-page-dark-phone.png"
TEXT = "A man is riding a bicycle. Two children are playing in the garden. Where is the station?"
CPUS = (2, 1, 2)
"""How many the daemon has, one after the other."""
NUM_TRANSLATIONS = 6
PAUSE_S = 1.5


def take(chromium: Chromium, daemon: Daemon) -> None:
    """Have a while of work, then write both pictures."""
    chromium.open(daemon.url)
    chromium.until_text("#languages", "English to German")
    source = chromium.find("#source")
    source.send_keys(TEXT)
    cpus = sorted(os.sched_getaffinity(daemon.process.pid))
    for num_cpus in CPUS:
        os.sched_setaffinity(daemon.process.pid, cpus[:num_cpus])
        for _ in range(NUM_TRANSLATIONS):
            source.send_keys(Keys.CONTROL + Keys.ENTER + Keys.NULL)
            chromium.until_text("#verdict", "budget")
            time.sleep(PAUSE_S)
    chromium.ask("document.activeElement.blur()")
    photograph(chromium, LIGHT_DESK, "light", 1400, None)
    photograph(chromium, DARK_PHONE, "dark", 390, 1800)


def photograph(chromium: Chromium, file: Path, scheme: Scheme, width: int, height: int | None) -> None:
    """One picture of the page as it is now."""
    chromium.prefer(scheme)
    chromium.resize(width, 900, is_phone=width < 600)
    time.sleep(PAUSE_S)  # the charts are drawn anew
    chromium.photograph(file, width, height)
    print(file)


def main() -> None:
    """Start, photograph, stop."""
    if why_not := why_no_chromium():
        raise SystemExit(why_not)
    FOLDER.mkdir(exist_ok=True)
    daemon = Daemon(shipped_bundle_path(), "--policy", "predictive")
    chromium = Chromium()
    try:
        take(chromium, daemon)
    finally:
        chromium.close()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.wait(60)


if __name__ == "__main__":
    main()
