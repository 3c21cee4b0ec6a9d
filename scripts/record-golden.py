#!/usr/bin/env python3
"""Records the reference's answers on a GGUF file, for tests/golden and `make test-models`.

    pip install -r scripts/reference.txt
    scripts/record-golden.py MODEL.gguf OUT.json [--cases tests/golden/avx512/smollm2-135m.json …]

The requests are those of the files given by --cases. Each is answered on a fresh context with flash attention off.
`aligned` holds, for echoed prompts of models without BOS, the rows that predict each token: the reference pairs each
token with the row after it. A prompt with a suffix is sent as `prompt_ids`: the reference itself would put token 0 where
the model's own belong, and cut off the beginning of the suffix.

`conversations` of the files are rendered with the model's chat template as transformers would, and `embeddings` pooled in
each of the ways they name.
"""

import argparse
import copy
import json
import os

import llama_cpp
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from llama_cpp import Llama, LlamaGrammar

N_CTX = 2048
N_BATCH = 512


def aligned(llama, request, response):
    """token_logprobs and top_logprobs with each token's own row, from the scores of the evaluation just done."""
    prompt = llama.tokenize(request["prompt"].encode(), add_bos=False, special=True)
    generated = [int(token) for token in llama._input_ids[len(prompt) :]]
    tokens = prompt + generated
    count = len(response["choices"][0]["logprobs"]["tokens"])
    scores = Llama.logits_to_logprobs(llama._scores)

    def text(token):
        return llama.detokenize([token]).decode("utf-8", errors="ignore")

    token_logprobs, top_logprobs = [None], [None]
    for place in range(1, min(count, len(tokens))):
        row = scores[place - 1]
        best = sorted(zip(row.tolist(), range(len(row))), reverse=True)[: request["logprobs"]]
        top = {text(token): logprob for logprob, token in best}
        top[text(tokens[place])] = float(row[tokens[place]])
        token_logprobs.append(float(row[tokens[place]]))
        top_logprobs.append(top)
    return {"token_logprobs": token_logprobs, "top_logprobs": top_logprobs}


def filled_in(llama, prefix, suffix):
    def ids(text):
        return llama.tokenize(text.encode(), add_bos=False, special=False)

    model = llama._model
    return [model.token_prefix(), *ids(prefix), model.token_suffix(), *ids(suffix), model.token_middle()]


def record(llama, case):
    request = dict(case["request"])
    arguments = dict(request)
    if "suffix" in request:
        arguments["prompt"] = filled_in(llama, request["prompt"], arguments.pop("suffix"))
    if "grammar" in arguments:
        arguments["grammar"] = LlamaGrammar.from_string(arguments["grammar"], verbose=False)
    if "logit_bias" in arguments:
        arguments["logit_bias"] = {int(k): v for k, v in arguments["logit_bias"].items()}
    llama.reset()
    llama._ctx.kv_cache_clear()
    response = llama.create_completion(**arguments)
    result = {"name": case["name"], "request": request}
    if request.get("stream"):
        response = list(response)
    result["response"] = response
    if request.get("echo") and "logprobs" in request and not llama._model.add_bos_token():
        result["aligned"] = aligned(llama, request, response)
    if "suffix" in request:
        result["prompt_ids"] = arguments["prompt"]
        # It counts ids where it should count the characters of the prompt.
        offsets = response["choices"][0]["logprobs"]["text_offset"]
        surplus = len(arguments["prompt"]) - len(request["prompt"])
        offsets[:] = [offset - surplus for offset in offsets]
    return result


def rendered(llama, conversation):
    """The conversation with the text that transformers' `apply_chat_template` makes of it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(llama.metadata["tokenizer.chat_template"])
    # Clients send arguments as text, and templates expect objects.
    body = copy.deepcopy(conversation["body"])
    for message in body["messages"]:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return dict(conversation, prompt=template.render(**body, add_generation_prompt=True))


def embedded(path, pooling, texts):
    """The texts' vectors, of length 1."""
    kinds = {"mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN, "last": llama_cpp.LLAMA_POOLING_TYPE_LAST}
    options = {"n_ctx": N_CTX, "n_batch": N_BATCH, "flash_attn": False, "verbose": False}
    llama = Llama(path, embedding=True, pooling_type=kinds[pooling], **options)
    return [llama.embed(text, normalize=True) for text in texts]


def plain(value):
    """numpy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    here = os.path.dirname(os.path.abspath(__file__))
    cases = os.path.join(here, "..", "tests", "golden", "avx512", "smollm2-135m.json")
    parser.add_argument("--cases", nargs="+", default=[cases])
    options = parser.parse_args()
    wanted = {"cases": [], "conversations": [], "embeddings": []}
    for path in options.cases:
        with open(path) as file:
            content = json.load(file)
        for key, items in wanted.items():
            items += content.get(key, [])
    llama = Llama(options.model, n_ctx=N_CTX, n_batch=N_BATCH, logits_all=True, flash_attn=False, verbose=False)
    golden = {
        "reference": f"llama-cpp-python {llama_cpp.__version__}",
        "n_ctx": N_CTX,
        "n_batch": N_BATCH,
        "bos_added": bool(llama._model.add_bos_token()),
        "flash_attention": "off",
        "kv_cache": "f16",
        "n_ubatch": N_BATCH,
        "cases": [record(llama, case) for case in wanted["cases"]],
        "conversations": [rendered(llama, conversation) for conversation in wanted["conversations"]],
    }
    llama.close()
    golden["embeddings"] = [
        dict(case, vectors=embedded(options.model, case["pooling"], case["texts"])) for case in wanted["embeddings"]
    ]
    # The path says nothing about the model, and would tell about the machine.
    name = os.path.basename(options.model)
    text = json.dumps(golden, default=plain, ensure_ascii=False, indent=1).replace(json.dumps(options.model)[1:-1], name)
    with open(options.out, "w") as file:
        file.write(text + "\n")
    print(f"{options.out}: {len(golden['cases'])} cases")


if __name__ == "__main__":
    main()
