//! The `regrow` command.
#![forbid(unsafe_code)]

#[expect(dead_code, reason = "the verbs that print and report are added one by one")]
mod cli;

fn main() {}
