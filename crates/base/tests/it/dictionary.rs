//! receipts.md, section 4: a dictionary attack on receipts recovers no token.
//!
//! A token id has few values: whoever sees a hash of it alone tries the vocabulary. Here the
//! attacker holds 10,000 receipts in their weakest form, spans of one token, where the root *is* the
//! token's leaf, and knows all but the task secret: task ids, roots, seeds, positions, the salts of
//! leaves that were opened next to the wanted one, the secrets of other tasks. The same attacker
//! reads every token of receipts without salts, or under a secret that is not one.

use crate::golden::counting;
use lockstep_base::Digest;
use lockstep_base::leaf::{LeafIndex, SALT_BYTES, TaskSecret, leaf_hash, opened_leaf_hash, salt};
use lockstep_base::merkle;
use lockstep_base::op::{LAYER_EMBED, Op, Place};
use lockstep_base::rng::SplitMix64;

const RECEIPTS: usize = 10_000;
const VOCABULARY: u32 = 512;
const SEED: u64 = 20_260_101;

/// One task with one receipt over one token, as its gateway sees it.
struct Task {
    id: Digest,
    secret: TaskSecret,
    index: LeafIndex,
    token: u32,
}

/// What the attacker sees of a task.
struct Seen {
    id: Digest,
    /// The root of the receipt: over one leaf, the leaf itself.
    in_root: Digest,
    index: LeafIndex,
    /// The opened leaf at the next position: its salt.
    neighbour_salt: [u8; SALT_BYTES],
}

fn tasks(secret_of: impl Fn(&mut SplitMix64, &Digest) -> TaskSecret) -> Vec<Task> {
    let mut rng = SplitMix64::new(SEED);
    (0..RECEIPTS)
        .map(|_| {
            let mut id = Digest::ZERO;
            rng.fill(&mut id.0);
            let position = rng.below(1024) as u32;
            Task {
                secret: secret_of(&mut rng, &id),
                id,
                index: LeafIndex { place: Place { position, layer: LAYER_EMBED, op: Op::Token }, chunk: 0 },
                token: rng.below(VOCABULARY.into()) as u32,
            }
        })
        .collect()
}

fn random_secret(rng: &mut SplitMix64, _: &Digest) -> TaskSecret {
    let mut secret = [0; 32];
    rng.fill(&mut secret);
    TaskSecret(secret)
}

impl Task {
    fn seen(&self, leaf: impl Fn(&Task) -> Digest) -> Seen {
        let next = Place { position: self.index.place.position + 1, ..self.index.place };
        let neighbour = LeafIndex { place: next, ..self.index };
        Seen {
            id: self.id,
            in_root: merkle::root(&[leaf(self)]),
            index: self.index,
            neighbour_salt: salt(&self.secret.stage(0).input, &neighbour),
        }
    }

    fn salted_leaf(&self) -> Digest {
        leaf_hash(&self.secret.stage(0).input, &self.index, &self.token.to_le_bytes())
    }

    fn unsalted_leaf(&self) -> Digest {
        opened_leaf_hash(&[0; SALT_BYTES], &self.index, &self.token.to_le_bytes())
    }
}

/// The salts that the attacker can think of for the leaf of `seen`.
fn guesses(seen: &Seen, other_secrets: &[TaskSecret]) -> Vec<[u8; SALT_BYTES]> {
    let of_task = |secret: &TaskSecret| salt(&secret.stage(0).input, &seen.index);
    let mut guesses = vec![
        [0; SALT_BYTES],
        seen.neighbour_salt,
        seen.id.0[..SALT_BYTES].try_into().expect("16 bytes"),
        of_task(&TaskSecret(seen.id.0)),
        of_task(&TaskSecret([0; 32])),
        salt(&seen.id, &seen.index),
        salt(&seen.in_root, &seen.index),
    ];
    guesses.extend(other_secrets.iter().map(of_task));
    guesses
}

/// The token under the root, if one of the guessed salts is right.
fn attack(seen: &Seen, other_secrets: &[TaskSecret]) -> Option<u32> {
    guesses(seen, other_secrets).iter().find_map(|salt| {
        (0..VOCABULARY)
            .find(|token| opened_leaf_hash(salt, &seen.index, &token.to_le_bytes()) == seen.in_root)
    })
}

fn recovered(tasks: &[Task], leaf: impl Fn(&Task) -> Digest) -> usize {
    let mine = [TaskSecret(counting(1)), TaskSecret(counting(77))];
    tasks
        .iter()
        .filter(|task| match attack(&task.seen(&leaf), &mine) {
            Some(token) => {
                assert_eq!(token, task.token, "a token that was found is the token (seed {SEED})");
                true
            }
            None => false,
        })
        .count()
}

#[test]
fn a_dictionary_attack_on_ten_thousand_receipts_recovers_no_token() {
    assert_eq!(recovered(&tasks(random_secret), Task::salted_leaf), 0, "seed {SEED}");
}

#[test]
fn the_same_attack_reads_every_token_of_unsalted_leaves() {
    assert_eq!(recovered(&tasks(random_secret), Task::unsalted_leaf), RECEIPTS, "seed {SEED}");
}

#[test]
fn the_same_attack_reads_every_token_where_the_task_id_serves_as_secret() {
    let tasks = tasks(|_, id| TaskSecret(id.0));
    assert_eq!(recovered(&tasks, Task::salted_leaf), RECEIPTS, "seed {SEED}");
}

/// Equal tokens cannot even be told to be equal: neither at two positions nor in two tasks.
#[test]
fn equal_tokens_have_different_leaves() {
    let tasks = tasks(random_secret);
    let mut leaves: Vec<Digest> = tasks
        .iter()
        .map(|task| leaf_hash(&task.secret.stage(0).input, &task.index, &7u32.to_le_bytes()))
        .collect();
    let secret = tasks[0].secret.stage(0).input;
    leaves.extend((2000..3000).map(|position| {
        let place = Place { position, ..tasks[0].index.place };
        leaf_hash(&secret, &LeafIndex { place, chunk: 0 }, &7u32.to_le_bytes())
    }));
    let count = leaves.len();
    leaves.sort();
    leaves.dedup();
    assert_eq!(leaves.len(), count);
}
