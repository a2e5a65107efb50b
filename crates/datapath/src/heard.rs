//! The probes that were heard, read beside the daemon's door: by a thread that need not disturb the one which has that.

use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, MapError};

use crate::{abi, counters::ProbeCount, error::Result, pins::open_pinned, refusal::map_error};

/// The pinned map of probes, held open. It reads only.
pub struct Heard {
    probes: HashMap<MapData, abi::ProbeKey, abi::ProbeValue>,
    slots: Array<MapData, abi::Slot>,
}

impl Heard {
    /// Opens what [`crate::Xdp::open`] has pinned in `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let probes = Map::LruHashMap(open_pinned(pin_dir, "probes")?);
        let slots = Map::Array(open_pinned(pin_dir, "slots")?);
        Ok(Self {
            probes: HashMap::try_from(probes).map_err(map_error("probes", "open"))?,
            slots: Array::try_from(slots).map_err(map_error("slots", "open"))?,
        })
    }

    /// The last probe of a node, in packets of the family 4 or 6, that an interface has heard; none if there was none, or if too many other senders have
    /// crowded it out. One look-up for each slot: it does not depend on how many senders there are.
    pub fn last(&self, sender: u64, ifindex: u32, family: u32) -> Result<Option<ProbeCount>> {
        for (slot, number) in self.slots.iter().zip(0..) {
            if slot.map_err(map_error("slots", "read"))?.ifindex != ifindex {
                continue;
            }
            let key = abi::ProbeKey { sender, slot: number, family };
            return match self.probes.get(&key, 0) {
                Ok(value) => Ok(Some(value.of(key, ifindex))),
                Err(MapError::KeyNotFound) => Ok(None),
                Err(error) => Err(map_error("probes", "read")(error)),
            };
        }
        Ok(None)
    }
}
