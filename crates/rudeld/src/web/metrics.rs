//! `/metrics`: what a [`Look`] tells, in the words of Prometheus (OpenMetrics 1.0 text).
//!
//! Names are a promise to monitoring. Everything is made anew for each scrape from what the daemon knows at that moment,
//! so nothing can be left over from a node, a check or an interface that is no more, and nothing is counted twice.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};
use rudel_api::snapshot::{Hook, Misfit, NodeState, Sync};
use rudel_datapath::Verdict;

use super::Look;
use crate::statistics::Histogram;

/// The body's type, for those who ask for it.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// For everybody else, older scrapers and browsers among them; see [`plain`].
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that is known, as text.
pub fn render(look: Arc<Look>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(look)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("a string takes everything that is written to it");
    text
}

/// The same in the older format: counters have their full name in what is said of them, and there are no units and no end.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            help = told.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|told| told.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[derive(Debug)]
struct Scrape(Arc<Look>);

/// Nobody's: exemplars are not used.
type NoExemplar = Exemplar<[(&'static str, &'static str); 0], u64>;

struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauges<'v>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'static str, &'v str)>, f64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in values {
            match labels.is_empty() {
                true => encoder.encode_gauge(&value)?,
                false => encoder.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges((name, None), help, [(vec![], value)])
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges((name, Some(Unit::Seconds)), help, [(vec![], value)])
    }

    fn counters<'v>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'static str, &'v str)>, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in values {
            let none: Option<&NoExemplar> = None;
            match labels.is_empty() {
                true => encoder.encode_counter(&value, none)?,
                false => encoder.encode_family(&labels)?.encode_counter(&value, none)?,
            }
        }
        Ok(())
    }

    fn seconds_counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?;
        encoder.encode_counter(&value, None::<&NoExemplar>)
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let mut encoder =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        encoder.encode_histogram::<[(&str, &str); 0]>(
            histogram.sum_seconds(),
            histogram.count(),
            &histogram.buckets(),
            None,
        )
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Look { snapshot, counts, interfaces } = &*self.0;
        let truth = |is_so: bool| f64::from(u8::from(is_so));
        let mut w = Writer(encoder);
        let names = vec![
            ("version", snapshot.version.as_str()),
            ("cluster", snapshot.cluster.as_str()),
            ("node", snapshot.node.as_str()),
        ];
        // A gauge, as everywhere: the older format knows no other type for it.
        w.gauges(
            ("rudel_build_info", None),
            "The daemon's version, its cluster's and its node's name; always 1.",
            [(names, 1.0)],
        )?;

        w.gauge(
            "rudel_serving",
            "1 while this node passes packets: its lease holds and it owns a bucket.",
            truth(snapshot.serving),
        )?;
        w.gauge(
            "rudel_troubles",
            "How many things `rudel status` would complain about; above 0 the cluster is degraded.",
            snapshot.troubles().len() as f64,
        )?;
        w.seconds(
            "rudel_lease",
            "How long this node's kernel would still pass packets without hearing from the daemon; 0 if it passes none.",
            snapshot.lease_ms as f64 / 1e3,
        )?;

        let buckets = &snapshot.buckets;
        w.gauges(
            ("rudel_buckets", None),
            "Buckets of this node: owned, given up but kept for their open connections, adopting (given to it by the view, not yet owned).",
            [("owned", buckets.owned), ("keeping", buckets.keeping), ("adopting", buckets.adopting)]
                .map(|(state, count)| (vec![("state", state)], f64::from(count))),
        )?;
        w.gauge(
            "rudel_buckets_orphaned",
            "Buckets that nobody owns by the view in force at this node.",
            buckets.owners.iter().filter(|owner| owner.is_none()).count() as f64,
        )?;
        w.gauge(
            "rudel_connections_kept",
            "Open connections in the buckets that this node has given up and keeps.",
            f64::from(buckets.connections.unwrap_or(0)),
        )?;

        let states = NodeState::ALL.iter().filter(|state| **state != NodeState::Unknown);
        w.gauges(
            ("rudel_nodes", None),
            "Nodes that this node knows, itself included, by state.",
            states.map(|state| {
                let count = snapshot.nodes.iter().filter(|node| node.state == *state).count();
                (vec![("state", state.as_str())], count as f64)
            }),
        )?;
        w.gauges(
            ("rudel_node_buckets", None),
            "Buckets that the view in force at this node gives to each node, of 256.",
            snapshot.nodes.iter().map(|n| (vec![("node", n.name.as_str())], f64::from(n.buckets))),
        )?;
        w.gauges(
            ("rudel_node_healthy", None),
            "1 for each node that can serve, 0 for one whose health checks fail or that is lost.",
            snapshot.nodes.iter().map(|n| (vec![("node", n.name.as_str())], truth(n.healthy))),
        )?;
        if let Some(quorum) = snapshot.view.quorum {
            w.gauge(
                "rudel_quorum",
                "How many nodes must hear each other to serve, as configured.",
                f64::from(quorum),
            )?;
        }

        w.gauge(
            "rudel_view_epoch",
            "The number of the view in force at this node.",
            snapshot.view.epoch as f64,
        )?;
        w.gauge(
            "rudel_view_settled",
            "1 while this node has followed its view and knows of nobody who might still hold what the view took away.",
            truth(snapshot.view.settled),
        )?;
        if let Some(age) = snapshot.view.age_ms {
            w.seconds(
                "rudel_view_age",
                "How long the view has been in force at this node.",
                age as f64 / 1e3,
            )?;
        }
        w.counters(
            ("rudel_view_changes", None),
            "Views that came into force at this node, by the reason that made them.",
            counts.views.iter().map(|(reason, count)| (vec![("reason", *reason)], *count)),
        )?;
        w.histogram(
            "rudel_takeover",
            "From adopting a view until this node owned all that it was given.",
            &counts.takeover,
        )?;

        w.counters(
            ("rudel_pulses", None),
            "Datagrams of the protocol, by direction: sent (each once per link) and received (those that were let in).",
            [("sent", counts.sent), ("received", counts.received)]
                .map(|(direction, count)| (vec![("direction", direction)], count)),
        )?;
        w.counters(
            ("rudel_pulse_send_errors", None),
            "Datagrams of the protocol that a link could not take.",
            [(vec![], counts.send_errors)],
        )?;
        w.counters(
            ("rudel_datagrams_rejected", None),
            "Datagrams that were not let in, by reason; repeated ones are usual with redundant links.",
            counts.rejected.iter().map(|(reason, count)| (vec![("reason", *reason)], *count)),
        )?;
        w.histogram(
            "rudel_pulse_lateness",
            "How late the timers of the pulse thread fired: a node that is often late by a good part of its time-out looks dead to others.",
            &counts.lateness,
        )?;

        let verdicts = || {
            interfaces.iter().flat_map(|interface| {
                Verdict::ALL.map(|verdict| {
                    let labels = vec![("interface", interface.name.as_str()), ("verdict", verdict.name())];
                    (labels, interface.get(verdict))
                })
            })
        };
        w.counters(
            ("rudel_packets", None),
            "Packets to the cluster MAC, by what became of them.",
            verdicts().map(|(labels, count)| (labels, count.packets)),
        )?;
        w.counters(
            ("rudel_packet", Some(Unit::Bytes)),
            "Bytes on the wire of packets to the cluster MAC, Ethernet header included, by what became of them.",
            verdicts().map(|(labels, count)| (labels, count.bytes)),
        )?;
        w.gauges(
            ("rudel_filter_attached", None),
            "1 for each interface that has its packet filter, by how that is attached.",
            snapshot.interfaces.iter().map(|interface| {
                let mode = interface.mode.map_or("none", |mode| mode.as_str());
                let labels = vec![("interface", interface.name.as_str()), ("mode", mode)];
                (labels, truth(interface.mode.is_some()))
            }),
        )?;
        w.gauges(
            ("rudel_deaf", None),
            "1 for each interface that receives nothing for the cluster MAC, though others send probes to it.",
            snapshot
                .interfaces
                .iter()
                .map(|interface| (vec![("interface", interface.name.as_str())], truth(interface.deaf))),
        )?;
        w.gauges(
            ("rudel_coverage_ratio", None),
            "Packets that all nodes passed over packets seen, in the last five seconds: 1 is right, less is a hole, more are two owners. Absent without enough packets.",
            snapshot.interfaces.iter().filter_map(|interface| {
                Some((vec![("interface", interface.name.as_str())], interface.coverage?))
            }),
        )?;
        w.gauges(
            ("rudel_audit_finding", None),
            "1 while packets have been without an owner (hole) or with more than one (double) for ten seconds, as this node's audit finds.",
            snapshot.interfaces.iter().flat_map(|interface| {
                [Misfit::Hole, Misfit::Double].map(|finding| {
                    let labels =
                        vec![("interface", interface.name.as_str()), ("finding", finding.as_str())];
                    (labels, truth(interface.audit == Some(finding)))
                })
            }),
        )?;
        w.gauges(
            ("rudel_health_up", None),
            "1 while a health check of this node is good, rise and fall considered.",
            snapshot.health.iter().map(|check| (vec![("check", check.name.as_str())], truth(check.ok))),
        )?;
        if let Some(nat) = &snapshot.nat {
            w.counters(
                ("rudel_nat_refused", None),
                "Connections that found no free port towards their destination; each cost its first packet.",
                [(vec![], nat.refused)],
            )?;
        }
        if let Some(aside) = &snapshot.aside {
            w.counters(
                ("rudel_aside_segments", None),
                "TCP segments for buckets of which nobody passed them: set aside by this node's filter, put through it when this node had the bucket, refused then by the kernel, handed on to the owner of a bucket that is kept here and was a dead node's, and lost for want of room.",
                [
                    ("set_aside", aside.set_aside),
                    ("put_through", aside.put_through),
                    ("refused", aside.refused),
                    ("handed_on", aside.handed_on),
                    ("lost", aside.lost),
                ]
                .map(|(what, count)| (vec![("what", what)], count)),
            )?;
        }
        if let Some(hook) = &snapshot.hook {
            told_of_events(&mut w, hook)?;
        }
        match &snapshot.sync {
            Some(sync) => shared_connections(&mut w, sync),
            None => Ok(()),
        }
    }
}

/// Of the program that is told of events.
fn told_of_events(w: &mut Writer<'_>, hook: &Hook) -> fmt::Result {
    w.gauge(
        "rudel_hook_up",
        "1 while the last run of the program that is told of events was good.",
        f64::from(u8::from(hook.ok)),
    )?;
    w.counters(
        ("rudel_hook_runs", None),
        "Runs of that program that have ended, by how.",
        [("good", hook.runs.saturating_sub(hook.failures)), ("failed", hook.failures)]
            .map(|(result, count)| (vec![("result", result)], count)),
    )?;
    w.seconds_counter("rudel_hook_run", "How long those runs took together.", hook.run_ms as f64 / 1e3)?;
    w.gauge("rudel_hook_waiting", "Events that wait for that program.", hook.waiting as f64)?;
    w.counters(
        ("rudel_hook_missed", None),
        "Events that it was not told of, because too many were waiting.",
        [(vec![], hook.missed)],
    )?;
    // Why stands in the status and in the history: a text is no label.
    match hook.last_error_at {
        Some(at) => w.seconds(
            "rudel_hook_last_failure_timestamp",
            "When it failed last, as seconds since 1970; absent if it never did.",
            at.unix_seconds(),
        ),
        None => Ok(()),
    }
}

/// Of routers that share their connections.
fn shared_connections(w: &mut Writer<'_>, sync: &Sync) -> fmt::Result {
    w.gauges(
        ("rudel_sync_flows", None),
        "Connections known here: those of this node's own buckets, and those of other nodes' buckets.",
        [("self", sync.flows_own), ("others", sync.flows_foreign)]
            .map(|(owner, count)| (vec![("owner", owner)], count as f64)),
    )?;
    w.gauge(
        "rudel_sync_complete",
        "1 while all connections of all other routers are known here.",
        f64::from(u8::from(sync.synced)),
    )?;
    w.seconds(
        "rudel_sync_lag",
        "For how long the oldest connection that should have been told by now has been waiting.",
        sync.lag_us as f64 / 1e6,
    )?;
    w.seconds(
        "rudel_sync_move_wait",
        "The longest time that a move of buckets has waited for their connections.",
        sync.move_max_us as f64 / 1e6,
    )?;
    for (name, help, sent, received) in [
        (
            "rudel_sync_messages",
            "Datagrams about connections: sent (repeated ones included), and received and let in.",
            sync.messages_sent,
            sync.messages_received,
        ),
        (
            "rudel_sync_records",
            "Connections told and heard of, repetitions included.",
            sync.records_sent,
            sync.records_received,
        ),
        (
            "rudel_sync_transfers",
            "Whole transfers of all connections of a node.",
            sync.transfers_sent,
            sync.transfers_received,
        ),
    ] {
        let both = [("sent", sent), ("received", received)]
            .map(|(direction, count)| (vec![("direction", direction)], count));
        w.counters((name, None), help, both)?;
    }
    w.counters(
        ("rudel_sync_lost", None),
        "Datagrams about connections that did not come: asked for again, repeated for others, and given up, each of \
         which is healed by a whole transfer.",
        [("asked", sync.asked), ("repeated", sync.repeated), ("given_up", sync.gaps_skipped)]
            .map(|(what, count)| (vec![("what", what)], count)),
    )?;
    for (name, help, count) in [
        (
            "rudel_sync_events",
            "Changes of the kernel's table of connections that were heard of.",
            sync.events,
        ),
        (
            "rudel_sync_overruns",
            "How often the kernel had more such changes than room; each time its whole table was read anew.",
            sync.overruns,
        ),
        ("rudel_sync_refused", "Connections of other nodes that the kernel did not take.", sync.write_errors),
        (
            "rudel_sync_late_moves",
            "Moves of buckets that did not wait until all of their connections had moved.",
            sync.late_moves,
        ),
        ("rudel_sync_rejected", "Datagrams about connections that were not let in.", sync.rejected),
        (
            "rudel_sync_send_errors",
            "Datagrams about connections that a link could not take.",
            sync.send_errors,
        ),
    ] {
        w.counters((name, None), help, [(vec![], count)])?;
    }
    Ok(())
}
