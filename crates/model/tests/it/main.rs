//! Behaviour of the importers, the tokenizers and the bundle.
