"""Helpers: requests to the API, and actions on the page."""

import json
import re
import urllib.request

from playwright.sync_api import expect

PROMPT = "The capital of Michigan is "
GENERATED = re.compile("tokens? generated")
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
    """Fills in the form, by the names of request fields."""
    for name, value in fields.items():
        place = page.locator(NAMES.get(name, f"#set-{name}"))
        if not place.is_visible():
            page.get_by_text("More samplers").first.click()
        place.fill(str(value))


def ends(page, act):
    """Starts a generation and waits for its end."""
    page.locator("#status").evaluate("it => { it.textContent = 'starting'; }")
    act()
    expect(page.locator("#status")).to_contain_text(GENERATED)
    expect(page.locator("#stop")).to_be_disabled()


def generate(page, server="", **fields):
    """Opens the page unless it is open (`server` is None: it is), and generates."""
    if server is not None and (server or page.url == "about:blank"):
        open_page(page, server)
    fill(page, **fields)
    ends(page, lambda: page.click("#generate"))


def texts(page):
    return page.locator("#text .token").all_text_contents()


def select(page, at):
    """Selects a token by key, since a newline may offer nothing to click on."""
    page.focus("#text")
    page.keyboard.press("Home")
    for _ in range(at):
        page.keyboard.press("ArrowRight")
    expect(page.locator(f"#text-{at}")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#token .soft").first).to_contain_text(f"token {at},")


def chosen(page):
    """The details shown for a token, by name."""
    return page.locator("#token").evaluate("it => Object.fromEntries([...it.querySelectorAll('[data-fact]')].map(it => [it.dataset.fact, it.textContent]))")


def tab_to(page, selector):
    """Presses Tab until the element has the focus."""
    for _ in range(120):
        if page.evaluate("selector => document.activeElement?.matches(selector) ?? false", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {selector}")
