//! When the machine wants to be woken. Reading [`Timer`] is reading everything in the protocol that waits.

use crate::time::Time;

/// Everything that the machine may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Timer {
    /// The next regular pulse; set in every state.
    Pulse,
    /// The end of listening (R8), or the moment when a joining node may coordinate.
    Start,
    /// The lease in force lapses while buckets are owned (R7).
    Lease,
    /// The next peer becomes silent for T (R5).
    Silence,
    /// A change has stayed unsettled so long that it is this node's turn to coordinate (R6).
    Coordinate,
    /// Somebody still lacks the view: repeat it (R6).
    Repeat,
    /// Nobody could take a leaver's buckets, or leaving has taken too long; the next good-bye (R9).
    Leave,
    /// A node with nobody to hear it may gain again after a stall (R7), or a fenced one listen again.
    Recover,
    /// An order to another node is to be repeated, or given up.
    Order,
}

/// The machine's timers: at most one of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Timers([Option<Time>; 9]);

impl Timers {
    /// Sets or clears one timer.
    pub(super) fn set(&mut self, timer: Timer, at: Option<Time>) {
        self.0[timer as usize] = at;
    }

    /// The earliest of all.
    pub(super) fn next(&self) -> Option<Time> {
        self.0.iter().flatten().min().copied()
    }
}
