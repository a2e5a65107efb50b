//! The small process above the daemon.
//!
//! ```text
//!   systemd ──► parent (main process)          daemon (its child)
//!      ▲          signals, passed on ────────►  leaves, reloads
//!      │          a page: beats      ◄────────  pulse thread
//!      └ notify ◄ messages           ◄───────►  prepared · begun · serving · restart · hand over · ending · ended
//!                 good-byes, sealed  ◄────────  with sockets to send them by
//! ```
//!
//! It does nothing until something happens to the daemon; it reads no network, no configuration, and has no key. When
//! the daemon has died while its lease still runs, it starts another at once, which goes on with the same run (R10). Where
//! that cannot work, it clears the kernel's table and lease *first*, and then says the good-byes that the daemon has
//! left (R9), so that the others take over without waiting for their time-out. A daemon that hangs is killed. And it
//! starts a successor beside a daemon that works, which takes over only when all that can fail is behind it.
//!
//! To everybody else both are one process: the parent's death is the daemon's (`PR_SET_PDEATHSIG`), its being stopped too
//! ([`tie::Tie::stop_with_parent`]), the daemon's exit code is the parent's, and signals are passed on.

pub mod board;
pub mod channel;
mod farewell;
mod supervisor;
pub mod tie;

pub use supervisor::run;
pub use tie::Tie;
