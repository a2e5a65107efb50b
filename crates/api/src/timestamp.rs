//! Wall-clock times as they stand in JSON: RFC 3339, UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A wall-clock time in milliseconds, for people and logs only: nothing is decided by it.
///
/// Its text is RFC 3339 in UTC with milliseconds, `2026-01-01T00:00:00.000Z`; any RFC 3339 time is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// What the wall clock shows.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Seconds since 1970, as metrics have it.
    pub fn unix_seconds(self) -> f64 {
        self.0.as_millisecond() as f64 / 1e3
    }

    /// How long before `now` it was; zero if it lies ahead (a wall clock may be set back).
    pub fn age_at(self, now: Timestamp) -> Duration {
        let ms = now.0.as_millisecond() - self.0.as_millisecond();
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Times that RFC 3339 cannot write (beyond the year 9999) become the last one it can.
    fn from(time: SystemTime) -> Self {
        let exact = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
        Timestamp(jiff::Timestamp::from_millisecond(exact.as_millisecond()).unwrap_or(exact))
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Timestamp).map_err(|_| InvalidTimestamp(text.to_owned()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is no RFC 3339 time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time such as 2026-01-01T00:00:00.000Z")]
pub struct InvalidTimestamp(String);

/// A time written in whole seconds, for what does not happen often.
pub(crate) mod seconds {
    use super::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.0}", time.0))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_milliseconds() {
        let time = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_225_600_001_999));
        assert_eq!(time.to_string(), "2026-01-01T00:00:00.001Z");
        assert_eq!("2026-01-01T00:00:00.001Z".parse(), Ok(time));
        assert_eq!("2026-01-01T01:00:00.001+01:00".parse(), Ok(time));
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn an_age_is_never_negative() {
        let early: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let late: Timestamp = "2026-01-01T00:01:00.5Z".parse().unwrap();
        assert_eq!(early.age_at(late), Duration::from_millis(60_500));
        assert_eq!(late.age_at(early), Duration::ZERO);
    }
}
