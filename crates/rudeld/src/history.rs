//! What happened here, for people: the last events, who has been lost, and since when each bucket has its owner.
//!
//! The events of former runs are among them, if there is a log on disk. Whoever wants to follow them waits for
//! [`History::newest`] to change, and asks for what came after the last that it has.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use rudel_api::event::{Event, EventKind};
use rudel_api::timestamp::Timestamp;
use rudel_proto::bucket::BUCKET_COUNT;
use rudel_proto::share::{NOBODY, Owners};
use tokio::sync::watch;

use crate::event_log::EventLog;
use crate::hooks;

/// Events that are kept.
const EVENTS_MAX: usize = 1024;
/// Bytes of a reason that are kept: a health check may say more than anybody wants to keep.
const REASON_LEN_MAX: usize = 1024;
/// Lost nodes that are remembered; a cluster has at most 32 nodes at a time.
const LOST_MAX: usize = 32;

/// The memory of one daemon.
#[derive(Debug)]
pub struct History {
    node: String,
    events: VecDeque<Event>,
    log: Option<EventLog>,
    hooks: Option<hooks::Door>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
    lost: BTreeMap<String, Event>,
    owners: Box<Owners>,
    /// Since when a bucket has its owner, and by which view.
    since: Box<[Option<(Timestamp, u64)>; BUCKET_COUNT]>,
    /// What made a view, by epoch.
    causes: BTreeMap<u64, Event>,
    view_since: Option<Timestamp>,
    /// The view that the events after it explain: its epoch and whom it is about.
    explains: Option<(u64, Option<String>)>,
}

impl History {
    /// The memory of the node of this name, empty.
    pub fn new(node: &str) -> Self {
        History {
            node: node.into(),
            events: VecDeque::new(),
            log: None,
            hooks: None,
            newest: watch::Sender::new(0),
            lost: BTreeMap::new(),
            owners: Box::new(NOBODY),
            since: Box::new([None; BUCKET_COUNT]),
            causes: BTreeMap::new(),
            view_since: None,
            explains: None,
        }
    }

    /// The memory of the node of this name, with what its former runs have written to this file, and writing to it.
    pub fn open(node: &str, path: &Path) -> Self {
        let (log, past) = EventLog::open(path);
        let mut history = History::new(node);
        history.newest.send_replace(past.iter().filter_map(|event| event.sequence).max().unwrap_or(0));
        history.events = past.into();
        history.events.drain(..history.events.len().saturating_sub(EVENTS_MAX));
        history.log = Some(log);
        history
    }

    /// Has the administrator's program told of everything that happens from now on.
    pub fn tell_hooks(&mut self, door: hooks::Door) {
        self.hooks = Some(door);
    }

    /// Remembers something; `node` defaults to this one.
    pub fn push(&mut self, kind: EventKind, node: Option<&str>, reason: impl Into<String>) -> Event {
        self.remember(kind, node, reason.into(), None)
    }

    fn remember(
        &mut self,
        kind: EventKind,
        node: Option<&str>,
        mut reason: String,
        epoch: Option<u64>,
    ) -> Event {
        reason.truncate(reason.floor_char_boundary(REASON_LEN_MAX));
        let sequence = *self.newest.borrow() + 1;
        let node = node.unwrap_or(&self.node).into();
        let event = Event { at: Timestamp::now(), kind, node, reason, sequence: Some(sequence), epoch };
        if let Some(log) = &mut self.log {
            log.write(&event);
        }
        if let Some(hooks) = &self.hooks {
            hooks.push(&event);
        }
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        self.newest.send_replace(sequence);
        event
    }

    /// Remembers what the protocol tells.
    pub fn push_protocol(&mut self, event: &rudel_proto::Event) -> Event {
        use rudel_proto::Event as Proto;
        let text = event.to_string();
        let node = event.node().map(|name| name.as_str().to_owned());
        // The words are the protocol's own; a test holds that each is known.
        let kind: EventKind = event.kind().parse().unwrap_or(EventKind::Unknown);
        if let Proto::View { id, subject, .. } = event {
            let view = self.remember(kind, None, text, Some(id.epoch));
            self.view_since = Some(view.at);
            self.causes.insert(id.epoch, view.clone());
            self.explains = Some((id.epoch, subject.as_ref().map(ToString::to_string)));
            return view;
        }
        let pushed = self.push(kind, node.as_deref(), text);
        match kind {
            EventKind::Expired if self.lost.len() < LOST_MAX => {
                self.lost.insert(pushed.node.clone(), pushed.clone());
            }
            EventKind::Joined | EventKind::Left => {
                self.lost.remove(&pushed.node);
            }
            _ => {}
        }
        // The first event after a view that is about the view's subject tells more than the view itself.
        if let Some((epoch, Some(subject))) = &self.explains
            && *subject == pushed.node
            && let Some(cause) = self.causes.get_mut(epoch)
        {
            *cause = Event { epoch: Some(*epoch), ..pushed.clone() };
            self.explains = None;
        }
        pushed
    }

    /// The owners as this daemon has found them: since when and why, it does not know.
    pub fn begin_with(&mut self, owners: &Owners) {
        *self.owners = *owners;
    }

    /// The owners by the view of this epoch, which has just been told of.
    pub fn set_owners(&mut self, epoch: u64, owners: &Owners) {
        let now = Timestamp::now();
        for (since, _) in
            self.since.iter_mut().zip(self.owners.iter().zip(owners)).filter(|(_, (old, new))| old != new)
        {
            *since = Some((now, epoch));
        }
        *self.owners = *owners;
        let needed: std::collections::BTreeSet<u64> =
            self.since.iter().flatten().map(|(_, epoch)| *epoch).collect();
        self.causes.retain(|known, _| needed.contains(known) || *known == epoch);
    }

    /// Since when a bucket has its owner, and what made it so.
    pub fn owner_of(&self, bucket: u8) -> Option<(Timestamp, Option<&Event>)> {
        let (since, epoch) = self.since[usize::from(bucket)]?;
        Some((since, self.causes.get(&epoch)))
    }

    /// What made the view of this epoch.
    pub fn cause(&self, epoch: u64) -> Option<&Event> {
        self.causes.get(&epoch)
    }

    /// Since when the present view is in force here.
    pub fn view_since(&self) -> Option<Timestamp> {
        self.view_since
    }

    /// What made the newest view that moved a bucket.
    pub fn last_change(&self) -> Option<&Event> {
        let newest = self.since.iter().flatten().map(|(_, epoch)| *epoch).max()?;
        self.causes.get(&newest)
    }

    /// Nodes that were members, fell silent and have not come back, by name.
    pub fn lost(&self) -> &BTreeMap<String, Event> {
        &self.lost
    }

    /// The events, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// The events that came after the one of this number; all, if the history has begun anew since that.
    pub fn events_after(&self, sequence: u64) -> impl Iterator<Item = &Event> {
        let after = if sequence > *self.newest.borrow() { 0 } else { sequence };
        self.events.iter().filter(move |event| event.sequence.is_none_or(|sequence| sequence > after))
    }

    /// The number of the newest event, 0 if there is none yet; to be waited for.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudel_proto::id::{NodeId, NodeName, ViewId};
    use rudel_proto::view::Reason;
    use rudel_proto::wire::NodeState;
    use std::time::Duration;

    fn view(epoch: u64, reason: Reason, subject: &str) -> rudel_proto::Event {
        rudel_proto::Event::View {
            id: ViewId { epoch, ..ViewId::NONE },
            reason,
            subject: Some(NodeName::new(subject).unwrap()),
            members: 2,
            moved: 86,
        }
    }

    #[test]
    fn a_bucket_remembers_since_when_and_why_it_has_its_owner() {
        let mut history = History::new("n1");
        let mut owners = NOBODY;
        owners[7] = Some(NodeId::from_u64(1));
        history.push_protocol(&view(3, Reason::Expired, "n2"));
        history.set_owners(3, &owners);
        let expired = rudel_proto::Event::Expired {
            node: Some(NodeName::new("n2").unwrap()),
            silent: Duration::from_millis(412),
            witnesses: vec![NodeName::new("n3").unwrap()],
        };
        history.push_protocol(&expired);
        let (_, cause) = history.owner_of(7).unwrap();
        assert_eq!(cause.unwrap().reason, "not heard for 412 ms, nor by n3");
        assert_eq!(cause.unwrap().node, "n2");
        assert!(history.owner_of(8).is_none());
        assert!(history.lost().contains_key("n2"));

        // A view that does not move the bucket changes nothing about it.
        history.push_protocol(&view(4, Reason::Joined, "n2"));
        history.set_owners(4, &owners);
        history.push_protocol(&rudel_proto::Event::Joined { node: Some(NodeName::new("n2").unwrap()) });
        assert_eq!(history.owner_of(7).unwrap().1.unwrap().epoch, Some(3));
        assert!(history.lost().is_empty());
    }

    #[test]
    fn what_a_successor_finds_has_not_changed_with_the_next_view() {
        let mut history = History::new("n1");
        let mut owners = [Some(NodeId::from_u64(1)); BUCKET_COUNT];
        history.begin_with(&owners);
        owners[7] = Some(NodeId::from_u64(2));
        history.push_protocol(&view(3, Reason::Weight, "n2"));
        history.set_owners(3, &owners);
        assert!(history.owner_of(7).is_some() && history.owner_of(8).is_none());
    }

    #[test]
    fn every_event_of_the_protocol_has_its_word() {
        use rudel_proto::Event as Proto;
        let node = None;
        let all = [
            Proto::State { state: NodeState::Active, why: "" },
            view(1, Reason::Start, "n1"),
            Proto::Joined { node: node.clone() },
            Proto::Expired { node: node.clone(), silent: Duration::ZERO, witnesses: vec![] },
            Proto::Left { node: node.clone() },
            Proto::Restarted { node: node.clone() },
            Proto::Weight { node: node.clone(), from: 0, to: 1 },
            Proto::Ordered { node: node.clone(), task: rudel_proto::wire::Task::Drain(true) },
            Proto::Gained { buckets: 1, took: Duration::ZERO },
            Proto::Stalled { buckets: 1, unscheduled: Duration::ZERO },
            Proto::Resumed { buckets: 1, kept: 0 },
            Proto::LeftOut { view: ViewId::NONE },
            Proto::Duplicate { fenced: true },
            Proto::Mismatch { node: node.clone() },
            Proto::Full { node },
        ];
        for event in all {
            let kind: EventKind = event.kind().parse().unwrap();
            assert_eq!(kind.as_str(), event.kind());
        }
    }

    #[test]
    fn the_history_is_bounded() {
        let mut history = History::new("n1");
        for _ in 0..EVENTS_MAX + 3 {
            history.push(EventKind::LinkDown, None, "eth0");
        }
        assert_eq!(history.events().count(), EVENTS_MAX);
        assert_eq!(history.events().next().unwrap().sequence, Some(4));
        let event = history.push(EventKind::HookFailed, None, "ü".repeat(REASON_LEN_MAX));
        assert_eq!(event.reason, "ü".repeat(REASON_LEN_MAX / 2));
    }

    #[test]
    fn a_new_run_goes_on_where_the_last_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web-n1.events.jsonl");
        let mut history = History::open("n1", &path);
        history.push(EventKind::Started, None, "the daemon has started");
        history.push_protocol(&view(3, Reason::Expired, "n2"));
        drop(history);
        let mut history = History::open("n1", &path);
        let past: Vec<_> = history.events().map(|event| (event.sequence, event.kind, event.epoch)).collect();
        assert_eq!(past, [(Some(1), EventKind::Started, None), (Some(2), EventKind::View, Some(3))]);
        assert!(history.last_change().is_none(), "what former runs knew of the buckets is not known now");
        let newest = history.newest();
        assert_eq!(*newest.borrow(), 2);
        history.push(EventKind::Started, None, "the daemon has started");
        assert!(newest.has_changed().unwrap());

        let after =
            |sequence| history.events_after(sequence).map(|e| e.sequence.unwrap()).collect::<Vec<_>>();
        assert_eq!(after(0), [1, 2, 3]);
        assert_eq!(after(2), [3]);
        assert!(after(3).is_empty());
        assert_eq!(after(4), [1, 2, 3], "whoever has more than there is has seen another history");
    }
}
