"""What the tests of the page are given: a server, a browser, and pages that complain."""

import mimetypes
import pathlib
import re
import shutil
import sys
import urllib.parse

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import rig  # noqa: E402

# Milliseconds after which what has not come is held never to come. Not a measure of how fast anything is.
NEVER = 60_000


def pytest_addoption(parser):
    group = parser.getgroup("candor")
    group.addoption("--candor", metavar="BINARY", required=True, help="the server to start")
    group.addoption(
        "--page",
        metavar="DIR",
        type=pathlib.Path,
        help="the page's files, in place of those in the server: a change of src/playground/page is tried without a build",
    )
    group.addoption("--screenshots", metavar="DIR", type=pathlib.Path, help="where to put pictures of the page")
    group.addoption("--browser", default="chromium", help="the browser, by its name or path (%(default)s)")


@pytest.fixture(scope="session")
def server(request):
    """The address of a server with the default model, which all tests share."""
    with rig.server(request.config.getoption("candor")) as url:
        yield url


@pytest.fixture(scope="session")
def browser(request):
    name = request.config.getoption("browser")
    program = shutil.which(name)
    if program is None:
        pytest.exit(f"There is no {name}. On Debian: apt-get install chromium")
    expect.set_options(timeout=NEVER)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def troubles():
    """What a page complained of: errors on its console, those that no script caught, and what its Content Security Policy
    forbade. A test that means to make some takes them out of this list; any that is left fails it."""
    return []


@pytest.fixture
def page(request, browser, server, troubles):
    """An empty page of a profile of its own; `page.goto("/")` opens Candor's."""
    context = browser.new_context(base_url=server, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(NEVER)
    # The browser writes what a policy forbids to the console, too, as an error.
    context.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: troubles.append(str(error.error)))
    if folder := request.config.getoption("--page"):
        serve_from(context, folder)
    yield context.new_page()
    context.close()
    assert not troubles


def serve_from(context, folder):
    """Answers with a folder's files, and with the headers that the server gives its own."""
    headers = context.request.get("/").headers
    for name in ("content-length", "content-type", "etag"):
        headers.pop(name, None)

    def answer(route):
        path = urllib.parse.urlsplit(route.request.url).path
        file = folder / ("index.html" if path == "/" else path.removeprefix("/page/"))
        if not file.is_file():
            return route.fulfill(status=404)
        kind, _ = mimetypes.guess_type(file)
        return route.fulfill(path=file, headers={**headers, "content-type": f"{kind or 'text/plain'}; charset=utf-8"})

    context.route(re.compile(r"^[a-z]+://[^/]+/(page/.*)?(\?.*)?$"), answer)


@pytest.fixture
def screenshot(request, page):
    """`screenshot("name")` takes a picture of the page as it is, if pictures are asked for."""
    folder = request.config.getoption("screenshots")

    def take(name, **options):
        if folder is not None:
            page.screenshot(path=folder / f"{name}.png", **options)

    return take
