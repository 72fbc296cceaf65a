//! The formats of `lockstep-base` against their specification.
