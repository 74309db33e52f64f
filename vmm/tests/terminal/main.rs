//! The programs that take a terminal, in a real one, tmux's: what is on the screen after given keys, and what is left behind
//! after every end.

mod console;
mod guest;
mod monitor;
#[path = "../program/mod.rs"]
mod program;
mod run;
mod tmux;
mod top;
