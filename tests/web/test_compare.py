"""The Compare tab: both sides show the server's numbers, and tokens that belong together share a row."""

import csv
import itertools
import json
import math
import pathlib
import random

import pytest
from playwright.sync_api import expect

import rig
import talk
from talk import ask
from test_access import check
from test_score import NASTY, is_shown

PROMPT = "The capital of Michigan is"
MODELS = pathlib.Path(__file__).resolve().parent.parent / "models"


def open_tab(page, server=""):
    talk.open_page(page, server)
    page.click("#tab-compare")
    expect(page.locator("#compare")).to_be_visible()


def run(page, prompt=PROMPT, max_tokens=8):
    page.fill("#compare-prompt", prompt)
    page.fill("#compare-max-tokens", str(max_tokens))
    page.locator("#compare-status").evaluate("it => { it.textContent = 'begins'; }")
    page.get_by_role("button", name="Run both").click()
    expect(page.locator("#compare-status")).to_contain_text("The")


def preset(page, name):
    page.get_by_role("button", name=name).click()
    expect(page.locator("#compare-status")).to_contain_text(name)


def asked(server, **fields):
    body = {"prompt": PROMPT, "max_tokens": 8, "seed": 1, "echo": True, "logprobs": 40, "logprobs_detail": True}
    return ask(server, **{**body, **fields})["choices"][0]["logprobs"]


def rows(page):
    """A, its probability, B, its probability, the difference, the verdict."""
    return page.locator("#compare-table tbody tr").evaluate_all("all => all.map(it => [...it.children].map(it => it.textContent))")


def visible(text):
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")


def sums(page):
    cells = page.locator("#compare-sums tbody tr").evaluate_all("all => all.map(it => [...it.children].map(it => it.textContent))")
    return {name: (a, b) for name, a, b in cells}


def test_two_sides_that_are_the_same(page):
    """In exact mode, to the last bit."""
    open_tab(page)
    run(page)
    expect(page.locator("#compare-status")).to_have_text("The texts are the same, and so is every probability.")
    assert {row[5] for row in rows(page)} == {"= same"}
    page.select_option("#compare-rows", "different")
    expect(page.locator("#compare-table")).to_have_text("No rows to show.")


def test_each_side_has_the_numbers_of_the_api(page, server, screenshot):
    open_tab(page)
    preset(page, "temperature 0 vs 1")
    run(page)
    returned = [asked(server, temperature=0), asked(server, temperature=1)]
    shown = rows(page)
    for side, one in enumerate(returned):
        name = "ab"[side]
        assert page.locator(f"#compare-{name}-text .token").count() == len(one["tokens"])
        # Every token is in some row, in order, with its probability.
        cells = [(row[2 * side], row[2 * side + 1]) for row in shown if row[2 * side] != "–"]
        assert [text for text, _ in cells] == [visible(text) for text in one["tokens"]]
        for (_, chance), logprob in zip(cells, one["token_logprobs"], strict=True):
            assert chance == "–" if logprob is None else is_shown(chance, math.exp(logprob))
        made = one["token_logprobs"][-8:]
        assert sums(page)["completion: tokens"][side] == "8"
        assert is_shown(sums(page)["completion: sum of logprobs"][side], sum(made))
        assert is_shown(sums(page)["completion: mean per token"][side], sum(made) / 8)
        assert is_shown(sums(page)["completion: mean per byte"][side], sum(made) / sum(map(len, one["bytes"][-8:])))
        assert is_shown(sums(page)["prompt: sum of logprobs, from the second token"][side], sum(one["token_logprobs"][1:-8]))
    same = [a == b for a, b in zip(returned[0]["token_ids"], returned[1]["token_ids"])]
    assert not all(same), "every drawn token is the most likely: use another prompt"
    divergence = same.index(False)
    assert [at for at, row in enumerate(shown) if "first difference" in row[5]] == [divergence]
    assert all(row[5] == "= same" for row in shown[:divergence])
    ours = returned[0]
    there = {it["id"]: it["logprob"] for it in ours["top"][divergence]}.get(returned[1]["token_ids"][divergence])
    status = page.locator("#compare-status").text_content()
    assert f"The texts diverge at token {divergence - len(same) + 8 + 1} of A's completion" in status
    assert f"A continues with “{visible(ours['tokens'][divergence])}”" in status
    odds = status.split("on side A ")[1]
    assert odds.startswith("less than") if there is None else is_shown(odds, math.exp(there))
    screenshot("compare", full_page=True)


def test_the_difference_is_that_of_the_probabilities(page):
    """For the same tokens after different texts."""
    open_tab(page)
    preset(page, "temperature 0 vs 1")
    run(page, max_tokens=24)
    page.select_option("#compare-rows", "different")
    moved = [row for row in rows(page) if row[5] == "~ probability"]
    assert moved
    for a, chance_a, b, chance_b, difference, _ in moved:
        assert a == b
        points = float(difference.replace("−", "-"))
        ends = [float(it.rstrip(" %")) * (1 if "%" in it else 100) for it in (chance_a, chance_b)]
        assert points == pytest.approx(ends[1] - ends[0], abs=0.11)
    assert all(row[4] == "–" for row in rows(page) if row[5][0] in "≠←→")


def test_presets_send_what_they_say(page):
    open_tab(page)
    bodies = {}

    def note(request):
        if request.url.endswith("/v1/completions"):
            body = request.post_data_json
            bodies[body[different]] = body

    page.on("request", note)
    different = "top_k"
    preset(page, "top_k 2 vs all")
    run(page, max_tokens=1)
    assert set(bodies) == {2, 0}
    cut = {"temperature", "top_p", "min_p", "top_k", "seed", "max_tokens"}
    a, b = ({name: value for name, value in bodies[top_k].items() if name in cut} for top_k in (2, 0))
    # All settings are sent, since another model or server may have other defaults.
    assert a == {"temperature": 0.8, "top_k": 2, "top_p": 1, "min_p": 0, "seed": 1, "max_tokens": 1}
    assert b == {**a, "top_k": 0}
    bodies.clear()
    different = "seed"
    preset(page, "seed 1 vs 2")
    run(page, max_tokens=1)
    assert set(bodies) == {1, 2}
    assert bodies[1] == {**bodies[2], "seed": 1}
    assert bodies[1]["top_k"] == 40


def test_rows_and_file(page):
    open_tab(page)
    preset(page, "temperature 0 vs 1")
    run(page)
    everything = rows(page)
    page.select_option("#compare-rows", "generated")
    made = rows(page)
    prompt = page.locator("#compare-a-text .token.prompt").count()
    assert made == everything[prompt:]
    page.select_option("#compare-rows", "different")
    assert rows(page) == [row for row in everything if row[5] != "= same"]
    with page.expect_download() as download:
        page.click("#compare-csv")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(everything)
    for line, row in zip(lines, everything):
        assert row[0] == (visible(line["a_tokens"]) or "–")
        assert row[1] == "–" if line["a_logprob"] == "" else is_shown(row[1], math.exp(float(line["a_logprob"])))


def test_from_a_token_to_its_row_by_keyboard(page):
    open_tab(page)
    preset(page, "temperature 0 vs 1")
    talk.tab_to(page, "#compare-form button.main")
    page.keyboard.press("Enter")
    expect(page.locator("#compare-sums")).to_be_visible()
    page.select_option("#compare-rows", "different")
    page.focus("#compare-b-text")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#compare-details")).to_contain_text("A: “␣capital”")
    # The same token on the other side is highlighted.
    expect(page.locator("#compare-a-text .pointed")).to_have_text(" capital")
    # Enter goes to the row, and shows it if it was filtered out.
    page.keyboard.press("Enter")
    expect(page.locator("#compare-table tr:focus")).to_contain_text("␣capital")
    expect(page.locator("#compare-rows")).to_have_value("all")


def test_model_output_is_text(page):
    open_tab(page)
    run(page, prompt=NASTY, max_tokens=2)
    assert "".join(page.locator("#compare-a-text .token").all_text_contents()).startswith(NASTY)
    assert page.locator("#compare img, #compare script, #compare b").count() == 0
    assert page.title() == "Candor"


def test_an_error_names_its_side(page, troubles):
    open_tab(page)
    page.fill("#compare-b-seed", "99999999999999999999")
    page.locator("#compare-b-seed").evaluate("it => it.removeAttribute('max')")
    page.get_by_role("button", name="Run both").click()
    expect(page.locator("#error")).to_contain_text("Side B: ")
    expect(page.locator("#compare-status")).to_have_text("No answer.")
    assert len(troubles) == 1 and "400" in troubles[0]
    troubles.clear()
    page.fill("#compare-b-seed", "1")
    run(page, max_tokens=1)
    expect(page.locator("#error")).to_be_hidden()


def test_a_run_can_be_stopped(page):
    open_tab(page)
    page.route("**/v1/completions", lambda route: None)
    page.get_by_role("button", name="Run both").click()
    page.locator("#compare-form").get_by_role("button", name="Stop").click()
    expect(page.locator("#compare-status")).to_have_text("Stopped.")
    expect(page.locator("#error")).to_be_hidden()
    page.unroute("**/v1/completions")
    run(page, max_tokens=1)


def test_two_models_with_other_tokens(page, request, tmp_path, screenshot):
    config = tmp_path / "two.toml"
    config.write_text(
        '[[models]]\nsource = "default"\nname = "small"\n'
        f'[[models]]\nsource = {json.dumps(str(MODELS / "llama2-vocab-tiny.gguf"))}\nname = "tiny"\n'
    )
    text = "Grüße aus Köln, 日本 🦙 uncharacteristically"
    with rig.server(request.config.getoption("candor"), "--config", str(config)) as server:
        open_tab(page, server)
        assert page.locator("#compare-b-model").input_value() == "tiny"
        run(page, prompt=text, max_tokens=4)
        returned = [asked(server, model=model, prompt=text, max_tokens=4) for model in ("small", "tiny")]
    shown = rows(page)
    whole = [sum(map(len, one["bytes"][:-4])) for one in returned]
    assert whole[1] == whole[0] + 1, "the other model's tokenizer puts a space before the text"
    kinds = [row[5] for row in shown]
    divergence = next(at for at, kind in enumerate(kinds) if "first difference" in kind)
    # The prompt is the same text, however it is split: none of its rows differs.
    assert {kind[0] for kind in kinds[:divergence]} <= set("=~/")
    assert "/ other tokens" in kinds[:divergence]
    for side, one in enumerate(returned):
        taken = list(itertools.chain.from_iterable(row[2 * side].split(" | ") for row in shown if row[2 * side] != "–"))
        assert len(taken) == len(one["tokens"])
        logprobs = iter(one["token_logprobs"])
        for row in shown:
            if row[2 * side] == "–":
                continue
            of_row = [next(logprobs) for _ in row[2 * side].split(" | ")]
            assert row[2 * side + 1] == "–" if None in of_row else is_shown(row[2 * side + 1], math.exp(sum(of_row)))
    screenshot("two-models", full_page=True)


def test_on_a_phone_for_everyone(page, screenshot):
    page.set_viewport_size({"width": 375, "height": 800})
    open_tab(page)
    preset(page, "temperature 0 vs 1")
    run(page, prompt=f"{'x' * 200} {PROMPT}")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        check(page)
    table = page.locator("#compare-table")
    assert table.evaluate("it => it.scrollWidth <= it.clientWidth")
    # The probabilities, which have columns of their own on wide screens, are below the tokens.
    below = table.locator("tbody tr").nth(3).locator("td").first.evaluate("it => getComputedStyle(it, '::after').content")
    assert below.strip('"') == table.locator("tbody tr").nth(3).locator("td").nth(1).text_content()
    screenshot("compare-phone", full_page=True)


# --- How tokens are aligned.


def align(page, *pairs):
    """For each pair of token lists: its rows as (kind, tokens of A, tokens of B), and where they diverge."""
    returned = page.evaluate(
        """async pairs => {
            const { align } = await import("/page/align.js");
            const encoder = new TextEncoder();
            const pieces = texts => texts.map(text => ({ bytes: [...encoder.encode(text)] }));
            return pairs.map(([a, b]) => align(pieces(a), pieces(b)));
        }""",
        pairs,
    )
    return [([(row["kind"], a[slice(*row["a"])], b[slice(*row["b"])]) for row in one["rows"]], one["divergence"]) for (a, b), one in zip(pairs, returned)]


def test_the_same_text_in_other_tokens(page):
    talk.open_page(page)
    assert align(page, (["The", " cap", "ital", " of"], ["The", " capital", " ", "of"])) == [
        ([("same", ["The"], ["The"]), ("recut", [" cap", "ital"], [" capital"]), ("recut", [" of"], [" ", "of"])], -1)
    ]
    # Boundaries that never meet but at the end.
    assert align(page, (["ab", "cd", "e"], ["a", "bc", "de"])) == [([("recut", ["ab", "cd", "e"], ["a", "bc", "de"])], -1)]


def test_texts_that_diverge(page):
    talk.open_page(page)
    returned = align(
        page,
        (["a", "b", "c", "x", "d"], ["a", "c", "y", "z", "d"]),
        # They diverge in the middle of tokens that are split differently.
        (["he", "llo", "!"], ["hell", "o?", "!"]),
        # One is the beginning of the other.
        (["a", "b"], ["a"]),
        ([], ["a"]),
        ([], []),
    )
    assert returned == [
        ([("same", ["a"], ["a"]), ("only-a", ["b"], []), ("same", ["c"], ["c"]), ("differs", ["x"], ["y"]), ("only-b", [], ["z"]), ("same", ["d"], ["d"])], 1),
        ([("differs", ["he"], ["hell"]), ("differs", ["llo"], ["o?"]), ("same", ["!"], ["!"])], 0),
        ([("same", ["a"], ["a"]), ("only-a", ["b"], [])], 1),
        ([("only-b", [], ["a"])], 0),
        ([], -1),
    ]


def longest(a, b):
    """The length of the longest common subsequence."""
    before = [0] * (len(b) + 1)
    for one in a:
        now = [0]
        for at, other in enumerate(b):
            now.append(before[at] + 1 if one == other else max(before[at + 1], now[at]))
        before = now
    return before[-1]


def test_every_token_is_aligned_once_and_no_row_is_larger_than_it_must_be(page):
    talk.open_page(page)
    chance = random.Random(1)

    def cut(text):
        places = sorted(chance.sample(range(1, len(text)), chance.randrange(len(text)))) if len(text) > 1 else []
        return [text[i:j] for i, j in zip([0, *places], [*places, len(text)]) if i < j]

    def text(most):
        return "".join(chance.choice("abé🦙") for _ in range(chance.randrange(most)))

    pairs = []
    for _ in range(400):
        shared = text(12)
        tails = [text(6), text(6)] if chance.random() < 0.7 else ["", ""]
        pairs.append(tuple(cut(shared + tail) for tail in tails))
    for (a, b), (rows, divergence) in zip(pairs, align(page, *pairs), strict=True):
        assert [it for row in rows for it in row[1]] == a
        assert [it for row in rows for it in row[2]] == b
        assert (divergence == -1) == ("".join(a) == "".join(b))
        together = rows if divergence < 0 else rows[:divergence]
        for kind, of_a, of_b in together:
            assert "".join(of_a) == "".join(of_b)
            assert kind == ("same" if len(of_a) == len(of_b) == 1 else "recut")
            ends = [set(itertools.accumulate(len(it.encode()) for it in side)) for side in (of_a, of_b)]
            assert len(ends[0] & ends[1]) == 1
        apart = rows[len(together) :]
        for kind, of_a, of_b in apart:
            assert len(of_a) <= 1 and len(of_b) <= 1
            assert (kind == "same") == (of_a == of_b)
        rest = [list(itertools.chain.from_iterable(row[side] for row in apart)) for side in (1, 2)]
        assert sum(kind == "same" for kind, _, _ in apart) == longest(*rest)
