//! Interfaces and addresses, from `ip -j -d addr show`.

use std::net::IpAddr;

use serde::Deserialize;

use super::system::{NotRun, System};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Link {
    pub(super) ifname: String,
    pub(super) flags: Vec<String>,
    pub(super) mtu: u32,
    pub(super) master: Option<String>,
    pub(super) link_type: String,
    linkinfo: Option<LinkInfo>,
    xdp: Option<Xdp>,
    addr_info: Vec<Address>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LinkInfo {
    info_kind: Option<String>,
    info_slave_kind: Option<String>,
    info_data: Option<BridgeData>,
}

/// What is of interest of a bridge.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BridgeData {
    pub(super) mcast_snooping: Option<u8>,
    pub(super) mcast_querier: Option<u8>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Xdp {
    prog: Option<Program>,
    attached: Vec<Attached>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Attached {
    prog: Option<Program>,
}

/// An XDP program. Its name is told to root alone.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Program {
    pub(super) id: u32,
    pub(super) name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Address {
    pub(super) local: Option<IpAddr>,
    pub(super) prefixlen: u8,
}

impl Link {
    pub(super) fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    /// `veth`, `bridge`, …; none for hardware.
    pub(super) fn kind(&self) -> Option<&str> {
        self.linkinfo.as_ref()?.info_kind.as_deref()
    }

    /// What it is a part of: `bridge`, `bond`, `team`.
    pub(super) fn slave_kind(&self) -> Option<&str> {
        self.linkinfo.as_ref()?.info_slave_kind.as_deref()
    }

    pub(super) fn bridge(&self) -> Option<&BridgeData> {
        self.linkinfo.as_ref().filter(|info| info.info_kind.as_deref() == Some("bridge"))?.info_data.as_ref()
    }

    pub(super) fn programs(&self) -> Vec<&Program> {
        let Some(xdp) = &self.xdp else { return Vec::new() };
        let attached: Vec<&Program> = xdp.attached.iter().filter_map(|one| one.prog.as_ref()).collect();
        if attached.is_empty() { xdp.prog.iter().collect() } else { attached }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        self.addr_info.iter().filter_map(|address| Some((address.local?, address.prefixlen)))
    }
}

/// All interfaces of this host.
pub(super) fn all(system: &dyn System) -> Result<Vec<Link>, String> {
    match system.run("ip", &["-j", "-d", "addr", "show"]) {
        Ok(text) => serde_json::from_str::<Vec<Link>>(&text)
            .map_err(|error| format!("`ip -j -d addr show` says what cannot be understood ({error})")),
        Err(NotRun::Missing) => Err("`ip` is not installed: install iproute2".to_owned()),
        Err(NotRun::Failed(words)) => {
            Err(format!("`ip -j -d addr show` fails ({words}): it must be that of iproute2"))
        }
    }
}
