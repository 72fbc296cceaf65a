//! The exact arithmetic against its specification.
