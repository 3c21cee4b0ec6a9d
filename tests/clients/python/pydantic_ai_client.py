"""Pydantic AI, with its default for OpenAI's models: the Responses API."""

import asyncio
import typing

import pydantic
import pydantic_ai
from pydantic_ai.capabilities import PrepareOutputTools, PrepareTools
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider
from report import BASE_URL, Report, equal, post, raises

report = Report("Pydantic AI", "pydantic-ai-slim", "openai")
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
model = OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key="none"))
QUESTION = "Name a city."
INSTRUCTIONS = "Be brief."


def agent(limit=24, **fields):
    settings = OpenAIResponsesModelSettings(temperature=0, max_tokens=limit, **fields.pop("settings", {}))
    return pydantic_ai.Agent(model, instructions=INSTRUCTIONS, model_settings=settings, retries=0, **fields)


def plain(**fields):
    return post("/v1/responses", **{"instructions": INSTRUCTIONS, "input": QUESTION, "temperature": 0, **fields})


def text(response):
    return "".join(part["text"] for item in response["output"] for part in item.get("content", []))


@report.check("Agent.run_sync: the text and the usage of a plain request")
def _():
    result = agent().run_sync(QUESTION)
    wanted = plain(max_output_tokens=24)
    equal(result.output, text(wanted))
    equal(result.usage.output_tokens, wanted["usage"]["output_tokens"])
    equal(result.usage.input_tokens, wanted["usage"]["input_tokens"])


@report.check("Agent.run_stream: the pieces add up to the same, with usage")
def _():
    async def pieces():
        async with agent().run_stream(QUESTION) as stream:
            return [piece async for piece in stream.stream_text(delta=True)], stream.usage

    got, usage = asyncio.run(pieces())
    wanted = plain(max_output_tokens=24)
    equal("".join(got), text(wanted))
    equal(usage.output_tokens, wanted["usage"]["output_tokens"])


@report.check("openai_logprobs: the log-probabilities of a plain request")
def _():
    settings = {"openai_logprobs": True, "openai_top_logprobs": 2}
    (part,) = agent(8, settings=settings).run_sync(QUESTION).response.parts
    wanted = plain(max_output_tokens=8, top_logprobs=2)["output"][0]["content"][0]["logprobs"]
    got = part.provider_details["logprobs"]
    equal([entry["logprob"] for entry in got], [entry["logprob"] for entry in wanted])
    equal(len(got[0]["top_logprobs"]), 2)


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    inhabitants: int = pydantic.Field(ge=0, le=99999999)


def structured(what, output):
    @report.check(f"output_type: an object by {what}, in a stream too")
    def _():
        asked = agent(200, output_type=output)
        result = asked.run_sync(QUESTION)
        assert isinstance(result.output, City), result.output

        async def last():
            async with asked.run_stream(QUESTION) as stream:
                return await stream.get_output()

        equal(asyncio.run(last()), result.output)


structured("a forced call, the default", City)
structured("a format (NativeOutput)", pydantic_ai.NativeOutput(City))


@report.check("tools: a call is executed, and its result goes back")
def _():
    calls = []

    async def first(context, tools):
        return tools if context.run_step == 1 else []

    async def later(context, tools):
        return tools if context.run_step > 1 else []

    # In its first step the model must call the tool, and in its second give the output: small ones would go on calling.
    steps = [PrepareTools(first), PrepareOutputTools(later)]
    settings = {"parallel_tool_calls": False}
    asked = agent(64, output_type=City, capabilities=steps, settings=settings)

    @asked.tool_plain
    def weather(city: typing.Literal["Lansing", "Detroit"]) -> str:
        """The weather in a city."""
        calls.append(city)
        return "sunny"

    result = asked.run_sync("Where is it sunny?")
    assert isinstance(result.output, City), result
    equal(len(calls), 1)
    kinds = [part.part_kind for message in result.all_messages() for part in message.parts]
    equal(kinds[:3], ["user-prompt", "tool-call", "tool-return"])


@report.check("message_history: a second turn sends the answer back")
def _():
    first = agent().run_sync(QUESTION)
    second = agent().run_sync("And another.", message_history=first.all_messages())
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output},
        {"role": "user", "content": "And another."},
    ]
    equal(second.output, text(plain(input=messages, max_output_tokens=24)))


@report.check("errors: a prompt that is too long is a ModelHTTPError with the server's body")
def _():
    error = raises(ModelHTTPError, lambda: agent().run_sync("word " * 5000))
    equal((error.status_code, error.body["code"]), (400, "context_length_exceeded"))
