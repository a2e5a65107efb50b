//! Which machine's frames carried which flow, as a host sees it arrive.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Namespace;

const ETHERTYPE_V4: u16 = 0x0800;
const ETHERTYPE_V6: u16 = 0x86dd;
/// Headers are all that is looked at.
const SNAP: usize = 128;
const BUFFER_BYTES: i32 = 64 << 20;
const LOOK: Duration = Duration::from_millis(100);

/// One direction of a flow: protocol, where it comes from, where it goes to. The identifier of an echo stands for both ports.
pub type Flow = (u8, SocketAddr, SocketAddr);
/// The machines that sent a flow's frames, each as often as it took over from another.
pub type Senders = BTreeMap<Flow, Vec<[u8; 6]>>;

/// Frames that arrive on all interfaces of a namespace, until it is finished.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Senders>>,
}

impl Capture {
    /// Begins to look.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for ethertype in [ETHERTYPE_V4, ETHERTYPE_V6] {
            let socket = namespace.run(|| -> io::Result<Socket> {
                let protocol = Protocol::from(i32::from(ethertype.to_be()));
                let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
                crate::sys::force_receive_buffer(&socket, BUFFER_BYTES)?;
                socket.set_read_timeout(Some(LOOK))?;
                Ok(socket)
            })??;
            let stopped = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || look(socket, &stopped)));
        }
        Ok(Self { stop, threads })
    }

    /// What was seen.
    pub fn finish(self) -> Senders {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    }
}

fn look(mut socket: Socket, stop: &AtomicBool) -> Senders {
    let mut seen = Senders::new();
    let mut frame = [0; SNAP];
    while !stop.load(Ordering::Relaxed) {
        // Nothing within the time-out: look whether the end has come.
        let Ok(length) = socket.read(&mut frame) else { continue };
        if let Some((sender, flow)) = parse(&frame[..length]) {
            let senders = seen.entry(flow).or_default();
            if senders.last() != Some(&sender) {
                senders.push(sender);
            }
        }
    }
    seen
}

/// Who sent a frame, and what flow it is of; none if it is none of TCP, UDP and echoes, or a later fragment.
fn parse(frame: &[u8]) -> Option<([u8; 6], Flow)> {
    let sender = *frame.get(6..)?.first_chunk()?;
    let packet = frame.get(14..)?;
    let (protocol, from, to, rest): (u8, IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0xf) * 4;
            let fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x1fff;
            let address = |at: usize| packet.get(at..)?.first_chunk::<4>().copied().map(IpAddr::from);
            (fragment == 0).then_some((*packet.get(9)?, address(12)?, address(16)?, packet.get(header..)?))?
        }
        6 => {
            let address = |at: usize| packet.get(at..)?.first_chunk::<16>().copied().map(IpAddr::from);
            (*packet.get(6)?, address(8)?, address(24)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*rest.get(at..)?.first_chunk()?));
    let (from_port, to_port) = match (protocol, rest.first()?) {
        (6 | 17, _) => (port(0)?, port(2)?),
        (1, 0 | 8) | (58, 128 | 129) => (port(4)?, port(4)?),
        _ => return None,
    };
    Some((sender, (protocol, SocketAddr::new(from, from_port), SocketAddr::new(to, to_port))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_tells_its_flow() {
        let mut frame = vec![0; 12];
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        frame.extend([8, 0]);
        frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0]);
        let (sender, (protocol, from, to)) = parse(&frame).expect("a flow");
        assert_eq!((sender, protocol), ([2, 0, 0, 0, 0, 9], 6));
        assert_eq!((from.to_string(), to.to_string()), ("10.0.0.1:40000".into(), "10.0.0.2:80".into()));
        frame[14 + 7] = 1;
        assert_eq!(parse(&frame), None, "a later fragment");
        for length in 0..frame.len() - 6 {
            assert_eq!(parse(&frame[..length]), None);
        }
    }
}
