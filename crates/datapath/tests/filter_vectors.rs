//! The hash in the packet program against the vectors of a second implementation.

mod common;
#[path = "common/vectors.rs"]
#[allow(dead_code)]
mod vectors;

use std::collections::BTreeMap;

use common::{Bpffs, frames::ip_frame, interface};
use rudel_datapath::{Datapath, HashMode, InterfaceOptions, Side, Xdp};

#[test]
fn packets_of_a_flow_count_in_its_bucket() {
    require_bpf!("packets_of_a_flow_count_in_its_bucket");
    let mut programs: BTreeMap<(&str, &str, u32), Vec<vectors::Vector>> = BTreeMap::new();
    for vector in vectors::all() {
        programs.entry((vector.side.name(), vector.mode.name(), vector.seed)).or_default().push(vector);
    }
    assert!(programs.len() >= Side::ALL.len() * HashMode::ALL.len());

    let bpffs = Bpffs::new();
    let mut xdp = Xdp::open(bpffs.options()).expect("open");
    for vectors in programs.into_values() {
        let options =
            InterfaceOptions { seed: vectors[0].seed, ..interface(vectors[0].side, vectors[0].mode) };
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
}
