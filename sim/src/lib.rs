//! Deterministic simulator of the mesh: one seed is one whole run.
