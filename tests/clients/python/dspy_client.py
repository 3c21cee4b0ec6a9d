"""DSPy's LM, by chats, completions and responses."""

import asyncio
import os
import tempfile

# Its cache of answers would be in the home directory.
os.environ["DSPY_CACHEDIR"] = tempfile.mkdtemp(prefix="candor-dspy-")
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from typing import Literal  # noqa: E402

import dspy  # noqa: E402
from report import BASE_URL, Report, equal, post  # noqa: E402

report = Report("DSPy", "dspy")
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
QUESTION = "Name a city."
PREFIXES = {"chat": "openai", "text": "text-completion-openai", "responses": "openai"}
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"enum": ["Lansing", "Detroit"]}},
    "required": ["answer"],
    "additionalProperties": False,
}


def lm(kind="chat", **fields):
    asked = {"max_tokens": 32, "temperature": 0, "num_retries": 0, "cache": False, **fields}
    return dspy.LM(f"{PREFIXES[kind]}/{MODEL}", model_type=kind, api_base=BASE_URL, api_key="none", **asked)


def plain():
    messages = [{"role": "user", "content": QUESTION}]
    return post("/v1/chat/completions", messages=messages, max_tokens=32, temperature=0)["choices"][0]["message"]


def text_of(outputs):
    return [output["text"] if isinstance(output, dict) else output for output in outputs]


@report.check("LM, chat: the content of a plain request")
def _():
    equal(text_of(lm()(QUESTION)), [plain()["content"]])


@report.check("LM, chat: n choices, logprobs")
def _():
    outputs = lm(n=2, temperature=0.7, seed=1, logprobs=True, top_logprobs=2)(QUESTION)
    equal(len(outputs), 2)
    assert all(output["logprobs"]["content"] for output in outputs)


@report.check("LM, text: the text of a plain request with DSPy's prompt")
def _():
    prompt = f"{QUESTION}\n\nBEGIN RESPONSE:"
    wanted = post("/v1/completions", prompt=prompt, max_tokens=32, temperature=0)["choices"][0]["text"]
    equal(text_of(lm("text")(QUESTION)), [wanted])


@report.check("LM, responses: the text of a chat")
def _():
    equal(text_of(lm("responses")(QUESTION)), [plain()["content"]])


class Capital(dspy.Signature):
    """Name the capital of the state."""

    state: str = dspy.InputField()
    answer: Literal["Lansing", "Detroit"] = dspy.OutputField()


@report.check("Predict with JSONAdapter and a schema: an answer of the signature's type")
def _():
    form = {"type": "json_schema", "json_schema": {"name": "capital", "schema": SCHEMA, "strict": True}}
    with dspy.context(lm=lm(response_format=form), adapter=dspy.JSONAdapter()):
        assert dspy.Predict(Capital)(state="Michigan").answer in ("Lansing", "Detroit")


@report.check("Predict with ChatAdapter and a regular expression: fields in DSPy's own form")
def _():
    pattern = r"\[\[ ## answer ## \]\]\n(Lansing|Detroit)\n\n\[\[ ## completed ## \]\]"
    with dspy.context(lm=lm(extra_body={"regex": pattern}), adapter=dspy.ChatAdapter()):
        assert dspy.Predict(Capital)(state="Michigan").answer in ("Lansing", "Detroit")


@report.check("acall: eight at once, each with the bits of one alone")
def _():
    async def ask_all():
        model = lm()
        return await asyncio.gather(*(model.acall(QUESTION) for _ in range(8)))

    wanted = plain()["content"]
    equal([text_of(outputs) for outputs in asyncio.run(ask_all())], [[wanted]] * 8)
