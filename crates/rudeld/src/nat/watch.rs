//! The guard at work beside the daemon's other work, and what people are told of it. `nft` may take its time: where
//! others change their tables every second, it is asked every second.

use std::io;
use std::time::{Duration, Instant};

use rudel_api::event::EventKind;

use super::guard::{Finding, Guard};
use crate::errand::Errand;
use crate::host::nft::{self, Ruleset};

/// Connections that find no port are told of once in this time.
const REFUSED_TOLD_EVERY: Duration = Duration::from_secs(60);

/// Looks after the cluster's table, and after connections that find no port.
#[derive(Debug)]
pub struct Watch {
    /// The table's full name.
    table: String,
    /// There is a block of ports for each bucket.
    translates: bool,
    /// Here while it does not look.
    guard: Option<Guard>,
    looking: Errand<(Guard, io::Result<Finding>)>,
    /// Connections that found no port: so far, and when how many of them were told of.
    refused: u64,
    refused_told: Option<(Instant, u64)>,
}

impl Watch {
    /// Begins, with the table just loaded.
    ///
    /// # Errors
    /// What nft or netlink says.
    pub fn new(ruleset: Ruleset, translates: bool) -> io::Result<Self> {
        Ok(Watch {
            table: nft::full_name(&ruleset.table),
            translates,
            guard: Some(Guard::new(ruleset)?),
            looking: Errand::default(),
            refused: 0,
            refused_told: None,
        })
    }

    /// The table's full name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Connections that found no port so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Begins a look, unless one is under way. Inside of the runtime.
    pub fn look(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            self.looking.begin(move || {
                let found = guard.look();
                (guard, found)
            });
        }
    }

    /// Waits for the end of a look that is under way, and returns what people should know. Nothing is lost where the wait
    /// is given up.
    pub async fn news(&mut self) -> Vec<(EventKind, String)> {
        let Some((guard, found)) = self.looking.outcome().await else {
            tracing::error!(table = %self.table, "the cluster's table in nftables is not looked after any more: run `rudel restart`");
            return Vec::new();
        };
        self.guard = Some(guard);
        match found {
            Ok(found) => self.hear(&found, Instant::now()),
            Err(error) => {
                tracing::warn!(table = %self.table, %error, "cannot look after the cluster's table in nftables: if it is gone, run `rudel restart`");
                Vec::new()
            }
        }
    }

    /// Waits until nothing is changed any more: what is taken down is not to be put back by a look that is under way.
    pub async fn rest(mut self) {
        if !self.looking.is_idle() {
            self.looking.outcome().await;
        }
    }

    fn hear(&mut self, found: &Finding, now: Instant) -> Vec<(EventKind, String)> {
        let mut news = Vec::new();
        if found.restored {
            let reason = format!(
                "the table {} was gone or changed, and is loaded again: whatever loads this host's rules should leave it \
                 alone (`flush ruleset` does not)",
                self.table
            );
            news.push((EventKind::Restored, reason));
        }
        self.refused = found.refused;
        let told = self.refused_told.map_or(0, |(_, count)| count);
        let is_time = self.refused_told.is_none_or(|(at, _)| now.duration_since(at) >= REFUSED_TOLD_EVERY);
        if self.translates && found.refused > told && is_time {
            let reason = format!(
                "{} connections were refused, nearly always for want of a free port: each bucket has {} ports for each \
                 destination on each address of [nat]; add addresses, or hash the ports",
                found.refused - told,
                rudel_datapath::border::BLOCK_PORTS
            );
            news.push((EventKind::PortsExhausted, reason));
            self.refused_told = Some((now, found.refused));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_find_no_port_are_told_of_once_a_minute() {
        let mut watch = Watch {
            table: "inet rudel_web".into(),
            translates: true,
            guard: None,
            looking: Errand::default(),
            refused: 0,
            refused_told: None,
        };
        let begin = Instant::now();
        let mut told = |second, refused| {
            let found = Finding { restored: false, refused };
            let news = watch.hear(&found, begin + Duration::from_secs(second));
            news.into_iter().map(|(kind, reason)| (kind, reason[..3].to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(told(0, 0), []);
        assert_eq!(told(1, 12), [(EventKind::PortsExhausted, "12 ".to_owned())]);
        assert_eq!(told(60, 15), []);
        assert_eq!(told(61, 15), [(EventKind::PortsExhausted, "3 c".to_owned())]);
        assert_eq!(told(200, 15), []);
        watch.translates = false;
        assert_eq!(watch.hear(&Finding { restored: true, refused: 99 }, begin).len(), 1);
    }
}
