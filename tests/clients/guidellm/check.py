"""guidellm's command line, with the backend that it uses for any server: each request succeeds, with the bits of a plain one."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "python"))

from report import URL, Report, equal, post  # noqa: E402

PROMPTS = {"The capital of Michigan is ": 8, "Once upon a time": 12, "A list of cities:": 16}
report = Report("guidellm", "guidellm")


def bench(route, stream, profile):
    """The successful requests of a run, after making sure that no others were sent."""
    backend = {"kind": "openai_http", "target": URL, "request_format": route, "stream": stream}
    backend |= {"extras": {"body": {"temperature": 0}}}
    with tempfile.TemporaryDirectory() as folder:
        data, result = pathlib.Path(folder, "prompts.jsonl"), pathlib.Path(folder, "result.json")
        rows = ({"prompt": prompt, "output_tokens_count": tokens} for prompt, tokens in PROMPTS.items())
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        command = [pathlib.Path(sys.executable).with_name("guidellm"), "run", "--disable-console"]
        command += ["--backend", json.dumps(backend), "--profile", profile, "--data", f"kind=json_file,path={data}"]
        command += ["--constraint", "kind=max_requests,count=3", "--output", f"kind=json,path={result}"]
        # torch.py is found beside this file; the other two keep the libraries from asking for torch and from the network.
        own = {"PYTHONPATH": str(HERE), "USE_TORCH": "0", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(done.stdout[-2000:])
        (benchmark,) = json.loads(result.read_text())["benchmarks"]
    requests = benchmark["requests"]
    equal(len(requests["errored"] or []) + len(requests["incomplete"] or []), 0, "requests that failed")
    equal(len(requests["successful"]), len(PROMPTS), "requests that succeeded")
    return requests["successful"]


def same_as_plain(requests, plain):
    """`plain` gives the text of a prompt, and how many tokens it had."""
    for request in requests:
        body = json.loads(request["request_args"])["body"]
        text, prompt_tokens, tokens = plain(body)
        equal(request["output"], text)
        equal(request["input_metrics"]["text_tokens"], prompt_tokens)
        equal(request["output_metrics"]["text_tokens"], tokens)


def completion(body):
    answer = post("/v1/completions", **{**body, "stream": False, "stream_options": None})
    usage = answer["usage"]
    equal(usage["completion_tokens"], PROMPTS[body["prompt"]])
    return answer["choices"][0]["text"], usage["prompt_tokens"], usage["completion_tokens"]


def chat(body):
    answer = post("/v1/chat/completions", **{**body, "stream": False, "stream_options": None})
    usage = answer["usage"]
    return answer["choices"][0]["message"]["content"], usage["prompt_tokens"], usage["completion_tokens"]


def response(body):
    answer = post("/v1/responses", **{**body, "stream": False})
    usage = answer["usage"]
    return answer["output"][-1]["content"][0]["text"], usage["input_tokens"], usage["output_tokens"]


@report.check("/v1/completions: a stream, with usage in each chunk")
def _():
    requests = bench("/v1/completions", True, "kind=synchronous")
    same_as_plain(requests, completion)
    for request in requests:
        timings = request["info"]["timings"]
        assert timings["first_token_iteration"] < timings["last_token_iteration"], "one chunk"
        equal(timings["token_iterations"], request["output_metrics"]["text_tokens"], "tokens that were timed")


@report.check("/v1/completions: unstreamed")
def _():
    same_as_plain(bench("/v1/completions", False, "kind=synchronous"), completion)


@report.check("/v1/chat/completions: a stream, three at once")
def _():
    same_as_plain(bench("/v1/chat/completions", True, "kind=concurrent,streams=3"), chat)


@report.check("/v1/chat/completions: unstreamed")
def _():
    same_as_plain(bench("/v1/chat/completions", False, "kind=synchronous"), chat)


@report.check("/v1/responses: a stream")
def _():
    same_as_plain(bench("/v1/responses", True, "kind=synchronous"), response)
