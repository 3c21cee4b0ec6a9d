"""Accessibility: contrast and names (axe-core, WCAG 2.2 AA) at every width and in both colour schemes."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

import talk
from talk import generate, select

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}


def check(page):
    found = Axe().run(page, options=RULES).response["violations"]
    assert not found, [(it["id"], it["help"], [node["target"] for node in it["nodes"]][:5], it["nodes"][0]["failureSummary"]) for it in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 900, 375])
def test_every_state(page, scheme, width, screenshot):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    talk.open_page(page)
    check(page)
    # A text with every tint.
    generate(page, prompt="The capital of Michigan is Lansing, xylophone of Ünderwater 1, 2, 3, 4, 5, 6, 7, 8", max_tokens=12, temperature=1.5)
    select(page, 12)
    talk.ends(page, page.locator(".alternatives button:not(:disabled)").first.click)
    select(page, 12)
    page.click("#seeds")
    expect(page.locator(".histogram tr").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "something is wider than the window"
    check(page)
    screenshot(f"explore-{scheme}-{width}", full_page=True)
    page.click("#copy-as")
    check(page)
    page.keyboard.press("Escape")
    page.click("#start-tour")
    expect(page.locator("#tour")).to_be_visible()
    check(page)
    page.get_by_role("button", name="Leave").click()
    for tab in ("score", "compare"):
        page.click(f"#tab-{tab}")
        check(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_colours_are_chosen_and_kept(page):
    talk.open_page(page)
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    button = page.locator("#theme")
    button.click()
    expect(button).to_have_accessible_name("Colours: light")
    button.click()
    expect(button).to_have_accessible_name("Colours: dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_tabs_by_keys(page):
    talk.open_page(page)
    page.focus("#tab-explore")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#score")).to_be_visible()
    expect(page.locator("#tab-score")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#explore")).to_be_visible()
