"""Recomputes every golden line from docs/spec/receipts.md alone, in another language.

    python3 check.py          # digests, leaves, trees, encodings; Python's standard library suffices
    venv/bin/python check.py  # with eth-account: also the signatures and hashes of the receipt file

Shares no code with the Rust crate. Exits with 1 if a line differs, names what it could not check.
"""

import hashlib
import pathlib
import sys

HERE = pathlib.Path(__file__).parent

try:
    from eth_account.messages import encode_typed_data
    from eth_keys import keys as eth_keys
    from eth_utils import keccak
except ImportError:
    keccak = None


# Deterministic CBOR (RFC 8949, 4.2.1), as far as the formats need it.

def head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | code]) + number.to_bytes(size, "big")
    raise ValueError(number)


def cbor(value):
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    return head(4, len(value)) + b"".join(map(cbor, value))


def uncbor(data, at=0):
    major, number = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        return {20: False, 21: True, 22: None}[number], at
    if number >= 24:
        size = 1 << number - 24
        number, at = int.from_bytes(data[at:at + size], "big"), at + size
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        content = data[at:at + number]
        return (content if major == 2 else content.decode()), at + number
    assert major == 4, major
    items = []
    for _ in range(number):
        item, at = uncbor(data, at)
        items.append(item)
    return items, at


# Sections 1 to 7 of the specification.

def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def tag(name):
    return name.encode().ljust(16, b"\0")


def tagged(name, *parts):
    return sha(tag(name), *parts)


def be(number, size=4):
    return int(number).to_bytes(size, "big")


def leaf(content):
    return sha(b"\0", content)


def node(left, right):
    return sha(b"\1", left, right)


def split(count):
    return 1 << (count - 1).bit_length() - 1


def root(leaves):
    if not leaves:
        return sha()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node(root(leaves[:k]), root(leaves[k:]))


def path(leaves, i):
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if i < k:
        return path(leaves[:k], i) + [root(leaves[k:])]
    return path(leaves[k:], i - k) + [root(leaves[:k])]


def numbered(count):
    return [leaf(be(i)) for i in range(count)]


def unhex(text):
    return b"" if text == "-" else bytes.fromhex(text)


def items(text):
    return [item for item in text[1:-1].split(",") if item]


def parameters(temperature, top_k, top_p, max_tokens, stop_tokens, stop):
    numbers = [int(x) for x in (temperature, top_k, top_p, max_tokens)]
    return cbor([*numbers, [int(x) for x in items(stop_tokens)], [unhex(x).decode() for x in items(stop)]])


def entry(name, kind, size, tree):
    variant, fields = kind[1:-1].split(",", 1)
    read = {"true": True, "false": False}
    fields = [read[x] if x in read else int(x) for x in items(fields)]
    return cbor([unhex(name).decode(), [int(variant), fields], int(size), unhex(tree)])


def row(bits, m, s, bias, codes, ids):
    codes = unhex(codes)
    if bits == "4":
        groups = [codes[g:g + 32] for g in range(0, len(codes), 32)]
        codes = bytes(group[c] | group[c + 16] << 4 for group in groups for c in range(16))
    bias = b"" if bias == "none" else int(bias).to_bytes(4, "little", signed=True)
    return bytes([int(m), int(s)]) + bias + codes + b"".join(int(x).to_bytes(2, "little") for x in items(ids))


def blob_root(count):
    data = bytes(i & 255 for i in range(int(count)))
    return root([leaf(data[at:at + 4096]) for at in range(0, len(data), 4096)])


OUTPUTS = {  # op name -> id, in execution order (section 4)
    name: str(number) for number, name in enumerate(
        "token embed attn_norm q_proj k_proj v_proj q_codes k_codes v_codes scores softmax attn_partial attn "
        "attn_codes o_proj attn_post_norm attn_residual ffn_norm router_logits router_choice gate_proj up_proj hidden "
        "hidden_codes down_proj ffn_post_norm ffn_residual final_norm logits pooled sample boundary adapter_codes".split())
}

FUNCTIONS = {
    "sha256": lambda data: sha(unhex(data)),
    "keccak256": lambda data: keccak(unhex(data)) if keccak else None,
    "tag": tag,
    "tagged": lambda name, data: tagged(name, unhex(data)),
    "edge": lambda secret, i: tagged("lockstep/edge", unhex(secret), be(i, 2)),
    "stage": lambda secret, i: tagged("lockstep/stage", unhex(secret), be(i, 2)),
    "index": lambda position, layer, op, chunk:
        be(position) + be(layer, 2) + be(op, 1) + b"\0" + be(chunk) + bytes(4),
    "salt": lambda secret, index: tagged("lockstep/salt", unhex(secret), unhex(index))[:16],
    "leaf": lambda salt, index, data: sha(unhex(salt), tag("lockstep/leaf"), unhex(index), unhex(data)),
    "merkle_leaf": lambda data: leaf(unhex(data)),
    "merkle_node": lambda left, right: node(unhex(left), unhex(right)),
    "merkle_root": lambda count: root(numbered(int(count))),
    "merkle_root_of": lambda leaves: root([unhex(x) for x in items(leaves)]),
    "merkle_path": lambda count, i:
        "[" + ",".join(x.hex() for x in path(numbered(int(count)), int(i))) + "]",
    "parameters": parameters,
    "parameters_digest": lambda *fields: tagged("lockstep/params", parameters(*fields)),
    "client_seed": lambda seed, choice: tagged("client", be(seed, 8), be(choice)),
    "network_seed": lambda task, beacon, choice: tagged("net", unhex(task), unhex(beacon), be(choice)),
    "draw": lambda seed, position: str(int.from_bytes(sha(unhex(seed), be(position))[:8], "big")),
    "entry": entry,
    "row": row,
    "blob_root": blob_root,
    "state": lambda kv, trace: tagged("lockstep/state", unhex(kv), unhex(trace)),
    "wire": lambda flags, stage, span, out, state, signature:
        b"\1" + be(flags, 1) + be(stage, 2) + be(span) + unhex(out) + unhex(state) + unhex(signature),
}


def check_calls(name):
    checked, wrong, skipped = 0, 0, set()
    for line in (HERE / f"{name}.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        call, expected = line.split(" = ", 1)
        function, *arguments = call.split()
        if function == "op":
            got, expected = OUTPUTS[arguments[0]], expected.split()[0]
        else:
            got = FUNCTIONS[function](*arguments)
        if got is None:
            skipped.add(function)
            continue
        got = got.hex() if isinstance(got, bytes) else got
        checked += 1
        if got != expected:
            wrong += 1
            print(f"{name}: {call[:80]}: got {got}, expected {expected}")
    return checked, wrong, skipped


def typed_data():
    """Types, domain and field names from eip712.py, the file's order of fields being the type's."""
    source = (HERE / "eip712.py").read_text()
    space = {}
    exec(source[source.index("TYPES = {"):source.index("# Order of the curve")], space)
    return space["TYPES"], space["DOMAIN"]


def check_file():
    """Reads the receipt file, encodes it again, checks who signed and that receipts chain."""
    lines = (HERE / "receipt_file.txt").read_text().splitlines()
    data = b"".join(bytes.fromhex(line.split(" = ")[1]) for line in lines if not line.startswith("#"))
    assert data.startswith(b"LSRCPT\x01\n"), "magic"
    content, end = uncbor(data, 8)
    assert end == len(data) and cbor(content) == data[8:], "one encoding"
    version, model, task, secret, _, seed, prompt, tokens, stages = content
    assert version == 1 and len(secret) == 32 and prompt <= len(tokens)
    if keccak is None:
        return False
    types, domain = typed_data()
    names = [field["name"] for field in types["Receipt"]]
    inner = [field["name"] for field in types["Part"]]
    for part, address, receipts, served in stages:
        previous = bytes(32)
        for receipt, signature in receipts:
            message = dict(zip(names, receipt, strict=True))
            assert (message["task"], message["modelRoot"], message["samplerSeed"]) == (task, model, seed)
            assert message["part"] == part and message["previous"] == previous
            message["part"] = dict(zip(inner, part, strict=True))
            signable = encode_typed_data(full_message={
                "types": types, "primaryType": "Receipt", "domain": domain, "message": message,
            })
            previous = signable.body
            s = int.from_bytes(signature[32:], "big")
            vrs = (s >> 255, int.from_bytes(signature[:32], "big"), s & (1 << 255) - 1)
            signing_hash = keccak(b"\x19\x01" + signable.header + signable.body)
            public = eth_keys.Signature(vrs=vrs).recover_public_key_from_msg_hash(signing_hash)
            assert public.to_canonical_address() == address, "signer"
    return True


def main():
    total, failed = 0, 0
    for file in sorted(HERE.glob("*.txt")):
        if file.stem in ("eip712", "receipt_file"):
            continue
        checked, wrong, skipped = check_calls(file.stem)
        total, failed = total + checked, failed + wrong
        print(f"{file.stem}: {checked} lines, {wrong} differ" + "".join(f", no {x} here" for x in sorted(skipped)))
    print("receipt_file: read and encoded again" + (", signatures and chain hold" if check_file() else ""))
    print(f"{total} lines, {failed} differ")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
