#!/usr/bin/env python3
"""Lockstep and llama.cpp in turn, on the same shapes, in the same minutes: medians and ratios.

Each round runs `lockstep bench` and then llama_cpp.py as processes of their own, so that whatever
else the machine does falls on both. llama.cpp is run under both OpenMP wait policies and its better
figure counts. Needs a built `lockstep` and the virtual environment of README.md:

    python3 benches/rivals/compare.py --lockstep target/release/lockstep --python VENV/bin/python
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess

FIGURES = ("prefill_tokens_per_second", "decode_tokens_per_second")
# Lockstep's storage and the rival's of the same size.
PAIRS = {"int4": "q4_0", "int8": "q8_0"}


def last_json(command, environment=None):
    """The JSON object on the last line that `command` prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


def lockstep(arguments, shape, weights):
    """One run of ours."""
    return last_json([
        arguments.lockstep, "bench", "--shape", shape, "--weights", weights, "--threads", str(arguments.threads),
        "--prompt", str(arguments.prompt), "--generate", str(arguments.generate), "--runs", "1", "--json",
    ])


def llama_cpp(arguments, shape, weights, policy):
    """One run of the rival."""
    script = pathlib.Path(__file__).with_name("llama_cpp.py")
    command = [
        arguments.python, str(script), "--shape", shape, "--weights", weights, "--threads", str(arguments.threads),
        "--prompt", str(arguments.prompt), "--generate", str(arguments.generate), "--runs", "1", "--json",
    ]
    if arguments.cache:
        command += ["--cache", arguments.cache]
    environment = dict(os.environ)
    environment.pop("OMP_WAIT_POLICY", None)
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    return last_json(command, environment)


def compare(arguments, shape, weights):
    """Medians of both over all rounds, and their ratio."""
    ours = {figure: [] for figure in FIGURES}
    theirs = {policy: {figure: [] for figure in FIGURES} for policy in ("", "passive")}
    for _ in range(arguments.rounds):
        result = lockstep(arguments, shape, weights)
        for figure in FIGURES:
            ours[figure].append(result[figure])
        for policy, figures in theirs.items():
            result = llama_cpp(arguments, shape, PAIRS[weights], policy)
            for figure in FIGURES:
                figures[figure].append(result[figure])
    row = {"shape": shape, "weights": weights, "rival": PAIRS[weights], "rounds": arguments.rounds}
    for figure in FIGURES:
        mine = statistics.median(ours[figure])
        best = max(statistics.median(figures[figure]) for figures in theirs.values())
        row[figure] = {"lockstep": round(mine, 1), "llama_cpp": round(best, 1), "ratio": round(mine / best, 2)}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lockstep", default="target/release/lockstep")
    parser.add_argument("--python", default="python3", help="the interpreter that has llama-cpp-python")
    parser.add_argument("--cache", help="folder for the rival's model files")
    parser.add_argument("--shapes", default="llama-1.1b,gpt2-xl")
    parser.add_argument("--weights", default="int4,int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for shape in arguments.shapes.split(","):
        for weights in arguments.weights.split(","):
            print(json.dumps(compare(arguments, shape, weights)), flush=True)


if __name__ == "__main__":
    main()
