//! What is explored: which cluster, and which faults may befall it when.

/// A millisecond in the world's nanoseconds.
pub const MS: u64 = 1_000_000;

/// How many faults of each kind may still happen, at whatever moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Copies of datagrams that are lost.
    pub losses: u8,
    /// Copies that come late, and so behind others.
    pub late: u8,
    /// Directions between two nodes that are cut, and mended again whenever the explorer likes.
    pub cuts: u8,
    /// Daemons that get no processor for a while; one at a time.
    pub hangs: u8,
    /// Daemons that die; their kernels live on.
    pub kills: u8,
    /// Dead daemons that start again, at whatever later moment.
    pub restarts: u8,
    /// Nodes that are asked to leave.
    pub leaves: u8,
    /// Nodes that are asked to give their share away, and then to take it back.
    pub drains: u8,
}

/// A place in the daemon's loop where it may lose the processor, or die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// Something wakes it; it has not read the clock yet.
    BeforeClock,
    /// It has read the clock because of a timer, and has not done anything.
    ClockToTimer,
    /// It has read the clock because of a datagram, and has not looked into it.
    ClockToMessage,
    /// It has made a datagram, and has not sent it.
    BeforeSend,
    /// It has sent a pulse, and has not read the clock again to look at its lease.
    SendToLook,
    /// It has read the clock again, and has not looked.
    ClockToLook,
    /// It has looked, and has not written the lease.
    LookToWrite,
    /// It is about to write the bucket table.
    BeforeOwn,
}

impl Point {
    /// All of them.
    pub const ALL: &[Point] = &[
        Point::BeforeClock,
        Point::ClockToTimer,
        Point::ClockToMessage,
        Point::BeforeSend,
        Point::SendToLook,
        Point::ClockToLook,
        Point::LookToWrite,
        Point::BeforeOwn,
    ];
    /// Before, between and after making a pulse, sending it and looking.
    pub const PULSE: &[Point] =
        &[Point::BeforeClock, Point::BeforeSend, Point::SendToLook, Point::LookToWrite];
    /// Those between which something that others can see happens.
    pub const SEEN: &[Point] = &[Point::BeforeSend, Point::SendToLook, Point::LookToWrite, Point::BeforeOwn];

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Point::BeforeClock => "before it reads the clock",
            Point::ClockToTimer => "after it has read the clock for a timer",
            Point::ClockToMessage => "after it has read the clock for a datagram",
            Point::BeforeSend => "between making a datagram and sending it",
            Point::SendToLook => "between sending a pulse and reading the clock again",
            Point::ClockToLook => "between reading the clock again and looking at its lease",
            Point::LookToWrite => "between looking at its lease and writing it",
            Point::BeforeOwn => "before it writes the bucket table",
        }
    }
}

/// One configuration to explore.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What to call it.
    pub name: &'static str,
    /// How many nodes.
    pub nodes: usize,
    /// The protocol's `quorum`.
    pub quorum: usize,
    /// The protocol's `timeout`, T, in nanoseconds.
    pub timeout: u64,
    /// The protocol's `interval` in nanoseconds.
    pub interval: u64,
    /// How long a datagram that is not late takes.
    pub travel: u64,
    /// When each node starts; one exploration begins at each of these.
    pub starts: Vec<Vec<u64>>,
    /// No fault before this moment.
    pub faults_from: u64,
    /// Faults that may happen.
    pub budget: Budget,
    /// How long a hang may be.
    pub hang_spans: Vec<u64>,
    /// Where a daemon may hang.
    pub hang_points: &'static [Point],
    /// Where a daemon may die.
    pub kill_points: &'static [Point],
    /// By how much a late datagram is late.
    pub late_by: Vec<u64>,
    /// Whether only views may be lost or late, not pulses.
    pub only_views: bool,
}

impl Setup {
    /// A cluster with T = 100 ms and four pulses in T, that has formed before anything happens to it.
    pub fn new(name: &'static str, nodes: usize, quorum: usize, budget: Budget) -> Self {
        let (timeout, interval) = (100 * MS, 25 * MS);
        Setup {
            name,
            nodes,
            quorum,
            timeout,
            interval,
            travel: MS,
            starts: vec![phases(nodes, interval)],
            faults_from: 6 * timeout,
            budget,
            hang_spans: vec![60 * MS, 130 * MS],
            hang_points: Point::PULSE,
            kill_points: &[Point::BeforeSend, Point::SendToLook],
            late_by: vec![8 * MS, 30 * MS],
            only_views: false,
        }
    }

    /// Faults may happen from the first moment: while nodes start, listen and join.
    pub fn cold(self) -> Self {
        Setup { faults_from: 0, ..self }
    }

    /// Begins at each of these starting moments, in milliseconds.
    pub fn starting(self, starts: &[&[u64]]) -> Self {
        let starts = starts.iter().map(|all| all.iter().map(|at| at * MS).collect()).collect();
        Setup { starts, ..self }
    }

    /// Other lengths of hangs, in milliseconds.
    pub fn hanging(self, spans: &[u64], points: &'static [Point]) -> Self {
        Setup { hang_spans: spans.iter().map(|span| span * MS).collect(), hang_points: points, ..self }
    }

    /// Other points to die at.
    pub fn dying(self, points: &'static [Point]) -> Self {
        Setup { kill_points: points, ..self }
    }

    /// Other lengths of delays, in milliseconds.
    pub fn late_by(self, spans: &[u64]) -> Self {
        Setup { late_by: spans.iter().map(|span| span * MS).collect(), ..self }
    }

    /// Other timers, in milliseconds.
    pub fn timers(self, timeout: u64, interval: u64) -> Self {
        let (timeout, interval) = (timeout * MS, interval * MS);
        let faults_from = if self.faults_from == 0 { 0 } else { 6 * timeout };
        Setup { timeout, interval, faults_from, starts: vec![phases(self.nodes, interval)], ..self }
    }

    /// Only the bodies of views are lost or late.
    pub fn only_views(self) -> Self {
        Setup { only_views: true, ..self }
    }

    /// Whether two nodes must never share a bucket even when they cannot hear each other (S2).
    pub fn is_strict(&self) -> bool {
        self.quorum * 2 > self.nodes
    }
}

/// Starts after which the pulses of no two nodes fall together.
fn phases(nodes: usize, interval: u64) -> Vec<u64> {
    (0..nodes as u64).map(|node| node * (interval / nodes as u64 + 2 * MS)).collect()
}
