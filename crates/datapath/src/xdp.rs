//! The loader: maps that outlive it, one program per interface, and the links between them.
//!
//! What is pinned in the node's directory *is* the state; this process only holds it open. Every step leaves a state
//! that the next [`Xdp::open`] understands, wherever the process dies:
//!
//! - `abi`, `buckets`, `lease`, `counters`, `bucket_counters`, `probes`, `aside`, `slots`, `memo`: the maps of `bpf/maps.h`;
//! - `link_<ifindex>`: the filter's attachment to an interface.

use std::{
    collections::HashMap,
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, Map, MapData, MapError, PerCpuArray, PerCpuValues,
        lpm_trie::{Key, LpmTrie},
    },
    programs::ProgramError,
};

use crate::{
    abi,
    aside::Gate,
    border::{self, Border, Network},
    bpffs,
    counters::{BucketCount, Count, InterfaceCounters, ProbeCount},
    device::{self, Device, XdpMode},
    door::Datapath,
    error::{Error, Result, os_error},
    filter::Filter,
    flow::{HashMode, Side},
    lease_word::LeaseWord,
    pins::{LINK_PREFIX, clean, detach, detach_pin, links, pinned_abi, remove_pins},
    refusal::{classify, map_error, refused, too_old},
    sys::{self, Link},
    table::{BucketTable, LeaseUntil},
};

/// Longest memo that [`Datapath::write_memo`] takes.
pub const MEMO_BYTES_MAX: usize = abi::MEMO_BYTES_MAX;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter.bpf.o"));
pub(crate) const PROGRAM: &str = "rudel_filter";
/// Maps that belong to the program of one interface, and are of use to a router alone.
const ROUTER_MAPS: [&str; 4] = ["hosts", "services", "networks", "fragments"];

/// Interface kinds and drivers on which a natively attached program is worse than none: on veth the packet stays
/// PACKET_MULTICAST, which TCP drops silently, and segmentation offload is lost; the others have no native mode, or
/// hand it to the interfaces below them, which have addresses of their own.
const GENERIC_ONLY: [&str; 14] = [
    "veth", "bridge", "bond", "bonding", "team", "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "dummy",
    "ifb", "netkit", "vxlan",
];

/// What is common to all interfaces of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Directory of the pinned state, for this node alone, on a BPF file system (see [`crate::ensure_bpffs`]). Its name
    /// must not contain a dot: the kernel reserves those.
    pub pin_dir: PathBuf,
    /// Tells clusters on one wire apart: probes with another tag are not ours.
    pub cluster_tag: u32,
}

/// How the filter should be run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AttachMode {
    /// Natively where that works: not on virtual interfaces, and generically where the driver refuses.
    #[default]
    Auto,
    /// By the driver, or not at all.
    Native,
    /// By the network stack.
    Generic,
}

/// How the filter is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// By the driver, before there is a socket buffer.
    Native,
    /// By the network stack.
    Generic,
}

impl Mode {
    /// The word in status and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flags(self) -> u32 {
        match self {
            Self::Native => sys::XDP_FLAGS_NATIVE,
            Self::Generic => sys::XDP_FLAGS_GENERIC,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How the filter works on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// Index of the interface in this network namespace.
    pub ifindex: u32,
    /// Its name, for messages and counters.
    pub name: String,
    /// The address that all nodes share. Frames to any other pass untouched.
    pub cluster_mac: [u8; 6],
    /// The interface's own address, under which passed packets go up the stack.
    pub own_mac: [u8; 6],
    /// Which end of a packet is hashed.
    pub side: Side,
    /// What of it is hashed.
    pub hash: HashMode,
    /// Seed of the hash; the same on all nodes.
    pub seed: u32,
    /// What a router knows of the addresses around it. Not looked at where the side is [`Side::Service`].
    pub border: Border,
    /// How to attach.
    pub mode: AttachMode,
    /// Name of the driver (`ethtool -i`), if known. Without it the interface's kind decides what [`AttachMode::Auto`]
    /// means.
    pub driver: Option<String>,
}

/// The pinned state of a node, held open. See the crate's documentation for what becomes of it when this is dropped.
pub struct Xdp {
    options: Options,
    lease: LeaseWord,
    /// What this process knows of the lease: found, or written last. Any other value is another writer's.
    lease_known: LeaseUntil,
    buckets: Array<MapData, abi::BucketTableBytes>,
    counters: PerCpuArray<MapData, abi::InterfaceCounters>,
    bucket_counters: PerCpuArray<MapData, abi::BucketCounters>,
    probes: aya::maps::HashMap<MapData, abi::ProbeKey, abi::ProbeValue>,
    slots: Array<MapData, abi::Slot>,
    memo: Array<MapData, abi::Memo>,
    /// Interfaces that this process has attached to, or taken over.
    attached: HashMap<u32, Mode>,
    /// The programs of these, to put frames through them.
    programs: HashMap<u32, OwnedFd>,
    /// Filters that [`Xdp::load_ahead`] has loaded.
    loaded: HashMap<u32, (InterfaceOptions, Filter)>,
}

impl Xdp {
    /// Opens the pinned state of this node: adopts what a predecessor left, with table, lease, counters and filters as
    /// they are, or makes it. What another version of this program left in another layout is removed, filters
    /// included.
    ///
    /// Attaches nothing. A predecessor's filters go on; [`Xdp::attach`] takes them over one by one, and
    /// [`Xdp::detach_unclaimed`] removes the rest. Two live daemons on one directory are not detected here.
    pub fn open(options: Options) -> Result<Self> {
        bpffs::require(&options.pin_dir)?;
        bpffs::create(&options.pin_dir)?;
        match pinned_abi(&options.pin_dir)? {
            Some(abi::ABI_VERSION) => {
                tracing::debug!(dir = %options.pin_dir.display(), "adopting pinned state")
            }
            Some(0) | None => remove_pins(&options.pin_dir)?,
            Some(found) => {
                tracing::info!(found, ours = abi::ABI_VERSION, "removing the state of another version");
                remove_pins(&options.pin_dir)?;
            }
        }

        let mut loader = EbpfLoader::new();
        loader.btf(None); // no field of a kernel structure is relocated
        let mut object = without_router_maps(&mut loader)
            .default_map_pin_directory(&options.pin_dir)
            .load(OBJECT)
            .map_err(|error| classify("create the filter's maps", error))?;

        let lease = LeaseWord::map(&take(&mut object, "lease", as_array_data)?)?;
        let xdp = Self {
            lease_known: lease.load(),
            lease,
            buckets: take(&mut object, "buckets", Array::try_from)?,
            counters: take(&mut object, "counters", PerCpuArray::try_from)?,
            bucket_counters: take(&mut object, "bucket_counters", PerCpuArray::try_from)?,
            probes: take(&mut object, "probes", aya::maps::HashMap::try_from)?,
            slots: take(&mut object, "slots", Array::try_from)?,
            memo: take(&mut object, "memo", Array::try_from)?,
            attached: HashMap::new(),
            programs: HashMap::new(),
            loaded: HashMap::new(),
            options,
        };
        // Last, so that a state of which only a part was made is not taken for one to adopt.
        let mut version: Array<_, abi::Abi> = take(&mut object, "abi", Array::try_from)?;
        version.set(0, abi::Abi { version: abi::ABI_VERSION }, 0).map_err(map_error("abi", "write"))?;
        Ok(xdp)
    }

    /// Takes the writing of table and lease away from whoever has it: what another process writes from now on by an
    /// [`Xdp`] that it opened before is refused. Says until when the lease runs: a nanosecond less than before, which
    /// is how others notice.
    pub fn seize(&mut self) -> LeaseUntil {
        loop {
            let found = self.lease.load();
            let other = match found.as_nanos() {
                0 => LeaseUntil::from_nanos(1),
                until => LeaseUntil::from_nanos(until - 1),
            };
            if self.lease.replace(found, other) {
                self.lease_known = other;
                return other;
            }
        }
    }

    /// Puts the filter on an interface, with this configuration, and says how it is run.
    ///
    /// A predecessor's filter is replaced in place: no packet meets none or both, and the counters go on. Only if it
    /// runs in a mode that `options` excludes is it detached before the new one is attached.
    pub fn attach(&mut self, options: &InterfaceOptions) -> Result<Mode> {
        let device = self.query(options)?;
        let modes = allowed_modes(options, &device);
        let program = match self.loaded.remove(&options.ifindex) {
            Some((ahead, program)) if ahead == *options => program,
            _ => self.load_filter(options)?,
        };
        let path = self.link_path(options.ifindex);

        let mode = match self.adoptable(options, &device, &path)? {
            Some((link, mode)) if modes.contains(&mode) => {
                link.update(program.fd()?.as_fd())
                    .map_err(|source| Error::Replace { name: options.name.clone(), source })?;
                mode
            }
            leftover => {
                if let Some((link, mode)) = leftover {
                    tracing::info!(interface = options.name, %mode, "detaching a filter in a mode that is not wanted");
                    detach(&link, &path)?;
                }
                self.attach_anew(options, &program, &modes, &path)?
            }
        };
        self.attached.insert(options.ifindex, mode);
        match program.fd()?.as_fd().try_clone_to_owned() {
            Ok(fd) => drop(self.programs.insert(options.ifindex, fd)),
            Err(error) => {
                tracing::warn!(interface = options.name, %error, "no frame can be put through the filter: what is sent to a node that dies is lost until it is repeated; see the error")
            }
        }
        Ok(mode)
    }

    /// Interfaces that this process has put the filter on, and how it is run there.
    pub fn attached(&self) -> impl Iterator<Item = (u32, Mode)> + '_ {
        self.attached.iter().map(|(ifindex, mode)| (*ifindex, *mode))
    }

    /// The filters that this process has attached, to put frames through them. Each is asked for once.
    pub fn gates(&mut self) -> Vec<Gate> {
        self.programs.drain().map(|(ifindex, program)| Gate { ifindex, program }).collect()
    }

    /// Takes the filter off an interface, and forgets its counters. One that carries none is as good.
    pub fn detach(&mut self, ifindex: u32) -> Result<()> {
        detach_pin(&self.link_path(ifindex))?;
        self.attached.remove(&ifindex);
        self.free_slots(|slot| slot.ifindex == ifindex)
    }

    /// Takes a predecessor's filter off the interfaces that this process has not attached to: they are no longer
    /// configured, or gone.
    pub fn detach_unclaimed(&mut self) -> Result<()> {
        for (ifindex, path) in links(&self.options.pin_dir)? {
            if !self.attached.contains_key(&ifindex) {
                detach_pin(&path)?;
            }
        }
        let claimed: Vec<u32> = self.attached.keys().copied().collect();
        self.free_slots(|slot| !claimed.contains(&slot.ifindex))
    }

    /// Makes the node silent, takes the filter off every interface, and removes every pin and the directory: nothing
    /// of this node is left in the kernel.
    ///
    /// Without a filter the stack sees all frames to the cluster MAC. Take the cluster's addresses away first.
    pub fn release(mut self) -> Result<()> {
        self.clear()?;
        let dir = self.options.pin_dir.clone();
        drop(self);
        clean(&dir).map(drop)
    }

    /// What was left by [`Datapath::write_memo`], by this process or a predecessor; empty if nothing was.
    pub fn read_memo(&self) -> Result<Vec<u8>> {
        let value = self.memo.get(&0, 0).map_err(map_error("memo", "read"))?;
        Ok(value.written().to_vec())
    }

    /// Has the kernel check the filter for an interface, so that [`Xdp::attach`] with the same options is quick and does not
    /// fail for that reason. What is attached goes on untouched.
    pub fn load_ahead(&mut self, options: &InterfaceOptions) -> Result<()> {
        let filter = self.load_filter(options)?;
        self.loaded.insert(options.ifindex, (options.clone(), filter));
        Ok(())
    }

    /// Loads the filter for an interface without attaching it, to run it on packets of one's own. It shares table,
    /// lease and counters with the filters that are attached.
    pub fn load_filter(&mut self, options: &InterfaceOptions) -> Result<Filter> {
        self.load_filter_of(OBJECT, options)
    }

    /// The same with another build of the filter: for benchmarks.
    #[doc(hidden)]
    pub fn load_filter_of(&mut self, object: &[u8], options: &InterfaceOptions) -> Result<Filter> {
        let slot = self.claim_slot(options)?;
        self.load(object, options, slot)
    }

    fn link_path(&self, ifindex: u32) -> PathBuf {
        self.options.pin_dir.join(format!("{LINK_PREFIX}{ifindex}"))
    }

    fn query(&self, options: &InterfaceOptions) -> Result<Device> {
        device::query(options.ifindex)
            .map_err(|source| Error::Query { name: options.name.clone(), source })?
            .ok_or_else(|| Error::InterfaceGone { name: options.name.clone(), ifindex: options.ifindex })
    }

    /// The pinned link of a predecessor, if it still is what filters this interface. The pin of one that is not (the
    /// interface is gone, and another has its number now) is removed.
    fn adoptable(
        &self,
        options: &InterfaceOptions,
        device: &Device,
        path: &Path,
    ) -> Result<Option<(Link, Mode)>> {
        let link = match Link::open(path) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Pin { doing: "open", path: path.into(), source }),
        };
        let info =
            link.info().map_err(|source| Error::Pin { doing: "ask about", path: path.into(), source })?;
        let mode = match device.program {
            Some(program) if program.id == info.program_id && info.ifindex == options.ifindex => program.mode,
            _ => {
                tracing::info!(
                    interface = options.name,
                    "removing the pin of a filter whose interface is gone"
                );
                bpffs::unpin(path)?;
                return Ok(None);
            }
        };
        match mode {
            XdpMode::Native => Ok(Some((link, Mode::Native))),
            XdpMode::Generic => Ok(Some((link, Mode::Generic))),
            XdpMode::Offloaded => Err(occupied(options, device)),
        }
    }

    fn attach_anew(
        &self,
        options: &InterfaceOptions,
        program: &Filter,
        modes: &[Mode],
        path: &Path,
    ) -> Result<Mode> {
        let device = self.query(options)?;
        if device.program.is_some() {
            return Err(occupied(options, &device));
        }
        for (index, mode) in modes.iter().copied().enumerate() {
            let error = match Link::create(program.fd()?.as_fd(), options.ifindex, mode.flags()) {
                Ok(link) => {
                    link.pin(path).map_err(|source| Error::Pin {
                        doing: "create",
                        path: path.into(),
                        source,
                    })?;
                    return Ok(mode);
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    return Err(Error::Permission { doing: "attach an XDP program", source: error });
                }
                Some(libc::ENODEV) => {
                    return Err(Error::InterfaceGone {
                        name: options.name.clone(),
                        ifindex: options.ifindex,
                    });
                }
                Some(libc::EEXIST | libc::EBUSY) => {
                    let device = self.query(options)?;
                    if device.program.is_some() {
                        return Err(occupied(options, &device));
                    }
                }
                _ => {}
            }
            if index + 1 == modes.len() {
                if let Some(error) = too_old() {
                    return Err(error);
                }
                let hint = match mode {
                    Mode::Native => {
                        "; `xdp = \"auto\"` lets the network stack run it where the driver cannot"
                    }
                    Mode::Generic => "",
                };
                return Err(Error::Attach {
                    name: options.name.clone(),
                    mode: mode.name(),
                    hint,
                    source: error,
                });
            }
            tracing::info!(interface = options.name, %mode, %error, "the driver refuses the filter: falling back");
        }
        unreachable!("there is always a mode to try, and the last one returns")
    }

    /// The slot in which an interface counts. Counters go on if it is the same interface as before.
    fn claim_slot(&mut self, options: &InterfaceOptions) -> Result<u32> {
        let wanted = abi::Slot { ifindex: options.ifindex, name: slot_name(&options.name) };
        let slots = self.read_slots()?;
        let known = slots.iter().position(|slot| slot.ifindex == wanted.ifindex);
        let free = || slots.iter().position(|slot| slot.ifindex == 0);
        let Some(index) = known.or_else(free) else {
            return Err(Error::TooManyInterfaces { name: options.name.clone(), limit: abi::SLOT_COUNT });
        };
        if slots[index] != wanted {
            self.zero_slot(index as u32)?;
            self.slots.set(index as u32, wanted, 0).map_err(map_error("slots", "write"))?;
        }
        Ok(index as u32)
    }

    fn free_slots(&mut self, mut dead: impl FnMut(&abi::Slot) -> bool) -> Result<()> {
        for (index, slot) in self.read_slots()?.iter().enumerate() {
            if slot.ifindex != 0 && dead(slot) {
                self.slots.set(index as u32, abi::Slot::default(), 0).map_err(map_error("slots", "write"))?;
                self.zero_slot(index as u32)?;
            }
        }
        Ok(())
    }

    fn zero_slot(&mut self, slot: u32) -> Result<()> {
        let cpus = self.counters.get(&slot, 0).map_err(map_error("counters", "read"))?.len();
        PerCpuValues::try_from(vec![abi::InterfaceCounters::default(); cpus])
            .map_err(MapError::from)
            .and_then(|zero| self.counters.set(slot, zero, 0))
            .map_err(map_error("counters", "write"))?;

        let heard: Vec<abi::ProbeKey> = self.probes.keys().flatten().filter(|key| key.slot == slot).collect();
        for key in heard {
            match self.probes.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                // The kernel may have evicted it in the meantime.
                Err(error)
                    if os_error(&error).is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {}
                Err(error) => return Err(map_error("probes", "write")(error)),
            }
        }
        Ok(())
    }

    fn read_slots(&self) -> Result<Vec<abi::Slot>> {
        self.slots.iter().collect::<Result<_, _>>().map_err(map_error("slots", "read"))
    }

    /// Loads the program for one interface. The maps are the pinned ones.
    fn load(&self, object: &[u8], options: &InterfaceOptions, slot: u32) -> Result<Filter> {
        let cluster_mac = abi::mac(options.cluster_mac);
        let own_mac = abi::mac(options.own_mac);
        let side = options.side as u8;
        let hash_mode = options.hash as u8;
        let routes = options.side != Side::Service;
        let border = if routes { border_bits(options) } else { 0 };
        let mut loader = EbpfLoader::new();
        if !routes {
            without_router_maps(&mut loader);
        }
        let mut object = loader
            .btf(None)
            .default_map_pin_directory(&self.options.pin_dir)
            .override_global("cluster_mac", &cluster_mac, true)
            .override_global("own_mac", &own_mac, true)
            .override_global("side", &side, true)
            .override_global("border", &border, true)
            .override_global("hash_mode", &hash_mode, true)
            .override_global("hash_seed", &options.seed, true)
            .override_global("cluster_tag", &self.options.cluster_tag, true)
            .override_global("counter_slot", &slot, true)
            .load(object)
            .map_err(|error| classify("load the packet program", error))?;
        if routes {
            fill_router_maps(&mut object, &options.border)?;
        }
        program(&mut object)?.load().map_err(refused)?;
        Ok(Filter { object })
    }
}

fn without_router_maps<'a, 'b>(loader: &'b mut EbpfLoader<'a>) -> &'b mut EbpfLoader<'a> {
    ROUTER_MAPS.iter().fold(loader, |loader, name| loader.map_max_entries(name, 1))
}

fn border_bits(options: &InterfaceOptions) -> u8 {
    let Border { translated, forwards, .. } = &options.border;
    let uses_ports = matches!(options.hash, HashMode::SourceIpPort | HashMode::SourceIpPortDestPort);
    let bit = |set: bool, bit| if set { bit } else { 0 };
    bit(!translated.is_empty(), abi::BORDER_TRANSLATES)
        | bit(!forwards.is_empty(), abi::BORDER_SERVICES)
        | bit(options.border.is_meshed(), abi::BORDER_MESHED)
        | bit(uses_ports || !translated.is_empty() || !forwards.is_empty(), abi::BORDER_FRAGMENTS)
}

/// Before the program is attached, so that no packet meets half of it.
fn fill_router_maps(object: &mut Ebpf, border: &Border) -> Result<()> {
    let bytes = |address| border::mapped(address).to_be_bytes();

    let mut hosts: aya::maps::HashMap<_, abi::HostKey, u8> =
        borrow(object, "hosts", aya::maps::HashMap::try_from)?;
    for address in border.own.iter().chain(&border.translated) {
        let is_translated = border.translated.contains(address);
        let flags = abi::HOST_OWN | if is_translated { abi::HOST_TRANSLATED } else { 0 };
        hosts.insert(bytes(*address), flags, 0).map_err(map_error("hosts", "write"))?;
    }

    let mut services: aya::maps::HashMap<_, abi::ServiceKey, u8> =
        borrow(object, "services", aya::maps::HashMap::try_from)?;
    let key = |protocol, (address, port): (_, u16)| abi::ServiceKey {
        address: bytes(address),
        port: port.to_be_bytes(),
        protocol,
        pad: 0,
    };
    let outer = border.forwards.iter().map(|forward| (forward, forward.outer, abi::SERVICE_OUTER));
    let inner = border.forwards.iter().map(|forward| (forward, forward.inner, abi::SERVICE_INNER));
    for (forward, end, flag) in outer.chain(inner) {
        let key = key(forward.protocol, end);
        // An end may be the inner one of one forward and the outer one of another.
        let flags = services.get(&key, 0).unwrap_or(0) | flag;
        services.insert(key, flags, 0).map_err(map_error("services", "write"))?;
    }

    let mut networks: LpmTrie<_, abi::NetworkKeyData, u8> = borrow(object, "networks", LpmTrie::try_from)?;
    for network in border.inside.iter().chain(&border.sources) {
        let covered =
            |all: &[Network], flag| if all.iter().any(|one| one.covers(network)) { flag } else { 0 };
        let flags =
            covered(&border.inside, abi::NETWORK_INSIDE) | covered(&border.sources, abi::NETWORK_TRANSLATED);
        let key = Key::new(network.mapped_len(), bytes(network.address));
        networks.insert(&key, flags, 0).map_err(map_error("networks", "write"))?;
    }
    Ok(())
}

impl fmt::Debug for Xdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xdp")
            .field("options", &self.options)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

impl Datapath for Xdp {
    fn write_table(&mut self, table: &BucketTable) -> Result<()> {
        if self.lease.load() != self.lease_known {
            return Err(Error::TakenOver);
        }
        self.buckets.set(0, table.to_bytes(), 0).map_err(map_error("buckets", "write"))
    }

    fn write_lease(&mut self, until: LeaseUntil) -> Result<()> {
        if !self.lease.replace(self.lease_known, until) {
            return Err(Error::TakenOver);
        }
        self.lease_known = until;
        Ok(())
    }

    fn write_memo(&mut self, memo: &[u8]) -> Result<()> {
        if self.lease.load() != self.lease_known {
            return Err(Error::TakenOver);
        }
        let mut value = abi::Memo { bytes: memo.len() as u32, data: [0; MEMO_BYTES_MAX] };
        value
            .data
            .get_mut(..memo.len())
            .ok_or(Error::MemoTooLong { bytes: memo.len(), limit: MEMO_BYTES_MAX })?
            .copy_from_slice(memo);
        self.memo.set(0, value, 0).map_err(map_error("memo", "write"))
    }

    fn read_table(&self) -> Result<BucketTable> {
        self.buckets
            .get(&0, 0)
            .map(|bytes| BucketTable::from_bytes(&bytes))
            .map_err(map_error("buckets", "read"))
    }

    fn read_lease(&self) -> Result<LeaseUntil> {
        Ok(self.lease.load())
    }

    fn counters(&self) -> Result<Vec<InterfaceCounters>> {
        let mut all = Vec::new();
        for (index, slot) in self.read_slots()?.iter().enumerate().filter(|(_, slot)| slot.ifindex != 0) {
            let per_cpu = self.counters.get(&(index as u32), 0).map_err(map_error("counters", "read"))?;
            let mut verdicts = [Count::default(); abi::VERDICT_COUNT];
            for (sum, verdict) in verdicts.iter_mut().zip(0..) {
                *sum = per_cpu
                    .iter()
                    .map(|cpu| cpu.verdicts[verdict])
                    .map(|abi::Count { packets, bytes }| Count { packets, bytes })
                    .fold(Count::default(), std::ops::Add::add);
            }
            all.push(InterfaceCounters { ifindex: slot.ifindex, name: name_of(slot), verdicts });
        }
        Ok(all)
    }

    fn bucket_counters(&self) -> Result<Vec<BucketCount>> {
        let per_cpu = self.bucket_counters.get(&0, 0).map_err(map_error("bucket_counters", "read"))?;
        let mut sums = vec![BucketCount::default(); crate::BUCKET_COUNT];
        for cpu in per_cpu.iter() {
            for (sum, count) in sums.iter_mut().zip(&cpu.buckets) {
                sum.seen = sum.seen.wrapping_add(count.seen);
                sum.passed = sum.passed.wrapping_add(count.passed);
            }
        }
        Ok(sums)
    }

    fn probes(&self) -> Result<Vec<ProbeCount>> {
        let slots = self.read_slots()?;
        let mut heard = Vec::new();
        // The filter adds and evicts entries while we read: what a look-up misses is not there any more.
        for (key, value) in self.probes.iter().flatten() {
            if let Some(slot) = slots.get(key.slot as usize).filter(|slot| slot.ifindex != 0) {
                heard.push(value.of(key, slot.ifindex));
            }
        }
        Ok(heard)
    }
}

fn allowed_modes(options: &InterfaceOptions, device: &Device) -> Vec<Mode> {
    let kind = options.driver.as_ref().or(device.kind.as_ref());
    match options.mode {
        AttachMode::Native => vec![Mode::Native],
        AttachMode::Generic => vec![Mode::Generic],
        AttachMode::Auto if kind.is_some_and(|kind| GENERIC_ONLY.contains(&kind.as_str())) => {
            vec![Mode::Generic]
        }
        AttachMode::Auto => vec![Mode::Native, Mode::Generic],
    }
}

fn occupied(options: &InterfaceOptions, device: &Device) -> Error {
    let (program_id, mode, off) = match device.program {
        Some(program) => match program.mode {
            XdpMode::Native => (program.id, "native", "xdpdrv"),
            XdpMode::Generic => (program.id, "generic", "xdpgeneric"),
            XdpMode::Offloaded => (program.id, "offloaded", "xdpoffload"),
        },
        None => (0, "unknown", "xdp"),
    };
    Error::Occupied { name: options.name.clone(), program_id, mode, off }
}

fn slot_name(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    let bytes = name.len().min(15);
    padded[..bytes].copy_from_slice(&name.as_bytes()[..bytes]);
    padded
}

fn name_of(slot: &abi::Slot) -> String {
    let end = slot.name.iter().position(|byte| *byte == 0).unwrap_or(slot.name.len());
    String::from_utf8_lossy(&slot.name[..end]).into_owned()
}

fn take<T>(
    object: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(Map) -> Result<T, MapError>,
) -> Result<T> {
    let map = object.take_map(name).ok_or(MapError::ElementNotFound);
    map.and_then(convert).map_err(map_error(name, "open"))
}

fn borrow<'a, T>(
    object: &'a mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(&'a mut Map) -> Result<T, MapError>,
) -> Result<T> {
    let map = object.map_mut(name).ok_or(MapError::ElementNotFound);
    map.and_then(convert).map_err(map_error(name, "open"))
}

fn as_array_data(map: Map) -> Result<MapData, MapError> {
    match map {
        Map::Array(data) => Ok(data),
        _ => Err(MapError::InvalidMapType { map_type: 0 }),
    }
}

fn program(object: &mut Ebpf) -> Result<&mut aya::programs::Xdp> {
    object
        .program_mut(PROGRAM)
        .ok_or(ProgramError::NotLoaded)
        .and_then(|program| program.try_into())
        .map_err(|error| Error::Object(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_native_only_where_that_works() {
        let options = |mode, driver: Option<&str>| InterfaceOptions {
            ifindex: 1,
            name: "eth0".into(),
            cluster_mac: [0; 6],
            own_mac: [0; 6],
            side: Side::Service,
            hash: HashMode::SourceIp,
            seed: 0,
            border: Border::default(),
            mode,
            driver: driver.map(String::from),
        };
        let device = |kind: Option<&str>| Device { kind: kind.map(String::from), ..Device::default() };
        let auto = |driver, kind| allowed_modes(&options(AttachMode::Auto, driver), &device(kind));
        assert_eq!(auto(None, None), [Mode::Native, Mode::Generic]);
        assert_eq!(auto(None, Some("tun")), [Mode::Native, Mode::Generic]);
        assert_eq!(auto(None, Some("veth")), [Mode::Generic]);
        assert_eq!(auto(Some("virtio_net"), None), [Mode::Native, Mode::Generic]);
        assert_eq!(auto(Some("bonding"), None), [Mode::Generic]);
        assert_eq!(allowed_modes(&options(AttachMode::Native, None), &device(Some("veth"))), [Mode::Native]);
    }

    #[test]
    fn the_filter_asks_only_the_clock_that_goes_on_in_suspend() {
        // On a machine that was never suspended all clocks of the kernel read the same, so look at what is called: an
        // instruction of eight bytes with the helper's number (linux/bpf.h).
        let calls = |helper: i32| {
            let call = [&[0x85, 0, 0, 0], helper.to_ne_bytes().as_slice()].concat();
            OBJECT.chunks_exact(8).filter(|instruction| **instruction == *call).count()
        };
        let (ktime_get_ns, ktime_get_boot_ns, ktime_get_coarse_ns) = (5, 125, 160);
        assert!(calls(ktime_get_boot_ns) >= 2, "for the lease, and for probes");
        assert_eq!((calls(ktime_get_ns), calls(ktime_get_coarse_ns)), (0, 0));
    }

    #[test]
    fn a_long_interface_name_is_cut_not_refused() {
        let slot = abi::Slot { ifindex: 1, name: slot_name("a-name-of-many-bytes") };
        assert_eq!(name_of(&slot), "a-name-of-many-");
    }
}
