#!/usr/bin/env python3
"""Make llama.cpp's vectors of texts, with a BERT encoder in several of its formats.

The script writes the float weights of a Hugging Face folder (safetensors in F32, F16 or BF16) as a GGUF
file, lets llama.cpp's own quantiser make each asked format of it, and embeds texts with every one of them.
Texts go in as token ids: the file has a vocabulary's size and no vocabulary, and no tokenizer takes part.

Standard input is one JSON object, `{"texts": [[101, 1996, 102], ...]}`. The last line of standard output
is one JSON object: for each format the pooled vectors, as llama.cpp gives them (not scaled to length one).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import struct
import sys
import tempfile
from pathlib import Path

# This file's folder has a file with the module's name: without this, `import llama_cpp` would find that.
HERE = str(Path(__file__).resolve().parent)
sys.path[:] = [p for p in sys.path if str(Path(p or ".").resolve()) != HERE]

import gguf
import llama_cpp
import numpy as np

FORMATS = {
    "f32": None,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
"""What llama.cpp's quantiser calls each format. Where 256 does not divide a row, it takes Q5_0 for Q4_K and Q8_0
for Q6_K by itself."""

OUTER = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
INNER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
"""Names of tensors, in the folder and in GGUF."""


# --- The model file ---------------------------------------------------------------------------


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All floating-point tensors of a safetensors file, in single precision."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    out = {}
    for name, about in header.items():
        if name == "__metadata__" or about["dtype"] not in ("F32", "F16", "BF16"):
            continue
        start, end = (8 + size + offset for offset in about["data_offsets"])
        if about["dtype"] == "BF16":
            high = np.frombuffer(data[start:end], dtype="<u2").astype("<u4")
            values = (high << 16).view("<f4")
        else:
            values = np.frombuffer(data[start:end], dtype="<f4" if about["dtype"] == "F32" else "<f2")
        out[name.removeprefix("bert.")] = values.astype(np.float32).reshape(about["shape"])
    return out


def write_model(folder: Path, pooling: str, path: Path) -> int:
    """Write the folder's model as GGUF in F32; its vocabulary's size."""
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise SystemExit(f"{folder}: expected a BERT with gelu, got {config.get('model_type')}, {config.get('hidden_act')}")
    source = read_tensors(folder / "model.safetensors")
    names = dict(OUTER)
    for i in range(config["num_hidden_layers"]):
        for theirs, ours in INNER.items():
            for part in ("weight", "bias"):
                names[f"encoder.layer.{i}.{theirs}.{part}"] = f"blk.{i}.{ours}.{part}"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(folder.name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.CLS if pooling == "cls" else gguf.PoolingType.MEAN)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for theirs, ours in names.items():
        if theirs not in source:
            raise SystemExit(f"{folder}: there is no tensor {theirs}")
        writer.add_tensor(ours, source[theirs])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config["vocab_size"]


def quantise(source: Path, target: Path, ftype: int, threads: int) -> None:
    """Let llama.cpp's quantiser make `target`, with its defaults."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, threads
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if code:
        raise SystemExit(f"llama_model_quantize answered {code}")


# --- The vectors ------------------------------------------------------------------------------


@llama_cpp.llama_log_callback
def log_errors(level: int, text: bytes, _data: object) -> None:
    """Keep llama.cpp quiet but for its errors (level 4)."""
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


def embed(path: Path, vocab: int, texts: list[list[int]], threads: int) -> list[list[float]]:
    """The pooled vector of each text."""
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp could not load {path.name}")
    if llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)) != vocab:
        raise SystemExit("llama.cpp read another vocabulary size")
    params = llama_cpp.llama_context_default_params()
    # An encoder sees a text in one batch.
    params.n_ctx = params.n_batch = params.n_ubatch = max(len(text) for text in texts)
    params.n_threads = params.n_threads_batch = threads
    params.embeddings = True
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp could not make a context")
    width = llama_cpp.llama_model_n_embd(model)
    vectors = []
    for text in texts:
        batch = llama_cpp.llama_batch_init(len(text), 0, 1)
        batch.n_tokens = len(text)
        for at, token in enumerate(text):
            batch.token[at], batch.pos[at] = token, at
            batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, 0, 1
        code = llama_cpp.llama_encode(context, batch)
        if code:
            raise SystemExit(f"llama_encode answered {code}")
        pointer = llama_cpp.llama_get_embeddings_seq(context, 0)
        vectors.append(np.ctypeslib.as_array(pointer, shape=(width,)).tolist())
        llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return vectors


def main() -> None:
    """Run the command."""
    p = argparse.ArgumentParser(description="Vectors of texts from llama.cpp, with a BERT encoder.")
    p.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a Hugging Face folder")
    p.add_argument("--formats", default="f32,q8_0,q4_0,q4_k_m", help="default: %(default)s")
    p.add_argument("--pooling", choices=("mean", "cls"), default="mean", help="default: %(default)s")
    p.add_argument("--threads", type=int, default=os.cpu_count(), metavar="T", help="default: all, here %(default)s")
    args = p.parse_args()
    formats = args.formats.split(",")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        p.error(f"formats are {', '.join(FORMATS)}, got {', '.join(unknown)}")
    texts = json.load(sys.stdin)["texts"]
    llama_cpp.llama_log_set(log_errors, None)
    llama_cpp.llama_backend_init()
    result: dict[str, object] = {"version": f"llama-cpp-python {llama_cpp.__version__}"}
    with tempfile.TemporaryDirectory(prefix="rival-") as folder:
        plain = Path(folder) / "f32.gguf"
        vocab = write_model(args.model, args.pooling, plain)
        for name in formats:
            path, ftype = plain, FORMATS[name]
            if ftype is not None:
                path = plain.with_name(f"{name}.gguf")
                quantise(plain, path, ftype, args.threads)
            result[name] = {"bytes": path.stat().st_size, "vectors": embed(path, vocab, texts, args.threads)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
