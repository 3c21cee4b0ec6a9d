"""Code, links and files from the page work elsewhere."""

import csv
import io
import json
import shutil
import subprocess

import pytest
from playwright.sync_api import expect

import talk
from talk import ask, generate

TRICKY = 'It\'s "so" \\ $HOME `x`\n — Ünï'


def code(page, language):
    page.click("#copy-as")
    page.get_by_role("button", name=language, exact=True).click()
    text = page.locator("#copy pre").text_content()
    page.get_by_role("button", name="Close").click()
    return text


@pytest.fixture
def asked(page, server):
    """The form filled in, and the answer to its request."""
    talk.open_page(page)
    talk.fill(page, prompt=TRICKY, max_tokens=3, seed=7, top_k=5, temperature=0.7)
    return ask(server, prompt=TRICKY, max_tokens=3, seed=7, top_k=5, temperature=0.7, echo=True)["choices"][0]["text"]


def test_curl(page, asked):
    done = subprocess.run(["bash", "-c", code(page, "curl")], stdout=subprocess.PIPE, check=True)
    choice = json.loads(done.stdout)["choices"][0]
    assert choice["text"] == asked
    assert choice["logprobs"]["entropy"][1] > 0 and choice["trace"]


def test_python(page, asked):
    """With a stand-in for openai's client, which tests/clients tests."""
    sent = {}

    class OpenAI:
        def __init__(self, base_url, api_key):
            sent["url"] = base_url
            self.completions = self

        def create(self, extra_body, **named):
            sent.update(named, **extra_body)
            answer = ask(sent.pop("url").removesuffix("/v1"), **sent)
            return as_object(answer)

    class Object:
        def __init__(self, fields):
            self.__dict__.update(fields)

    def as_object(value):
        return Object({name: as_object(it) for name, it in value.items()}) if isinstance(value, dict) else [as_object(it) for it in value] if isinstance(value, list) else value

    written = io.StringIO()
    source = code(page, "Python").replace("from openai import OpenAI\n", "")
    exec(compile(source, "copied", "exec"), {"OpenAI": OpenAI, "print": lambda *what: print(*what, file=written)})
    assert written.getvalue().startswith(asked)
    assert sent["top_k"] == 5 and sent["trace"] and sent["logprobs_detail"] is True


def test_javascript(page, asked):
    """In the page itself, and in Node where it is installed."""
    source = code(page, "JavaScript")
    script = f"(async () => {{ let returned; const console = {{ log: (text) => {{ returned = text; }} }}; {source}; return returned; }})()"
    assert page.evaluate(script) == asked
    if node := shutil.which("node"):
        done = subprocess.run([node, "--input-type=module", "-e", source], stdout=subprocess.PIPE, check=True, text=True)
        assert done.stdout.startswith(asked)


def test_permalink(page, server):
    talk.open_page(page)
    talk.fill(page, prompt=TRICKY, max_tokens=3, seed=7, top_k=5, temperature=0.7)
    page.click("#permalink")
    link = page.url
    assert "#request=" in link
    fresh = page.context.new_page()
    fresh.goto(link)
    expect(fresh.locator("#status")).to_contain_text("Press Generate")
    for field, value in {"#prompt": TRICKY, "#max-tokens": "3", "#seed": "7", "#set-top_k": "5", "#set-temperature": "0.7", "#set-top_p": "0.95"}.items():
        expect(fresh.locator(field)).to_have_value(value)
    # A link without a valid request does no harm.
    for held in ("{", "[1]", "null", '{"prompt": 7, "top_k": "x", "model": "<b>"}'):
        other = page.context.new_page()
        other.goto(f"{server}/#request={held}")
        expect(other.locator("html")).to_have_attribute("data-ready", "true")
        generate(other, None, max_tokens=1)


def test_a_forks_request_gives_its_text(page, server):
    generate(page, max_tokens=5, temperature=0)
    talk.select(page, 8)
    talk.ends(page, page.locator(".alternatives button:not(:disabled)").first.click)
    done = subprocess.run(["bash", "-c", code(page, "curl")], stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout)["choices"][0]["text"] == "".join(talk.texts(page))


def taken(page, button):
    with page.expect_download() as download:
        page.click(button)
    return open(download.value.path(), encoding="utf-8", newline="").read()


def test_csv(page, server):
    generate(page, prompt='Say "a, b"\nor', max_tokens=3, temperature=0)
    returned = ask(server, prompt='Say "a, b"\nor', max_tokens=3, temperature=0, echo=True, logprobs=40, logprobs_detail=True)["choices"][0]["logprobs"]
    rows = list(csv.DictReader(io.StringIO(taken(page, "#export-csv"))))
    assert [row["text"] for row in rows] == returned["tokens"]
    assert [int(row["id"]) for row in rows] == returned["token_ids"]
    assert [row["logprob"] and float(row["logprob"]) for row in rows[1:]] == returned["token_logprobs"][1:]
    assert rows[0]["logprob"] == ""


def test_json(page):
    generate(page, max_tokens=3, temperature=0)
    talk.select(page, 7)
    talk.ends(page, page.locator(".alternatives button:not(:disabled)").first.click)
    tree = json.loads(taken(page, "#export-json"))
    assert "".join(token["text"] for token in tree["tokens"]).startswith(talk.PROMPT)
    assert tree["request"]["max_tokens"] == 3 and tree["answer"].startswith("cmpl-")
    (branch,) = tree["branches"]
    assert branch["at"] == 7 and len(branch["tokens"]) == 3
    assert len(branch["tokens"][0]["top"]) == 40 and branch["tokens"][1]["trace"]["stages"]
