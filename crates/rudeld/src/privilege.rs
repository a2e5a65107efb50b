//! Whether the process may do what the daemon must.

use rustix::thread::{CapabilitySet, capabilities};

/// The capabilities that are missing. Nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rudeld lacks {}: start it as root, or by its systemd unit, which grants them", .0.join(", "))]
pub struct MissingCapabilities(Vec<&'static str>);

#[cfg(test)]
impl MissingCapabilities {
    /// These ones.
    pub(crate) fn of(names: Vec<&'static str>) -> Self {
        MissingCapabilities(names)
    }
}

/// Looks whether the process has every capability that it needs.
pub fn check() -> Result<(), MissingCapabilities> {
    // Without /proc or with a strange kernel: let the system calls themselves tell.
    let Ok(sets) = capabilities(None) else {
        return Ok(());
    };
    // CAP_SYS_ADMIN stands for both BPF capabilities (capabilities(7)).
    let needed = [
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_NET_RAW", CapabilitySet::NET_RAW),
        ("CAP_BPF", CapabilitySet::BPF | CapabilitySet::SYS_ADMIN),
        ("CAP_PERFMON", CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN),
    ];
    let missing: Vec<&'static str> = needed
        .iter()
        .filter(|(_, any_of)| !sets.effective.intersects(*any_of))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(MissingCapabilities(missing)) }
}
