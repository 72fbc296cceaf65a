"""Instructions made from a story: every noun or name asked for occurs in the story."""

import re

NOUNS = """
dog cat bird ball tree park box car bear toy flower boat fish bunny rabbit frog duck mouse lion
tiger elephant monkey horse cow pig sheep fox owl bee butterfly bug ant spider turtle snake squirrel
puppy kitten doll teddy truck train bike plane rocket robot kite balloon hat dress shirt shoe sock
apple banana orange carrot cake cookie pie soup sandwich pizza candy honey juice milk egg bread cheese
berry fruit garden forest beach river lake pond sea ocean mountain hill cave castle house room kitchen
school store farm zoo playground slide swing bed chair table door window lamp clock book picture
paper pencil crayon paint drawing song music drum piano guitar game puzzle block tower sandcastle sand
stone rock shell leaf stick seed nest moon star sun sky cloud rain snow rainbow wind storm fire
king queen prince princess knight wizard fairy dragon monster giant ghost witch pirate doctor farmer
baker teacher policeman fireman painter treasure map key coin jewel ring crown gift present party
birthday picnic magic wish dream secret surprise friend mom dad grandma grandpa brother sister baby
boy girl man woman family parrot penguin dolphin whale shark crab octopus dinosaur deer wolf goat
chicken hen rooster goose swan worm snail ladybug camera phone computer bag basket bucket bottle cup
bowl plate spoon fork knife blanket pillow towel soap brush mirror bell whistle rope ladder hammer
wheel bus van tractor helicopter ship bridge road street city town village
""".split()
PEOPLE = set("mom dad grandma grandpa brother sister baby boy girl man woman family friend".split())
MALE = "Tim Tom Ben Max Sam Jack Bob Billy Joe John Leo Mike Fred Charlie Dan Luke".split()
FEMALE = "Lily Lucy Sue Mia Sara Anna Jane Mary Amy Emma Daisy Ella Molly Bella Rose Nina".split()
SHORT = {"Timmy": "Tim", "Tommy": "Tom", "Bobby": "Bob", "Jim": "Joe", "Sarah": "Sara", "Lola": "Lily"}
NAMES = set(MALE + FEMALE)
# Words of one class may stand for each other; all start with a consonant.
TOYS = "ball box car kite doll truck balloon book hat boat robot drum bike rock flower cake".split()
ANIMALS = "dog cat bunny rabbit frog duck mouse bear fox turtle lion monkey puppy kitten pig".split()

OPENINGS = [
    "Tell me a story about {}.",
    "Tell me a short story about {}.",
    "Write a story about {}.",
    "Write a short story about {}.",
    "Please tell me a story about {}.",
    "Can you tell me a story about {}?",
    "Could you write a little story about {}?",
    "I want to hear a story about {}.",
    "I would like a story with {}.",
    "Make up a story about {}.",
    "Give me a bedtime story about {}.",
    "A story about {}, please.",
    "Do you know a story about {}?",
    "What happened to {}?",
    "tell me a story about {}",
    "write a story about {}",
    "story about {}",
    "{}",
]
PLAIN = [
    "Tell me a story.",
    "Tell me a short story.",
    "Please tell me a story.",
    "Write a short story.",
    "Can you tell me a story?",
    "A story, please.",
    "Hello!",
    "Hi",
    "Hello, who are you?",
    "What can you do?",
    "tell me a story",
]


def subjects(story):
    """Names and nouns of the story, the most prominent first."""
    words = re.findall(r"[A-Za-z]+", story)
    score = {}
    for place, word in enumerate(words):
        key = word if word in NAMES else word.lower()
        if key in NAMES or key in NOUNS_SET:
            score[key] = score.get(key, 0) + (2 if place < 60 else 1)
    return sorted((k for k in score if score[k] >= 2), key=lambda k: (-score[k], k))


def phrase(word, story, rng):
    if word in NAMES:
        if word in MALE and re.search(rf"\bboy (named|called) {word}\b", story) and rng.random() < 0.5:
            return f"a boy named {word}"
        if word in FEMALE and re.search(rf"\bgirl (named|called) {word}\b", story) and rng.random() < 0.5:
            return f"a girl named {word}"
        return word
    if word in ("mom", "dad", "grandma", "grandpa"):
        return f"a {word}"
    if word in ("sun", "moon", "sky", "sea", "ocean", "rain", "snow", "wind"):
        return f"the {word}"
    if word in UNCOUNTED:
        return word
    adjective = re.search(rf"\b(big|small|little|red|blue|green|yellow|pink|shiny|magic|brown|white|black) {word}\b", story)
    if adjective and rng.random() < 0.35:
        word = f"{adjective[1]} {word}"
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def hero(story):
    """The first one with a name, as (kind, name); kind may be None."""
    named = re.search(r"\b([a-z]+) (?:named|called) ([A-Z][a-z]+)\b", story)
    first = next((w for w in re.findall(r"[A-Z][a-z]+", story) if w in NAMES), None)
    if named and (first is None or named[2] == first):
        return named[1], named[2]
    return None, first


def instruction(story, rng):
    """One user message for the story: who it is about, what occurs in it, or both."""
    found = subjects(story)
    if not found or rng.random() < 0.06:
        return rng.choice(PLAIN)
    kind, name = hero(story)
    parts = []
    if name and rng.random() < 0.75:
        named = kind and rng.random() < (0.6 if kind in ("boy", "girl") else 0.8)
        parts.append(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} named {name}" if named else name)
    things = [w for w in found if w not in NAMES and w not in ("boy", "girl")]
    for _ in range(rng.choice([0, 1, 1, 1, 2]) if parts else rng.choice([1, 1, 2])):
        if things:  # prominent ones are likelier to be asked for
            parts.append(phrase(things.pop(min(int(rng.expovariate(0.9)), len(things) - 1)), story, rng))
    if not parts:
        return rng.choice(PLAIN)
    if rng.random() < 0.3:
        rng.shuffle(parts)
    joined = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return rng.choice(OPENINGS).format(joined)


def retell(story, rng):
    """The story with other names and, often, other toys and animals.

    The teacher tells about Lily and Tim most of the time; a reader of instructions must
    learn to take the names and things from them.
    """
    swap = {long: short for long, short in SHORT.items() if long in story}
    words = set(re.findall(r"[A-Za-z]+", story))
    for group in (MALE, FEMALE):
        used = [n for n in group if n in words or n in swap.values()]
        fresh = rng.sample([n for n in group if n not in used], min(len(used), len(group) - len(used)))
        for old, new in zip(used, fresh):
            if rng.random() < 0.85:
                swap[old] = new
                swap |= {long: new for long, short in SHORT.items() if short == old}
    lower = {w.lower().removesuffix("s").removesuffix("e") if w.lower() == "boxes" else w.lower().removesuffix("s") for w in words}
    for group, share in ((TOYS, 0.7), (ANIMALS, 0.5)):
        used = [n for n in group if n in lower]
        fresh = rng.sample([n for n in group if n not in lower], len(group) - len(used))
        for old, new in zip(used, fresh):
            if rng.random() < share:
                swap |= {old: new, plural(old): plural(new), old.title(): new.title()}
    return re.sub(r"[A-Za-z]+", lambda m: swap.get(m[0], m[0]), story)


def plural(word):
    return {"box": "boxes", "mouse": "mice", "fox": "foxes", "bunny": "bunnies", "puppy": "puppies"}.get(word, word + "s")


NOUNS_SET = set(NOUNS)
UNCOUNTED = set("""soup candy honey juice milk bread cheese fruit music sand fire magic paint soap paper treasure""".split())
