//! See [`lockstep_fuzz::wire_receipt`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lockstep_fuzz::wire_receipt(data));
