//! See [`lockstep_fuzz::receipt_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lockstep_fuzz::receipt_file(data));
