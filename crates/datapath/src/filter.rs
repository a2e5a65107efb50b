//! The packet program as a function from packet to packet.

use aya::{
    Ebpf,
    programs::{ProgramError, TestRun, TestRunOptions},
};

use crate::{
    error::{Error, Result},
    refusal::classify,
    xdp::PROGRAM,
};

/// The filter for one interface, loaded but not attached.
#[derive(Debug)]
pub struct Filter {
    pub(crate) object: Ebpf,
}

/// What the kernel does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Up the stack.
    Pass,
    /// Dropped.
    Drop,
    /// What the filter never says, as the kernel numbers it.
    Other(u32),
}

/// What the filter made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// What becomes of it.
    pub action: Action,
    /// As it leaves the filter.
    pub packet: Vec<u8>,
    /// How long one run took, on average, in nanoseconds.
    pub duration_ns: u64,
}

impl Filter {
    /// Runs the filter on a frame, `repeat` times, by `BPF_PROG_TEST_RUN`. It counts as any other packet. The kernel
    /// takes frames of 14 bytes to somewhat less than a page.
    pub fn run(&self, packet: &[u8], repeat: u32) -> Result<DryRun> {
        let mut output = vec![0; packet.len()];
        let result = self
            .program()?
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut output),
                repeat,
                ..TestRunOptions::default()
            })
            .map_err(|error| classify("run the packet program", error))?;
        output.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            other => Action::Other(other),
        };
        Ok(DryRun { action, packet: output, duration_ns: result.duration.as_nanos() as u64 })
    }

    /// Instructions that the verifier walked through to accept the program; none if the kernel does not say.
    pub fn verified_instructions(&self) -> Result<Option<u32>> {
        let info = self.program()?.info().map_err(|error| classify("ask about the packet program", error))?;
        Ok(info.verified_instruction_count())
    }

    fn program(&self) -> Result<&aya::programs::Xdp> {
        self.object
            .program(PROGRAM)
            .ok_or(ProgramError::NotLoaded)
            .and_then(|program| program.try_into())
            .map_err(|error| Error::Object(error.into()))
    }

    pub(crate) fn fd(&self) -> Result<&aya::programs::ProgramFd> {
        self.program()?.fd().map_err(|error| Error::Object(error.into()))
    }
}
