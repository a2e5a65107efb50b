//! `rudel events`.

use std::time::Duration;

use anstyle::Style;
use rudel_api::control::{Client, ClientError};
use rudel_api::event::{Event, EventKind, Tone};
use serde_json::value::RawValue;

use crate::Outcome;
use crate::failure::Failure;
use crate::layout::{BAD, BOLD, DIM, GOOD, NOTE, PLAIN, paint, wrap};
use crate::output;
use crate::target::Target;

/// Show what happened, and why
///
/// The history of the node of this machine: nodes that came, went and were given up, views, drains, health, links,
/// rejected datagrams. It outlives restarts of the daemon. Times are UTC, as in the daemon's log.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel events
  rudel events --follow
  rudel events --last 20 --node n2
  rudel events --kind expired,stalled --json | jq -r .reason")]
pub(crate) struct Args {
    /// Go on and print what happens; a daemon that is started again is waited for
    #[arg(short, long)]
    follow: bool,
    /// Print only so many of the last [default: all, with --follow 10]
    #[arg(short = 'n', long, value_name = "COUNT")]
    last: Option<usize>,
    /// Print only what is about this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Print only these kinds, with commas in between
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    kind: Vec<EventKind>,
    /// Print one JSON object per line; its names are a promise to scripts
    #[arg(long)]
    json: bool,
}

/// How many of the past events are shown to somebody who wants the coming ones.
const LAST_WHEN_FOLLOWING: usize = 10;
/// From one attempt to reach the daemon to the next.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// What is left for the reason at least, whatever the width.
const REASON_WIDTH_MIN: usize = 24;
const KIND_WIDTH: usize = 11;
/// Longer names widen their own line only.
const NODE_WIDTH_MAX: usize = 16;
/// From this width on the day stands in each line, and the reason has room all the same.
const DATED_WIDTH_MIN: usize = 110;

fn kind(text: &str) -> Result<EventKind, String> {
    match text.parse() {
        Ok(EventKind::Unknown) | Err(_) => {
            let known = EventKind::ALL.iter().filter(|kind| **kind != EventKind::Unknown);
            let known: Vec<&str> = known.map(|kind| kind.as_str()).collect();
            Err(format!("no such kind; known are {}", known.join(", ")))
        }
        Ok(kind) => Ok(kind),
    }
}

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    let mut client = target.connect()?;
    let mut page = Page::new(output::terminal_width());
    if !args.follow {
        let events = client.events_json(None)?;
        page.print(&client, &events, args, args.last)?;
        return Ok(Outcome::Done);
    }
    let past = client.follow_json(None)?;
    page.print(&client, &past, args, Some(args.last.unwrap_or(LAST_WHEN_FOLLOWING)))?;
    let mut after = newest(&client, &past)?;
    loop {
        match client.next_events_json() {
            Ok(events) => {
                page.print(&client, &events, args, None)?;
                after = newest(&client, &events)?.or(after);
            }
            Err(error @ (ClientError::Lost { .. } | ClientError::Timeout { .. })) => {
                output::complain(&format!("rudel: {error}: waiting for it"));
                let (again, missed) = reconnect(target, after)?;
                client = again;
                page.print(&client, &missed, args, None)?;
                after = newest(&client, &missed)?.or(after);
            }
            Err(error) => return Err(error.into()),
        }
        if output::is_closed() {
            return Ok(Outcome::Done);
        }
    }
}

/// Tries until a daemon answers; gives what was missed meanwhile.
fn reconnect(target: &Target, after: Option<u64>) -> Result<(Client, Vec<Box<RawValue>>), Failure> {
    loop {
        std::thread::sleep(RETRY_EVERY);
        if output::is_closed() {
            return Err(Failure::undone("nobody reads standard output", "read it"));
        }
        if let Ok(mut client) = target.connect()
            && let Ok(missed) = client.follow_json(after)
        {
            return Ok((client, missed));
        }
    }
}

fn newest(client: &Client, events: &[Box<RawValue>]) -> Result<Option<u64>, ClientError> {
    events.last().map_or(Ok(None), |raw| client.event(raw).map(|event| event.sequence))
}

/// How events are laid out, and what that depends on of those before.
struct Page {
    /// Of the terminal; on anything else each event is one line, for grep and its kin.
    width: Option<usize>,
    /// As wide as the longest name so far, so that the reason has what is left.
    node_width: usize,
    /// Where there is little room, a day stands above its events instead of in each.
    day: String,
}

impl Page {
    fn new(width: Option<usize>) -> Self {
        Page { width, node_width: 4, day: String::new() }
    }

    /// Prints what is wanted of these events, at most the `last` of them.
    fn print(
        &mut self,
        client: &Client,
        events: &[Box<RawValue>],
        args: &Args,
        last: Option<usize>,
    ) -> Result<(), Failure> {
        let mut wanted = Vec::new();
        for raw in events {
            let event = client.event(raw)?;
            let is_wanted = args.node.as_ref().is_none_or(|node| *node == event.node)
                && (args.kind.is_empty() || args.kind.contains(&event.kind));
            if is_wanted {
                wanted.push((raw, event));
            }
        }
        let begin = wanted.len().saturating_sub(last.unwrap_or(usize::MAX));
        let wanted = &wanted[begin..];
        if wanted.is_empty() {
            return Ok(());
        }
        let text: String = if args.json {
            wanted.iter().map(|(raw, _)| format!("{}\n", raw.get())).collect()
        } else {
            self.lines(wanted.iter().map(|(_, event)| event))
        };
        output::print(&text)
    }

    fn lines<'a>(&mut self, events: impl Iterator<Item = &'a Event> + Clone) -> String {
        let names = events.clone().map(|event| event.node.chars().count());
        self.node_width = names.chain([self.node_width]).max().unwrap_or(0).min(NODE_WIDTH_MAX);
        events.map(|event| self.line(event)).collect()
    }

    /// An event as a line, its reason wrapped below itself.
    fn line(&mut self, event: &Event) -> String {
        // 2026-01-01 00:00:00.000 is what RFC 3339 and people can both read.
        let at = event.at.to_string().replace('T', " ").replace('Z', "");
        let node: String = event.node.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let kind = event.kind.as_str();
        let is_narrow = self.width.is_some_and(|width| width < DATED_WIDTH_MIN);
        let (mut out, at) = match at.split_once(' ').filter(|_| is_narrow) {
            Some((day, time)) if *day == self.day => (String::new(), time),
            Some((day, time)) => {
                day.clone_into(&mut self.day);
                (format!("{}\n", paint(DIM, day)), time)
            }
            None => (String::new(), &*at),
        };
        let space = |text: &str, width: usize| " ".repeat(width.saturating_sub(text.chars().count()));
        let head = format!(
            "{}  {}{}  {}{}  ",
            paint(DIM, at),
            paint(style(event.kind), kind),
            space(kind, KIND_WIDTH),
            paint(BOLD, &node),
            space(&node, self.node_width),
        );
        let width = self.width.unwrap_or(usize::MAX);
        let indent =
            at.len() + 2 + KIND_WIDTH.max(kind.len()) + 2 + self.node_width.max(node.chars().count()) + 2;
        let (indent, head) = match width.saturating_sub(indent) {
            // Below the head there is more room.
            ..REASON_WIDTH_MIN => (4, format!("{}\n    ", head.trim_end())),
            _ => (indent, head),
        };
        let reason = wrap(&event.reason, width.saturating_sub(indent));
        out.push_str(if reason.is_empty() { head.trim_end() } else { &head });
        out.push_str(&reason.join(&format!("\n{}", " ".repeat(indent))));
        out.push('\n');
        out
    }
}

/// How an event looks: what somebody should look at, what takes a share, what is good again.
pub(crate) fn style(kind: EventKind) -> Style {
    match kind.tone() {
        Tone::Good => GOOD,
        Tone::Note => NOTE,
        Tone::Bad => BAD,
        Tone::Plain => PLAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, node: &str, reason: &str) -> Event {
        Event {
            at: "2026-01-01T00:10:00.123Z".parse().unwrap(),
            kind,
            node: node.to_owned(),
            reason: reason.to_owned(),
            sequence: Some(1),
            epoch: None,
        }
    }

    fn plain(events: &[Event], width: Option<usize>) -> String {
        let text = Page::new(width).lines(events.iter());
        anstream::adapter::strip_str(&text).to_string()
    }

    fn history() -> Vec<Event> {
        let mut events = vec![
            event(
                EventKind::Expired,
                "n2",
                "not heard for 412 ms, nor by n3, while this node was scheduled on time",
            ),
            event(EventKind::View, "n1", "view 13: 2 members, 86 buckets move (expired: n2)"),
            event(
                EventKind::Rejected,
                "firewall-1.example.org",
                "sealed with another key (from 192.0.2.99:7440 on eth0)",
            ),
            event(EventKind::HookFailed, "n1", ""),
        ];
        events[3].at = "2026-01-02T03:04:05.678Z".parse().unwrap();
        events
    }

    #[test]
    fn events_are_lines_that_fit() {
        let (mut events, all) = (history(), history());
        events.remove(2);
        assert_eq!(
            plain(&events, Some(80)),
            "\
2026-01-01
00:10:00.123  expired      n2    not heard for 412 ms, nor by n3, while this
                                 node was scheduled on time
00:10:00.123  view         n1    view 13: 2 members, 86 buckets move (expired:
                                 n2)
2026-01-02
03:04:05.678  hook-failed  n1
"
        );
        assert_eq!(
            plain(&all[..3], Some(110)),
            "\
2026-01-01 00:10:00.123  expired      n2                not heard for 412 ms, nor by n3, while this node was
                                                        scheduled on time
2026-01-01 00:10:00.123  view         n1                view 13: 2 members, 86 buckets move (expired: n2)
2026-01-01 00:10:00.123  rejected     firewall-1.example.org  sealed with another key (from 192.0.2.99:7440 on
                                                              eth0)
"
        );
        for width in [40, 80, 109, 110, 160] {
            for line in plain(&all, Some(width)).lines().filter(|line| !line.contains("firewall")) {
                assert!(line.trim_end().chars().count() <= width.max(58), "{line}");
            }
        }
    }

    #[test]
    fn what_is_no_terminal_gets_an_event_a_line() {
        let events = history();
        let text = plain(&events, None);
        assert_eq!(text.lines().count(), events.len(), "{text}");
        assert!(text.lines().all(|line| line.starts_with("2026-01-0")), "{text}");
        assert!(text.contains(&events[0].reason), "{text}");
    }

    #[test]
    fn a_day_stands_once_above_what_follows() {
        let mut page = Page::new(Some(80));
        let events = history();
        assert!(page.lines(events[..1].iter()).contains("2026-01-01"));
        assert!(!page.lines(events[1..2].iter()).contains("2026-01-01"));
        assert!(page.lines(events[3..].iter()).contains("2026-01-02"));
    }

    #[test]
    fn what_is_no_kind_is_refused_with_the_kinds() {
        assert_eq!(kind("left-out"), Ok(EventKind::LeftOut));
        for wrong in ["explode", "unknown", ""] {
            assert!(
                kind(wrong).unwrap_err().starts_with("no such kind; known are started, stopped, state, ")
            );
        }
    }
}
