//! The file of an integer network: 8 bytes of magic, then deterministic CBOR of graph and matrices. The root of
//! [`Net::root`] binds all of it; nothing else in the file says what it is.

use lockstep_base::Digest;
use lockstep_base::cbor::{self, CborError};
use lockstep_base::net::{Graph, Net, NetError};
use lockstep_base::weights::{Linear, Region, WeightFormat};
use minicbor::{Decode, Encode};

/// The first bytes of a file.
pub const MAGIC: &[u8; 8] = b"lockNET0";
/// Bytes of a file.
pub const FILE_BYTES_MAX: usize = 1 << 28;

/// Why bytes are no network.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetFileError {
    /// Too long.
    #[error("{got} bytes, expected at most {FILE_BYTES_MAX}")]
    TooLarge {
        /// How many.
        got: usize,
    },
    /// Another kind of file.
    #[error("the file begins with {got:?}, expected {:?}", String::from_utf8_lossy(MAGIC))]
    Magic {
        /// Its first bytes.
        got: String,
    },
    /// Not the one encoding of a network.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A network that is refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Another network than was asked for.
    #[error("root {got}, expected {expected}")]
    Root {
        /// Of the file.
        got: Digest,
        /// Asked for.
        expected: Digest,
    },
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Stored {
    #[n(0)]
    graph: Graph,
    #[n(1)]
    weights: Vec<Matrix>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Matrix {
    #[n(0)]
    rows: u32,
    #[n(1)]
    cols: u32,
    #[n(2)]
    pre_shift: u8,
    #[n(3)]
    out_frac: i8,
    #[cbor(n(4), with = "minicbor::bytes")]
    multipliers: Vec<u8>,
    #[cbor(n(5), with = "minicbor::bytes")]
    shifts: Vec<u8>,
    #[n(6)]
    bias: Vec<i32>,
    /// In packed order.
    #[cbor(n(7), with = "minicbor::bytes")]
    codes: Vec<u8>,
}

/// The file of `net`.
#[must_use]
pub fn write(net: &Net) -> Vec<u8> {
    let matrix = |linear: &Linear| Matrix {
        rows: linear.rows as u32,
        cols: linear.cols as u32,
        pre_shift: linear.pre_shift,
        out_frac: linear.out_frac,
        multipliers: linear.multipliers.clone(),
        shifts: linear.shifts.clone(),
        bias: linear.bias.clone(),
        codes: linear.codes.to_vec(),
    };
    let stored = Stored { graph: net.graph().clone(), weights: net.weights().iter().map(matrix).collect() };
    [MAGIC.as_slice(), &cbor::encode(&stored)].concat()
}

/// Reads a network and checks all that the runtime relies on; with `root`, also that it is this one.
///
/// # Errors
/// The first check that fails.
pub fn read(bytes: &[u8], root: Option<&Digest>) -> Result<Net, NetFileError> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(NetFileError::TooLarge { got: bytes.len() });
    }
    let Some(body) = bytes.strip_prefix(MAGIC.as_slice()) else {
        let got = String::from_utf8_lossy(&bytes[..bytes.len().min(MAGIC.len())]).into_owned();
        return Err(NetFileError::Magic { got });
    };
    let stored: Stored = cbor::decode("network", body)?;
    let linear = |matrix: Matrix| Linear {
        rows: matrix.rows as usize,
        cols: matrix.cols as usize,
        format: WeightFormat::Int8,
        codes: Region::from(matrix.codes),
        table_ids: Region::from(Vec::new()),
        multipliers: matrix.multipliers,
        shifts: matrix.shifts,
        bias: matrix.bias,
        pre_shift: matrix.pre_shift,
        out_frac: matrix.out_frac,
    };
    let net = Net::new(stored.graph, stored.weights.into_iter().map(linear).collect())?;
    match root {
        Some(expected) if net.root() != *expected => {
            Err(NetFileError::Root { got: net.root(), expected: *expected })
        }
        _ => Ok(net),
    }
}
