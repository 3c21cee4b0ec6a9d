"""What the tests of the page say to it, and to the server's API."""

import json
import urllib.request

from playwright.sync_api import expect

PROMPT = "The capital of Michigan is "
NAMES = {"prompt": "#prompt", "max_tokens": "#max-tokens", "seed": "#seed"}


def ask(server, path="/v1/completions", **body):
    asked = urllib.request.Request(server + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)


def open_page(page, server=""):
    page.goto(f"{server}/")
    expect(page.locator("html")).to_have_attribute("data-ready", "true")
    return page


def fill(page, **fields):
    """The form's fields, by their names in a request."""
    for name, value in fields.items():
        place = page.locator(NAMES.get(name, f"#set-{name}"))
        if not place.is_visible():
            page.get_by_text("More samplers").first.click()
        place.fill(str(value))


def ends(page, act):
    """Does what has something generated, and waits for its end."""
    page.locator("#status").evaluate("it => { it.textContent = 'begins'; }")
    act()
    expect(page.locator("#status")).to_contain_text("tokens generated")
    expect(page.locator("#stop")).to_be_disabled()


def generate(page, server="", **fields):
    """Opens the page if it is not yet (`server` is None: it is), and generates."""
    if server is not None and (server or page.url == "about:blank"):
        open_page(page, server)
    fill(page, **fields)
    ends(page, lambda: page.click("#generate"))


def texts(page):
    return page.locator("#text .token").all_text_contents()


def select(page, at):
    """By keys, which reach every token; of one that is a newline there may be nothing to click on."""
    page.focus("#text")
    page.keyboard.press("Home")
    for _ in range(at):
        page.keyboard.press("ArrowRight")
    expect(page.locator(f"#text-{at}")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#token .soft").first).to_contain_text(f"token {at},")


def chosen(page):
    """What is shown of a token, by the names that it has there."""
    return page.locator("#token").evaluate("it => Object.fromEntries([...it.querySelectorAll('[data-fact]')].map(it => [it.dataset.fact, it.textContent]))")


def tab_to(page, selector):
    """Presses Tab until it is there."""
    for _ in range(120):
        if page.evaluate("selector => document.activeElement?.matches(selector) ?? false", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no Tab leads to {selector}")
