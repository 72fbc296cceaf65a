//! The kernels for x86-64. Both linear kernels share the shape of the work: tokens in register
//! tiles ([`tiles`]), weights in panels of 4 rows ([`panel`]).

pub(super) mod avx2;
pub(super) mod avx512;
pub(super) mod heads_avx2;
pub(super) mod heads_avx512;
pub(super) mod panel;
pub(super) mod tiles;
