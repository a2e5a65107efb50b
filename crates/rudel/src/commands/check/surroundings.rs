//! What this machine stands in: a bridge of its own, a hypervisor, a cloud.

use rudel_api::check::{Area, Finding, Hearing, Name, Report, Severity, Sight};
use rudel_api::config::Config;

use super::links::Link;
use super::network::{BRIDGE, prune_lines};
use super::system::System;

pub(super) fn check(
    system: &dyn System,
    config: &Config,
    links: &[Link],
    sight: Option<&Sight>,
    report: &mut Report,
) {
    bridges(config, links, report);
    // Where probes come, whatever is around lets them.
    let hears = sight.is_some_and(|sight| {
        let mut ears = sight.interfaces.iter().flat_map(|interface| &interface.ears).peekable();
        ears.peek().is_some()
            && ears.all(|ear| {
                ear.hearing == Hearing::Well && ear.peers.iter().any(|peer| peer.heard_ms.is_some())
            })
    });
    if !hears {
        machine(system, config, report);
    }
}

/// A cluster interface that is a bridge prunes what it floods on a switch.
fn bridges(config: &Config, links: &[Link], report: &mut Report) {
    for interface in &config.interfaces {
        let mac = interface.cluster_mac();
        let name = interface.name.as_str();
        let Some(bridge) = links.iter().find(|link| link.ifname == name).and_then(Link::bridge) else {
            continue;
        };
        let (snoops, asks) = (bridge.mcast_snooping == Some(1), bridge.mcast_querier == Some(1));
        if mac.0[0] & 1 == 0 || !snoops {
            continue;
        }
        let finding = Finding::new(
            Name::BridgeSnooping,
            if asks { Severity::Error } else { Severity::Warning },
            Area::Host,
            format!(
                "the bridge {name} of this host snoops{}",
                if asks { " and asks for group members" } else { "" }
            ),
            format!(
                "As soon as somebody asks for members of groups, packets to {mac} reach none of its ports: the bridge knows \
                 groups by their IP addresses, and these packets have none."
            ),
            "Switch snooping off on it, here and where it is set up; or use mac = \"unicast\".",
        );
        report.add(prune_lines(finding, "this node", name));
    }
}

/// What the machine says of itself. A guest does not see its virtual switch.
fn machine(system: &dyn System, config: &Config, report: &mut Report) {
    let dmi = |key: &str| {
        system
            .read(&format!("/sys/class/dmi/id/{key}"))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let (vendor, product) = (dmi("sys_vendor"), dmi("product_name"));
    let macs: Vec<String> =
        config.interfaces.iter().map(|interface| interface.cluster_mac().to_string()).collect();
    let macs = macs.join(", ");
    let azure = dmi("chassis_asset_tag") == "7783-7084-3265-9085-8269-3286-77";
    let cloud = match vendor.as_str() {
        "Amazon EC2" => Some("Amazon EC2"),
        "Google" => Some("Google Cloud"),
        "Microsoft Corporation" if azure => Some("Azure"),
        "DigitalOcean" => Some("DigitalOcean"),
        "Hetzner" => Some("Hetzner Cloud"),
        "OracleCloud.com" => Some("Oracle Cloud"),
        _ => None,
    };
    if let Some(cloud) = cloud {
        report.add(Finding::new(
            Name::Cloud,
            Severity::Warning,
            Area::Host,
            format!("this machine is in {cloud}"),
            format!(
                "Its network delivers by the addresses that it has given out itself. Frames to {macs}, and multicast, reach \
                 nobody."
            ),
            "Use the load balancer of the cloud; rudel needs a layer-2 network that floods.",
        ));
        return;
    }
    let (hypervisor, remedy, lines): (&str, &str, &[(&str, &str)]) = if vendor.starts_with("VMware") {
        (
            "VMware",
            "On the port group of each node: Promiscuous mode: Accept, and Forged transmits may stay at Reject. On a \
             distributed switch without IGMP snooping, `mac = \"igmp\"` needs none of it.",
            &[(
                "an ESXi host, standard switch",
                "esxcli network vswitch standard portgroup policy security set -p PORTGROUP --allow-promiscuous=true",
            )],
        )
    } else if vendor == "Microsoft Corporation" && product == "Virtual Machine" {
        (
            "Hyper-V",
            "Let the network adapter of each node receive frames to other addresses than its own.",
            &[("PowerShell on the host", "Set-VMNetworkAdapter -VMName NODE -MacAddressSpoofing On")],
        )
    } else if vendor == "QEMU" || product.contains("KVM") || vendor == "Proxmox" {
        (
            "KVM",
            "The host's bridge must flood: no snooping on it, and no MAC filter on the guest's port (Proxmox: Firewall, \
             Options, MAC filter).",
            &[("the host, a Linux bridge", BRIDGE)],
        )
    } else {
        return;
    };
    let mut finding = Finding::new(
        Name::Hypervisor,
        Severity::Note,
        Area::Host,
        format!("this machine is a guest of {hypervisor}"),
        format!(
            "Many virtual switches deliver a frame only to the guest that has its address. Frames to {macs} belong to \
             none."
        ),
        remedy,
    );
    for (place, line) in lines {
        finding = finding.enter(*place, [*line]);
    }
    report.add(finding);
}
