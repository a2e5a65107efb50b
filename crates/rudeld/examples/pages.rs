//! Writes the daemon's manual page and completions into a directory, from the source that is also its `--help`.
//!
//! No part of the daemon: what makes pages has no business in a process with privileges.

use std::fs::{self, File};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use rudeld::options::Options;

fn main() -> std::io::Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).expect("usage: pages DIR"));
    let mut command = Options::command().name("rudeld");
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut file = File::create(dir.join(format!("rudeld.{shell}")))?;
        clap_complete::generate(shell, &mut command, "rudeld", &mut file);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).section("8").render(&mut page)?;
    fs::write(dir.join("rudeld.8"), page)
}
