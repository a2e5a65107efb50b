//! Machines with simulated kernels, and a network that loses, delays, reorders and repeats.

use super::*;

/// The bucket is the source port's low byte.
pub(super) struct ByPort;

impl Classify for ByPort {
    fn bucket(&self, entry: &Entry) -> Option<u8> {
        (entry.zone == 0).then_some(entry.orig.src_port as u8)
    }
}

pub(super) const OWN_PORT: u32 = 4711;

pub(super) struct Machine {
    pub(super) engine: Engine,
    pub(super) kernel: BTreeMap<Tuple, Entry>,
    /// Events reach the daemon; else they are lost.
    pub(super) hears: bool,
    pub(super) up: bool,
    /// A dump that was asked for takes its time.
    pub(super) reads_slowly: bool,
    /// Its table has no room for what is to be made.
    pub(super) is_full: bool,
}

pub(super) struct World {
    pub(super) now: Time,
    pub(super) machines: Vec<Machine>,
    pub(super) on_the_wire: Vec<(Time, usize, Vec<u8>)>,
    /// All that was ever sent, by sender.
    pub(super) recorded: Vec<Vec<Vec<u8>>>,
    pub(super) loss_percent: u64,
    pub(super) repeat_percent: u64,
    pub(super) delay_max_us: u64,
    pub(super) chance: u64,
}

pub(super) fn keys() -> Keys {
    Keys::new(ClusterKey::new([7; 32]), [])
}

pub(super) fn engine(index: usize, incarnation: u64, now: Time) -> Engine {
    Engine::new(
        Parts {
            settings: Settings::default(),
            keys: &keys(),
            cluster: &ClusterName::new("fw").unwrap(),
            name: &NodeName::new(&format!("n{index}")).unwrap(),
            incarnation: Incarnation(incarnation),
            classify: Box::new(ByPort),
            port: OWN_PORT,
        },
        now,
    )
}

pub(super) fn buckets(range: std::ops::RangeInclusive<u8>) -> BucketSet {
    range.collect()
}

pub(super) fn tuple(protocol: u8, port: u16) -> Tuple {
    Tuple {
        src: IpAddr::from([10, 0, 0, 2]),
        dst: IpAddr::from([192, 0, 2, 1]),
        protocol,
        src_port: port,
        dst_port: 443,
    }
}

pub(super) fn udp(port: u16) -> Entry {
    let orig = tuple(UDP, port);
    let reply = orig.inverse().unwrap();
    Entry { orig, reply, status: 0x0e, timeout_s: 120, mark: 0, zone: 0, tcp: None }
}

pub(super) fn tcp(port: u16, state: u8) -> Entry {
    let orig = tuple(TCP, port);
    let mut reply = orig.inverse().unwrap();
    (reply.dst, reply.dst_port) = (IpAddr::from([192, 0, 2, 100]), 1024 + port % 100);
    let timeout_s = if state == TcpState::Established as u8 { 432_000 } else { 120 };
    let tcp = Some(Tcp { state, scales: 0x77, flags: [3, 3] });
    Entry { orig, reply, status: 0x0e, timeout_s, mark: 5, zone: 0, tcp }
}

pub(super) const ESTABLISHED: u8 = TcpState::Established as u8;

impl World {
    /// So many machines, which have heard each other; the first owns the lower half, the second the upper one.
    pub(super) fn new(count: usize) -> Self {
        let mut world = World {
            now: Time::from_nanos(1_000_000_000),
            machines: Vec::new(),
            on_the_wire: Vec::new(),
            recorded: vec![Vec::new(); 8],
            loss_percent: 0,
            repeat_percent: 0,
            delay_max_us: 300,
            chance: 0x9e37_79b9_7f4a_7c15,
        };
        for _ in 0..count {
            world.add();
        }
        world.own(0, buckets(0..=127));
        world.own(1, buckets(128..=255));
        world.run_ms(1500);
        for machine in &world.machines {
            assert!(machine.engine.is_synced(world.now));
        }
        world
    }

    pub(super) fn add(&mut self) -> usize {
        let index = self.machines.len();
        let mut engine = engine(index, 1, self.now);
        engine.handle_lease(self.now + Duration::from_secs(100_000));
        self.machines.push(Machine {
            engine,
            kernel: BTreeMap::new(),
            hears: true,
            up: true,
            reads_slowly: false,
            is_full: false,
        });
        self.carry_out(index);
        index
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.random() % 100 < percent
    }

    pub(super) fn random(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }

    pub(super) fn own(&mut self, index: usize, owned: BucketSet) {
        self.machines[index].engine.handle_owned(self.now, owned);
        self.carry_out(index);
    }

    /// A packet makes, changes or ends an entry of a machine's kernel.
    pub(super) fn packet(&mut self, index: usize, kind: Kind, entry: Entry) {
        let machine = &mut self.machines[index];
        if kind == Kind::Destroyed {
            machine.kernel.remove(&entry.orig);
        } else {
            machine.kernel.insert(entry.orig, entry);
        }
        if machine.hears {
            machine.engine.handle_event(self.now, &Message { kind, cause: 0, entry, has_mark: true });
            self.carry_out(index);
        }
    }

    pub(super) fn carry_out(&mut self, index: usize) {
        loop {
            match self.machines[index].engine.poll_output() {
                Output::Timeout(_) => return,
                Output::Send(datagram) => self.multicast(index, datagram),
                Output::Write(write) => self.write(index, &write),
                Output::Dump if self.machines[index].reads_slowly => {}
                Output::Dump => self.read_table(index),
            }
        }
    }

    pub(super) fn read_table(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        for entry in machine.kernel.values().copied().collect::<Vec<_>>() {
            let message = Message { kind: Kind::Updated, cause: 0, entry, has_mark: false };
            machine.engine.handle_dumped(self.now, &message);
        }
        machine.engine.handle_dump_end();
    }

    pub(super) fn multicast(&mut self, from: usize, datagram: Vec<u8>) {
        assert!(datagram.len() <= rudel_proto::seal::DATAGRAM_LEN_MAX);
        self.recorded[from].push(datagram.clone());
        for to in 0..self.machines.len() {
            if to == from || !self.machines[from].up {
                continue;
            }
            let copies = 1 + u64::from(self.chance(self.repeat_percent));
            for _ in 0..copies {
                if !self.chance(self.loss_percent) {
                    let delay = Duration::from_micros(50 + self.random() % self.delay_max_us.max(1));
                    self.on_the_wire.push((self.now + delay, to, datagram.clone()));
                }
            }
        }
    }

    /// As the kernel does it; what it makes of its own gives an event whose cause is this process.
    pub(super) fn write(&mut self, index: usize, write: &Write) {
        let machine = &mut self.machines[index];
        let refused = match write {
            Write::Create(entry) => match machine.kernel.entry(entry.orig) {
                std::collections::btree_map::Entry::Occupied(_) => Some(Errno::EXIST),
                std::collections::btree_map::Entry::Vacant(_) if machine.is_full => Some(Errno::NOMEM),
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(*entry);
                    let message = Message { kind: Kind::New, cause: OWN_PORT, entry: *entry, has_mark: true };
                    machine.engine.handle_event(self.now, &message);
                    None
                }
            },
            Write::Update { orig, status, timeout_s, mark, tcp } => match machine.kernel.get_mut(orig) {
                None => Some(Errno::NOENT),
                Some(entry) => {
                    entry.status |= status;
                    entry.timeout_s = *timeout_s;
                    entry.mark = mark.unwrap_or(entry.mark);
                    if let (Some(old), Some(new)) = (&mut entry.tcp, tcp) {
                        let state = if new.state == 0 { old.state } else { new.state };
                        *old = Tcp { state, flags: new.flags, ..*old };
                    }
                    None
                }
            },
            Write::Delete(orig) => machine.kernel.remove(orig).is_none().then_some(Errno::NOENT),
        };
        if let Some(errno) = refused {
            machine.engine.handle_write_failed(write, errno);
        }
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.now = self.now + Duration::from_micros(500);
            let now = self.now;
            let (arrived, under_way) =
                std::mem::take(&mut self.on_the_wire).into_iter().partition(|(at, ..)| *at <= now);
            self.on_the_wire = under_way;
            for (_, to, datagram) in arrived {
                if self.machines[to].up {
                    let _ = self.machines[to].engine.handle_datagram(now, &datagram);
                    self.carry_out(to);
                }
            }
            for index in 0..self.machines.len() {
                if self.machines[index].up && self.machines[index].engine.next_timeout() <= now {
                    self.machines[index].engine.handle_timeout(now);
                    self.carry_out(index);
                }
            }
        }
    }

    pub(super) fn has(&self, index: usize, orig: &Tuple) -> bool {
        self.machines[index].kernel.contains_key(orig)
    }

    pub(super) fn counts(&self, index: usize) -> Counts {
        self.machines[index].engine.counts()
    }

    /// Every kernel has what the owners' kernels have, and nothing else.
    pub(super) fn assert_alike(&self) {
        let owned_entries: BTreeMap<Tuple, Tuple> = self
            .machines
            .iter()
            .flat_map(|m| {
                m.kernel.values().filter(|entry| m.engine.owned.contains(entry.orig.src_port as u8))
            })
            .map(|entry| (entry.orig, entry.reply))
            .collect();
        for (index, machine) in self.machines.iter().enumerate() {
            let here: BTreeMap<Tuple, Tuple> =
                machine.kernel.values().map(|entry| (entry.orig, entry.reply)).collect();
            let missing = owned_entries.iter().filter(|(orig, _)| !here.contains_key(orig)).count();
            let surplus = here.keys().filter(|orig| !owned_entries.contains_key(orig)).count();
            assert_eq!(
                (missing, surplus),
                (0, 0),
                "n{index}: missing, surplus; {:?}",
                machine.engine.counts()
            );
            assert!(here == owned_entries, "n{index}: another translation");
        }
    }
}
