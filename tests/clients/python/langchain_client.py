"""LangChain's OpenAI classes."""

import asyncio
import typing

import openai
import pydantic
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from report import BASE_URL, Report, equal, post, raises, same_vectors

report = Report("LangChain", "langchain-openai", "langchain-core")
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
SERVER = {"base_url": BASE_URL, "api_key": "none", "model": MODEL, "max_retries": 0}
PROMPT = "The capital of Michigan is "
PROMPTS = [PROMPT, "Once upon a time", "def main():"]
MESSAGES = [SystemMessage("Be brief."), HumanMessage("Name a city.")]


def completing(**fields):
    return OpenAI(**{**SERVER, "temperature": 0, "max_tokens": 12, **fields})


def chatting(**fields):
    return ChatOpenAI(**{**SERVER, "temperature": 0, "max_tokens": 64, **fields})


def plain(prompt, **fields):
    body = {"temperature": 0, "max_tokens": 12, **fields}
    return post("/v1/completions", prompt=prompt, **body)["choices"][0]["text"]


@report.check("OpenAI: invoke, and in a chain after a PromptTemplate")
def _():
    equal(completing().invoke(PROMPT), plain(PROMPT))
    chain = PromptTemplate.from_template("The capital of {state} is ") | completing() | StrOutputParser()
    equal(chain.invoke({"state": "Michigan"}), plain(PROMPT))


@report.check("OpenAI: batch, which is one request with several prompts")
def _():
    equal(completing().batch(PROMPTS), [plain(prompt) for prompt in PROMPTS])


@report.check("OpenAI: generate returns usage and the finish reason; n choices, logprobs")
def _():
    result = completing(logprobs=2).generate([PROMPT])
    equal(result.llm_output["token_usage"]["completion_tokens"], 12)
    info = result.generations[0][0].generation_info
    equal(info["finish_reason"], "length")
    equal(len(info["logprobs"]["token_logprobs"]), 12)
    choices = completing(n=2, best_of=2, temperature=1, seed=3).generate([PROMPT]).generations[0]
    equal(len(choices), 2)


@report.check("OpenAI: stream, astream, abatch")
def _():
    equal("".join(completing().stream(PROMPT)), plain(PROMPT))

    async def asynchronous():
        pieces = [piece async for piece in completing().astream(PROMPT)]
        return "".join(pieces), await completing().abatch(PROMPTS)

    equal(asyncio.run(asynchronous()), (plain(PROMPT), [plain(prompt) for prompt in PROMPTS]))


@report.check("OpenAI: stop strings by bind")
def _():
    text = plain("1 2 3 4 5", max_tokens=32)
    equal(completing(max_tokens=32).bind(stop=[text[4:6]]).invoke("1 2 3 4 5"), text.split(text[4:6])[0])


@report.check("ChatOpenAI: invoke equals a plain request; usage and model are returned")
def _():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a city."}]
    wanted = post("/v1/chat/completions", messages=messages, temperature=0, max_tokens=64)
    got = chatting().invoke(MESSAGES)
    equal(got.content, wanted["choices"][0]["message"]["content"])
    equal(got.usage_metadata["output_tokens"], wanted["usage"]["completion_tokens"])
    equal(got.response_metadata["model_name"], MODEL)


@report.check("ChatOpenAI: stream with usage, batch, logprobs")
def _():
    whole = chatting().invoke(MESSAGES)
    pieces = list(chatting(stream_usage=True).stream(MESSAGES))
    summed = pieces[0]
    for piece in pieces[1:]:
        summed += piece
    equal(summed.content, whole.content)
    equal(summed.usage_metadata["output_tokens"], whole.usage_metadata["output_tokens"])
    equal([message.content for message in chatting().batch([MESSAGES] * 3)], [whole.content] * 3)
    entries = chatting(logprobs=True, top_logprobs=2).invoke(MESSAGES).response_metadata["logprobs"]["content"]
    equal(len(entries), whole.usage_metadata["output_tokens"])


Small = typing.Annotated[int, pydantic.Field(ge=0, le=999)]


@tool
def multiply(one: Small, other: Small) -> int:
    """Multiplies two numbers."""
    return one * other


@report.check("ChatOpenAI: bind_tools with a forced call, in a stream too; the tool's result goes back")
def _():
    # strict=True adds "additionalProperties": false, without which the model may add arguments of its own.
    forced = chatting().bind_tools([multiply], tool_choice="multiply", strict=True)
    answer = forced.invoke("What is 3 times 4?")
    (call,) = answer.tool_calls
    equal((call["name"], sorted(call["args"])), ("multiply", ["one", "other"]))
    result = multiply.invoke(call)
    assert isinstance(result, ToolMessage)
    after = chatting().bind_tools([multiply], tool_choice="none").invoke([HumanMessage("3 times 4?"), answer, result])
    assert after.content and not after.tool_calls
    pieces = list(forced.stream("What is 3 times 4?"))
    summed = pieces[0]
    for piece in pieces[1:]:
        summed += piece
    equal(summed.tool_calls[0]["args"], call["args"])
    required = chatting().bind_tools([multiply], tool_choice="any", strict=True, parallel_tool_calls=False)
    equal(len(required.invoke("3 times 4?").tool_calls), 1)


class City(pydantic.BaseModel):
    """A city."""

    # With function_calling LangChain does not add it by itself.
    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=20)
    inhabitants: int = pydantic.Field(ge=0, le=99999999)


def structured(method):
    @report.check(f"ChatOpenAI: with_structured_output, {method}")
    def _():
        chain = chatting(max_tokens=200).with_structured_output(City, method=method)
        assert isinstance(chain.invoke(MESSAGES), City)


structured("json_schema")
structured("function_calling")


@report.check("ChatOpenAI: with_structured_output, json_mode, is the beginning of an object, or a complete one")
def _():
    chain = chatting(max_tokens=60).with_structured_output(None, method="json_mode", include_raw=True)
    # Which fields there are, and whether it ends in time, is the model's affair.
    try:
        text = chain.invoke("Describe a city as JSON.")["raw"].content
    except openai.LengthFinishReasonError as error:
        text = error.completion.choices[0].message.content
    assert text.startswith("{"), text


@report.check("OpenAIEmbeddings with check_embedding_ctx_length=False: embed_documents, embed_query")
def _():
    texts = ["a cat", "a dog"]
    embeddings = OpenAIEmbeddings(base_url=BASE_URL, api_key="none", model=MODEL, check_embedding_ctx_length=False)
    got = embeddings.embed_documents(texts)
    same_vectors(got, texts)
    equal(embeddings.embed_query("a cat"), got[0])


@report.check("OpenAI, ChatOpenAI: a prompt that is too long is an error with the code context_length_exceeded")
def _():
    for llm in (completing(), chatting()):
        error = raises(openai.BadRequestError, lambda: llm.invoke("word " * 5000))
        equal(error.code, "context_length_exceeded")
