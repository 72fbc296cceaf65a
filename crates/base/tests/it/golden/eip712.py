"""Makes eip712.txt: receipts signed by an independent implementation of EIP-712.

    python3 -m venv venv && venv/bin/pip install eth-account==0.14.0
    venv/bin/python eip712.py > eip712.txt

The type is written down again here from docs/spec/receipts.md; hashing and signing (RFC 6979, low s)
are eth-account's. The Rust test reads the fields and must reach the same hashes and signatures.
"""

from eth_account import Account
from eth_account.messages import encode_typed_data

TYPES = {
    "EIP712Domain": [("name", "string"), ("version", "string")],
    "Part": [
        ("embed", "bool"), ("firstLayer", "uint32"), ("endLayer", "uint32"), ("head", "bool"),
        ("shard", "uint16"), ("shards", "uint16"),
    ],
    "Receipt": [
        ("task", "bytes32"), ("modelRoot", "bytes32"), ("opset", "string"), ("part", "Part"),
        ("stage", "uint16"), ("firstToken", "uint32"), ("tokenCount", "uint32"),
        ("parameters", "bytes32"), ("masks", "bytes32"), ("adapters", "bytes32"),
        ("samplerSeed", "bytes32"), ("inRoot", "bytes32"), ("outRoot", "bytes32"),
        ("stateRoot", "bytes32"), ("code", "bytes32"), ("previous", "bytes32"),
        ("auditClass", "bytes32"), ("flags", "uint8"), ("commitIn", "bytes32"),
        ("commitOut", "bytes32"),
    ],
}
TYPES = {name: [{"name": n, "type": t} for n, t in fields] for name, fields in TYPES.items()}
DOMAIN = {"name": "Lockstep", "version": "1"}
# Order of the curve secp256k1.
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
WORDS = [field["name"] for field in TYPES["Receipt"] if field["type"] == "bytes32"]


def receipt(fill, **rest):
    """A receipt whose n-th digest holds 32 times the byte fill(n)."""
    digests = {name: bytes([fill(n)]) * 32 for n, name in enumerate(WORDS)}
    return {**digests, **rest}


def part(embed, first, end, head, shard=0, shards=1):
    return {"embed": embed, "firstLayer": first, "endLayer": end, "head": head, "shard": shard, "shards": shards}


CASES = [
    ("all zero", 1, receipt(lambda n: 0, opset="", part=part(False, 0, 0, False, 0, 0), stage=0,
                            firstToken=0, tokenCount=0, flags=0)),
    ("one stage", 2, receipt(lambda n: n + 1, opset="lockstep-1", part=part(True, 0, 5, True), stage=0,
                             firstToken=0, tokenCount=32, flags=2)),
    ("closing stage in the middle", 0xA11CE, receipt(
        lambda n: 0xF0 ^ n, opset="lockstep-1", part=part(False, 2, 4, False), stage=1,
        firstToken=96, tokenCount=7, flags=3)),
    ("largest numbers", ORDER - 1, receipt(
        lambda n: 0xFF, opset="lockstep-ä", part=part(True, 2**32 - 1, 2**32 - 1, True, 2**16 - 1, 2**16 - 1),
        stage=2**16 - 1, firstToken=2**32 - 1, tokenCount=2**32 - 1, flags=255)),
]


def compact(signature):
    """EIP-2098: s carries the parity in its top bit."""
    s = signature.s | ((signature.v - 27) << 255)
    return signature.r.to_bytes(32, "big") + s.to_bytes(32, "big")


print("# Made by eip712.py with eth-account; not rewritten by LOCKSTEP_BLESS.")
for title, secret, message in CASES:
    key = secret.to_bytes(32, "big")
    signable = encode_typed_data(full_message={
        "types": TYPES, "primaryType": "Receipt", "domain": DOMAIN, "message": message,
    })
    signed = Account.sign_message(signable, key)
    print(f"\n# {title}")
    print("key =", key.hex())
    for field in TYPES["Receipt"]:
        value = message[field["name"]]
        if field["type"] == "bytes32":
            print(field["name"], "=", value.hex())
        elif field["type"] == "Part":
            for inner in TYPES["Part"]:
                print(f"part.{inner['name']} =", int(value[inner["name"]]))
        elif field["type"] == "string":
            print(field["name"], "=", value.encode().hex() or "-")
        else:
            print(field["name"], "=", value)
    print("address =", Account.from_key(key).address[2:].lower())
    print("domainSeparator =", signable.header.hex())
    print("structHash =", signable.body.hex())
    print("signingHash =", signed.message_hash.hex())
    print("signature =", compact(signed).hex())
