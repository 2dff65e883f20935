//! Which paths are documents, of what kind, and what a path says about its document.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::{CorpusSettings, RecordFormat, RecordSettings};

/// How a file that holds one document is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Markdown,
    Html,
    Restructured,
    Plain,
}

/// Kind of a file by its extension; `None` for extensions that are not known.
fn known(path: &str) -> Option<FileKind> {
    Some(match extension(path)?.as_str() {
        "md" | "markdown" | "mdx" => FileKind::Markdown,
        "html" | "htm" | "xhtml" => FileKind::Html,
        "rst" => FileKind::Restructured,
        "txt" | "text" | "adoc" | "org" => FileKind::Plain,
        _ => return None,
    })
}

pub(super) fn file_kind(path: &str) -> FileKind {
    known(path).unwrap_or(FileKind::Plain)
}

/// Record format by the extension.
pub(super) fn record_format(path: &str) -> Option<RecordFormat> {
    Some(match extension(path)?.as_str() {
        "jsonl" | "ndjson" => RecordFormat::Jsonl,
        "csv" | "tsv" => RecordFormat::Csv,
        "parquet" => RecordFormat::Parquet,
        _ => return None,
    })
}

fn extension(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty()).then(|| extension.to_ascii_lowercase())
}

/// Globs as pipeline files have them: `*` stays within a segment, `**` does not; a pattern without `/`
/// matches the name at any depth; a leading `/` or `./` anchors it; a trailing `/` means all below.
pub(crate) fn globs(key: &'static str, patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let wrong = |e: globset::Error| {
            Error::new(ErrorKind::Configuration, "a glob cannot be read")
                .with("key", key)
                .with("glob", pattern)
                .guidance("see the pipeline reference for globs: `docs/**/*.md`, `*.{md,html}`, `drafts/`")
                .because(e)
        };
        let anchored = pattern.strip_prefix("./").or_else(|| pattern.strip_prefix('/'));
        let mut glob = anchored.unwrap_or(pattern).to_owned();
        if glob.ends_with('/') {
            glob.push_str("**");
        }
        if anchored.is_none() && !pattern.trim_end_matches('/').contains('/') {
            glob.insert_str(0, "**/");
        }
        set.add(GlobBuilder::new(&glob).literal_separator(true).build().map_err(wrong)?);
    }
    set.build().map_err(|e| Error::new(ErrorKind::Configuration, "globs cannot be read").with("key", key).because(e))
}

/// The compiled choice of a pipeline.
#[derive(Debug)]
pub(crate) struct Selection {
    include: Option<GlobSet>,
    exclude: GlobSet,
    hidden: bool,
    records: Vec<(GlobSet, RecordSettings)>,
}

impl Selection {
    pub(crate) fn new(settings: &CorpusSettings) -> Result<Self> {
        let include =
            if settings.include.is_empty() { None } else { Some(globs("corpus.include", &settings.include)?) };
        let records = settings
            .records
            .iter()
            .map(|r| Ok((globs("corpus.records.include", &r.include)?, r.clone())))
            .collect::<Result<_>>()?;
        Ok(Self { include, exclude: globs("corpus.exclude", &settings.exclude)?, hidden: settings.hidden, records })
    }

    /// Whether a file is part of the corpus.
    pub(super) fn takes(&self, path: &str) -> bool {
        if self.leaves_out(path) {
            return false;
        }
        if self.records(path).is_some() {
            return true;
        }
        // Without a records entry nobody has said what the id and the text of a record are.
        if record_format(path).is_some() {
            return false;
        }
        match &self.include {
            Some(include) => include.is_match(path),
            None => known(path).is_some(),
        }
    }

    /// Whether a path, or everything below it, is excluded or hidden.
    pub(crate) fn leaves_out(&self, path: &str) -> bool {
        let hidden = !self.hidden && path.split('/').any(|segment| segment.starts_with('.'));
        hidden || {
            // What is below an excluded directory is excluded too.
            let ends = path.match_indices('/').map(|(i, _)| i).chain([path.len()]);
            !self.exclude.is_empty() && ends.into_iter().any(|end| self.exclude.is_match(&path[..end]))
        }
    }

    /// How the records of a file are read, where it is a record file.
    pub(super) fn records(&self, path: &str) -> Option<&RecordSettings> {
        self.records.iter().find(|(globs, _)| globs.is_match(path)).map(|(_, settings)| settings)
    }

    /// Whether a name without further knowledge may be a directory of documents.
    pub(super) fn may_be_directory(path: &str) -> bool {
        extension(path).is_none()
    }
}

/// One segment of a path pattern.
#[derive(Debug, PartialEq)]
enum Segment {
    Literal(String),
    /// `*`
    Any,
    /// `**`: any number of segments; at the end at least one.
    Rest,
    /// `v{version}.md`
    Named {
        before: String,
        name: String,
        after: String,
    },
}

/// A pattern such as `{product}/{version}/**`.
#[derive(Debug)]
pub(crate) struct PathPattern(Vec<Segment>);

impl PathPattern {
    pub(crate) fn new(pattern: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::new(ErrorKind::Configuration, what)
                .with("corpus.path_metadata", pattern)
                .guidance("write segments such as `{product}/{version}/**`, each name once")
        };
        let mut names = Vec::new();
        let mut segments = Vec::new();
        for part in pattern.trim_start_matches("./").trim_matches('/').split('/') {
            segments.push(match part {
                "" => return Err(wrong("the path pattern has an empty segment")),
                "*" => Segment::Any,
                "**" => Segment::Rest,
                _ => match part.split_once('{') {
                    None if part.contains(['}', '*']) => {
                        return Err(wrong("`*` and `**` stand alone in a path pattern, and `}` needs its `{`"));
                    }
                    None => Segment::Literal(part.to_owned()),
                    Some((before, rest)) => {
                        let Some((name, after)) = rest.split_once('}') else {
                            return Err(wrong("a name in the path pattern is not closed"));
                        };
                        if name.is_empty() || after.contains(['{', '}']) || names.contains(&name) {
                            return Err(wrong("a segment of the path pattern has an empty, second or repeated name"));
                        }
                        names.push(name);
                        Segment::Named { before: before.to_owned(), name: name.to_owned(), after: after.to_owned() }
                    }
                },
            });
        }
        Ok(Self(segments))
    }

    /// Names and values, or `None` when the path does not match.
    pub(super) fn matches(&self, path: &str) -> Option<Vec<(String, String)>> {
        let parts: Vec<&str> = path.split('/').collect();
        let mut found = Vec::new();
        matches(&self.0, &parts, &mut found)
            .then(|| found.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
    }
}

fn matches<'p>(segments: &'p [Segment], parts: &[&'p str], found: &mut Vec<(&'p str, &'p str)>) -> bool {
    let Some((segment, rest)) = segments.split_first() else { return parts.is_empty() };
    if let Segment::Rest = segment {
        if rest.is_empty() {
            return !parts.is_empty();
        }
        let known = found.len();
        return (0..=parts.len()).any(|skip| {
            found.truncate(known);
            matches(rest, &parts[skip..], found)
        });
    }
    let Some((part, others)) = parts.split_first() else { return false };
    match segment {
        Segment::Literal(text) if text != part => return false,
        Segment::Named { before, name, after } => {
            let value = part.strip_prefix(before.as_str()).and_then(|v| v.strip_suffix(after.as_str()));
            match value {
                Some(value) if !value.is_empty() => found.push((name, value)),
                _ => return false,
            }
        }
        _ => {}
    }
    matches(rest, others, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(toml: &str) -> Selection {
        Selection::new(&toml::from_str(&format!("url = 'x'\n{toml}")).unwrap()).unwrap()
    }

    #[test]
    fn known_extensions_are_taken_by_default() {
        let s = selection("");
        for path in ["a.md", "x/y/B.HTML", "a b.rst", "n.org", "a.tar.txt"] {
            assert!(s.takes(path), "{path}");
        }
        for path in ["README", "a.png", "a.jsonl", "a.csv", ".a.md", "x/.git/a.md", "md", ".md"] {
            assert!(!s.takes(path), "{path}");
        }
        assert!(selection("hidden = true").takes("x/.notes/a.md"));
    }

    #[test]
    fn globs_include_and_exclude() {
        let s =
            selection("include = ['*.md', 'src/*.rs', '/LICENSE']\nexclude = ['drafts/', 'node_modules', 'a/*.md']");
        for path in ["a.md", "x/y/a.md", "src/a.rs", "LICENSE", "a/b/c.md"] {
            assert!(s.takes(path), "{path}");
        }
        for path in
            ["src/x/a.rs", "x/LICENSE", "x/drafts/a.md", "drafts/b/a.md", "y/node_modules/z/a.md", "a/b.md", "a.txt"]
        {
            assert!(!s.takes(path), "{path}");
        }
        let bad: CorpusSettings = toml::from_str("url = 'x'\ninclude = ['a[']").unwrap();
        assert_eq!(Selection::new(&bad).unwrap_err().kind(), ErrorKind::Configuration);
    }

    #[test]
    fn records_need_an_entry() {
        let s = selection("[[records]]\ninclude = ['data/*.jsonl']\nid = 'id'\ntext = ['t']");
        assert!(s.takes("data/a.jsonl") && s.records("data/a.jsonl").is_some());
        assert!(!s.takes("other/a.jsonl"));
        assert!(s.takes("a.md") && s.records("a.md").is_none());
    }

    #[test]
    fn path_patterns_name_segments() {
        let m = |pattern: &str, path: &str| PathPattern::new(pattern).unwrap().matches(path);
        let pairs =
            |list: &[(&str, &str)]| Some(list.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>());
        assert_eq!(m("{product}/{version}/**", "p/1/a/b.md"), pairs(&[("product", "p"), ("version", "1")]));
        assert_eq!(m("{product}/{version}/**", "p/1"), None);
        assert_eq!(m("docs/*/v{v}.md", "docs/x/v12.md"), pairs(&[("v", "12")]));
        assert_eq!(m("**/{last}/*", "a/b/c/d.md"), pairs(&[("last", "c")]));
        for wrong in ["{a}/{a}", "{a", "a}", "{}", "a//b", "x*"] {
            assert_eq!(PathPattern::new(wrong).unwrap_err().kind(), ErrorKind::Configuration, "{wrong}");
        }
    }
}
