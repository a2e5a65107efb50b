//! Work that may take its time, done beside the daemon's one loop.

use tokio::task::JoinHandle;

/// One piece of work at a time, on a thread that may block; it is in the same network namespace.
#[derive(Debug)]
pub(crate) struct Errand<T>(Option<JoinHandle<T>>);

impl<T> Default for Errand<T> {
    fn default() -> Self {
        Errand(None)
    }
}

impl<T: Send + 'static> Errand<T> {
    /// Begins a piece of work. Inside of the runtime, when [idle](Errand::is_idle).
    pub(crate) fn begin(&mut self, work: impl FnOnce() -> T + Send + 'static) {
        debug_assert!(self.is_idle());
        self.0 = Some(tokio::task::spawn_blocking(work));
    }

    /// Whether no work is under way, and none has ended whose outcome was not taken.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// What came of the work; none if it has panicked. For ever, if none is under way. Nothing is lost where a wait is
    /// given up.
    pub(crate) async fn outcome(&mut self) -> Option<T> {
        let Some(handle) = &mut self.0 else {
            return std::future::pending().await;
        };
        let outcome = handle.await;
        self.0 = None;
        outcome.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(flavor = "current_thread")]
    async fn other_things_happen_while_work_is_done() {
        let mut errand = Errand::default();
        let (go, wait) = mpsc::channel();
        errand.begin(move || wait.recv());
        // A wait that is given up, as in a loop where something else comes first.
        tokio::select! {
            biased;
            _ = errand.outcome() => panic!("it cannot have ended"),
            () = std::future::ready(()) => {}
        }
        assert!(!errand.is_idle());
        go.send(7).unwrap();
        assert_eq!(errand.outcome().await, Some(Ok(7)));
        assert!(errand.is_idle());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn work_that_panics_is_over() {
        let mut errand: Errand<()> = Errand::default();
        errand.begin(|| panic!("on purpose"));
        assert_eq!(errand.outcome().await, None);
        assert!(errand.is_idle());
    }
}
