//! bpf(2) for links, which aya wraps too coarsely for us: it hides which interface a link is on, falls back to an
//! attachment that cannot be pinned, and detaches only when the last reference goes, at some later time.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

const BPF_ATTACH_TYPE_XDP: u32 = 37;
const BPF_LINK_TYPE_XDP: u32 = 6;

/// `XDP_FLAGS_SKB_MODE`: the stack runs the program.
pub(crate) const XDP_FLAGS_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`: the driver runs it.
pub(crate) const XDP_FLAGS_NATIVE: u32 = 1 << 2;

/// `BPF_F_TEST_XDP_LIVE_FRAMES`: what the program passes goes up the stack (since Linux 5.18).
const LIVE_FRAMES: u32 = 1 << 1;

// The members of `union bpf_attr` that we use, each with its own beginning of the union.

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    /// The union is aligned to eight bytes.
    pad: u32,
}
const _: () = assert!(size_of::<TestRun>() == 80);

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}
const _: () = assert!(size_of::<XdpContext>() == 24);

#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info`, as the kernel fills it in for a link of an XDP program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RawLinkInfo {
    link_type: u32,
    id: u32,
    prog_id: u32,
    /// The union that follows is aligned to eight bytes.
    pad: u32,
    ifindex: u32,
    rest: [u32; 11],
}
const _: () = assert!(std::mem::offset_of!(RawLinkInfo, ifindex) == 16);

/// bpf(2) with an attribute of which the kernel reads as much as we have, and takes the rest for zero.
fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_long> {
    let bytes = size_of::<T>() as libc::c_uint;
    // SAFETY: the attribute is a live `repr(C)` value of the given size, laid out as the command expects, and every
    // pointer in it is to memory that its caller keeps alive and that is as long as it says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// For commands that return a new file descriptor.
fn bpf_fd<T>(command: libc::c_int, attribute: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attribute)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Runs an XDP program on a frame as if it had come in by this interface of the calling thread's network namespace.
pub(crate) fn run_live(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    let context =
        XdpContext { data_end: frame.len() as u32, ingress_ifindex: ifindex, ..XdpContext::default() };
    let mut attribute = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        ctx_size_in: size_of::<XdpContext>() as u32,
        ctx_in: std::ptr::from_ref(&context) as u64,
        flags: LIVE_FRAMES,
        batch_size: 1,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attribute).map(drop)
}

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Where a link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    /// The kernel's number of the program.
    pub(crate) program_id: u32,
    /// 0 if the interface is gone.
    pub(crate) ifindex: u32,
}

/// An XDP program's attachment to an interface. It holds while a process has it open or it is pinned.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    /// Attaches a program, with `XDP_FLAGS_*`.
    pub(crate) fn create(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<Self> {
        let mut attribute = LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            target_ifindex: ifindex,
            attach_type: BPF_ATTACH_TYPE_XDP,
            flags,
        };
        bpf_fd(BPF_LINK_CREATE, &mut attribute).map(Self)
    }

    /// Opens a pinned link. Anything else that is pinned there is `InvalidData`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let path = path_string(path)?;
        let mut attribute = Object { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
        let link = bpf_fd(BPF_OBJ_GET, &mut attribute).map(Self)?;
        link.info()?;
        Ok(link)
    }

    pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = path_string(path)?;
        let mut attribute =
            Object { pathname: path.as_ptr() as u64, bpf_fd: self.0.as_raw_fd() as u32, file_flags: 0 };
        bpf(BPF_OBJ_PIN, &mut attribute).map(drop)
    }

    /// Replaces the program; no packet meets none or both.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attribute = LinkUpdate {
            link_fd: self.0.as_raw_fd() as u32,
            new_prog_fd: program.as_raw_fd() as u32,
            flags: 0,
            old_prog_fd: 0,
        };
        bpf(BPF_LINK_UPDATE, &mut attribute).map(drop)
    }

    /// Detaches the program at once, whoever else holds the link.
    pub(crate) fn detach(&self) -> io::Result<()> {
        let mut attribute = LinkDetach { link_fd: self.0.as_raw_fd() as u32 };
        bpf(BPF_LINK_DETACH, &mut attribute).map(drop)
    }

    pub(crate) fn info(&self) -> io::Result<LinkInfo> {
        let mut info = RawLinkInfo::default();
        let mut attribute = GetInfo {
            bpf_fd: self.0.as_raw_fd() as u32,
            info_len: size_of::<RawLinkInfo>() as u32,
            info: std::ptr::from_mut(&mut info) as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attribute)?;
        // Information about a program or a map would start otherwise, and would be longer than what a link fills in.
        if info.link_type != BPF_LINK_TYPE_XDP {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not the link of an XDP program"));
        }
        Ok(LinkInfo { program_id: info.prog_id, ifindex: info.ifindex })
    }
}
