//! Kernel settings under /proc/sys/net, of the calling thread's network namespace.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the kernel shows its settings.
const ROOT: &str = "/proc/sys";

/// One setting, by its path below /proc/sys: `net/ipv4/conf/eth0.5/arp_ignore`.
///
/// A path and not a dotted name, because an interface's name may have dots in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sysctl(String);

/// Not the path of a network setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the path of a setting below /proc/sys/net")]
pub struct NotASysctl(String);

impl Sysctl {
    /// `net.ipv4.conf.INTERFACE.KEY`
    ///
    /// # Errors
    /// [`NotASysctl`] if an interface cannot have that name, or a key not that form.
    pub fn ipv4_conf(interface: &str, key: &str) -> Result<Self, NotASysctl> {
        Self::conf("ipv4", interface, key)
    }

    /// `net.ipv6.conf.INTERFACE.KEY`
    ///
    /// # Errors
    /// As [`Sysctl::ipv4_conf`].
    pub fn ipv6_conf(interface: &str, key: &str) -> Result<Self, NotASysctl> {
        Self::conf("ipv6", interface, key)
    }

    fn conf(family: &str, interface: &str, key: &str) -> Result<Self, NotASysctl> {
        let path = format!("net/{family}/conf/{interface}/{key}");
        if interface.contains('/') || key.contains('/') {
            return Err(NotASysctl(path));
        }
        Self::try_from(path)
    }

    /// The file that shows it.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        Path::new(ROOT).join(&self.0)
    }

    /// Its value, without the line's end.
    ///
    /// # Errors
    /// What reading the file says; `NotFound` if the interface or the kernel's feature is not there.
    pub fn read(&self) -> io::Result<String> {
        fs::read_to_string(self.file()).map(|value| value.trim_end().to_owned())
    }

    /// Sets it.
    ///
    /// # Errors
    /// What writing the file says.
    pub fn write(&self, value: &str) -> io::Result<()> {
        fs::write(self.file(), value)
    }
}

impl TryFrom<String> for Sysctl {
    type Error = NotASysctl;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        let plain = path.starts_with("net/")
            && path.split('/').all(|part| !part.is_empty() && part != ".")
            && Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
        if plain { Ok(Self(path)) } else { Err(NotASysctl(path)) }
    }
}

impl From<Sysctl> for String {
    fn from(sysctl: Sysctl) -> Self {
        sysctl.0
    }
}

impl fmt::Display for Sysctl {
    /// As sysctl(8) and sysctl.d(5) write it: dots between the parts, and slashes for the dots inside of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            let shown = match letter {
                '/' => '.',
                '.' => '/',
                other => other,
            };
            write!(f, "{shown}")?;
        }
        Ok(())
    }
}

/// A setting that the cluster needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Which one.
    pub sysctl: Sysctl,
    /// What is written if the present value will not do.
    pub value: &'static str,
    /// Other values that are left alone, because they are at least as strict.
    pub also_fine: &'static [&'static str],
}

impl Requirement {
    /// Will a value do?
    #[must_use]
    pub fn is_met_by(&self, value: &str) -> bool {
        value == self.value || self.also_fine.contains(&value)
    }
}

/// What the cluster needs of one of its interfaces: silence about addresses that sit elsewhere (on `lo`), and no
/// mention of them in ARP requests.
///
/// # Errors
/// [`NotASysctl`] if an interface cannot have that name.
pub fn interface_requirements(interface: &str) -> Result<[Requirement; 2], NotASysctl> {
    Ok([
        Requirement {
            sysctl: Sysctl::ipv4_conf(interface, "arp_ignore")?,
            value: "1",
            // 2: only to askers of the same subnet as well; 8: to nobody.
            also_fine: &["2", "8"],
        },
        Requirement { sysctl: Sysctl::ipv4_conf(interface, "arp_announce")?, value: "2", also_fine: &[] },
    ])
}

/// What a multicast cluster MAC needs: where no packet filter is attached, *every* node would answer UDP.
#[must_use]
pub fn multicast_requirement() -> Requirement {
    Requirement {
        sysctl: Sysctl("net/ipv4/conf/all/drop_unicast_in_l2_multicast".to_owned()),
        value: "1",
        also_fine: &[],
    }
}

/// Reverse path filtering on an interface, as it takes effect: the stricter of its own setting and the one for all,
/// where 2 counts as more than 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePathFilter {
    /// 0: nothing is dropped.
    Off,
    /// 1: packets from a source that would not be answered through the same interface are dropped.
    Strict,
    /// 2: packets from a source that no interface leads to are dropped.
    Loose,
}

/// The effective `rp_filter` of an interface. It is reported and never changed: asymmetric ways are the
/// administrator's to judge.
///
/// # Errors
/// What reading the settings says.
pub fn reverse_path_filter(interface: &str) -> io::Result<ReversePathFilter> {
    let mut effective = 0;
    for interface in ["all", interface] {
        let sysctl = Sysctl::ipv4_conf(interface, "rp_filter")
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let value: u8 =
            sysctl.read()?.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        effective = effective.max(value);
    }
    Ok(match effective {
        0 => ReversePathFilter::Off,
        1 => ReversePathFilter::Strict,
        _ => ReversePathFilter::Loose,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_keep_them() {
        let sysctl = Sysctl::ipv4_conf("eth0.5", "arp_ignore").unwrap();
        assert_eq!(sysctl.file(), Path::new("/proc/sys/net/ipv4/conf/eth0.5/arp_ignore"));
        assert_eq!(sysctl.to_string(), "net.ipv4.conf.eth0/5.arp_ignore");
    }

    #[test]
    fn nothing_outside_of_net() {
        for (interface, key) in [
            ("..", "x"),
            (".", "x"),
            ("", "x"),
            ("a/b", "x"),
            ("eth0", ""),
            ("eth0", "../x"),
            ("../../..", "x"),
        ] {
            assert!(Sysctl::ipv4_conf(interface, key).is_err(), "{interface:?} {key:?}");
        }
        for path in ["/etc/passwd", "kernel/panic", "net/../kernel/panic", "net//x", "", "net/"] {
            assert!(Sysctl::try_from(path.to_owned()).is_err(), "{path:?}");
            assert!(serde_json::from_value::<Sysctl>(path.into()).is_err(), "{path:?}");
        }
    }

    #[test]
    fn stricter_values_are_left_alone() {
        let [ignore, announce] = interface_requirements("eth0").unwrap();
        assert!(!ignore.is_met_by("0") && !ignore.is_met_by("3"));
        assert!(ignore.is_met_by("1") && ignore.is_met_by("2") && ignore.is_met_by("8"));
        assert!(!announce.is_met_by("1") && announce.is_met_by("2"));
    }
}
