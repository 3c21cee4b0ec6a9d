"""Fixtures for the tests of the page: a server, a browser, and pages whose errors fail the test."""

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

# Milliseconds after which a test gives up. Not a measure of speed.
NEVER = 60_000


def pytest_addoption(parser):
    group = parser.getgroup("candor")
    group.addoption("--candor", metavar="BINARY", required=True, help="the server to start")
    group.addoption(
        "--page",
        metavar="DIR",
        type=pathlib.Path,
        help="page files to use instead of the server's, to test a change of src/playground/page without a build",
    )
    group.addoption("--screenshots", metavar="DIR", type=pathlib.Path, help="where to save screenshots")
    group.addoption("--browser", default="chromium", help="the browser's name or path (%(default)s)")


@pytest.fixture(scope="session")
def server(request):
    """The address of a server with the default model, shared by all tests."""
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
    """Errors of a page: on its console, uncaught in scripts, and violations of its Content Security Policy. A test that
    provokes some removes them from this list; any that is left fails the test."""
    return []


@pytest.fixture
def newcomer(request, browser, server, troubles):
    """An empty page in a fresh profile, as on a first visit; `page.goto("/")` opens Candor's page."""
    context = browser.new_context(base_url=server, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(NEVER)
    # The browser reports policy violations on the console, as errors.
    context.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: troubles.append(str(error.error)))
    if folder := request.config.getoption("--page"):
        serve_from(context, folder)
    yield context.new_page()
    context.close()
    assert not troubles


@pytest.fixture
def page(newcomer):
    """The same in the profile of someone who has visited before: it starts without the example."""
    newcomer.add_init_script("localStorage.setItem('visited', 'true')")
    return newcomer


def serve_from(context, folder):
    """Serves the page's files from a folder, with the headers that the server sends."""
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
def screenshot(request, newcomer):
    """`screenshot("name")` saves a screenshot of the page if screenshots are requested."""
    folder = request.config.getoption("--screenshots")

    def take(name, **options):
        if folder is not None:
            newcomer.screenshot(path=folder / f"{name}.png", **options)

    return take
