//! See [`lockstep_fuzz::answer_key`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lockstep_fuzz::answer_key(data));
