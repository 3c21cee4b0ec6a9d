"""2,000 tokens: the page's work per token does not grow with the text."""

import talk
from talk import ask, generate

# The length of a frame at 60 Hz, in milliseconds.
FRAME = 1000 / 60


class Clock:
    """The seconds of the page's own work: scripts, styles and layout. Other programs on the machine slow the page down, so
    the test compares figures of one run only."""

    def __init__(self, page):
        self.session = page.context.new_cdp_session(page)
        self.session.send("Performance.enable")

    def now(self):
        returned = {it["name"]: it["value"] for it in self.session.send("Performance.getMetrics")["metrics"]}
        return returned["ScriptDuration"] + returned["LayoutDuration"] + returned["RecalcStyleDuration"]

    def of(self, act):
        before = self.now()
        act()
        spent = self.now() - before
        assert spent > 0
        return spent


def long_prompt(server, tokens):
    words = "The quick brown fox jumps over the lazy dog, and then it rests. "
    ids = ask(server, "/tokenize", prompt=words * (tokens // 10))["tokens"][:tokens]
    return ask(server, "/detokenize", tokens=ids)["prompt"]


def test_two_thousand_tokens(page, server, record_property, capsys):
    generate(page, prompt=long_prompt(server, 60), max_tokens=100, temperature=0)
    clock = Clock(page)
    few = {name: clock.of(act) for name, act in moves(page).items()}
    short = clock.of(lambda: talk.ends(page, lambda: fork_at(page, 60))) / 100
    generate(page, prompt=long_prompt(server, 1900), max_tokens=100, temperature=0)
    assert page.locator("#text .token").count() > 1950
    many = {name: clock.of(act) for name, act in moves(page).items()}
    talk.fill(page, temperature=0, top_k=40)
    streamed = clock.of(lambda: talk.ends(page, lambda: fork_at(page, 1905)))
    came = page.locator("#text .token").count() - 1905
    each = {name: 1000 * many[name] / STEPS for name in many}
    with capsys.disabled():
        print(f"\n2,000 tokens, a step: {', '.join(f'{name} {value:.1f} ms' for name, value in each.items())}; "
              f"a streamed token {1000 * streamed / came:.1f} ms (with 160: {1000 * short:.1f} ms); a frame has {FRAME:.1f} ms")
    # Pointing, moving and setting do not depend on the number of tokens; a factor of three is noise.
    assert streamed / came < 12 * short
    for name in many:
        assert many[name] < 3 * few[name] + 0.1, (name, few[name], many[name])


STEPS = 30


def moves(page):
    def hover():
        for at in range(STEPS):
            page.hover(f"#text-{at + 1}", force=True)

    def walk():
        page.focus("#text")
        page.keyboard.press("Home")
        for _ in range(STEPS):
            page.keyboard.press("ArrowRight")

    def slide():
        for value in range(STEPS):
            page.locator("#set-top_k").fill(str(2 + value))

    return {"hover": hover, "walk": walk, "slide": slide}


def fork_at(page, at):
    page.click(f"#text-{at}", force=True)
    page.locator(".alternatives button:not(:disabled)").first.click()
