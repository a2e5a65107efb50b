//! A real browser on a node: headless Chromium, told what to do over two pipes (the DevTools protocol, one JSON object after
//! the other, each ended by a zero byte).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::netns::Namespace;
use crate::process::descendants;
use crate::sys;

/// How long the browser may take for one command: it starts slowly where machines are busy.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// What Debian calls it; `make setup` installs it.
const PROGRAM: &str = "chromium";

/// No GPU, no sandbox (it does not work for root), and none of the questions that it asks its maker at every start.
const FLAGS: &[&str] = &[
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
];

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: String,
    sent: u64,
    complaints: Vec<String>,
}

impl Browser {
    /// Starts it in `namespace`, with its files in `dir`, and an empty page.
    pub fn start(namespace: &Namespace, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let profile = dir.join("chromium");
        let log = dir.join("chromium.log");
        // It wants its pipes as descriptors 3 and 4.
        let mut command = namespace.command("/bin/sh")?;
        command
            .args(["-c", "log=$1; shift; exec \"$@\" 3<&0 4>&1 </dev/null >\"$log\" 2>&1", "sh"])
            .arg(&log)
            .arg(PROGRAM)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .env("HOME", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().context("starting chromium")?;
        let to = child.stdin.take().context("a pipe to chromium")?;
        let mut from = BufReader::new(child.stdout.take().context("a pipe from chromium")?);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while from.read_until(0, &mut message).is_ok_and(|len| len > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { return };
                if sender.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser =
            Browser { child, to, from: receiver, session: String::new(), sent: 0, complaints: Vec::new() };
        let target = browser.command("Target.createTarget", json!({"url": "about:blank"}))?;
        let attached = browser
            .command("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}))?;
        browser.session = attached["sessionId"].as_str().context("a session")?.to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.command(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(browser)
    }

    /// Opens an address.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let opened = self.command("Page.navigate", json!({"url": url}))?;
        match opened.get("errorText") {
            Some(error) => bail!("cannot open {url}: {error}"),
            None => Ok(()),
        }
    }

    /// Gives the window another size, in pixels.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.command("Emulation.setDeviceMetricsOverride", metrics)?;
        Ok(())
    }

    /// Wants pages to be dark, or light.
    pub fn prefer_dark(&mut self, dark: bool) -> Result<()> {
        let value = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.command("Emulation.setEmulatedMedia", features)?;
        Ok(())
    }

    /// What an expression is on the page.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let mut evaluated = self.command("Runtime.evaluate", parameters)?;
        if let Some(exception) = evaluated.get("exceptionDetails") {
            bail!("{expression}: {exception}");
        }
        Ok(evaluated["result"]["value"].take())
    }

    /// Waits until an expression is true; else says what `shown` is.
    pub fn wait_for(&mut self, deadline: Duration, expression: &str, shown: &str) -> Result<()> {
        let end = Instant::now() + deadline;
        // On a page that is still being read, things may be missing.
        let expression =
            &format!("(() => {{ try {{ return {expression} }} catch (e) {{ return String(e) }} }})()");
        loop {
            if self.evaluate(expression)? == true {
                return Ok(());
            }
            if Instant::now() >= end {
                let shown = self.evaluate(shown)?;
                bail!("not within {deadline:?}: {expression}; there is {shown}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses a key and lets it go: `Tab`, `ArrowRight` and such.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            _ => bail!("no code is known of the key {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            self.command("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }

    /// Takes a picture of the whole page, as PNG.
    pub fn picture(&mut self, path: &Path) -> Result<PathBuf> {
        let taken =
            self.command("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}))?;
        let data = taken["data"].as_str().context("a picture")?;
        std::fs::write(path, data_encoding::BASE64.decode(data.as_bytes())?)?;
        Ok(path.to_owned())
    }

    /// What the browser has complained of since this was asked last: exceptions, refused resources, violated policies.
    pub fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    fn command(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.sent += 1;
        let id = self.sent;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).context("chromium has gone")?;
        let end = Instant::now() + ANSWER_MAX;
        loop {
            let mut said = match self.from.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(said) => said,
                Err(RecvTimeoutError::Timeout) => bail!("chromium does not answer to {method}"),
                Err(RecvTimeoutError::Disconnected) => bail!("chromium has gone at {method}"),
            };
            match said["method"].as_str() {
                Some("Log.entryAdded") if said["params"]["entry"]["level"] == "error" => {
                    self.complaints.push(said["params"]["entry"].to_string());
                }
                Some("Runtime.exceptionThrown") => self.complaints.push(said["params"].to_string()),
                _ => {}
            }
            if said["id"] == id {
                return match said.get("error") {
                    Some(error) => bail!("{method}: {error}"),
                    None => Ok(said["result"].take()),
                };
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // All of them, before their parent is gone; each fails only if it has ended already.
        let all = descendants(self.child.id());
        let _ = sys::kill_group(self.child.id(), libc::SIGKILL);
        for pid in all {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        let _ = self.child.wait();
    }
}
