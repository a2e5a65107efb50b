//! Keeps the cluster's table in place. The commonest way to load an administrator's rules begins with `flush ruleset`,
//! and that takes ours away, too: then inside hosts would go out with addresses that nobody answers.

use std::io;

use super::conntrack::{generation, insert_failed};
use crate::host::nft::{self, Ruleset};

/// What a look has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// The table was gone or changed, and was loaded again.
    pub restored: bool,
    /// Connections that were refused an entry since the guard began, nearly always for want of a free port.
    pub refused: u64,
}

/// Looks after a table that is in place.
#[derive(Debug)]
pub struct Guard {
    ruleset: Ruleset,
    listing: Option<String>,
    generation: u32,
    refused_before: u64,
}

impl Guard {
    /// Begins, with the table just loaded.
    ///
    /// # Errors
    /// What nft or netlink says.
    pub fn new(ruleset: Ruleset) -> io::Result<Self> {
        // In this order: a change after the first is seen as one.
        let generation = generation()?;
        let listing = nft::list(&ruleset.table)?;
        // Without connection tracking nothing is refused by it.
        let refused_before = insert_failed().unwrap_or(0);
        Ok(Self { ruleset, listing, generation, refused_before })
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.ruleset.table
    }

    /// Looks. Costs one question to the kernel if nobody has changed any table; then some tens of milliseconds.
    ///
    /// # Errors
    /// What nft or netlink says. It is looked again the next time.
    pub fn look(&mut self) -> io::Result<Finding> {
        let refused = insert_failed().unwrap_or(0).saturating_sub(self.refused_before);
        let mut finding = Finding { restored: false, refused };
        let now = generation()?;
        if now == self.generation {
            return Ok(finding);
        }
        if nft::list(&self.ruleset.table)? != self.listing || self.listing.is_none() {
            nft::load(&self.ruleset)?;
            finding.restored = true;
            let refused_before = self.refused_before;
            *self = Self { refused_before, ..Self::new(self.ruleset.clone())? };
        } else {
            self.generation = now;
        }
        Ok(finding)
    }
}
