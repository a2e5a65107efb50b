//! Reading a TOML document strictly: every value is asked for by a key that is known, and each mistake is
//! remembered with its place, so that all of them can be shown at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::keys::{Key, TABLES, Table};
use super::values::{ValueError, format_duration, parse_duration};
use crate::words::nearest;

/// Where each value of a document stands, by its path, such as `interface[0].addresses[1]`.
pub(super) type Places = BTreeMap<String, Range<usize>>;

/// Reads one document.
pub(super) struct Reader<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
    places: RefCell<Places>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Reader { text, problems: RefCell::default(), places: RefCell::default() }
    }

    pub(super) fn finish(self) -> (Vec<Problem>, Places) {
        (self.problems.into_inner(), self.places.into_inner())
    }

    pub(super) fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    pub(super) fn problem(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem::new(self.text, span, message)
    }

    pub(super) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Reports something about the value at a path that was read before.
    pub(super) fn report_at(&self, path: &str, message: impl Into<String>, advice: impl Into<String>) {
        let span = self.places.borrow().get(path).cloned().unwrap_or(0..0);
        self.report(self.problem(span, message).advise(advice));
    }

    /// Whether the file itself gives a value at a path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.places.borrow().contains_key(path)
    }

    /// Reports every table and loose key that does not belong into the file.
    pub(super) fn check_tables(&self, document: &DeTable<'a>) {
        for (name, value) in document {
            let (span, name) = (name.span(), name.get_ref().as_ref());
            if Table::find(name).is_some() {
                continue;
            }
            let is_table = value.get_ref().is_table()
                || value.get_ref().as_array().is_some_and(|a| a.iter().all(|v| v.get_ref().is_table()));
            let problem = if is_table {
                let problem = self.problem(span, format!("unknown table `{name}`")).label("not known");
                match nearest(name, TABLES.iter().map(|table| table.name)) {
                    Some(near) => problem.advise(format!("did you mean `{near}`?")),
                    None => problem,
                }
            } else {
                let problem = self
                    .problem(span, format!("`{name}` stands outside of every table"))
                    .label("not known here");
                let homes: Vec<String> =
                    TABLES.iter().filter(|t| Key::find(t.name, name).is_some()).map(Table::header).collect();
                if homes.is_empty() {
                    problem
                } else {
                    problem.advise(format!("put it under {}", homes.join(" or ")))
                }
            };
            let headers: Vec<String> = TABLES.iter().map(Table::header).collect();
            self.report(problem.advise(format!("the tables are {}", headers.join(", "))));
        }
    }

    /// The table of this name, as if it were there and empty if it is not.
    pub(super) fn table<'r>(&'r self, document: &'r DeTable<'a>, name: &'static str) -> Section<'r, 'a> {
        self.optional_table(document, name).unwrap_or(Section {
            reader: self,
            table: name,
            path: name.to_owned(),
            entries: None,
            span: 0..0,
            reported: document.contains_key(name),
        })
    }

    /// The table of this name, if it is there.
    pub(super) fn optional_table<'r>(
        &'r self,
        document: &'r DeTable<'a>,
        name: &'static str,
    ) -> Option<Section<'r, 'a>> {
        let (key, value) = document.get_key_value(name)?;
        if let Some(entries) = value.get_ref().as_table() {
            return Some(self.section(name, name.to_owned(), entries, value.span()));
        }
        let problem = self.problem(key.span(), format!("`{name}` is not a table"));
        self.report(if value.get_ref().is_array() {
            problem.label("it comes once").advise(format!("write [{name}] in single brackets, once"))
        } else {
            problem
                .label("a value")
                .advise(format!("write [{name}] in a line of its own, and its keys below"))
        });
        None
    }

    /// Every table of this name that may come more than once.
    pub(super) fn repeated_table<'r>(
        &'r self,
        document: &'r DeTable<'a>,
        name: &'static str,
    ) -> Vec<Section<'r, 'a>> {
        let Some((key, value)) = document.get_key_value(name) else {
            return Vec::new();
        };
        let advice = format!("write [[{name}]] in double brackets: there may be several");
        let Some(array) = value.get_ref().as_array() else {
            let what =
                if value.get_ref().is_table() { "stands in single brackets" } else { "is not a table" };
            self.report(self.problem(key.span(), format!("`{name}` {what}")).advise(advice));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (i, value) in array.iter().enumerate() {
            match value.get_ref().as_table() {
                Some(entries) => {
                    sections.push(self.section(name, format!("{name}[{i}]"), entries, value.span()));
                }
                None => self.report(
                    self.problem(value.span(), format!("`{name}` is not a table")).advise(advice.clone()),
                ),
            }
        }
        sections
    }

    fn section<'r>(
        &'r self,
        table: &'static str,
        path: String,
        entries: &'r DeTable<'a>,
        span: Range<usize>,
    ) -> Section<'r, 'a> {
        self.places.borrow_mut().insert(path.clone(), span.clone());
        let section = Section { reader: self, table, path, entries: Some(entries), span, reported: false };
        section.check_keys();
        section
    }
}

/// One table of the document.
pub(super) struct Section<'r, 'a> {
    reader: &'r Reader<'a>,
    table: &'static str,
    path: String,
    entries: Option<&'r DeTable<'a>>,
    span: Range<usize>,
    /// It is there, and no table, which is reported: no need to ask for its keys.
    reported: bool,
}

impl<'r, 'a> Section<'r, 'a> {
    /// Its path, such as `interface[0]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Where it begins.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Item<'r, 'a>> {
        let definition = Key::find(self.table, key).expect("the reader asks only for keys of the table KEYS");
        let value = self.entries?.get(key)?;
        let path = format!("{}.{key}", self.path);
        self.reader.places.borrow_mut().insert(path.clone(), value.span());
        Some(Item { reader: self.reader, key: definition, path, value })
    }

    /// The value of a key; its absence is reported.
    pub(super) fn require(&self, key: &'static str) -> Option<Item<'r, 'a>> {
        let item = self.get(key);
        if item.is_none() && !self.reported && !self.misspells(key) {
            let table = Table::find(self.table).expect("sections are made of tables of TABLES");
            let definition =
                Key::find(self.table, key).expect("the reader asks only for keys of the table KEYS");
            let problem =
                self.reader.problem(self.span.clone(), format!("{} lacks the key `{key}`", table.header()));
            let problem = if self.entries.is_some() { problem.label("in this table") } else { problem };
            self.reader.report(problem.advise(format!(
                "`{key}` is {}: {}",
                definition.kind.as_str(),
                definition.range
            )));
        }
        item
    }

    /// Whether an unknown key was probably meant to be this one, which is reported already then.
    fn misspells(&self, key: &str) -> bool {
        let table = Table::find(self.table).expect("sections are made of tables of TABLES");
        self.entries.into_iter().flatten().any(|(written, _)| {
            let written = written.get_ref().as_ref();
            Key::find(self.table, written).is_none()
                && nearest(written, table.keys().map(|k| k.key)) == Some(key)
        })
    }

    fn check_keys(&self) {
        let table = Table::find(self.table).expect("sections are made of tables of TABLES");
        for (key, _) in self.entries.into_iter().flatten() {
            let (span, key) = (key.span(), key.get_ref().as_ref());
            if Key::find(self.table, key).is_some() {
                continue;
            }
            let mut problem = self
                .reader
                .problem(span, format!("unknown key `{key}` in {}", table.header()))
                .label("not known here");
            if let Some(near) = nearest(key, table.keys().map(|k| k.key)) {
                problem = problem.advise(format!("did you mean `{near}`?"));
            } else {
                let homes: Vec<String> =
                    TABLES.iter().filter(|t| Key::find(t.name, key).is_some()).map(Table::header).collect();
                if !homes.is_empty() {
                    problem = problem.advise(format!("it belongs under {}", homes.join(" or ")));
                }
            }
            let allowed: Vec<&str> = table.keys().map(|k| k.key).collect();
            self.reader.report(problem.advise(format!("allowed here: {}", allowed.join(", "))));
        }
    }
}

/// One value of the document. Each reading method reports what is wrong and returns none then.
pub(super) struct Item<'r, 'a> {
    reader: &'r Reader<'a>,
    key: &'static Key,
    path: String,
    value: &'r Spanned<DeValue<'a>>,
}

impl<'r, 'a> Item<'r, 'a> {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn text(&self) -> Option<&'r str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.wrong_kind(),
        }
    }

    pub(super) fn parse<T: FromStr<Err = ValueError>>(&self) -> Option<T> {
        self.parse_with(T::from_str)
    }

    pub(super) fn parse_with<T>(&self, parse: impl FnOnce(&str) -> Result<T, ValueError>) -> Option<T> {
        match parse(self.text()?) {
            Ok(value) => Some(value),
            Err(error) => self.refuse(&error),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.value.get_ref().as_bool().or_else(|| self.wrong_kind())
    }

    pub(super) fn integer(&self, range: RangeInclusive<u16>) -> Option<u16> {
        let DeValue::Integer(number) = self.value.get_ref() else {
            return self.wrong_kind();
        };
        let value = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok();
        match value.and_then(|value| u16::try_from(value).ok()).filter(|value| range.contains(value)) {
            Some(value) => Some(value),
            None => self.out_of_range(&self.reader.text[self.value.span()]),
        }
    }

    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.parse_with(parse_duration)?;
        if range.contains(&value) { Some(value) } else { self.out_of_range(&format_duration(value)) }
    }

    /// The elements of a list of texts.
    pub(super) fn list(&self) -> Option<Vec<Item<'r, 'a>>> {
        let Some(array) = self.value.get_ref().as_array() else {
            return self.wrong_kind();
        };
        let item = |(i, value): (usize, &'r Spanned<DeValue<'a>>)| {
            let path = format!("{}[{i}]", self.path);
            self.reader.places.borrow_mut().insert(path.clone(), value.span());
            Item { reader: self.reader, key: self.key, path, value }
        };
        Some(array.iter().enumerate().map(item).collect())
    }

    /// The elements of a list that must not be empty.
    pub(super) fn list_of_some(&self) -> Option<Vec<Item<'r, 'a>>> {
        let items = self.list()?;
        if items.is_empty() {
            return self.refuse(
                &ValueError::new(format!("`{}` is empty", self.key.key)).advise("give at least one"),
            );
        }
        Some(items)
    }

    /// The elements of a list, or the one value that stands alone.
    pub(super) fn one_or_list(self) -> Option<Vec<Item<'r, 'a>>> {
        if self.value.get_ref().is_str() { Some(vec![self]) } else { self.list_of_some() }
    }

    /// The elements of a list that are all valid.
    pub(super) fn parse_list<T>(&self, parse: impl Fn(&str) -> Result<T, ValueError>) -> Option<Vec<T>> {
        let values: Vec<Option<T>> =
            self.list_of_some()?.iter().map(|item| item.parse_with(&parse)).collect();
        values.into_iter().collect()
    }

    /// A program by its absolute path and its arguments.
    pub(super) fn command_line(&self) -> Option<super::CommandLine> {
        let items = self.list_of_some()?;
        let program = items[0].absolute_path();
        let arguments: Vec<Option<String>> =
            items[1..].iter().map(|item| item.parse_with(|text| no_nul(text).map(str::to_owned))).collect();
        let arguments: Option<Vec<String>> = arguments.into_iter().collect();
        Some(super::CommandLine { program: program?, arguments: arguments? })
    }

    pub(super) fn absolute_path(&self) -> Option<PathBuf> {
        self.parse_with(|text| match no_nul(text)? {
            path if path.starts_with('/') => Ok(PathBuf::from(path)),
            path => Err(ValueError::new(format!("\"{path}\" is not an absolute path"))
                .advise("the daemon has no directory of its own: begin with /")),
        })
    }

    /// Reports an error of this value.
    pub(super) fn refuse<T>(&self, error: &ValueError) -> Option<T> {
        let mut problem = self.reader.problem(self.value.span(), error.to_string());
        if let Some(advice) = error.advice() {
            problem = problem.advise(advice);
        }
        self.reader.report(problem.advise(self.allowed()));
        None
    }

    fn out_of_range<T>(&self, value: &str) -> Option<T> {
        let problem = self.reader.problem(self.value.span(), format!("`{}` cannot be {value}", self.key.key));
        self.reader.report(problem.label("out of range").advise(self.allowed()));
        None
    }

    fn wrong_kind<T>(&self) -> Option<T> {
        let is = match self.value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a truth value",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let element = self.path.ends_with(']');
        let wanted = if element { "a text in quotes" } else { self.key.kind.as_str() };
        let subject =
            if element { format!("an element of `{}`", self.key.key) } else { format!("`{}`", self.key.key) };
        let problem = self
            .reader
            .problem(self.value.span(), format!("{subject} is {wanted}, not {is}"))
            .label(format!("this is {is}"));
        self.reader.report(problem.advise(self.allowed()));
        None
    }

    fn allowed(&self) -> String {
        format!("allowed: {}", self.key.range)
    }
}

fn no_nul(text: &str) -> Result<&str, ValueError> {
    if text.contains('\0') {
        return Err(ValueError::new("a NUL character cannot be passed to the kernel").advise("leave it out"));
    }
    Ok(text)
}
