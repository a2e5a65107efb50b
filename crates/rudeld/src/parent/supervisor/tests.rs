//! The parent with daemons that do as they are told: this test's own program, started again.

use std::fs;

use super::super::Tie;
use super::super::channel::Serving;
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon. Where no parent has started it, it is no test.
#[test]
fn a_daemon() {
    let words: Vec<String> = env::args().collect();
    let Some(at) = words.iter().position(|word| word == "--tied") else { return };
    let [.., doing, place] = &words[..at] else { panic!("{words:?}") };
    let tied = words[at + 1].parse().unwrap();
    // SAFETY: once, and the command line is a parent's.
    let tie = unsafe { Tie::take_up(&tied) }.unwrap();
    let place = Path::new(place);
    let begun = Serving {
        pin_dir: place.join("pins"),
        journal: place.join("journal"),
        socket: place.join("socket"),
        lock: place.join("lock"),
        timeout_ms: 20,
        farewells: Vec::new(),
    };
    let take_place = || tie.wait_for_place(Err("nothing is left of it".into())).unwrap();
    let serve = || tie.tell(&ToParent::Serving(Serving { farewells: vec![vec![1]], ..begun.clone() }));
    match (doing.as_str(), tied.role) {
        ("takes its time to end", _) => {
            take_place();
            serve();
            tie.tell(&ToParent::Ending);
            std::thread::sleep(2 * HUNG_MIN);
            tie.tell(&ToParent::Ended(0));
        }
        ("dies in its start", _) => {
            take_place();
            tie.tell(&ToParent::Begun(begun));
            std::process::abort();
        }
        ("hangs in its start", _) => {
            take_place();
            sleep_for_ever();
        }
        ("leaves its place to nobody", Role::First) => {
            take_place();
            serve();
            wait_for_hand_over(&tie);
            tie.tell(&ToParent::HandedOver);
        }
        ("leaves its place to nobody", _) => sleep_for_ever(),
        ("dies before it has left its place", Role::First) => {
            take_place();
            serve();
            wait_for_hand_over(&tie);
            std::process::abort();
        }
        (doing, role) => panic!("{doing} as {role}?"),
    }
    // Without the harness's own last words.
    std::process::exit(0);
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(PATIENCE);
    }
}

fn wait_for_hand_over(tie: &Tie) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut orders = tie.listen().unwrap();
        while orders.next().await != ToChild::HandOver {
            tie.beat();
        }
    });
}

/// A parent whose daemons do this, and a directory for what they would leave behind.
fn parent_of(doing: &str) -> (Parent, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let test = format!("{}::a_daemon", module_path!().split_once("::").unwrap().1);
    let words = [test.as_ref(), "--exact", "--", doing, place.path().to_str().unwrap()];
    // Nothing is said through it: what would be a signal is a call here.
    let (silent, _) = rustix::pipe::pipe().unwrap();
    rustix::io::ioctl_fionbio(&silent, true).unwrap();
    let arguments = words.map(OsString::from).into();
    let mut parent = Parent::of(env::current_exe().unwrap(), arguments, silent);
    parent.start(Role::First);
    (parent, place)
}

impl Parent {
    fn run_until(&mut self, what: &str, mut is_so: impl FnMut(&Parent) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what}: {self:#?}");
            self.take_messages();
            self.collect();
            self.keep_time();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn run_to_end(&mut self) -> Option<u8> {
        self.run_until("its end", |parent| parent.exit.is_some());
        self.exit
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_daemon_that_takes_down_what_it_had_put_up_may_take_its_time() {
    let (mut parent, _place) = parent_of("takes its time to end");
    assert_eq!(parent.run_to_end(), Some(0));
    assert!(parent.deaths.is_empty(), "it has ended by itself");
}

#[test]
fn what_a_daemon_leaves_that_dies_in_its_start_is_taken_down() {
    let (mut parent, place) = parent_of("dies in its start");
    let left = ["socket", "lock"].map(|name| place.path().join(name));
    left.iter().for_each(|path| fs::write(path, "").unwrap());
    assert_eq!(parent.run_to_end(), Some(FAILURE));
    assert!(left.iter().all(|path| !path.exists()), "{left:?}");
}

#[test]
fn a_daemon_that_hangs_in_its_start_is_killed() {
    let (mut parent, _place) = parent_of("hangs in its start");
    parent.run_until("its beginning", |parent| parent.child.as_ref().is_some_and(|child| child.begun));
    let child = parent.child.as_mut().unwrap();
    assert_eq!(child.late_at(), Some(child.since + BEGIN_MAX));
    child.since -= BEGIN_MAX;
    assert_eq!(parent.run_to_end(), Some(FAILURE));
}

#[test]
fn the_others_do_not_wait_for_a_daemon_whose_successor_has_died() {
    let (mut parent, _place) = parent_of("leaves its place to nobody");
    parent.run_until("service", |parent| parent.child.as_ref().is_some_and(|child| child.serving));
    let first = parent.child.as_ref().unwrap().process.id();
    // As when a successor is ready; this one has ended since.
    parent.child.as_ref().unwrap().tell(&ToChild::HandOver);
    parent.handing_over = true;
    parent.run_until("another daemon", |parent| {
        parent.child.as_ref().is_some_and(|child| child.process.id() != first)
    });
    // It has no lease: there is nothing to wait for.
    assert!(parent.will.as_ref().unwrap().said);
}

#[test]
fn a_parent_that_is_told_to_end_for_a_restart_starts_no_daemon_again() {
    let (mut parent, _place) = parent_of("dies before it has left its place");
    parent.run_until("service", |parent| parent.child.as_ref().is_some_and(|child| child.serving));
    // As SIGUSR2 does.
    parent.child.as_ref().unwrap().tell(&ToChild::HandOver);
    parent.restarting = true;
    assert_eq!(parent.run_to_end(), Some(0));
    assert!(parent.child.is_none() && !parent.will.as_ref().unwrap().said);
}
