//! A report as people read it.

use rudel_api::check::{Area, Finding, Report, Severity};

use crate::layout::{BAD, BOLD, DIM, GOOD, NOTE, PLAIN, counted, paint, wrap};

/// The words before a finding are so wide.
const INDENT: usize = 10;

pub(super) fn render(report: &Report, width: usize) -> String {
    let mut out = headline(report, width);
    for area in Area::ALL {
        let findings: Vec<&Finding> =
            report.findings.iter().filter(|finding| finding.area == *area).collect();
        if findings.is_empty() {
            continue;
        }
        let title = match area {
            Area::Configuration => "Configuration",
            Area::Host => "This host",
            Area::Network => "The network, as this node sees it",
        };
        out.push_str(&format!("\n{}\n", paint(BOLD, title)));
        for finding in findings {
            out.push_str(&one(finding, width));
        }
    }
    if !report.unseen.is_empty() {
        out.push_str(&format!("\n{}\n", paint(BOLD, "Not looked at")));
        for unseen in &report.unseen {
            hang(&mut out, "  ", &format!("{}: {}", unseen.what, unseen.why), width, PLAIN);
        }
    }
    out.push('\n');
    out.push_str(&summary(report, width));
    out
}

fn headline(report: &Report, width: usize) -> String {
    let node = report.node.as_deref().unwrap_or("this node");
    let daemon = if report.daemon { "the daemon runs" } else { "the daemon does not answer" };
    let line = format!("{}: {node}, {}, {daemon}", report.cluster, report.config);
    wrap(&line, width).iter().map(|line| format!("{line}\n")).collect()
}

fn one(finding: &Finding, width: usize) -> String {
    let (word, style) = match finding.severity {
        Severity::Ok => ("ok", GOOD),
        Severity::Note => ("note", NOTE),
        Severity::Warning => ("warning", NOTE),
        Severity::Error => ("error", BAD),
    };
    let mut out = format!("  {}{}", paint(style, word), " ".repeat(INDENT - 2 - word.len()));
    let first = match finding.name {
        Some(name) => format!("{}  [{name}]", finding.what),
        None => finding.what.clone(),
    };
    let lines = wrap(&first, width.saturating_sub(INDENT));
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push_str(&" ".repeat(INDENT));
        }
        let look = if finding.severity >= Severity::Warning { BOLD } else { PLAIN };
        out.push_str(&paint(look, line));
        out.push('\n');
    }
    let indent = " ".repeat(INDENT);
    if !finding.why.is_empty() {
        hang(&mut out, &indent, &finding.why, width, PLAIN);
    }
    if !finding.remedy.is_empty() {
        hang(&mut out, &indent, &format!("Do: {}", finding.remedy), width, PLAIN);
    }
    for entry in &finding.lines {
        out.push_str(&format!("{indent}{}\n", paint(DIM, &format!("{}:", entry.place))));
        // To be copied: never broken.
        entry.lines.iter().for_each(|line| out.push_str(&format!("{indent}  {}\n", clean(line))));
    }
    out
}

fn clean(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn hang(out: &mut String, indent: &str, text: &str, width: usize, style: anstyle::Style) {
    for line in wrap(text, width.saturating_sub(indent.len())) {
        out.push_str(&format!("{indent}{}\n", paint(style, &line)));
    }
}

fn summary(report: &Report, width: usize) -> String {
    let count =
        |severity| report.findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    let mut parts = Vec::new();
    for (n, noun) in [(errors, "error"), (warnings, "warning"), (notes, "note")] {
        if n > 0 {
            parts.push(counted(n, noun));
        }
    }
    let looked = counted(report.findings.len() as u64, "thing");
    let well = if report.daemon { "all is well" } else { "this host is well" };
    let found = if report.is_degraded() {
        paint(BAD, &parts.join(", "))
    } else if parts.is_empty() {
        format!("{}: {looked} looked at", paint(GOOD, well))
    } else {
        format!("{}: {looked} looked at, {}", paint(GOOD, "nothing is wrong"), parts.join(", "))
    };
    let mut out = format!("{found}\n");
    if errors + warnings + notes > 0 {
        let line = "Each [name] is explained in docs/network.md. Run it on the other nodes, too.";
        wrap(line, width).iter().for_each(|line| out.push_str(&format!("{line}\n")));
    }
    out
}
