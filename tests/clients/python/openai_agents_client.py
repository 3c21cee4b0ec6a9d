"""OpenAI's Agents SDK, with its default: the Responses API."""

import asyncio
import typing

import agents
import openai
import pydantic
from report import BASE_URL, Report, equal, post, raises

report = Report("OpenAI Agents SDK (Python)", "openai-agents", "openai")
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
client = openai.AsyncOpenAI(base_url=BASE_URL, api_key="none", max_retries=0)
agents.set_default_openai_client(client, use_for_tracing=False)
agents.set_tracing_disabled(True)
# The client's connections belong to a loop.
loop = asyncio.new_event_loop()
QUESTION = "Name a city."
INSTRUCTIONS = "Be brief."


# The SDK takes an answer that `max_tokens` cut for an error, so there is room for all of it.
def agent(limit=100, settings=None, **fields):
    greedy = agents.ModelSettings(temperature=0, max_tokens=limit, **(settings or {}))
    return agents.Agent(**{"name": "guide", "instructions": INSTRUCTIONS, "model": MODEL, "model_settings": greedy, **fields})


def run(agent, given=QUESTION, **options):
    return loop.run_until_complete(agents.Runner.run(agent, given, **options))


def streamed(agent, given=QUESTION, **options):
    """The result, and the events of the model."""

    async def collect():
        result = agents.Runner.run_streamed(agent, given, **options)
        events = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
        return result, events

    return loop.run_until_complete(collect())


def plain(**fields):
    return post("/v1/responses", **{"instructions": INSTRUCTIONS, "input": QUESTION, "temperature": 0, **fields})


def text(response):
    return "".join(part["text"] for item in response["output"] for part in item.get("content", []))


@report.check("Runner.run: the text and the usage of a plain request")
def _():
    result = run(agent())
    wanted = plain(max_output_tokens=100)
    equal(result.final_output, text(wanted))
    usage = result.context_wrapper.usage
    equal((usage.input_tokens, usage.output_tokens), (wanted["usage"]["input_tokens"], wanted["usage"]["output_tokens"]))
    assert result.last_response_id.startswith("resp_")


@report.check("Runner.run_streamed: the pieces add up to the same")
def _():
    result, events = streamed(agent())
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    equal("".join(pieces), result.final_output)
    equal(result.final_output, run(agent()).final_output)


@report.check("top_logprobs: the log-probabilities of a plain request")
def _():
    result = run(agent(settings={"top_logprobs": 2}))
    (item,) = result.raw_responses[0].output
    wanted = plain(max_output_tokens=100, top_logprobs=2)["output"][0]["content"][0]["logprobs"]
    equal([entry.model_dump() for entry in item.content[0].logprobs], wanted)
    equal(len(wanted[0]["top_logprobs"]), 2)


def weather_agent(limit=64, **fields):
    """It calls its tool, and the calls are put into a list."""
    calls = []

    @agents.function_tool
    def weather(city: typing.Literal["Lansing", "Detroit"]) -> str:
        """The weather in a city."""
        calls.append(city)
        return "sunny"

    forced = {"tool_choice": "weather", "parallel_tool_calls": False}
    return agent(limit, forced, tools=[weather], **fields), calls


@report.check("tools: a forced call is executed, in a stream too")
def _():
    asked, calls = weather_agent(tool_use_behavior="stop_on_first_tool")
    equal(run(asked).final_output, "sunny")
    result, events = streamed(asked)
    equal(result.final_output, "sunny")
    assert len(calls) == 2 and calls[0] == calls[1], calls
    assert any(event.type == "response.function_call_arguments.done" for event in events)


@report.check("tools: the result goes back, and the model answers")
def _():
    asked, calls = weather_agent()
    # After the call the SDK asks again, and the model is free to answer; a small one may call once more.
    result = run(asked, max_turns=4, error_handlers={})
    assert calls and result.final_output, result
    kinds = [item.type for item in result.new_items]
    equal(kinds[:2], ["tool_call_item", "tool_call_output_item"])


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    inhabitants: int = pydantic.Field(ge=0, le=99999999)


@report.check("output_type: an answer by a Pydantic model, in a stream too")
def _():
    asked = agent(200, output_type=City)
    result = run(asked)
    assert isinstance(result.final_output, City), result.final_output
    equal(streamed(asked)[0].final_output, result.final_output)


@report.check("a second turn: to_input_list sends the answer back")
def _():
    first = run(agent())
    given = [*first.to_input_list(), {"role": "user", "content": "And another."}]
    second = run(agent(), given)
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.final_output},
        {"role": "user", "content": "And another."},
    ]
    equal(second.final_output, text(plain(input=messages, max_output_tokens=100)))


@report.check("a session keeps the conversation")
def _():
    session = agents.SQLiteSession("one")

    async def turns():
        await agents.Runner.run(agent(), QUESTION, session=session)
        return await agents.Runner.run(agent(), "And another.", session=session)

    assert loop.run_until_complete(turns()).final_output


@report.check("a handoff to another agent")
def _():
    other = agent(name="other", handoff_description="Knows cities.")
    asked = agent(64, {"tool_choice": "transfer_to_other"}, handoffs=[other])
    equal(run(asked).last_agent.name, "other")


@report.check("errors: a prompt that is too long, and an id of a stored response")
def _():
    error = raises(openai.BadRequestError, lambda: run(agent(), "word " * 5000))
    equal(error.code, "context_length_exceeded")
    error = raises(openai.BadRequestError, lambda: run(agent(), previous_response_id="resp_1"))
    equal(error.param, "previous_response_id")
