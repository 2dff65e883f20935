//! The `regrow` binary: arguments, settings, printing. Everything else is in the library.
#![forbid(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
