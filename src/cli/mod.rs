//! The command line: what people type and see. It uses the library's public interface only.

mod format;
mod printer;
mod progress;
mod terminal;
