"""The routers of vLLM and SGLang in front of Candor: they put fields of their own into each request."""

import json
import urllib.error
import urllib.request

from programs import free_port, running
from report import URL, Report, equal, post, raises

MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
PROMPT = "The capital of Michigan is "
MESSAGES = [{"role": "user", "content": "Name a city."}]
TEXT = {"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "logprobs": 2}
CHAT = {"model": MODEL, "messages": MESSAGES, "max_tokens": 32, "temperature": 0, "logprobs": True, "top_logprobs": 2}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Lansing", "Detroit"]}},
    "required": ["city"],
    "additionalProperties": False,
}


class Router:
    def __init__(self, address):
        self.address = address

    def open(self, path, body):
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        return urllib.request.urlopen(request)

    def post(self, path, **body):
        with self.open(path, body) as answer:
            return json.load(answer)

    def stream(self, path, **body):
        with self.open(path, {**body, "stream": True, "stream_options": {"include_usage": True}}) as answer:
            lines = [line.decode().removeprefix("data: ").strip() for line in answer if line.startswith(b"data: ")]
        equal(lines.pop(), "[DONE]")
        return [json.loads(line) for line in lines]


def same_choices(router, path, **body):
    """The router's answer has the bits of the server's own."""
    equal(router.post(path, **body)["choices"], post(path, **body)["choices"])


def check(report, router):
    @report.check("completions: text and logprobs have the bits of a plain request's")
    def _():
        same_choices(router, "/v1/completions", **TEXT)

    @report.check("completions: several prompts, stop, seed, echo")
    def _():
        same_choices(router, "/v1/completions", **{**TEXT, "prompt": [PROMPT, "Once upon a time"], "stop": [" the"]})
        same_choices(router, "/v1/completions", **{**TEXT, "temperature": 1, "seed": 7})
        same_choices(router, "/v1/completions", **{**TEXT, "max_tokens": 1, "echo": True})

    @report.check("completions: a stream adds up to the unstreamed answer, with usage")
    def _():
        chunks = router.stream("/v1/completions", **TEXT)
        wanted = post("/v1/completions", **TEXT)
        equal("".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"]), wanted["choices"][0]["text"])
        equal(chunks[-1]["usage"]["completion_tokens"], wanted["usage"]["completion_tokens"])

    @report.check("completions: fields that only Candor has pass through")
    def _():
        same_choices(router, "/v1/completions", **TEXT, top_k=5, min_p=0.1, logit_bias={"28": -100})
        same_choices(router, "/v1/completions", **TEXT, grammar='root ::= "Lansing" | "Detroit"')

    @report.check("chat: content and logprobs have the bits of a plain request's, in a stream too")
    def _():
        same_choices(router, "/v1/chat/completions", **CHAT)
        chunks = router.stream("/v1/chat/completions", **CHAT)
        content = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
        equal(content, post("/v1/chat/completions", **CHAT)["choices"][0]["message"]["content"])

    @report.check("chat: a forced tool call, and a schema")
    def _():
        tools = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
        choice = {"type": "function", "function": {"name": "weather"}}
        plain = {"model": MODEL, "messages": MESSAGES, "max_tokens": 32, "temperature": 0}
        answer = router.post("/v1/chat/completions", **plain, tools=tools, tool_choice=choice)
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"])["city"] in CITY["properties"]["city"]["enum"]
        schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
        same_choices(router, "/v1/chat/completions", **plain, response_format=schema)

    @report.check("embeddings: the bits of a plain request's")
    def _():
        asked = {"model": MODEL, "input": ["a cat", "a dog"]}
        equal(router.post("/v1/embeddings", **asked)["data"], post("/v1/embeddings", **asked)["data"])

    @report.check("responses: the text of a plain request")
    def _():
        asked = {"model": MODEL, "input": "Name a city.", "max_output_tokens": 32, "temperature": 0, "store": False}
        got, wanted = (ask("/v1/responses", **asked)["output"][0]["content"] for ask in (router.post, post))
        equal(got, wanted)

    @report.check("errors: status and body of the server's, the router goes on")
    def _():
        error = raises(urllib.error.HTTPError, lambda: router.post("/v1/completions", **{**TEXT, "temperature": -1}))
        equal(error.code, 400)
        equal(json.load(error)["error"]["param"], "temperature")
        same_choices(router, "/v1/completions", **TEXT)


def main():
    for package, command in ("vllm-router", ["vllm-router"]), ("sglang-router", ["sglang-router", "launch"]):
        port, metrics = free_port(), free_port()
        options = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics)]
        address = f"http://127.0.0.1:{port}"
        with running([*command, *options, "--worker-urls", URL], f"{address}/health"):
            check(Report(package, package), Router(address))


main()
