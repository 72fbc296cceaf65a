//! The field of a proof, as a type parameter.
//!
//! Witnesses are integers of at most 31 bits with a sign, so they live in a prime field just below 2^31; challenges
//! live in an extension so large that a lucky challenge is out of the question. The one instance is KoalaBear,
//! `p = 2^31 - 2^24 + 1`, with `F_p[X] / (X^5 + X^2 - 1)` of about 2^155 elements. Every step of the arithmetic keeps
//! its integers within `(p - 1) / 2 = 127 * 2^23` in magnitude (docs/spec/arithmetic.md, `LIMIT`).

use alloc::vec::Vec;
use p3_field::extension::QuinticTrinomialExtensionField;
use p3_field::{ExtensionField, PrimeCharacteristicRing, PrimeField32, TwoAdicField};
use p3_koala_bear::KoalaBear;

/// The extension field that challenges come from, and what it extends.
pub trait ProofField: ExtensionField<Self::Base> {
    /// The field of the witness.
    type Base: PrimeField32 + TwoAdicField;
    /// Absorbed by every transcript.
    const NAME: &'static str;

    /// The integer below p that stands for x in vector registers: `2^32 x`, Montgomery's form.
    fn raw(x: Self::Base) -> u32;

    /// The element that [`ProofField::raw`] gives `raw` for.
    fn from_raw(raw: u32) -> Self::Base;
}

/// KoalaBear's extension of degree 5.
pub type Quintic = QuinticTrinomialExtensionField<KoalaBear>;

/// `2^-32 mod p`.
const UNRAW: u32 = 1057030144;

impl ProofField for Quintic {
    type Base = KoalaBear;
    const NAME: &'static str = "koala-bear X^5+X^2-1";

    #[inline(always)]
    fn raw(x: KoalaBear) -> u32 {
        x.to_unique_u32()
    }

    fn from_raw(raw: u32) -> KoalaBear {
        KoalaBear::from_u32(raw) * KoalaBear::from_u32(UNRAW)
    }
}

/// Bytes of an element of the base field in a proof: its canonical integer, little-endian.
pub const BASE_BYTES: usize = 4;

/// Bytes of an element of the extension: its coordinates.
#[must_use]
pub const fn ext_bytes<E: ProofField>() -> usize {
    E::DIMENSION * BASE_BYTES
}

/// The canonical bytes of `x`.
pub fn put_base<B: PrimeField32>(x: B, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&x.as_canonical_u32().to_le_bytes());
}

/// The canonical bytes of `x`, coordinate after coordinate.
pub fn put_ext<E: ProofField>(x: E, bytes: &mut Vec<u8>) {
    for coordinate in x.as_basis_coefficients_slice() {
        put_base(*coordinate, bytes);
    }
}

/// Reads what [`put_base`] wrote; `None` unless it is the canonical integer, below p.
#[must_use]
pub fn get_base<B: PrimeField32>(bytes: [u8; BASE_BYTES]) -> Option<B> {
    let x = u32::from_le_bytes(bytes);
    (x < B::ORDER_U32).then(|| B::from_u32(x))
}

/// The integers that [`put_base`] wrote; `None` unless all are canonical.
pub fn get_integers<B: PrimeField32>(bytes: &[u8], integers: &mut Vec<u32>) -> Option<()> {
    integers.clear();
    integers.extend(bytes.as_chunks::<BASE_BYTES>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
    integers.iter().all(|x| *x < B::ORDER_U32).then_some(())
}

/// Reads what [`put_ext`] wrote; `None` unless every coordinate is canonical and their number right.
#[must_use]
pub fn get_ext<E: ProofField>(bytes: &[u8]) -> Option<E> {
    let (chunks, rest) = bytes.as_chunks::<BASE_BYTES>();
    if !rest.is_empty() || chunks.len() != E::DIMENSION {
        return None;
    }
    let mut canonical = true;
    let x = E::from_basis_coefficients_fn(|i| {
        get_base(chunks[i]).unwrap_or_else(|| {
            canonical = false;
            E::Base::ZERO
        })
    });
    canonical.then_some(x)
}

/// The residue of an integer.
#[must_use]
#[inline]
pub fn residue<B: PrimeField32>(x: i64) -> B {
    let order = i64::from(B::ORDER_U32);
    let near = if x < 0 { x + order } else { x };
    B::from_u32(if (0..order).contains(&near) { near } else { x.rem_euclid(order) } as u32)
}

/// The integer of smallest magnitude in a residue class.
#[must_use]
#[inline]
pub fn centred<B: PrimeField32>(x: B) -> i64 {
    let x = i64::from(x.as_canonical_u32());
    if x > i64::from(B::ORDER_U32 / 2) { x - i64::from(B::ORDER_U32) } else { x }
}

/// `2^exponent`.
#[must_use]
pub fn power_of_two<R: PrimeCharacteristicRing>(exponent: u32) -> R {
    R::TWO.exp_u64(exponent.into())
}
