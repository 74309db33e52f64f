//! The seam between Adjunct's CPU back ends and its devices.
