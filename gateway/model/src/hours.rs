//! Hours of the week in a time zone: when a limit counts, when a window is open.
//!
//! Daylight saving is the zone's affair: a window that begins at 02:30 begins at the local clock's first 02:30, or, on the
//! night when there is none, as soon as the local clock is past it.

use std::fmt;

use crate::Timestamp;

/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;
/// Bits of every day of the week.
const EVERY_DAY: u8 = 0x7f;

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Day {
    /// The day that `mon`, `tue`, … `sun` stands for.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        const NAMES: [(&str, Day); 7] = [
            ("mon", Day::Monday),
            ("tue", Day::Tuesday),
            ("wed", Day::Wednesday),
            ("thu", Day::Thursday),
            ("fri", Day::Friday),
            ("sat", Day::Saturday),
            ("sun", Day::Sunday),
        ];
        NAMES.iter().find(|(name, _)| *name == text).map(|(_, day)| *day)
    }

    const fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

/// A time zone or a time of day that doesn't exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoursError {
    /// No zone of that name.
    #[error("{0:?} is no IANA time zone, for example Europe/Zurich")]
    UnknownZone(String),
    /// Minutes past the end of a day.
    #[error("minute {0} is past the end of a day")]
    PastMidnight(u16),
}

/// Hours of the week: on some days, from one minute of the day to another, by the clocks of a time zone. A window that
/// reaches past midnight belongs to the day on which it begins.
#[derive(Clone, PartialEq, Eq)]
pub struct Hours {
    days: u8,
    /// Minutes since midnight: first, and first after. None: the whole day.
    window: Option<(u16, u16)>,
    zone: jiff::tz::TimeZone,
}

impl Hours {
    /// Hours on these days (every day when empty), between these minutes since midnight (the whole day when absent), in
    /// this time zone (UTC when absent).
    ///
    /// # Errors
    /// A zone that doesn't exist, a minute that no day has.
    pub fn new(days: &[Day], window: Option<(u16, u16)>, zone: Option<&str>) -> Result<Self, HoursError> {
        if let Some(minute) = window.and_then(|(from, to)| [from, to].into_iter().find(|at| *at >= DAY_MINUTES)) {
            return Err(HoursError::PastMidnight(minute));
        }
        let zone = match zone {
            None => jiff::tz::TimeZone::UTC,
            Some(name) => jiff::tz::TimeZone::get(name).map_err(|_| HoursError::UnknownZone(name.to_owned()))?,
        };
        let chosen = days.iter().fold(0, |bits, day| bits | day.bit());
        Ok(Self { days: if days.is_empty() { EVERY_DAY } else { chosen }, window, zone })
    }

    /// Every hour of every day.
    #[must_use]
    pub const fn always() -> Self {
        Self { days: EVERY_DAY, window: None, zone: jiff::tz::TimeZone::UTC }
    }

    /// Whether the time is within them.
    #[must_use]
    pub fn contains(&self, time: Timestamp) -> bool {
        let local = time.civil().to_zoned(self.zone.clone());
        let today = local.weekday().to_monday_zero_offset();
        let on = |day: i8| self.days & (1 << day.rem_euclid(7)) != 0;
        let Some((from, to)) = self.window else { return on(today) };
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        if from <= to {
            on(today) && (from..to).contains(&minute)
        } else {
            (on(today) && minute >= from) || (on(today - 1) && minute < to)
        }
    }
}

impl fmt::Debug for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.iana_name().unwrap_or("UTC");
        f.debug_struct("Hours").field("days", &self.days).field("window", &self.window).field("zone", &zone).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_on_which_it_begins() {
        let nights = Hours::new(&[Day::Friday], Some((22 * 60, 6 * 60)), None).expect("hours");
        // 2026-11-20 is a Friday.
        assert!(!nights.contains(at("2026-11-20T21:59:59Z")));
        assert!(nights.contains(at("2026-11-20T22:00:00Z")));
        assert!(nights.contains(at("2026-11-21T05:59:59Z")), "Saturday morning is Friday night");
        assert!(!nights.contains(at("2026-11-21T06:00:00Z")));
        assert!(!nights.contains(at("2026-11-21T22:30:00Z")), "Saturday night is not Friday night");
        assert!(!nights.contains(at("2026-11-20T05:00:00Z")), "Friday morning is Thursday night");
    }

    #[test]
    fn the_clocks_of_the_zone_count_in_summer_and_in_winter() {
        let office = Hours::new(&[], Some((8 * 60, 18 * 60)), Some("Europe/Zurich")).expect("hours");
        assert!(office.contains(at("2026-07-01T06:00:00Z")) && !office.contains(at("2026-07-01T16:00:00Z")));
        assert!(office.contains(at("2026-12-01T07:00:00Z")) && !office.contains(at("2026-12-01T06:59:00Z")));
    }

    #[test]
    fn days_alone_are_whole_days() {
        let weekend = Hours::new(&[Day::Saturday, Day::Sunday], None, None).expect("hours");
        assert!(weekend.contains(at("2026-11-22T23:59:59Z")) && !weekend.contains(at("2026-11-23T00:00:00Z")));
        assert!(Hours::always().contains(at("2026-11-23T00:00:00Z")));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let unknown = Hours::new(&[], None, Some("Europe/Atlantis")).expect_err("no such zone");
        assert!(unknown.to_string().contains("Europe/Atlantis"));
        assert!(Hours::new(&[], Some((0, 24 * 60)), None).is_err());
    }
}
