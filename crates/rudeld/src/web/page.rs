//! The status page: one file, which loads nothing but what `/live` tells it.

use std::rc::Rc;
use std::sync::LazyLock;

use data_encoding::BASE64;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use rudel_api::snapshot::Snapshot;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{LIVE_EVERY, Viewer};

/// The page.
pub(super) const HTML: &str = include_str!("page.html");

/// What a browser may do with the page: run its one script, use its one style sheet, and ask this address. Both are
/// named by their digests, so that nothing that a node or a check might be called is ever run.
pub(super) fn policy() -> HeaderValue {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let digest = |element: &str| BASE64.encode(&Sha256::digest(inside(element)));
        format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            digest("script"),
            digest("style")
        )
    });
    HeaderValue::from_static(&POLICY)
}

/// The text of the page's one element of this name.
fn inside(element: &str) -> &'static str {
    let (_, rest) = HTML.split_once(&format!("<{element}>")).expect("the page has it; a test holds it");
    rest.split_once(&format!("</{element}>")).expect("the page ends it; a test holds it").0
}

/// One word to a page: the status with what is wrong, or why there is none.
#[derive(Serialize)]
#[serde(untagged)]
enum Word<'a> {
    Status { status: &'a Snapshot, troubles: Vec<String> },
    Silent { error: &'static str },
}

/// Tells a page what there is, again and again, until it has gone.
pub(super) async fn feed(viewer: Rc<Viewer>, sender: mpsc::Sender<Bytes>) {
    let mut due = tokio::time::interval(LIVE_EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = sender.closed() => return,
        }
        // A page that is slow gets the newest word when it has room, not all that it has missed.
        let Ok(room) = sender.reserve().await else {
            return;
        };
        let look = viewer.look().await;
        let word = match &look {
            Ok(look) => Word::Status { status: &look.snapshot, troubles: look.snapshot.troubles() },
            Err(error) => Word::Silent { error },
        };
        let json = serde_json::to_string(&word).expect("it has text keys and no fallible parts");
        // JSON has no line breaks of its own, so it is one line of the event stream.
        room.send(format!("data: {json}\n\n").into());
    }
}

#[cfg(test)]
mod tests {
    use rudel_api::event::{EventKind, Tone};

    use super::*;

    #[test]
    fn the_page_stands_alone() {
        assert_eq!(HTML.matches("<script").count(), 1);
        assert_eq!(HTML.matches("<style").count(), 1);
        for element in ["script", "style"] {
            assert!(inside(element).len() > 1000);
        }
        for elsewhere in
            ["http://", "https://", "//cdn", "@import", " style=\"", " onclick=", "innerHTML", "eval("]
        {
            // The name of a namespace is no address.
            let html = HTML.replace("http://www.w3.org/2000/svg", "");
            assert!(!html.contains(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn events_look_as_on_the_other_screens() {
        for (tone, name) in [(Tone::Bad, "bad"), (Tone::Note, "note"), (Tone::Good, "good")] {
            let (_, rest) = inside("script").split_once(&format!("\n  {name}: [")).unwrap();
            let (kinds, _) = rest.split_once(']').unwrap();
            let mut kinds: Vec<&str> = kinds.split(',').map(|kind| kind.trim().trim_matches('"')).collect();
            let all = EventKind::ALL.iter().filter(|kind| kind.tone() == tone);
            let mut expected: Vec<&str> = all.map(|kind| kind.as_str()).collect();
            kinds.sort_unstable();
            expected.sort_unstable();
            assert_eq!(kinds, expected, "{name}");
        }
    }

    #[test]
    fn the_policy_names_what_may_run() {
        let policy = policy();
        let policy = policy.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"));
    }
}
