//! Breaks the rules of the protocol one by one, and looks whether the tests notice.
//!
//! Each [`Mutation`] is an edit to a copy of the protocol's source, the name of the rule's test that must fail because of it,
//! and the class of worlds or the story in which the simulation must notice.
//! A test suite in which one survives is not finished; a mutation that no longer applies, or does not compile, fails too,
//! so that the list keeps up with the code.
//!
//! ```text
//! rudel-mutants              all of them
//! rudel-mutants NAME ...     some
//! rudel-mutants --list       what there is
//! ```

#![forbid(unsafe_code)]

mod mutations;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use anyhow::{Context as _, Result, bail, ensure};

use mutations::{Death, MUTATIONS, Mutation};

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rudel-mutants: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns how many mutations survived.
fn run() -> Result<usize> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.iter().any(|word| word == "--list") {
        for mutation in MUTATIONS {
            println!("{:<28} {}", mutation.name, mutation.about);
        }
        return Ok(0);
    }
    let chosen: Vec<&Mutation> =
        MUTATIONS.iter().filter(|m| wanted.is_empty() || wanted.iter().any(|name| name == m.name)).collect();
    ensure!(!chosen.is_empty(), "no mutation is named {}; --list shows them", wanted.join(", "));

    let source = workspace()?;
    let copy = Copy::make(&source)?;
    copy.build()?;
    ensure!(copy.failing_tests()?.is_empty(), "the tests fail without any mutation: mend that first");
    println!("{:<9} {:<9} {:<30} rule test; simulation", "rule", "world", "mutation");
    let (mut by_rule, mut by_world, mut unseen) = (0, 0, 0);
    for mutation in &chosen {
        copy.restore(mutation)?;
        copy.apply(mutation)?;
        copy.build().with_context(|| format!("{}: does it still compile?", mutation.name))?;
        let failing = copy.failing_tests()?;
        let caught = failing.iter().any(|test| test.rsplit("::").next() == Some(mutation.caught_by));
        let (world, how) = copy.play(mutation.dies_in)?;
        copy.restore(mutation)?;
        by_rule += usize::from(caught);
        by_world += usize::from(world == World::Died);
        unseen += usize::from(world == World::Unseen);
        println!(
            "{:<9} {:<9} {:<30} {} (of {} that failed); {how}",
            if caught { "caught" } else { "SURVIVED" },
            match world {
                World::Died => "dead",
                World::Alive => "SURVIVED",
                World::Unseen => "unseen",
            },
            mutation.name,
            mutation.caught_by,
            failing.len(),
        );
        for test in failing.iter().filter(|_| !caught) {
            println!("          but noticed by {test}");
        }
    }
    let all = chosen.len();
    println!("\n{by_rule} of {all} caught by the test that names the rule");
    println!("{by_world} of {all} dead in the simulation, {unseen} that no world can show");
    Ok(2 * all - by_rule - by_world - unseen)
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
    source: PathBuf,
    root: PathBuf,
}

impl Copy {
    fn make(source: &Path) -> Result<Self> {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| source.join("target"), PathBuf::from);
        let copy = Copy { source: source.to_owned(), root: target.join("mutants") };
        let _ = fs::remove_dir_all(copy.root.join("crates"));
        for name in ["proto", "sim"] {
            copy_tree(&source.join("crates").join(name), &copy.root.join("crates").join(name))?;
        }
        fs::create_dir_all(copy.root.join("docs"))?;
        for file in ["Cargo.lock", "docs/protocol.md"] {
            fs::copy(source.join(file), copy.root.join(file)).with_context(|| format!("copying {file}"))?;
        }
        let manifest = fs::read_to_string(source.join("Cargo.toml"))?;
        let members = "members = [\"crates/*\"]";
        ensure!(
            manifest.contains(members),
            "the workspace's manifest lists its members otherwise than {members}"
        );
        fs::write(copy.root.join("Cargo.toml"), manifest)?;
        Ok(copy)
    }

    fn apply(&self, mutation: &Mutation) -> Result<()> {
        for (file, find, replace) in mutation.edits {
            let path = self.root.join("crates/proto/src").join(file);
            let text = fs::read_to_string(&path)?;
            match text.matches(find).count() {
                1 => fs::write(&path, text.replacen(find, replace, 1))?,
                count => bail!("{}: found {count} times in {file}, not once:\n{find}", mutation.name),
            }
        }
        Ok(())
    }

    fn restore(&self, mutation: &Mutation) -> Result<()> {
        for (file, _, _) in mutation.edits {
            let path = Path::new("crates/proto/src").join(file);
            // Not `fs::copy`: cargo looks at the time of the last change.
            fs::write(self.root.join(&path), fs::read(self.source.join(&path))?)?;
        }
        Ok(())
    }

    /// Builds what is run, and nothing else.
    fn build(&self) -> Result<()> {
        let built = self.cargo(&[
            "test",
            "-p",
            "rudel-proto",
            "-p",
            "rudel-sim",
            "--lib",
            "--test",
            "stories",
            "--no-run",
        ])?;
        ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Ok(())
    }

    fn failing_tests(&self) -> Result<BTreeSet<String>> {
        let output = self.cargo(&["test", "-p", "rudel-proto", "--lib", "--no-fail-fast"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let failing = text
            .lines()
            .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned))
            .collect();
        Ok(failing)
    }

    /// Whether the simulation notices, and how.
    fn play(&self, death: Death) -> Result<(World, String)> {
        let world = |dies: bool| if dies { World::Died } else { World::Alive };
        match death {
            Death::Unseen(why) => Ok((World::Unseen, why.into())),
            Death::Story(name) => {
                let played =
                    self.cargo(&["test", "-p", "rudel-sim", "--test", "stories", "--", "--exact", name])?;
                Ok((world(!played.status.success()), name.into()))
            }
            Death::Class(class, seeds, timeouts) => {
                let (seeds, timeouts) = (seeds.to_string(), timeouts.to_string());
                let arguments =
                    ["run", "--class", class, "--seed", "0", "--seeds", &seeds, "--timeouts", &timeouts];
                let played =
                    self.cargo(&[["run", "-q", "-p", "rudel-sim", "--"].as_slice(), &arguments].concat())?;
                let text = String::from_utf8_lossy(&played.stdout);
                let found = text.lines().find(|line| line.starts_with("seed=")).unwrap_or("no seed fails");
                let found: String = found.chars().take(100).collect();
                Ok((world(!played.status.success()), format!("{class}: {found}")))
            }
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Result<Output> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(arguments).current_dir(&self.root);
        // Broken code has warnings; a world that panics needs no stack.
        command.env("CARGO_TARGET_DIR", self.root.join("target")).env("CARGO_NET_OFFLINE", "true");
        command.env("RUSTFLAGS", "-Awarnings").env("RUST_BACKTRACE", "0");
        command.output().context("starting cargo")
    }
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
