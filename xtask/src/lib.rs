//! Tidy checks of the repository, as tests.
