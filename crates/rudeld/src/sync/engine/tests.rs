//! Rules of the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rudel_proto::seal::ClusterKey;

use super::*;
use crate::sync::conntrack::{TCP, UDP};

mod healing;
mod moving;
mod telling;
mod world;
