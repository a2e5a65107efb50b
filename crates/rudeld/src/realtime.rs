//! Making sure that the pulse thread runs when it must.
//!
//! A pulse that comes late looks like a failing node. Real-time priority and locked memory are taken where the system
//! grants them; without them the daemon works, and says in its log what it could not have.

use std::io;

/// Priority among real-time threads, 1 to 99: above the kernel's threaded interrupt handlers' default of 50 it must not
/// be, or packets would wait for it.
const PRIORITY: i32 = 20;

/// Gives the calling thread real-time priority and exact timers, if permitted.
pub fn prefer_this_thread() {
    if let Err(error) = try_prefer_this_thread() {
        tracing::info!(%error, "no real-time priority for the pulse thread: under load this node may look late");
    }
}

/// The same, told to nobody if it is not permitted.
pub fn try_prefer_this_thread() -> io::Result<()> {
    // Timers of a normal thread may fire up to 50 µs late by default (prctl(2), PR_SET_TIMERSLACK).
    // SAFETY: PR_SET_TIMERSLACK takes a number and touches no memory.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0);
    }
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: `parameters` lives through the call; 0 is the calling thread. RESET_ON_FORK: children are ordinary.
    let result = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Locks the process's memory as it is touched, so that a pulse never waits for a disk, if permitted.
pub fn lock_memory() {
    if let Err(error) = try_lock_memory() {
        tracing::info!(%error, "memory is not locked: under memory pressure this node may look late");
    }
}

/// The same, told to nobody if it is not permitted.
pub fn try_lock_memory() -> io::Result<()> {
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: mlockall takes flags only.
    if unsafe { libc::mlockall(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
