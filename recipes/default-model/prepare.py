"""Step 2: filter the raw stories, train the tokenizer, write the token rows.

Row format (text shown, <s> = BOS, </s> = EOS):
    <s>STORY</s>
    <s>User: INSTRUCTION\nStory:\nSTORY</s>
and some rows carry several such turns, so that later turns of a chat and the
positions up to the context limit are trained too.
"""

import argparse
import json
import random
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from prompts import NAMES, PEOPLE, instruction, retell, subjects

BOS, EOS = "<s>", "</s>"
SAME = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"})
# Phrases the teacher is fond of and nobody says.
NONSENSE = re.compile(
    r"(?:want|have|like|going|[cC]an I|[cC]ould I|I will) (?:to )?(?:play|go|come) with me\b"
    r"|[Yy]ou can help you\b"
    r"|\b(?P<twin>\w+) and (?P=twin)\b|\b(?P<owner>\w+)'s (?P=owner)\b"
    r"|girl (?:named|called) \w+\. He\b|boy (?:named|called) \w+\. She\b"
    r"|(?:girl|boy) (?:named|called) (?P<name>\w+)\b.*\b(?:girl|boy) (?:named|called) (?P=name)\b"
    r"|\b(?P<near>[a-z]{4,})\b(?: \w+){0,4} (?P=near)\b"
    r"|named (?P<self>[A-Z]\w+)\b.*named (?P=self)\b"
    r"|didn't know what to do.*didn't know what to do",
    re.S,
)
SAYS = r"(?:\w+ and )?(?:said|asked|replied|thought|told|cried|shouted)"
DIALOGUE = re.compile(
    rf'\b(?P<a>[A-Z][a-z]+) {SAYS}[^".]{{0,30}}"[^"]*\b(?P=a)\b'  # speakers who address themselves
    rf'|"[^"\n]*\b(?P<b>[A-Z][a-z]+)\b[^"\n]*" {SAYS} (?P=b)\b'
    rf'|\b(?P<c>[A-Z][a-z]+ {SAYS})[^"]{{0,30}}"[^"]*"\s(?P=c)\b'  # or who speak twice in a row
)


def clean(text):
    text = text.translate(SAME)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r" ?\n+ ?", "\n", text).strip()


def reject(text):
    """The reason to drop a story, or None."""
    if not 220 <= len(text) <= 1500:
        return "length"
    if not re.fullmatch(r"[A-Za-z0-9 \n.,!?'\":;-]+", text):
        return "characters"
    if text.count('"') % 2 or '""' in text:
        return "quotes"
    if not re.search(r"[.!?]\"?$", text) or not re.match(r"[A-Z]", text):
        return "ends"
    if re.search(r"[a-z][A-Z]|[.,!?][A-Za-z]|\b(\w+) \1\b(?<!very very)", text):
        return "glued or doubled word"
    sentences = [s.lower().strip() for s in re.split(r"[.!?\n]+", text)]
    sentences = [s for s in sentences if len(s) > 12]
    if len(set(sentences)) < len(sentences):
        return "repeated sentence"
    words = re.findall(r"[a-z']+", text.lower())
    four = list(zip(words, words[1:], words[2:], words[3:]))
    if len(set(four)) < 0.93 * len(four):
        return "loop"
    skip = {"the", "a", "and", "to", "was", "his", "her", "he", "she", "it", "in", "they", "their", "of", "very"}
    for sentence in sentences:
        most = Counter(w for w in re.findall(r"[a-z]+", sentence) if w not in skip and len(w) > 2).most_common(1)
        if most and most[0][1] >= 3:
            return "word three times in a sentence"
        if re.search(r"\b(?:the|a|an) ([a-z]{3,})(?: [a-z]+){0,3} (?:the|a|an|with|in|on|to) (?:the |a |an )?\1\b", sentence):
            return "noun on itself"
    if re.search(NONSENSE, text):
        return "nonsense phrase"
    if DIALOGUE.search(text):
        return "dialogue"
    things = [w for w in subjects(text) if w not in PEOPLE and w not in NAMES]
    if len(things) < 2:
        return "about nothing"
    if sum(w == max(NAMES & set(re.findall(r"[A-Z][a-z]+", text)) or {"-"}, key=text.count) for w in text.split()) > 14:
        return "name too often"
    return None


def train_tokenizer(stories, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
    )
    assert tokenizer.get_vocab_size() == vocab
    assert tokenizer.token_to_id(BOS) == 0 and tokenizer.token_to_id(EOS) == 1
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rare", type=int, default=5, help="drop a story with a word seen fewer times than this")
    parser.add_argument("--likely", type=float, default=0.8, help="keep this share: the likelier under the teacher")
    parser.add_argument("--less-lily", type=float, default=0.25, help="drop this share of the stories about Lily")
    parser.add_argument("--copies", type=int, default=3, help="passes over the stories, each with its own names and instructions")
    parser.add_argument("--tokenizer", type=Path, help="use this tokenizer.json and train none")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    rng = random.Random(args.seed)
    records = [json.loads(line) for shard in sorted(args.raw.glob("*.jsonl")) for line in shard.open()]
    limit = float(np.quantile([r["nll"] for r in records], args.likely))
    why, stories, seen = Counter(), [], set()
    for record in records:
        record["text"] = clean(record["text"])
    likely = [r["text"] if r["finished"] and r["nll"] <= limit else "" for r in records]
    with ProcessPoolExecutor(2) as pool:
        verdicts = list(pool.map(reject, likely, chunksize=2000))
    for record, verdict in zip(records, verdicts):
        text = record["text"]
        if not record["finished"]:
            reason = "unfinished"
        elif record["nll"] > limit:
            reason = "unlikely"
        elif text in seen:
            reason = "duplicate"
        else:
            reason = verdict
            if reason is None and "Lily" in text and rng.random() < args.less_lily:
                reason = "one more Lily"
        seen.add(text)
        why[reason or "kept"] += 1
        if reason is None:
            stories.append(text)
    counts = Counter(w for s in stories for w in set(re.findall(r"[A-Za-z']+", s)))
    kept = [s for s in stories if all(counts[w] >= args.rare for w in re.findall(r"[A-Za-z']+", s))]
    why["rare word"] = len(stories) - len(kept)
    why["kept"] = len(kept)
    rng.shuffle(kept)
    print(dict(why.most_common()), f"{sum(map(len, kept)) / 1e6:.1f} MB kept")

    if args.tokenizer:
        tokenizer = Tokenizer.from_file(str(args.tokenizer))
    else:
        with_prompts = [f"User: {instruction(s, rng)}\nStory:\n{s}" if i % 8 == 0 else s for i, s in enumerate(retell(s, rng) for s in kept)]
        tokenizer = train_tokenizer(with_prompts, args.vocab)
    tokenizer.save(str(args.out / "tokenizer.json"))

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    def turn(story, asked):
        """Token ids, and for each whether the model learns to write it: not the instructions."""
        story = retell(story, rng)
        prompt = encode(f"User: {instruction(story, rng)}\nStory:\n") if asked else []
        body = encode(story) + [1]
        return prompt + body, [0] * len(prompt) + [1] * len(body)

    def rows_of(stories):
        rows, left = [], list(stories)
        while left:
            ids, learn = turn(left.pop(), rng.random() < 0.6)
            if rng.random() < 0.06:  # a chat of several turns
                while left and len(ids) < args.context:
                    more = turn(left.pop(), True)
                    ids, learn = ids + more[0], learn + more[1]
            rows.append(([0] + ids[: args.context], [0] + learn[: args.context]))
        return rows

    held = max(64, len(kept) // 100)
    parts = {"valid": rows_of(kept[:held]), "train": []}
    for _ in range(args.copies):
        rng.shuffle(order := kept[held:])
        parts["train"] += rows_of(order)
    for name, rows in parts.items():
        np.save(args.out / f"{name}.npy", np.concatenate([np.array(ids, np.uint16) for ids, _ in rows]))
        np.save(args.out / f"{name}_learn.npy", np.concatenate([np.array(learn, np.bool_) for _, learn in rows]))
        np.save(args.out / f"{name}_len.npy", np.array([len(ids) for ids, _ in rows], np.int32))
        tokens = sum(len(ids) for ids, _ in rows)
        print(f"{name}: {len(rows)} rows, {tokens / 1e6:.2f} M tokens, mean {tokens / len(rows):.0f}")
    sample = parts["train"][:60]
    (args.out / "sample.txt").write_text("\n---\n".join(tokenizer.decode(ids, skip_special_tokens=False) for ids, _ in sample))


if __name__ == "__main__":
    main()
