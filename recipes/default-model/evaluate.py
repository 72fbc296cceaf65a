"""Step 5: bits per byte beside the teacher, and the unselected samples of the model card.

Everything is computed from the exported folder: the bf16 weights, widened to f32.
"""

import argparse
import json
import math
import os
import re
from pathlib import Path

import jinja2
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from model import Config, Llama
from prepare import SAME
from teacher import BOS, Teacher, encode, read_tokenizer

# The chat instructions of seeds 0, 2, 4, ...; odd seeds start from BOS alone.
ASKED = [
    "Tell me a story about a dog and a ball.",
    "Write a short story about a girl named Lucy.",
    "Can you tell me a story about a cat?",
    "Tell me a story.",
    "Please tell me a story about a fish and a boat.",
    "I want to hear a story about Tom and a big tree.",
    "Write a story about a frog.",
    "Make up a story about a bird, a flower and a girl named Mia.",
    "story about a red car",
    "Hello!",
]


def load(folder):
    fields = json.loads((folder / "config.json").read_text())
    config = Config(**{k: v for k, v in fields.items() if k in Config.__dataclass_fields__})
    model = Llama(config)
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def stories_of(path):
    text = path.read_text(encoding="utf-8")
    return [s.strip() for s in text.split("<|endoftext|>") if s.strip()]


@torch.inference_mode()
def bits_per_byte(model, tokenizer, stories):
    """Each story from BOS, its end token counted; per byte of the story's text."""
    nats = size = 0
    for story in stories:
        ids = torch.tensor([tokenizer.encode(story).ids + [1]])
        nats += F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="sum").item()
        size += len(story.encode())
    return nats / size / math.log(2)


@torch.inference_mode()
def generate(model, ids, seed, limit, temperature=0.7, top_p=0.9):
    generator = torch.Generator().manual_seed(seed)
    past = [{} for _ in model.model.layers]
    logits, out = model(torch.tensor([ids]), past)[0, -1], []
    while len(out) < limit:
        prob, index = (logits / temperature).softmax(-1).sort(descending=True)
        prob[prob.cumsum(-1) - prob > top_p] = 0
        out.append(index[torch.multinomial(prob, 1, generator=generator)].item())
        if out[-1] == 1:
            break
        logits = model(torch.tensor([out[-1:]]), past)[0, -1]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder written by export.py")
    parser.add_argument("--data", default=os.environ.get("LOCKSTEP_DATA"))
    parser.add_argument("--tokens", type=int, default=100, help="length limit of a sample")
    parser.add_argument("--card", type=Path, help="model card whose marked sections are rewritten")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load(args.model)
    config = json.loads((args.model / "tokenizer_config.json").read_text())
    template = jinja2.Template(config["chat_template"])

    stories = stories_of(Path(args.data, "text-tinystories-sample/tinystories_sample.txt"))
    teacher = Teacher(Path(args.data, "llama-stories260k/stories260K.bin"))
    pieces = read_tokenizer(Path(args.data, "llama-stories260k/tok512.bin"))
    rows = ["| model | bits per byte | with plain quotes |", "|---|---|---|"]
    plain = [s.translate(SAME) for s in stories]
    ours = [bits_per_byte(model, tokenizer, texts) for texts in (stories, plain)]
    theirs = []
    for texts in (stories, plain):
        nats = sum(teacher.nll(encode(s, pieces) + [BOS]) for s in texts)
        theirs.append(nats / sum(len(s.encode()) for s in texts) / math.log(2))
    for name, (given, quotes) in (("this model (bf16)", ours), ("stories260K (f32)", theirs)):
        rows.append(f"| {name} | {given:.3f} | {quotes:.3f} |")
    bits = "\n".join(rows)
    print(bits)

    samples = []
    for seed in range(20):
        if seed % 2:
            prompt, shown = "<s>", "(plain)"
        else:
            messages = [{"role": "user", "content": ASKED[seed // 2]}]
            prompt = template.render(messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=True)
            shown = ASKED[seed // 2]
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        out = generate(model, ids, seed, args.tokens)
        ended = out[-1] == 1
        text = tokenizer.decode(out)
        samples.append(f"**Seed {seed}**, {shown}\n\n> " + text.replace("\n", "\n>\n> ") + ("" if ended else " [...]"))
    samples = "\n\n".join(samples)
    print(samples)
    if args.card:
        card = args.card.read_text()
        for name, body in (("bits", bits), ("samples", samples)):
            start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
            pattern = re.escape(start) + ".*?" + re.escape(end)
            card, count = re.subn(pattern, lambda _: f"{start}\n{body}\n{end}", card, flags=re.S)
            assert count == 1, f"the card has no section {name}"
        args.card.write_text(card)


if __name__ == "__main__":
    main()
