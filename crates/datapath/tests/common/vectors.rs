//! The rows of `tests/vectors/flow_hash.tsv` and `router.tsv`.

use rudel_datapath::{Flow, HashMode, Side};

/// A flow, a packet of it, and what a second implementation says of them.
pub(crate) struct Vector {
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) side: Side,
    pub(crate) mode: HashMode,
    pub(crate) seed: u32,
    pub(crate) flow: Flow,
    pub(crate) key: Vec<u8>,
    pub(crate) hash: Option<u32>,
    pub(crate) bucket: u8,
    /// From the IP header on.
    pub(crate) packet: Vec<u8>,
}

/// On an interface with nothing around it.
pub(crate) fn all() -> Vec<Vector> {
    read(include_str!("../vectors/flow_hash.tsv"))
}

/// On a router that has around it what `border()` says.
pub(crate) fn of_router() -> Vec<Vector> {
    read(include_str!("../vectors/router.tsv"))
}

fn read(table: &str) -> Vec<Vector> {
    let vectors: Vec<Vector> =
        table.lines().enumerate().skip(1).map(|(at, row)| parse(at + 1, row)).collect();
    assert!(vectors.len() > 500, "only {} vectors", vectors.len());
    vectors
}

fn parse(line: usize, row: &str) -> Vector {
    let fields: Vec<&str> = row.split('\t').collect();
    let [what, side, mode, seed, protocol, src, src_port, dst, dst_port, key, hash, bucket, packet] =
        fields[..]
    else {
        panic!("line {line}: {} fields", fields.len());
    };
    let port = |text: &str| (text != "-").then(|| text.parse().expect("a port"));
    Vector {
        line,
        what: what.into(),
        side: side.parse().expect("a side"),
        mode: mode.parse().expect("a hash mode"),
        seed: seed.parse().expect("a seed"),
        flow: Flow {
            protocol: protocol.parse().expect("a protocol"),
            src: src.parse().expect("an address"),
            src_port: port(src_port),
            dst: dst.parse().expect("an address"),
            dst_port: port(dst_port),
        },
        key: bytes(key),
        hash: (hash != "-").then(|| u32::from_str_radix(hash, 16).expect("a hash")),
        bucket: bucket.parse().expect("a bucket"),
        packet: bytes(packet),
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex = if hex == "-" { "" } else { hex };
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}
