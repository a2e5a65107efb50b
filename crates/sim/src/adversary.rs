//! An outsider on the wire: it hears everything, has no key, and sends what it likes.

use crate::rng::Rng;

/// Datagrams that it remembers.
const MEMORY_MAX: usize = 512;

/// Records datagrams, and sends them again as they were or changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adversary {
    /// Datagrams per interval; zero while it rests.
    pub(crate) rate: u32,
    recorded: Vec<Vec<u8>>,
}

impl Adversary {
    /// A datagram passes by.
    pub(crate) fn overhear(&mut self, rng: &mut Rng, datagram: &[u8]) {
        if self.recorded.len() < MEMORY_MAX {
            self.recorded.push(datagram.to_vec());
        } else if rng.chance(200_000) {
            // Some stay for ever, so that recordings of the long dead are among them.
            let index = rng.index(MEMORY_MAX);
            self.recorded[index] = datagram.to_vec();
        }
    }

    /// What it sends next.
    pub(crate) fn strike(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        if self.recorded.is_empty() {
            return None;
        }
        let recent = self.recorded.len().saturating_sub(4);
        let index = if rng.chance(300_000) { recent } else { rng.index(self.recorded.len()) };
        let mut datagram = self.recorded[index].clone();
        match rng.below(8) {
            0 => {
                let at = rng.index(datagram.len());
                datagram[at] ^= 1 << rng.below(8);
            }
            1 => datagram.truncate(rng.index(datagram.len())),
            2 => datagram.push(rng.bits() as u8),
            3 => {
                // The head of one with the body of another.
                let other = &self.recorded[rng.index(self.recorded.len())];
                let cut = rng.index(datagram.len().min(other.len()));
                datagram.truncate(cut);
                datagram.extend_from_slice(&other[cut..]);
            }
            _ => {}
        }
        Some(datagram)
    }
}
