//! The hash in Rust against the vectors of a second implementation. Needs neither root nor clang.

#[path = "common/border.rs"]
mod border;
#[path = "common/vectors.rs"]
#[allow(dead_code)]
mod vectors;

use rudel_datapath::flow::{bucket, jhash};

#[test]
fn key_hash_and_bucket_are_those_of_the_second_implementation() {
    for vector in vectors::all() {
        let place = format!("line {}: {}", vector.line, vector.what);
        let key = vector.flow.key(vector.mode, vector.side);
        assert_eq!(key.as_bytes(), vector.key, "key, {place}");
        if let Some(hash) = vector.hash {
            assert_eq!(jhash(key.as_bytes(), vector.seed), hash, "hash, {place}");
        }
        assert_eq!(
            bucket(&vector.flow, vector.mode, vector.side, vector.seed),
            vector.bucket,
            "bucket, {place}"
        );
    }
}

#[test]
fn a_router_places_flows_as_the_second_implementation_does() {
    for vector in vectors::of_router() {
        let bucket = border::border().bucket(&vector.flow, vector.mode, vector.side, vector.seed);
        assert_eq!(bucket, vector.bucket, "line {}: {} {}", vector.line, vector.what, vector.mode);
    }
}

#[test]
fn the_vectors_reach_every_bucket_class() {
    let buckets: std::collections::HashSet<u8> = vectors::all().iter().map(|vector| vector.bucket).collect();
    assert!(buckets.len() > 200, "only {} buckets", buckets.len());
}

/// Hashes by which nftables has spread real flows, for keys that this crate does not make, too.
#[test]
fn the_kernel_s_own_hashes() {
    let known: [(&[u8], u32); 4] = [
        (&[10, 99, 16, 5], 0x2290_2feb),
        (&[10, 99, 16, 5, 0x9c, 0x40, 0, 0], 0x15af_28c4),
        (&[6, 0, 0, 0, 10, 99, 16, 5, 0x9c, 0x40, 0, 0], 0xc3b9_3512),
        (&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0xbb, 0, 0], 0x86f8_3926),
    ];
    for (key, hash) in known {
        assert_eq!(jhash(key, 12_345), hash, "{key:02x?}");
    }
}
