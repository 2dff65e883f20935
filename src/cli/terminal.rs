//! What is known about the place that output goes to.

use std::ffi::OsString;
use std::io::IsTerminal;

/// The abilities of stdout and stderr; plain data, so that tests can say what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// People read stdout.
    pub(crate) stdout: bool,
    /// People read stderr, and it can move its cursor.
    pub(crate) stderr: bool,
    /// Colour on stdout.
    pub(crate) stdout_color: bool,
    /// Colour on stderr.
    pub(crate) stderr_color: bool,
    /// Characters beyond ASCII.
    pub(crate) unicode: bool,
    /// Columns of stdout, when it is a terminal.
    pub(crate) width: Option<u16>,
}

impl Terminal {
    /// Looks at this process's streams and environment.
    pub(crate) fn detect() -> Self {
        let stdout = std::io::stdout().is_terminal();
        let width = if stdout { comfy_table::Table::new().width() } else { None };
        Self::from(|name| std::env::var_os(name), stdout, std::io::stderr().is_terminal(), width)
    }

    /// A place without any ability: pipes and files.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { stdout: false, stderr: false, stdout_color: false, stderr_color: false, unicode: true, width: None }
    }

    fn from(env: impl Fn(&str) -> Option<OsString>, stdout: bool, stderr: bool, width: Option<u16>) -> Self {
        let set = |name: &str| env(name).is_some_and(|v| !v.is_empty());
        let is = |name: &str, value: &str| env(name).is_some_and(|v| v == value);
        // https://no-color.org: any value that is not empty.
        let color = !set("NO_COLOR") && !is("TERM", "dumb");
        // The first that is set decides, as in POSIX; unset means nothing is known, and UTF-8 is usual.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(|name| set(name));
        let ascii = locale.is_some_and(|name| is(name, "C") || is(name, "POSIX"));
        let dumb = is("TERM", "dumb");
        Self {
            stdout,
            stderr: stderr && !dumb,
            stdout_color: stdout && color,
            stderr_color: stderr && color,
            unicode: !ascii && !dumb,
            width,
        }
    }
}

/// Text without control characters: names of documents come from anywhere and must not steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(env: &[(&str, &str)]) -> Terminal {
        let get = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        Terminal::from(get, true, true, Some(80))
    }

    #[test]
    fn a_terminal_has_colour_unless_the_environment_says_no() {
        let usual = terminal(&[("TERM", "xterm"), ("LANG", "en_US.UTF-8"), ("NO_COLOR", "")]);
        assert!(usual.stdout_color && usual.stderr_color && usual.stderr && usual.unicode);
        let none = terminal(&[("NO_COLOR", "1")]);
        assert!(!none.stdout_color && !none.stderr_color && none.stderr);
        let dumb = terminal(&[("TERM", "dumb")]);
        assert!(!dumb.stdout_color && !dumb.stderr && !dumb.unicode);
        assert!(!terminal(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]).unicode);
    }

    #[test]
    fn a_pipe_has_nothing() {
        let t = Terminal::from(|_| None, false, false, None);
        assert_eq!(t, Terminal::plain());
    }

    #[test]
    fn control_characters_are_shown_instead_of_obeyed() {
        assert_eq!(clean("a\u{1b}[31mb\r\nc\t\u{9b}"), "a\\u{1b}[31mb\\r\nc\t\\u{9b}");
        assert_eq!(clean("naïve ü 漢"), "naïve ü 漢");
    }
}
