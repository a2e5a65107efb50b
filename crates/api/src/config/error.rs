//! A refused configuration: where, what, and what to write there.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read at all: a matter for exit code 1.
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was read and is refused: a matter for exit code 2.
    Refused(Box<Refused>),
}

impl ConfigError {
    /// Everything that is wrong, as a person reads it: file, line, column, the offending text underlined, what is
    /// allowed. Several lines; ends without a line break. `colour` adds terminal colours.
    pub fn render(&self, colour: bool) -> String {
        match self {
            ConfigError::Unreadable { path, source } => {
                let remedy = match source.kind() {
                    io::ErrorKind::NotFound => "write it, or name another one with --config",
                    io::ErrorKind::PermissionDenied => "read it as root, or name another one with --config",
                    io::ErrorKind::InvalidData => "save it as UTF-8",
                    _ => "mend that, or name another one with --config",
                };
                format!("cannot read {}: {source}: {remedy}", path.display())
            }
            ConfigError::Refused(refused) => refused.render(colour),
        }
    }

    /// What is wrong, in the order of the file; empty if the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Unreadable { .. } => &[],
            ConfigError::Refused(refused) => &refused.problems,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Unreadable { source, .. } => Some(source),
            ConfigError::Refused(_) => None,
        }
    }
}

/// A file with all that is wrong with it.
#[derive(Debug)]
pub struct Refused {
    path: PathBuf,
    text: String,
    problems: Vec<Problem>,
}

impl Refused {
    pub(super) fn new(path: &Path, text: &str, mut problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty());
        problems.sort_by_key(|problem| (problem.span.start, problem.span.end));
        Refused { path: path.to_owned(), text: text.to_owned(), problems }
    }

    fn render(&self, colour: bool) -> String {
        let path = self.path.display().to_string();
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let rendered: Vec<String> = self
            .problems
            .iter()
            .map(|problem| {
                let mut annotation = AnnotationKind::Primary.span(problem.span.clone());
                if !problem.label.is_empty() {
                    annotation = annotation.label(problem.label.as_str());
                }
                let snippet = Snippet::source(self.text.as_str()).path(path.as_str()).annotation(annotation);
                let report: Group<'_> = Level::ERROR
                    .primary_title(problem.message.as_str())
                    .element(snippet)
                    .elements(problem.advice.iter().map(|advice| Level::HELP.message(advice.as_str())));
                renderer.render(&[report])
            })
            .collect();
        rendered.join("\n\n")
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) span: Range<usize>,
    line: usize,
    column: usize,
    message: String,
    label: String,
    advice: Vec<String>,
}

impl Problem {
    pub(super) fn new(text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let span = trim(text, span);
        let before = &text[..span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Problem {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            span,
            message: message.into(),
            label: String::new(),
            advice: Vec::new(),
        }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice.push(advice.into());
        self
    }

    /// The line it starts in, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The character of the line it starts at, counted from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What is allowed and what to do, a line each.
    pub fn advice(&self) -> &[String] {
        &self.advice
    }
}

/// A span within the text, on character boundaries, that does not reach into the line after it.
fn trim(text: &str, span: Range<usize>) -> Range<usize> {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    // The first line of what spans several says enough.
    start..end.min(line_end).max(start)
}
