//! A proof as a file: 8 bytes that say what it is, then what the prover said.
//!
//! Nothing in the body has a length: how many elements follow is known from the statement. So no number of a proof decides an
//! allocation, there is one encoding (integers at or above p are refused, and bytes behind the end), and a verifier reads at
//! most what is there.

use crate::error::VerifyError;
use alloc::string::String;
use alloc::vec::Vec;

/// The first bytes of a proof: format and version.
pub const MAGIC: &str = "lockPRF0";
/// Bytes of a proof.
pub const PROOF_BYTES_MAX: usize = 64 << 20;

/// A proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    bytes: Vec<u8>,
}

impl Proof {
    /// The proof whose body is `body`.
    #[must_use]
    pub fn new(body: &[u8]) -> Proof {
        Proof { bytes: [MAGIC.as_bytes(), body].concat() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is too large or no proof.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Proof, VerifyError> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(VerifyError::Size { got: bytes.len(), limit: PROOF_BYTES_MAX });
        }
        if !bytes.starts_with(MAGIC.as_bytes()) {
            let got = bytes.iter().take(MAGIC.len()).map(|byte| char::from(*byte)).collect::<String>();
            return Err(VerifyError::Magic { got, expected: MAGIC });
        }
        Ok(Proof { bytes })
    }

    /// The file.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the prover said.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[MAGIC.len()..]
    }
}
