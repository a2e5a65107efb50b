//! `make docs`: makes the tables of the configuration's manual anew, from what the parser knows of each key.

use std::path::PathBuf;

use rudel_api::config::reference;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = PathBuf::from(
        std::env::args_os().nth(1).ok_or("usage: configuration PAGE, such as docs/configuration.md")?,
    );
    let page =
        std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let made = reference::fill(&page)?;
    if made != page {
        std::fs::write(&path, made).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}
