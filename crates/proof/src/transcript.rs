//! Fiat and Shamir's transcript: every challenge is a hash of everything before it.
//!
//! ```text
//! state, said = H("lockstep proof v1"), nothing                          H, XOF = BLAKE3: to derive a key, and with one
//! absorb         said' = said ‖ 0 ‖ len(label) ‖ label ‖ len(bytes) ‖ bytes
//! challenge      state' ‖ out = XOF(state, said ‖ 1 ‖ len(label) ‖ label ‖ len(out)),  said' = nothing
//! ```
//!
//! Lengths are 64-bit little-endian, so no two sequences of calls hash the same bytes. What the prover says goes through
//! [`ProverTranscript::send`] and nowhere else: it is absorbed and written to the proof in one step, and
//! [`VerifierTranscript::receive`] reads and absorbs in one step. So nothing in a proof can be left out of the hash, which is the
//! usual mistake. The exceptions are called [`ProverTranscript::hint`]: openings of hash trees, which a root binds that was absorbed.
//!
//! # Bias
//! A coordinate of a challenge is 64 bits modulo p, so no coordinate has a probability above `(1 + 2^-33) / p`, and no challenge one
//! above `(1 + 2^-30) / p^5`: every error bound grows by that factor. Positions are the low bits of 32: exactly uniform.

use crate::error::VerifyError;
use crate::field::{ProofField, ext_bytes, get_ext, put_ext};
use alloc::vec;
use alloc::vec::Vec;
use p3_field::{PrimeCharacteristicRing, PrimeField32};

/// Context of the hash: the version of the protocol.
const CONTEXT: &str = "lockstep 2026 proof transcript v1";
/// Bytes of random bits behind each coordinate.
const COORDINATE_BYTES: usize = 8;
/// Coordinates of an element, at most.
const COORDINATES_MAX: usize = 8;

/// A digest of a hash tree or a transcript.
pub type Hash = [u8; 32];

/// Bytes that an item is longer than its label and its content: its kind and two lengths.
pub(crate) const ITEM_BYTES: usize = 17;

/// What a transcript took so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Challenges.
    pub challenges: usize,
    /// Compressions of BLAKE3.
    pub compressions: usize,
}

/// Compressions of BLAKE3 over so many bytes that give so many.
pub(crate) const fn compressions(bytes: usize, out: usize) -> usize {
    // Blocks of 64 bytes in chunks of 1024, a node for each chunk but one; the last compression gives 64 bytes, and each one more 64 more.
    let blocks = if bytes == 0 { 1 } else { bytes.div_ceil(64) };
    let chunks = if bytes == 0 { 1 } else { bytes.div_ceil(1024) };
    blocks + chunks - 1 + out.div_ceil(64).saturating_sub(1)
}

/// Bytes of randomness of a challenge.
pub(crate) const fn challenge_bytes<E: ProofField>() -> usize {
    E::DIMENSION * COORDINATE_BYTES
}

/// The state of a transcript.
#[derive(Clone, Debug)]
pub struct Sponge {
    state: Hash,
    /// What was absorbed since the last challenge.
    said: Vec<u8>,
    spent: Spent,
}

impl Sponge {
    /// The transcript of the protocol `name`.
    #[must_use]
    pub fn new(name: &str) -> Sponge {
        let mut sponge =
            Sponge { state: blake3::derive_key(CONTEXT, &[]), said: Vec::new(), spent: Spent::default() };
        sponge.absorb("protocol", name.as_bytes());
        sponge
    }

    /// What was spent so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// Bytes that the next challenge depends on, and none before it did.
    pub(crate) fn said(&self) -> usize {
        self.said.len()
    }

    fn item(&mut self, kind: u8, label: &str, length: usize) {
        self.said.push(kind);
        self.said.extend_from_slice(&(label.len() as u64).to_le_bytes());
        self.said.extend_from_slice(label.as_bytes());
        self.said.extend_from_slice(&(length as u64).to_le_bytes());
    }

    /// Binds all later challenges to `bytes`.
    pub fn absorb(&mut self, label: &str, bytes: &[u8]) {
        self.item(0, label, bytes.len());
        self.said.extend_from_slice(bytes);
    }

    fn squeeze(&mut self, label: &str, out: &mut [u8]) {
        self.item(1, label, out.len());
        let mut hasher = blake3::Hasher::new_keyed(&self.state);
        hasher.update(&self.said);
        let mut random = hasher.finalize_xof();
        random.fill(&mut self.state);
        random.fill(out);
        self.spent.challenges += 1;
        self.spent.compressions += compressions(self.said.len(), self.state.len() + out.len());
        self.said.clear();
    }

    /// A random element of the extension.
    pub fn challenge<E: ProofField>(&mut self, label: &str) -> E {
        const { assert!(E::DIMENSION <= COORDINATES_MAX) };
        let mut bytes = [0; COORDINATES_MAX * COORDINATE_BYTES];
        let bytes = &mut bytes[..challenge_bytes::<E>()];
        self.squeeze(label, bytes);
        let words = bytes.as_chunks::<COORDINATE_BYTES>().0;
        let order = u64::from(E::Base::ORDER_U32);
        E::from_basis_coefficients_fn(|i| E::Base::from_u32((u64::from_le_bytes(words[i]) % order) as u32))
    }

    /// A random point of `log` coordinates.
    pub fn point<E: ProofField>(&mut self, label: &str, log: usize) -> Vec<E> {
        (0..log).map(|_| self.challenge(label)).collect()
    }

    /// `count` random numbers of `bits` bits, at most 32; they may repeat.
    pub fn positions(&mut self, label: &str, count: usize, bits: usize) -> Vec<usize> {
        let mut bytes = vec![0; count * 4];
        self.squeeze(label, &mut bytes);
        let mask = (1u64 << bits) - 1;
        bytes.as_chunks::<4>().0.iter().map(|b| (u64::from(u32::from_le_bytes(*b)) & mask) as usize).collect()
    }
}

/// The prover's side: a transcript and the proof that it writes.
#[derive(Clone, Debug)]
pub struct ProverTranscript {
    /// Challenges.
    pub sponge: Sponge,
    proof: Vec<u8>,
}

impl ProverTranscript {
    /// Continues `sponge`, to which the statement was absorbed.
    #[must_use]
    pub fn new(sponge: Sponge) -> ProverTranscript {
        ProverTranscript { sponge, proof: Vec::new() }
    }

    /// Says elements of the extension.
    pub fn send<E: ProofField>(&mut self, label: &str, elements: &[E]) {
        let start = self.proof.len();
        elements.iter().for_each(|x| put_ext(*x, &mut self.proof));
        let (sponge, said) = (&mut self.sponge, &self.proof[start..]);
        sponge.absorb(label, said);
    }

    /// Says a hash.
    pub fn send_hash(&mut self, label: &str, hash: &Hash) {
        self.sponge.absorb(label, hash);
        self.proof.extend_from_slice(hash);
    }

    /// Writes what a root binds that was said before: not absorbed.
    pub fn hint(&mut self, bytes: &[u8]) {
        self.proof.extend_from_slice(bytes);
    }

    /// What was said.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.proof
    }
}

/// The verifier's side: a transcript and what is left of the proof.
#[derive(Clone, Debug)]
pub struct VerifierTranscript<'a> {
    /// Challenges.
    pub sponge: Sponge,
    rest: &'a [u8],
}

impl<'a> VerifierTranscript<'a> {
    /// Continues `sponge`, to which the statement was absorbed.
    #[must_use]
    pub fn new(sponge: Sponge, proof: &'a [u8]) -> VerifierTranscript<'a> {
        VerifierTranscript { sponge, rest: proof }
    }

    /// Bytes that were not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes, not absorbed.
    ///
    /// # Errors
    /// If the proof ends before.
    pub fn hint(&mut self, count: usize) -> Result<&'a [u8], VerifyError> {
        let ended = VerifyError::Truncated { got: self.rest.len(), expected: count };
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(ended)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next `N` elements.
    ///
    /// # Errors
    /// If the proof ends before, or an element is not canonical.
    pub fn receive<E: ProofField, const N: usize>(&mut self, label: &str) -> Result<[E; N], VerifyError> {
        let bytes = self.hint(N * ext_bytes::<E>())?;
        self.sponge.absorb(label, bytes);
        let mut elements = [E::ZERO; N];
        for (element, bytes) in elements.iter_mut().zip(bytes.chunks_exact(ext_bytes::<E>())) {
            *element = get_ext(bytes).ok_or(VerifyError::NotCanonical)?;
        }
        Ok(elements)
    }

    /// The next `count` elements. The bytes are there before anything is allocated.
    ///
    /// # Errors
    /// If the proof ends before, or an element is not canonical.
    pub fn receive_many<E: ProofField>(&mut self, label: &str, count: usize) -> Result<Vec<E>, VerifyError> {
        let bytes = self.hint(count.saturating_mul(ext_bytes::<E>()))?;
        self.sponge.absorb(label, bytes);
        let elements = bytes.chunks_exact(ext_bytes::<E>());
        elements.map(|bytes| get_ext(bytes).ok_or(VerifyError::NotCanonical)).collect()
    }

    /// The next hash.
    ///
    /// # Errors
    /// If the proof ends before.
    pub fn receive_hash(&mut self, label: &str) -> Result<Hash, VerifyError> {
        let hash = self.hint_hash()?;
        self.sponge.absorb(label, &hash);
        Ok(hash)
    }

    /// The next hash, not absorbed.
    ///
    /// # Errors
    /// If the proof ends before.
    pub fn hint_hash(&mut self) -> Result<Hash, VerifyError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.hint(32)?);
        Ok(hash)
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// If something is.
    pub fn finish(self) -> Result<(), VerifyError> {
        match self.rest.len() {
            0 => Ok(()),
            got => Err(VerifyError::TrailingBytes { got }),
        }
    }
}
