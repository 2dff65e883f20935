//! Temporary.
use regrow::event::{Event, Reporter};
pub(crate) struct Progress(bool);
impl Progress { pub(crate) fn stderr(_: super::args::LogFormat, quiet: bool) -> Self { Self(quiet) } }
impl Reporter for Progress { fn event(&self, e: &Event) { match e { Event::Progress{..} => {}, e => if !self.0 { eprintln!("{e:?}") } } } }
