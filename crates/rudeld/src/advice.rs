//! What to do about what the kernel says.

use std::io;

/// An answer of the kernel, with what an administrator can do about it.
pub(crate) fn advised(error: &io::Error) -> String {
    format!("{error}: {}", advice(error))
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "start rudeld as root or by its systemd unit, and see that no sandbox or security module forbids it"
        }
        Some(libc::ENOENT) => "make it, or the directory that it is in; the systemd unit makes its own",
        Some(libc::ENOSPC | libc::EDQUOT) => "free some space there",
        Some(libc::EROFS) => "name a place that can be written (see `rudeld --help`)",
        Some(libc::EEXIST) => "something else has put it there: remove it",
        Some(libc::EBUSY | libc::EADDRINUSE) => {
            "another program has it: stop that, or change the configuration"
        }
        Some(libc::EADDRNOTAVAIL) => "it is no address of this host: see `ip address`",
        Some(libc::ENODEV | libc::ENXIO) => "the interface has gone or has another name: see `ip link`",
        Some(libc::ENETDOWN) => "set the interface up: `ip link set IF up`",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (`LimitNOFILE=` in the unit)",
        Some(libc::ENOMEM | libc::ENOBUFS | libc::EAGAIN) => {
            "free some memory, or raise the limits of the unit"
        }
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOSYS) => {
            "this kernel cannot do it: load the module, or run a kernel that has it"
        }
        _ => "see whether `dmesg` says more, and report it if it stays (docs/troubleshooting.md)",
    }
}
