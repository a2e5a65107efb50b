//! What is inside a sealed datagram: pulses, views, orders and their acknowledgements, in big-endian bytes.
//!
//! ```text
//! pulse: 1 · host u64 · digest u64 · uptime_ms u32 · state u8 · flags u8 · weight u16
//!          · called u32 · answered u32 · adopted id · promise id
//!          · keeping 32 bytes · connections u32 · n u8 · n × (id u64 · incarnation u64 · sequence u32 · age_us u32 · flags u8)
//!          · m u8 · m × (seen u64, its highest bit: hears6 · passed u64, its highest bit: hears4)
//!          · wanted u64 · bound u8 · timeout_us u32
//! view:  2 · id · digest u64 · reason u8 · subject u64 · n u8 · n × (id u64 · incarnation u64 · weight u16)
//!          · 256 × member index u8 (255 = nobody)
//! order: 3 · to (id u64 · incarnation u64) · number u64 · echo u32 · task u8 (0 undrain, 1 drain, 2 weight)
//!          · weight u16 (0 but for task 2)
//! done:  4 · to (id u64 · incarnation u64) · number u64
//! complaint: 5 · n u8 · n bytes of UTF-8
//! id:    epoch u64 · node u64 · incarnation u64
//! ```
//!
//! 32 nodes with the longest names fit [`DATAGRAM_LEN_MAX`](crate::seal::DATAGRAM_LEN_MAX); a test holds that.

use serde::{Deserialize, Serialize};

use crate::bucket::{BUCKET_COUNT, BucketSet};
use crate::config::TIMEOUT_MAX;
use crate::id::{Identity, Incarnation, NodeId, ViewId};
use crate::share::NOBODY;
use crate::text::one_line;
use crate::view::{MEMBERS_MAX, Member, Reason, View};

/// Most entries of a heard table: every peer of a full cluster, and a twin of one's own name.
pub const HEARD_MAX: usize = 32;
/// The longest complaint, in bytes.
pub const COMPLAINT_LEN_MAX: usize = 200;
/// Most interfaces that a pulse carries packet counts of.
pub const AUDITS_MAX: usize = 8;

const KIND_PULSE: u8 = 1;
const KIND_VIEW: u8 = 2;
const KIND_ORDER: u8 = 3;
const KIND_DONE: u8 = 4;
const KIND_COMPLAINT: u8 = 5;
const NO_OWNER: u8 = u8::MAX;

/// What a node is about, as it says in its pulses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NodeState {
    /// Just started (or started again after a stall): it only listens.
    Listening = 0,
    /// It waits for a view that names it.
    Joining = 1,
    /// A member with a share.
    Active = 2,
    /// A member that gives its share away and stays.
    Draining = 3,
    /// A member that gives its share away and goes.
    Leaving = 4,
    /// It found another node with its name alive, owns nothing, and takes no part.
    Fenced = 5,
}

impl NodeState {
    fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => NodeState::Listening,
            1 => NodeState::Joining,
            2 => NodeState::Active,
            3 => NodeState::Draining,
            4 => NodeState::Leaving,
            5 => NodeState::Fenced,
            _ => return None,
        })
    }

    /// The state in one word, as the status shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Listening => "listening",
            NodeState::Joining => "joining",
            NodeState::Active => "active",
            NodeState::Draining => "draining",
            NodeState::Leaving => "leaving",
            NodeState::Fenced => "fenced",
        }
    }

    /// Whether a node in this state owns nothing, whatever views say.
    pub fn owns_nothing(self) -> bool {
        matches!(self, NodeState::Listening | NodeState::Joining | NodeState::Fenced)
    }
}

/// What a node multicasts each interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Which machine the sender runs on, so that two machines with one name are told apart.
    pub host: u64,
    /// What the sender's configuration has in common with all others; nodes of another digest are not let in.
    pub digest: u64,
    /// Milliseconds since the sender began to listen (saturating).
    pub uptime_ms: u32,
    /// What the sender is about.
    pub state: NodeState,
    /// Whether nothing is wrong with it that it knows of without asking, such as a link without a carrier.
    pub healthy: bool,
    /// Whether it has no link to the clients at all.
    pub cut: bool,
    /// What its health checks have come to.
    pub checkup: Checkup,
    /// Whether it was scheduled late within the last time-out.
    pub late: bool,
    /// Whether its view gives it buckets that it has not been able to take for a time-out.
    pub waiting: bool,
    /// Whether it has given up what the adopted view does not give it, and has no debts.
    pub settled: bool,
    /// Whether this is a good-bye: the sender owns nothing and never will in this incarnation.
    pub gone: bool,
    /// Its weight, 0 to 1000.
    pub weight: u16,
    /// The view that it has adopted, [`ViewId::NONE`] if none.
    pub adopted: ViewId,
    /// The highest view that it has heard of.
    pub promise: ViewId,
    /// Buckets that it has given up, but whose connections it still serves.
    pub keeping: BucketSet,
    /// Connections that are still open in buckets that it has given up: served while it keeps their bucket.
    pub connections: u32,
    /// Whom it hears.
    pub heard: Vec<Heard>,
    /// Packets of the cluster seen and passed, per interface.
    pub audits: Vec<Audit>,
    /// The digest that it would rather have: of the terms that its configuration asks for (R11).
    pub wanted: u64,
    /// Whether it obeys those already, besides the present ones.
    pub bound: bool,
    /// The longest time-out that it obeys, in microseconds: no lease of its own outlasts that.
    pub timeout_us: u32,
}

impl Pulse {
    /// Whether its sender could serve: nothing is wrong with it, and its health checks are good.
    pub fn is_fit(&self) -> bool {
        self.healthy && self.checkup.good
    }
}

/// What the health checks of a node have come to.
///
/// Answers are told apart by the examinations that the cluster numbers: see R6.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Checkup {
    /// The verdict: all checks are good.
    pub good: bool,
    /// Whether the last answer of no check was bad: less than a verdict, and true before the first answers.
    pub last_good: bool,
    /// The examination that the last change of the verdict called; 0 if it never changed.
    pub called: u32,
    /// The last examination after whose call all checks have been answered; 0 for none.
    pub answered: u32,
}

impl Checkup {
    /// Of a node that has no checks, or whose checks were always good.
    pub const GOOD: Checkup = Checkup { good: true, last_good: true, called: 0, answered: 0 };
}

/// An entry of the heard table: at once echo, acknowledgement and witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The peer.
    pub identity: Identity,
    /// The low 32 bits of the number of its last pulse.
    pub sequence: u32,
    /// How long ago that came, or the good-bye was said, in microseconds (saturating at 71 minutes).
    pub age_us: u32,
    /// Whether that pulse echoed a pulse of the reporter's own: only then does the age prove life.
    pub proven: bool,
    /// Whether the peer said good-bye.
    pub gone: bool,
}

/// What one interface has received of the cluster's packets. A node that says nothing of this sends no probes either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Packets of flows, of which one node has to pass each, since the interface got its filter; below 2^63.
    pub seen: u64,
    /// Those that were passed to the stack; below 2^63.
    pub passed: u64,
    /// Whether it has heard another node's probe in IPv4 lately.
    #[serde(default)]
    pub hears4: bool,
    /// The same in IPv6.
    #[serde(default)]
    pub hears6: bool,
}

/// The bit of a count that no count reaches.
const AUDIT_FLAG: u64 = 1 << 63;

/// What one node can order another to do for its administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// To give its share away and stay, or to take it back.
    Drain(bool),
    /// To change its weight, 0 to 1000.
    Weight(u16),
}

/// A task for one node, multicast by the node whose administrator wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// For whom, in which run: nobody else takes notice, nor does a later run.
    pub to: Identity,
    /// Rises from order to order in the sender's run; a repeated order has the same.
    pub number: u64,
    /// The low 32 bits of the number of the receiver's last pulse: proves that the order is not an old one.
    pub echo: u32,
    /// What to do.
    pub task: Task,
}

/// The word that an order has been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Who had ordered it, in which run.
    pub to: Identity,
    /// The order's number.
    pub number: u64,
}

/// What is wrong with its sender, in words: one line that can be shown on any terminal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Complaint(String);

impl Complaint {
    /// Makes such a line of any text; `None` if nothing is left of it.
    pub fn new(text: &str) -> Option<Self> {
        Some(one_line(text, COMPLAINT_LEN_MAX)).filter(|line| !line.is_empty()).map(Complaint)
    }

    /// The line, 1 to 200 bytes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Sent by every node in each interval.
    Pulse(Pulse),
    /// Sent by a coordinator, repeated by any member for those who missed it.
    View(Box<View>),
    /// Sent by a node whose administrator wants something of another, repeated until that is done.
    Order(Order),
    /// The answer to each order that reaches whom it is for.
    Done(Done),
    /// Sent by a node with which something is wrong, for people.
    Complaint(Complaint),
}

impl Message {
    /// The bytes to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Message::Pulse(pulse) => encode_pulse(&mut w, pulse),
            Message::View(view) => encode_view(&mut w, view),
            Message::Order(order) => encode_order(&mut w, order),
            Message::Done(done) => {
                w.u8(KIND_DONE);
                w.identity(done.to);
                w.u64(done.number);
            }
            Message::Complaint(complaint) => {
                w.u8(KIND_COMPLAINT);
                w.text(complaint.as_str());
            }
        }
        w.finish()
    }

    /// The inverse of [`Message::encode`]; says what is wrong with bytes that are no message.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut r = Reader::new(bytes);
        let message = match r.u8()? {
            KIND_PULSE => Message::Pulse(decode_pulse(&mut r)?),
            KIND_VIEW => Message::View(Box::new(decode_view(&mut r)?)),
            KIND_ORDER => Message::Order(decode_order(&mut r)?),
            KIND_DONE => Message::Done(Done { to: r.identity()?, number: r.u64()? }),
            KIND_COMPLAINT => Message::Complaint(decode_complaint(&mut r)?),
            _ => return Err("a kind of message that this version does not know"),
        };
        if r.rest().is_empty() { Ok(message) } else { Err("bytes left over") }
    }
}

fn encode_pulse(w: &mut Writer, pulse: &Pulse) {
    debug_assert!(pulse.heard.len() <= HEARD_MAX && pulse.audits.len() <= AUDITS_MAX);
    w.u8(KIND_PULSE);
    w.u64(pulse.host);
    w.u64(pulse.digest);
    w.u32(pulse.uptime_ms);
    w.u8(pulse.state as u8);
    let Checkup { good, last_good, called, answered } = pulse.checkup;
    w.flags([
        pulse.healthy,
        pulse.late,
        pulse.settled,
        pulse.gone,
        pulse.cut,
        good,
        last_good,
        pulse.waiting,
    ]);
    w.u16(pulse.weight);
    w.u32(called);
    w.u32(answered);
    w.view_id(pulse.adopted);
    w.view_id(pulse.promise);
    w.bytes(&pulse.keeping.to_bytes());
    w.u32(pulse.connections);
    w.u8(pulse.heard.len() as u8);
    for heard in &pulse.heard {
        w.identity(heard.identity);
        w.u32(heard.sequence);
        w.u32(heard.age_us);
        w.flags([heard.proven, heard.gone]);
    }
    w.u8(pulse.audits.len() as u8);
    for audit in &pulse.audits {
        w.u64(audit.seen & !AUDIT_FLAG | if audit.hears6 { AUDIT_FLAG } else { 0 });
        w.u64(audit.passed & !AUDIT_FLAG | if audit.hears4 { AUDIT_FLAG } else { 0 });
    }
    w.u64(pulse.wanted);
    w.u8(pulse.bound.into());
    w.u32(pulse.timeout_us);
}

fn decode_pulse(r: &mut Reader<'_>) -> Result<Pulse, &'static str> {
    let host = r.u64()?;
    let digest = r.u64()?;
    let uptime_ms = r.u32()?;
    let state = NodeState::from_u8(r.u8()?).ok_or("an unknown state")?;
    let [healthy, late, settled, gone, cut, good, last_good, waiting] = r.flags()?;
    let weight = r.u16()?;
    if weight > 1000 {
        return Err("a weight above 1000");
    }
    let checkup = Checkup { good, last_good, called: r.u32()?, answered: r.u32()? };
    let adopted = r.view_id()?;
    let promise = r.view_id()?;
    let keeping = BucketSet::from_bytes(r.array()?);
    let connections = r.u32()?;
    let count = usize::from(r.u8()?);
    if count > HEARD_MAX {
        return Err("too many heard entries");
    }
    let mut heard = Vec::with_capacity(count);
    for _ in 0..count {
        let identity = r.identity()?;
        let sequence = r.u32()?;
        let age_us = r.u32()?;
        let [proven, gone] = r.flags()?;
        heard.push(Heard { identity, sequence, age_us, proven, gone });
    }
    let count = usize::from(r.u8()?);
    if count > AUDITS_MAX {
        return Err("too many packet counts");
    }
    let mut audits = Vec::with_capacity(count);
    for _ in 0..count {
        let (seen, passed) = (r.u64()?, r.u64()?);
        audits.push(Audit {
            seen: seen & !AUDIT_FLAG,
            passed: passed & !AUDIT_FLAG,
            hears4: passed & AUDIT_FLAG != 0,
            hears6: seen & AUDIT_FLAG != 0,
        });
    }
    let wanted = r.u64()?;
    let bound = match r.u8()? {
        0 => false,
        1 => true,
        _ => return Err("neither bound nor unbound"),
    };
    let timeout_us = r.u32()?;
    if u128::from(timeout_us) > TIMEOUT_MAX.as_micros() {
        return Err("a time-out that is too long");
    }
    Ok(Pulse {
        host,
        digest,
        uptime_ms,
        state,
        healthy,
        cut,
        checkup,
        late,
        waiting,
        settled,
        gone,
        weight,
        adopted,
        promise,
        keeping,
        connections,
        heard,
        audits,
        wanted,
        bound,
        timeout_us,
    })
}

fn encode_view(w: &mut Writer, view: &View) {
    debug_assert!(view.is_well_formed());
    w.u8(KIND_VIEW);
    w.view_id(view.id);
    w.u64(view.digest);
    w.u8(view.reason as u8);
    w.u64(view.subject.as_u64());
    w.u8(view.members.len() as u8);
    for member in &view.members {
        w.identity(member.identity);
        w.u16(member.weight);
    }
    for owner in &view.owners {
        let index = owner.and_then(|id| view.members.iter().position(|m| m.identity.id == id));
        w.u8(index.map_or(NO_OWNER, |i| i as u8));
    }
}

fn decode_view(r: &mut Reader<'_>) -> Result<View, &'static str> {
    let id = r.view_id()?;
    let digest = r.u64()?;
    let reason = Reason::from_u8(r.u8()?).ok_or("an unknown reason")?;
    let subject = NodeId::from_u64(r.u64()?);
    let count = usize::from(r.u8()?);
    if count > MEMBERS_MAX {
        return Err("too many members");
    }
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        members.push(Member { identity: r.identity()?, weight: r.u16()? });
    }
    let mut owners = NOBODY;
    for (owner, index) in owners.iter_mut().zip(r.array::<BUCKET_COUNT>()?) {
        if index != NO_OWNER {
            let member: &Member = members.get(usize::from(index)).ok_or("a bucket of no member")?;
            *owner = Some(member.identity.id);
        }
    }
    let view = View { id, digest, reason, subject, members, owners };
    if view.is_well_formed() { Ok(view) } else { Err("members out of order, or no view at all") }
}

fn encode_order(w: &mut Writer, order: &Order) {
    w.u8(KIND_ORDER);
    w.identity(order.to);
    w.u64(order.number);
    w.u32(order.echo);
    let (task, weight) = match order.task {
        Task::Drain(draining) => (u8::from(draining), 0),
        Task::Weight(weight) => (2, weight),
    };
    w.u8(task);
    w.u16(weight);
}

fn decode_order(r: &mut Reader<'_>) -> Result<Order, &'static str> {
    let to = r.identity()?;
    let number = r.u64()?;
    let echo = r.u32()?;
    let task = match (r.u8()?, r.u16()?) {
        (0, 0) => Task::Drain(false),
        (1, 0) => Task::Drain(true),
        (2, weight @ 0..=1000) => Task::Weight(weight),
        _ => return Err("an unknown task, or a weight above 1000"),
    };
    Ok(Order { to, number, echo, task })
}

/// Other nodes are believed, but not with a terminal: what [`Complaint::new`] would not have made is refused.
fn decode_complaint(r: &mut Reader<'_>) -> Result<Complaint, &'static str> {
    let text = r.text(COMPLAINT_LEN_MAX)?;
    Complaint::new(text).filter(|line| line.0 == text).ok_or("a complaint that is not one line of text")
}

/// Appends big-endian values to a buffer.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// A length byte and the text; names are shorter than 256 bytes by their types.
    pub(crate) fn text(&mut self, text: &str) {
        self.u8(text.len() as u8);
        self.bytes(text.as_bytes());
    }

    pub(crate) fn flags<const N: usize>(&mut self, flags: [bool; N]) {
        self.u8(flags.iter().rev().fold(0, |byte, flag| byte << 1 | u8::from(*flag)));
    }

    pub(crate) fn identity(&mut self, identity: Identity) {
        self.u64(identity.id.as_u64());
        self.u64(identity.incarnation.0);
    }

    pub(crate) fn view_id(&mut self, id: ViewId) {
        self.u64(id.epoch);
        self.identity(id.coordinator);
    }
}

/// Takes big-endian values from a slice; never reads beyond it.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or("too short")?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, &'static str> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn text(&mut self, len_max: usize) -> Result<&'a str, &'static str> {
        let len = usize::from(self.u8()?);
        if len > len_max {
            return Err("a name that is too long");
        }
        let (head, rest) = self.0.split_at_checked(len).ok_or("too short")?;
        self.0 = rest;
        str::from_utf8(head).map_err(|_| "a name that is no text")
    }

    pub(crate) fn flags<const N: usize>(&mut self) -> Result<[bool; N], &'static str> {
        let byte = self.u8()?;
        if u32::from(byte) >= 1 << N {
            return Err("an unknown flag");
        }
        Ok(std::array::from_fn(|i| byte >> i & 1 == 1))
    }

    pub(crate) fn identity(&mut self) -> Result<Identity, &'static str> {
        Ok(Identity { id: NodeId::from_u64(self.u64()?), incarnation: Incarnation(self.u64()?) })
    }

    pub(crate) fn view_id(&mut self) -> Result<ViewId, &'static str> {
        Ok(ViewId { epoch: self.u64()?, coordinator: self.identity()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ClusterName, NodeName};
    use crate::seal::{ClusterKey, DATAGRAM_LEN_MAX, Keys, Sealer};
    use proptest::prelude::*;

    fn identity(n: u64) -> Identity {
        Identity { id: NodeId::from_u64(n), incarnation: Incarnation(u64::MAX - n) }
    }

    fn largest_pulse() -> Message {
        let id = ViewId { epoch: u64::MAX, coordinator: identity(3) };
        Message::Pulse(Pulse {
            host: u64::MAX,
            digest: u64::MAX,
            uptime_ms: u32::MAX,
            state: NodeState::Draining,
            healthy: true,
            cut: true,
            waiting: true,
            checkup: Checkup { good: false, last_good: true, called: u32::MAX, answered: 7 },
            late: false,
            settled: true,
            gone: false,
            weight: 1000,
            adopted: id,
            promise: id,
            keeping: BucketSet::ALL,
            connections: u32::MAX,
            heard: (0..HEARD_MAX as u64)
                .map(|n| Heard {
                    identity: identity(n),
                    sequence: 7,
                    age_us: 8,
                    proven: n % 2 == 0,
                    gone: n % 3 == 0,
                })
                .collect(),
            audits: (0..AUDITS_MAX as u64)
                .map(|n| Audit { seen: u64::MAX >> 1, passed: n, hears4: n % 2 == 0, hears6: n % 3 == 0 })
                .collect(),
            wanted: 7,
            bound: true,
            timeout_us: 400_000,
        })
    }

    fn largest_view() -> Message {
        let members: Vec<Member> =
            (0..MEMBERS_MAX as u64).map(|n| Member { identity: identity(n + 1), weight: 1000 }).collect();
        let owners = std::array::from_fn(|b| (b > 9).then(|| members[b % members.len()].identity.id));
        Message::View(Box::new(View {
            id: ViewId { epoch: 1, coordinator: identity(1) },
            digest: 8,
            reason: Reason::Joined,
            subject: NodeId::from_u64(9),
            members,
            owners,
        }))
    }

    fn orders() -> Vec<Message> {
        let order = |task| Message::Order(Order { to: identity(5), number: u64::MAX, echo: u32::MAX, task });
        let tasks = [Task::Drain(true), Task::Drain(false), Task::Weight(0), Task::Weight(1000)];
        let done = Message::Done(Done { to: identity(6), number: 7 });
        tasks.map(order).into_iter().chain([done]).collect()
    }

    fn all() -> Vec<Message> {
        let complaint = Complaint::new(&"x".repeat(300)).unwrap();
        let others = orders().into_iter().chain([Message::Complaint(complaint)]);
        [largest_pulse(), largest_view()].into_iter().chain(others).collect()
    }

    #[test]
    fn thirty_two_nodes_with_the_longest_names_fit_a_datagram() {
        let keys = Keys::new(ClusterKey::new([0; 32]), []);
        let cluster = ClusterName::new(&"c".repeat(32)).unwrap();
        let sealer = Sealer::new(&keys, &cluster, &NodeName::new(&"n".repeat(63)).unwrap(), Incarnation(1));
        for message in all() {
            let len = sealer.seal(1, &message.encode()).len();
            assert!(len <= DATAGRAM_LEN_MAX, "{len}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for message in all() {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn a_shortened_or_lengthened_message_is_refused() {
        for message in all() {
            let mut bytes = message.encode();
            for len in 0..bytes.len() {
                assert!(Message::decode(&bytes[..len]).is_err(), "length {len}");
            }
            bytes.push(0);
            assert_eq!(Message::decode(&bytes), Err("bytes left over"));
        }
    }

    #[test]
    fn a_complaint_that_would_do_something_to_a_terminal_is_refused() {
        let encoded = |text: &str| Message::Complaint(Complaint(text.to_owned())).encode();
        assert!(Message::decode(&encoded("web: HTTP 500 ✓")).is_ok());
        for bad in ["", " x", "a\nb", "\u{1b}[2J", "\u{9b}2J", "a\u{202e}b", &"x".repeat(201)] {
            assert!(Message::decode(&encoded(bad)).is_err(), "{bad:?}");
        }
        let mut no_text = encoded("xx");
        no_text[2] = 0xff;
        assert!(Message::decode(&no_text).is_err());
    }

    #[test]
    fn a_task_that_is_none_is_refused() {
        let order = Order { to: identity(5), number: 1, echo: 2, task: Task::Weight(1000) };
        let bytes = Message::Order(order).encode();
        let (task, weight) = (bytes.len() - 3, bytes.len() - 1);
        for (at, byte) in [(weight, 0xe9), (task, 3), (task, 1)] {
            let mut wrong = bytes.clone();
            wrong[at] = byte;
            assert!(Message::decode(&wrong).is_err(), "byte {at} is {byte}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..1300), kind in 1u8..6) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }
    }
}
