"""Inspect, by its providers `vllm-completions`, `vllm`, `openai-api-completions` and `openai-api`."""

import asyncio
import math
import os
import tempfile

from report import BASE_URL, Report, equal, post

# Logs of evaluations, which it would write into the working directory.
os.environ["INSPECT_LOG_DIR"] = tempfile.mkdtemp(prefix="candor-inspect-")
os.environ["CANDOR_API_KEY"] = "none"

from inspect_ai import Task, eval  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model  # noqa: E402
from inspect_ai.scorer import Score, choice, mean, scorer  # noqa: E402
from inspect_ai.solver import generate, multiple_choice  # noqa: E402

report = Report("Inspect", "inspect_ai")
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
PROMPT = "The capital of Michigan is "
MESSAGES = [{"role": "user", "content": "Name a city."}]


def model(provider):
    # `openai-api` wants the name of a service, from which it makes those of variables with keys.
    service = "candor/" if provider.startswith("openai-api") else ""
    return get_model(f"{provider}/{service}{MODEL}", base_url=BASE_URL, api_key="none")


def ask(provider, prompt, **config):
    config = GenerateConfig(**{"max_tokens": 8, "temperature": 0, "max_retries": 0, **config})
    return asyncio.run(model(provider).generate(prompt, config=config))


def ids(prompt):
    return post("/tokenize", prompt=prompt)["tokens"]


def echoed(prompt, count):
    """The log-probabilities of the prompt's tokens, without the first, which has none."""
    answer = post("/v1/completions", prompt=prompt, max_tokens=0, echo=True, logprobs=count)
    return answer["choices"][0]["logprobs"]


def same_logprobs(got, wanted):
    equal([token.token for token in got.content], wanted["tokens"][1:])
    for one, other in zip(got.content, wanted["token_logprobs"][1:], strict=True):
        assert math.isclose(one.logprob, other, abs_tol=1e-6), f"{one.logprob} instead of {other}"


@report.check("vllm-completions: prompt_logprobs are those of echo, by text and by token ids")
def _():
    same_logprobs(ask("vllm-completions", PROMPT, prompt_logprobs=1).choices[0].prompt_logprobs, echoed(PROMPT, 1))
    message = ChatMessageUser(content="", metadata={"prompt_token_ids": ids(PROMPT)})
    same_logprobs(ask("vllm-completions", [message], prompt_logprobs=1).choices[0].prompt_logprobs, echoed(PROMPT, 1))


@report.check("vllm-completions: prompt_logprobs 3 also has the likeliest tokens of each position")
def _():
    got = ask("vllm-completions", PROMPT, prompt_logprobs=3).choices[0].prompt_logprobs
    wanted = echoed(PROMPT, 3)
    same_logprobs(got, wanted)
    for token, top in zip(got.content, wanted["top_logprobs"][1:], strict=True):
        found = {other.token: other.logprob for other in [token, *(token.top_logprobs or [])]}
        for text, logprob in top.items():
            assert math.isclose(found[text], logprob, abs_tol=1e-6), f"{text!r}: {found} instead of {top}"


@report.check("vllm-completions: text, logprobs and usage of a plain request, n choices")
def _():
    answer = ask("vllm-completions", PROMPT, logprobs=True, top_logprobs=2)
    wanted = post("/v1/completions", prompt=PROMPT, max_tokens=8, temperature=0, logprobs=2)
    equal(answer.choices[0].message.text, wanted["choices"][0]["text"])
    equal(answer.usage.output_tokens, wanted["usage"]["completion_tokens"])
    got = [token.logprob for token in answer.choices[0].logprobs.content]
    equal(got, wanted["choices"][0]["logprobs"]["token_logprobs"])
    equal(len(ask("vllm-completions", PROMPT, num_choices=2, temperature=1, seed=1).choices), 2)


@report.check("openai-api-completions: the text of a plain request")
def _():
    answer = ask("openai-api-completions", PROMPT)
    equal(answer.completion, post("/v1/completions", prompt=PROMPT, max_tokens=8, temperature=0)["choices"][0]["text"])


@report.check("vllm and openai-api: the chat of a plain request, with logprobs")
def _():
    wanted = post("/v1/chat/completions", messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True)["choices"][0]
    for provider in ("vllm", "openai-api"):
        answer = ask(provider, "Name a city.", logprobs=True, top_logprobs=2).choices[0]
        equal(answer.message.text, wanted["message"]["content"])
        got = [token.logprob for token in answer.logprobs.content]
        equal(got, [token["logprob"] for token in wanted["logprobs"]["content"]])


@scorer(metrics=[mean()])
def surprise():
    """The mean negative log-probability of the prompt."""

    async def score(state, target):
        tokens = state.output.choices[0].prompt_logprobs.content
        return Score(value=-sum(token.logprob for token in tokens) / len(tokens))

    return score


@report.check("eval: a perplexity task, with vllm-completions")
def _():
    prompts = [PROMPT, "Paris is the capital of France."]
    task = Task(dataset=[Sample(input=prompt) for prompt in prompts], solver=generate(), scorer=surprise())
    config = {"prompt_logprobs": 1, "max_tokens": 1, "temperature": 0}
    (log,) = eval(task, model=model("vllm-completions"), display="none", **config)
    equal(log.status, "success")
    for sample, prompt in zip(log.samples, prompts, strict=True):
        logprobs = echoed(prompt, 1)["token_logprobs"][1:]
        (score,) = sample.scores.values()
        assert math.isclose(score.value, -sum(logprobs) / len(logprobs), abs_tol=1e-5)


@report.check("eval: a task with multiple choice, with openai-api")
def _():
    samples = [Sample(input="What is 1 + 1?", choices=["1", "2"], target="B") for _ in range(8)]
    task = Task(dataset=samples, solver=multiple_choice(), scorer=choice())
    (log,) = eval(task, model=model("openai-api"), display="none", max_tokens=16, temperature=0)
    equal(log.status, "success")
    equal(len(log.samples), 8)
