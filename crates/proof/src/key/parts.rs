//! What a key has of the parts of a layer: everything but weights.

use super::{KeyError, count};
use alloc::format;
use alloc::vec::Vec;
#[cfg(feature = "prover")]
use lockstep_base::weights::DenseWeights;
use lockstep_base::weights::{Gain, Linear, Region, WeightFormat};
use minicbor::{Decode, Encode};

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct MatrixKey {
    #[n(0)]
    pub(super) rows: u32,
    #[n(1)]
    pub(super) cols: u32,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(super) multipliers: Vec<u8>,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(super) shifts: Vec<u8>,
    #[n(4)]
    pub(super) bias: Vec<i32>,
    #[n(5)]
    pub(super) pre_shift: u8,
    #[n(6)]
    pub(super) out_frac: i8,
    /// Weights have 16 bits.
    #[n(7)]
    pub(super) wide: bool,
}

impl MatrixKey {
    #[cfg(feature = "prover")]
    pub(super) fn new(linear: &Linear) -> MatrixKey {
        MatrixKey {
            rows: linear.rows as u32,
            cols: linear.cols as u32,
            multipliers: linear.multipliers.clone(),
            shifts: linear.shifts.clone(),
            bias: linear.bias.clone(),
            pre_shift: linear.pre_shift,
            out_frac: linear.out_frac,
            wide: linear.format == WeightFormat::Int16,
        }
    }

    /// The matrix, without weights.
    pub(super) fn linear(&self, name: &str, (rows, cols): (u32, u32)) -> Result<Linear, KeyError> {
        let cols = cols.next_multiple_of(32);
        let MatrixKey { multipliers, shifts, bias, .. } = self;
        let biases = if bias.is_empty() { 0 } else { rows as usize };
        for (what, got, expected) in [
            ("rows", self.rows as usize, rows as usize),
            ("columns", self.cols as usize, cols as usize),
            ("multipliers", multipliers.len(), rows as usize),
            ("shifts", shifts.len(), rows as usize),
            ("biases", bias.len(), biases),
        ] {
            count(&format!("{what} of {name}"), got, expected)?;
        }
        Ok(Linear {
            rows: rows as usize,
            cols: cols as usize,
            format: if self.wide { WeightFormat::Int16 } else { WeightFormat::Int8 },
            codes: Region::from(Vec::new()),
            table_ids: Region::from(Vec::new()),
            multipliers: multipliers.clone(),
            shifts: shifts.clone(),
            bias: bias.clone(),
            pre_shift: self.pre_shift,
            out_frac: self.out_frac,
        })
    }
}

/// The gains of a norm.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct GainKey {
    #[n(0)]
    pub(super) mantissas: Vec<i16>,
    #[n(1)]
    pub(super) shifts: Vec<i8>,
    #[n(2)]
    pub(super) offsets: Vec<i32>,
    #[n(3)]
    pub(super) eps: u64,
    #[n(4)]
    pub(super) out_frac: i8,
    #[n(5)]
    pub(super) centred: bool,
}

impl GainKey {
    #[cfg(feature = "prover")]
    pub(super) fn new(gain: &Gain) -> GainKey {
        let Gain { mantissas, shifts, offsets, eps, out_frac, centred } = gain.clone();
        GainKey { mantissas, shifts, offsets, eps, out_frac, centred }
    }

    /// The gains; how many they are, and where they are, is for [`crate::decoder::plan`] to say.
    pub(super) fn gain(&self) -> Gain {
        let GainKey { mantissas, shifts, offsets, eps, out_frac, centred } = self.clone();
        Gain { mantissas, shifts, offsets, eps, out_frac, centred }
    }
}

/// A feed-forward network.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct NetworkKey {
    #[n(0)]
    pub(super) gate: Option<MatrixKey>,
    #[n(1)]
    pub(super) up: MatrixKey,
    #[n(2)]
    pub(super) down: MatrixKey,
}

impl NetworkKey {
    #[cfg(feature = "prover")]
    pub(super) fn new(dense: &DenseWeights) -> NetworkKey {
        NetworkKey {
            gate: dense.gate.as_ref().map(MatrixKey::new),
            up: MatrixKey::new(&dense.up),
            down: MatrixKey::new(&dense.down),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct LayerKey {
    #[n(0)]
    pub(super) q: MatrixKey,
    #[n(1)]
    pub(super) k: MatrixKey,
    #[n(2)]
    pub(super) v: MatrixKey,
    #[n(3)]
    pub(super) o: MatrixKey,
    /// One network, or the experts.
    #[cbor(n(4), decode_with = "crate::few::decode")]
    pub(super) networks: Vec<NetworkKey>,
    #[n(5)]
    pub(super) router: Option<MatrixKey>,
    #[n(6)]
    pub(super) k_center: Vec<i32>,
    #[n(7)]
    pub(super) q_norm: Option<GainKey>,
    #[n(8)]
    pub(super) k_norm: Option<GainKey>,
    #[n(9)]
    pub(super) attn_post: Option<GainKey>,
    #[n(10)]
    pub(super) ffn_post: Option<GainKey>,
}

impl LayerKey {
    /// All norms, by name.
    pub(super) fn norms(&self) -> [(&'static str, &Option<GainKey>); 4] {
        [
            ("norm of queries", &self.q_norm),
            ("norm of keys", &self.k_norm),
            ("norm behind attention", &self.attn_post),
            ("norm behind the block", &self.ffn_post),
        ]
    }
}
