#!/usr/bin/env python3
"""Trains the two Iris models of models/iris and writes them as ONNX. Plain Python, no packages.

    python3 recipes/iris/train.py IRIS.CSV models/iris

- iris-ols.onnx: ordinary least squares of the class index (0 setosa, 1 versicolor, 2 virginica) on the four
  measurements in centimetres. One output; the class is the nearest index.
- iris-mlp.onnx: 4-20-20-3 with ReLU, trained by Adam on the cross entropy. The largest output is the class.

Every fifth row (the 5th, 10th, ...) is held out from the MLP; OLS uses the same 120 rows. Everything is fixed by
the seed: the same Python gives the same files. (Another libm may change the last bits of the MLP.)
"""

import csv
import math
import random
import struct
import sys
from pathlib import Path

SEED = 1
EPOCHS = 100
RATE = 0.01
HIDDEN = 20
CLASSES = ["setosa", "versicolor", "virginica"]


def read(path):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [([float(x) for x in row[:4]], CLASSES.index(row[4])) for row in rows]


# -- ordinary least squares -------------------------------------------------------------------


def solve(a, b):
    """Gaussian elimination with pivoting."""
    n = len(b)
    m = [row[:] + [y] for row, y in zip(a, b)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(m[r][i]))
        m[i], m[pivot] = m[pivot], m[i]
        for r in range(i + 1, n):
            f = m[r][i] / m[i][i]
            m[r] = [x - f * y for x, y in zip(m[r], m[i])]
    x = [0.0] * n
    for i in reversed(range(n)):
        x[i] = (m[i][n] - sum(m[i][j] * x[j] for j in range(i + 1, n))) / m[i][i]
    return x


def least_squares(rows):
    xs = [x + [1.0] for x, _ in rows]
    a = [[sum(x[i] * x[j] for x in xs) for j in range(5)] for i in range(5)]
    b = [sum(x[i] * y for x, (_, y) in zip(xs, rows)) for i in range(5)]
    *weights, bias = solve(a, b)
    return [([weights], [bias])]


# -- the multi-layer perceptron ---------------------------------------------------------------


def forward(layers, x):
    """Values of all layers; ReLU behind all but the last."""
    values = [x]
    for i, (w, b) in enumerate(layers):
        y = [sum(p * q for p, q in zip(row, values[-1])) + c for row, c in zip(w, b)]
        values.append([max(v, 0.0) for v in y] if i + 1 < len(layers) else y)
    return values


def gradients(layers, batch):
    grads = [([[0.0] * len(w[0]) for _ in w], [0.0] * len(b)) for w, b in layers]
    loss = 0.0
    for x, label in batch:
        values = forward(layers, x)
        top = max(values[-1])
        e = [math.exp(v - top) for v in values[-1]]
        total = sum(e)
        loss -= math.log(e[label] / total)
        delta = [v / total - (i == label) for i, v in enumerate(e)]
        for i in reversed(range(len(layers))):
            gw, gb = grads[i]
            below = values[i]
            for row, d in enumerate(delta):
                if d:
                    gb[row] += d
                    line = gw[row]
                    for j, v in enumerate(below):
                        line[j] += d * v
            if i:
                w = layers[i][0]
                delta = [
                    sum(d * w[row][j] for row, d in enumerate(delta)) if v > 0 else 0.0
                    for j, v in enumerate(below)
                ]
    scale = 1 / len(batch)
    return loss * scale, [([[g * scale for g in line] for line in gw], [g * scale for g in gb]) for gw, gb in grads]


def train(rows):
    rng = random.Random(SEED)
    n = len(rows)
    mean = [sum(x[i] for x, _ in rows) / n for i in range(4)]
    std = [math.sqrt(sum((x[i] - mean[i]) ** 2 for x, _ in rows) / n) for i in range(4)]
    data = [([(v - m) / s for v, m, s in zip(x, mean, std)], y) for x, y in rows]
    sizes = [4, HIDDEN, HIDDEN, 3]
    layers = []
    for before, after in zip(sizes, sizes[1:]):
        bound = math.sqrt(6 / before)
        layers.append(([[rng.uniform(-bound, bound) for _ in range(before)] for _ in range(after)], [0.0] * after))
    moments = [([[[0.0, 0.0] for _ in line] for line in w], [[0.0, 0.0] for _ in b]) for w, b in layers]
    for step in range(1, EPOCHS + 1):
        loss, grads = gradients(layers, data)
        c1, c2 = 1 - 0.9**step, 1 - 0.999**step

        def update(value, gradient, moment, decay):
            moment[0] = 0.9 * moment[0] + 0.1 * gradient
            moment[1] = 0.999 * moment[1] + 0.001 * gradient * gradient
            return value - RATE * (moment[0] / c1 / (math.sqrt(moment[1] / c2) + 1e-8) + decay * value)

        for (w, b), (gw, gb), (mw, mb) in zip(layers, grads, moments):
            for line, gline, mline in zip(w, gw, mw):
                line[:] = [update(v, g, m, 0.01) for v, g, m in zip(line, gline, mline)]
            b[:] = [update(v, g, m, 0.0) for v, g, m in zip(b, gb, mb)]
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.4f}")
    # Centring and scaling become part of the first layer: the file takes centimetres.
    w, b = layers[0]
    first = [[v / s for v, s in zip(line, std)] for line in w]
    bias = [c - sum(v * m for v, m in zip(line, mean)) for line, c in zip(first, b)]
    return [(first, bias)] + layers[1:]


# -- ONNX ------------------------------------------------------------------------------------


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def number(field, n):
    return varint(field << 3) + varint(n)


def block(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name, dims, values):
    raw = b"".join(struct.pack("<f", v) for v in values)
    return b"".join(number(1, d) for d in dims) + number(2, 1) + block(8, name) + block(9, raw)


def node(op, inputs, output, attributes=b""):
    return b"".join(block(1, i) for i in inputs) + block(2, output) + block(4, op) + attributes


def value_info(name, width):
    shape = block(1, block(2, "N")) + block(1, number(1, width))
    return block(1, name) + block(2, block(1, number(1, 1) + block(2, shape)))


def onnx(name, layers):
    nodes, tensors, value = [], [], "x"
    trans_b = block(5, block(1, "transB") + number(3, 1) + number(20, 2))
    for i, (w, b) in enumerate(layers):
        tensors += [tensor(f"w{i}", [len(w), len(w[0])], sum(w, [])), tensor(f"b{i}", [len(b)], b)]
        last = i + 1 == len(layers)
        out = "y" if last else f"h{i}"
        nodes.append(node("Gemm", [value, f"w{i}", f"b{i}"], out, trans_b))
        if not last:
            nodes.append(node("Relu", [out], f"r{i}"))
        value = f"r{i}"
    graph = b"".join(block(1, n) for n in nodes) + block(2, name) + b"".join(block(5, t) for t in tensors)
    graph += block(11, value_info("x", 4)) + block(12, value_info("y", len(layers[-1][1])))
    return number(1, 8) + block(2, "recipes/iris/train.py") + block(7, graph) + block(8, block(1, "") + number(2, 13))


# ---------------------------------------------------------------------------------------------


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rows = read(sys.argv[1])
    out = Path(sys.argv[2])
    held = rows[4::5]
    kept = [row for i, row in enumerate(rows) if i % 5 != 4]

    def nearest(y):
        return min(max(round(y[0]), 0), 2)

    def largest(y):
        return y.index(max(y))

    for name, layers, classify in [
        ("iris-ols", least_squares(kept), nearest),
        ("iris-mlp", train(kept), largest),
    ]:
        right = [sum(classify(forward(layers, x)[-1]) == y for x, y in part) for part in (rows, held)]
        print(f"{name}: {right[0]} of {len(rows)}, held out {right[1]} of {len(held)}")
        (out / f"{name}.onnx").write_bytes(onnx(name, layers))


if __name__ == "__main__":
    main()
