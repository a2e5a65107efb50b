//! Standard output and error. Colours go where they are wanted: to a terminal, unless NO_COLOR is set.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::failure::Failure;

/// Whether whoever read standard output has gone.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Writes to standard output. Who reads it may stop reading: that is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::undone(format!("cannot write to standard output: {error}"), "make room there"))
        }
        Err(_) => {
            CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Writes a value as one line of JSON.
///
/// # Panics
/// If it cannot be JSON: a map with other keys than texts, or a part that refuses.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let json =
        serde_json::to_string(value).expect("what is told to scripts has text keys and no fallible parts");
    print(&format!("{json}\n"))
}

/// Whether whoever read standard output has gone, as the last [`print`] found: a command that prints for ever ends then.
pub(crate) fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Writes to standard error, as well as it can.
pub(crate) fn complain(text: &str) {
    // If nobody can be told, the exit code still says it.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Says on standard error what is waited for, if a person sits there.
pub(crate) fn hint(text: &str) {
    if std::io::IsTerminal::is_terminal(&io::stderr()) && std::io::IsTerminal::is_terminal(&io::stdout()) {
        complain(text);
    }
}

/// How wide output may be: the terminal's width, or 80 columns where there is none.
pub(crate) fn width() -> usize {
    terminal_size::terminal_size().map_or(80, columns)
}

/// The width of the terminal that standard output is, if it is one.
pub(crate) fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(columns)
}

fn columns((width, _): (terminal_size::Width, terminal_size::Height)) -> usize {
    usize::from(width.0).max(40)
}
