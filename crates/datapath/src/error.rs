//! What can go wrong, what it did to the kernel's state, and what to do about it.

use std::{io, path::PathBuf};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Each says what became of the state: unless it says otherwise, nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else writes table and lease now. Nothing has changed.
    #[error("another process has taken this node's place in the kernel")]
    TakenOver,
    /// The directory for the pinned state is not on a BPF file system. Nothing has changed.
    #[error("{} is not on a BPF file system; mount one: `mount -t bpf bpf {}`", .dir.display(), .mount.display())]
    NotBpffs {
        /// The directory.
        dir: PathBuf,
        /// Where to mount.
        mount: PathBuf,
    },

    /// The BPF file system could not be mounted. At most an empty directory was made.
    #[error(
        "cannot mount a BPF file system on {} (needs CAP_SYS_ADMIN); mount it before the daemon starts: \
         `mount -t bpf bpf {}`",
        .mount.display(), .mount.display()
    )]
    Mount {
        /// Where it should have been.
        mount: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// A directory or a pin could not be made, read or removed. What was done before stands; try again.
    #[error("cannot {doing} {}", .path.display())]
    Pin {
        /// "create", "read", "remove", ...
        doing: &'static str,
        /// Directory or pin.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The process lacks a privilege. Nothing has changed.
    #[error(
        "not permitted to {doing}: needs the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root), in the \
         initial user namespace"
    )]
    Permission {
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel has no BPF, or a sandbox keeps the process from it. Nothing is attached.
    #[error(
        "this kernel offers no BPF, and so no XDP, to the process: run a kernel with CONFIG_BPF_SYSCALL, or let the \
         sandbox (seccomp, container) allow bpf(2)"
    )]
    NoBpf {
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel lacks something that the filter needs. Nothing is attached.
    #[error("Linux {running} is too old: {missing}")]
    KernelTooOld {
        /// Release of the running kernel.
        running: String,
        /// What it lacks, and which version has it.
        missing: &'static str,
    },

    /// The kernel's verifier refused the packet program. A filter that was attached before stays. This is a defect:
    /// report it with the log, which is written at debug level.
    #[error("the kernel refused the packet program; its reasons are logged at debug level")]
    Refused {
        /// The kernel's answer.
        source: io::Error,
    },

    /// The packet program could not be made ready for the kernel. A filter that was attached before stays.
    #[error("cannot prepare the packet program")]
    Object(#[source] Cause),

    /// A map could not be created, read or written. A write that failed has changed nothing.
    #[error("cannot {doing} the filter's map `{map}`")]
    Map {
        /// "open", "read", "write", "map into memory"
        doing: &'static str,
        /// Name of the map, and of its pin.
        map: &'static str,
        /// What the kernel or the library answered.
        #[source]
        source: Cause,
    },

    /// The pinned state was left by a version of this program that lays it out differently. Nothing has changed;
    /// [`crate::Xdp::open`] replaces such state.
    #[error("{} was left by another version of rudel (layout {found}, this one has {expected})", .dir.display())]
    OtherAbi {
        /// The directory of the pinned state.
        dir: PathBuf,
        /// Its layout.
        found: u32,
        /// Ours.
        expected: u32,
    },

    /// There is no such interface in this network namespace (any more). Nothing is attached to it.
    #[error("there is no interface {name} (index {ifindex}) in this network namespace")]
    InterfaceGone {
        /// As configured.
        name: String,
        /// As configured.
        ifindex: u32,
    },

    /// The kernel did not say what it knows of an interface. Nothing has changed.
    #[error("cannot ask the kernel about interface {name}")]
    Query {
        /// Name of the interface.
        name: String,
        /// Its answer.
        source: io::Error,
    },

    /// Somebody else's XDP program is on the interface. It was left alone, and nothing was attached.
    #[error(
        "{name} already carries an XDP program that is not ours, id {program_id} ({mode} mode); `bpftool prog show id \
         {program_id}` tells whose it is; stop its owner, or remove it: `ip link set dev {name} {off} off`, or, if it \
         hangs on a link (`bpftool link show`), `bpftool link detach id LINK`"
    )]
    Occupied {
        /// Name of the interface.
        name: String,
        /// The kernel's number of the program.
        program_id: u32,
        /// "native", "generic" or "offloaded".
        mode: &'static str,
        /// The word for `ip link`.
        off: &'static str,
    },

    /// The interface does not take the filter. Nothing is attached to it.
    #[error("cannot attach the filter to {name} in {mode} mode{hint}")]
    Attach {
        /// Name of the interface.
        name: String,
        /// "native" or "generic".
        mode: &'static str,
        /// What to do about it.
        hint: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The predecessor's filter could not be replaced. It is still in place, with its own configuration.
    #[error("cannot replace the filter that is attached to {name}")]
    Replace {
        /// Name of the interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// A filter could not be detached. It is still in place; the lease makes it silent.
    #[error("cannot detach the filter pinned as {}", .path.display())]
    Detach {
        /// The pin.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// All slots for interfaces are taken. Nothing is attached to this one.
    #[error(
        "cannot filter on {name}: {limit} interfaces of this node carry the filter already, which is the limit"
    )]
    TooManyInterfaces {
        /// Name of the interface that is one too many.
        name: String,
        /// How many there can be.
        limit: usize,
    },

    /// A memo that does not fit. The old one is still there.
    #[error("a memo of {bytes} bytes does not fit, the limit is {limit}")]
    MemoTooLong {
        /// Length of the memo.
        bytes: usize,
        /// The limit.
        limit: usize,
    },

    /// What the filter sets aside cannot be read; it is lost, as it would be otherwise.
    #[error("cannot read what the packet filter sets aside")]
    Ring {
        /// What the kernel said.
        source: io::Error,
    },

    /// A frame that was set aside was not put through the filter. It is lost.
    #[error("cannot put a frame through the packet filter again, which takes Linux 5.18 or newer")]
    PutThrough {
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// What an administrator can do; none where the message says it already.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Error::NotBpffs { .. } | Error::Mount { .. } | Error::NoBpf { .. } | Error::Occupied { .. } => {
                return None;
            }
            Error::Permission { .. } => "start rudeld as root, or by its systemd unit, which grants them",
            Error::TakenOver => "leave that one at work; `systemctl status rudeld` names it",
            Error::Pin { .. } | Error::Detach { .. } => {
                "see that the BPF file system can be written, and that no rudeld of the same node runs"
            }
            Error::KernelTooOld { .. } => "run Linux 5.11 or newer",
            Error::Refused { .. } => {
                "start rudeld with RUDEL_LOG=debug to see them, and report them with the kernel's version"
            }
            Error::Object(_) => "install rudeld again; if that does not help, report it",
            Error::Map { .. } => {
                "free some memory, raise LimitMEMLOCK= in the unit, and see that no rudeld of the same node runs"
            }
            Error::OtherAbi { .. } => {
                "drain this node, stop that version (`systemctl stop rudeld`), start this one"
            }
            Error::InterfaceGone { .. } | Error::Query { .. } => {
                "see `ip link`; rudeld starts again when the interface is there"
            }
            Error::Attach { .. } => {
                "set `xdp = \"generic\"` for this interface, or report it with the name of its driver"
            }
            Error::Replace { .. } => "stop rudeld (`systemctl stop rudeld`) and start it again",
            Error::TooManyInterfaces { .. } => "give the node fewer [[interface]] tables",
            Error::Ring { .. } => {
                "raise LimitMEMLOCK= in the unit; until then TCP goes on at its senders' next try when a node dies"
            }
            Error::PutThrough { .. } => "until then TCP goes on at its senders' next try when a node dies",
            Error::MemoTooLong { .. } => "report it: a node's memo never grows so long",
        })
    }
}

/// The operating system's error at the bottom of a chain of errors.
#[cfg(feature = "xdp")]
pub(crate) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io::Error::from_raw_os_error(number));
        }
        next = error.source();
    }
    None
}
