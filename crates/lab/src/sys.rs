//! The few system calls that the standard library does not offer, each behind a safe function.
//!
//! This is the only module of the crate with `unsafe` in it. Functions said to be *fork-safe* allocate nothing and take
//! no lock, so they may run between `fork` and `exec`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves the calling thread into a network namespace. Fork-safe.
pub(crate) fn enter_netns(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, which the borrow keeps open, and touches no memory of ours.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Sends a signal to one process.
pub(crate) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: kill takes plain numbers. `pid` is positive, so it names one process.
    check(unsafe { libc::kill(pid, signal) })
}

/// How many segments the kernel has sent again on a TCP connection.
pub(crate) fn retransmissions(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the structure consists of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: the buffer is as long as the length says, and both live longer than the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(info.tcpi_total_retrans) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to a process group.
pub(crate) fn kill_group(leader: u32, signal: i32) -> io::Result<()> {
    let leader = libc::pid_t::try_from(leader).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: killpg takes plain numbers. `leader` is a process that was made leader of a group of its own.
    check(unsafe { libc::killpg(leader, signal) })
}

/// Is this process the superuser?
pub fn is_root() -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Mounts a BPF file system of its own on a directory.
pub(crate) fn mount_bpffs(path: &Path) -> io::Result<()> {
    let target = c_path(path)?;
    // SAFETY: all four pointers are NUL-terminated strings that outlive the call; bpffs needs no data.
    check(unsafe {
        libc::mount(c"rudel-lab".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null())
    })
}

/// Detaches a mount. No mount there is not an error.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    let target = c_path(path)?;
    // SAFETY: the pointer is a NUL-terminated string that outlives the call.
    match check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

/// Makes `bpf(2)` answer "no such system call" to this process and its children, as a kernel built without BPF does.
/// Fork-safe.
pub(crate) fn deny_bpf() -> io::Result<()> {
    const fn statement(code: u32, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
    }
    // Word 0 of seccomp_data is the number of the call.
    let program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_bpf as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut() };
    // SAFETY: `filter` points at `program`, both live until the calls return; the kernel copies the program.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter))
    }
}

/// Lets this process open as many files as it is allowed to: an audit has one socket for each flow.
pub(crate) fn raise_file_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a live rlimit of ours.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))
    }
}

/// Gives a socket a receive buffer beyond the limit of unprivileged ones.
pub fn force_receive_buffer(socket: &impl std::os::fd::AsRawFd, bytes: i32) -> io::Result<()> {
    // SAFETY: the option's value is an int, which lives until the call returns.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    check(set)
}

/// Adds a step to a command that runs in the child, between `fork` and `exec`. The step must be fork-safe.
pub(crate) fn before_exec(
    command: &mut std::process::Command,
    step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: the steps of this crate are `enter_netns` and `deny_bpf`, which are fork-safe.
    unsafe {
        command.pre_exec(step);
    }
}

/// A thread that was stopped by ptrace(2): to its process it hangs, and nobody is told. It runs on when this is dropped;
/// if its process is killed meanwhile, [`Hung::bury`] must be called.
#[derive(Debug)]
pub struct Hung(libc::pid_t);

/// Makes one thread hang. The calling thread must be the one that lets it go.
pub fn hang_thread(tid: i32) -> io::Result<Hung> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: both requests take no memory of ours; the tracee is only stopped.
    unsafe {
        check(libc::ptrace(libc::PTRACE_SEIZE, tid, none, none) as libc::c_int)?;
        check(libc::ptrace(libc::PTRACE_INTERRUPT, tid, none, none) as libc::c_int)?;
    }
    let hung = Hung(tid);
    hung.wait()?;
    Ok(hung)
}

impl Hung {
    fn wait(&self) -> io::Result<libc::c_int> {
        let mut status = 0;
        // SAFETY: `status` lives through the call.
        check(unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) })?;
        Ok(status)
    }

    /// Waits until the thread was killed.
    pub fn bury(self) -> io::Result<()> {
        loop {
            let status = self.wait()?;
            if libc::WIFSIGNALED(status) || libc::WIFEXITED(status) {
                std::mem::forget(self);
                return Ok(());
            }
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as above; it fails only if the thread is dead.
        unsafe {
            libc::ptrace(libc::PTRACE_DETACH, self.0, none, none);
        }
    }
}
