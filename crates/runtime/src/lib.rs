//! The exact integer transformer runtime: scalar reference, SIMD twins, KV cache, trace. No float, no IO.
