//! The unit of `dist/systemd`, under a real systemd: process 1 of a container that shares nothing with the machine but
//! its files and a node's network.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

const SYSTEMD: &str = "/usr/lib/systemd/systemd";
const UNITS: &str = "/usr/lib/systemd/system";
/// What the unit, and what it stands on by default, asks for.
const OTHER_UNITS: [&str; 14] = [
    "basic.target",
    "local-fs.target",
    "multi-user.target",
    "network-online.target",
    "network.target",
    "paths.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "sysinit.target",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "timers.target",
];

/// A control group for a container, and everything below it.
struct Groups(PathBuf);

impl Groups {
    fn make(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mount = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2")
            .expect("a cgroup2 file system, which systemd cannot do without")[1]
            .to_owned();
        let mine = fs::read_to_string("/proc/self/cgroup").expect("control groups");
        let mine = mine.lines().find_map(|line| line.strip_prefix("0::/")).expect("one of version 2");
        let group = Path::new(&mount).join(mine).join(name);
        fs::create_dir_all(&group).expect("a control group");
        Groups(group)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let removed = wait_until(PATIENCE, "the container's control groups to be empty", || {
            fn remove(group: &Path) -> std::io::Result<()> {
                for entry in fs::read_dir(group)?.flatten().filter(|entry| entry.path().is_dir()) {
                    remove(&entry.path())?;
                }
                fs::remove_dir(group)
            }
            remove(&self.0).map_err(|error| error.to_string())
        });
        if let Err(error) = removed {
            say(&format!("{error:#}"));
        }
    }
}

/// A node whose process 1 is systemd.
struct Machine {
    init: u32,
}

impl Machine {
    /// Boots it on `name`, with the unit and one drop-in.
    fn boot(lab: &mut Lab, name: &str, groups: &Groups, drop_in: &str) -> Self {
        let dir = lab.dir().join(name).join("machine");
        let sub = |sub: &str| {
            let path = dir.join(sub);
            fs::create_dir_all(&path).expect("a directory");
            path
        };
        let key = lab.dir().join("key");
        if !key.exists() {
            let made =
                Command::new(rudel_lab::rudel().expect("the tool")).args(["key", "new"]).arg(&key).status();
            assert!(made.expect("it runs").success());
        }
        let config = fs::read_to_string(lab.dir().join("rudel.toml")).expect("a configuration");
        let config = config.replace(&key.display().to_string(), "/etc/rudel/key");
        fs::write(sub("etc").join("rudel.toml"), config).expect("a copy");
        fs::copy(&key, sub("etc").join("key")).expect("a copy");
        fs::copy(rudeld().expect("the program"), sub("sbin").join("rudeld")).expect("a copy");
        fs::copy(rudel_lab::rudel().expect("the tool"), sub("sbin").join("rudel")).expect("a copy");
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd/rudeld.service");
        fs::copy(unit, sub("units").join("rudeld.service")).expect("the unit");
        fs::write(sub("units/rudeld.service.d").join("test.conf"), drop_in).expect("a drop-in");
        for other in OTHER_UNITS {
            fs::copy(Path::new(UNITS).join(other), sub("units").join(other)).expect("a unit of systemd's");
        }
        let journal = sub("units/sysinit.target.wants").join("systemd-journald.service");
        symlink("../systemd-journald.service", journal).expect("a link");
        // The control socket, from outside.
        symlink(sub("run").join("rudel.sock"), lab.node(name).socket()).expect("a link");

        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/restart/boot.sh");
        let mut command = lab.node(name).namespace().command(script).expect("a command");
        command.arg(&dir).arg(name).arg(&groups.0);
        lab.node_mut(name).start_daemon_as(command).expect("a container");
        let init = wait_until(PATIENCE, "systemd to take orders", || {
            let init = lab.node_mut(name).working_daemon().map_err(|error| error.to_string())?;
            let door = format!("/proc/{init}/root/run/systemd/private");
            if Path::new(&door).exists() { Ok(init) } else { Err(format!("there is no {door}")) }
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", lab.node(name).daemon_log()));
        Machine { init }
    }

    /// Runs a command in the container.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let init = self.init.to_string();
        let output = Command::new("nsenter")
            .args(["-t", &init, "-m", "-p", "-u", "-n", "-i", "-C", "--"])
            .args(arguments)
            .output()
            .expect("nsenter runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn systemctl(&self, arguments: &[&str]) {
        let arguments: Vec<&str> = std::iter::once("systemctl").chain(arguments.iter().copied()).collect();
        self.run(&arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{}", self.journal()));
    }

    fn property(&self, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", name, "rudeld"]).expect("systemctl show")
    }

    fn wait_property(&self, name: &str, wanted: impl Fn(&str) -> bool) -> String {
        wait_until(PATIENCE, &format!("another {name}"), || {
            let value = self.property(name);
            if wanted(&value) { Ok(value) } else { Err(format!("{name}={value}")) }
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.journal()))
    }

    fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "-o", "cat"]).unwrap_or_else(|error| error)
    }

    /// The process that does the daemon's work, by its number in the container.
    fn worker(&self) -> String {
        let main = self.property("MainPID");
        let children = format!("/proc/{main}/task/{main}/children");
        self.run(&["cat", &children]).expect("the main process has children")
    }
}

#[test]
fn systemd_starts_restarts_and_stops_the_unit_as_it_promises() {
    let Some(_serial) = root() else { return };
    assert!(Path::new(SYSTEMD).exists(), "systemd is not installed: scripts/setup");
    // Declared first, so that it is removed when the lab, and all processes with it, is gone.
    let groups = Groups::make(&format!("rudel-lab-{}", std::process::id()));
    let mut lab = Lab::builder().settings(patient(5)).build().expect("a lab");
    for name in ALL {
        lab.node_mut(name).start_services().expect("servers");
    }
    for name in ["n2", "n3"] {
        lab.node_mut(name).start_daemon().expect("a daemon");
    }
    // So that a stop which asks for no more time is cut off soon, and a parent that hangs is noticed.
    let sooner = "[Service]\nTimeoutStopSec=3s\nWatchdogSec=10s\n";
    let machine = Machine::boot(&mut lab, "n1", &groups, sooner);

    // A start that has returned has made a daemon that answers.
    machine.systemctl(&["start", "rudeld"]);
    lab.node("n1").status().expect("it is ready when systemd says so");
    lab.wait_at_rest(&ALL).expect("at rest");
    lab.wait_answering().expect("answers");
    assert_eq!(machine.property("ActiveState"), "active");

    unnoticed(&mut lab, |lab| {
        let former = machine.property("MainPID");
        machine.systemctl(&["restart", "rudeld"]);
        wait_resumed(lab, "n1", 1);
        let main = machine.property("MainPID");
        assert_ne!(main, former, "all of the service is new");

        // A daemon that crashes is not systemd's affair.
        let worker = machine.worker();
        machine.run(&["kill", "-KILL", &worker]).expect("it is killed");
        wait_resumed(lab, "n1", 2);
        assert_ne!(machine.worker(), worker);
        assert_eq!((machine.property("MainPID"), machine.property("NRestarts")), (main, "0".into()));

        // A reload that is refused is a failed one, and the service goes on.
        let append = |text: &str| {
            machine
                .run(&["sh", "-c", &format!("echo '{text}' >> /etc/rudel/rudel.toml")])
                .expect("it is written");
        };
        append("[hooks]\ntimeout = \"20s\"\non_change = [\"/bin/true\"]");
        machine.systemctl(&["reload", "rudeld"]);
        let status = lab.node("n1").status().expect("a status").0;
        assert_eq!(status["reload"]["applied"][0]["key"], "hooks.on_change", "{status}");
        append("colour = \"red\"");
        machine.run(&["systemctl", "reload", "rudeld"]).expect_err("a refused file");
        assert!(machine.journal().contains("colour"), "the journal says why");
        assert_eq!(machine.property("ActiveState"), "active");
        machine.run(&["sed", "-i", "/colour/d", "/etc/rudel/rudel.toml"]).expect("it is mended");
    });

    // Its parent is: one that hangs is killed with all that it has started, and started again.
    let main = machine.property("MainPID");
    machine.run(&["kill", "-STOP", &main]).expect("it is stopped");
    machine.wait_property("NRestarts", |restarts| restarts == "1");
    machine.wait_property("ActiveState", |state| state == "active");
    lab.wait_at_rest(&ALL).expect("it is back");
    assert_ne!(machine.property("MainPID"), main);

    // A stop waits for its connections, and says so, for longer than TimeoutStopSec.
    let open = sessions(&lab, &lasting(&lab, 30_000, 100));
    let begun = Instant::now();
    machine.systemctl(&["stop", "--no-block", "rudeld"]);
    machine.wait_property("StatusText", |text| text.contains(" connections left in "));
    wait_until(PATIENCE, "more than twice the time that a stop may take", || {
        assert_eq!(machine.property("ActiveState"), "deactivating", "{}", machine.journal());
        let waited = begun.elapsed();
        if waited > second(7) { Ok(()) } else { Err(format!("{waited:?} so far")) }
    })
    .expect("time passes");
    assert_none_lost(open);
    machine.wait_property("ActiveState", |state| state == "inactive");
    let journal = machine.journal();
    assert_eq!(machine.property("Result"), "success", "{journal}");
    assert!(
        !journal.contains("is lost until its sender repeats it"),
        "the unit takes too much away: {journal}"
    );
    lab.wait_answering().expect("the others go on");
}
