"""The example answer on a first visit: shown to newcomers, and in nobody's way."""

import json
import re

import pytest
from playwright.sync_api import expect

import rig
import talk
from talk import PROMPT, ask
from test_access import check

COMPLETIONS = "**/v1/completions"
MODELS = "**/v1/models"
FIELDS = "**/openapi.json"


@pytest.fixture
def requests(newcomer):
    """The completion requests that the page sends."""
    bodies = []

    def note(request):
        if request.url.endswith("/v1/completions"):
            bodies.append(request.post_data_json)

    newcomer.on("request", note)
    return bodies


def open_page(page, address="/"):
    page.goto(address)
    expect(page.locator("html")).to_have_attribute("data-ready", "true")


def expect_example(page):
    expect(page.locator("#example")).to_contain_text(f"Example: how the model continues “{PROMPT.strip()}”")
    expect(page.locator("#status")).to_contain_text(talk.GENERATED)
    expect(page.locator("#stop")).to_be_disabled()


def expect_no_example(page):
    """Also not a little later."""
    page.evaluate("new Promise(done => setTimeout(done, 500))")
    expect(page.locator("#example")).to_be_hidden()
    expect(page.locator("#text .token")).to_have_count(0)
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#stop")).to_be_disabled()


def is_remembered(page):
    return page.evaluate("localStorage.getItem('visited')") == "true"


@pytest.mark.parametrize("width", [1440, 375])
def test_a_first_visit_shows_it_without_moving_anything(newcomer, server, requests, screenshot, width):
    newcomer.set_viewport_size({"width": width, "height": 900})
    open_page(newcomer)
    expect_example(newcomer)
    # The request in the form, but shorter.
    (request,) = requests
    assert (request["prompt"], request["max_tokens"], request["seed"], request["temperature"]) == (PROMPT, 16, 1, 0.8)
    answer = ask(server, **{**request, "stream": False, "stream_options": None})["choices"][0]
    assert "".join(talk.texts(newcomer)) == answer["text"]
    # The first generated token is selected, so that no part of the page is empty.
    first = len(answer["logprobs"]["tokens"]) - len(answer["token_ids"])
    expect(newcomer.locator(f"#text-{first}")).to_have_attribute("aria-selected", "true")
    expect(newcomer.locator(".alternatives")).to_be_visible()
    expect(newcomer.locator("#at-token")).to_be_visible()
    assert newcomer.evaluate("[document.activeElement === document.body, scrollX, scrollY]") == [True, 0, 0]
    expect(newcomer.locator("#error")).to_be_hidden()
    expect(newcomer.locator("#max-tokens")).to_have_value("48")
    for scheme in ("light", "dark"):
        newcomer.emulate_media(color_scheme=scheme)
        check(newcomer)
        screenshot(f"first-visit-{scheme}-{width}", full_page=True)


def test_a_second_visit_does_not(newcomer, requests):
    open_page(newcomer)
    expect_example(newcomer)
    newcomer.reload()
    expect(newcomer.locator("html")).to_have_attribute("data-ready", "true")
    expect_no_example(newcomer)
    expect(newcomer.locator("#status")).to_have_text("Nothing generated yet.")
    assert len(requests) == 1


def test_someone_with_a_theme_is_no_newcomer(newcomer, requests):
    newcomer.add_init_script("localStorage.setItem('theme', 'dark')")
    open_page(newcomer)
    expect_no_example(newcomer)
    assert not requests


def test_without_storage_nobody_is_a_newcomer(newcomer, requests):
    newcomer.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked'); } })")
    open_page(newcomer)
    expect_no_example(newcomer)
    assert not requests


def test_a_link_comes_first(newcomer, requests):
    open_page(newcomer, "/#request=" + json.dumps({"prompt": "Once upon", "max_tokens": 3}))
    expect(newcomer.locator("#status")).to_contain_text("Press Generate")
    expect_no_example(newcomer)
    expect(newcomer.locator("#prompt")).to_have_value("Once upon")
    assert not requests
    # Opening a link counts as a visit.
    assert is_remembered(newcomer)


def test_a_link_that_is_opened_meanwhile_stops_it(newcomer):
    newcomer.route(COMPLETIONS, lambda route: None)
    open_page(newcomer)
    expect(newcomer.locator("#stop")).to_be_enabled()
    newcomer.evaluate("location.hash = 'request=' + JSON.stringify({ prompt: 'Once upon' })")
    expect(newcomer.locator("#status")).to_contain_text("Press Generate")
    expect_no_example(newcomer)
    expect(newcomer.locator("#status")).to_contain_text("Press Generate")


def test_a_server_that_requires_a_key_is_asked_after_it_is_given(newcomer, requests, request, troubles):
    key = "a-key-of-sixteen-characters-or-more"
    with rig.server(request.config.getoption("candor"), "--api-key", key) as server:
        newcomer.goto(server)
        expect(newcomer.locator("#unlock")).to_be_visible()
        expect_no_example(newcomer)
        expect(newcomer.locator("#progress")).to_be_hidden()
        assert not requests
        newcomer.fill("#key", key)
        newcomer.get_by_role("button", name="Use key").click()
        expect_example(newcomer)
        expect(newcomer.locator("#error")).to_be_hidden()
    # The browser logs each 401.
    assert all("401" in trouble for trouble in troubles)
    troubles.clear()


def test_it_waits_while_the_server_loads_its_first_model(newcomer, requests, troubles):
    """Until then it answers 503: it knows neither the model's name nor the bounds of fields."""
    error = {"message": "The model is still being loaded.", "type": "server_error", "param": None, "code": "server_unavailable"}
    for path in (MODELS, FIELDS):
        newcomer.route(path, lambda route: route.fulfill(status=503, json={"error": error}))
    newcomer.goto("/")
    expect(newcomer.locator("#progress")).to_have_text("The model is still being loaded. The page is waiting for the server.")
    expect(newcomer.locator("#generate")).to_be_disabled()
    expect_no_example(newcomer)
    assert not requests
    newcomer.unroute(MODELS)
    expect_no_example(newcomer)
    expect(newcomer.locator("#progress")).to_be_visible()
    newcomer.unroute(FIELDS)
    expect_example(newcomer)
    expect(newcomer.locator("#progress")).to_be_hidden()
    # The browser logs each 503.
    assert all("503" in trouble for trouble in troubles)
    troubles.clear()


def with_model(page, **changes):
    """Changes what the server says of its model."""

    def change(route):
        answer = route.fetch()
        body = answer.json()
        for model in body["data"]:
            model.update({name: {**model[name], **value} for name, value in changes.items()})
        route.fulfill(response=answer, json=body)

    page.route(MODELS, change)


def test_it_waits_for_a_model_that_is_loading(newcomer, requests, screenshot):
    with_model(newcomer, status={"value": "loading"})
    open_page(newcomer)
    expect(newcomer.locator("#progress")).to_contain_text("still being loaded")
    expect_no_example(newcomer)
    assert not requests
    screenshot("loading")
    newcomer.unroute(MODELS)
    expect_example(newcomer)
    expect(newcomer.locator("#progress")).to_be_hidden()


def test_typing_while_the_model_loads_is_enough(newcomer, requests):
    with_model(newcomer, status={"value": "loading"})
    open_page(newcomer)
    newcomer.fill("#prompt", "Mine")
    newcomer.unroute(MODELS)
    expect(newcomer.locator("#progress")).to_be_hidden()
    expect_no_example(newcomer)
    assert not requests and is_remembered(newcomer)


@pytest.mark.parametrize("changes", [{"status": {"value": "unloaded"}}, {"meta": {"generates": False}}], ids=["unloaded", "embeddings only"])
def test_it_neither_loads_a_model_nor_asks_one_that_only_embeds(newcomer, requests, changes):
    with_model(newcomer, **changes)
    open_page(newcomer)
    expect_no_example(newcomer)
    assert not requests


def test_typing_stops_it(newcomer):
    def lengthen(route):
        route.continue_(post_data=json.dumps({**route.request.post_data_json, "max_tokens": 1500, "ignore_eos": True}))

    newcomer.route(COMPLETIONS, lengthen)
    open_page(newcomer)
    expect(newcomer.locator("#text .token").nth(10)).to_be_visible()
    newcomer.focus("#prompt")
    newcomer.keyboard.type("x")
    expect(newcomer.locator("#status")).to_have_text("Example stopped.")
    expect(newcomer.locator("#stop")).to_be_disabled()
    expect(newcomer.locator("#example")).to_be_visible()
    expect(newcomer.locator("#prompt")).to_be_focused()
    assert is_remembered(newcomer)


@pytest.mark.parametrize("act", [lambda page: page.fill("#prompt", "Mine"), lambda page: page.click("#stop")], ids=["typing", "Stop"])
def test_stopping_it_before_the_first_token_leaves_nothing(newcomer, act):
    newcomer.route(COMPLETIONS, lambda route: None)
    open_page(newcomer)
    expect(newcomer.locator("#stop")).to_be_enabled()
    act(newcomer)
    expect_no_example(newcomer)
    expect(newcomer.locator("#status")).to_have_text("Nothing generated yet.")
    assert is_remembered(newcomer)


def test_generating_replaces_it(newcomer):
    newcomer.route(COMPLETIONS, lambda route: None, times=1)
    open_page(newcomer)
    expect(newcomer.locator("#stop")).to_be_enabled()
    talk.generate(newcomer, None, max_tokens=3)
    expect(newcomer.locator("#text .token")).to_have_count(6 + 3)
    expect(newcomer.locator("#example")).to_be_hidden()
    # The next visit begins with nothing, as does one after an example that was seen to its end.
    assert is_remembered(newcomer)


def test_it_makes_way_unless_it_was_forked(newcomer, screenshot):
    open_page(newcomer)
    expect_example(newcomer)
    talk.generate(newcomer, None, prompt="Once upon", max_tokens=3)
    expect(newcomer.locator("#example")).to_be_hidden()
    expect(newcomer.locator("#tree")).to_be_hidden()
    newcomer.evaluate("localStorage.clear()")
    newcomer.reload()
    expect_example(newcomer)
    talk.ends(newcomer, newcomer.locator(".alternatives button:not(:disabled)").first.click)
    expect(newcomer.locator("#example")).to_be_hidden()
    talk.generate(newcomer, None, prompt="Once upon", max_tokens=3)
    branches = newcomer.locator("#tree button")
    expect(branches).to_have_count(3)
    expect(branches.first).to_have_text(re.compile("^Example: "))
    branches.first.click()
    expect(newcomer.locator("#example")).to_be_visible()


def test_its_errors_are_not_the_visitors(newcomer, troubles):
    error = {"message": "The server is full.", "type": "server_error", "param": None, "code": "server_overloaded"}
    newcomer.route(COMPLETIONS, lambda route: route.fulfill(status=503, json={"error": error}))
    open_page(newcomer)
    expect(newcomer.locator("#status")).to_have_text("Nothing generated yet.")
    expect_no_example(newcomer)
    assert not is_remembered(newcomer)
    # The browser logs the 503.
    assert all("503" in trouble for trouble in troubles)
    troubles.clear()


def test_the_tour_needs_none(newcomer, requests):
    with_model(newcomer, status={"value": "loading"})
    open_page(newcomer)
    newcomer.click("#start-tour")
    expect(newcomer.locator("#status")).to_contain_text(talk.GENERATED)
    newcomer.unroute(MODELS)
    expect(newcomer.locator("#progress")).to_be_hidden()
    expect(newcomer.locator("#example")).to_be_hidden()
    assert [request["temperature"] for request in requests] == [0]
