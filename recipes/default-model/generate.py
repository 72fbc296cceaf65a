"""Step 1: sample raw stories from the teacher into JSON-lines shards.

Every shard is one batch with its own seed, so a run can be stopped and resumed,
or split over processes (--first / --step), and still yields the same shards.
"""

import argparse
import json
import os
import time
from pathlib import Path

from teacher import Teacher, decode, read_tokenizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default=os.environ.get("LOCKSTEP_DATA"), help="folder holding llama-stories260k")
parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
parser.add_argument("--shards", type=int, default=400)
parser.add_argument("--first", type=int, default=0)
parser.add_argument("--step", type=int, default=1)
parser.add_argument("--batch", type=int, default=500, help="stories in a shard")
parser.add_argument("--temperature", type=float, default=0.55)
parser.add_argument("--opening", type=int, default=20, help="this many first tokens use --opening-temperature")
parser.add_argument("--opening-temperature", type=float, default=0.75)
parser.add_argument("--seed", type=int, default=1000)
args = parser.parse_args()

teacher = Teacher(Path(args.data, "llama-stories260k/stories260K.bin"))
sample = teacher.sampler()
pieces = read_tokenizer(Path(args.data, "llama-stories260k/tok512.bin"))
args.out.mkdir(parents=True, exist_ok=True)
for shard in range(args.first, args.shards, args.step):
    path = args.out / f"{shard:05d}.jsonl"
    if path.exists():
        continue
    start = time.time()
    rows = sample(args.seed + shard, args.batch, args.temperature, (args.opening, args.opening_temperature))
    lines = [
        json.dumps({"finished": done, "nll": round(nll, 4), "text": decode(tokens, pieces)})
        for tokens, done, nll in rows
    ]
    partial = path.with_suffix(".part")
    partial.write_text("\n".join(lines) + "\n")
    partial.rename(path)
    print(f"shard {shard}: {sum(map(len, lines)) / 1e3:.0f} kB in {time.time() - start:.1f} s", flush=True)
