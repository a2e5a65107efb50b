//! The interfaces that only heartbeats go by. Without one of them everything goes on by the others, so nobody would notice
//! before those fail, too: it is told, and shown for as long as it lasts. One that was deleted and made again (a VLAN, by
//! `ifdown` and `ifup`) is another interface to the kernel, whatever its name: the sockets on it are opened anew.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rudel_api::event::EventKind;

use crate::heartbeat::{Heartbeat, OpenError};
use crate::host::Link;
use crate::host::links::LinkEvent;
use crate::pulse::{Request, Requests};
use crate::sharing::Sharing;
use crate::sync::thread::state_group;

/// The interfaces of a daemon: what happens to others is not its business, and there may be thousands.
#[derive(Clone, Debug)]
pub(crate) struct Concern {
    indexes: BTreeSet<u32>,
    names: BTreeSet<String>,
}

impl Concern {
    /// With these.
    pub(crate) fn with<'a>(links: impl Iterator<Item = &'a Link> + Clone) -> Self {
        Concern {
            indexes: links.clone().map(|link| link.index).collect(),
            names: links.map(|link| link.name.clone()).collect(),
        }
    }

    /// Whether it is one of them, or has come in the place of one.
    pub(crate) fn covers(&self, event: &LinkEvent) -> bool {
        let (LinkEvent::Appeared(link)
        | LinkEvent::Changed { after: link, .. }
        | LinkEvent::Disappeared(link)) = event
        else {
            return true;
        };
        self.indexes.contains(&link.index) || self.names.contains(&link.name)
    }
}

/// What came of new sockets.
#[derive(Debug, Default)]
pub(crate) struct Reopened {
    /// By interface: sockets that speak for this node when it cannot do so itself.
    pub(crate) speakers: Vec<(String, OwnedFd)>,
    /// What people should know.
    pub(crate) news: Vec<(EventKind, String)>,
}

/// The interfaces that only heartbeats go by.
#[derive(Debug)]
pub(crate) struct Redundancy {
    group: SocketAddr,
    links: Vec<OnlyHeartbeats>,
}

#[derive(Debug)]
struct OnlyHeartbeats {
    name: String,
    index: u32,
    is_there: bool,
    carrier: bool,
    /// The sockets are of an interface that is no more.
    stale: bool,
    /// Why they could not be opened anew.
    error: Option<OpenError>,
    told_usable: bool,
}

impl OnlyHeartbeats {
    fn is_usable(&self) -> bool {
        self.is_there && self.carrier && !self.stale
    }

    /// What is wrong with it.
    fn why(&self) -> String {
        match &self.error {
            _ if !self.is_there => "the interface is gone".into(),
            _ if !self.carrier => "it has no carrier".into(),
            Some(error) => error.to_string(),
            None => "it was made anew".into(),
        }
    }

    /// What people should know, if it is another than before.
    fn news(&mut self) -> Option<(EventKind, String)> {
        let usable = self.is_usable();
        if std::mem::replace(&mut self.told_usable, usable) == usable {
            return None;
        }
        Some(match usable {
            true => (EventKind::LinkUp, format!("heartbeats go by {} again", self.name)),
            false => (EventKind::LinkDown, format!("no heartbeats go by {}: {}", self.name, self.why())),
        })
    }
}

impl Redundancy {
    /// Of the links for heartbeats to this group, without those that are the cluster's own.
    pub(crate) fn new(group: SocketAddr, heartbeats: &[Link], is_clusters: impl Fn(&Link) -> bool) -> Self {
        let only = heartbeats.iter().filter(|link| !is_clusters(link));
        let links = only.map(|link| OnlyHeartbeats {
            name: link.name.clone(),
            index: link.index,
            is_there: true,
            carrier: true,
            stale: false,
            error: None,
            told_usable: true,
        });
        Redundancy { group, links: links.collect() }
    }

    /// Something happened to an interface; returns what people should know.
    pub(crate) fn hear(&mut self, event: &LinkEvent) -> Option<(EventKind, String)> {
        let (LinkEvent::Appeared(link)
        | LinkEvent::Changed { after: link, .. }
        | LinkEvent::Disappeared(link)) = event
        else {
            return None;
        };
        let is_it = |ours: &&mut OnlyHeartbeats| match ours.is_there {
            true => ours.index == link.index,
            false => ours.name == link.name,
        };
        let ours = self.links.iter_mut().find(is_it)?;
        if matches!(event, LinkEvent::Disappeared(_)) {
            (ours.is_there, ours.stale) = (false, true);
        } else {
            (ours.is_there, ours.index, ours.carrier) = (true, link.index, link.up && link.carrier);
        }
        ours.news()
    }

    /// Whether there is an interface to [open](Redundancy::reopen) sockets on.
    pub(crate) fn wants_sockets(&self) -> bool {
        self.links.iter().any(|link| link.is_there && link.stale)
    }

    /// Opens sockets on interfaces that were made again, and hands them to those who use them. An address may come later
    /// than its interface: what does not work yet is to be tried again.
    pub(crate) fn reopen(&mut self, requests: &Requests, sharing: Option<&Sharing>) -> Reopened {
        let group = self.group;
        let mut reopened = Reopened::default();
        for link in self.links.iter_mut().filter(|link| link.is_there && link.stale) {
            let open = || {
                let bulk =
                    sharing.map(|_| Heartbeat::open_bulk(&link.name, state_group(group))).transpose()?;
                Ok((Heartbeat::open(&link.name, group)?, bulk))
            };
            let (pulses, bulk) = match open() {
                Ok(opened) => opened,
                Err(error) => {
                    link.error = Some(error);
                    continue;
                }
            };
            reopened.speakers.extend(pulses.speaker().map(|speaker| (link.name.clone(), speaker)));
            let is_shared = sharing.zip(bulk).is_none_or(|(sharing, bulk)| sharing.set_link(bulk));
            if is_shared && requests.send(Request::Link(pulses)).is_ok() {
                (link.stale, link.error) = (false, None);
                reopened.news.extend(link.news());
            }
        }
        reopened
    }

    /// What is wrong now, in sentences.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let unusable = self.links.iter().filter(|link| !link.is_usable());
        unusable.map(|link| format!("no heartbeats go by {}: {}", link.name, link.why())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, carrier: bool) -> Link {
        Link { index, name: name.into(), mac: None, mtu: 1500, kind: None, up: true, carrier }
    }

    fn redundancy() -> Redundancy {
        let links = [link(2, "eth0", true), link(7, "vlan7", true)];
        Redundancy::new("239.255.74.40:7440".parse().unwrap(), &links, |link| link.name == "eth0")
    }

    fn changed(after: Link) -> LinkEvent {
        LinkEvent::Changed { before: after.clone(), after }
    }

    #[test]
    fn only_links_of_its_own_concern_a_daemon() {
        let own = [link(2, "eth0", true), link(7, "vlan7", true)];
        let concern = Concern::with(own.iter());
        assert!(concern.covers(&LinkEvent::Appeared(link(2, "eth0", true))));
        assert!(concern.covers(&changed(link(7, "renamed", true))));
        assert!(concern.covers(&LinkEvent::Appeared(link(99, "vlan7", true))), "it was made again");
        assert!(!concern.covers(&LinkEvent::Appeared(link(3, "veth1234", true))));
        assert!(!concern.covers(&LinkEvent::Disappeared(link(3, "veth1234", true))));
    }

    #[test]
    fn a_link_that_cannot_be_used_is_told_once_and_shown_while_it_lasts() {
        let mut redundancy = redundancy();
        assert_eq!(
            redundancy.hear(&LinkEvent::Appeared(link(2, "eth0", false))),
            None,
            "told as the cluster's"
        );
        assert_eq!(redundancy.hear(&LinkEvent::Appeared(link(7, "vlan7", true))), None);
        let (kind, reason) = redundancy.hear(&changed(link(7, "vlan7", false))).unwrap();
        assert_eq!(
            (kind, reason.as_str()),
            (EventKind::LinkDown, "no heartbeats go by vlan7: it has no carrier")
        );
        assert_eq!(redundancy.hear(&changed(link(7, "vlan7", false))), None);
        assert_eq!(redundancy.alarms(), [reason]);
        assert_eq!(redundancy.hear(&changed(link(7, "vlan7", true))).unwrap().0, EventKind::LinkUp);
        assert_eq!(redundancy.alarms(), [""; 0]);
        assert!(!redundancy.wants_sockets(), "a carrier that comes back finds the sockets as they were");
    }

    #[test]
    fn a_link_that_was_made_again_wants_other_sockets() {
        let mut redundancy = redundancy();
        let (kind, reason) = redundancy.hear(&LinkEvent::Disappeared(link(7, "vlan7", true))).unwrap();
        assert_eq!(
            (kind, reason.as_str()),
            (EventKind::LinkDown, "no heartbeats go by vlan7: the interface is gone")
        );
        assert!(!redundancy.wants_sockets());
        assert_eq!(redundancy.hear(&LinkEvent::Appeared(link(9, "vlan9", true))), None);
        assert_eq!(redundancy.hear(&LinkEvent::Appeared(link(8, "vlan7", true))), None, "not usable yet");
        assert!(redundancy.wants_sockets());
        assert_eq!(redundancy.alarms(), ["no heartbeats go by vlan7: it was made anew"]);
        assert_eq!(redundancy.hear(&LinkEvent::Disappeared(link(8, "vlan7", true))), None, "told already");
        assert!(!redundancy.wants_sockets());
    }
}
