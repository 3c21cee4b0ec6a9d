"""LiteLLM's proxy in front of Candor, asked with OpenAI's client."""

import json
import pathlib
import tempfile

import openai
from programs import free_port, running
from report import BASE_URL, Report, equal, post, raises, same_vectors

report = Report("LiteLLM proxy", "litellm")
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
# The proxy does not start without a key of its own.
KEY = "sk-a-key-for-tests-only"
# Names for one server: by LiteLLM's providers for chats and for completions, and one that no error takes out of use.
CONFIG = f"""
model_list:
  - model_name: candor
    litellm_params: {{model: "openai/{MODEL}", api_base: "{BASE_URL}", api_key: none}}
  - model_name: candor-text
    litellm_params: {{model: "text-completion-openai/{MODEL}", api_base: "{BASE_URL}", api_key: none}}
  - model_name: candor-always
    litellm_params: {{model: "openai/{MODEL}", api_base: "{BASE_URL}", api_key: none, cooldown_time: 0}}
"""
PROMPT = "The capital of Michigan is "
TEXT = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "logprobs": 2}
CHAT = {"messages": [{"role": "user", "content": "Name a city."}], "max_tokens": 32, "temperature": 0}


def plain_chat():
    return post("/v1/chat/completions", **CHAT)["choices"][0]["message"]["content"]


def checks(client):
    def chat(**fields):
        return client.chat.completions.create(model="candor", **CHAT, **fields)

    @report.check("completions: text and logprobs have the bits of a plain request's, in a stream too")
    def _():
        wanted = post("/v1/completions", **TEXT)["choices"][0]
        for name in ("candor-text", "candor"):
            got = client.completions.create(model=name, **TEXT).choices[0]
            equal(got.text, wanted["text"])
            equal(got.logprobs.token_logprobs, wanted["logprobs"]["token_logprobs"])
        stream = client.completions.create(model="candor-text", **TEXT, stream=True)
        equal("".join(chunk.choices[0].text or "" for chunk in stream if chunk.choices), wanted["text"])

    @report.check("chat: content and logprobs of a plain request, in a stream with usage too")
    def _():
        wanted = post("/v1/chat/completions", **CHAT, logprobs=True, top_logprobs=2)["choices"][0]
        got = chat(logprobs=True, top_logprobs=2).choices[0]
        equal(got.message.content, wanted["message"]["content"])
        logprobs = [token["logprob"] for token in wanted["logprobs"]["content"]]
        equal([token.logprob for token in got.logprobs.content], logprobs)
        chunks = list(chat(stream=True, stream_options={"include_usage": True}))
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        equal("".join(pieces), wanted["message"]["content"])
        equal(chunks[-1].usage.completion_tokens, len(logprobs))

    @report.check("chat: a forced tool call")
    def _():
        parameters = {
            "type": "object",
            "properties": {"city": {"enum": ["Lansing", "Detroit"]}},
            "required": ["city"],
            "additionalProperties": False,
        }
        tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
        answer = chat(tools=tools, tool_choice={"type": "function", "function": {"name": "weather"}})
        (call,) = answer.choices[0].message.tool_calls
        assert json.loads(call.function.arguments)["city"] in ("Lansing", "Detroit")

    @report.check("responses: the text of a chat")
    def _():
        answer = client.responses.create(model="candor", input="Name a city.", max_output_tokens=32, temperature=0)
        equal(answer.output_text, plain_chat())

    @report.check("embeddings: the numbers of a plain request")
    def _():
        texts = ["a cat", "a dog"]
        answer = client.embeddings.create(model="candor", input=texts, encoding_format="float")
        same_vectors([item.embedding for item in answer.data], texts)

    @report.check("errors: bad fields of chats and responses are BadRequestErrors, and chats go on")
    def _():
        error = raises(openai.BadRequestError, lambda: chat(extra_body={"min_p": -1}))
        assert "min_p" in str(error), error
        asked = {"model": "candor", "input": "Name a city.", "previous_response_id": "resp_0123"}
        error = raises(openai.BadRequestError, lambda: client.responses.create(**asked))
        assert "previous_response_id" in str(error), error
        equal(chat().choices[0].message.content, plain_chat())

    @report.check("errors: with cooldown_time 0, chats go on after the 404 of a route that Candor does not have")
    def _():
        for _ in range(3):
            raises(openai.NotFoundError, lambda: client.images.generate(model="candor-always", prompt="a city"))
            answer = client.chat.completions.create(model="candor-always", **CHAT)
            equal(answer.choices[0].message.content, plain_chat())


def main():
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "config.yaml"
        config.write_text(CONFIG)
        command = ["litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        # Otherwise it fetches a list of prices from GitHub first.
        own = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with running(command, f"{address}/health/liveliness", **own):
            checks(openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0))


main()
