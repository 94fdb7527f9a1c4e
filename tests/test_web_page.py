"""The web page's files as they are served: policy, types, size, what `/` is to a program."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from fastapi.testclient import TestClient

from dynhat_runtime.service import web_page
from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FOLDER = files("dynhat_runtime.service").joinpath("page")


@pytest.fixture
def client() -> TestClient:
    """A client of a daemon that is still loading: the page is there from the first moment."""
    return TestClient(create_app(Lifecycle(), RequestLimits()))


class Elements(HTMLParser):
    """Tags with their attributes, and the text in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw_text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note what would run or style."""
        if self.cdata_elem:
            self.raw_text += data.strip()


@pytest.mark.parametrize("accept", [BROWSER["Accept"], "*/*", "text/html, application/json"])
def test_the_page_is_at_the_root(client: TestClient, accept: str) -> None:
    """GET / is the page, to a browser and to whoever takes anything."""
    response = client.get("/", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.text.startswith("<!doctype html>")
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize("path", web_page.PATHS)
def test_the_policy_is_strict(client: TestClient, path: str) -> None:
    """Every file forbids what is not its own: no inline script or style, no frame, no other origin, no sniffing."""
    headers = client.get(path, headers=BROWSER).headers
    directives = dict(
        part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";")
    )
    assert directives["default-src"] == "'none'"
    for name in ("script-src", "style-src", "connect-src", "img-src"):
        assert directives[name] == "'self'"
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert directives[name] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_nothing_is_inline(client: TestClient) -> None:
    """The page has no script, style or handler of its own in it, and refers to nothing but its own files."""
    elements = Elements(client.get("/").text)
    assert elements.raw_text == ""
    for tag, attributes in elements.tags:
        assert not any(name == "style" or name.startswith("on") for name in attributes), tag
        for name in ("src", "href"):
            assert re.match(r"(page/|#|v1/|[a-z.]+$)", attributes.get(name) or "#"), attributes


def test_every_file_is_served_and_used(client: TestClient) -> None:
    """What lies in the folder is what is served, and each file is named by another one."""
    assert {path.name for path in FOLDER.iterdir()} == {web_page.INDEX, *web_page.FILES}
    texts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    for name in web_page.FILES:
        assert client.get(f"/page/{name}").content == texts[name].encode()
        assert any(name in text for other, text in texts.items() if other != name), f"{name} is unused"


def test_the_page_is_small(client: TestClient) -> None:
    """All files together are below 100 KB."""
    assert sum(len(client.get(path).content) for path in web_page.PATHS) < 100_000


def test_what_the_browser_has_is_not_sent_again(client: TestClient) -> None:
    """The same file is answered 304 without content, with its policy; another one is sent."""
    first = client.get("/page/app.js")
    again = client.get("/page/app.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["Content-Security-Policy"] == first.headers["Content-Security-Policy"]
    assert client.get("/page/live.js", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_text_is_never_read_as_html() -> None:
    """No script uses what turns text into HTML or code."""
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        found = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text
        )
        assert found is None, f"{path.name}: {found}"


def test_no_other_file_is_served(client: TestClient) -> None:
    """Only the page's own files can be had under /page."""
    for path in ("/page/index.html", "/page/../web_page.py", "/page/%2e%2e/web_page.py", "/page/", "/page"):
        assert client.get(path).status_code == 404
