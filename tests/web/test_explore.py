"""The Explore tab shows what the server returns."""

import json
import math
import pathlib

import pytest
from playwright.sync_api import expect

import rig
import talk
from talk import PROMPT, ask, chosen, generate, select


def test_tokens_appear_as_they_are_generated(page):
    talk.open_page(page)
    talk.fill(page, max_tokens=400)
    page.click("#generate")
    expect(page.locator("#text .token").nth(20)).to_be_visible()
    expect(page.locator("#stop")).to_be_enabled()
    page.click("#stop")
    expect(page.locator("#status")).to_contain_text("stopped")
    assert page.locator("#text .token").count() < 400
    # The next one is complete.
    generate(page, max_tokens=4)
    assert page.locator("#text .token").count() == 6 + 4


def test_each_token_has_the_servers_numbers(page, server, screenshot):
    generate(page, max_tokens=12, temperature=0)
    answer = ask(server, prompt=PROMPT, max_tokens=12, temperature=0, echo=True, logprobs=40, logprobs_detail=True)
    returned = answer["choices"][0]["logprobs"]
    tokens = page.locator("#text .token")
    assert [tokens.nth(at).text_content() for at in range(tokens.count())] == returned["tokens"]
    for at in (0, 1, 6, 9):
        select(page, at)
        facts = chosen(page)
        assert facts["id"] == str(returned["token_ids"][at])
        assert bytes.fromhex(facts["bytes"]) == bytes(returned["bytes"][at])
        if at == 0:
            assert facts["probability"].startswith("none")
            continue
        assert facts["logprob"] == f"{returned['token_logprobs'][at]:.3f} nats"
        assert facts["rank"] == f"{returned['rank'][at]:,}"
        assert facts["entropy"].startswith(f"{returned['entropy'][at]:.3f} nats")
        ids = page.locator(".alternatives [data-id]").evaluate_all("all => all.map(it => Number(it.dataset.id))")
        assert ids[:12] == [it["id"] for it in returned["top"][at]][:12]
        level = tokens.nth(at).get_attribute("class").split("level-")[1][0]
        probability = math.exp(returned["token_logprobs"][at])
        assert int(level) == [probability >= least for least in (0.9, 0.5, 0.2, 0.05, 0.01, 0)].index(True)
    screenshot("token")


def test_a_click_in_a_long_text_selects_the_token_below_it(page):
    """Nothing was selected before. The text is scrolled to its end and stays there."""
    generate(page, prompt="one two three four five six seven eight nine ten " * 40, max_tokens=2, temperature=0)
    last = page.locator("#text .token").count() - 5
    page.locator("#text").evaluate("it => { it.scrollTop = it.scrollHeight; }")
    page.click(f"#text-{last}")
    expect(page.locator(f"#text-{last}")).to_have_attribute("aria-selected", "true")


def test_pointing_at_a_token_shows_it_until_the_pointer_leaves(page):
    generate(page, max_tokens=8, temperature=0)
    select(page, 6)
    ours = chosen(page)
    page.hover("#text-3")
    expect(page.locator("#token .soft").first).to_contain_text("token 3")
    assert chosen(page) != ours
    page.mouse.move(5, 5)
    expect(page.locator("#token .soft").first).to_contain_text("token 6")
    assert chosen(page) == ours


def test_pointing_at_the_plot_shows_the_token(page):
    generate(page, max_tokens=8, temperature=0)
    over = page.locator("#along .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    expect(page.locator("#text .pointed")).to_have_count(1)
    at = page.locator("#text .pointed").get_attribute("id").removeprefix("text-")
    expect(page.locator("#token .soft").first).to_contain_text(f"token {at}")
    page.mouse.down()
    page.mouse.up()
    expect(page.locator(f"#text-{at}")).to_have_attribute("aria-selected", "true")


def test_another_token_forks_and_branches_can_be_chosen(page, server, screenshot):
    generate(page, max_tokens=6, temperature=0)
    first = talk.texts(page)
    select(page, 8)
    alternative = page.locator(".alternatives button:not(:disabled)").nth(1)
    taken = int(alternative.get_attribute("data-id"))
    talk.ends(page, alternative.click)
    forked = talk.texts(page)
    assert forked[:8] == first[:8] and forked[8] != first[8] and len(forked) == 8 + 6
    # The same numbers as in a fork by hand.
    answer = ask(server, prompt=PROMPT, max_tokens=6, temperature=0)
    again = ask(server, fork={"id": answer["id"], "position": 2, "token": taken}, max_tokens=6, temperature=0, logprobs=40, logprobs_detail=True)
    returned = again["choices"][0]["logprobs"]
    assert forked[8:] == returned["tokens"]
    select(page, 10)
    assert chosen(page)["logprob"] == f"{returned['token_logprobs'][2]:.3f} nats"
    # A fork of the fork, and one in the prompt.
    talk.ends(page, page.locator(".alternatives button:not(:disabled)").first.click)
    assert talk.texts(page)[:10] == forked[:10]
    select(page, 3)
    talk.ends(page, page.locator(".alternatives button:not(:disabled)").first.click)
    assert talk.texts(page)[:3] == first[:3]
    branches = page.locator("#tree button")
    expect(branches).to_have_count(4)
    screenshot("branches")
    branches.nth(0).click()
    assert talk.texts(page) == first
    expect(branches.nth(0)).to_have_attribute("aria-current", "true")


def test_a_fork_of_an_answer_that_the_server_has_forgotten_continues_by_ids(page, browser, request):
    binary = request.config.getoption("candor")
    with rig.server(binary, "--set", "limits.fork_answers=1") as server:
        generate(page, server, max_tokens=4, temperature=0)
        first = talk.texts(page)
        ask(server, prompt="Another", max_tokens=1)
        select(page, 7)
        alternative = page.locator(".alternatives button:not(:disabled)").first
        name = alternative.text_content()
        talk.ends(page, alternative.click)
        assert talk.texts(page)[:7] == first[:7] and len(talk.texts(page)) == 7 + 4
        assert talk.texts(page)[7].replace(" ", "␣").replace("\n", "↵") == name
    # The browser logs the 404 that the page handled.
    request.getfixturevalue("troubles").clear()


TINY = pathlib.Path(__file__).resolve().parent.parent / "models" / "llama2-vocab-tiny.gguf"


def test_a_model_that_puts_a_bos_before_each_text(page, request, troubles):
    """The answer does not list the BOS; positions and ids are right all the same."""
    with rig.running(request.config.getoption("candor"), "--model", str(TINY)) as (_, server):
        generate(page, server, prompt="Hello world", max_tokens=4, temperature=0)
        answer = ask(server, prompt="Hello world", max_tokens=4, temperature=0, echo=True, logprobs=1, return_token_ids=True)["choices"][0]
        tokens = answer["logprobs"]["tokens"]
        assert len(answer["prompt_token_ids"]) == len(tokens) - 4 + 1
        assert page.locator("#text .token").count() == len(tokens)
        # Stages that need the server, at the first generated token and at one of the prompt.
        talk.fill(page, temperature=0.8, top_k=0, top_p=1, min_p=0)
        for at in (len(tokens) - 4, len(tokens) - 2, len(tokens) - 5):
            select(page, at)
            expect(page.locator("#stages")).to_have_attribute("data-source", "server")
            ids = [*answer["prompt_token_ids"], *answer["token_ids"]][: at + 1]
            trace = ask(server, prompt=ids, max_tokens=1, seed=1, trace=8, temperature=0.8, top_k=0, top_p=1, min_p=0)["choices"][0]["trace"][0]
            row = page.locator("#stages [data-stage=temperature] tr").first
            assert float(row.get_attribute("data-before")) == pytest.approx(trace["stages"][0]["tokens"][0]["before"], rel=1e-3)
            assert int(row.get_attribute("data-id")) == trace["stages"][0]["tokens"][0]["id"]
        # Forks at the first generated token, and in the prompt.
        talk.fill(page, temperature=0)
        for at in (len(tokens) - 4, len(tokens) - 5):
            page.locator("#tree button, #generate").first.focus()
            select(page, at)
            alternative = page.locator(".alternatives button:not(:disabled)").first
            taken = int(alternative.get_attribute("data-id"))
            talk.ends(page, alternative.click)
            ids = [*answer["prompt_token_ids"], *answer["token_ids"]][: at + 1]
            most = 4 - 1
            expected = ask(server, prompt=[*ids, taken], max_tokens=most, temperature=0, logprobs=0)["choices"][0]["logprobs"]["tokens"]
            assert talk.texts(page)[at + 1 :] == expected
            page.locator("#tree button").first.click()


def test_an_empty_prompt(page, server):
    generate(page, prompt="", max_tokens=3, temperature=0)
    select(page, 0)
    expect(page.locator("#at-token")).to_be_visible()
    talk.ends(page, page.locator(".alternatives button:not(:disabled)").first.click)
    expect(page.locator("#tree button")).to_have_count(2)


def test_the_token_that_ends_a_text(page, server):
    """A fork's answer does not contain it, so the page finds it another way."""
    generate(page, max_tokens=40, temperature=0)
    end = page.locator("#text .token").count() - 1
    assert talk.texts(page)[end] == "<|im_end|>"
    select(page, end)
    identifier = chosen(page)["id"]
    talk.fill(page, repeat_penalty=1.01)
    expect(page.locator("#stages")).to_have_attribute("data-source", "server")
    expect(page.locator("#stages")).to_contain_text("would end the text here")
    page.click("#seeds")
    row = page.locator(".histogram tr").first
    expect(row).to_have_attribute("data-count", "50")
    expect(row).to_contain_text("<|im_end|>")
    # It is shown when it is chosen by hand, too.
    talk.ends(page, page.locator(".alternatives button:not(:disabled)").first.click)
    select(page, end)
    page.get_by_role("button", name="Show all 40").click()
    talk.ends(page, page.locator(f".alternatives [data-id='{identifier}']").click)
    assert talk.texts(page)[end:] == ["<|im_end|>"]


def test_a_server_that_returns_few_alternatives(page, request):
    with rig.running(request.config.getoption("candor"), "--set", "limits.logprobs=3") as (_, server):
        generate(page, server, max_tokens=2, temperature=0)
        select(page, 6)
        assert page.locator(".alternatives tbody tr").count() == 3


SETTINGS = [
    # Settings whose stages can be computed from the most likely tokens.
    ("page", {}),
    ("page", {"temperature": 0}),
    ("page", {"temperature": 0, "xtc_probability": 0.5, "xtc_threshold": 0.6}),
    ("page", {"temperature": 0.05}),
    ("page", {"temperature": 2, "top_k": 2, "top_p": 1, "min_p": 0}),
    ("page", {"top_p": 0.01}),
    ("page", {"top_k": 30, "top_p": 0.5, "min_p": 0.1, "temperature": 1.3}),
    ("page", {"top_k": 20, "typical_p": 0.4}),
    ("page", {"top_k": 0, "top_p": 0.3, "temperature": 0.5}),
    # Settings that need the server.
    ("server", {"top_k": 0, "top_p": 1, "min_p": 0}),
    ("server", {"top_k": 100}),
    ("server", {"top_n_sigma": 1}),
    ("server", {"repeat_penalty": 1.5}),
    ("server", {"mirostat_mode": 2}),
    ("server", {"dynatemp_range": 0.5}),
]


@pytest.mark.parametrize("source, settings", SETTINGS, ids=lambda it: json.dumps(it) if isinstance(it, dict) else it)
def test_stages_are_those_of_the_servers_trace(page, server, source, settings):
    generate(page, max_tokens=6, temperature=0.9)
    select(page, 8)
    talk.fill(page, **({"temperature": 0.8} | settings))
    expect(page.locator("#stages")).to_have_attribute("data-source", source)
    ids = ask(server, prompt=PROMPT, max_tokens=6, temperature=0.9, seed=1, return_token_ids=True)
    answer = ask(server, fork={"id": ids["id"], "position": 2}, max_tokens=1, seed=1, trace=8, **settings)
    returned = answer["choices"][0]["trace"][0]["stages"]
    shown = page.locator("#stages .stage").evaluate_all(
        """all => all.map(it => ({
            stage: it.dataset.stage, candidates_in: Number(it.dataset.in), candidates_out: Number(it.dataset.out), cut_mass: Number(it.dataset.cut),
            tokens: [...it.querySelectorAll("tr")].map(row => [row.dataset.id, row.dataset.before, row.dataset.after].map(Number)),
        }))"""
    )
    assert [it["stage"] for it in shown] == [it["stage"] for it in returned]
    for ours, theirs in zip(shown, returned):
        for name in ("candidates_in", "candidates_out"):
            assert ours[name] == theirs[name], (ours, theirs)
        assert ours["cut_mass"] == pytest.approx(theirs["cut_mass"], abs=2e-6)
        expected = {it["id"]: (it["before"], it["after"]) for it in theirs["tokens"]}
        assert any(identifier in expected for identifier, _, _ in ours["tokens"])
        for identifier, before, after in ours["tokens"]:
            if identifier in expected:
                assert (before, after) == pytest.approx(expected[identifier], abs=2e-6)


def test_the_slider_and_the_number_are_one(page):
    generate(page, max_tokens=2)
    select(page, 6)
    slider = page.get_by_role("slider", name="top_k")
    slider.fill("2")
    expect(page.locator("#set-top_k")).to_have_value("2")
    expect(page.locator("#stages [data-stage=top_k]")).to_have_attribute("data-out", "2")
    page.fill("#set-top_k", "1")
    expect(slider).to_have_value("1")
    expect(page.locator("#stages [data-stage=top_k]")).to_have_attribute("data-out", "1")
    page.locator("#settings").get_by_text("Reset to server defaults").click()
    expect(page.locator("#set-top_k")).to_have_value("40")


def test_fifty_seeds_beside_the_distribution(page, server, screenshot):
    generate(page, max_tokens=2, temperature=0)
    talk.fill(page, temperature=1, top_k=5)
    select(page, 6)
    page.click("#seeds")
    rows = page.locator(".histogram tr")
    expect(rows.first).to_be_visible()
    counts = rows.evaluate_all("all => all.map(it => [it.querySelector('th').textContent, Number(it.dataset.count)])")
    drawn = {}
    answer = ask(server, prompt=PROMPT, max_tokens=2, temperature=0)
    fork = {"id": answer["id"], "position": 0}
    for choice in ask(server, fork=fork, n=50, seed=1, max_tokens=1, temperature=1, top_k=5)["choices"]:
        drawn[choice["text"]] = drawn.get(choice["text"], 0) + 1
    assert {name: count for name, count in counts if count} == drawn
    assert sum(drawn.values()) == 50
    screenshot("seeds")


def test_model_output_is_text(page, troubles):
    nasty = '<img src=x onerror="document.title=1"><script>document.title=2</script>&amp;</textarea><b>bold</b> "\'` ${1}'
    page.on("dialog", lambda dialog: troubles.append("a dialog"))
    talk.fill(talk.open_page(page), prompt=nasty, max_tokens=4)
    generate(page)
    assert "".join(talk.texts(page)).startswith(nasty)
    for at in (3, 8, 12):
        select(page, at)
    page.click("#copy-as")
    for language in ("Python", "JavaScript", "curl"):
        page.get_by_role("button", name=language).click()
    assert page.locator("main img, main script, main b, dialog img, dialog script").count() == 0
    assert page.title() == "Candor"


def test_characters_made_of_several_tokens(page):
    generate(page, prompt="Grüße 🦙 日本", max_tokens=1, temperature=0)
    shown = "".join(text for text in page.locator("#text .token:not(.bytes)").all_text_contents())
    assert shown.startswith("Grüße 🦙 日本")
    assert page.locator("#text .token.bytes").count() > 0


def test_by_keyboard_alone(page):
    talk.open_page(page)
    press = page.keyboard.press
    talk.tab_to(page, "#prompt")
    press("Control+A")
    page.keyboard.type("The sky is")
    talk.tab_to(page, "#generate")
    talk.ends(page, lambda: press("Enter"))
    talk.tab_to(page, "#text")
    press("Home")
    press("ArrowRight")
    expect(page.locator("#text-1")).to_have_attribute("aria-selected", "true")
    press("End")
    press("ArrowLeft")
    count = page.locator("#text .token").count()
    expect(page.locator(f"#text-{count - 2}")).to_have_attribute("aria-selected", "true")
    press("Home")
    for _ in range(4):
        press("ArrowRight")
    expect(page.locator("#token .soft").first).to_contain_text("token 4")
    press("Enter")
    expect(page.locator("#inspector")).to_be_focused()
    talk.tab_to(page, ".alternatives button:not(:disabled)")
    talk.ends(page, lambda: press("Enter"))
    expect(page.locator("#tree button")).to_have_count(2)


def test_the_server_reports_a_mistake_in_the_form(page, troubles):
    talk.open_page(page)
    talk.fill(page, max_tokens=99_999_999_999)
    page.click("#generate")
    expect(page.locator("#error")).to_contain_text("max_tokens")
    troubles.clear()
    generate(page, max_tokens=1)
    expect(page.locator("#error")).to_be_hidden()


def test_a_server_that_dies(page, request, troubles, screenshot):
    binary = request.config.getoption("candor")
    with rig.running(binary) as (process, server):
        talk.open_page(page, server)
        talk.fill(page, max_tokens=1500)
        page.click("#generate")
        expect(page.locator("#text .token").nth(10)).to_be_visible()
        process.kill()
        expect(page.locator("#error")).to_contain_text("still running")
        expect(page.locator("#stop")).to_be_disabled()
        came = page.locator("#text .token").count()
        page.click("#generate")
        expect(page.locator("#error")).to_contain_text("Cannot reach the server")
        screenshot("dead")
        assert came > 10
    troubles.clear()


def test_a_server_that_requires_a_key(page, request, troubles):
    key = "a-key-of-sixteen-characters-or-more"
    binary = request.config.getoption("candor")
    with rig.server(binary, "--api-key", key) as server:
        page.goto(server)
        expect(page.locator("#unlock")).to_be_visible()
        # A missing key is not an error.
        expect(page.locator("#error")).to_be_hidden()
        page.fill("#key", "schlüssel-ключ")
        page.get_by_role("button", name="Use key").click()
        expect(page.locator("#error")).to_contain_text("ASCII")
        page.fill("#key", "wrong")
        page.get_by_role("button", name="Use key").click()
        expect(page.locator("#error")).not_to_be_empty()
        page.fill("#key", key)
        page.get_by_role("button", name="Use key").click()
        expect(page.locator("html")).to_have_attribute("data-ready", "true")
        generate(page, None, max_tokens=2)
        assert page.locator("#text .token").count() == 6 + 2
        page.click("#copy-as")
        assert key not in page.locator("#copy pre").text_content()
    troubles.clear()


def test_no_other_server_is_asked(page, server):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    generate(page, max_tokens=2)
    assert asked and all(url.startswith(server) or url.startswith("data:") for url in asked)
