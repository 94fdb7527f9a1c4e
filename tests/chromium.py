"""A headless Chromium for tests and screenshots of the web page: found, started, looked at. Installs nothing.

It reaches this machine's loopback address and nothing else.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

Scheme = Literal["light", "dark"]

PATIENCE_S = 20.0

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"

OPTIONS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def why_no_chromium() -> str | None:
    """Why no browser can be started here, and what would help; None where one can."""
    if not any(map(shutil.which, BROWSERS)):
        return "no Chromium here: on Debian install the packages chromium and chromium-driver"
    if not shutil.which(DRIVER):
        return f"no {DRIVER} here: on Debian install the package chromium-driver"
    return None


class Chromium:
    """One window."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(next(filter(None, map(shutil.which, BROWSERS))))
        for option in OPTIONS:
            options.add_argument(option)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # root's Chromium refuses to start otherwise
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which(DRIVER)))
        self.resize(1400, 1000)

    def open(self, url: str) -> None:
        """Load a page, with the logs emptied before."""
        self.driver.get("about:blank")
        self.complaints()
        self.driver.get_log("performance")
        self.driver.get(url)

    def forget_files(self) -> None:
        """Load every file anew."""
        self._command("Network.clearBrowserCache")

    def close(self) -> None:
        """End it."""
        self.driver.quit()

    # --- looking --------------------------------------------------------------------------------------------

    def find(self, selector: str) -> WebElement:
        """The first element that a CSS selector matches."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[WebElement]:
        """All of them."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Its text, as far as it is shown."""
        return self.find(selector).text

    def ask(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, probe: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """What `probe` returns, once it is true."""
        deadline_s = time.monotonic() + patience_s
        while True:
            try:
                if value := probe():
                    return value
            except StaleElementReferenceException:
                pass  # it was drawn anew meanwhile
            assert time.monotonic() < deadline_s, f"never: {what}; the page says {self.text('body')!r}"
            time.sleep(0.03)

    def until_text(self, selector: str, words: str, patience_s: float = PATIENCE_S) -> str:
        """An element's text, once these words are in it."""
        return str(
            self.until(
                lambda: words in (text := self.text(selector)) and text, f"{words} in {selector}", patience_s
            )
        )

    def focused(self) -> WebElement:
        """What has the focus."""
        return self.driver.switch_to.active_element

    # --- what it was asked for ------------------------------------------------------------------------------

    def complaints(self) -> list[str]:
        """Warnings and errors in its console since this was last asked."""
        return [
            str(entry["message"])
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("WARNING", "SEVERE")
        ]

    def requests(self) -> list[tuple[str, int]]:
        """URL and transferred bytes of everything that was loaded since the page was opened, but the page's data."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls, num_bytes = {}, {}
        for event in events:
            parameters = event["params"]
            if event["method"] == "Network.requestWillBeSent":
                urls[parameters["requestId"]] = str(parameters["request"]["url"])
            elif event["method"] == "Network.loadingFinished":
                num_bytes[parameters["requestId"]] = int(parameters["encodedDataLength"])
        return [(url, num_bytes.get(key, 0)) for key, url in urls.items() if urlsplit(url).scheme != "data"]

    # --- how it looks ---------------------------------------------------------------------------------------

    def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """A window or a phone's screen of this many CSS pixels."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )

    def prefer(self, scheme: Scheme) -> None:
        """The colours that the system is set to."""
        self._command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def photograph(self, file: Path, width: int, height: int | None = None) -> None:
        """The page from its top as a PNG file; without a height all of it."""
        height = height or int(self.ask("return document.documentElement.scrollHeight"))
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = self._command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(taken["data"]))

    def _command(self, name: str, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(name, parameters)
        return answer
