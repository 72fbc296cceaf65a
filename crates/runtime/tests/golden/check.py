#!/usr/bin/env python3
"""A second implementation of docs/spec/arithmetic.md, sections 1 to 8 and 10, and of docs/spec/nets.md, step by step as the text says.

It shares nothing with the Rust code: integers of any size, no tricks, the bounds of the text as
assertions. It reads the golden files beside it, computes every case again and compares. Standard
library only. Usage: check.py [file ...]; exit status 1 at a difference.
"""

import hashlib
import sys
from decimal import ROUND_FLOOR, Decimal, getcontext
from math import isqrt
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = ["tables", "rounding", "quantise", "norm", "families", "linear", "residual", "attention", "ffn", "sampling", "encoder", "nets", "layer"]
LIMIT = 127 * 2**23
getcontext().prec = 60


class RangeExceeded(Exception):
    """A value outside a bound that the text marks **range**."""


# ---- section 1


def bl(x):
    assert x >= 0
    return x.bit_length()


def rsh(x, s):
    assert s >= 0
    return x if s == 0 else (x + 2 ** (s - 1)) // 2**s


def scale(x, s):
    if s > 28:
        return 0
    if s >= 0:
        return rsh(x, s)
    return within(x * 2**-s, LIMIT)


def within(x, bound):
    if abs(x) > bound:
        raise RangeExceeded
    return x


def halves(x, bits):
    """The range of two's complement: -2^bits <= x < 2^bits."""
    if not -(2**bits) <= x < 2**bits:
        raise RangeExceeded
    return x


def smallest(condition):
    """The smallest s >= 0 that satisfies `condition`."""
    s = 0
    while not condition(s):
        s += 1
    return s


def top(x):
    return max(abs(v) for v in x)


# ---- sections 2 and 3


def floored(x, e):
    """floor(x / 2^e)."""
    return x // 2**e if e >= 0 else x * 2**-e


def first_shift(x):
    """e and x16."""
    e = 0
    if any(x):
        e = next(e for e in range(-15, 16) if all(-(2**15) <= floored(v, e) < 2**15 for v in x))
    return e, [floored(v, e) for v in x]


def quantise(x, rho, base):
    assert top(x) < 2**30 and 2**13 <= rho <= 2**14
    e, x16 = first_shift(x)
    choices = []
    for k, r in [(k, (2**18 + k // 2) // k) for k in range(16, 32)]:
        rho_k = rsh(rho * r, 14)
        assert rho_k <= 2**14 and top(x16) * rho_k <= 2**29
        sh = smallest(lambda s: all(-127 <= rsh(v * rho_k, s) <= 127 for v in x16))
        choices.append((k * 2**sh, k, rho_k, sh))
    assert len({size for size, *_ in choices}) == 16, "never a tie"
    _, k, rho_k, sh = min(choices)
    # What a proof shows of the step: the one element that binds fits neither e - 1 nor the next smaller step.
    one = max(range(len(x)), key=lambda i: (abs(x16[i]), x16[i]))
    if any(x):
        assert not -(2**15) <= floored(x[one], e - 1) < 2**15 or e == -15
        finer, s = (31, sh - 1) if k == 16 else (k - 1, sh)
        rho_finer = rsh(rho * ((2**18 + finer // 2) // finer), 14)
        assert not -127 <= rsh(x16[one] * rho_finer, s) <= 127
    return [rsh(v * rho_k, sh) for v in x16], k, sh + e + base


def plain_site(x, frac):
    return quantise(x, 2**14, -14 - frac)


def inverse_rms(x, norm_eps):
    """Steps 1 to 3: (es, S, S', kk, rho)."""
    n, (e, x16) = len(x), first_shift(x)
    b = (29 - bl(n - 1)) // 2
    q, es = [rsh(v, 15 - b) for v in x16], e + 15 - b
    assert top(q) <= 2**b
    total = sum(v**2 for v in q)
    assert total <= 2**29
    s_prime = min(max(total + floored(norm_eps, 2 * es), 1), 2**29)
    kk = smallest(lambda kk: isqrt(4**kk * n // s_prime) >= 2**13)
    rho = isqrt(4**kk * n // s_prime)
    assert 2**13 <= rho < 2**14 and rho**2 * s_prime <= 4**kk * n < (rho + 1) ** 2 * s_prime
    return es, total, s_prime, kk, rho


def norm(x, norm_eps):
    es, total, s_prime, kk, rho = inverse_rms(x, norm_eps)
    codes, k, f = quantise(x, rho, -es - kk)
    return {"es": es, "S": total, "S'": s_prime, "kk": kk, "rho": rho, "k": k, "f": f, "codes": codes}


def gain_norm(x, mantissas, shifts, offsets, eps, out_frac, centred):
    n = len(x)
    if centred:
        e, x16 = first_shift(x)
        x = [n * v - sum(x16) for v in x16]
        assert top(x) < 2**29
        eps = floored(eps * n * n, 2 * e)
    es, _, _, kk, rho = inverse_rms(x, eps)
    e, x16 = first_shift(x)
    frac = 17 - (bl(n - 1) + 1) // 2
    out = []
    for i, v in enumerate(x16):
        assert abs(v * rho) <= 2**29
        u = scale(v * rho, kk + es - e - frac)
        assert abs(u * mantissas[i]) <= LIMIT
        y = scale(u * mantissas[i], shifts[i] + frac - out_frac)
        out.append(within(y + (offsets[i] if offsets else 0), LIMIT))
    return {"y": out}


def soft_cap(x, table, shift):
    a = min(abs(x), 2 ** (12 + shift) - 1)
    step, rest = a // 2**shift, a % 2**shift
    y = table[step] + rsh(rest * (table[step + 1] - table[step]), shift)
    return -y if x < 0 else y


def route(logits, frac, per_token, normalise, exp2):
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    chosen = order[:per_token]
    p = {i: exp2[min(scale(min(logits[order[0]] - logits[i], 2**29), frac - 8), 4095)] for i in order}
    total = sum(p[i] for i in (chosen if normalise else order))
    out = []
    for i in chosen:
        if p[i]:
            kk = smallest(lambda kk: 2**kk * p[i] // total >= 2**13)
            rho = 2**kk * p[i] // total
            assert 2**13 <= rho < 2**14 and rho * total <= 2**kk * p[i] < (rho + 1) * total
            out += [i, rho, kk]
    return {"choice": out}


# ---- section 4


def linear(matrix, x, k, f):
    """acc and y of one token; `matrix` holds w (rows of int8), m, s, s1, bias, F."""
    accs, ys = [], []
    for i, row in enumerate(matrix["w"]):
        assert len(row) == len(x)
        acc = sum(w * v for w, v in zip(row, x))
        if matrix["low"]:
            assert all(-64 <= w <= 64 for w in matrix["low"][i])
            acc += sum(w * v for w, v in zip(matrix["low"][i], x)) // 128
        assert abs(acc) <= 2**30
        t = halves(rsh(acc, matrix["s1"]), 19)
        v = t * (matrix["m"][i] * k)
        assert abs(v) < 2**29
        y = within(scale(v, matrix["s"][i] + 4 - matrix["s1"] - f - matrix["F"]), LIMIT)
        ys.append(within(y + (matrix["bias"][i] if matrix["bias"] else 0), LIMIT))
        accs.append(acc)
    return accs, ys


# ---- section 5


def residual(x):
    return halves(x, 28)


# ---- section 6


def rope(x, cs):
    y = []
    for i in range(0, len(x), 2):
        (a, b), (c, s) = x[i : i + 2], cs[i : i + 2]
        y += [rsh(a * c - b * s, 14), rsh(a * s + b * c, 14)]
    return y


def head_codes(x, bound):
    e = smallest(lambda e: all(-bound <= rsh(v, e) <= bound for v in x))
    return [rsh(v, e) for v in x], e


def value_codes(x):
    """Codes and the byte of their step."""
    codes, k, f = quantise(x, 2**14, -14)
    if top(x) == 0:
        k, f = 16, -7
    assert 16 <= k <= 31 and -7 <= f <= 8
    return codes, 16 * (f + 7) + k - 16


def scores(q, e_q, keys, e_k, frac, slope=None, capped=None):
    out = []
    for j, (key, e) in enumerate(zip(keys, e_k)):
        s = sum(a * b for a, b in zip(q, key))
        assert abs(s) <= 2**29
        if frac - 8 - e_q - e < 0:
            raise RangeExceeded
        t = within(scale(s, frac - 8 - e_q - e), 2**27 - 1)
        if capped:
            t = soft_cap(t, *capped)
        if slope:
            a, b = slope
            t -= rsh(a * (len(keys) - 1 - j), b)
        out.append(t)
    return out


def blocks(x, first):
    """`x` of the positions from `first` on, cut at multiples of 256."""
    out = {}
    for j, v in enumerate(x, first):
        out.setdefault(j // 256, []).append(v)
    return list(out.values())


def width(n):
    return max(0, bl(n) - 8)


def softmax(t, step_v, exp2, first):
    steps = [(16 + byte % 16, byte // 16 - 7) for byte in step_v]
    m, big_e = max(t), max(f for _, f in steps)
    d = [min(m - v, 4095) for v in t]
    p = [exp2[v] for v in d]
    z = sum(rsh(sum(part), width(len(t))) for part in blocks(p, first))
    return {"m": m, "Z": z, "E": big_e, "d": d, "p'": [rsh(v * k, 5 + big_e - f) for v, (k, f) in zip(p, steps)]}


def attention_output(p, values, z, big_e, first):
    """(the sums of each block, o, y)"""
    if not 1 <= z <= 2**23:
        raise RangeExceeded
    partial = []
    for part in blocks(list(zip(p, values)), first):
        partial.append([sum(w * value[c] for w, value in part) for c in range(len(values[0]))])
        assert top(partial[-1]) <= LIMIT
    o = [sum(rsh(part[c], width(len(p))) for part in partial) for c in range(len(values[0]))]
    assert top(o) <= LIMIT
    sh = max(0, bl(127 * z) - 15)
    kz = bl(z) + 13
    rz = 2**kz // z
    assert 2**13 <= rz <= 2**14
    y = []
    for v in o:
        o16 = rsh(v, sh)
        assert abs(o16 * rz) <= 2**29 or top(o) > 127 * z
        y.append(within(scale(o16 * rz, kz - sh - big_e - 9), LIMIT))
    return partial, o, y


# ---- section 7


def activation(g, frac, act):
    g8 = scale(g, frac - 8)
    if g8 >= 4096:
        return g
    return 0 if g8 < -4096 else scale(act[g8 + 4096], 11 - frac)


def gated(g, u, frac, act):
    return [rsh(activation(a, frac, act) * b, 7) for a, b in zip(g, u)]


def hadamard(h, block):
    assert len(h) % block == 0
    z = []
    for at in range(0, len(h), block):
        part = h[at : at + block]
        z += [sum(v if (i & j).bit_count() % 2 == 0 else -v for j, v in enumerate(part)) for i in range(block)]
    assert top(z) <= 2**29
    return z


# ---- section 8


def sampled(logits, frac, tau, top_k, top_p, word, exp2_sample):
    """{w, kept, Z, token}; the token alone where it is greedy."""
    if tau < 64:
        return {"token": logits.index(max(logits))}
    c = 1549082005 * 2**16 // tau
    beta = c // 2 ** (bl(c) - 14)
    bs = 22 + frac - (bl(c) - 14)
    big, cap = max(logits), 4096 * 2**bs // beta + 1
    e = max(0, bl(cap) - 15)
    w = []
    for logit in logits:
        product = rsh(min(big - logit, cap), e) * beta
        assert product <= 2**29
        w.append(exp2_sample[min(rsh(product, bs - e), 4095)])
    kept = sorted(range(len(w)), key=lambda j: (-logits[j], j))
    if top_k > 0:
        kept = kept[:top_k]
    z_k = sum(w[j] for j in kept)
    if top_p < 2**16:
        count = next(n for n in range(1, len(kept) + 1) if 2**16 * sum(w[j] for j in kept[:n]) >= top_p * z_k)
        kept = kept[:count]
    kept = sorted(kept)
    z = sum(w[j] for j in kept)
    u, prefix = word * z // 2**64, 0
    for token in kept:
        prefix += w[token]
        if prefix > u:
            return {"w": w, "kept": kept, "Z": z, "token": token}
    raise AssertionError("no candidate")


def draw(seed, position):
    return int.from_bytes(hashlib.sha256(seed + position.to_bytes(4, "big")).digest()[:8], "big")


# ---- section 10


def exp2_table(bits):
    """round(2^bits 2^(-d/256)), by 256th powers; the last entry is 0."""
    precise = 256
    root = 2 << precise
    for _ in range(8):
        root = isqrt(root << precise)
    entries, power = [], (1 << bits) << precise
    for d in range(4096):
        value = (power + (1 << (precise - 1))) >> precise
        if d < 40 or d % 256 in (1, 255):  # the definition itself, exactly, where it is cheap enough
            exact = 2 ** (256 * (bits + 1) - d)
            assert (2 * value - 1) ** 256 <= exact < (2 * value + 1) ** 256
        entries.append(value)
        power = (power << precise) // root
    return entries[:-1] + [0]


def silu_table():
    def entry(i):
        x = Decimal(i - 4096) / 256
        return int((2048 * x / (1 + (-x).exp()) + Decimal("0.5")).to_integral_value(ROUND_FLOOR))

    return [entry(i) for i in range(8192)]


# ---- a layer: sections 2 to 7


def rotated(x, block, norm_eps, residual_frac):
    """3.3: z and its codes."""
    e, x16 = first_shift(x)
    z = hadamard(x16 + [0] * (-len(x) % 32), block)
    if norm_eps is None:
        rho, base = 2**14, e - 14 - residual_frac
    else:
        es, _, _, kk, rho = inverse_rms(x, norm_eps)
        base = e - es - kk
    codes, k, f = quantise(z, rho, base)
    return {"e": e, "z": z, "k": k, "f": f, "codes": codes}


def site(case, x):
    """Codes and step of what enters a sublayer (3.1; 3.3 where the stream is rotated online)."""
    block = case.word("block") if case.has("block") else None
    if not block:
        normed = norm(x, case.one("norm_eps"))
        return normed["codes"], normed["k"], normed["f"]
    e, x16 = first_shift(x)
    padded = -(-len(x) // 32) * 32
    z = hadamard(x16 + [0] * (padded - len(x)), min(128, padded & -padded))
    assert top(z) <= 2**22
    if block == "post":
        return quantise(z, 2**14, e - 14 - case.one("R"))
    es, _, _, kk, rho = inverse_rms(x, case.one("norm_eps"))
    return quantise(z, rho, e - es - kk)


# Matrices that an adapter may stand beside, in execution order; codes between its own for the last token.
TARGETS = ["q", "k", "v", "o", "gate", "up", "down"]
ADAPTED = {}


def with_gains(case, name, x):
    ints, one = case.list, case.one
    offsets = ints(name + ".offsets") if case.has(name + ".offsets") else []
    numbers_of = ints(name + ".g"), ints(name + ".t"), offsets, one(name + ".eps"), one(name + ".F")
    return gain_norm(x, *numbers_of, one(name + ".centred") == 1)["y"]


def apply(case, name, codes, k, f, bound):
    """Outputs, padded codes and F of a matrix of the case."""
    matrix = read_matrix(case, name + ".")
    padded = codes + [0] * (len(matrix["w"][0]) - len(codes))
    ys = [within(y, bound) for y in linear(matrix, padded, k, f)[1]]
    if case.has(name + ".A.w"):
        a, b = read_matrix(case, name + ".A."), read_matrix(case, name + ".B.")
        between = [within(y, 32767) for y in linear(a, padded, k, f)[1]]
        own, *step = plain_site(between, a["F"])
        own += [0] * (len(b["w"][0]) - len(own))
        run = TARGETS.index(name)
        note(ADAPTED, "adapter_codes", own, *step, f".{run}" if run else "")
        added = linear(b, own, *step)[1]
        if name in ("o", "down"):
            added = [halves(v, 26) for v in added]
        ys = [within(y + v, bound) for y, v in zip(ys, added)]
    return ys, padded, matrix["F"]


def note(out, name, codes, k, f, run=""):
    out[name + run], out[name + run + ".k"], out[name + run + ".f"] = codes, k, f


def heads_of(case, x, position, out):
    """Codes and exponents of q, k and v of one token, and their formats: section 6, steps 0 to 3."""
    dim = case.one("head_dim")
    codes, *step = site(case, x)
    q, padded, f_q = apply(case, "q", codes, *step, 32767)
    k, _, f_k = apply(case, "k", codes, *step, 32767)
    v, _, f_v = apply(case, "v", codes, *step, 32767)
    note(out, "attn_norm", padded, *step)
    out |= {"q_proj": q, "k_proj": k, "v_proj": v}
    q, k, v = chunks(q, dim), chunks(k, dim), chunks(v, dim)
    if case.has("q_norm.g"):
        q = [[within(y, 32767) for y in with_gains(case, "q_norm", head)] for head in q]
        k = [[within(y, 32767) for y in with_gains(case, "k_norm", head)] for head in k]
        f_q, f_k = case.one("q_norm.F"), case.one("k_norm.F")
    if case.has("rope"):
        turned = case.one("rope_dim") if case.has("rope_dim") else dim
        cs = case.list("rope")[position * turned : (position + 1) * turned]
        q, k = [[rope(head[:turned], cs) + head[turned:] for head in heads] for heads in (q, k)]
    centre = chunks(case.list("k_center"), dim)
    k = [[a - b for a, b in zip(head, c)] for head, c in zip(k, centre)]
    bound = 1023 if dim > 128 else 2047
    q, k = [[head_codes(head, bound) for head in heads] for heads in (q, k)]
    v = [value_codes(head) for head in v]
    for name, heads in (("q_codes", q), ("k_codes", k), ("v_codes", v)):
        out[name] = [code for codes, _ in heads for code in codes]
        out[name + ".e"] = [e for _, e in heads]
    return q, k, v, f_q + f_k, f_v


def attention(case, tokens, position, out):
    """Output of attention of one token, all heads: section 6, steps 4 to 7."""
    n_heads, n_kv = case.one("n_heads"), case.one("n_kv_heads")
    first = max(0, position + 1 - case.one("window")) if case.has("window") else 0
    seen = tokens if case.has("pooling") else tokens[first : position + 1]
    all_d, stats, partial, y = [], [], [], []
    for head, (codes, e_q) in enumerate(tokens[position][0]):
        keys, values = ([token[i][head * n_kv // n_heads] for token in seen] for i in (1, 2))
        slope = case.list("alibi")[2 * head : 2 * head + 2] if case.has("alibi") else None
        t = scores(codes, e_q, [key[0] for key in keys], [key[1] for key in keys], tokens[0][3], slope, cap(case))
        soft = softmax(t, [value[1] for value in values], TABLES["exp2"], first)
        z, big_e = soft["Z"], soft["E"]
        (o,), _, y_head = attention_output(soft["p'"], [value[0] for value in values], z, big_e, first)
        all_d, stats, partial, y = all_d + soft["d"], stats + [soft["m"], z, big_e], partial + o, y + y_head
    out |= {"scores": all_d, "softmax": stats, "attn_partial": partial, "attn": y}
    return y


def cap(case):
    """Table and shift of the soft cap."""
    if not case.has("score_cap"):
        return None
    shift, slope = case.list("score_cap")
    return [i * 2**shift * slope // (slope + i * 2**shift) for i in range(4097)], shift


def network(case, prefix, codes, k, f, rho, kk, out, run=""):
    """One feed-forward network: section 7, steps 1 to 4, with the factor rho 2^-kk of its codes."""
    has_gate = case.has(prefix + "gate.w")
    u, _, f_u = apply(case, prefix + "up", codes, k, f, 16383 if has_gate else 32767)
    if has_gate:
        g, _, f_g = apply(case, prefix + "gate", codes, k, f, 32767)
        out["gate_proj" + run] = g
        h, f_h = gated(g, u, f_g, TABLES["activation"]), f_g + f_u - 7
        assert top(h) <= 2**22
    elif case.has("relu"):
        h, f_h = [max(v, 0) for v in u], f_u
    else:
        h, f_h = [activation(v, f_u, TABLES["activation"]) for v in u], f_u
    out |= {"up_proj" + run: u, "hidden" + run: h}
    columns = case.one(prefix + "down.cols")
    z = hadamard(h + [0] * (columns - len(h)), min(128, columns & -columns))
    hidden, *step = quantise(z, rho, -kk - f_h)
    note(out, "hidden_codes", hidden, *step, run)
    y, _, _ = apply(case, prefix + "down", hidden, *step, LIMIT)
    out["down_proj" + run] = y
    return y


def feed_forward(case, x, out):
    codes, *step = site(case, x)
    note(out, "ffn_norm", codes + [0] * (-len(codes) % 32), *step)
    if not case.has("experts"):
        return network(case, "", codes, *step, 2**14, 14, out)
    _, per_token, normalise = case.list("experts")
    logits, _, f_r = apply(case, "router", codes, *step, 32767)
    choice = route(logits, f_r, per_token, normalise == 1, TABLES["exp2"])["choice"]
    out |= {"router_logits": logits, "router_choice": choice + [-1, 0, 0] * (per_token - len(choice) // 3)}
    total = [0] * len(x)
    for slot, (expert, rho, kk) in enumerate(chunks(choice, 3)):
        run = f".{slot}" if slot else ""
        y = [halves(v, 28 - bl(per_token - 1)) for v in network(case, f"e{expert}.", codes, *step, rho, kk, out, run)]
        total = [a + b for a, b in zip(total, y)]
    return total


def join(case, name, op, x, y, out):
    """A sublayer's output joins the stream: sections 5 and 7."""
    block = case.word("block") if case.has("block") else None
    if block == "sandwich":
        y = with_gains(case, name, y)
        out[op + "_post_norm"] = y
    x = [residual(a + b) for a, b in zip(x, y)]
    if block == "post":
        x = [residual(v) for v in with_gains(case, name, x)]
    out[op + "_residual"] = x
    return x


def layer(case):
    ADAPTED.clear()
    rows, out = chunks(case.list("rows"), case.one("d_model")), {}
    tokens = [heads_of(case, x, position, out) for position, x in enumerate(rows)]
    for position, x in enumerate(rows):
        y = attention(case, tokens, position, out)
        codes, *step = plain_site(y, tokens[position][4] + 8)
        o, padded, _ = apply(case, "o", codes, *step, LIMIT)
        note(out, "attn_codes", padded, *step)
        out["o_proj"] = o
        x = join(case, "attn_post", "attn", x, o, out)
        # What the last token leaves is what is compared: earlier ones may have other experts.
        found = {}
        x = join(case, "ffn_post", "ffn", x, feed_forward(case, x, found), found)
    return out | found | ADAPTED


# ---- the files


def chunks(x, n):
    return [x[at : at + n] for at in range(0, len(x), n)]


def fields(lines):
    found, key = {}, None
    for line in lines:
        words = line.split()
        if not line.startswith(" "):
            key, words = words[0], words[1:]
            assert key not in found, key
            found[key] = []
        found[key] += words
    return found


def numbers(words):
    pairs = (word.split("*") if "*" in word else (word, "1") for word in words)
    return [number for value, count in pairs for number in [int(value)] * int(count)]


class Case:
    def __init__(self, block):
        lines = block.splitlines()
        border = lines.index("----")
        self.name = lines[0].removeprefix("case ")
        self.fields, self.expected = fields(lines[1:border]), fields(lines[border + 1 :])

    def has(self, key):
        return key in self.fields

    def word(self, key):
        return self.fields[key][0]

    def list(self, key):
        return numbers(self.fields[key])

    def one(self, key):
        (value,) = self.list(key)
        return value


def read(name):
    text = (HERE / (name + ".txt")).read_text()
    return [Case(block) for block in text.split("\n\n") if block.startswith("case ")]


def read_matrix(case, p):
    cols = case.one(p + "cols")
    matrix = {key: case.list(p + key) for key in ("m", "s")} | {key: case.one(p + key) for key in ("s1", "F")}
    matrix["bias"] = case.list(p + "bias") if case.has(p + "bias") else []
    if case.has(p + "nibbles"):
        tables, ids = chunks(case.list(p + "tables"), 16), chunks(case.list(p + "ids"), cols // 32)
        nibbles = chunks(case.list(p + "nibbles"), cols)
        matrix["w"] = [
            [tables[row_ids[col // 32]][nibble] for col, nibble in enumerate(row)]
            for row_ids, row in zip(ids, nibbles)
        ]
    else:
        matrix["w"] = chunks(case.list(p + "w"), cols)
    matrix["low"] = chunks(case.list(p + "low"), cols) if case.has(p + "low") else []
    assert all(-127 <= w <= 127 for row in matrix["w"] for w in row)
    return matrix


def table(case):
    name, entries = case.word("name"), case.list("entries")
    define = {"exp2": lambda: exp2_table(15), "exp2_sample": lambda: exp2_table(24), "activation": silu_table}
    assert entries == define[name](), "the entries are not those of section 10"
    size = 4 if name == "exp2_sample" else 2
    data = b"".join(v.to_bytes(size, "little", signed=name == "activation") for v in entries)
    return {"sha256": hashlib.sha256(data).hexdigest()}


def net(case):
    """Every value of a small network (nets.md): images are {(row, column, channel): integer}."""
    height, width_, channels = case.list("shape")
    shape, x = (height, width_, channels), case.list("x")
    assert all(case.one("low") <= v <= case.one("high") for v in x)
    # Shape, integers in order, fractional bits or step.
    values, out = [(shape, x, case.one("F"))], {}

    def at(value, i, j, c):
        (h, w, d), x, _ = value
        return x[(i * w + j) * d + c] if 0 <= i < h and 0 <= j < w else None

    def windows(value, kernel, strides, pads):
        (h, w, _), (top_, left, bottom, right) = value[0], pads
        rows = (h + top_ + bottom - kernel[0]) // strides[0] + 1
        columns = (w + left + right - kernel[1]) // strides[1] + 1
        for i in range(rows):
            for j in range(columns):
                corner = i * strides[0] - top_, j * strides[1] - left
                yield [(corner[0] + a, corner[1] + b) for a in range(kernel[0]) for b in range(kernel[1])]

    def size(value, kernel, strides, pads):
        (h, w, _) = value[0]
        return (
            (h + pads[0] + pads[2] - kernel[0]) // strides[0] + 1,
            (w + pads[1] + pads[3] - kernel[1]) // strides[1] + 1,
        )

    node = 0
    while case.has(f"node{node}"):
        name, *rest = case.fields[f"node{node}"]
        rest = [int(word) for word in rest]
        value = values[rest[0]]
        (h, w, d), x, frac = value
        if name == "pad":
            top_, left, bottom, right = rest[1:]
            new = h + top_ + bottom, w + left + right, d
            places = [(i - top_, j - left) for i in range(new[0]) for j in range(new[1])]
            found = [at(value, i, j, c) or 0 for i, j in places for c in range(d)]
        elif name == "quantise":
            codes, k, f = plain_site(x, frac)
            new, found, frac = (h, w, d), codes, (k, f)
        elif name in ("linear", "conv"):
            matrix = read_matrix(case, f"m{rest[1]}.")
            window = [[1, 1], [1, 1], [0] * 4] if name == "linear" else [rest[2:4], rest[4:6], rest[6:]]
            new = *size(value, *window), len(matrix["w"])
            found = []
            for places in windows(value, *window):
                patch = [at(value, i, j, c) or 0 for i, j in places for c in range(d)]
                found += linear(matrix, patch + [0] * (len(matrix["w"][0]) - len(patch)), *frac)[1]
            frac = matrix["F"]
        elif name == "relu":
            new, found = (h, w, d), [max(v, 0) for v in x]
        elif name == "max_pool":
            window = [rest[1:3], rest[3:5], rest[5:]]
            new, found = (*size(value, *window), d), []
            for places in windows(value, *window):
                for c in range(d):
                    found.append(max(v for v in (at(value, i, j, c) for i, j in places) if v is not None))
        elif name == "flatten":
            new, found = (1, 1, h * w * d), [x[place * d + c] for c in range(d) for place in range(h * w)]
        elif name == "add":
            other, new = values[rest[1]], (h, w, d)
            found = [scale(a, frac - rest[2]) + scale(b, other[2] - rest[2]) for a, b in zip(x, other[1])]
            frac = rest[2]
        else:
            raise AssertionError(f"unknown op {name}")
        assert name == "quantise" or all(within(v, 2**29) == v for v in found)
        node += 1
        values.append((new, found, frac))
        out[f"v{node}"] = found
        if name == "quantise":
            out[f"v{node}.k"], out[f"v{node}.f"] = frac
    return out


def compute(case):
    op, one, ints = case.word("op"), case.one, case.list
    if op == "table":
        return table(case)
    if op == "rsh":
        return {"y": [rsh(x, one("s")) for x in ints("x")]}
    if op == "scale":
        return {"y": [scale(x, one("s")) for x in ints("x")]}
    if op == "quantise":
        codes, k, f = quantise(ints("x"), one("rho"), one("base"))
        return {"k": k, "f": f, "codes": codes}
    if op == "norm":
        return norm(ints("x"), one("norm_eps"))
    if op == "gain_norm":
        offsets = ints("offsets") if case.has("offsets") else []
        numbers_of = ints("x"), ints("g"), ints("t"), offsets, one("eps"), one("F"), one("centred") == 1
        return gain_norm(*numbers_of)
    if op == "soft_cap":
        slope, shift = one("slope"), one("shift")
        ends = [i * 2**shift * slope // (slope + i * 2**shift) for i in range(4097)]
        return {"y": [soft_cap(x, ends, shift) for x in ints("x")]}
    if op == "route":
        return route(ints("logits"), one("F"), one("per_token"), one("normalise") == 1, TABLES["exp2"])
    if op == "alibi":
        assert one("a") < 2**12 and max(ints("distance")) < 2**17
        return {"bias": [rsh(one("a") * distance, one("b")) for distance in ints("distance")]}
    if op == "linear":
        matrix = read_matrix(case, "")
        acc, y = linear(matrix, ints("x"), one("k"), one("f"))
        y = [within(v, one("bound") if case.has("bound") else LIMIT) for v in y]
        return {"y": y} if matrix["low"] else {"acc": acc, "y": y}
    if op == "rotated":
        eps, frac = (one(key) if case.has(key) else None for key in ("norm_eps", "R"))
        return rotated(ints("x"), one("B"), eps, frac)
    if op == "relu":
        return {"a": [max(g, 0) for g in ints("g")]}
    if op == "pool":
        rows = chunks(ints("rows"), one("d_model"))
        n = len(rows)
        mean = [(2 * sum(column) + n) // (2 * n) for column in zip(*rows)]
        return {"y": rows[0] if case.word("of") == "first" else mean}
    if op == "net":
        return net(case)
    if op == "embed":
        x = [residual(scale(code, one("F") - one("R"))) for code in ints("codes")]
        if case.has("position_codes"):
            more = [residual(scale(code, one("position_F") - one("R"))) for code in ints("position_codes")]
            x = [residual(a + b) for a, b in zip(x, more)]
        return {"x": x}
    if op == "residual_add":
        return {"x": [residual(a + b) for a, b in zip(ints("x"), ints("y"))]}
    if op == "rope":
        return {"y": rope(ints("x"), ints("cs"))}
    if op == "codes8":
        codes, byte = value_codes(ints("x"))
        return {"step": byte, "codes": codes}
    if op == "codes16":
        codes, e = head_codes(ints("x"), one("bound"))
        return {"e": e, "codes": codes}
    if op == "scores":
        keys = chunks(ints("keys"), len(ints("q")))
        slope = ints("slope") if case.has("slope") else None
        return {"t": scores(ints("q"), one("e_q"), keys, ints("e_k"), one("F"), slope)}
    if op == "softmax":
        return softmax(ints("t"), ints("step_v"), TABLES["exp2"], one("first") if case.has("first") else 0)
    if op == "attention":
        p, values = ints("p'"), ints("values")
        first = one("first") if case.has("first") else 0
        _, o, y = attention_output(p, chunks(values, len(values) // len(p)), one("Z"), one("E"), first)
        return {"o": o, "y": y}
    if op == "activation":
        return {"a": [activation(g, one("F"), TABLES["activation"]) for g in ints("g")]}
    if op == "gated":
        return {"h": gated(ints("g"), ints("u"), one("F"), TABLES["activation"])}
    if op == "hadamard":
        return {"z": hadamard(ints("h"), one("B"))}
    if op == "draw":
        return {"draw": draw(bytes.fromhex(case.word("seed")), one("position"))}
    if op == "sample":
        arguments = (one(key) for key in ("F", "temperature_q16", "top_k", "top_p_q16", "draw"))
        return sampled(ints("l"), *arguments, TABLES["exp2_sample"])
    if op == "layer":
        return layer(case)
    raise AssertionError(f"unknown op {op}")


def difference(case):
    """What differs, or nothing."""
    try:
        got = compute(case)
    except RangeExceeded:
        got = {"error": "range"}
    got = {key: value if isinstance(value, list) else [value] for key, value in got.items()}
    expected = {
        key: words if key in ("error", "sha256") else numbers(words) for key, words in case.expected.items()
    }
    keys = [key for key in got.keys() | expected.keys() if got.get(key) != expected.get(key)]
    return "; ".join(f"{key}: computed {got.get(key)}, file {expected.get(key)}" for key in sorted(keys))


TABLES = {case.word("name"): case.list("entries") for case in read("tables")}


def main(names):
    failed = count = 0
    for name in names:
        for case in read(name.removesuffix(".txt")):
            found, count = difference(case), count + 1
            if found:
                failed += 1
                print(f"{name}, case {case.name!r}: {found}", file=sys.stderr)
    print(f"check.py: {count} cases, {failed} differ")
    return 1 if failed or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or FILES))
