"""LlamaIndex, by OpenAILike and OpenAILikeEmbedding."""

import asyncio

import openai
import pydantic
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from report import BASE_URL, Report, equal, post, raises, same_vectors

report = Report("LlamaIndex", "llama-index-core", "llama-index-llms-openai-like")
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
PROMPT = "The capital of Michigan is "
MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Name a city.")]
SERVER = {"model": MODEL, "api_base": BASE_URL, "api_key": "none", "max_retries": 0, "temperature": 0}
completing = OpenAILike(**SERVER, max_tokens=12, context_window=2048)
chatting = OpenAILike(
    **SERVER, max_tokens=200, context_window=2048, is_chat_model=True, is_function_calling_model=True
)
structuring = OpenAILike(
    **SERVER, max_tokens=200, context_window=2048, is_chat_model=True, should_use_structured_outputs=True
)


def plain():
    return post("/v1/completions", prompt=PROMPT, temperature=0, max_tokens=12)["choices"][0]["text"]


def plain_chat():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a city."}]
    answer = post("/v1/chat/completions", messages=messages, temperature=0, max_tokens=200)
    return answer["choices"][0]["message"]["content"]


@report.check("complete: the text of a plain request; fields by additional_kwargs")
def _():
    equal(completing.complete(PROMPT).text, plain())
    scored = OpenAILike(**SERVER, max_tokens=12, additional_kwargs={"logprobs": 2, "seed": 1})
    logprobs = scored.complete(PROMPT).raw.choices[0].logprobs
    equal(len(logprobs.token_logprobs), 12)


@report.check("stream_complete, acomplete, astream_complete")
def _():
    equal("".join(piece.delta for piece in completing.stream_complete(PROMPT)), plain())

    async def asynchronous():
        pieces = await completing.astream_complete(PROMPT)
        return (await completing.acomplete(PROMPT)).text, "".join([piece.delta async for piece in pieces])

    equal(asyncio.run(asynchronous()), (plain(), plain()))


@report.check("chat, stream_chat")
def _():
    equal(chatting.chat(MESSAGES).message.content, plain_chat())
    pieces = list(chatting.stream_chat(MESSAGES))
    equal("".join(piece.delta for piece in pieces), plain_chat())
    equal(pieces[-1].message.content, plain_chat())


class Numbers(pydantic.BaseModel):
    """The arguments of multiply."""

    one: int = pydantic.Field(ge=0, le=999)
    other: int = pydantic.Field(ge=0, le=999)


def multiply(one: int, other: int) -> int:
    """Multiplies two numbers."""
    return one * other


@report.check("chat_with_tools with a forced call, and its result goes back")
def _():
    tool = FunctionTool.from_defaults(multiply, fn_schema=Numbers)
    answer = chatting.chat_with_tools([tool], user_msg="3 times 4?", tool_required=True)
    calls = chatting.get_tool_calls_from_response(answer)
    equal((calls[0].tool_name, sorted(calls[0].tool_kwargs)), ("multiply", ["one", "other"]))
    result = ChatMessage(role="tool", content="12", additional_kwargs={"tool_call_id": calls[0].tool_id})
    after = chatting.chat([ChatMessage(role="user", content="3 times 4?"), answer.message, result])
    assert after.message.content


class City(pydantic.BaseModel):
    """A city."""

    name: str = pydantic.Field(max_length=20)
    inhabitants: int = pydantic.Field(ge=0, le=99999999)


@report.check("as_structured_llm, by response_format and by a forced call")
def _():
    for llm in (structuring, chatting):
        assert isinstance(llm.as_structured_llm(City).chat(MESSAGES).raw, City)


@report.check("OpenAILikeEmbedding: a batch of texts, and a query")
def _():
    embedding = OpenAILikeEmbedding(model_name=MODEL, api_base=BASE_URL, api_key="none")
    texts = ["a cat", "a dog"]
    got = embedding.get_text_embedding_batch(texts)
    same_vectors(got, texts)
    equal(embedding.get_query_embedding("a cat"), got[0])


@report.check("a prompt that is too long is an error with the code context_length_exceeded")
def _():
    equal(raises(openai.BadRequestError, lambda: completing.complete("word " * 5000)).code, "context_length_exceeded")
