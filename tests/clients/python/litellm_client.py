"""LiteLLM, by its providers `openai/` and `text-completion-openai/`."""

import asyncio
import json
import os

# Otherwise it fetches a list of prices from GitHub first.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
from report import BASE_URL, KEY, KEYED_URL, Report, equal, post, raises, same_vectors  # noqa: E402

report = Report("LiteLLM", "litellm")
litellm.suppress_debug_info = True
litellm.num_retries = 0
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
SERVER = {"api_base": BASE_URL, "api_key": "none", "max_retries": 0}
PROMPT = "The capital of Michigan is "
MESSAGES = [{"role": "user", "content": "Name a city."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Lansing", "Detroit"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def text(prompt=PROMPT, **fields):
    asked = {"model": f"text-completion-openai/{MODEL}", "max_tokens": 12, "temperature": 0, **SERVER, **fields}
    return litellm.text_completion(prompt=prompt, **asked)


def chat(**fields):
    asked = {"model": f"openai/{MODEL}", "messages": MESSAGES, "max_tokens": 32, "temperature": 0, **SERVER, **fields}
    return litellm.completion(**asked)


def plain(**fields):
    return post("/v1/completions", **{"prompt": PROMPT, "max_tokens": 12, "temperature": 0, **fields})["choices"][0]


@report.check("text_completion: text, usage and logprobs equal a plain request's")
def _():
    answer = text(logprobs=2)
    wanted = plain(logprobs=2)
    equal(answer.choices[0].text, wanted["text"])
    equal(answer.usage.completion_tokens, 12)
    logprobs = answer.choices[0].logprobs
    logprobs = logprobs if isinstance(logprobs, dict) else logprobs.model_dump()
    equal(logprobs["token_logprobs"], wanted["logprobs"]["token_logprobs"])


@report.check("text_completion: stream, several prompts")
def _():
    wanted = plain()["text"]
    equal("".join(chunk.choices[0].text or "" for chunk in text(stream=True)), wanted)
    equal([choice.text for choice in text(prompt=[PROMPT, PROMPT]).choices], [wanted] * 2)


@report.check("completion: answer and stream, logprobs")
def _():
    wanted = post("/v1/chat/completions", messages=MESSAGES, max_tokens=32, temperature=0)["choices"][0]
    answer = chat(logprobs=True, top_logprobs=2)
    equal(answer.choices[0].message.content, wanted["message"]["content"])
    equal(len(answer.choices[0].logprobs.content), answer.usage.completion_tokens)
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    equal(text, wanted["message"]["content"])
    equal(chunks[-1].usage.completion_tokens, answer.usage.completion_tokens)


@report.check("completion: a forced tool call, its result goes back, and the call in a stream")
def _():
    asked = {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    answer = chat(**asked)
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Lansing", "Detroit")
    assert answer.choices[0].finish_reason in ("stop", "tool_calls")
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    after = chat(messages=[*MESSAGES, answer.choices[0].message, result], tools=[WEATHER], tool_choice="none")
    assert after.choices[0].message.content
    rebuilt = litellm.stream_chunk_builder(list(chat(**asked, stream=True)))
    equal(rebuilt.choices[0].message.tool_calls[0].function.arguments, call.function.arguments)


@report.check("completion: response_format with a schema")
def _():
    schema = WEATHER["function"]["parameters"]
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema, "strict": True}}
    assert json.loads(chat(response_format=form).choices[0].message.content)["city"] in ("Lansing", "Detroit")


@report.check("acompletion: eight at once")
def _():
    async def ask_all():
        asked = {"model": f"openai/{MODEL}", "messages": MESSAGES, "max_tokens": 32, "temperature": 0, **SERVER}
        return await asyncio.gather(*(litellm.acompletion(**asked) for _ in range(8)))

    wanted = chat().choices[0].message.content
    equal([answer.choices[0].message.content for answer in asyncio.run(ask_all())], [wanted] * 8)


@report.check("embedding: several inputs")
def _():
    texts = ["a cat", "a dog"]
    answer = litellm.embedding(model=f"openai/{MODEL}", input=texts, **SERVER)
    same_vectors([item["embedding"] for item in answer.data], texts)


@report.check("a prompt that is too long is ContextWindowExceededError, in chats and completions")
def _():
    long = "word " * 5000
    raises(litellm.ContextWindowExceededError, lambda: chat(messages=[{"role": "user", "content": long}]))
    raises(litellm.ContextWindowExceededError, lambda: text(prompt=long))


@report.check("other errors: BadRequestError, NotFoundError")
def _():
    raises(litellm.BadRequestError, lambda: chat(temperature=-1))
    raises(litellm.NotFoundError, lambda: chat(model="openai/no-such-model"))


@report.check("other errors: AuthenticationError without the key, an answer with it", wanted=KEYED_URL)
def _():
    keyed = {"api_base": f"{KEYED_URL}/v1", "model": "text-completion-openai/llama2-vocab-tiny", "prompt": "a"}
    keyed |= {"max_tokens": 3, "max_retries": 0}
    raises(litellm.AuthenticationError, lambda: litellm.text_completion(**keyed, api_key="wrong"))
    equal(litellm.text_completion(**keyed, api_key=KEY).usage.completion_tokens, 3)
