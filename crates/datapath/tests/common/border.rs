//! What the routers of tests have around them.

use rudel_datapath::{
    Border,
    border::{Forward, Network},
};

/// The surroundings of a router with everything that one can have; tests/vectors/make.py has them, too.
pub(crate) fn border() -> Border {
    let address = |text: &str| text.parse().expect("an address");
    let network = |text: &str, prefix_len| Network { address: address(text), prefix_len };
    let forward = |protocol, outer: (&str, u16), inner: (&str, u16)| Forward {
        protocol,
        outer: (address(outer.0), outer.1),
        inner: (address(inner.0), inner.1),
    };
    Border {
        own: ["10.0.0.1", "10.1.0.1", "198.51.100.1", "2001:db8:51::1", "fd00::1"].map(address).into(),
        translated: ["198.51.100.10", "198.51.100.11", "2001:db8:51::10"].map(address).into(),
        sources: vec![network("10.0.0.0", 8), network("fd00::", 8)],
        inside: vec![
            network("10.0.0.0", 16),
            network("10.1.0.0", 16),
            network("fd00::", 64),
            network("fd00:1::", 64),
        ],
        forwards: vec![
            forward(6, ("198.51.100.10", 443), ("10.1.0.5", 8443)),
            forward(17, ("198.51.100.11", 5000), ("10.1.0.5", 53)),
            forward(6, ("2001:db8:51::10", 443), ("fd00:1::5", 8443)),
        ],
    }
}
