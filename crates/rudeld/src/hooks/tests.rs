use super::*;
use std::sync::mpsc::{Receiver, channel};

const PATIENCE: Duration = Duration::from_secs(60);

/// A script as the program, a directory that it may write into as `$1`, and what was told of its failures.
struct Stage {
    dir: tempfile::TempDir,
    config: HooksConfig,
    failures: Receiver<String>,
    hooks: Hooks,
}

fn program(script: &str, dir: &Path) -> CommandLine {
    let dir = dir.display().to_string();
    CommandLine {
        program: "/bin/sh".into(),
        arguments: vec!["-ec".to_owned(), script.to_owned(), "hook".to_owned(), dir],
    }
}

fn stage(script: &str, timeout: Duration) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let config = HooksConfig { on_change: Some(program(script, dir.path())), timeout };
    let (hooks, failures) = start(&config, dir.path());
    Stage { dir, config, failures, hooks }
}

fn start(config: &HooksConfig, dir: &Path) -> (Hooks, Receiver<String>) {
    let place = Place { cluster: "web".into(), node: "n1".into(), told: dir.join("told") };
    let (sender, failures) = channel();
    let level = || Level { state: "active".into(), serving: true, buckets: 128, epoch: 7 };
    let failed = move |why| drop(sender.send(why));
    (Hooks::start(config, place, level, failed).unwrap(), failures)
}

fn event(sequence: u64, kind: EventKind) -> Event {
    Event {
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        kind,
        node: format!("n{sequence}"),
        reason: format!("reason {sequence}"),
        sequence: Some(sequence),
        epoch: None,
    }
}

impl Stage {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn push(&self, sequences: impl IntoIterator<Item = u64>) {
        let door = self.hooks.door();
        sequences.into_iter().for_each(|sequence| door.push(&event(sequence, EventKind::Joined)));
    }

    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn snapshot(&self) -> snapshot::Hook {
        self.hooks.snapshot().unwrap()
    }
}

fn wait<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<(), T>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(seen) = look() {
        assert!(Instant::now() < deadline, "{what}: {seen:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for_lines(stage: &Stage, name: &str, count: usize) -> Vec<String> {
    wait(name, || match stage.lines(name) {
        lines if lines.len() >= count => Ok(()),
        lines => Err(lines),
    });
    stage.lines(name)
}

#[test]
fn each_event_is_one_run_in_order_and_never_two_at_once() {
    // `mkdir` fails if another run is there, and `-e` ends the script then.
    let script = "mkdir $1/busy; echo $RUDEL_SEQUENCE >> $1/told-to; rmdir $1/busy";
    let stage = stage(script, PATIENCE);
    stage.push(1..=20);
    let expected: Vec<String> = (1..=20).map(|n| n.to_string()).collect();
    assert_eq!(wait_for_lines(&stage, "told-to", 20), expected);
    wait("the last run's end", || match stage.snapshot() {
        hook if hook.runs == 20 && hook.ok && hook.running.is_none() => Ok(()),
        hook => Err(hook),
    });
    wait("its being remembered", || match fs::read_to_string(stage.path("told")) {
        Ok(told) if told == "20\n" => Ok(()),
        told => Err(told),
    });
    assert_eq!(stage.failures.try_recv().ok(), None);
}

#[test]
fn the_event_and_the_present_state_are_told() {
    let stage = stage("env | grep RUDEL_ | sort > $1/env.new; cat > $1/json; mv $1/env.new $1/env", PATIENCE);
    stage.push([3]);
    let environment = wait_for_lines(&stage, "env", 13);
    assert_eq!(
        environment,
        [
            "RUDEL_AT=2026-01-01T00:00:00.000Z",
            "RUDEL_ATTEMPT=1",
            "RUDEL_BUCKETS=128",
            "RUDEL_CLUSTER=web",
            "RUDEL_EPOCH=7",
            "RUDEL_EVENT=joined",
            "RUDEL_MISSED=0",
            "RUDEL_NODE=n3",
            "RUDEL_REASON=reason 3",
            "RUDEL_SELF=n1",
            "RUDEL_SEQUENCE=3",
            "RUDEL_SERVING=yes",
            "RUDEL_STATE=active",
        ]
    );
    let json = fs::read_to_string(stage.path("json")).unwrap();
    assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event(3, EventKind::Joined));
}

#[test]
fn a_run_that_takes_too_long_is_killed_with_all_that_it_has_started() {
    let script = "sleep 1000 & echo $$ $! > $1/pids.new; mv $1/pids.new $1/pids; echo 'no route to the pager' >&2; wait";
    let stage = stage(script, Duration::from_millis(300));
    stage.push([1]);
    let failure = stage.failures.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        failure,
        "/bin/sh: no route to the pager (still running after 300ms: killed) (told of: n1 joined)"
    );
    let hook = stage.snapshot();
    assert_eq!((hook.ok, hook.last_error), (false, Some(failure)));
    let pids = stage.lines("pids").join(" ");
    assert_eq!(pids.split_whitespace().count(), 2, "{pids}");
    for pid in pids.split_whitespace() {
        wait("its death", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            match stat.rsplit_once(") ") {
                Some((_, rest)) if !rest.starts_with(['Z', 'X']) => Err(stat),
                _ => Ok(()),
            }
        });
    }
}

#[test]
fn a_program_that_never_stops_talking_has_no_more_time_than_others() {
    let stage = stage("exec cat /dev/zero >&2", Duration::from_millis(300));
    stage.push([1]);
    let failure = stage.failures.recv_timeout(PATIENCE).expect("it is killed");
    assert!(failure.contains("still running after 300ms: killed"), "{failure}");

    // Whether such a program leaves the pipe empty for a moment is chance; this one's is never read.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo word >&2; exec sleep 1000"]).stderr(Stdio::piped()).process_group(0);
    let run = Run::new(command.spawn().unwrap()).unwrap();
    let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    assert_eq!(run.next(Instant::now() + PATIENCE, &stop).unwrap(), Woken::Said);
    assert_eq!(run.next(Instant::now(), &stop).unwrap(), Woken::Late);
    rustix::io::write(&stop, &1_u64.to_ne_bytes()).unwrap();
    assert_eq!(run.next(Instant::now(), &stop).unwrap(), Woken::Stop);
}

#[test]
fn what_a_program_leaves_behind_holds_nobody_up() {
    // They end when nobody reads any more.
    let script = "for i in 1 2 3 4 5 6 7 8; do cat /dev/zero >&2 & done; echo $RUDEL_SEQUENCE >> $1/told-to";
    let stage = stage(script, PATIENCE);
    stage.push([1, 2]);
    assert_eq!(wait_for_lines(&stage, "told-to", 2), ["1", "2"]);
    let begin = Instant::now();
    drop(stage);
    assert!(begin.elapsed() < PATIENCE / 2, "the end of the daemon waits for nobody's program");
}

#[test]
fn a_failed_run_is_repeated_until_it_is_taken_or_something_newer_happens() {
    let script =
        "echo $RUDEL_SEQUENCE $RUDEL_ATTEMPT >> $1/told-to; test -e $1/good || { echo no >&2; exit 3; }";
    let stage = stage(script, PATIENCE);
    stage.push([1]);
    assert_eq!(
        stage.failures.recv_timeout(PATIENCE).unwrap(),
        "/bin/sh: no (exit status 3) (told of: n1 joined)"
    );
    // What the history makes of it is not told: it would be told of for ever.
    stage.hooks.door().push(&event(2, EventKind::HookFailed));
    wait_for_lines(&stage, "told-to", 2);
    stage.push([3]);
    wait("the newer event", || match stage.lines("told-to") {
        lines if lines.contains(&"3 1".to_owned()) => Ok(()),
        lines => Err(lines),
    });
    assert!(!stage.path("told").exists(), "nothing was taken yet");
    fs::write(stage.path("good"), "").unwrap();
    wait("a good run", || if stage.snapshot().ok { Ok(()) } else { Err(stage.snapshot()) });
    let lines = stage.lines("told-to");
    assert!(lines.iter().all(|line| !line.starts_with("2 ")), "{lines:?}");
    let newer = lines.iter().position(|line| line == "3 1").unwrap();
    assert!(lines[newer..].iter().all(|line| line.starts_with("3 ")), "{lines:?}");
    assert_eq!(fs::read_to_string(stage.path("told")).unwrap(), "3\n");
    assert_eq!(stage.failures.try_recv().ok(), None, "the same failure is told once");
    assert!(stage.snapshot().last_error.is_some(), "the last failure stays visible");
}

#[test]
fn too_many_events_drop_the_oldest_and_say_so() {
    let script = "until test -e $1/go; do sleep 0.01; done; echo $RUDEL_SEQUENCE $RUDEL_MISSED >> $1/told-to";
    let stage = stage(script, PATIENCE);
    stage.push([1]);
    wait("the first run", || if stage.snapshot().running.is_some() { Ok(()) } else { Err(stage.snapshot()) });
    let last = 1 + QUEUE_MAX as u64 + 3;
    stage.push(2..=last);
    assert_eq!((stage.snapshot().waiting, stage.snapshot().missed), (QUEUE_MAX as u64, 3));
    fs::write(stage.path("go"), "").unwrap();
    let lines = wait_for_lines(&stage, "told-to", QUEUE_MAX + 1);
    assert_eq!(lines[..3], ["1 0", "5 3", "6 0"]);
    assert_eq!(lines.last(), Some(&format!("{last} 0")));
}

#[test]
fn nothing_of_the_daemon_is_open_in_the_program() {
    let stage = stage("ls /proc/self/fd > $1/fds.new; mv $1/fds.new $1/fds", PATIENCE);
    let leaky = File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    stage.push([1]);
    // Standard input, output and error, and the directory that ls reads.
    let open = wait_for_lines(&stage, "fds", 4);
    drop(leaky);
    assert_eq!(open, ["0", "1", "2", "3"]);
}

#[test]
fn a_successor_goes_on_behind_the_last_event_that_was_taken() {
    let script =
        "echo $RUDEL_SEQUENCE >> $1/told-to; test $RUDEL_SEQUENCE != 3 || test -e $1/go || sleep 1000";
    let mut stage = stage(script, PATIENCE);
    let past: Vec<Event> = (1..=4).map(|n| event(n, EventKind::Joined)).collect();
    stage.hooks.catch_up(past.iter());
    assert_eq!(stage.snapshot().waiting, 0, "who was never told anything is not told the past");
    stage.push(1..=4);
    wait_for_lines(&stage, "told-to", 3);
    let begin = Instant::now();
    stage.hooks.cut_off();
    assert!(begin.elapsed() < PATIENCE / 2, "a successor waits for nobody's program");

    fs::write(stage.path("go"), "").unwrap();
    (stage.hooks, stage.failures) = start(&stage.config, stage.dir.path());
    stage.hooks.catch_up(past.iter());
    stage.push([5]);
    assert_eq!(wait_for_lines(&stage, "told-to", 6), ["1", "2", "3", "3", "4", "5"]);
}

#[test]
fn the_end_is_told_before_the_daemon_ends() {
    let mut stage = stage("echo $RUDEL_EVENT >> $1/told-to", PATIENCE);
    stage.push([1]);
    stage.hooks.door().push(&event(2, EventKind::Left));
    stage.hooks.finish();
    assert_eq!(stage.lines("told-to"), ["joined", "left"]);
}

#[test]
fn another_program_may_take_its_place_and_what_waits_is_told_to_that() {
    let stage = stage("exit 1", PATIENCE);
    stage.push([1]);
    stage.failures.recv_timeout(PATIENCE).unwrap();
    let good = program("echo $RUDEL_SEQUENCE >> $1/told-to", stage.dir.path());
    stage.hooks.set(&HooksConfig { on_change: Some(good), timeout: PATIENCE });
    assert_eq!(wait_for_lines(&stage, "told-to", 1), ["1"]);
    stage.hooks.set(&HooksConfig { on_change: None, timeout: PATIENCE });
    assert_eq!(stage.hooks.snapshot(), None);
    stage.push([2]);
    stage.hooks.set(&stage.config);
    assert_eq!(stage.snapshot().waiting, 0, "without a program nothing waits");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let command = CommandLine { program: "/nonexistent/notify".into(), arguments: vec![] };
    let config = HooksConfig { on_change: Some(command), timeout: PATIENCE };
    let (hooks, failures) = start(&config, dir.path());
    hooks.door().push(&event(1, EventKind::Joined));
    assert_eq!(
        failures.recv_timeout(PATIENCE).unwrap(),
        "/nonexistent/notify: cannot start it: no such program (told of: n1 joined)"
    );
}
