"""The teacher: a llama2.c (legacy layout) checkpoint, read and run with torch.

Two uses: a sampler (`sampler`, the inner loop in sampler.c), and the negative
log-likelihood of a given token list (`nll`).
"""

import ctypes
import re
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

BOS = 1


def read_tokenizer(path):
    """llama2.c tokenizer.bin -> list of (bytes, score), raw byte tokens decoded."""
    data = Path(path).read_bytes()
    pieces, offset = [], 4
    while offset < len(data):
        score, length = struct.unpack_from("<fi", data, offset)
        piece = data[offset + 8 : offset + 8 + length]
        offset += 8 + length
        byte = re.fullmatch(rb"<0x([0-9A-F]{2})>", piece)
        pieces.append((bytes([int(byte[1], 16)]) if byte else piece, score))
    return pieces


class CModel(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int) for n in "dim hidden layers heads kv_heads vocab seq".split()]
    _fields_ += [(n, ctypes.c_void_p) for n in "embed qkv wo w13 w2 out cos sin".split()]


class Teacher:
    def __init__(self, path):
        raw = Path(path).read_bytes()
        dim, hidden, layers, heads, kv_heads, vocab, seq = struct.unpack_from("<7i", raw)
        self.dim, self.layers, self.heads, self.kv_heads = dim, layers, heads, kv_heads
        self.vocab, self.seq = abs(vocab), seq
        self.head_dim = head_dim = dim // heads
        kv = kv_heads * head_dim
        values = torch.from_numpy(np.frombuffer(raw, np.float32, offset=28).copy())
        at = 0

        def take(*shape):
            nonlocal at
            count = int(np.prod(shape))
            at += count
            return values[at - count : at].view(*shape)

        self.embed = take(self.vocab, dim)
        norm1 = take(layers, dim)
        wq, wk, wv, wo = (take(layers, n, dim) for n in (dim, kv, kv, dim))
        norm2 = take(layers, dim)
        w1, w2, w3 = take(layers, hidden, dim), take(layers, dim, hidden), take(layers, hidden, dim)
        self.norm = take(dim)
        take(2, seq, head_dim // 2)  # rotary tables, recomputed below
        self.head = self.embed if vocab > 0 else take(self.vocab, dim)
        assert at == len(values), "unexpected checkpoint size"
        # The norm gains are folded into the matrices that follow them.
        self.wqkv = (torch.cat([wq, wk, wv], 1) * norm1[:, None]).transpose(1, 2).contiguous()
        self.wo = wo.transpose(1, 2).contiguous()
        self.w13 = (torch.cat([w1, w3], 1) * norm2[:, None]).transpose(1, 2).contiguous()
        self.w2 = w2.transpose(1, 2).contiguous()
        self.out = (self.head * self.norm).t().contiguous()
        freq = 10000.0 ** (-torch.arange(0, head_dim, 2).float() / head_dim)
        angle = torch.arange(seq).float()[:, None] * freq
        self.cos, self.sin = angle.cos(), angle.sin()

    def _unit(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)

    def _rotate(self, x, cos, sin):
        """Rotary embedding over adjacent pairs; x [..., head_dim]."""
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

    def _block(self, layer, x, attend):
        heads, kv_heads, d = self.heads, self.kv_heads, self.head_dim
        q, k, v = (self._unit(x) @ self.wqkv[layer]).split([heads * d, kv_heads * d, kv_heads * d], -1)
        x = x + attend(q, k, v) @ self.wo[layer]
        gate, up = (self._unit(x) @ self.w13[layer]).chunk(2, -1)
        return x + (F.silu(gate) * up) @ self.w2[layer]

    def sampler(self):
        """A function (seed, count, temperature, opening) that yields (tokens, finished, nll).

        `opening` is (tokens, temperature) for the start of a text: a warm opening keeps
        the texts different where a cool `temperature` keeps them coherent. `nll` is the
        mean negative log-likelihood of the tokens at temperature 1.
        """
        source = Path(__file__).with_name("sampler.c")
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "sampler.so")
            flags = "-O3 -march=native -ffast-math -shared -fPIC".split()
            subprocess.run(["cc", *flags, source, "-o", library, "-lm"], check=True)
            run = ctypes.CDLL(str(library)).sample
        hidden = -(-self.w2.shape[1] // 64) * 64
        pad = hidden - self.w2.shape[1]
        width = self.wqkv.shape[2]
        gate, up = self.w13.chunk(2, -1)
        tensors = [
            self.embed,
            F.pad(self.wqkv, (0, -width % 64)),
            self.wo,
            torch.cat([F.pad(gate, (0, pad)), F.pad(up, (0, pad))], -1),
            F.pad(self.w2, (0, 0, 0, pad)),
            self.out,
            self.cos,
            self.sin,
        ]
        tensors = [t.contiguous() for t in tensors]
        sizes = [self.dim, hidden, self.layers, self.heads, self.kv_heads, self.vocab, self.seq]
        model = CModel(*sizes, *(t.data_ptr() for t in tensors))
        cache = torch.zeros(2, self.layers * self.kv_heads * self.head_dim * self.seq)

        def sample(seed, count, temperature, opening=(0, 1.0)):
            state, nll = ctypes.c_uint64(seed * 0x10000000), ctypes.c_float()
            tokens = (ctypes.c_uint16 * self.seq)()
            assert tensors  # keeps the weights alive
            for _ in range(count):
                length = run(
                    ctypes.byref(model), ctypes.byref(state),
                    ctypes.c_float(temperature), opening[0], ctypes.c_float(opening[1]),
                    ctypes.c_void_p(cache[0].data_ptr()), ctypes.c_void_p(cache[1].data_ptr()),
                    tokens, ctypes.byref(nll),
                )
                yield tokens[: abs(length)], length >= 0, nll.value

        return sample

    @torch.inference_mode()
    def nll(self, tokens):
        """Summed negative log-likelihood (nats) of one token list that starts with BOS."""
        tokens = torch.tensor(tokens)
        h, kvh, d, length = self.heads, self.kv_heads, self.head_dim, len(tokens) - 1
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.embed[tokens[:-1]]
        for layer in range(self.layers):
            def attend(q, k, v):
                q = self._rotate(q.view(length, h, d).transpose(0, 1), cos, sin)
                k = self._rotate(k.view(length, kvh, d).transpose(0, 1), cos, sin)
                v = v.view(length, kvh, d).transpose(0, 1)
                k, v = (t.repeat_interleave(h // kvh, 0) for t in (k, v))
                y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
                return y.transpose(0, 1).reshape(length, h * d)

            x = self._block(layer, x, attend)
        return F.cross_entropy(self._unit(x) @ self.out, tokens[1:], reduction="sum").item()


def encode(text, pieces):
    """llama2.c's encoder: a dummy leading space, then greedy merges by score."""
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}  # a later piece wins over a raw byte
    out = [BOS]
    if text:
        out.append(ids[b" "])
    for char in text:
        raw = char.encode()
        out += [ids[raw]] if raw in ids else [byte + 3 for byte in raw]
    while True:
        best = None
        for i in range(1, len(out) - 1):
            merged = ids.get(pieces[out[i]][0] + pieces[out[i + 1]][0])
            if merged is not None and (best is None or pieces[merged][1] > best[0]):
                best = (pieces[merged][1], merged, i)
        if best is None:
            return out
        out[best[2] : best[2] + 2] = [best[1]]


def decode(tokens, pieces):
    raw = b"".join(pieces[t][0] for t in tokens if t > 2)
    return raw.decode("utf-8", "replace").removeprefix(" ")
