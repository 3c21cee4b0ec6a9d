"""`vllm bench serve`: the functions by which it sends requests, `--backend openai`, `openai-chat` and others.

The rest of vLLM needs torch and a GPU's libraries, so only the file with these functions is taken from its wheel."""

import asyncio
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import zipfile

from report import URL, Report, equal, post

VERSION = "0.33.0"
MEMBER = "vllm/benchmarks/lib/endpoint_request_func.py"
PLACE = pathlib.Path(sys.prefix) / f"vllm-{VERSION}" / pathlib.Path(MEMBER).name


def fetch():
    """Puts the file into this environment: once, as the wheel has 340 MB."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps", "--dest", folder]
        subprocess.run([*pip, f"vllm=={VERSION}"], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        text = zipfile.ZipFile(wheel).read(MEMBER)
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_bytes(text)


def load():
    spec = importlib.util.spec_from_file_location("endpoint_request_func", PLACE)
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look for their module by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if not PLACE.exists():
    fetch()
bench = load()
import aiohttp  # noqa: E402

report = Report("vllm bench", "aiohttp")
report.version = f"vllm {VERSION}"
MODEL = post("/v1/completions", prompt="a", max_tokens=1)["model"]
PROMPT = "The capital of Michigan is "
# What `vllm bench serve --temperature 0 --ignore-eos` adds.
GREEDY = {"extra_body": {"temperature": 0.0}, "ignore_eos": True}


def ask(backend, path, *, at_once=1, tokens=16, **fields):
    """The outcomes of requests that are sent at once."""

    async def send():
        async with aiohttp.ClientSession() as session:
            asked = {"prompt": PROMPT, "api_url": URL + path, "prompt_len": 6, "output_len": tokens, "model": MODEL}
            asked |= {"request_id": "bench-0", **fields}
            send_one = bench.ASYNC_REQUEST_FUNCS[backend]
            return await asyncio.gather(*(send_one(bench.RequestFuncInput(**asked), session) for _ in range(at_once)))

    outcomes = asyncio.run(send())
    for outcome in outcomes:
        assert outcome.success, outcome.error
    return outcomes


def plain(**fields):
    return post("/v1/completions", prompt=PROMPT, max_tokens=16, temperature=0, ignore_eos=True, **fields)


@report.check("openai: text and counts of a plain request, a chunk for each token, 16 at once")
def _():
    wanted = plain()
    for outcome in ask("openai", "/v1/completions", at_once=16, **GREEDY):
        equal(outcome.generated_text, wanted["choices"][0]["text"])
        equal(outcome.output_tokens, 16)
        equal(outcome.prompt_len, wanted["usage"]["prompt_tokens"])
        # Between 16 tokens, and to the last chunk, which has none.
        equal(len(outcome.itl), 16, "times between chunks")


@report.check("openai: the defaults, with logprobs")
def _():
    (outcome,) = ask("openai", "/v1/completions", logprobs=2)
    assert 0 < outcome.output_tokens <= 16


@report.check("openai: all sampling flags, repetition_penalty has vLLM's meaning")
def _():
    flags = {"temperature": 0.0, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.3}
    flags |= {"frequency_penalty": 0.1, "presence_penalty": 0.1}
    (outcome,) = ask("openai", "/v1/completions", extra_body=flags, ignore_eos=True)
    wanted = post("/v1/completions", prompt=PROMPT, max_tokens=16, ignore_eos=True, **flags)["choices"][0]["text"]
    equal(outcome.generated_text, wanted)
    assert wanted != plain()["choices"][0]["text"]


@report.check("openai: token ids as prompt")
def _():
    ids = post("/tokenize", prompt=PROMPT)["tokens"]
    (outcome,) = ask("openai", "/v1/completions", **{**GREEDY, "prompt": ids})
    equal(outcome.generated_text, plain()["choices"][0]["text"])


@report.check("openai-chat: content and counts of a plain request")
def _():
    messages = [{"role": "user", "content": PROMPT}]
    wanted = post("/v1/chat/completions", messages=messages, max_tokens=16, temperature=0, ignore_eos=True)
    (outcome,) = ask("openai-chat", "/v1/chat/completions", **GREEDY)
    equal(outcome.generated_text, wanted["choices"][0]["message"]["content"])
    equal(outcome.output_tokens, wanted["usage"]["completion_tokens"])


@report.check("openai-responses: the text of a plain request")
def _():
    asked = {"input": PROMPT, "max_output_tokens": 16, "temperature": 0}
    wanted = post("/v1/responses", **asked)
    (outcome,) = ask("openai-responses", "/v1/responses", extra_body={"temperature": 0.0})
    equal(outcome.generated_text, wanted["output"][-1]["content"][0]["text"])
    equal(outcome.output_tokens, wanted["usage"]["output_tokens"])


@report.check("openai-embeddings without its truncate_prompt_tokens: the count of a plain request")
def _():
    (outcome,) = ask("openai-embeddings", "/v1/embeddings", extra_body={"truncate_prompt_tokens": None})
    equal(outcome.prompt_len, post("/v1/embeddings", input=PROMPT)["usage"]["prompt_tokens"])
