"""The page opens, and only its own files may run on it."""

import pytest
from playwright.sync_api import Error, expect


def test_the_page_opens_and_reaches_the_api(page, screenshot):
    answer = page.goto("/")
    assert answer.status == 200
    expect(page).to_have_title("Candor")
    models = page.request.get("/v1/models").json()["data"]
    expect(page.locator("#model")).to_have_text(models[0]["id"])
    screenshot("page")


def test_text_can_not_become_markup(page, troubles):
    page.goto("/")
    with pytest.raises(Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>bold</b>'")
    assert troubles and all("TrustedHTML" in trouble for trouble in troubles)
    troubles.clear()


# What a page could try, and a script that tries it. Code that ran would set `ran`.
FORBIDDEN = {
    "a script in the page": """
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);""",
    "a script from data": """
        const script = document.createElement("script");
        script.src = "data:text/javascript,window.ran=true";
        document.body.append(script);""",
    "an attribute that runs": """
        document.body.setAttribute("onclick", "window.ran = true");
        document.body.click();""",
    "text that runs": """setTimeout("window.ran = true");""",
    "a style in the page": """
        const style = document.createElement("style");
        style.textContent = "p { color: red }";
        document.head.append(style);""",
    "an attribute of style": """document.body.setAttribute("style", "color: red");""",
    "another server's answer": """await fetch("https://elsewhere.example").catch(() => {});""",
    "another server's picture": """
        const image = new Image();
        const ended = new Promise(done => { image.onerror = done; });
        image.src = "https://elsewhere.example/a.png";
        await ended;""",
}


@pytest.mark.parametrize("tried", FORBIDDEN)
def test_only_the_pages_own_files_run_and_it_asks_only_its_server(page, troubles, tried):
    """A violation also counts as a trouble, which would fail any other test."""
    page.goto("/")
    try:
        page.evaluate(f"async () => {{ {FORBIDDEN[tried]} }}")
    except Error as error:
        troubles.append(str(error))
    page.evaluate("new Promise(done => setTimeout(done))")
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in trouble or "Trusted" in trouble for trouble in troubles), troubles
    troubles.clear()


def test_an_error_that_no_script_caught_is_a_trouble(page, troubles):
    page.goto("/")
    page.evaluate("new Promise(done => { setTimeout(() => { setTimeout(done); throw new Error('uncaught') }) })")
    page.evaluate("console.error('logged')")
    assert any("uncaught" in trouble for trouble in troubles), troubles
    assert "logged" in troubles
    troubles.clear()
