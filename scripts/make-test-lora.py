#!/usr/bin/env python3
"""Makes the LoRA adapters of tests/models, and merges an adapter into a model; both on random or given numbers alone.

    pip install gguf==0.19.0
    scripts/make-test-lora.py adapters              # writes tests/models/lora-*.gguf, the same bytes each time
    scripts/make-test-lora.py merge MODEL.gguf ADAPTER.gguf OUT.gguf [--scale 1]

A merged tensor is W + scale * (alpha / rank) * B A, in f32, whatever it was before; the others stay as they are. It is
what an adapter is held against, in other programs too. `--scale 0` writes those tensors in f32 and adds nothing.
"""

import argparse
import pathlib
import random

import gguf
import numpy as np

MODELS = pathlib.Path(__file__).resolve().parent.parent / "tests" / "models"

# For llama2-vocab-tiny.gguf: two blocks, embeddings of 64, feed-forward of 128.
WIDTHS = {
    "attn_q": (64, 64),
    "attn_k": (64, 64),
    "attn_v": (64, 64),
    "attn_output": (64, 64),
    "ffn_gate": (64, 128),
    "ffn_up": (64, 128),
    "ffn_down": (128, 64),
}
BLOCKS = 2

# Name: seed, rank, alpha, deviation, number format, parts of each block. The loud one makes numbers overflow.
ADAPTERS = {
    "lora-tiny-a": (1, 4, 8.0, 0.25, np.float32, ["attn_q", "attn_v", "ffn_down"]),
    "lora-tiny-b": (2, 2, 2.0, 0.25, np.float16, ["attn_k", "attn_output", "ffn_gate", "ffn_up"]),
    "lora-tiny-loud": (3, 1, 1.0, 1000.0, np.float32, ["attn_v"]),
}


def adapters():
    for name, (seed, rank, alpha, deviation, kind, parts) in ADAPTERS.items():
        draw = random.Random(seed)
        writer = gguf.GGUFWriter(MODELS / f"{name}.gguf", "llama")
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(f"random adapter for llama2-vocab-tiny, rank {rank}")
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for block in range(BLOCKS):
            for part in parts:
                width_in, width_out = WIDTHS[part]
                for half, shape in (("a", (rank, width_in)), ("b", (width_out, rank))):
                    numbers = [draw.gauss(0, deviation) for _ in range(shape[0] * shape[1])]
                    tensor = np.array(numbers, dtype=kind).reshape(shape)
                    writer.add_tensor(f"blk.{block}.{part}.weight.lora_{half}", tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def floats(tensor):
    return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def merge(model, adapter, out, scale):
    adapter = gguf.GGUFReader(adapter)
    alpha = float(adapter.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    halves = {tensor.name: floats(tensor) for tensor in adapter.tensors}
    model = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(out, model.fields["general.architecture"].contents())
    for name, field in model.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(
            name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        )
    for tensor in model.tensors:
        a, b = (halves.get(f"{tensor.name}.lora_{half}") for half in "ab")
        if a is None:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            factor = scale * (alpha / a.shape[0] if alpha else 1)
            merged = floats(tensor).astype(np.float64) + factor * (b.astype(np.float64) @ a.astype(np.float64))
            writer.add_tensor(tensor.name, merged.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("adapters")
    command = commands.add_parser("merge")
    for name in ("model", "adapter", "out"):
        command.add_argument(name)
    command.add_argument("--scale", type=float, default=1.0)
    given = vars(parser.parse_args())
    if given.pop("command") == "adapters":
        adapters()
    else:
        merge(**given)


if __name__ == "__main__":
    main()
