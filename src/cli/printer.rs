//! Temporary.
use regrow::{Error, Result};
use regrow::validate::Check;
use serde::Serialize;
pub(crate) struct Printer { json: bool }
impl Printer {
    pub(crate) fn stdio(json: bool) -> Self { Self { json } }
    pub(crate) fn report<T: Serialize>(&self, v: &T, text: impl FnOnce() -> String) -> Result<()> {
        if self.json { println!("{}", serde_json::to_string_pretty(v).unwrap()); } else { print!("{}", text()); }
        Ok(())
    }
    pub(crate) fn progress_text(&self, text: impl FnOnce() -> String) -> Result<()> { if !self.json { print!("{}", text()); } Ok(()) }
    pub(crate) fn error(&self, e: &Error) { eprintln!("error: {e}\n  {:?}\n  next: {:?}", e.causes(), e.next_step()); }
}
pub(crate) fn bytes(n: u64) -> String { format!("{n} B") }
pub(crate) fn count(n: u64) -> String { n.to_string() }
pub(crate) fn duration(s: f64) -> String { format!("{s:.2} s") }
pub(crate) fn table(h: &[&str], rows: Vec<Vec<String>>) -> String { let mut o = h.join(" | "); for r in rows { o.push('\n'); o += &r.join(" | "); } o.push('\n'); o }
pub(crate) fn checks(c: &[Check]) -> String { c.iter().map(|c| format!("  {} {}: {} {}\n", c.outcome.name(), c.name, c.measured, c.reason)).collect() }
