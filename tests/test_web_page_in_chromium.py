"""The web page in a real Chromium, on the real daemon with the tiny bundle; rare answers come from a fake engine."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from tests.chromium import Chromium, Scheme, why_no_chromium
from tests.served import served
from tests.service_fakes import FakeControl, FakeEngine, FakeTrace, overloaded
from tests.test_end_to_end import Daemon, needs_two_cpus
from tests.tiny_bundle import SENTENCES

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.daemon,
    pytest.mark.skipif(why_no_chromium() is not None, reason=str(why_no_chromium())),
]

SEEN_WITHIN_S = 2.0
"""What the page has to show a switch in."""
LEAST_CONTRAST = 4.5
"""Of text against what is behind it (WCAG AA)."""
PHONE_WIDTH = 360
CTRL_ENTER = Keys.CONTROL + Keys.ENTER + Keys.NULL


@pytest.fixture(scope="module")
def daemon(tiny_bundle: Bundle) -> Iterator[Daemon]:
    """One running daemon on the tiny bundle."""
    running = Daemon(tiny_bundle.path)
    yield running
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(30)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """One browser."""
    browser = Chromium()
    yield browser
    browser.close()


@pytest.fixture
def page(chromium: Chromium, daemon: Daemon) -> Iterator[Chromium]:
    """The page on that daemon. Whatever a test does there: no complaint, and nothing from elsewhere."""
    chromium.open(daemon.url)
    chromium.until_text("#daemon-state", "Ready")
    chromium.until(lambda: chromium.find_all("#points tr"), "points")
    yield chromium
    assert chromium.complaints() == []
    origins = {urlsplit(url)[:2] for url, _ in chromium.requests()}
    assert origins <= {urlsplit(daemon.url)[:2]}


@contextmanager
def fake_daemon(engine: FakeEngine | None = None) -> Iterator[tuple[Lifecycle, FakeEngine, str]]:
    """A service around a fake engine that shouts; it has decided once."""
    engine, lifecycle = engine or FakeEngine(), Lifecycle()
    control = FakeControl(engine)
    control.pin("p2")
    lifecycle.ready(Serving(engine, control))
    with served(lifecycle, FakeTrace) as url:
        yield lifecycle, engine, url


def translate(page: Chromium, text: str) -> None:
    """Put in a text and ask for its translation."""
    source = page.find("#source")
    source.clear()
    source.send_keys(text, CTRL_ENTER)


def press(page: Chromium, *keys: str) -> None:
    """Press keys wherever the focus is."""
    for key in keys:
        page.focused().send_keys(key)


# --- translating --------------------------------------------------------------------------------------------


def test_translate_by_keyboard(page: Chromium, daemon: Daemon) -> None:
    """From the top of the page, Tab, a text and Ctrl+Enter bring its translation, the point and the verdict."""
    press(page, Keys.TAB)
    assert page.focused().text == "Skip to translation"
    press(page, Keys.ENTER, Keys.TAB)
    assert page.focused().accessible_name == "English"
    press(page, SENTENCES[0], CTRL_ENTER)
    page.until_text("#verdict", "budget")
    assert page.text("#translation") == daemon.translate(SENTENCES[0])[1]["translatedText"]
    assert page.text("#verdict").startswith(daemon.active_id())
    assert page.find("#translation").get_attribute("lang") == "de"
    press(page, Keys.TAB)
    assert page.focused().text == "Copy"


def test_ask_for_a_point(page: Chromium) -> None:
    """A point chosen in the form translates this one text."""
    page.find("summary").click()
    Select(page.find("#wish-point")).select_by_visible_text("small")
    translate(page, SENTENCES[1])
    page.until_text("#verdict", "small")


def test_nothing_to_translate(page: Chromium) -> None:
    """A blank text is not sent, and the page says what to do."""
    translate(page, "  ")
    page.until_text("#translate-error", "type a text first")


def test_a_batch_shows_prediction_and_fact(page: Chromium) -> None:
    """A translation appears as predicted and actual latency, as figures and in the chart."""
    translate(page, SENTENCES[2])
    page.until_text("#actual-more", "predicted")
    assert page.text("#actual").endswith(" ms")
    page.until(lambda: page.find_all("#batch-chart .actual"), "a dot")
    assert "the last took" in page.find("#batch-chart").accessible_name


# --- the live picture ---------------------------------------------------------------------------------------


@needs_two_cpus
def test_a_forced_switch_is_seen(page: Chromium, daemon: Daemon) -> None:
    """A CPU taken away shows within two seconds: the point, the reason in words, cores, and the chart."""
    pid = daemon.process.pid
    cpus = sorted(os.sched_getaffinity(pid))
    os.sched_setaffinity(pid, cpus[:2])
    page.until_text("#active-point", "large")
    try:
        os.sched_setaffinity(pid, cpus[:1])
        page.until_text("#active-point", "middle", SEEN_WITHIN_S)
        page.until_text("#reasons li:first-child", "large → middle")
        assert "on 1 CPU" in page.text("#reasons li:first-child")
        assert page.text("#resources dd").startswith("1 ")
        assert "operating point middle, predicted" in page.find("#point-chart").accessible_name.lower()
        names = "return [...document.querySelectorAll('#point-chart .name')].map((each) => each.textContent)"
        assert page.ask(names)[-1] == "middle"
    finally:
        os.sched_setaffinity(pid, cpus)
    page.until_text("#active-point", "large")


def test_pin_and_release_by_keyboard(page: Chromium, daemon: Daemon) -> None:
    """A point is pinned and released without a mouse; the daemon obeys, the page says so, the focus is kept."""
    page.ask("document.getElementById('pin-point').focus()")
    press(page, "m", Keys.TAB)
    assert page.focused().accessible_name == "Pin"
    press(page, Keys.ENTER)
    page.until_text("#active-how", "pinned by hand")
    assert daemon.request("/v1/operating-point")[1]["mode"] == "pinned"
    assert page.text("#active-point") == daemon.active_id() == "middle"
    assert "pinned" in page.text("#reason")
    press(page, Keys.TAB)
    assert page.focused().accessible_name == "Release"
    press(page, Keys.SPACE)
    page.until_text("#active-how", "chosen by the governor")
    assert daemon.request("/v1/operating-point")[1]["mode"] == "auto"
    assert page.focused().accessible_name == "Pin"


def test_somebody_elses_choice_is_seen(page: Chromium, daemon: Daemon) -> None:
    """A point pinned from elsewhere shows within two seconds, marked in the table and told to those who listen."""
    try:
        daemon.request("/v1/operating-point", {"mode": "pinned", "point": "small"}, "PUT")
        page.until_text("#active-point", "small", SEEN_WITHIN_S)
        assert page.text("tr.is-active").startswith("small active")
        assert (
            page.find("#announcement")
            .get_property("textContent")
            .startswith("Operating point small is active")
        )
        assert "by hand" in page.text("#reasons li:first-child")
    finally:
        daemon.request("/v1/operating-point", {"mode": "auto"}, "PUT")


def test_switches_of_before_are_listed(page: Chromium, daemon: Daemon) -> None:
    """A page opened after a switch has it in its list and its chart."""
    daemon.request("/v1/operating-point", {"mode": "pinned", "point": "middle"}, "PUT")
    daemon.request("/v1/operating-point", {"mode": "auto"}, "PUT")
    page.open(daemon.url)
    page.until(lambda: "→ middle" in page.text("#reasons"), "the switch")
    page.until(lambda: page.find_all("#point-chart .switch"), "the switch's line")


# --- how it looks -------------------------------------------------------------------------------------------

CONTRASTS = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const parse = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
const isSolid = (c) => c.length === 3 || c[3] === 1;
function behind(element) {
  for (let each = element; each; each = each.parentElement) {
    const colour = parse(getComputedStyle(each).backgroundColor);
    if (colour.length && isSolid(colour)) return colour;
  }
  throw new Error("nothing behind");
}
return [...document.querySelectorAll("body *")]
  .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .filter((each) => each.checkVisibility() && !each.closest("option, noscript"))
  .map((each) => {
    const style = getComputedStyle(each);
    const front = parse(each.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const [light, dark] = [luminance(front), luminance(behind(each))].sort((a, b) => b - a);
    return [each.textContent.trim().slice(0, 40), (light + 0.05) / (dark + 0.05)];
  });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(page: Chromium, daemon: Daemon, scheme: Scheme) -> None:
    """In light and in dark every text has enough contrast, also errors and what was missed."""
    page.prefer(scheme)
    page.find("summary").click()
    page.find("#wish-budget").send_keys("0.001")
    translate(page, SENTENCES[0])
    page.until_text("#verdict", "over the budget")
    page.ask("document.getElementById('choose-error').textContent = 'An error.'")
    contrasts = page.ask(CONTRASTS)
    assert len(contrasts) > 40
    assert [pair for pair in contrasts if pair[1] < LEAST_CONTRAST] == []


def test_light_and_dark(page: Chromium, daemon: Daemon) -> None:
    """The colours follow the system until some are chosen; these are remembered."""

    def brightness() -> int:
        colour = page.ask("return getComputedStyle(document.documentElement).backgroundColor")
        return sum(int(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3])

    page.prefer("light")
    assert brightness() > 600
    page.prefer("dark")
    assert brightness() < 150
    try:
        Select(page.find("#theme")).select_by_value("light")
        assert brightness() > 600
        page.driver.refresh()
        assert brightness() > 600
    finally:
        Select(page.find("#theme")).select_by_value("")
    assert brightness() < 150


@pytest.mark.parametrize("width", [320, PHONE_WIDTH, 768, 1400])
def test_nothing_sticks_out(page: Chromium, width: int) -> None:
    """However narrow the screen, no element is wider, and what is touched is large enough."""
    page.resize(width, 800, is_phone=width <= PHONE_WIDTH)
    try:
        page.find("summary").click()
        translate(page, f"{SENTENCES[0]} {'W' * 200}")
        page.until_text("#verdict", "budget")
        assert page.ask("return document.documentElement.scrollWidth") <= width
        boxes = page.ask(
            "return [...document.querySelectorAll('main *')].filter(e => e.checkVisibility() && !e.closest('svg'))"
            ".map(e => [e.tagName, e.getBoundingClientRect().right])"
        )
        assert [box for box in boxes if box[1] > width + 0.5] == []
        heights = [element.size["height"] for element in page.find_all("main button, main select, summary")]
        assert min(height for height in heights if height) >= 24
    finally:
        page.resize(1400, 1000)


def test_everything_has_a_name(page: Chromium) -> None:
    """Each control, section and picture says what it is to those who cannot see it."""
    named = page.find_all(
        "button, input, select, textarea, output, section, svg[role=img], fieldset, summary"
    )
    assert len(named) > 15
    assert [element.get_attribute("id") for element in named if _is_nameless(element)] == []
    levels = [int(heading.tag_name[1]) for heading in page.find_all("h1, h2, h3")]
    assert levels[0] == 1
    assert all(level <= before + 1 for before, level in pairwise(levels))


def _is_nameless(element: Any) -> bool:
    return bool(element.is_displayed() and not element.accessible_name)


def test_it_loads_little(page: Chromium, daemon: Daemon) -> None:
    """Everything that the page is made of takes below 100 KB on the wire."""
    page.forget_files()
    page.open(daemon.url)
    page.until_text("#daemon-state", "Ready")
    loaded = [size for url, size in page.requests() if "/page/" in url or urlsplit(url).path == "/"]
    assert len(loaded) >= 10
    assert 20_000 < sum(loaded) < 100_000


# --- refusals and absences ----------------------------------------------------------------------------------


def test_refusals_in_words(chromium: Chromium, daemon: Daemon) -> None:
    """A text over the limit and a promise that cannot be kept are refused in the daemon's words."""
    chromium.open(daemon.url)
    chromium.until_text("#languages", "English to German")
    chromium.ask("document.getElementById('source').value = 'x'.repeat(5001)")
    chromium.find("#translate-button").click()
    chromium.until_text("#translate-error", "the limit is 5000 characters")
    chromium.find("summary").click()
    chromium.find("#wish-budget").send_keys("0.001")
    chromium.find("#wish-strict").click()
    translate(chromium, SENTENCES[0])
    assert "ask for less" in chromium.until_text(
        "#translate-error", "the fastest, small, is predicted to take"
    )


def test_a_daemon_with_too_much_to_do(chromium: Chromium) -> None:
    """A full queue is said to be one, with when to try again."""
    with fake_daemon() as (_, engine, url):
        engine.failure = overloaded()
        chromium.open(url)
        chromium.until_text("#languages", "English to German")
        translate(chromium, "hello")
        words = chromium.until_text("#translate-error", "too much to do")
        assert "The queue is full: 256 requests wait." in words
        assert "Try again in 3 s." in words


def test_markup_stays_text(chromium: Chromium) -> None:
    """A translation that looks like HTML is shown as it is, and nothing in it runs."""
    with fake_daemon() as (_, _, url):
        chromium.open(url)
        chromium.until_text("#languages", "English to German")
        translate(chromium, "<img src=x onerror=alert(1)><b>a</b>")
        chromium.until_text("#verdict", "budget")
        assert chromium.text("#translation") == "<IMG SRC=X ONERROR=ALERT(1)><B>A</B>"
        assert chromium.find_all("#translation *") == []


def test_giving_up(chromium: Chromium) -> None:
    """Escape gives up waiting for a translation, and the next one is shown."""
    with fake_daemon() as (_, engine, url):
        engine.go.clear()
        chromium.open(url)
        chromium.until_text("#languages", "English to German")
        translate(chromium, "one")
        chromium.until_text("#verdict", "Translating")
        press(chromium, Keys.ESCAPE)
        chromium.until_text("#verdict", "Given up.")
        engine.go.set()
        translate(chromium, "two")
        chromium.until_text("#translation", "TWO")


def test_a_daemon_that_loads_and_drains(chromium: Chromium) -> None:
    """While the model is loaded the page waits and says so; it is ready with the daemon, and sees it drain."""
    lifecycle, engine = Lifecycle(), FakeEngine()
    with served(lifecycle, FakeTrace) as url:
        chromium.open(url)
        chromium.until_text("#daemon-state", "Loading the model")
        lifecycle.ready(Serving(engine, FakeControl(engine)))
        chromium.until_text("#daemon-state", "Ready")
        chromium.until_text("#languages", "English to German")
        lifecycle.drain()
        chromium.until_text("#daemon-state", "Draining")


def test_a_daemon_that_restarts(chromium: Chromium, tiny_bundle: Bundle) -> None:
    """When the daemon goes the page says so and keeps the text; when it is back the page goes on by itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    first = Daemon(tiny_bundle.path, "--port", port)
    try:
        chromium.open(first.url)
        chromium.until(lambda: chromium.find_all("#point-chart .step"), "the chart")
    finally:
        first.process.kill()
        first.process.wait(30)
    chromium.until_text("#daemon-state", "No answer. Trying again")
    translate(chromium, SENTENCES[0])
    chromium.until_text("#translate-error", "The daemon does not answer. Your text is kept")
    second = Daemon(tiny_bundle.path, "--port", port)
    try:
        chromium.until_text("#daemon-state", "Ready")
        chromium.find("#translate-button").click()
        chromium.until_text("#verdict", "budget")
        assert chromium.find("#source").get_property("value") == SENTENCES[0]
        chromium.until(lambda: chromium.find_all("#point-chart .gap"), "the gap in the chart")
    finally:
        second.process.send_signal(signal.SIGTERM)
        second.process.wait(30)


class KeyRequired:
    """Before a service: refuses whatever does not carry the key, but the page itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or not."""
        path, headers = scope.get("path", "/"), dict(scope.get("headers", ()))
        is_page = scope["type"] != "http" or path == "/" or path.startswith("/page/")
        if is_page or headers.get(b"authorization") == b"Bearer s3cret":
            await self._app(scope, receive, send)
        else:
            await JSONResponse({"error": "an API key is needed"}, 401)(scope, receive, send)


def test_an_api_key_is_asked_for(chromium: Chromium) -> None:
    """Where a key is needed the page asks for it, again if it is wrong, and keeps it for this tab only."""
    lifecycle, engine = Lifecycle(), FakeEngine()
    lifecycle.ready(Serving(engine, FakeControl(engine)))
    with served(lifecycle, FakeTrace, KeyRequired) as url:
        chromium.open(url)
        chromium.until(lambda: chromium.find("#key-dialog").is_displayed(), "the dialog")
        assert chromium.focused().get_attribute("id") == "key"
        press(chromium, "wrong", Keys.ENTER)
        chromium.until(lambda: chromium.find("#key-dialog").is_displayed(), "the dialog again")
        chromium.find("#key").clear()
        chromium.find("#key").send_keys("s3cret", Keys.ENTER)
        chromium.until_text("#daemon-state", "Ready")
        translate(chromium, "hello")
        chromium.until_text("#translation", "HELLO")
        assert chromium.ask("return JSON.stringify(localStorage)").find("s3cret") == -1
        assert chromium.ask("return document.cookie") == ""
        assert "s3cret" not in chromium.driver.current_url


def test_a_hidden_page_asks_nothing(page: Chromium, daemon: Daemon) -> None:
    """In the background the page leaves the daemon alone, and goes on when it is looked at."""
    page.ask(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    time.sleep(1.5)  # the poll under way
    page.requests()
    time.sleep(1.5)
    assert page.requests() == []
    page.ask("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.until(page.requests, "a request")


def test_the_policy_is_enforced(chromium: Chromium, daemon: Daemon) -> None:
    """In the page neither inline script, nor markup made of text, nor another origin gets through."""
    chromium.open(daemon.url)
    tried = chromium.driver.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        const outcomes = [];
        try { document.body.insertAdjacentHTML("beforeend", "<i>x</i>"); } catch (error) { outcomes.push(error.name); }
        document.body.setAttribute("style", "opacity: 0.1");
        outcomes.push(getComputedStyle(document.body).opacity);
        fetch("http://127.0.0.1:9/").catch((error) => { outcomes.push(error.name); done(outcomes); });
        """
    )
    assert tried == ["TypeError", "1", "TypeError"]
    assert sum("Content Security Policy" in complaint for complaint in chromium.complaints()) >= 2
