"""The Score tab: choices have the server's scores, and calibration follows from them."""

import csv
import json
import math
import random
import re

import pytest
from playwright.sync_api import expect

import talk
from talk import ask
from test_access import check

STEM = "The capital of Michigan is"
CHOICES = [" Lansing", " Detroit", " a big city"]
MEASURES = ["probability", "sum", "mean", "per_byte", "per_character", "corrected"]
# Milliseconds after which a test gives up.
NEVER = 600_000
NASTY = '<img src=x onerror="document.title=1"><script>document.title=2</script>&amp;'


def open_tab(page):
    talk.open_page(page)
    page.click("#tab-score")
    expect(page.locator("#score")).to_be_visible()


def score(page, stem=STEM, choices=CHOICES, neutral=""):
    page.fill("#score-stem", stem)
    page.fill("#score-choices", "\n".join(choices))
    page.fill("#score-neutral", neutral)
    page.locator("#score-status").evaluate("it => { it.textContent = 'begins'; }")
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.locator("#score-status")).to_contain_text("Best by")


def number(shown):
    """The value of a percentage or a number of nats as shown, and how far off it may be."""
    digits = re.match(r"[-\d.e+]+", shown)[0]
    unit = 100 if "%" in shown else 1
    places = len(digits.partition(".")[2]) if "e" not in digits else 0
    off = float(digits) * 0.06 if "e" in digits else 0.5000001 * 10**-places
    return float(digits) / unit, off / unit


def is_shown(shown, true):
    value, off = number(shown)
    return abs(value - true) <= off


def test_choices_have_the_numbers_of_the_api(page, server, screenshot):
    open_tab(page)
    score(page, neutral="The answer is")
    returned = ask(server, "/v1/score", stem=STEM, choices=CHOICES, neutral="The answer is")["data"][0]
    names = page.locator(".choice-name").all_text_contents()
    assert [name.replace("␣", " ") for name in names] == CHOICES
    for measure in MEASURES:
        page.check(f"#score-measure-{measure}")
        shown = page.locator(".choice-value").all_text_contents()
        for value, choice in zip(shown, returned["choices"], strict=True):
            assert is_shown(value, choice[measure]), (measure, value, choice)
        best = returned["best"]["sum" if measure == "probability" else measure]
        # In words, and not by colour alone.
        expect(page.locator("#score-status")).to_contain_text(f"Best by {measure}: “{names[best]}”, choice {best + 1} of 3")
        marked = page.locator(".choice").evaluate_all("all => all.map(it => it.textContent.includes('best'))")
        assert marked == [at == best for at in range(3)]
        widths = page.locator(".choice .bar > span").evaluate_all("all => all.map(it => parseFloat(it.style.width) / 100)")
        for width, choice in zip(widths, returned["choices"], strict=True):
            value = choice[measure]
            expected = value if measure == "probability" else math.exp(value - returned["choices"][best][measure])
            assert width == pytest.approx(expected, abs=1e-5)
    for at, choice in enumerate(returned["choices"]):
        head = page.locator(".choice-head").nth(at).text_content()
        assert ("greedy" in head) == choice["is_greedy"]
        tokens = page.locator(".choice").nth(at).locator(".reading .token")
        assert tokens.all_text_contents() == choice["tokens"]
        for nth, logprob in enumerate(choice["token_logprobs"]):
            level = [math.exp(logprob) >= least for least in (0.9, 0.5, 0.2, 0.05, 0.01, 0)].index(True)
            assert f"level-{level}" in tokens.nth(nth).get_attribute("class")
        page.locator(".choice").nth(at).locator("summary").click()
        cells = page.locator(".choice").nth(at).locator("tbody tr").evaluate_all("all => all.map(it => [...it.children].map(it => it.textContent))")
        assert [int(row[1]) for row in cells] == choice["token_ids"]
        assert all(is_shown(row[2], logprob) for row, logprob in zip(cells, choice["token_logprobs"], strict=True))
    screenshot("score")


def test_without_a_neutral_stem_nothing_is_corrected(page):
    open_tab(page)
    expect(page.locator("#score-measure-corrected")).to_be_disabled()
    score(page, neutral="The answer is")
    page.check("#score-measure-corrected")
    expect(page.locator("#score-measure-help")).to_contain_text("neutral stem")
    score(page)
    expect(page.locator("#score-measure-corrected")).to_be_disabled()
    expect(page.locator("#score-measure-probability")).to_be_checked()


def test_a_space_is_inserted_only_where_there_is_none(page):
    open_tab(page)

    def sent(stem, choices, inserts_space):
        page.set_checked("#score-space", inserts_space)
        with page.expect_request("**/v1/score") as request:
            score(page, stem, choices)
        return request.value.post_data_json["choices"]

    assert sent("It is", ["warm", " cold", "", "very hot"], True) == [" warm", " cold", " very hot"]
    assert sent("It is ", ["warm", " cold"], True) == ["warm", " cold"]
    assert sent("It is", ["warm", " cold"], False) == ["warm", " cold"]


def test_scored_texts_stay_text(page):
    open_tab(page)
    score(page, stem=NASTY, choices=[NASTY, "<b>bold</b>"])
    assert page.locator(".choice-name").first.text_content().replace("␣", " ").strip() == NASTY
    assert "".join(page.locator(".choice").first.locator(".reading .token").all_text_contents()).strip() == NASTY
    run_set(page, [{"stem": NASTY, "choices": [NASTY, "<b>"], "answer": 0}])
    assert NASTY in page.locator(".items tbody td").nth(1).text_content()
    assert page.locator("#score img, #score script, #score b").count() == 0
    assert page.title() == "Candor"


def test_an_error_is_shown_until_the_next_request(page, troubles):
    open_tab(page)
    page.fill("#score-stem", "word " * 3000)
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.locator("#error")).to_contain_text("tokens")
    expect(page.locator("#score-status")).to_have_text("No answer.")
    # The browser logs the 400.
    assert len(troubles) == 1 and "400" in troubles[0]
    troubles.clear()
    score(page)
    expect(page.locator("#error")).to_be_hidden()


def test_scoring_can_be_stopped(page):
    open_tab(page)
    held = []
    page.route("**/v1/score", lambda route: held.append(route))
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.locator("#score-status")).to_have_text("Waiting for the server…")
    page.locator("#score-form").get_by_role("button", name="Stop").click()
    expect(page.locator("#score-status")).to_have_text("Stopped.")
    expect(page.locator("#error")).to_be_hidden()
    page.unroute("**/v1/score")
    score(page)


# --- A set.


SET = [
    {"stem": "Red and", "choices": [" blue", " oxen", " a door"], "answer": 0},
    {"stem": "Two and two are", "choices": [" five", " four"], "answer": 1},
    {"stem": "One after another, they", "choices": [" came", " went"], "answer": 1},
]


def run_set(page, items):
    page.fill("#set-items", "\n".join(json.dumps(item) for item in items))
    ends(page)


def ends(page):
    page.locator("#set-status").evaluate("it => { it.textContent = 'begins'; }")
    page.get_by_role("button", name="Score the set").click()
    # On a busy machine the sample set takes as long as all other tests here together.
    expect(page.locator("#set-status")).to_contain_text("right, mean confidence", timeout=NEVER)


def calibration(scored, answers, measure):
    """Computed from the definitions: each item's choice, verdict, confidence and log-loss, and the overall figures."""
    judged = []
    for item, answer in zip(scored, answers, strict=True):
        values = [choice[measure] for choice in item["choices"]]
        shares = [math.exp(value - max(values)) for value in values]
        chosen = values.index(max(values))
        judged.append((chosen, chosen == answer, shares[chosen] / sum(shares), -math.log(shares[answer] / sum(shares))))
    error = 0.0
    for upper in range(1, 11):
        within = [it for it in judged if (upper - 1) / 10 < it[2] <= upper / 10]
        if within:
            error += len(within) / len(judged) * abs(sum(it[1] for it in within) / len(within) - sum(it[2] for it in within) / len(within))
    count = len(judged)
    return judged, {
        "Accuracy": sum(it[1] for it in judged) / count,
        "Mean confidence": sum(it[2] for it in judged) / count,
        "Log-loss": sum(it[3] for it in judged) / count,
        "ECE": error,
    }


def test_calibration_is_that_of_the_apis_scores(page, server, screenshot):
    open_tab(page)
    page.get_by_role("button", name="Load a sample set").click()
    items = [json.loads(line) for line in page.input_value("#set-items").splitlines()]
    assert len(items) >= 20
    with page.expect_request("**/v1/score") as request:
        ends(page)
    # One request, without the answers.
    sent = [{name: item[name] for name in ("stem", "choices")} for item in items]
    assert request.value.post_data_json["items"] == sent
    scored = ask(server, "/v1/score", items=sent)["data"]
    answers = [item["answer"] for item in items]
    for measure in ("sum", "mean", "per_byte"):
        page.select_option("#set-measure", measure)
        judged, expected = calibration(scored, answers, measure)
        shown = page.locator("#set-figures").evaluate("it => Object.fromEntries([...it.querySelectorAll('dt')].map(it => [it.textContent, it.nextSibling.textContent]))")
        assert shown.keys() == expected.keys()
        for name, value in expected.items():
            assert is_shown(shown[name], value), (measure, name, shown[name], value)
        rows = page.locator(".items tbody tr").evaluate_all("all => all.map(it => [...it.children].map(it => it.textContent))")
        for row, item, (chosen, is_right, confidence, _) in zip(rows, items, judged, strict=True):
            assert row[0] == ("right" if is_right else "wrong")
            assert [text.replace("␣", " ") for text in row[2:4]] == [item["choices"][item["answer"]], item["choices"][chosen]]
            assert is_shown(row[4], confidence)
        page.get_by_text("Bins in numbers").click()
        bins = page.locator("table:has(caption:text-is('Bins')) tbody tr").evaluate_all("all => all.map(it => Number(it.children[1].textContent))")
        assert bins == [sum((upper - 1) / 10 < it[2] <= upper / 10 for it in judged) for upper in range(1, 11)]
    with page.expect_download() as download:
        page.click("#set-csv")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line, item, (chosen, is_right, confidence, loss) in zip(lines, items, judged, strict=True):
        assert (line["stem"], int(line["answer"]), int(line["chosen"]), line["right"]) == (item["stem"], item["answer"], chosen, str(is_right).lower())
        assert (float(line["confidence"]), float(line["log_loss"])) == pytest.approx((confidence, loss), rel=1e-9)
    screenshot("calibration", full_page=True)


def test_the_reliability_diagram_is_drawn_and_described(page):
    open_tab(page)
    run_set(page, SET)
    expect(page.locator("#set-plot canvas")).to_be_visible()
    colours = page.locator("#set-plot canvas").evaluate(
        """it => {
            const { data } = it.getContext("2d").getImageData(0, 0, it.width, it.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
    assert colours > 10
    returned = page.locator("#set-plot").get_attribute("aria-label")
    assert sum(int(count) for count in re.findall(r"(\d+) items?", returned)) == page.locator(".items tbody tr").count()


FAULTY = {
    '{"stem": "a", "choices": ["b", "c"], "answer": 0': "is not JSON",
    "[1, 2]": "must be an object",
    '{"choices": ["b", "c"], "answer": 0}': 'needs "stem"',
    '{"stem": "a", "choices": ["b"], "answer": 0}': 'needs "choices"',
    '{"stem": "a", "choices": ["b", 1], "answer": 0}': 'needs "choices"',
    '{"stem": "a", "choices": ["b", ""], "answer": 0}': 'needs "choices"',
    '{"stem": "a", "choices": ["b", "c"], "answer": 2}': "from 0 to 1",
    '{"stem": "a", "choices": ["b", "c"], "answer": "b"}': "from 0 to 1",
    '{"stem": "a", "choices": ["b", "c"]}': "from 0 to 1",
    '{"stem": "a", "choices": ["b", "c"], "answer": 0, "neutral": 1}': '"neutral"',
}


def test_bad_lines_are_named_by_number_and_not_sent(page):
    open_tab(page)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    good = '{"stem": "a", "choices": [" b", " c"], "answer": 0}'
    for line, message in FAULTY.items():
        page.fill("#set-items", f"{good}\n\n{line}\n{good}")
        page.get_by_role("button", name="Score the set").click()
        expect(page.locator("#set-errors")).to_contain_text(message)
        assert page.locator("#set-errors").text_content().startswith("Line 3 ")
        expect(page.locator("#set-items")).to_be_focused()
    page.fill("#set-items", "\n".join(["{"] * 9))
    page.get_by_role("button", name="Score the set").click()
    expect(page.locator("#set-errors p")).to_have_count(6)
    expect(page.locator("#set-errors")).to_contain_text("Errors in 4 more lines.")
    assert not asked
    page.fill("#set-items", good)
    ends(page)
    expect(page.locator("#set-errors")).to_be_empty()


def test_items_may_have_a_neutral_stem(page, server):
    open_tab(page)
    item = {"stem": STEM, "choices": CHOICES, "answer": 0}
    run_set(page, [item])
    corrected = page.locator("#set-measure option[value=corrected]")
    expect(corrected).to_be_disabled()
    run_set(page, [{**item, "neutral": "The answer is"}])
    page.select_option("#set-measure", "corrected")
    scored = ask(server, "/v1/score", items=[{"stem": STEM, "choices": CHOICES}], neutral="The answer is")["data"]
    [(chosen, _, confidence, _)], _ = calibration(scored, [0], "corrected")
    row = page.locator(".items tbody tr").first.locator("td").all_text_contents()
    assert row[3].replace("␣", " ") == CHOICES[chosen] and is_shown(row[4], confidence)


def test_the_expected_calibration_error_by_hand(page):
    """Also at the bins' bounds: a bin includes its upper bound."""
    talk.open_page(page)
    calibrate = """async judged => (await import("/page/calibration.js")).calibrate(
        judged.map(([confidence, isRight]) => ({ chosen: 0, isRight, confidence, answerProbability: 1, logLoss: 2 })))"""
    returned = page.evaluate(calibrate, [[0.55, True], [0.6, False], [0.61, True], [1.0, True]])
    assert returned["ece"] == pytest.approx(0.5 * abs(0.5 - 0.575) + 0.25 * (1 - 0.61) + 0)
    assert (returned["accuracy"], returned["logLoss"]) == (0.75, 2)
    assert [it["count"] for it in returned["bins"]] == [0, 0, 0, 0, 0, 2, 1, 0, 0, 1]
    # It is close to 0 for a model that is right as often as it is confident.
    chance = random.Random(1)
    sure = [chance.random() for _ in range(20_000)]
    assert page.evaluate(calibrate, [[it, chance.random() < it] for it in sure])["ece"] < 0.02
    assert page.evaluate(calibrate, [[it, chance.random() < it / 2] for it in sure])["ece"] == pytest.approx(0.25, abs=0.02)


def test_by_keyboard_alone(page):
    talk.open_page(page)
    page.focus("#tab-explore")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#score")).to_be_visible()
    talk.tab_to(page, "#score-choices")
    page.keyboard.press("Control+A")
    page.keyboard.type("Lansing\nDetroit")
    talk.tab_to(page, "#score-form button.main")
    page.keyboard.press("Enter")
    expect(page.locator("#score-status")).to_contain_text("Best by probability")
    talk.tab_to(page, "#score-measure-probability")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#score-status")).to_contain_text("Best by sum")
    talk.tab_to(page, ".choice summary")
    page.keyboard.press("Enter")
    expect(page.locator(".choice").first.locator("table")).to_be_visible()


@pytest.mark.parametrize("tab", ["score", "compare"])
def test_every_control_has_a_name(page, tab):
    talk.open_page(page)
    page.click(f"#tab-{tab}")
    nameless = page.locator(f"#{tab} :is(input, select, textarea, button)").evaluate_all(
        """all => all.filter(it => !it.labels?.length && !it.textContent.trim()
            && !document.getElementById(it.getAttribute("aria-labelledby"))?.textContent).map(it => it.outerHTML)"""
    )
    assert not nameless


def test_on_a_phone_for_everyone(page, screenshot):
    page.set_viewport_size({"width": 375, "height": 800})
    open_tab(page)
    score(page, choices=["x" * 120, *CHOICES])
    run_set(page, SET)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        check(page)
    screenshot("score-phone", full_page=True)
