//! The kernels for x86-64. All linear kernels share the shape of the work: tokens in register
//! tiles ([`tiles`]), weights in panels of 4 rows ([`super::panel`]), which a few tokens read as they are
//! ([`direct`]) and many tokens unpacked ([`block`]).

pub(super) mod avx2;
pub(super) mod block;
mod direct;
pub(super) mod heads_avx2;
pub(super) mod heads_avx512;
pub(super) mod tiles;
mod vector;
pub(super) mod vnni;
mod wide;
pub(super) mod words_avx512;
