//! What a packet costs, as a multiple of a program that just says XDP_DROP.
//!
//! One hot packet at a time through `BPF_PROG_TEST_RUN`; the kinds take turns, so that a noisy machine disturbs all
//! of them alike. The ratios of the minima are the figures to quote.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use aya::{
    Ebpf,
    programs::{TestRun, TestRunOptions},
};
use common::{Bpffs, CLUSTER_MAC, frames::*, interface, lease};
use rudel_datapath::{BucketTable, Datapath, Filter, HashMode, InterfaceOptions, Side, Verdict, Xdp};

/// The filter without some of what it can, to tell what that costs all other packets.
static WITHOUT: [(&str, &[u8]); 5] = [
    ("handovers", aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter_without_handover.bpf.o"))),
    ("probes", aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter_without_probes.bpf.o"))),
    ("setting aside", aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter_without_aside.bpf.o"))),
    // With the clock that stands still in suspend, and with none at all.
    ("suspend", aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter_without_suspend.bpf.o"))),
    ("clock", aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter_without_clock.bpf.o"))),
];

const ROUNDS: usize = 40;
const REPEAT: u32 = 100_000;

/// What is measured, by which filter, on which packet, owned or not, and the verdict that proves it.
type Kind<'a> = (&'a str, &'a Filter, &'a [u8], bool, Option<Verdict>);

fn main() {
    require_bpf!("bench filter");
    // `cargo test --benches` runs this, too, and wants to know only whether it works.
    let quick = !std::env::args().any(|argument| argument == "--bench");
    let (rounds, repeat) = if quick { (1, 10) } else { (ROUNDS, REPEAT) };

    let bpffs = Bpffs::new();
    let mut xdp = Xdp::open(bpffs.options()).expect("open");
    // All repetitions run on one buffer: a filter that writes its own MAC over the cluster's would see a cluster packet
    // once. So both are the same here.
    let mut filter = |hash| {
        let options = InterfaceOptions { own_mac: CLUSTER_MAC, ..interface(Side::Service, hash) };
        xdp.load_filter(&options).expect("load")
    };
    let by_port = filter(HashMode::SourceIpPort);
    let by_address = filter(HashMode::SourceIp);
    let options =
        InterfaceOptions { own_mac: CLUSTER_MAC, ..interface(Side::Service, HashMode::SourceIpPort) };
    let without = WITHOUT.map(|(_, object)| xdp.load_filter_of(object, &options).expect("load"));

    let mut object = Ebpf::load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/baseline.bpf.o")))
        .expect("baseline");
    let baseline: &mut aya::programs::Xdp =
        object.program_mut("baseline").expect("baseline").try_into().expect("an XDP program");
    baseline.load().expect("load the baseline");

    let v4 = ip_frame(&ip(CLIENT4, VIP4, TCP, &tcp_syn(40_000, 80)));
    let v6 = ip_frame(&ip(CLIENT6, VIP6, TCP, &tcp_syn(40_000, 80)));
    let other = frame_to([2; 6], 0x0800, &v4[14..]);
    let mut kinds: Vec<Kind> = vec![
        ("not to the cluster", &by_port, &other, true, None),
        ("ignored, IPv4, source-ip", &by_address, &v4, false, Some(Verdict::Ignored)),
        ("ignored, IPv4, source-ip-port", &by_port, &v4, false, Some(Verdict::Ignored)),
        ("ignored, IPv6, source-ip-port", &by_port, &v6, false, Some(Verdict::Ignored)),
        ("passed, IPv4, source-ip", &by_address, &v4, true, Some(Verdict::Passed)),
        ("passed, IPv4, source-ip-port", &by_port, &v4, true, Some(Verdict::Passed)),
        ("passed, IPv6, source-ip-port", &by_port, &v6, true, Some(Verdict::Passed)),
    ];
    // The same packets by the other filters, in the order of these.
    const COMPARED: [usize; 4] = [2, 3, 5, 6];
    let first = kinds.len();
    for filter in &without {
        for index in COMPARED {
            let (_, _, packet, owned, verdict) = kinds[index];
            kinds.push(("", filter, packet, owned, verdict));
        }
    }

    let mut unit = Vec::new();
    let mut samples = vec![Vec::new(); kinds.len()];
    for _ in 0..rounds {
        let options = TestRunOptions { data_in: Some(&v4), repeat, ..TestRunOptions::default() };
        unit.push(baseline.test_run(options).expect("run the baseline").duration.as_nanos() as u64);
        for ((_, filter, packet, owned, verdict), samples) in kinds.iter().zip(&mut samples) {
            xdp.write_table(if *owned { &BucketTable::OWNED } else { &BucketTable::IGNORED })
                .expect("write_table");
            xdp.write_lease(lease(Duration::from_secs(60))).expect("write_lease");
            let before = xdp.counters().expect("counters")[0].clone();
            samples.push(filter.run(packet, repeat).expect("run").duration_ns);
            if let Some(verdict) = verdict {
                let after = &xdp.counters().expect("counters")[0];
                let counted = after.get(*verdict).packets - before.get(*verdict).packets;
                assert_eq!(counted, u64::from(repeat), "the benchmark measures something else than it says");
            }
        }
    }

    let least = |samples: &[u64]| samples.iter().copied().min().unwrap_or(0);
    let median = |samples: &[u64]| {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    println!("ns per packet, {rounds} rounds of {repeat}; ratio to a bare XDP_DROP of the same run\n");
    println!("{:<35} {:>6} {:>8} {:>7} {:>9}", "", "min", "median", "x min", "x median");
    let unit_line = ("bare XDP_DROP", &unit);
    for (name, samples) in
        std::iter::once(unit_line).chain(kinds[..first].iter().map(|kind| kind.0).zip(&samples))
    {
        println!(
            "{name:<35} {:>6} {:>8} {:>7.2} {:>9.2}",
            least(samples),
            median(samples),
            least(samples) as f64 / least(&unit).max(1) as f64,
            median(samples) as f64 / median(&unit).max(1) as f64,
        );
    }
    println!("\nwhat is there for the few costs all others: ratio to the filter without it");
    println!("{:<34} {:>7} {:>9}", "", "x min", "x median");
    for (part, (name, _)) in WITHOUT.iter().enumerate() {
        for (place, with) in COMPARED.into_iter().enumerate() {
            let without = first + part * COMPARED.len() + place;
            println!(
                "{:<34} {:>7.3} {:>9.3}   {name}: {} : {} ns",
                kinds[with].0,
                least(&samples[with]) as f64 / least(&samples[without]).max(1) as f64,
                median(&samples[with]) as f64 / median(&samples[without]).max(1) as f64,
                median(&samples[with]),
                median(&samples[without]),
            );
        }
    }
    for (name, filter) in [("source-ip", &by_address), ("source-ip-port", &by_port)] {
        if let Some(instructions) = filter.verified_instructions().expect("program info") {
            println!("\nthe verifier walks {instructions} instructions ({name})");
        }
    }
}
