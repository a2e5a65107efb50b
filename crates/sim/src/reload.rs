//! What administrators do to the terms that all nodes live by: one node after the other, or half of them, or back again.

use rudel_proto::Terms;

use crate::rng::Rng;

/// The longest time-out that comes into force, in time-outs of the settings.
pub(crate) const STRETCH: u32 = 2;
/// How many kinds of terms there are besides those of the settings.
const KINDS: u64 = 5;

/// Other terms than these, of one of a few kinds. Alike for all nodes that get the same kind: a digest has one meaning.
fn terms(kind: u64, nodes: usize, base: Terms) -> Terms {
    let majority = nodes / 2 + 1;
    let is_strict = base.quorum * 2 > nodes;
    let (timeout, interval) = match kind {
        // Addresses alone.
        0 => (base.timeout, base.interval),
        1 => (base.timeout * STRETCH, base.interval),
        2 => (base.timeout * STRETCH, base.timeout / 4),
        // Without a majority the world excuses what its own timers explain, and shorter ones would be excused for ever.
        3 if is_strict => (base.timeout / 2, base.interval / 2),
        _ => (base.timeout, base.interval),
    };
    let quorum = match (kind, is_strict) {
        (4, true) => (majority + 1).min(nodes),
        (4, false) => base.quorum + 1,
        _ => base.quorum,
    };
    let other = Terms { digest: kind + 1, quorum: quorum.min(nodes), timeout, interval };
    if other.validate().is_ok() { other } else { Terms { digest: kind + 1, ..base } }
}

/// Which nodes get which terms after which time. Most often all get the same, one after the other; sometimes some do
/// not, or get what they had before.
pub(crate) fn rolling(rng: &mut Rng, nodes: usize, base: Terms) -> Vec<(u64, usize, Terms)> {
    let timeout = u64::try_from(base.timeout.as_nanos()).unwrap_or(u64::MAX);
    let new = match rng.below(KINDS + 1) {
        KINDS => base,
        kind => terms(kind, nodes, base),
    };
    let spread = rng.pick(&[0, timeout / 10, timeout, 4 * timeout]);
    let forgotten = if rng.chance(250_000) { Some(rng.index(nodes)) } else { None };
    let taken_back = if rng.chance(250_000) { Some(rng.index(nodes)) } else { None };
    let mut deeds = Vec::new();
    for node in (0..nodes).filter(|node| Some(*node) != forgotten) {
        let pause = rng.below(spread + 1);
        deeds.push((pause, node, new));
        if Some(node) == taken_back {
            deeds.push((pause + rng.below(timeout), node, base));
        }
    }
    deeds
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_kind_can_be_lived_by() {
        for (timeout, interval) in [(400, 50), (400, 130), (20, 5), (2000, 100)] {
            let base = Terms {
                digest: 0,
                quorum: 2,
                timeout: Duration::from_millis(timeout),
                interval: Duration::from_millis(interval),
            };
            for nodes in [2, 3, 32] {
                for kind in 0..KINDS {
                    let terms = terms(kind, nodes, base);
                    assert_eq!(terms.validate(), Ok(()), "{terms:?}");
                    assert!(terms.timeout <= base.timeout * STRETCH);
                }
            }
        }
    }
}
