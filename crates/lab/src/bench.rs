//! Measurements of a running cluster: how long a failure hurts, and what a filter costs a client.

mod conntrackd;
mod routers;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use rudel_lab::failover::{self, Fault};
use rudel_lab::probe::quantile;
use rudel_lab::{Lab, Settings, VIP4, VIP6, client, store};

use crate::screen::{Screen, human};

/// How much to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each fault is repeated
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    kills: u8,
    /// Measure routers that share their connections instead: failures, planned changes, and a crash under 100,000 flows
    #[arg(long)]
    routers: bool,
    /// Of the routers' measurements, this one alone
    #[arg(long, value_enum, requires = "routers")]
    only: Option<routers::Part>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let _serial = store::one_at_a_time()?;
    store::collect_garbage()?;
    let screen = Screen::new();
    if options.routers {
        routers::run(&screen, options.only)?;
        return Ok(ExitCode::SUCCESS);
    }
    screen.heading("Outage of new connections to the buckets of a node that fails, by fault and timeout");
    screen.note("fault        timeout  interval    least   median     most   (three nodes, one connection every 2 ms)");
    for (timeout, interval) in [(40, 10), (400, 50)] {
        let settings = Settings {
            timeout: Duration::from_millis(timeout),
            interval: Some(Duration::from_millis(interval)),
            hash: "source-ip".to_owned(),
            ..Settings::default()
        };
        let mut lab = Lab::builder().settings(settings).build()?;
        lab.start()?;
        for fault in Fault::ALL {
            let mut outages = Vec::new();
            for _ in 0..options.kills {
                outages.push(failover::measure(&mut lab, &["n1", "n2", "n3"], "n2", fault)?.outage());
                fault.mend(&mut lab, "n2")?;
                lab.wait_at_rest(&["n1", "n2", "n3"])?;
            }
            let at = |share| human(quantile(outages.clone(), share));
            screen.note(format!(
                "{:<12} {timeout:>4} ms  {interval:>5} ms {:>8} {:>8} {:>8}",
                format!("{fault:?}"),
                at(0.0),
                at(0.5),
                at(1.0)
            ));
        }
        if timeout == 400 {
            rates(&screen, &lab)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// New connections one after the other through the cluster: the latency that a client sees.
fn rates(screen: &Screen, lab: &Lab) -> Result<()> {
    const CONNECTIONS: usize = 3000;
    screen.heading("New HTTP connections, one after the other");
    for vip in [VIP4, VIP6] {
        let source = SocketAddr::new(lab.client().source(vip, 1, 1), 0);
        let target = SocketAddr::new(vip, 80);
        let begin = Instant::now();
        let answers = lab.client().run(|| {
            (0..CONNECTIONS)
                .map(|_| client::http_get(source, target, Duration::from_secs(3)))
                .collect::<Result<Vec<_>, _>>()
        })??;
        let rate = CONNECTIONS as f64 / begin.elapsed().as_secs_f64();
        ensure!(answers.len() == CONNECTIONS, "only {} answers", answers.len());
        let latencies: Vec<Duration> = answers.iter().map(|a| a.latency).collect();
        screen.note(format!(
            "{:<12} {rate:>6.0} per second, median {}, 99 of 100 below {}",
            vip.to_string(),
            human(quantile(latencies.clone(), 0.5)),
            human(quantile(latencies, 0.99)),
        ));
    }
    Ok(())
}
