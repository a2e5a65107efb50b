//! `rudel why FLOW`.

use rudel_api::control::{BucketState, WhyAnswer};
use rudel_api::flow::{FlowError, FlowSpec};
use rudel_api::timestamp::Timestamp;

use crate::Outcome;
use crate::failure::Failure;
use crate::layout::{BOLD, ago, paint, wrap};
use crate::output;
use crate::target::Target;

/// Tell which bucket and node a flow belongs to, since when, and because of what
///
/// A flow is a protocol (by name or number), its source and its destination, with ports where the protocol has them,
/// and for an ICMP echo its identifier. IPv6 addresses with a port stand in brackets.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel why tcp 203.0.113.7:40000 192.0.2.10:443
  rudel why udp [2001:db8::7]:5353 [2001:db8::10]:53
  rudel why icmp 203.0.113.7 192.0.2.10 id 77
  rudel why esp 203.0.113.7 192.0.2.10")]
pub(crate) struct Args {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// The flow
    #[arg(required = true, num_args = 1.., value_name = "FLOW")]
    flow: Vec<String>,
}

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    let flow: FlowSpec = args
        .flow
        .join(" ")
        .parse()
        .map_err(|error: FlowError| Failure::usage(error.to_string(), FlowError::REMEDY))?;
    let mut client = target.connect()?;
    if args.json {
        output::print(&format!("{}\n", client.why_json(flow)?.get()))?;
    } else {
        output::print(&render(&client.why(flow)?, Timestamp::now(), output::width()))?;
    }
    Ok(Outcome::Done)
}

fn render(answer: &WhyAnswer, now: Timestamp, width: usize) -> String {
    let owner = match (&answer.owner, answer.here) {
        (Some(owner), BucketState::Kept) => {
            format!(
                "{}, though {} keeps the connections that are open there",
                paint(BOLD, owner),
                answer.node
            )
        }
        (Some(owner), BucketState::Adopting) if *owner == answer.node => {
            format!("{}, which waits for the word of the former owner", paint(BOLD, owner))
        }
        (Some(owner), _) => paint(BOLD, owner),
        (None, _) => "nobody".to_owned(),
    };
    let key = if answer.key.is_empty() { "nothing".to_owned() } else { answer.key.clone() };
    let since = match answer.since {
        Some(since) => format!("{since}, {}", ago(since.age_at(now))),
        None => format!("before {} came to know of it", answer.node),
    };
    let because = answer.because.as_ref().map(|event| {
        format!("{} {}: {} ({})", event.node, event.kind, event.reason, ago(event.at.age_at(now)))
    });
    let fields = [
        ("flow", Some(answer.flow.to_string())),
        ("bucket", Some(format!("{} of 256", answer.bucket))),
        ("hashed", Some(format!("{key} ({} on {})", answer.hash, answer.interface))),
        ("owner", Some(owner)),
        ("since", Some(since)),
        ("because", because),
    ];
    let mut out = String::new();
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        for (i, line) in wrap_painted(&value, width.saturating_sub(9)).iter().enumerate() {
            out.push_str(&format!("{:<9}{line}\n", if i == 0 { name } else { "" }));
        }
    }
    out
}

/// Wraps a text that may have colours in it, which [`wrap`] would take for characters.
fn wrap_painted(text: &str, width: usize) -> Vec<String> {
    if text.contains('\x1b') { vec![text.to_owned()] } else { wrap(text, width) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudel_api::config::HashMode;
    use rudel_api::event::{Event, EventKind};

    fn answer() -> WhyAnswer {
        WhyAnswer {
            flow: "tcp 203.0.113.7:40000 192.0.2.10:443".parse().unwrap(),
            bucket: 173,
            owner: Some("n2".to_owned()),
            since: Some("2026-01-01T00:00:00.250Z".parse().unwrap()),
            because: Some(Event {
                at: "2026-01-01T00:00:00Z".parse().unwrap(),
                kind: EventKind::Expired,
                node: "n1".to_owned(),
                reason: "not heard for 400 ms, nor by n3".to_owned(),
                sequence: None,
                epoch: None,
            }),
            interface: "eth0".to_owned(),
            hash: HashMode::SourceIpPort,
            key: "source address 203.0.113.7, source port 40000".to_owned(),
            here: BucketState::Ignored,
            node: "n3".to_owned(),
        }
    }

    fn render_plain(answer: &WhyAnswer) -> String {
        let text = render(answer, "2026-01-01T00:03:00.5Z".parse().unwrap(), 80);
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn an_answer_tells_where_since_when_and_why() {
        assert_eq!(
            render_plain(&answer()),
            "\
flow     tcp 203.0.113.7:40000 192.0.2.10:443
bucket   173 of 256
hashed   source address 203.0.113.7, source port 40000 (source-ip-port on eth0)
owner    n2
since    2026-01-01T00:00:00.250Z, 3 min ago
because  n1 expired: not heard for 400 ms, nor by n3 (3 min ago)
"
        );
    }

    #[test]
    fn an_answer_tells_what_it_does_not_know() {
        let unknown = WhyAnswer { owner: None, since: None, because: None, key: String::new(), ..answer() };
        let text = render_plain(&unknown);
        assert!(text.contains("owner    nobody\nsince    before n3 came to know of it\n"), "{text}");
        assert!(text.contains("hashed   nothing (source-ip-port on eth0)"), "{text}");
        assert!(!text.contains("because"));
    }
}
