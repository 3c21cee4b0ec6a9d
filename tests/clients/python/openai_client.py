"""OpenAI's own client in Python."""

import asyncio
import base64
import json
import statistics
import struct
import threading
import time

import openai
import pydantic
from report import BASE_URL, KEY, KEYED_URL, Report, equal, gauge, post, raises

report = Report("openai (Python)", "openai")
client = openai.OpenAI(base_url=BASE_URL, api_key="none", max_retries=0)
MODEL = client.models.list().data[0].id
PROMPT = "The capital of Michigan is "
GREEDY = {"model": MODEL, "max_tokens": 12, "temperature": 0}
MESSAGES = [{"role": "user", "content": "Name a city."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Lansing", "Detroit"]}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
ONLY_WEATHER = {"type": "function", "function": {"name": "weather"}}


def complete(**fields):
    return client.completions.create(**{**GREEDY, "prompt": PROMPT, **fields})


def chat(**fields):
    return client.chat.completions.create(**{**GREEDY, "messages": MESSAGES, **fields})


def vectors(**fields):
    return [item.embedding for item in client.embeddings.create(model=MODEL, **fields).data]


def four_arrays(logprobs):
    return logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset


def close(some, others):
    equal(len(some), len(others), "length")
    assert all(abs(one - other) < 1e-6 for one, other in zip(some, others)), "the vectors differ"


# --- Models.


@report.check("models.list and models.retrieve")
def _():
    equal(client.models.retrieve(MODEL).id, MODEL)
    raises(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"))


# --- Completions.


@report.check("completions: logprobs are four arrays of one length, equal to a plain request's")
def _():
    choice = complete(logprobs=3).choices[0]
    plain = post("/v1/completions", **GREEDY, prompt=PROMPT, logprobs=3)["choices"][0]
    equal(choice.text, plain["text"])
    equal([len(array) for array in four_arrays(choice.logprobs)], [12] * 4)
    equal(choice.logprobs.to_dict(), plain["logprobs"])
    equal("".join(choice.logprobs.tokens), choice.text)
    equal(choice.logprobs.token_logprobs, [max(top.values()) for top in choice.logprobs.top_logprobs])


@report.check("completions: a stream adds up to the unstreamed answer, logprobs too")
def _():
    whole = complete(logprobs=2).choices[0]
    chunks = [chunk.choices[0] for chunk in complete(logprobs=2, stream=True)]
    equal("".join(chunk.text for chunk in chunks), whole.text)
    parts = [four_arrays(chunk.logprobs) for chunk in chunks if chunk.logprobs]
    summed = tuple(sum((part[place] for part in parts), []) for place in range(4))
    equal(summed, four_arrays(whole.logprobs))
    equal([chunk.finish_reason for chunk in chunks][-1], whole.finish_reason)


@report.check("completions: include_usage is a last chunk without choices")
def _():
    chunks = list(complete(stream=True, stream_options={"include_usage": True}))
    equal(chunks[-1].choices, [])
    equal(chunks[-1].usage.completion_tokens, 12)
    assert all(chunk.usage is None for chunk in chunks[:-1])


@report.check("completions: a list of prompts gets the answer of each prompt alone, in order")
def _():
    prompts = [PROMPT, "Once upon a time", "def main():"]
    together = complete(prompt=prompts, logprobs=1)
    equal([choice.index for choice in together.choices], [0, 1, 2])
    for prompt, choice in zip(prompts, together.choices):
        equal(choice.to_dict() | {"index": 0}, complete(prompt=prompt, logprobs=1).choices[0].to_dict())


@report.check("completions: token ids as prompt, and lists of them")
def _():
    ids = post("/tokenize", prompt=PROMPT)["tokens"]
    wanted = complete(logprobs=1).choices[0]
    equal(complete(prompt=ids, logprobs=1).choices[0], wanted)
    equal([choice.text for choice in complete(prompt=[ids, ids[:3]]).choices][0], wanted.text)


@report.check("completions: echo with max_tokens=0 scores the prompt")
def _():
    choice = complete(echo=True, max_tokens=0, logprobs=1).choices[0]
    equal(choice.text, PROMPT)
    equal(choice.logprobs.token_logprobs[0], None)
    equal(len(choice.logprobs.tokens), len(post("/tokenize", prompt=PROMPT)["tokens"]))
    assert all(logprob < 0 for logprob in choice.logprobs.token_logprobs[1:])


@report.check("completions: a stop string ends the text before it")
def _():
    text = complete(prompt="1 2 3 4 5", max_tokens=32).choices[0].text
    stop = text[4:6]
    stopped = complete(prompt="1 2 3 4 5", max_tokens=32, stop=[stop]).choices[0]
    equal((stopped.text, stopped.finish_reason), (text.split(stop)[0], "stop"))


@report.check("completions: a seed repeats the answer, n choices of it differ, best_of keeps the best")
def _():
    drawn = {"temperature": 1.2, "seed": 7, "n": 3}
    once, again = (complete(**drawn) for _ in range(2))
    equal([choice.text for choice in once.choices], [choice.text for choice in again.choices])
    equal(len({choice.text for choice in once.choices}), 3)
    scored = complete(**drawn, logprobs=0).choices
    likeliest = max(scored, key=lambda choice: statistics.fmean(choice.logprobs.token_logprobs))
    (best,) = complete(**drawn | {"n": 1}, best_of=3, logprobs=0).choices
    equal((best.text, best.logprobs), (likeliest.text, likeliest.logprobs))


@report.check("completions: logit_bias bans a token")
def _():
    first = complete(max_tokens=1).choices[0].text
    (ident,) = post("/tokenize", prompt=first, add_special_tokens=False)["tokens"]
    assert complete(max_tokens=1, logit_bias={str(ident): -100}).choices[0].text != first


@report.check("completions: fields that OpenAI's API does not have, by extra_body")
def _():
    equal(complete(extra_body={"choice": ["Lansing", "Detroit"]}, stop=None).choices[0].finish_reason, "stop")
    answer = complete(temperature=1, extra_body={"top_k": 1, "repeat_penalty": 1.0})
    equal(answer.choices[0].text, complete().choices[0].text)


# --- Errors.


@report.check("errors: BadRequestError names the field")
def _():
    error = raises(openai.BadRequestError, lambda: complete(temperature=-1))
    equal((error.param, error.code, error.type), ("temperature", None, "invalid_request_error"))
    error = raises(openai.BadRequestError, lambda: complete(extra_body={"no_such_field": 1}))
    equal(error.param, "no_such_field")


@report.check("errors: a prompt that is too long has the code context_length_exceeded")
def _():
    error = raises(openai.BadRequestError, lambda: complete(prompt="word " * 5000))
    equal(error.code, "context_length_exceeded")
    error = raises(openai.BadRequestError, lambda: complete(prompt="word " * 5000, stream=True))
    equal(error.code, "context_length_exceeded")


@report.check("errors: NotFoundError for a model that does not exist")
def _():
    error = raises(openai.NotFoundError, lambda: complete(model="no-such-model"))
    equal((error.param, error.code), ("model", "model_not_found"))


@report.check("errors: AuthenticationError without the key, an answer with it", wanted=KEYED_URL)
def _():
    keyed = openai.OpenAI(base_url=f"{KEYED_URL}/v1", api_key="wrong", max_retries=0)
    error = raises(openai.AuthenticationError, lambda: keyed.models.list())
    equal((error.status_code, error.code), (401, "invalid_api_key"))
    right = keyed.with_options(api_key=KEY)
    name = right.models.list().data[0].id
    equal(right.completions.create(model=name, prompt="a", max_tokens=3).usage.completion_tokens, 3)


# --- Chat.


@report.check("chat: an answer with logprobs, and the same in a stream")
def _():
    whole = chat(logprobs=True, top_logprobs=2)
    entries = whole.choices[0].logprobs.content
    equal(len(entries), whole.usage.completion_tokens)
    equal("".join(entry.token for entry in entries), whole.choices[0].message.content)
    assert all(len(entry.top_logprobs) == 2 for entry in entries)
    chunks = list(chat(logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    equal(text, whole.choices[0].message.content)
    streamed = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices]
    equal([entry for logprobs in streamed if logprobs for entry in logprobs.content], entries)
    equal(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
    equal(chunks[0].choices[0].delta.role, "assistant")


@report.check("chat: developer role, parts of text, max_completion_tokens")
def _():
    developer = [{"role": "developer", "content": "Be brief."}]
    system = [{"role": "system", "content": "Be brief."}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Name a city."}]}]
    equal(
        chat(messages=developer + parts, max_tokens=None, max_completion_tokens=5).choices[0].message,
        chat(messages=system + MESSAGES, max_tokens=5).choices[0].message,
    )


@report.check("chat: a forced tool call, and its result goes back")
def _():
    answer = chat(tools=[WEATHER], tool_choice=ONLY_WEATHER, max_tokens=64).choices[0]
    (call,) = answer.message.tool_calls
    equal(call.function.name, "weather")
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Lansing", "Detroit") and arguments["days"] <= 9, arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    after = chat(messages=[*MESSAGES, answer.message, result], tools=[WEATHER], tool_choice="none")
    assert after.choices[0].message.content
    assert after.choices[0].message.tool_calls is None


@report.check('chat: tool_choice "required" in a stream adds up to the whole call')
def _():
    asked = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 64}
    (whole,) = chat(**asked).choices[0].message.tool_calls
    name, arguments, idents, reason = "", "", set(), None
    for chunk in chat(**asked, stream=True):
        reason = chunk.choices[0].finish_reason or reason
        for piece in chunk.choices[0].delta.tool_calls or []:
            equal(piece.index, 0)
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
            idents.add(piece.id)
    equal((name, arguments, reason), (whole.function.name, whole.function.arguments, "tool_calls"))
    equal(len(idents - {None}), 1)


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    inhabitants: int = pydantic.Field(ge=0, le=99999999)
    state: str | None = pydantic.Field(max_length=20)


@report.check("chat.completions.parse with Pydantic, and stream() of it")
def _():
    asked = {**GREEDY, "messages": MESSAGES, "max_tokens": 200, "response_format": City}
    parsed = client.chat.completions.parse(**asked).choices[0].message.parsed
    assert isinstance(parsed, City), parsed
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    equal(final.choices[0].message.parsed, parsed)


@report.check("chat.completions.parse with pydantic_function_tool")
def _():
    tools = [openai.pydantic_function_tool(City)]
    answer = client.chat.completions.parse(
        **{**GREEDY, "max_tokens": 200}, messages=MESSAGES, tools=tools, tool_choice="required"
    )
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, City)


# --- Responses.


def respond(**fields):
    asked = {"model": MODEL, "temperature": 0, "max_output_tokens": 12, "input": "Name a city."}
    return client.responses.create(**{**asked, **fields})


@report.check("responses: the text and logprobs of a chat, and the same in a stream")
def _():
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = respond(**asked)
    choice = chat(logprobs=True, top_logprobs=2).choices[0]
    equal(response.output_text, choice.message.content)
    entries = [entry.model_dump() for entry in response.output[0].content[0].logprobs]
    equal(entries, [entry.model_dump() for entry in choice.logprobs.content])
    events = list(respond(**asked, stream=True))
    equal([event.sequence_number for event in events], list(range(len(events))))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    equal("".join(event.delta for event in deltas), response.output_text)
    equal([entry.logprob for event in deltas for entry in event.logprobs], [entry["logprob"] for entry in entries])
    equal(events[-1].response.output_text, response.output_text)
    equal(events[-1].response.usage.output_tokens, response.usage.output_tokens)


@report.check("responses: a forced call, its result goes back with the answer's items")
def _():
    tools = [{"type": "function", "strict": True, **WEATHER["function"]}]
    forced = {"tools": tools, "tool_choice": {"type": "function", "name": "weather"}, "max_output_tokens": 64}
    (call,) = respond(**forced).output
    assert json.loads(call.arguments)["city"] in ("Lansing", "Detroit")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    given = [{"role": "user", "content": "Name a city."}, call, result]
    assert respond(input=given, tools=tools, tool_choice="none").output_text


@report.check("responses.parse with Pydantic, and stream() of it")
def _():
    asked = {"model": MODEL, "temperature": 0, "max_output_tokens": 200, "input": "Name a city.", "text_format": City}
    parsed = client.responses.parse(**asked).output_parsed
    assert isinstance(parsed, City), parsed
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    equal((kinds[0], kinds[-1]), ("response.created", "response.completed"))
    equal(final.output_parsed, parsed)


@report.check("responses: previous_response_id is a BadRequestError that names it")
def _():
    error = raises(openai.BadRequestError, lambda: respond(previous_response_id="resp_1"))
    equal(error.param, "previous_response_id")


# --- Embeddings.


@report.check("embeddings: base64, which is the client's default, and float are the same numbers")
def _():
    (default,) = vectors(input="a cat")
    (floats,) = vectors(input="a cat", encoding_format="float")
    close(default, floats)
    raw = client.embeddings.create(model=MODEL, input="a cat", encoding_format="base64").data[0].embedding
    data = base64.b64decode(raw)
    close(list(struct.unpack(f"<{len(data) // 4}f", data)), floats)
    assert abs(sum(number * number for number in floats) - 1) < 1e-5


@report.check("embeddings: several inputs in order, token ids, dimensions")
def _():
    texts = ["a cat", "a dog"]
    both = vectors(input=texts)
    for text, vector in zip(texts, both):
        close(vector, vectors(input=text)[0])
    close(vectors(input=[post("/tokenize", prompt="a cat")["tokens"]])[0], both[0])
    equal(len(vectors(input="a cat", dimensions=16)[0]), 16)


# --- How requests are made.


@report.check("the async client with 16 requests at once gets the bits of one alone")
def _():
    alone = [complete(prompt=f"{number} and", logprobs=2).choices[0] for number in range(16)]

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=BASE_URL, api_key="none", max_retries=0) as several:
            return await asyncio.gather(
                *(several.completions.create(**GREEDY, prompt=f"{number} and", logprobs=2) for number in range(16))
            )

    equal([answer.choices[0] for answer in asyncio.run(ask_all())], alone)


@report.check("with_raw_response has x-request-id, that of the client too; errors have it")
def _():
    raw = client.completions.with_raw_response.create(**GREEDY, prompt=PROMPT, extra_headers={"x-request-id": "mine"})
    equal(raw.headers["x-request-id"], "mine")
    equal(raw.parse()._request_id, "mine")
    assert complete()._request_id
    assert raises(openai.NotFoundError, lambda: complete(model="no-such-model")).request_id


def ends_early(leave):
    """Calls `leave`, which asks for 1,500 tokens and goes away; a sequence is cancelled, and they are not all generated."""

    def counted():
        return gauge("candor_generated_tokens_total"), gauge('candor_sequences_total{outcome="cancelled"}', 0)

    tokens, sequences = counted()
    leave()
    # It may not even have begun when the client leaves.
    while counted()[0] - tokens < 1500 and counted()[1] == sequences:
        time.sleep(0.05)
    generated, cancelled = (now - before for now, before in zip(counted(), (tokens, sequences)))
    assert generated < 1500, f"{generated} tokens were generated for nobody"
    equal(cancelled, 1, "cancelled sequences")


LONG = {**GREEDY, "max_tokens": 1500, "prompt": PROMPT, "extra_body": {"ignore_eos": True}}


@report.check("closing a stream frees its slot")
def _():
    def leave():
        with client.completions.create(**LONG, stream=True) as stream:
            next(iter(stream))
            equal(gauge("candor_sequences_running"), 1)

    ends_early(leave)


@report.check("a client's timeout is an APITimeoutError, and frees the slot")
def _():
    hurried = client.with_options(timeout=0.3)
    ends_early(lambda: raises(openai.APITimeoutError, lambda: hurried.completions.create(**LONG)))


@report.check("threads share a client")
def _():
    texts = [None] * 4

    def ask(place):
        texts[place] = complete().choices[0].text

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(texts, [complete().choices[0].text] * 4)
