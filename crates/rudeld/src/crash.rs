//! What a daemon does when one of the threads that it cannot do without has panicked: it ends at once.
//!
//! Nothing is tidied up. What is in the kernel (the packet filter, other nodes' connections, addresses) is what a
//! successor goes on with, and to unwind is to remove it. The parent is told nothing either: it does what it does when
//! a daemon dies.

/// As a panic of the main thread ends a program.
const CRASHED: i32 = 101;

/// Ends this process.
pub(crate) fn crash(why: &str) -> ! {
    eprintln!("rudeld: {why} has panicked; what it said is above");
    std::process::exit(CRASHED)
}

/// Ends this process when a panic gets so far. To be made last, since what is made last is dropped first.
#[derive(Debug)]
pub(crate) struct Fuse;

impl Drop for Fuse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crash("the main thread");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tidy;

    impl Drop for Tidy {
        fn drop(&mut self) {
            println!("tidied up");
        }
    }

    /// Panics only where [`a_panic_tidies_nothing_up`] has started it.
    #[test]
    fn a_panic() {
        if std::env::var_os("RUDEL_TEST_PANIC").is_some() {
            let _tidy = Tidy;
            let _fuse = Fuse;
            panic!("on purpose");
        }
    }

    #[test]
    fn a_panic_tidies_nothing_up() {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["crash::tests::a_panic", "--exact", "--nocapture"]).env("RUDEL_TEST_PANIC", "1");
        let output = again.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(CRASHED), "{said}");
        assert!(!said.contains("tidied up"), "{said}");
    }
}
