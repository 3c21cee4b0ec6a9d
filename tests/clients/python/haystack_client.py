"""Haystack's components for OpenAI's chats, responses and embeddings."""

import pydantic
from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from report import BASE_URL, Report, equal, post, same_vectors

report = Report("Haystack", "haystack-ai")
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
SERVER = {
    "api_key": Secret.from_token("none"), "api_base_url": BASE_URL, "model": MODEL, "max_retries": 0,
    # By default 30 s, which a busy machine may take.
    "timeout": 3600,
}
MESSAGES = [{"role": "user", "content": "Name a city."}]
QUESTION = [ChatMessage.from_user("Name a city.")]


class City(pydantic.BaseModel):
    name: str


def chat(messages=QUESTION, streaming=None, tools=None, **fields):
    asked = {"max_tokens": 32, "temperature": 0, **fields}
    generator = OpenAIChatGenerator(**SERVER, streaming_callback=streaming, tools=tools, generation_kwargs=asked)
    return generator.run(messages)["replies"][0]


def plain():
    return post("/v1/chat/completions", messages=MESSAGES, max_tokens=32, temperature=0, logprobs=True)["choices"][0]


@report.check("OpenAIChatGenerator: content, logprobs, usage and finish reason of a plain request")
def _():
    reply, wanted = chat(logprobs=True, top_logprobs=2), plain()
    equal(reply.text, wanted["message"]["content"])
    equal(reply.meta["finish_reason"], wanted["finish_reason"])
    logprobs = reply.meta["logprobs"]["content"]
    equal([token["logprob"] for token in logprobs], [token["logprob"] for token in wanted["logprobs"]["content"]])
    equal(reply.meta["usage"]["completion_tokens"], len(logprobs))


@report.check("OpenAIChatGenerator: a stream adds up to the same")
def _():
    pieces = []
    reply = chat(streaming=lambda chunk: pieces.append(chunk.content))
    equal(reply.text, plain()["message"]["content"])
    equal("".join(pieces), reply.text)
    assert len(pieces) > 2


@report.check("OpenAIChatGenerator: a required tool call, and its result goes back")
def _():
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Lansing", "Detroit"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    weather = Tool("weather", "The weather in a city.", parameters, lambda city: "sunny")
    reply = chat(tools=[weather], tool_choice="required")
    call = reply.tool_calls[0]
    assert call.arguments["city"] in ("Lansing", "Detroit")
    result = ChatMessage.from_tool(weather.invoke(**call.arguments), origin=call)
    assert chat([*QUESTION, reply, result], tools=[weather], tool_choice="none").text


@report.check("OpenAIChatGenerator: a Pydantic model as response_format")
def _():
    City.model_validate_json(chat(response_format=City, max_tokens=200).text)


@report.check("a pipeline with a prompt's template")
def _():
    pipeline = Pipeline()
    template = [ChatMessage.from_user("Name a {{ what }}.")]
    pipeline.add_component("prompt", ChatPromptBuilder(template, required_variables="*"))
    greedy = {"max_tokens": 32, "temperature": 0}
    pipeline.add_component("model", OpenAIChatGenerator(**SERVER, generation_kwargs=greedy))
    pipeline.connect("prompt.prompt", "model.messages")
    reply = pipeline.run({"prompt": {"what": "city"}})["model"]["replies"][0]
    equal(reply.text, plain()["message"]["content"])


@report.check("OpenAIResponsesChatGenerator: the text of a chat, in a stream too")
def _():
    greedy = {"max_output_tokens": 32, "temperature": 0}
    wanted = plain()["message"]["content"]
    equal(OpenAIResponsesChatGenerator(**SERVER, generation_kwargs=greedy).run(QUESTION)["replies"][0].text, wanted)
    pieces = []
    generator = OpenAIResponsesChatGenerator(
        **SERVER, generation_kwargs=greedy, streaming_callback=lambda chunk: pieces.append(chunk.content)
    )
    equal(generator.run(QUESTION)["replies"][0].text, wanted)
    equal("".join(pieces), wanted)


@report.check("OpenAITextEmbedder, OpenAIDocumentEmbedder")
def _():
    same_vectors([OpenAITextEmbedder(**SERVER).run("a cat")["embedding"]], ["a cat"])
    documents = [Document(content="a cat"), Document(content="a dog")]
    found = OpenAIDocumentEmbedder(**SERVER, progress_bar=False).run(documents)["documents"]
    same_vectors([document.embedding for document in found], ["a cat", "a dog"])
