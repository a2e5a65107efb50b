//! Breaks the rules of the protocol one by one, and looks whether the tests notice.
//!
//! Each [`Mutation`] is an edit to a copy of the protocol's source, the name of the rule's test that must fail because of it,
//! and the class of worlds or the story in which the simulation must notice.
//! A test suite in which one survives is not finished; a mutation that no longer applies, or does not compile, fails too,
//! so that the list keeps up with the code.
//!
//! ```text
//! rudel-mutants               all of them
//! rudel-mutants NAME ...      some
//! rudel-mutants --from NAME   that one and those after it
//! rudel-mutants --within S    begin none after so many seconds (status 3 if some are left)
//! rudel-mutants --list        what there is
//! ```
//!
//! A verdict stands for as long as neither the mutation nor any source that it is tried on has changed, so a run that was
//! stopped goes on where it was. Names on the command line are tried anew.
//!
//! There is one copy with one target directory, so that what a mutation does not touch is built once; of the rules' tests
//! only the one that is to fail is run.

#![forbid(unsafe_code)]

mod mutations;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use mutations::{Death, MUTATIONS, Mutation};

/// A broken world may never end. One that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    match run() {
        Ok((0, 0)) => ExitCode::SUCCESS,
        Ok((0, _)) => ExitCode::from(3),
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rudel-mutants: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns how many mutations survived, and how many have not been tried.
fn run() -> Result<(usize, usize)> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut within = Duration::MAX;
    if let Some(at) = wanted.iter().position(|word| word == "--within") {
        let seconds = wanted.get(at + 1).and_then(|word| word.parse().ok());
        within = Duration::from_secs(seconds.context("--within needs a number of seconds")?);
        wanted.drain(at..at + 2);
    }
    if wanted.iter().any(|word| word == "--list") {
        for mutation in MUTATIONS {
            println!("{:<28} {}", mutation.name, mutation.about);
        }
        return Ok((0, 0));
    }
    let chosen = choose(&wanted)?;

    let source = workspace()?;
    let begun = Instant::now();
    let copy = Copy::make(&source)?;
    let mut verdicts = Verdicts::read(&copy)?;
    if wanted.iter().any(|word| !word.starts_with("--") && MUTATIONS.iter().any(|m| m.name == word)) {
        chosen.iter().for_each(|mutation| verdicts.forget(mutation));
    }
    if !verdicts.is_whole {
        let built = copy.build()?;
        for program in [&built.rules, &built.stories] {
            ensure!(
                failing_tests(program, "")?.is_empty(),
                "tests fail without any mutation: mend that first"
            );
        }
        verdicts.is_whole = true;
        verdicts.write()?;
    }
    println!("{:<9} {:<9} {:>5} {:<30} rule test; simulation", "rule", "world", "s", "mutation");
    let (mut by_rule, mut by_world, mut unseen, mut left) = (0, 0, 0, 0);
    for mutation in &chosen {
        if let Some(unseen_by_worlds) = verdicts.died(mutation) {
            by_rule += 1;
            by_world += usize::from(!unseen_by_worlds);
            unseen += usize::from(unseen_by_worlds);
            println!(
                "{:<9} {:<9} {:>5} {:<30} as before",
                "caught",
                if unseen_by_worlds { "unseen" } else { "dead" },
                "",
                mutation.name
            );
            continue;
        }
        if begun.elapsed() >= within {
            left += 1;
            continue;
        }
        let since = Instant::now();
        let whole = copy.apply(mutation)?;
        let built = copy.build().with_context(|| format!("{}: does it still compile?", mutation.name))?;
        let is_the_test = |test: &String| test.rsplit("::").next() == Some(mutation.caught_by);
        let caught = failing_tests(&built.rules, mutation.caught_by)?.iter().any(is_the_test);
        let (world, how) = built.play(mutation.dies_in)?;
        by_rule += usize::from(caught);
        by_world += usize::from(world == World::Died);
        unseen += usize::from(world == World::Unseen);
        println!(
            "{:<9} {:<9} {:>5} {:<30} {}; {how}",
            if caught { "caught" } else { "SURVIVED" },
            match world {
                World::Died => "dead",
                World::Alive => "SURVIVED",
                World::Unseen => "unseen",
            },
            since.elapsed().as_secs(),
            mutation.name,
            mutation.caught_by,
        );
        for (survived, program) in [(!caught, &built.rules), (world == World::Alive, &built.stories)] {
            for test in if survived { failing_tests(program, "")? } else { BTreeSet::new() } {
                println!("          but noticed by {test}");
            }
        }
        copy.restore(whole)?;
        if caught && world != World::Alive {
            verdicts.note(mutation, world == World::Unseen)?;
        }
    }
    let all = chosen.len() - left;
    println!("\n{by_rule} of {all} caught by the test that names the rule");
    println!("{by_world} of {all} dead in the simulation, {unseen} that no world can show");
    println!("{} s; {left} not tried", begun.elapsed().as_secs());
    Ok((2 * all - by_rule - by_world - unseen, left))
}

/// Which mutations have died, by the sources and the mutation that they died with.
struct Verdicts {
    file: PathBuf,
    /// A number that stands for all sources.
    sources: u64,
    /// Without a mutation all tests pass.
    is_whole: bool,
    /// Of each mutation that has died, and whether no world can show it.
    dead: BTreeMap<u64, bool>,
}

impl Verdicts {
    /// Those that still stand.
    fn read(copy: &Copy) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        hash_tree(&copy.root.join("crates"), &mut hasher)?;
        fs::read(copy.root.join("Cargo.lock"))?.hash(&mut hasher);
        let (file, sources) = (copy.root.join("verdicts"), hasher.finish());
        let text = fs::read_to_string(&file).unwrap_or_default();
        let mut lines = text.lines();
        let is_whole = lines.next() == Some(&format!("{sources:016x}"));
        let verdict = |line: &str| {
            let (key, unseen) = line.split_once(' ')?;
            Some((u64::from_str_radix(key, 16).ok()?, unseen == "unseen"))
        };
        let dead = lines.filter(|_| is_whole).filter_map(verdict).collect();
        Ok(Verdicts { file, sources, is_whole, dead })
    }

    fn key(mutation: &Mutation) -> u64 {
        let mut hasher = DefaultHasher::new();
        (mutation.edits, mutation.caught_by).hash(&mut hasher);
        match mutation.dies_in {
            Death::Class(class, seeds, timeouts) => (class, seeds, timeouts).hash(&mut hasher),
            Death::Story(text) | Death::Unseen(text) => text.hash(&mut hasher),
        }
        hasher.finish()
    }

    fn died(&self, mutation: &Mutation) -> Option<bool> {
        self.dead.get(&Self::key(mutation)).copied()
    }

    fn forget(&mut self, mutation: &Mutation) {
        self.dead.remove(&Self::key(mutation));
    }

    fn note(&mut self, mutation: &Mutation, unseen: bool) -> Result<()> {
        self.dead.insert(Self::key(mutation), unseen);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let mut text = format!("{:016x}\n", self.sources);
        for (key, unseen) in &self.dead {
            text += &format!("{key:016x} {}\n", if *unseen { "unseen" } else { "dead" });
        }
        Ok(fs::write(&self.file, text)?)
    }
}

fn hash_tree(folder: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let entries: Result<BTreeSet<PathBuf>, _> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect();
    for path in entries? {
        path.file_name().hash(hasher);
        if path.is_dir() {
            hash_tree(&path, hasher)?;
        } else {
            fs::read(&path)?.hash(hasher);
        }
    }
    Ok(())
}

/// The mutations that the command line asks for.
fn choose(wanted: &[String]) -> Result<Vec<&'static Mutation>> {
    let named = |name: &String| {
        let index = MUTATIONS.iter().position(|mutation| mutation.name == name);
        index.with_context(|| format!("no mutation is named {name}; --list shows them"))
    };
    match wanted {
        [] => Ok(MUTATIONS.iter().collect()),
        [option, name] if option == "--from" => Ok(MUTATIONS[named(name)?..].iter().collect()),
        names => names.iter().map(|name| Ok(&MUTATIONS[named(name)?])).collect(),
    }
}

/// What became of a mutation in the simulation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum World {
    Died,
    Alive,
    Unseen,
}

/// The root of the workspace that this program was built in.
fn workspace() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().nth(2).context("the crate lies two folders below the workspace")?;
    Ok(root.to_owned())
}

/// A copy of the protocol's crate and of the simulation, in a workspace of its own below the target directory.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn make(source: &Path) -> Result<Self> {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| source.join("target"), PathBuf::from);
        let copy = Copy { root: target.join("mutants") };
        let _ = fs::remove_dir_all(copy.root.join("crates"));
        for name in ["proto", "sim"] {
            copy_tree(&source.join("crates").join(name), &copy.root.join("crates").join(name))?;
        }
        // What the rules' tests read besides their own crate.
        let read = [
            "Cargo.lock",
            "docs/protocol.md",
            "crates/rudeld/src/reception/mod.rs",
            "crates/rudeld/src/reception/judge.rs",
            "crates/rudeld/src/reception/audit.rs",
            "crates/datapath/tests/filter.rs",
            "crates/lab/tests/reception.rs",
        ];
        for file in read {
            let parent = Path::new(file).parent().unwrap_or(Path::new(""));
            fs::create_dir_all(copy.root.join(parent))?;
            fs::copy(source.join(file), copy.root.join(file)).with_context(|| format!("copying {file}"))?;
        }
        let manifest = fs::read_to_string(source.join("Cargo.toml"))?;
        let members = "members = [\"crates/*\"]";
        ensure!(
            manifest.contains(members),
            "the workspace's manifest lists its members otherwise than {members}"
        );
        let copied = "members = [\"crates/proto\", \"crates/sim\"]";
        fs::write(copy.root.join("Cargo.toml"), manifest.replace(members, copied))?;
        Ok(copy)
    }

    /// Gives the files as they were: the workspace may have changed since it was copied.
    fn apply(&self, mutation: &Mutation) -> Result<BTreeMap<PathBuf, String>> {
        let mut whole = BTreeMap::new();
        for (file, find, replace) in mutation.edits {
            let path = self.root.join("crates/proto/src").join(file);
            let text = fs::read_to_string(&path)?;
            match text.matches(find).count() {
                1 => fs::write(&path, text.replacen(find, replace, 1))?,
                count => bail!("{}: found {count} times in {file}, not once:\n{find}", mutation.name),
            }
            whole.entry(path).or_insert(text);
        }
        Ok(whole)
    }

    fn restore(&self, whole: BTreeMap<PathBuf, String>) -> Result<()> {
        for (path, text) in whole {
            fs::write(path, text)?;
        }
        Ok(())
    }

    /// Builds what is run, and nothing else: less optimised than elsewhere, since it is built far more often than run.
    fn build(&self) -> Result<Built> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["test", "--no-run", "--message-format", "json-render-diagnostics"]);
        for package in ["rudel-proto", "rudel-sim"] {
            command.args(["--config", &format!("profile.dev.package.{package}.opt-level=1")]);
        }
        command.args(["-p", "rudel-proto", "-p", "rudel-sim", "--lib", "--test", "stories"]);
        let target = self.root.join("target");
        // Broken code has warnings.
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &target).env("CARGO_NET_OFFLINE", "true");
        command.env("RUSTFLAGS", "-Awarnings").env("CARGO_PROFILE_DEV_DEBUG", "0");
        let output = command.output().context("starting cargo")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let programs: Vec<(String, PathBuf)> = text.lines().filter_map(program).collect();
        let named = |wanted: &str| {
            let found = programs.iter().find(|(name, _)| name == wanted);
            found.map(|(_, path)| path.clone()).with_context(|| format!("cargo has not built {wanted}"))
        };
        Ok(Built {
            rules: named("rudel_proto")?,
            stories: named("stories")?,
            worlds: target.join("debug/rudel-sim"),
        })
    }
}

/// The name and the path of a program that cargo says it has built.
fn program(line: &str) -> Option<(String, PathBuf)> {
    let said: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = said.get("executable")?.as_str()?;
    Some((said.get("target")?.get("name")?.as_str()?.to_owned(), path.into()))
}

/// Programs of a copy.
struct Built {
    /// The protocol's own tests.
    rules: PathBuf,
    /// The stories of the simulation.
    stories: PathBuf,
    /// The simulation itself.
    worlds: PathBuf,
}

impl Built {
    /// Whether the simulation notices, and how.
    fn play(&self, death: Death) -> Result<(World, String)> {
        let world = |dies: bool| if dies { World::Died } else { World::Alive };
        match death {
            Death::Unseen(why) => Ok((World::Unseen, why.into())),
            Death::Story(name) => {
                Ok((world(failing_tests(&self.stories, name)?.contains(name)), name.into()))
            }
            Death::Class(class, seeds, timeouts) => {
                let (seeds, timeouts) = (seeds.to_string(), timeouts.to_string());
                let arguments =
                    ["run", "--class", class, "--seed", "0", "--seeds", &seeds, "--timeouts", &timeouts];
                let played = execute(&self.worlds, &arguments)?;
                let text = String::from_utf8_lossy(&played.stdout);
                let found = text.lines().find(|line| line.starts_with("seed=")).unwrap_or("no seed fails");
                let found: String = found.chars().take(100).collect();
                Ok((world(!played.status.success()), format!("{class}: {found}")))
            }
        }
    }
}

/// Which tests fail of those of a program whose names contain this.
fn failing_tests(program: &Path, part: &str) -> Result<BTreeSet<String>> {
    let output = execute(program, &[part])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    Ok(text.lines().filter_map(failed).collect())
}

fn execute(program: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    // A world that panics needs no stack.
    command.args(arguments).env("RUST_BACKTRACE", "0");
    // Into a file: a program that says much and is not listened to would wait for ever.
    let path = program.with_extension("said");
    command.stdout(fs::File::create(&path)?).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Ok(Output { status, stdout: fs::read(&path)?, stderr: Vec::new() })
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
