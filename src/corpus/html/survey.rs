//! The first pass over a page.

use html5ever::tokenizer::Tag;

use super::elements::breaks_out;
use super::{Receive, attribute};

/// First pass: which tables are layout. A table that holds blocks cannot be rows of one line each.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) layout: Vec<bool>,
    open: Vec<usize>,
    foreign: usize,
    /// Open `<foreignObject>`s, where HTML may stand in SVG.
    inner: usize,
}

impl Receive for Survey {
    fn start(&mut self, name: &str, tag: &Tag) {
        match name {
            "svg" | "math" if !tag.self_closing => self.foreign += 1,
            "foreignobject" => self.inner += 1,
            _ if self.foreign > 0 && self.inner == 0 && breaks_out(name) => self.foreign = 0,
            _ => {}
        }
        match name {
            "table" => {
                self.mark();
                self.open.push(self.layout.len());
                self.layout.push(attribute(tag, "role").is_some_and(|r| r == "presentation"));
            }
            "pre" | "ul" | "ol" | "dl" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "blockquote" => self.mark(),
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        match name {
            "svg" | "math" => self.foreign = self.foreign.saturating_sub(1),
            "foreignobject" => self.inner = self.inner.saturating_sub(1),
            "table" => {
                self.open.pop();
            }
            _ => {}
        }
    }

    fn text(&mut self, _: &str) {}

    fn foreign(&self) -> bool {
        self.foreign > 0
    }
}

impl Survey {
    /// The innermost open table holds a block; the ones around it were marked when it began.
    fn mark(&mut self) {
        if let Some(flag) = self.open.last().and_then(|&i| self.layout.get_mut(i)) {
            *flag = true;
        }
    }
}
