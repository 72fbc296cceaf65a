//! The parts of the one binary.
