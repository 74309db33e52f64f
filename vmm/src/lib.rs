//! The Adjunct virtual machine monitor.
