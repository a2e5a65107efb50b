//! Whether an interface has a carrier. The cluster's own interfaces need no such check: the daemon watches them
//! anyway, and acts at once.

use crate::host::links;
use crate::host::{Link as HostLink, LinkError};

use super::Blocking;

pub(super) struct Link {
    name: String,
    looking: Blocking<Result<HostLink, LinkError>>,
}

impl Link {
    pub(super) fn new(name: &str) -> Self {
        Link { name: name.to_owned(), looking: Blocking::new() }
    }

    pub(super) async fn ask(&mut self) -> Result<(), String> {
        let name = self.name.clone();
        let link = self.looking.run(move || links::find(&name)).await?.map_err(|error| match error {
            LinkError::NotFound { name } => format!("there is no interface {name}"),
            other => other.to_string(),
        })?;
        match (link.up, link.carrier) {
            (false, _) => Err(format!("{} is switched off", link.name)),
            (true, false) => Err(format!("{} has no carrier", link.name)),
            (true, true) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn loopback_has_a_carrier_and_what_does_not_exist_has_none() {
        assert_eq!(Link::new("lo").ask().await, Ok(()));
        let error = Link::new("nowhere0").ask().await.unwrap_err();
        assert_eq!(error, "there is no interface nowhere0");
    }
}
