//! What the kernel knows of an interface: its name, its kind, and the XDP program on it.
//!
//! Asked by rtnetlink, which always answers for the caller's network namespace; sysfs shows the one that it was mounted
//! in. Only the few attributes that matter are read, so that an unknown one cannot get in the way.

use std::io;

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;

const NLMSG_HEADER_BYTES: usize = 16;
const IFINFO_BYTES: usize = 16;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Bits of an attribute's type that say how it is encoded.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// How an XDP program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XdpMode {
    Native,
    Generic,
    /// In the device, or several at once.
    Offloaded,
}

/// The XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpProgram {
    pub(crate) id: u32,
    pub(crate) mode: XdpMode,
}

/// What the kernel knows of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// "veth", "bridge", ...; none for what has a driver of its own.
    pub(crate) kind: Option<String>,
    pub(crate) program: Option<XdpProgram>,
}

/// None if there is no such interface in this network namespace.
pub(crate) fn query(ifindex: u32) -> io::Result<Option<Device>> {
    let mut request = Vec::with_capacity(NLMSG_HEADER_BYTES + IFINFO_BYTES);
    request.extend(((NLMSG_HEADER_BYTES + IFINFO_BYTES) as u32).to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence number, port
    request.extend([0; 4]); // family, pad, type
    request.extend(ifindex.to_ne_bytes());
    request.extend([0; 8]); // flags, change

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    parse(&reply)
}

fn parse(reply: &[u8]) -> io::Result<Option<Device>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a netlink message that makes no sense");
    let body = reply.get(NLMSG_HEADER_BYTES..).ok_or_else(malformed)?;
    match u16::from_ne_bytes([reply[4], reply[5]]) {
        RTM_NEWLINK => {}
        NLMSG_ERROR => {
            let number = body.first_chunk().copied().map(i32::from_ne_bytes).ok_or_else(malformed)?;
            return match -number {
                libc::ENODEV => Ok(None),
                number => Err(io::Error::from_raw_os_error(number)),
            };
        }
        _ => return Err(malformed()),
    }

    let mut device = Device::default();
    for (kind, value) in attributes(body.get(IFINFO_BYTES..).ok_or_else(malformed)?) {
        match kind {
            IFLA_IFNAME => device.name = text(value),
            IFLA_LINKINFO => {
                device.kind =
                    attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND).map(|(_, value)| text(value));
            }
            IFLA_XDP => device.program = parse_xdp(value),
            _ => {}
        }
    }
    Ok(Some(device))
}

fn parse_xdp(nested: &[u8]) -> Option<XdpProgram> {
    let find = |wanted| attributes(nested).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let mode = match find(IFLA_XDP_ATTACHED)?.first()? {
        0 => return None,
        1 => XdpMode::Native,
        2 => XdpMode::Generic,
        _ => XdpMode::Offloaded,
    };
    // With several programs, the kernel names none here: there is none with the number 0.
    let id =
        find(IFLA_XDP_PROG_ID).and_then(|value| value.first_chunk().copied()).map_or(0, u32::from_ne_bytes);
    Some(XdpProgram { id, mode })
}

/// Type and value of each attribute, up to the first that does not fit.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk()?;
        let bytes = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..bytes)?;
        rest = rest.get(bytes.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value))
    })
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn loopback_is_there_and_nothing_has_index_two_billion() {
        let loopback = query(1).expect("netlink answers").expect("there is a loopback interface");
        assert_eq!(loopback.name, "lo");
        assert_eq!(query(2_000_000_000).expect("netlink answers"), None);
    }

    #[test]
    fn name_kind_and_program() {
        let mut body = vec![0; IFINFO_BYTES];
        body.extend(attribute(IFLA_IFNAME, b"veth0\0"));
        body.extend(attribute(IFLA_LINKINFO | 1 << 15, &attribute(IFLA_INFO_KIND, b"veth")));
        let xdp =
            [attribute(IFLA_XDP_ATTACHED, &[2]), attribute(IFLA_XDP_PROG_ID, &77u32.to_ne_bytes())].concat();
        body.extend(attribute(IFLA_XDP, &xdp));
        let expected = Device {
            name: "veth0".into(),
            kind: Some("veth".into()),
            program: Some(XdpProgram { id: 77, mode: XdpMode::Generic }),
        };
        assert_eq!(parse(&message(RTM_NEWLINK, &body)).expect("a good message"), Some(expected));
    }

    #[test]
    fn cut_messages_do_not_panic() {
        let mut body = vec![0; IFINFO_BYTES];
        body.extend(attribute(IFLA_XDP, &attribute(IFLA_XDP_ATTACHED, &[1])));
        let whole = message(RTM_NEWLINK, &body);
        for length in 0..whole.len() {
            let _ = parse(&whole[..length]);
        }
    }
}
