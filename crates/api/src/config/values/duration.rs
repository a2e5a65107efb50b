//! Durations as people write them.

use std::time::Duration;

use super::ValueError;

/// Reads a duration: whole numbers with units, as `400ms`, `5m`, `1h30m`. Units are `ms`, `s`, `m`, `h`.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let error = || {
        ValueError::new(format!("\"{text}\" is not a duration"))
            .advise("write a whole number with its unit (ms, s, m, h), such as \"400ms\" or \"5m\"")
    };
    let mut total_ms: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        total_ms = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(error)?;
        rest = tail.trim_start();
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration in the largest units that it is a whole number of: `400ms`, `5m`, `1h30m`.
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    if !ms.is_multiple_of(1000) {
        return format!("{ms}ms");
    }
    let s = ms / 1000;
    match (s / 3600, s / 60 % 60, s % 60) {
        (h, 0, 0) if h > 0 => format!("{h}h"),
        (h, m, 0) if h > 0 => format!("{h}h{m}m"),
        (0, m, 0) => format!("{m}m"),
        _ => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("400ms"), Ok(400));
        assert_eq!(ms("5m"), Ok(300_000));
        assert_eq!(ms("1h 30m"), Ok(5_400_000));
        assert_eq!(ms("0s"), Ok(0));
        for bad in
            ["", "400", "-1s", "1.5s", "5 parsecs", "s", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(ms(bad).is_err(), "{bad}");
        }
        for text in ["400ms", "5m", "1h30m", "90s", "0s", "1500ms", "2h"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }
}
