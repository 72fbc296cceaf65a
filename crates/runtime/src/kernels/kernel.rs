//! Which instructions a computation may use. A value of [`Kernel`] other than `Scalar` exists only
//! where the machine was asked and has the instructions: its variants hold a witness that nothing
//! outside this file can make. That is what makes every call of a `#[target_feature]` function sound.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// Witness that this machine has NEON with dot products of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

/// Witness that this machine has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

/// Witness that this machine has AVX2 and AVX-VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvxVnni(());

impl AvxVnni {
    /// A machine with AVX-VNNI has AVX2.
    #[must_use]
    pub const fn avx2(self) -> Avx2 {
        Avx2(())
    }
}

/// Witness that this machine has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

/// A set of instructions. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Plain safe code: the specification.
    Scalar,
    /// 128-bit vectors of AArch64: dot products of bytes.
    Neon(Neon),
    /// 256-bit vectors: products of i16 pairs.
    Avx2(Avx2),
    /// 256-bit vectors: dot products of bytes (VNNI).
    AvxVnni(AvxVnni),
    /// 512-bit vectors: dot products of bytes (VNNI).
    Avx512(Avx512),
}

impl Kernel {
    /// Every kernel that exists, by name, slowest first.
    pub const NAMES: [&'static str; 5] = ["scalar", "neon", "avx2", "avxvnni", "avx512"];

    /// The kernels that this machine can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Kernel> {
        let mut kernels = Vec::with_capacity(Kernel::NAMES.len());
        kernels.push(Kernel::Scalar);
        #[cfg(all(feature = "std", target_arch = "aarch64"))]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            kernels.push(Kernel::Neon(Neon(())));
        }
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") {
                kernels.push(Kernel::Avx2(Avx2(())));
            }
            if has!("avx2") && has!("avxvnni") {
                kernels.push(Kernel::AvxVnni(AvxVnni(())));
            }
            let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            if avx512 && has!("avx512vnni") {
                kernels.push(Kernel::Avx512(Avx512(())));
            }
        }
        kernels
    }

    /// The fastest kernel of this machine.
    #[must_use]
    pub fn detect() -> Kernel {
        Kernel::available().pop().unwrap_or(Kernel::Scalar)
    }

    /// Its name, as [`FromStr`] reads it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::Scalar => Kernel::NAMES[0],
            Kernel::Neon(_) => Kernel::NAMES[1],
            Kernel::Avx2(_) => Kernel::NAMES[2],
            Kernel::AvxVnni(_) => Kernel::NAMES[3],
            Kernel::Avx512(_) => Kernel::NAMES[4],
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a name is not a kernel of this machine.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum KernelError {
    /// No kernel has that name.
    #[error("unknown kernel {got:?}, expected scalar, neon, avx2, avxvnni or avx512")]
    Unknown {
        /// The name.
        got: String,
    },
    /// The machine (or this build) lacks its instructions.
    #[error("kernel {got} is not available here, the best is {best}")]
    Unavailable {
        /// The kernel that was asked for.
        got: &'static str,
        /// The fastest that can run.
        best: Kernel,
    },
}

impl FromStr for Kernel {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Kernel, KernelError> {
        let known = Kernel::NAMES.iter().find(|known| **known == name);
        let Some(got) = known else {
            return Err(KernelError::Unknown { got: name.into() });
        };
        let found = Kernel::available().into_iter().find(|kernel| kernel.name() == *got);
        found.ok_or(KernelError::Unavailable { got, best: Kernel::detect() })
    }
}

/// Defines `fn name(kernel, args...)` from a plain `#[inline(always)]` body: the body compiled as
/// it stands is the specification, compiled again with wider vectors its twins.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path) => {
        $(#[$meta])*
        $vis fn $name(kernel: $crate::kernels::Kernel, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                match kernel {
                    $crate::kernels::Kernel::Scalar | $crate::kernels::Kernel::Neon(_) => $body($($arg),*),
                    // SAFETY: the witness in the variant says that the machine has AVX2.
                    $crate::kernels::Kernel::Avx2(_) => unsafe { avx2($($arg),*) },
                    // SAFETY: and the machines with AVX-VNNI have it too.
                    $crate::kernels::Kernel::AvxVnni(_) => unsafe { avx2($($arg),*) },
                    // SAFETY: the witness in the variant says that the machine has AVX-512.
                    $crate::kernels::Kernel::Avx512(_) => unsafe { avx512($($arg),*) },
                }
            }
            // AArch64 has NEON everywhere: the specification is compiled with it.
            #[cfg(not(all(feature = "std", target_arch = "x86_64")))]
            {
                let _ = kernel;
                $body($($arg),*)
            }
        }
    };
}
pub(crate) use multiversion;
