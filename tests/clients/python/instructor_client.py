"""instructor over OpenAI's client: answers as Pydantic models."""

import asyncio
import contextlib
import json
import typing

import instructor
import openai
import pydantic
from instructor.core.exceptions import IncompleteOutputException, InstructorRetryException
from report import BASE_URL, Report, equal, post

report = Report("instructor", "instructor")
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
MESSAGES = [{"role": "user", "content": "Describe Lansing."}]
# No retries: a first answer that does not fit would be the server's fault.
ASKED = {"model": MODEL, "messages": MESSAGES, "max_tokens": 300, "temperature": 0, "max_retries": 0}


class Closed(pydantic.BaseModel):
    """Holds its fields and nothing else, and says so in its schema."""

    model_config = pydantic.ConfigDict(extra="forbid")


class City(Closed):
    """What is known of a city."""

    name: str = pydantic.Field(max_length=20)
    size: typing.Literal["small", "large"]
    inhabitants: int = pydantic.Field(ge=0, le=99999999)


class Cities(Closed):
    """Cities of a state."""

    state: str = pydantic.Field(max_length=20)
    cities: list[City] = pydantic.Field(min_length=1, max_length=2)


def client(mode):
    return instructor.from_openai(openai.OpenAI(base_url=BASE_URL, api_key="none", max_retries=0), mode=mode)


def in_mode(mode, model):
    @report.check(f"Mode.{mode.name}: an answer that is a {model.__name__}, on the first try")
    def _():
        city, completion = client(mode).chat.completions.create_with_completion(**ASKED, response_model=model)
        assert isinstance(city, model), city
        assert completion.usage.completion_tokens > 0


for each in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
    in_mode(each, City)
    in_mode(each, Cities)


@report.check("Mode.JSON: the text is the beginning of a JSON object, or a complete one")
def _():
    # The schema stands in the prompt only. Whether the model heeds it is not the server's affair.
    answers = []
    in_json = client(instructor.Mode.JSON)
    in_json.on("completion:response", answers.append)
    with contextlib.suppress(InstructorRetryException, IncompleteOutputException):
        in_json.chat.completions.create(**{**ASKED, "max_tokens": 60}, response_model=City)
    (answer,) = answers
    text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert text.startswith("{"), text
    if reason == "stop":
        assert isinstance(json.loads(text), dict)


@report.check("create_partial: the model fills as the stream arrives")
def _():
    partial = client(instructor.Mode.JSON_SCHEMA).chat.completions.create_partial(**ASKED, response_model=City)
    steps = list(partial)
    assert len(steps) > 2
    assert isinstance(City.model_validate(steps[-1].model_dump()), City)


@report.check("the async client")
def _():
    several = instructor.from_openai(openai.AsyncOpenAI(base_url=BASE_URL, api_key="none"), mode=instructor.Mode.TOOLS)

    async def ask_all():
        asked = (several.chat.completions.create(**ASKED, response_model=City) for _ in range(4))
        return await asyncio.gather(*asked)

    equal(len({city.model_dump_json() for city in asyncio.run(ask_all())}), 1)
