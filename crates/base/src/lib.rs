//! Ids, digests, receipts, limits and the op graph: what every part of Lockstep agrees on. No IO.
