//! What the kernel's refusals mean.

use aya::{maps::MapError, programs::ProgramError};

use crate::error::{Error, os_error};

pub(crate) fn map_error(map: &'static str, doing: &'static str) -> impl FnOnce(MapError) -> Error {
    move |error| match os_error(&error) {
        Some(source) if source.raw_os_error() == Some(libc::ENOSYS) => Error::NoBpf { source },
        _ => Error::Map { doing, map, source: error.into() },
    }
}

/// An error of the loader that may be a matter of privilege.
pub(crate) fn classify(doing: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    if let Some(error) = too_old() {
        return error;
    }
    match os_error(&error) {
        Some(source) if source.raw_os_error() == Some(libc::ENOSYS) => Error::NoBpf { source },
        Some(source) if matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
            Error::Permission { doing, source }
        }
        _ => Error::Object(error.into()),
    }
}

/// Why the kernel did not take the program.
pub(crate) fn refused(error: ProgramError) -> Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return classify("load the packet program", error);
    };
    let log = verifier_log.to_string();
    tracing::debug!(%log, "the verifier's log");

    if let Some(error) = too_old() {
        return error;
    }
    match io_error.raw_os_error() {
        // A program that was checked and found wanting has a log; one that was not let near the verifier has none.
        Some(libc::EPERM) => Error::Permission { doing: "load the packet program", source: io_error },
        Some(libc::EACCES) if log.trim().is_empty() => {
            Error::Permission { doing: "load the packet program", source: io_error }
        }
        _ => Error::Refused { source: io_error },
    }
}

/// Explains a failure. A kernel is not refused for its number alone: distributions carry new things into old ones.
pub(crate) fn too_old() -> Option<Error> {
    let running = rustix::system::uname().release().to_string_lossy().into_owned();
    let missing =
        "the filter needs bpf_link for XDP (5.9), and maps that do not count as locked memory (5.11)";
    older_than(&running, (5, 11)).then_some(Error::KernelTooOld { running, missing })
}

fn older_than(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|word| word.parse::<u32>().ok());
    let running = numbers.next().zip(numbers.next());
    running.is_some_and(|running| running < wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert!(older_than("5.10.0-28-amd64", (5, 11)));
        assert!(older_than("4.19.1", (5, 11)));
        assert!(!older_than("5.11.0", (5, 11)));
        assert!(!older_than("6.18.44-fc", (5, 11)));
        assert!(!older_than("unheard of", (5, 11)));
    }
}
