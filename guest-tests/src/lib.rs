//! Guest boot tests.
