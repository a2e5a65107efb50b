//! A recording of a real daemon (`rudeld --record FILE`), stepped through the same protocol.

use std::io::{BufRead, Write};

use rudel_proto::machine::Action;
use rudel_proto::record::{Input, Replay};
use rudel_proto::wire::Message;

/// Steps through the lines of a recording, and writes what went in and what came of it.
///
/// # Errors
/// A line that is no part of a recording, named by its number, or a file that cannot be read or written.
pub fn replay(recording: impl BufRead, out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    let mut lines = recording.lines();
    let first = lines.next().ok_or("the recording is empty")??;
    let mut node = Replay::start(&first)?;
    let begin = node.begun_at();
    let (name, run) = (node.machine().config().name.clone(), node.me().incarnation);
    writeln!(out, "{name} begins as run {}", run.0)?;
    tell(&mut node, 0, out)?;
    for line in lines {
        let (record, answer) = node.step(&line?)?;
        let since = record.at.saturating_sub(begin);
        match &record.input {
            Input::Message { from, sequence, message, .. } => {
                let what = match Message::decode(message) {
                    Ok(Message::Pulse(pulse)) => {
                        format!("pulse, {}, view {}", pulse.state.as_str(), pulse.adopted.epoch)
                    }
                    Ok(other) => format!("{other:?}"),
                    Err(error) => error.into(),
                };
                writeln!(out, "{} < {from} #{sequence}: {what}", at(since))?;
            }
            Input::Command { command } => writeln!(out, "{} ! {command:?}", at(since))?,
            // Timers and sent pulses are daily business: what comes of them is told.
            Input::Start { .. } | Input::Timeout | Input::PulseSent => {}
        }
        if let Err(rejection) = answer {
            writeln!(out, "{}   rejected: {rejection}", at(since))?;
        }
        tell(&mut node, since, out)?;
    }
    Ok(())
}

fn tell(node: &mut Replay, since: u64, out: &mut impl Write) -> std::io::Result<()> {
    while let Some(action) = node.machine().poll_action() {
        match action {
            Action::Send { message: Message::Pulse(pulse), sequence, .. } => {
                let settled = if pulse.settled { "settled in" } else { "in" };
                writeln!(
                    out,
                    "{} > #{sequence} pulse, {}, {settled} view {}",
                    at(since),
                    pulse.state.as_str(),
                    pulse.adopted.epoch
                )?;
            }
            Action::Send { sequence, .. } => writeln!(out, "{} > #{sequence} not a pulse", at(since))?,
            Action::Own(owned) => writeln!(out, "{} = owns {}", at(since), owned.len())?,
            Action::Keep => writeln!(out, "{} = keeps {}", at(since), node.machine().kept().len())?,
            Action::Event(event) => writeln!(out, "{} * {}: {event}", at(since), event.kind())?,
            Action::Ordered { ticket, outcome } => {
                writeln!(out, "{} = order {ticket}: {outcome:?}", at(since))?;
            }
            Action::Terms(digest) => writeln!(out, "{} = terms {digest:016x}", at(since))?,
            Action::Incarnation(incarnation) => writeln!(out, "{} = run {}", at(since), incarnation.0)?,
            Action::Examine(number) => writeln!(out, "{} = examination {number}", at(since))?,
            Action::Lease(_) => {}
            Action::Stopped => writeln!(out, "{} = stopped", at(since))?,
        }
    }
    Ok(())
}

/// Milliseconds since the recording began.
fn at(nanos: u64) -> String {
    format!("{:>10}.{:03}", nanos / 1_000_000, nanos / 1_000 % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_becomes_a_story() {
        let lines = [
            r#"{"at":1000000000,"input":"start","cluster":"web","name":"n1","host":7,"digest":1,"quorum":1,"timeout_us":400000,"interval_us":50000,"handover":false,"weight":100,"incarnation":5}"#,
            r#"{"at":1000000000,"input":"timeout"}"#,
            r#"{"at":1050000000,"input":"command","command":{"drain":true}}"#,
            r#"{"at":1050000000,"input":"command","command":"leave"}"#,
        ];
        let mut out = Vec::new();
        replay(lines.join("\n").as_bytes(), &mut out).unwrap();
        let story = String::from_utf8(out).unwrap();
        for part in [
            "n1 begins as run 5",
            "0.000 > #1 pulse, listening, in view 0",
            "50.000 ! Drain(true)",
            "50.000 ! Leave",
        ] {
            assert!(story.contains(part), "{part} is missing in:\n{story}");
        }
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        let mut out = Vec::new();
        assert_eq!(replay(&b""[..], &mut out).unwrap_err().to_string(), "the recording is empty");
        let error = replay(&b"hello\n"[..], &mut out).unwrap_err().to_string();
        assert!(error.starts_with("line 1: "), "{error}");
    }
}
