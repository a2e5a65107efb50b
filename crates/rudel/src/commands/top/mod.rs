//! `rudel top`.
//!
//! ```text
//!   looker (thread) ── status, each second ─┐
//!   keyboard (thread) ── keys, sizes ───────┼─► App, a value ─► screen
//!   signals (thread) ── SIGTERM and such ───┤
//!   order (thread, one for each) ── outcome ┘
//! ```
//!
//! The terminal is put back in order however this ends: by key, by signal, by failure or by panic.

mod app;
mod screen;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use ratatui::crossterm::event;
use rudel_api::control::{Client, ClientError, Request};
use rudel_api::timestamp::Timestamp;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use self::app::{App, Order, Wish};
use crate::Outcome;
use crate::failure::Failure;
use crate::target::Target;

/// Show the cluster live, full screen
///
/// Nodes and their shares, who owns which of the 256 buckets, packet rates, how late heartbeats are, the last events.
/// Keys: arrows choose a node, d drains it, u gives its share back (both ask first), ? helps, q ends. Each node has a
/// letter as well as a colour; NO_COLOR leaves the letters.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  rudel top
  NO_COLOR=1 rudel top
  rudel top --every 5")]
pub(crate) struct Args {
    /// Seconds from one look to the next, 1 to 60
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=60))]
    every: u8,
}

/// What comes in.
enum Message {
    /// The daemon's status, or why there is none.
    Look(Result<Box<rudel_api::snapshot::Snapshot>, String>),
    /// The terminal has something.
    Terminal(event::Event),
    /// What became of an order: the sentence, and whether it was done.
    Ordered(String, bool),
    /// A signal to end.
    Signal(i32),
    /// The terminal is gone.
    Gone(std::io::Error),
}

pub(crate) fn run(target: &Target, args: &Args) -> Result<Outcome, Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "top needs a terminal for its screen and its keys",
            "run it in one, or use `rudel status` or `rudel events --follow`",
        ));
    }
    let socket = target.socket()?;
    // Found out before the screen is taken.
    let mut client = Client::connect(&socket, Client::TIMEOUT)?;
    let first = client.status()?;
    let every = Duration::from_secs(args.every.into());
    let mut app = App::new(every, std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    app.handle_look(Ok(first), Instant::now());

    let (sender, messages) = channel();
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT]);
    let mut signals = signals
        .map_err(|error| Failure::undone(format!("cannot listen for signals: {error}"), "try again"))?;
    let to_main = sender.clone();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if to_main.send(Message::Signal(signal)).is_err() {
                return;
            }
        }
    });
    let (to_main, path) = (sender.clone(), socket.clone());
    std::thread::spawn(move || look(client, &path, every, &to_main));
    let to_main = sender.clone();
    std::thread::spawn(move || {
        loop {
            let message = event::read().map_or_else(Message::Gone, Message::Terminal);
            let is_last = matches!(message, Message::Gone(_));
            if to_main.send(message).is_err() || is_last {
                return;
            }
        }
    });

    let terminal = ratatui::try_init();
    let mut terminal = terminal.map_err(|error| {
        Failure::undone(format!("cannot take the terminal's screen: {error}"), "try another")
    })?;
    let ended = show(&mut terminal, &mut app, &messages, &sender, &socket);
    ratatui::restore();
    match ended {
        Ok(None) => Ok(Outcome::Done),
        Ok(Some(signal)) => {
            // Ends this process as the signal would have, so that whoever sent it sees that.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            Ok(Outcome::Done)
        }
        Err(error) => {
            Err(Failure::undone(format!("lost the terminal: {error}"), "use `rudel status` without one"))
        }
    }
}

/// Shows and obeys until the end; a signal, if it was one.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    app: &mut App,
    messages: &Receiver<Message>,
    sender: &Sender<Message>,
    socket: &Path,
) -> std::io::Result<Option<i32>> {
    loop {
        terminal.draw(|frame| screen::render(app, Timestamp::now(), frame))?;
        // Ages on the screen grow without anything coming in.
        let message = match messages.recv_timeout(Duration::from_secs(1)) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => {
                app.handle_time(Instant::now());
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        };
        match message {
            Message::Look(look) => app.handle_look(look.map(|snapshot| *snapshot), Instant::now()),
            Message::Ordered(sentence, done) => app.handle_ordered(sentence, done, Instant::now()),
            Message::Signal(signal) => return Ok(Some(signal)),
            Message::Gone(error) => return Err(error),
            Message::Terminal(event::Event::Key(key)) if key.kind != event::KeyEventKind::Release => {
                match app.handle_key(key, Instant::now()) {
                    Some(Wish::End) => return Ok(None),
                    Some(Wish::Order(order)) => {
                        let (to_main, path) = (sender.clone(), socket.to_path_buf());
                        std::thread::spawn(move || {
                            let (sentence, done) = carry_out(&path, &order);
                            // If top has ended meanwhile, the order is carried out all the same.
                            let _ = to_main.send(Message::Ordered(sentence, done));
                        });
                    }
                    None => {}
                }
            }
            // Another size is drawn with the next look at it, which is now.
            Message::Terminal(_) => {}
        }
    }
}

/// Looks again and again, at whichever daemon answers.
fn look(first: Client, path: &Path, every: Duration, sender: &Sender<Message>) {
    let mut client = Some(first);
    loop {
        std::thread::sleep(every);
        let connected = match client.take() {
            Some(client) => Ok(client),
            None => Client::connect(path, Client::TIMEOUT),
        };
        let looked = connected.and_then(|mut connected| {
            let snapshot = connected.status()?;
            client = Some(connected);
            Ok(snapshot)
        });
        let message = Message::Look(looked.map(Box::new).map_err(|error| error.to_string()));
        if sender.send(message).is_err() {
            return;
        }
    }
}

/// Has an order carried out; what became of it, and whether it was done.
fn carry_out(path: &Path, order: &Order) -> (String, bool) {
    let ask = || -> Result<bool, ClientError> {
        let mut client = Client::connect(path, Client::TIMEOUT)?;
        client.status_json()?;
        client.set_timeout(Client::ORDER_TIMEOUT);
        let node = Some(order.node.clone());
        let request = if order.drains { Request::Drain { node } } else { Request::Undrain { node } };
        Ok(client.order(&request)?.changed)
    };
    let node = &order.node;
    match ask() {
        Ok(changed) => {
            let sentence = match (order.drains, changed) {
                (true, true) => format!("{node} drains: open connections stay until they end"),
                (true, false) => format!("{node} was draining already"),
                (false, true) => format!("{node} takes its share again"),
                (false, false) => format!("{node} was not draining"),
            };
            (sentence, true)
        }
        Err(error) => (format!("{error}: {}", error.remedy()), false),
    }
}
