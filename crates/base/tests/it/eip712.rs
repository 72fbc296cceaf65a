//! receipts.md, section 7.2: what is signed is EIP-712, checked against vectors that `eth-account`
//! made (`golden/eip712.py`), the deterministic signatures of RFC 6979 included.

use crate::golden::read;
use lockstep_base::Digest;
use lockstep_base::digest::{hex, unhex};
use lockstep_base::keys::NodeKey;
use lockstep_base::part::Part;
use lockstep_base::receipt::{Receipt, domain_separator};
use std::collections::BTreeMap;
use std::str::FromStr;

/// One vector: the fields of a receipt, and what came out.
struct Vector<'a>(BTreeMap<&'a str, &'a str>);

impl Vector<'_> {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in the vector"))
    }

    fn digest(&self, name: &str) -> Digest {
        Digest::from_hex(self.text(name)).unwrap_or_else(|| panic!("{name} is no digest"))
    }

    fn number<T: FromStr>(&self, name: &str) -> T {
        self.text(name).parse().unwrap_or_else(|_| panic!("{name} is no number"))
    }

    fn receipt(&self) -> Receipt {
        Receipt {
            task: self.digest("task"),
            model_root: self.digest("modelRoot"),
            opset: String::from_utf8(unhex(self.text("opset").trim_matches('-')).expect("hex"))
                .expect("UTF-8"),
            part: Part {
                embed: self.number::<u8>("part.embed") == 1,
                first_layer: self.number("part.firstLayer"),
                end_layer: self.number("part.endLayer"),
                head: self.number::<u8>("part.head") == 1,
                shard: self.number("part.shard"),
                shards: self.number("part.shards"),
            },
            stage: self.number("stage"),
            first_token: self.number("firstToken"),
            token_count: self.number("tokenCount"),
            parameters: self.digest("parameters"),
            masks: self.digest("masks"),
            adapters: self.digest("adapters"),
            sampler_seed: self.digest("samplerSeed"),
            in_root: self.digest("inRoot"),
            out_root: self.digest("outRoot"),
            state_root: self.digest("stateRoot"),
            code: self.digest("code"),
            previous: self.digest("previous"),
            audit_class: self.digest("auditClass"),
            flags: self.number("flags"),
            commit_in: self.digest("commitIn"),
            commit_out: self.digest("commitOut"),
        }
    }
}

fn vectors(text: &str) -> Vec<Vector<'_>> {
    text.split("\n\n")
        .map(|block| Vector(block.lines().filter_map(|line| line.split_once(" = ")).collect()))
        .filter(|vector| !vector.0.is_empty())
        .collect()
}

#[test]
fn hashes_and_signatures_are_those_of_an_independent_implementation() {
    let text = read("eip712");
    let vectors = vectors(&text);
    assert_eq!(vectors.len(), 4);
    for vector in &vectors {
        let receipt = vector.receipt();
        assert_eq!(domain_separator(), vector.digest("domainSeparator"));
        assert_eq!(receipt.struct_hash(), vector.digest("structHash"));
        assert_eq!(receipt.signing_hash(), vector.digest("signingHash"));

        let key = NodeKey::from_bytes(&unhex(vector.text("key")).expect("hex")).expect("a key");
        assert_eq!(hex(&key.id().0), vector.text("address"));
        let signed = receipt.sign(&key);
        assert_eq!(hex(&signed.signature.0), vector.text("signature"));
        assert_eq!(signed.signer(), Some(key.id()));
    }
}

#[test]
fn every_field_is_bound_by_the_signature() {
    let text = read("eip712");
    let vectors = vectors(&text);
    let vector = &vectors[1];
    let key = NodeKey::from_bytes(&unhex(vector.text("key")).expect("hex")).expect("a key");
    let signed = vector.receipt().sign(&key);

    let changes: [fn(&mut Receipt); 25] = [
        |r| r.task.0[31] ^= 1,
        |r| r.model_root.0[0] ^= 1,
        |r| r.opset.push(' '),
        |r| r.part.embed ^= true,
        |r| r.part.first_layer ^= 1,
        |r| r.part.end_layer ^= 1,
        |r| r.part.head ^= true,
        |r| r.part.shard ^= 1,
        |r| r.part.shards ^= 1,
        |r| r.stage ^= 1,
        |r| r.first_token ^= 1,
        |r| r.token_count ^= 1,
        |r| r.parameters.0[1] ^= 1,
        |r| r.masks.0[2] ^= 1,
        |r| r.adapters.0[3] ^= 1,
        |r| r.sampler_seed.0[4] ^= 1,
        |r| r.in_root.0[5] ^= 1,
        |r| r.out_root.0[6] ^= 1,
        |r| r.state_root.0[7] ^= 1,
        |r| r.code.0[8] ^= 1,
        |r| r.previous.0[9] ^= 1,
        |r| r.audit_class.0[10] ^= 1,
        |r| r.flags ^= 1,
        |r| r.commit_in.0[11] ^= 1,
        |r| r.commit_out.0[12] ^= 1,
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut other = signed.clone();
        change(&mut other.receipt);
        assert_ne!(other.signer(), Some(key.id()), "change {i}");
    }
}
