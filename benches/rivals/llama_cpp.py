#!/usr/bin/env python3
"""Measure llama.cpp on the CPU, on the shapes that Lockstep's own benchmark uses.

The script writes a GGUF file of the asked shape with random weights, loads it with
llama.cpp, and times two things, as `llama-bench` does:

* prefill: the prompt's N tokens, in batches of at most 512, logits for the last one only;
* decode: M tokens after that prompt, one at a time, each the most likely one (greedy).

Speed does not depend on the weights' values, only on their shapes and types, so random
weights measure the same as trained ones. Token ids go in and come out as numbers: the file
has no vocabulary beyond its size, and no tokenizer takes part.

The last line of standard output is one JSON object with the medians over the runs; with
`--json` it is the only line.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator

# This file has the module's name: without this, `import llama_cpp` would find the file itself.
HERE = str(Path(__file__).resolve().parent)
sys.path[:] = [p for p in sys.path if str(Path(p or ".").resolve()) != HERE]

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

BATCH = 512
"""Tokens in one prefill batch; llama.cpp's own default for its physical batch."""

POOL_BLOCKS = 65_537
"""Blocks of random weights made per type, and reused for every tensor. A prime number, and no
tensor has as many rows, so no two rows of a tensor are equal."""

STD = 0.02
"""Standard deviation of the weights: small enough for finite activations at any depth."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; `arch` is llama.cpp's name for the architecture."""

    arch: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    context: int


SHAPES = {
    "llama-1.1b": Shape("llama", 22, 2048, 32, 4, 5632, 32_000, 2048),
    "gpt2-xl": Shape("gpt2", 48, 1600, 25, 25, 6400, 50_257, 1024),
    "gpt2-small": Shape("gpt2", 12, 768, 12, 12, 3072, 50_257, 1024),
    "qwen2.5-1.5b": Shape("qwen2", 28, 1536, 12, 2, 8960, 151_936, 32_768),
}

WEIGHTS = {"q4_0": Type.Q4_0, "q8_0": Type.Q8_0, "q4_k": Type.Q4_K}
KV_TYPES = {"f16": Type.F16, "q8_0": Type.Q8_0}
FLASH = {"auto": -1, "off": 0, "on": 1}
FILE_TYPES = {
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_k": gguf.LlamaFileType.MOSTLY_Q4_K_S,
}


# --- The model file ---------------------------------------------------------------------------


def tensors(shape: Shape, weights: Type, head: Type) -> Iterator[tuple[str, tuple[int, ...], Type]]:
    """Every tensor of the file: its name, its shape (rows first) and its type."""
    s = shape
    kv = s.width // s.heads * s.kv_heads
    gpt2 = s.arch == "gpt2"

    def norm(name: str) -> Iterator[tuple[str, tuple[int, ...], Type]]:
        yield f"{name}.weight", (s.width,), Type.F32
        if gpt2:
            yield f"{name}.bias", (s.width,), Type.F32

    def linear(name: str, rows: int, cols: int) -> Iterator[tuple[str, tuple[int, ...], Type]]:
        yield f"{name}.weight", (rows, cols), weights
        if gpt2 or s.arch == "qwen2" and name.endswith(("attn_q", "attn_k", "attn_v")):
            yield f"{name}.bias", (rows,), Type.F32

    yield "token_embd.weight", (s.vocab, s.width), head
    if gpt2:
        # The head of GPT-2 (and of small Qwen2.5) is its embedding, which llama.cpp uses when there is no other.
        yield "position_embd.weight", (s.context, s.width), Type.F32
    elif s.arch != "qwen2":
        yield "output.weight", (s.vocab, s.width), head
    yield from norm("output_norm")
    for i in range(s.layers):
        blk = f"blk.{i}"
        yield from norm(f"{blk}.attn_norm")
        if gpt2:
            yield from linear(f"{blk}.attn_qkv", s.width + 2 * kv, s.width)
        else:
            yield from linear(f"{blk}.attn_q", s.width, s.width)
            yield from linear(f"{blk}.attn_k", kv, s.width)
            yield from linear(f"{blk}.attn_v", kv, s.width)
        yield from linear(f"{blk}.attn_output", s.width, s.width)
        yield from norm(f"{blk}.ffn_norm")
        if not gpt2:
            yield from linear(f"{blk}.ffn_gate", s.ffn, s.width)
        yield from linear(f"{blk}.ffn_up", s.ffn, s.width)
        yield from linear(f"{blk}.ffn_down", s.width, s.ffn)


class Pool:
    """Random quantised blocks, made once per type and handed out in turn."""

    def __init__(self, seed: int):
        self.seed = seed
        self.blocks: dict[Type, np.ndarray] = {}
        self.next: dict[Type, int] = {}

    def make(self, kind: Type) -> np.ndarray:
        """The blocks of one type: an array of bytes, one row for each block."""
        rng = np.random.default_rng([self.seed, int(kind)])
        size, nbytes = gguf.GGML_QUANT_SIZES[kind]
        if kind != Type.Q4_K:
            values = rng.standard_normal((POOL_BLOCKS, size), dtype=np.float32) * np.float32(STD)
            return gguf.quants.quantize(values, kind).reshape(POOL_BLOCKS, nbytes)
        # A Q4_K weight is d·s·q − m·t with q of 4 bits and s, t of 6 bits, all of them uniform
        # here: m = 7.5·d makes the mean zero, and the deviation is then about 280·d.
        blocks = rng.integers(0, 256, (POOL_BLOCKS, nbytes), dtype=np.uint8)
        d = STD / 280
        blocks[:, :4] = np.array([d, 7.5 * d], dtype="<f2").view(np.uint8)
        return blocks

    def take(self, dims: tuple[int, ...], kind: Type) -> np.ndarray:
        """The bytes of the next tensor, in rows."""
        if kind not in self.blocks:
            self.blocks[kind] = self.make(kind)
            self.next[kind] = 0
        size, _ = gguf.GGML_QUANT_SIZES[kind]
        start, count = self.next[kind], int(np.prod(dims)) // size
        self.next[kind] = (start + count) % POOL_BLOCKS
        data = np.take(self.blocks[kind], np.arange(start, start + count), axis=0, mode="wrap")
        return data.reshape(dims[0], -1)


def write_model(path: Path, shape: Shape, weights: str, head: str, seed: int) -> None:
    """Write the GGUF file, a tensor at a time: memory stays at one tensor and the pools."""
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, shape.arch)
    writer.add_name(path.stem)
    writer.add_file_type(FILE_TYPES[weights])
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("no_vocab")
    if shape.arch == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_layer_norm_rms_eps(1e-6 if shape.arch == "qwen2" else 1e-5)
        writer.add_rope_dimension_count(shape.width // shape.heads)
        writer.add_rope_freq_base(1_000_000.0 if shape.arch == "qwen2" else 10_000.0)

    wanted = list(tensors(shape, WEIGHTS[weights], WEIGHTS[head]))
    for name, dims, kind in wanted:
        size, nbytes = gguf.GGML_QUANT_SIZES[kind]
        if dims[-1] % size:
            raise SystemExit(f"{name}: rows of {dims[-1]} are no multiple of {kind.name}'s {size}")
        total = int(np.prod(dims)) // size * nbytes
        writer.add_tensor_info(name, dims, np.dtype(np.float32), total, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()

    pool = Pool(seed)
    rng = np.random.default_rng(seed)
    for name, dims, kind in wanted:
        if kind != Type.F32:
            data = pool.take(dims, kind)
        elif name == "position_embd.weight":
            data = rng.standard_normal(dims, dtype=np.float32) * np.float32(STD)
        else:
            data = np.full(dims, 0.0 if name.endswith(".bias") else 1.0, dtype=np.float32)
        writer.write_tensor_data(data)
    writer.close()
    part.rename(path)


# --- The measurement --------------------------------------------------------------------------


def build_commit() -> str | None:
    """The llama.cpp commit that the installed library was built from, where it says so."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    for path in sorted(folder.glob("libggml-base.*")):
        try:
            commit = ctypes.CDLL(str(path)).ggml_commit
        except (OSError, AttributeError):
            continue
        commit.restype = ctypes.c_char_p
        return commit().decode()
    return None


@llama_cpp.llama_log_callback
def log_errors(level: int, text: bytes, _data: object) -> None:
    """Keep llama.cpp quiet but for its errors (level 4)."""
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


@llama_cpp.llama_log_callback
def log_all(_level: int, text: bytes, _data: object) -> None:
    """Show all that llama.cpp says."""
    sys.stderr.write(text.decode(errors="replace"))


class Engine:
    """A loaded model and one context."""

    def __init__(self, path: Path, vocab: int, positions: int, threads: int, kv: str, flash: str):
        self.vocab = vocab
        model_params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_params)
        if not self.model:
            raise SystemExit("llama.cpp could not load the model file")
        if llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model)) != vocab:
            raise SystemExit("llama.cpp read another vocabulary size")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = positions
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = int(KV_TYPES[kv])
        params.flash_attn_type = FLASH[flash]
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp could not make a context")

    def clear(self) -> None:
        """Forget all positions."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def feed(self, tokens: list[int]) -> int:
        """Run the tokens after those already fed; return the most likely next one."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        code = llama_cpp.llama_decode(self.context, batch)
        if code:
            raise SystemExit(f"llama_decode answered {code}")
        return int(np.argmax(self.logits()))

    def logits(self) -> np.ndarray:
        """The logits of the last token fed; asking for them waits for the computation."""
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab,))

    def close(self) -> None:
        """Free the context and the model."""
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def one_run(engine: Engine, prompt: list[int], generate: int) -> tuple[float, float]:
    """Prefill and decode once; return the tokens per second of each."""
    engine.clear()
    start = time.perf_counter()
    for at in range(0, len(prompt), BATCH):
        token = engine.feed(prompt[at : at + BATCH])
    middle = time.perf_counter()
    for _ in range(generate):
        token = engine.feed([token])
    end = time.perf_counter()
    logits = engine.logits()
    if not np.isfinite(logits).all() or logits.std() == 0:
        raise SystemExit("the logits are not finite, or all equal: the model file is wrong")
    return len(prompt) / (middle - start), generate / (end - middle)


# --- The command ------------------------------------------------------------------------------


def positive(text: str) -> int:
    """A whole number from 1 up, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def parse() -> argparse.Namespace:
    """Read the command line."""
    p = argparse.ArgumentParser(description="Measure llama.cpp on the CPU with random weights.")
    p.add_argument("--shape", choices=SHAPES, default="llama-1.1b", help="default: %(default)s")
    p.add_argument("--weights", choices=WEIGHTS, default="q4_0",
                   help="type of the layers' matrices; q4_k needs sizes that 256 divides, so not gpt2-xl (default: %(default)s)")
    p.add_argument("--head", choices=("q8_0", "q4_0"), default="q8_0",
                   help="type of the embedding and the head (default: %(default)s)")
    p.add_argument("--layers", type=positive, help="fewer or more layers than the shape has, for a quick test")
    p.add_argument("--prompt", type=positive, default=512, metavar="N", help="tokens of prefill (default: %(default)s)")
    p.add_argument("--generate", type=positive, default=64, metavar="M", help="tokens of decode (default: %(default)s)")
    p.add_argument("--threads", type=positive, default=os.cpu_count(), metavar="T", help="default: all, here %(default)s")
    p.add_argument("--runs", type=positive, default=5, help="timed runs, after one that warms up (default: %(default)s)")
    p.add_argument("--kv", choices=KV_TYPES, default="f16", help="type of the KV cache (default: llama.cpp's, %(default)s)")
    p.add_argument("--flash", choices=FLASH, default="auto", help="flash attention (default: llama.cpp's, %(default)s)")
    p.add_argument("--cache", type=Path, metavar="FOLDER",
                   help="keep the model file here for later calls (default: a temporary folder, removed at the end)")
    p.add_argument("--seed", type=int, default=1, help="seed of the weights and the prompt (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print the JSON line alone")
    p.add_argument("--verbose", action="store_true", help="show llama.cpp's own messages")
    args = p.parse_args()
    if args.prompt + args.generate > SHAPES[args.shape].context:
        p.error(f"{args.shape} has {SHAPES[args.shape].context} positions: fewer tokens, please")
    return args


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Make the model file where it is not there yet, and measure."""
    say = (lambda *_: None) if args.json else (lambda *words: print(*words, flush=True))
    shape = SHAPES[args.shape]
    shape = replace(shape, layers=args.layers or shape.layers)

    path = folder / f"{args.shape}-{shape.layers}-{args.weights}-head-{args.head}-seed-{args.seed}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_model(path, shape, args.weights, args.head, args.seed)
    say(f"model: {path.name}, {path.stat().st_size / 1e6:.0f} MB")

    llama_cpp.llama_log_set(log_all if args.verbose else log_errors, None)
    llama_cpp.llama_backend_init()
    system = llama_cpp.llama_print_system_info().decode().strip()
    say(f"llama.cpp: {system}")

    positions = args.prompt + args.generate
    engine = Engine(path, shape.vocab, positions, args.threads, args.kv, args.flash)
    rng = np.random.default_rng(args.seed)
    prompt = rng.integers(0, shape.vocab, args.prompt).tolist()
    one_run(engine, prompt, args.generate)
    prefill, decode = [], []
    for i in range(args.runs):
        speeds = one_run(engine, prompt, args.generate)
        prefill.append(speeds[0])
        decode.append(speeds[1])
        say(f"run {i + 1}: prefill {speeds[0]:.2f} tokens/s, decode {speeds[1]:.2f} tokens/s")
    engine.close()

    return {
        "engine": "llama.cpp",
        "version": f"llama-cpp-python {llama_cpp.__version__}",
        "commit": build_commit(),
        "system": system,
        "shape": args.shape,
        "layers": shape.layers,
        "weights": args.weights,
        "head": args.head,
        "kv": args.kv,
        "flash": args.flash,
        "threads": args.threads,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "prompt": args.prompt,
        "generate": args.generate,
        "runs": args.runs,
        "prefill_tokens_per_second": round(statistics.median(prefill), 3),
        "decode_tokens_per_second": round(statistics.median(decode), 3),
        "prefill_runs": [round(x, 3) for x in prefill],
        "decode_runs": [round(x, 3) for x in decode],
    }


def main() -> None:
    """Run the command."""
    args = parse()
    if args.cache:
        result = measure(args, args.cache)
    else:
        with tempfile.TemporaryDirectory(prefix="rival-") as folder:
            result = measure(args, Path(folder))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
