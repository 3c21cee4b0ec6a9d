"""The tour: each step shows what its text says."""

import re

from playwright.sync_api import expect

import talk
from talk import PROMPT, ask


def come(page, step):
    expect(page.locator("#tour h2")).to_contain_text(f"{step} of 6")
    expect(page.locator("#status")).to_contain_text(talk.GENERATED)
    expect(page.locator(".shown-by-tour")).to_be_visible()
    expect(page.locator("#text-6")).to_have_attribute("aria-selected", "true")


def said(page):
    """The text shown, without the end-of-text token."""
    return "".join(talk.texts(page)).removesuffix("<|im_end|>")


def numbers(page, stage):
    it = page.locator(f"#stages [data-stage={stage}]")
    return int(it.get_attribute("data-in")), int(it.get_attribute("data-out"))


def test_the_tour(page, server, screenshot):
    talk.open_page(page)
    page.click("#tab-score")
    page.click("#start-tour")
    come(page, 1)
    likeliest = ask(server, prompt=PROMPT, max_tokens=16, temperature=0)["choices"][0]["text"]
    assert said(page) == PROMPT + likeliest
    screenshot("tour-1")
    page.get_by_role("button", name="Next").click()
    come(page, 2)
    assert talk.chosen(page)["rank"] == "1"
    page.get_by_role("button", name="Next").click()
    come(page, 3)
    ranks = []
    for at in range(6, 22):
        talk.select(page, at)
        ranks.append(talk.chosen(page)["rank"])
    assert any(rank != "1" for rank in ranks), "every drawn token is the most likely"
    page.get_by_role("button", name="Next").click()
    come(page, 4)
    assert numbers(page, "top_k") == (49152, 2)
    assert page.locator(".alternatives tbody tr").count() > 2
    screenshot("tour-4")
    page.get_by_role("button", name="Next").click()
    come(page, 5)
    assert numbers(page, "top_p")[1] == 1
    assert said(page) == PROMPT + likeliest
    page.get_by_role("button", name="Back", exact=True).click()
    come(page, 4)
    page.get_by_role("button", name="Next").click()
    come(page, 5)
    page.get_by_role("button", name="Next").click()
    come(page, 6)
    texts = page.locator("#tree button").count()
    talk.ends(page, page.locator(".alternatives button:not(:disabled)").first.click)
    expect(page.locator("#tree button")).to_have_count(texts + 1)
    screenshot("tour-6")
    page.get_by_role("button", name="End tour").click()
    expect(page.locator("#tour")).to_be_hidden()
    expect(page.locator("#start-tour")).to_be_focused()
    # The form is as it was before.
    expect(page.locator("#set-temperature")).to_have_value("0.8")
    expect(page.locator("#max-tokens")).to_have_value("48")


def test_escape_leaves_it(page):
    talk.open_page(page)
    page.click("#start-tour")
    come(page, 1)
    page.locator("#tour h2").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#tour")).to_be_hidden()
    assert not re.search("shown-by-tour", page.locator("main").inner_html())
