//! What is left to do for a daemon that has died: silence the kernel, say good-bye, put the host back.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{SendFlags, send};

use super::channel::Serving;
use crate::clock::monotonic_ns;
use crate::host::Host;

/// Between two good-byes: one burst of losses should not swallow all of them.
const APART: Duration = Duration::from_millis(5);

/// Everything that a daemon has left with its parent.
#[derive(Debug)]
pub(super) struct Will {
    pub(super) serving: Serving,
    /// Connected to the heartbeat groups.
    pub(super) sockets: Vec<OwnedFd>,
    /// It has been carried out: the run is over.
    pub(super) said: bool,
}

impl Will {
    /// Whether there ever was a run that somebody could go on with, or that others wait for.
    pub(super) fn has_served(&self) -> bool {
        !self.serving.farewells.is_empty()
    }

    /// For how long the kernel still passes packets on the dead daemon's authority; `None` if it does not.
    pub(super) fn lease_left(&self) -> Option<Duration> {
        let left = match rudel_datapath::look(&self.serving.pin_dir) {
            Ok(left) => left?,
            Err(error) => {
                tracing::warn!(%error, "cannot look at what the daemon has left: its lease is taken for lapsed; see the error");
                return None;
            }
        };
        left.lease.as_nanos().checked_sub(monotonic_ns()).filter(|left| *left > 0).map(Duration::from_nanos)
    }

    /// R9: empties the lease and the table in the kernel, and only then says good-bye. Once.
    pub(super) fn say_good_bye(&mut self) {
        if self.said {
            return;
        }
        if let Err(error) = rudel_datapath::fence(&self.serving.pin_dir) {
            // The lease silences the node in its time, and the others wait for theirs.
            tracing::error!(%error, "cannot clear the packet filter, so no good-bye is said: the other nodes wait for the time-out; see the error");
            return;
        }
        self.said = true;
        if !self.has_served() {
            return;
        }
        for (index, datagram) in self.serving.farewells.iter().enumerate() {
            if index > 0 {
                std::thread::sleep(APART);
            }
            for socket in &self.sockets {
                if let Err(error) = send(socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    tracing::debug!(%error, "a good-bye could not be sent");
                }
            }
        }
        tracing::warn!("said good-bye for the daemon: the other nodes take over; see above how it ended");
    }

    /// Takes down all that the dead daemon had put up: addresses first, the packet filter last.
    pub(super) fn clean_up(&mut self) {
        self.say_good_bye();
        if let Err(error) = Host::recover(&self.serving.journal) {
            tracing::error!(%error, "left behind by a daemon that died: the next start removes it; see the error if it does not");
        }
        if let Err(error) = rudel_datapath::clean(&self.serving.pin_dir) {
            tracing::error!(%error, "left behind by a daemon that died: the next start removes it; see the error if it does not");
        }
        for path in [&self.serving.socket, &self.serving.lock] {
            // What a daemon that ended in good order has removed.
            let _ = fs::remove_file(path);
        }
    }
}
