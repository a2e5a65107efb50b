//! Who gets how many buckets, and which: exact quotas that move as little as can be.
//!
//! Two promises (L2 and L3 of `docs/protocol.md`): a node's share is its weight's share to within one bucket,
//! and a change moves only what the balance needs. Where rounding leaves a choice of who gets a bucket more,
//! the choice falls on whoever has it already.

use crate::bucket::BUCKET_COUNT;
use crate::id::NodeId;

/// The owner of each bucket; `None` is an orphan.
pub type Owners = [Option<NodeId>; BUCKET_COUNT];

/// Nobody owns anything: what the first view starts from.
pub const NOBODY: Owners = [None; BUCKET_COUNT];

/// A node among which the buckets are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub id: NodeId,
    /// Its weight, 0 to 1000; its share is this over the sum of all weights.
    pub weight: u16,
    /// Whether it can take buckets that it does not own yet. Who cannot keeps at most what it has.
    pub gains: bool,
}

/// Deals the 256 buckets out among `candidates`, starting from `previous`.
///
/// Buckets of nodes that are no candidates, and orphans, go to those below their quota; nobody else loses
/// more than it is over its quota. If no candidate has a weight, nothing moves, and only the buckets of nodes
/// that are no candidates become orphans. The result depends on nothing but the arguments; candidates must
/// be sorted by `id` if all nodes are to compute the same.
pub fn assign(previous: &Owners, candidates: &[Candidate]) -> Owners {
    let index = |id: NodeId| candidates.iter().position(|c| c.id == id);
    let mut owners = *previous;
    let mut held = vec![0usize; candidates.len()];
    for owner in &mut owners {
        match owner.and_then(index) {
            Some(i) => held[i] += 1,
            None => *owner = None,
        }
    }
    let quotas = quotas(candidates, &held);

    let mut surplus: Vec<usize> = held.iter().zip(&quotas).map(|(h, q)| h.saturating_sub(*q)).collect();
    // From the top, so that bucket 0, where the hash mode `none` puts everything, stays where it is.
    for owner in owners.iter_mut().rev() {
        if let Some(i) = owner.and_then(index)
            && surplus[i] > 0
        {
            surplus[i] -= 1;
            *owner = None;
        }
    }
    let mut lack: Vec<usize> = held.iter().zip(&quotas).map(|(h, q)| q.saturating_sub(*h)).collect();
    let mut next = 0;
    for owner in &mut owners {
        if owner.is_some() {
            continue;
        }
        // In turn, so that neighbouring buckets of one dead node spread over the survivors.
        let Some(i) = (0..lack.len()).map(|k| (next + k) % lack.len()).find(|i| lack[*i] > 0) else {
            break;
        };
        lack[i] -= 1;
        next = i + 1;
        *owner = Some(candidates[i].id);
    }
    owners
}

/// How many buckets each candidate is to have; `held` is how many it has.
///
/// Every quota is the exact share rounded down or up. Who cannot gain and holds less than its share keeps
/// that, and the rest is shared out among the others.
fn quotas(candidates: &[Candidate], held: &[usize]) -> Vec<usize> {
    let mut quotas: Vec<Option<usize>> =
        candidates.iter().map(|c| if c.weight == 0 { Some(0) } else { None }).collect();
    if quotas.iter().all(Option::is_some) {
        return held.to_vec();
    }
    loop {
        let open: Vec<usize> = (0..candidates.len()).filter(|i| quotas[*i].is_none()).collect();
        let buckets = BUCKET_COUNT - quotas.iter().flatten().sum::<usize>();
        let weights: usize = open.iter().map(|i| usize::from(candidates[*i].weight)).sum();
        if open.is_empty() {
            break;
        }
        let floor = |i: usize| buckets * usize::from(candidates[i].weight) / weights;
        let rest = |i: usize| buckets * usize::from(candidates[i].weight) % weights;

        // Fix those who hold less than even the floor of their share and cannot gain; the others share again.
        let stuck: Vec<usize> =
            open.iter().copied().filter(|i| !candidates[*i].gains && held[*i] < floor(*i)).collect();
        if !stuck.is_empty() {
            for i in stuck {
                quotas[i] = Some(held[i]);
            }
            continue;
        }
        let mut spare = buckets - open.iter().map(|i| floor(*i)).sum::<usize>();
        // Who gets one more: first those that hold it already (it need not move), then those that gain anyway,
        // last those that hold exactly the floor; the greater remainder first within each.
        let mut order: Vec<usize> = open
            .iter()
            .copied()
            .filter(|i| rest(*i) > 0 && (candidates[*i].gains || held[*i] > floor(*i)))
            .collect();
        order.sort_by_key(|i| {
            let class = match held[*i].cmp(&floor(*i)) {
                std::cmp::Ordering::Greater => 0,
                std::cmp::Ordering::Less => 1,
                std::cmp::Ordering::Equal => 2,
            };
            (class, std::cmp::Reverse(rest(*i)), candidates[*i].id)
        });
        for i in &open {
            quotas[*i] = Some(floor(*i));
        }
        for i in order {
            if spare > 0 {
                spare -= 1;
                quotas[i] = Some(floor(i) + 1);
            }
        }
        break;
    }
    quotas.into_iter().map(|q| q.unwrap_or(0)).collect()
}

/// How many buckets of `owners` belong to `id`.
pub fn count(owners: &Owners, id: NodeId) -> usize {
    owners.iter().filter(|owner| **owner == Some(id)).count()
}

/// How many buckets have another owner in `after` than in `before`.
pub fn moved(before: &Owners, after: &Owners) -> usize {
    before.iter().zip(after).filter(|(b, a)| b != a).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(n: u64) -> NodeId {
        NodeId::from_u64(n)
    }

    fn candidates(weights: &[u16]) -> Vec<Candidate> {
        weights
            .iter()
            .enumerate()
            .map(|(i, weight)| Candidate { id: node(i as u64 + 1), weight: *weight, gains: true })
            .collect()
    }

    #[test]
    fn three_equal_nodes_get_a_third_each() {
        let owners = assign(&NOBODY, &candidates(&[100, 100, 100]));
        let mut counts: Vec<usize> = (1..=3).map(|n| count(&owners, node(n))).collect();
        counts.sort_unstable();
        assert_eq!(counts, [85, 85, 86]);
    }

    #[test]
    fn weights_are_shares() {
        let owners = assign(&NOBODY, &candidates(&[100, 300, 0]));
        assert_eq!([1, 2, 3].map(|n| count(&owners, node(n))), [64, 192, 0]);
    }

    #[test]
    fn a_leave_moves_only_the_leavers_buckets_and_spreads_them_evenly() {
        let all = candidates(&[100, 100, 100, 100]);
        let before = assign(&NOBODY, &all);
        let after = assign(&before, &all[..3]);
        for (b, a) in before.iter().zip(&after) {
            assert!(b == a || *b == Some(node(4)));
        }
        for n in 1..=3 {
            assert!((85..=86).contains(&count(&after, node(n))));
        }
    }

    #[test]
    fn a_join_moves_only_what_the_joiner_gets() {
        let all = candidates(&[100, 100, 100, 100]);
        let before = assign(&NOBODY, &all[..3]);
        let after = assign(&before, &all);
        assert_eq!(moved(&before, &after), 64);
        assert_eq!(count(&after, node(4)), 64);
    }

    #[test]
    fn joiners_leave_bucket_0_where_it_is() {
        let all = candidates(&[100; 8]);
        let mut owners = assign(&NOBODY, &all[..1]);
        for n in 2..=8 {
            owners = assign(&owners, &all[..n]);
            assert_eq!(owners[0], Some(node(1)));
        }
    }

    #[test]
    fn who_cannot_gain_keeps_what_it_has_and_the_others_share_the_rest() {
        let mut all = candidates(&[100, 100, 100]);
        all[2].gains = false;
        let owners = assign(&NOBODY, &all);
        assert_eq!([1, 2, 3].map(|n| count(&owners, node(n))), [128, 128, 0]);
        all[2].gains = true;
        let owners = assign(&owners, &all);
        assert!((85..=86).contains(&count(&owners, node(3))));
    }

    #[test]
    fn without_any_weight_nothing_moves() {
        let before = assign(&NOBODY, &candidates(&[100, 100]));
        assert_eq!(assign(&before, &candidates(&[0, 0])), before);
        let after = assign(&before, &candidates(&[0]));
        assert_eq!(count(&after, node(1)), 128);
        assert_eq!(count(&after, node(2)), 0);
    }

    proptest! {
        #[test]
        fn quotas_are_exact_and_changes_move_the_least(
            weights in prop::collection::vec(0u16..=1000, 1..32),
            changes in prop::collection::vec((0usize..32, 0u16..=1000), 0..12),
        ) {
            let mut weights = weights;
            let mut before = NOBODY;
            for (i, weight) in std::iter::once((0, weights[0])).chain(changes) {
                let i = i % weights.len();
                weights[i] = weight;
                let all = candidates(&weights);
                let total: usize = weights.iter().map(|w| usize::from(*w)).sum();
                let after = assign(&before, &all);
                if total == 0 {
                    prop_assert_eq!(moved(&before, &after), 0);
                    continue;
                }
                let mut least = 0;
                for c in &all {
                    let share = BUCKET_COUNT * usize::from(c.weight);
                    let (floor, ceil) = (share / total, share.div_ceil(total));
                    let (had, has) = (count(&before, c.id), count(&after, c.id));
                    prop_assert!((floor..=ceil).contains(&has), "{has} of {floor}..={ceil}");
                    least += has.saturating_sub(had);
                    // Nobody loses a bucket while it gains another.
                    let lost = before.iter().zip(&after).filter(|(b, a)| **b == Some(c.id) && b != a).count();
                    prop_assert_eq!(lost, had.saturating_sub(has));
                }
                prop_assert_eq!(moved(&before, &after), least);
                before = after;
            }
        }

        #[test]
        fn equal_nodes_joining_and_leaving_move_only_their_own(sequence in prop::collection::vec(0usize..16, 1..40)) {
            let mut present = [true; 16];
            let pool = candidates(&[100; 16]);
            let mut before = assign(&NOBODY, &pool);
            for i in sequence {
                present[i] = !present[i];
                let members: Vec<Candidate> =
                    pool.iter().zip(present).filter(|(_, p)| *p).map(|(c, _)| *c).collect();
                if members.is_empty() {
                    present[i] = true;
                    continue;
                }
                let after = assign(&before, &members);
                for (b, a) in before.iter().zip(&after) {
                    prop_assert!(b == a || *b == Some(pool[i].id) || *a == Some(pool[i].id));
                }
                before = after;
            }
        }
    }
}
