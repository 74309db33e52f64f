//! The words of the z/Architecture Principles of Operation as Rust types.
