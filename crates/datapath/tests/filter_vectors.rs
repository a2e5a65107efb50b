//! The hash in the packet program against the vectors of a second implementation.

mod common;
#[path = "common/vectors.rs"]
#[allow(dead_code)]
mod vectors;

use std::collections::BTreeMap;

use common::{Bpffs, frames::ip_frame, interface};
use rudel_datapath::{Border, Datapath, HashMode, InterfaceOptions, Side, Xdp};

#[test]
fn packets_of_a_flow_count_in_its_bucket() {
    require_bpf!("packets_of_a_flow_count_in_its_bucket");
    assert_eq!(
        count_in_their_buckets(vectors::all(), &Border::default()),
        Side::ALL.len() * HashMode::ALL.len()
    );
}

#[test]
fn packets_on_a_router_count_in_their_flow_s_bucket() {
    require_bpf!("packets_on_a_router_count_in_their_flow_s_bucket");
    assert_eq!(
        count_in_their_buckets(vectors::of_router(), &common::border::border()),
        2 * HashMode::ALL.len()
    );
}

/// Returns how many programs the vectors were for.
fn count_in_their_buckets(all: Vec<vectors::Vector>, border: &Border) -> usize {
    let mut programs: BTreeMap<(&str, &str, u32), Vec<vectors::Vector>> = BTreeMap::new();
    for vector in all {
        programs.entry((vector.side.name(), vector.mode.name(), vector.seed)).or_default().push(vector);
    }
    let count = programs.len();
    let bpffs = Bpffs::new();
    let mut xdp = Xdp::open(bpffs.options()).expect("open");
    for vectors in programs.into_values() {
        let options = InterfaceOptions {
            seed: vectors[0].seed,
            border: border.clone(),
            ..interface(vectors[0].side, vectors[0].mode)
        };
        let filter = xdp.load_filter(&options).expect("load");
        for vector in vectors {
            let before = xdp.bucket_counters().expect("bucket_counters");
            filter.run(&ip_frame(&vector.packet), 1).expect("run");
            let after = xdp.bucket_counters().expect("bucket_counters");
            let counted: Vec<u8> =
                (0..=u8::MAX).filter(|bucket| after[*bucket as usize] != before[*bucket as usize]).collect();
            assert_eq!(
                counted,
                [vector.bucket],
                "line {}: {}, {} {}",
                vector.line,
                vector.what,
                vector.side,
                vector.mode
            );
        }
    }
    count
}
