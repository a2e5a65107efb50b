//! The commands for playing by hand: up, down, exec, status, gc.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rudel_lab::router::Router;
use rudel_lab::{Lab, Namespace, Settings, Status, VIP4, VIP6, status, store};

use crate::screen::{Screen, percent};

/// Which lab.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The name of the lab
    #[arg(long, default_value = "lab")]
    name: String,
}

/// What to build.
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    lab: Named,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    nodes: u8,
    /// How many clients
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=16))]
    clients: u8,
    /// The hash mode of the cluster
    #[arg(long, default_value = "source-ip-port")]
    hash: String,
    /// After how many milliseconds of silence a node is given up
    #[arg(long, default_value_t = 400, value_name = "MS")]
    timeout: u64,
    /// Routers between two networks, which translate and share their connections, instead of servers
    #[arg(long)]
    routers: bool,
    /// Build the network and start nothing on it
    #[arg(long)]
    network_only: bool,
    /// Stay in the foreground and remove the lab on Ctrl-C
    #[arg(long)]
    wait: bool,
}

pub(crate) fn up(options: &Up) -> Result<ExitCode> {
    store::collect_garbage()?;
    let nat = format!("address = \"{VIP4}\"\ninside = [\"10.0.0.0/8\"]\n");
    let settings = Settings {
        hash: options.hash.clone(),
        timeout: Duration::from_millis(options.timeout),
        router: options.routers.then(|| Router { nat, sync: true, ..Router::default() }),
        ..Settings::default()
    };
    let mut lab = Lab::builder()
        .name(&options.lab.name)
        .nodes(options.nodes.into())
        .clients(options.clients.into())
        .settings(settings)
        .build()?;
    if !options.network_only {
        lab.start().with_context(|| format!("the cluster does not start\n{}", lab.last_words()))?;
    }
    fs::write(lab.dir().join("ready"), "")?;
    let name = &options.lab.name;
    let flag = if name == "lab" { String::new() } else { format!(" --name {name}") };
    let hosts: Vec<&str> =
        lab.nodes().iter().map(|n| n.name()).chain(lab.clients().iter().map(|c| c.name())).collect();
    println!("{} on one network; files in {}", hosts.join(", "), lab.dir().display());
    match (options.network_only, options.routers) {
        (true, _) => {}
        (false, true) => println!("h1 is inside, behind them; they translate it to {VIP4}, outside"),
        (false, false) => println!("the nodes serve {VIP4} and {VIP6}: HTTP on ports 80 to 95, DNS on 53"),
    }
    println!("try:  rudel-lab exec{flag} n1 rudel status");
    match options.routers {
        true => println!("      rudel-lab exec{flag} h1 ping 10.74.0.101"),
        false => println!("      rudel-lab exec{flag} c1 curl http://{VIP4}/"),
    }
    if options.wait {
        println!("Ctrl-C removes it");
        // The signal thread tears the lab down and ends the process.
        loop {
            std::thread::park();
        }
    }
    println!("end:  rudel-lab down{flag}");
    lab.keep()?;
    Ok(ExitCode::SUCCESS)
}

fn existing(name: &str) -> Result<PathBuf> {
    let dir = store::base().join(name);
    if !dir.join("owner").exists() {
        let names = store::names();
        let there = if names.is_empty() {
            "there is none".to_owned()
        } else {
            format!("there is {}", names.join(", "))
        };
        bail!("no lab is called {name}: {there} (make one with rudel-lab up)");
    }
    Ok(dir)
}

pub(crate) fn down(options: &Named) -> Result<ExitCode> {
    store::destroy(&existing(&options.name)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn gc() -> Result<ExitCode> {
    for name in store::collect_garbage()? {
        println!("removed {name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What to run where.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    lab: Named,
    /// A node, a client or the switch: n1, c1, switch
    host: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) fn exec(options: &Exec) -> Result<ExitCode> {
    let dir = existing(&options.lab.name)?;
    let plan = rudel_lab::Plan::load(&dir)?;
    let is_node = plan.nodes.contains(&options.host);
    if !is_node && options.host != "switch" && !plan.clients.contains(&options.host) {
        bail!("no {} in this lab: it has {}", options.host, [plan.nodes, plan.clients].concat().join(", "));
    }
    let namespace = Namespace::named(&format!("{}-{}", options.lab.name, options.host));
    let (program, arguments) = options.command.split_first().context("no command")?;
    let mut command = if is_node && program == "rudel" {
        let mut command = namespace.command(rudel_lab::rudel()?)?;
        command.args(arguments).arg("--config").arg(dir.join("rudel.toml"));
        command.arg("--socket").arg(dir.join(&options.host).join("rudel.sock"));
        command
    } else {
        let mut command = namespace.command(program)?;
        command.args(arguments);
        command
    };
    // Becomes the command; what comes back is why it could not.
    let error = command.exec();
    Err(error).with_context(|| format!("running {program}"))
}

pub(crate) fn status(options: &Named) -> Result<ExitCode> {
    let dir = existing(&options.name)?;
    let screen = Screen::new();
    let mut all_well = true;
    for node in rudel_lab::Plan::load(&dir)?.nodes {
        let seen = match Status::ask(&dir.join(&node).join("rudel.sock")) {
            Ok(seen) => seen,
            Err(error) => {
                all_well = false;
                screen.line(format!("{node:<6} no answer: {error:#}"));
                continue;
            }
        };
        let (epoch, coordinator) = seen.view();
        let counts = status::counts(&seen.owners());
        let own = counts.get(&node).copied().unwrap_or(0);
        let share = own as f64 / 256.0;
        let shares: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        screen.line(format!(
            "{node:<6} {:<9} {own:>3} {:>7} {} view {epoch} by {coordinator}: {}",
            seen.state(),
            percent(share),
            screen.bar(share, 20),
            shares.join(", "),
        ));
        all_well &= seen.serving() && seen.settled();
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
