//! What the filter says that it did.

use crate::abi::VERDICT_COUNT;

/// What became of a frame to the cluster MAC. Frames to any other address are passed and not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Its bucket is owned and the lease holds: passed up the stack under the interface's own MAC.
    Passed = 0,
    /// Its bucket is not owned: dropped, because another node takes it.
    Ignored = 1,
    /// Its bucket is owned, but the lease has lapsed: dropped.
    Fenced = 2,
    /// Truncated or contradictory headers: dropped.
    Malformed = 3,
    /// ARP, neighbour discovery or IGMP: passed up untouched, on every node.
    Control = 4,
    /// Neither IP nor ARP nor a probe of this cluster: dropped.
    NotIp = 5,
    /// A peer's probe: counted by its sender, dropped.
    Probe = 6,
    /// Its bucket is owned, but its connection is unknown here, and another node keeps connections of the bucket:
    /// dropped, because the keeper takes it.
    Left = 7,
    /// On a router, a later fragment of a datagram whose first one was not seen: its flow is unknown, dropped.
    Orphan = 8,
}

impl Verdict {
    /// All verdicts, in the order of their numbers.
    pub const ALL: [Self; VERDICT_COUNT] = [
        Self::Passed,
        Self::Ignored,
        Self::Fenced,
        Self::Malformed,
        Self::Control,
        Self::NotIp,
        Self::Probe,
        Self::Left,
        Self::Orphan,
    ];

    /// The name that users see, in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Ignored => "ignored",
            Self::Fenced => "fenced",
            Self::Malformed => "malformed",
            Self::Control => "control",
            Self::NotIp => "not_ip",
            Self::Probe => "probe",
            Self::Left => "left",
            Self::Orphan => "orphan",
        }
    }

    /// One line for people.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Passed => "passed up the stack: this node owns the packet's bucket",
            Self::Ignored => "dropped: another node owns the packet's bucket",
            Self::Fenced => "dropped: this node owns the packet's bucket, but its lease has lapsed",
            Self::Malformed => "dropped: truncated or contradictory headers",
            Self::Control => "passed up untouched on every node: ARP, neighbour discovery, IGMP",
            Self::NotIp => "dropped: neither IP nor ARP nor a probe of this cluster",
            Self::Probe => "counted by sender and dropped: a peer's reception probe",
            Self::Left => "dropped: the node that gave the packet's bucket up still serves its connection",
            Self::Orphan => "dropped: a fragment of a datagram whose first one was not seen",
        }
    }
}

/// Packets and their bytes on the wire, Ethernet header included. In generic mode, a packet that the stack has merged
/// from several counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

/// Counters of one interface. They start at zero when the interface gets its filter, and survive the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Index of the interface.
    pub ifindex: u32,
    /// Its name when the filter was attached.
    pub name: String,
    /// One count per verdict, in the order of [`Verdict::ALL`].
    pub verdicts: [Count; VERDICT_COUNT],
}

impl InterfaceCounters {
    /// The count of one verdict.
    pub const fn get(&self, verdict: Verdict) -> Count {
        self.verdicts[verdict as usize]
    }

    /// Packets of flows, that is, those of which exactly one node has to pass each: passed, ignored, fenced or left.
    /// What all nodes passed must add up to what each of them has seen.
    pub fn seen(&self) -> Count {
        self.get(Verdict::Passed)
            + self.get(Verdict::Ignored)
            + self.get(Verdict::Fenced)
            + self.get(Verdict::Left)
    }
}

/// Packets of one bucket, on all interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketCount {
    /// Passed, ignored or fenced.
    pub seen: u64,
    /// Passed.
    pub passed: u64,
}

/// Probes of one family that one interface has heard from one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeCount {
    /// The node id that the probes carry.
    pub sender: u64,
    /// Index of the interface that heard them.
    pub ifindex: u32,
    /// The family of the packets: 4 or 6.
    pub family: u32,
    /// How many, since the interface got its filter.
    pub count: u64,
    /// When the last one came: nanoseconds of `CLOCK_BOOTTIME`.
    pub last_ns: u64,
    /// The last one's; see [`crate::probe::Probe`].
    pub incarnation: u64,
    /// The last one's.
    pub number: u64,
    /// The last one's: to be checked by who has the key.
    pub proof: u64,
    /// Where its frame came from: the sender's own MAC on that interface.
    pub mac: [u8; 6],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_stand_where_their_numbers_say() {
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, index);
        }
    }

    #[test]
    fn seen_are_the_packets_that_some_node_has_to_pass() {
        let mut verdicts = [Count::default(); VERDICT_COUNT];
        for (index, count) in verdicts.iter_mut().enumerate() {
            *count = Count { packets: 10u64.pow(index as u32), bytes: 1 };
        }
        let counters = InterfaceCounters { ifindex: 1, name: "eth0".into(), verdicts };
        assert_eq!(counters.seen(), Count { packets: 10_000_111, bytes: 4 });
    }
}
