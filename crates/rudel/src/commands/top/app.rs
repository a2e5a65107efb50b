//! What the screen shows, as a value: looks, keys and outcomes go in, wishes come out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use rudel_api::snapshot::{Node, Packets, Snapshot};

/// Looks that the curve remembers.
const CURVE_MAX: usize = 600;
/// How long the outcome of an order is shown.
const OUTCOME_SHOWN: Duration = Duration::from_secs(15);

/// What the user wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    End,
    Order(Order),
}

/// A drain, or its end, of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) node: String,
    pub(super) drains: bool,
}

/// What lies over the screen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Overlay {
    None,
    Help,
    /// It is asked whether this is really wanted.
    Confirm(Order),
}

/// Packets per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) seen: f64,
    pub(super) passed: f64,
}

/// Datagrams per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PulseRates {
    pub(super) sent: f64,
    pub(super) received: f64,
}

/// Connections per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct SyncRates {
    pub(super) told: f64,
    pub(super) heard: f64,
}

pub(super) struct App {
    pub(super) snapshot: Option<Snapshot>,
    /// Why there is no newer snapshot, and since when.
    pub(super) lost: Option<(String, Instant)>,
    /// By interface; none before the second look.
    pub(super) rates: BTreeMap<String, Rates>,
    pub(super) pulse_rates: Option<PulseRates>,
    pub(super) sync_rates: Option<SyncRates>,
    /// Packets per second on all interfaces, look by look.
    pub(super) curve: VecDeque<u64>,
    pub(super) every: Duration,
    pub(super) overlay: Overlay,
    /// The chosen node.
    pub(super) chosen: Option<String>,
    /// What became of the last order, and whether it was done.
    pub(super) outcome: Option<(String, bool)>,
    outcome_until: Option<Instant>,
    pub(super) colours: bool,
    pub(super) now: Instant,
    /// Names in the order in which they came: a node keeps its letter and colour though others come and go.
    names: Vec<String>,
    looked: Option<Instant>,
    /// What all names of nodes end with, from a dot on: it tells nobody apart.
    domain: String,
}

impl App {
    pub(super) fn new(every: Duration, colours: bool) -> Self {
        App {
            snapshot: None,
            lost: None,
            rates: BTreeMap::new(),
            pulse_rates: None,
            sync_rates: None,
            curve: VecDeque::new(),
            every,
            overlay: Overlay::None,
            chosen: None,
            outcome: None,
            outcome_until: None,
            colours,
            now: Instant::now(),
            names: Vec::new(),
            looked: None,
            domain: String::new(),
        }
    }

    pub(super) fn handle_look(&mut self, look: Result<Snapshot, String>, now: Instant) {
        self.handle_time(now);
        match look {
            Ok(snapshot) => {
                self.measure(&snapshot, now);
                let owners = snapshot.buckets.owners.iter().flatten();
                for name in snapshot.nodes.iter().map(|node| &node.name).chain(owners) {
                    if !self.names.contains(name) {
                        self.names.push(name.clone());
                    }
                }
                if self.chosen.as_ref().is_none_or(|chosen| !snapshot.nodes.iter().any(|n| n.name == *chosen))
                {
                    self.chosen = Some(snapshot.node.clone());
                }
                self.lost = None;
                self.domain = common_domain(&snapshot.nodes);
                self.snapshot = Some(snapshot);
            }
            Err(error) => {
                // The age of the first failure is how long nothing is known.
                let since = self.lost.take().map_or(now, |(_, since)| since);
                self.lost = Some((error, since));
                // What was counted meanwhile belongs to no second that was looked at.
                self.looked = None;
                self.rates.clear();
                (self.pulse_rates, self.sync_rates) = (None, None);
            }
        }
    }

    /// Rates since the look before; counters that fell belong to a daemon or a filter that has begun anew.
    fn measure(&mut self, snapshot: &Snapshot, now: Instant) {
        let looked = self.looked.replace(now);
        let (Some(before), Some(looked)) = (&self.snapshot, looked) else {
            return;
        };
        let seconds = (now - looked).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let rate = |before: u64, after: u64| after.checked_sub(before).map(|n| n as f64 / seconds);
        let rates = |before: Packets, after: Packets| {
            Some(Rates { seen: rate(before.seen, after.seen)?, passed: rate(before.passed, after.passed)? })
        };
        self.rates = snapshot
            .interfaces
            .iter()
            .filter_map(|interface| {
                let former = before.interfaces.iter().find(|former| former.name == interface.name)?;
                Some((interface.name.clone(), rates(former.packets, interface.packets)?))
            })
            .collect();
        self.pulse_rates =
            before.pulses.as_ref().zip(snapshot.pulses.as_ref()).and_then(|(before, after)| {
                Some(PulseRates {
                    sent: rate(before.sent, after.sent)?,
                    received: rate(before.received, after.received)?,
                })
            });
        self.sync_rates = before.sync.as_ref().zip(snapshot.sync.as_ref()).and_then(|(before, after)| {
            Some(SyncRates {
                told: rate(before.records_sent, after.records_sent)?,
                heard: rate(before.records_received, after.records_received)?,
            })
        });
        if !self.rates.is_empty() {
            self.curve.push_back(self.rates.values().map(|rates| rates.seen).sum::<f64>().round() as u64);
            if self.curve.len() > CURVE_MAX {
                self.curve.pop_front();
            }
        }
    }

    pub(super) fn handle_ordered(&mut self, sentence: String, done: bool, now: Instant) {
        self.handle_time(now);
        self.outcome = Some((sentence, done));
        self.outcome_until = Some(now + OUTCOME_SHOWN);
    }

    pub(super) fn handle_time(&mut self, now: Instant) {
        self.now = now;
        if self.outcome_until.is_some_and(|until| now >= until) {
            (self.outcome, self.outcome_until) = (None, None);
        }
    }

    pub(super) fn handle_key(&mut self, key: KeyEvent, now: Instant) -> Option<Wish> {
        self.handle_time(now);
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Wish::End);
        }
        match std::mem::replace(&mut self.overlay, Overlay::None) {
            Overlay::Confirm(order) => {
                match key.code {
                    KeyCode::Char('y' | 'Y') => {
                        let verb = if order.drains { "drain" } else { "serve again" };
                        self.handle_ordered(format!("asks {} to {verb} …", order.node), true, now);
                        // For as long as the daemon may take.
                        self.outcome_until = None;
                        return Some(Wish::Order(order));
                    }
                    KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {}
                    // Whatever else was hit, it was not an answer.
                    _ => self.overlay = Overlay::Confirm(order),
                }
                return None;
            }
            // Any key ends it.
            Overlay::Help => return None,
            Overlay::None => {}
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Wish::End),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.overlay = Overlay::Help,
            KeyCode::Up | KeyCode::Char('k') => self.choose(-1),
            KeyCode::Down | KeyCode::Char('j') => self.choose(1),
            KeyCode::Home => self.choose(isize::MIN),
            KeyCode::End => self.choose(isize::MAX),
            KeyCode::Char(key @ ('d' | 'u')) if self.lost.is_none() => {
                if let Some(node) = self.chosen.clone() {
                    self.overlay = Overlay::Confirm(Order { node, drains: key == 'd' });
                }
            }
            _ => {}
        }
        None
    }

    fn choose(&mut self, step: isize) {
        let nodes = self.nodes();
        let Some(last) = nodes.len().checked_sub(1) else {
            return;
        };
        let place = self.chosen_place().saturating_add_signed(step).min(last);
        self.chosen = Some(nodes[place].name.clone());
    }

    pub(super) fn nodes(&self) -> &[Node] {
        self.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.nodes)
    }

    /// The place of the chosen node among all.
    pub(super) fn chosen_place(&self) -> usize {
        self.nodes().iter().position(|node| Some(&node.name) == self.chosen.as_ref()).unwrap_or(0)
    }

    /// A node's name without what all names end with.
    pub(super) fn short<'n>(&self, name: &'n str) -> &'n str {
        name.strip_suffix(&self.domain).unwrap_or(name)
    }

    /// A node's number: its letter and its colour.
    pub(super) fn number(&self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).unwrap_or(0)
    }
}

/// The longest end that begins with a dot and is the same in all names; empty for one node, whose name is its own.
fn common_domain(nodes: &[Node]) -> String {
    let [first, others @ ..] = nodes else {
        return String::new();
    };
    let is_common = |end: &&str| !others.is_empty() && others.iter().all(|node| node.name.ends_with(end));
    let ends = first.name.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &first.name[at..]);
    ends.into_iter().find(is_common).unwrap_or_default().to_owned()
}
