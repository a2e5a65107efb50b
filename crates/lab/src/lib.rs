//! Clusters of network namespaces on one machine, with real daemons, real servers and real traffic.
//!
//! [`Lab`] is the world: it builds a switch, nodes and clients, each in a network namespace, starts `rudeld`, nginx and
//! dnsmasq on the nodes, and removes everything again whatever happens. Nothing outside of those namespaces and of the lab's
//! own directory is touched: the machine's own namespace does not get as much as a device.
//!
//! With [`router::Router`] in its settings, the cluster is a router between the clients' network and another one of
//! [`router::Host`]s.
//!
//! [`client`] asks single questions from a chosen address, [`probe`] keeps asking while something happens and counts every
//! answer, [`Status`] reads what a daemon says, [`Footprint`] what it left behind.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let mut lab = rudel_lab::Lab::builder().nodes(3).build()?;
//! lab.start()?;
//! lab.power_off("n2")?;
//! lab.wait_at_rest(&["n1", "n3"])?;
//! # Ok(()) }
//! ```

mod browser;
pub mod capture;
pub mod client;
pub mod failover;
mod footprint;
mod lab;
pub mod line;
mod netns;
mod node;
pub mod probe;
mod process;
pub mod router;
pub mod service;
pub mod session;
mod settings;
pub mod status;
pub mod store;
mod sys;
pub mod traffic;
mod wait;

pub use browser::Browser;
pub use footprint::Footprint;
pub use lab::{Builder, Client, Lab, Plan, REST_DEADLINE};
pub use netns::Namespace;
pub use node::{Node, rudel, rudeld};
pub use process::Process;
pub use settings::{Settings, VIP4, VIP6};
pub use status::{Owners, Status};
pub use sys::{Hung, force_receive_buffer, hang_thread, is_root};
pub use wait::wait_until;
