//! Which snapshots rules keep: windows of calendar units, and caps on how many are kept in each.
//!
//! `last` N of a unit keeps what lies in the current one and the N − 1 before it, counted from now whether they hold
//! snapshots or not; a weekday counts back over that weekday. `cap` C keeps the newest C in each unit: of that window if
//! there is one, else of all. What any rule keeps is kept. Units are those of the calendar in the zone of the clock that is
//! passed in; weeks are those of ISO 8601.

use std::collections::HashMap;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A minute.
    Minute,
    /// An hour by the clock: where it is set back, the two that have one name are one each.
    Hour,
    /// A day, of 23 to 25 hours.
    Day,
    /// A week from Monday on.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
    /// A day that is that day of the week.
    Weekday(Weekday),
}

impl Unit {
    /// All of them, the smaller ones first.
    pub const ALL: [Self; 13] = [
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Year,
        Self::Weekday(Weekday::Monday),
        Self::Weekday(Weekday::Tuesday),
        Self::Weekday(Weekday::Wednesday),
        Self::Weekday(Weekday::Thursday),
        Self::Weekday(Weekday::Friday),
        Self::Weekday(Weekday::Saturday),
        Self::Weekday(Weekday::Sunday),
    ];

    /// Its name, in the singular.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
            Self::Weekday(Weekday::Monday) => "monday",
            Self::Weekday(Weekday::Tuesday) => "tuesday",
            Self::Weekday(Weekday::Wednesday) => "wednesday",
            Self::Weekday(Weekday::Thursday) => "thursday",
            Self::Weekday(Weekday::Friday) => "friday",
            Self::Weekday(Weekday::Saturday) => "saturday",
            Self::Weekday(Weekday::Sunday) => "sunday",
        }
    }

    /// The one that a time lies in: a number that counts them, and how it is called. `None` for a weekday on another day.
    fn of(self, time: &Zoned) -> Option<(i64, String)> {
        let date = time.date();
        Some(match self {
            Self::Minute => (start_of(time, 60), time.strftime("%Y-%m-%d-%H:%M").to_string()),
            Self::Hour => (start_of(time, 3600), time.strftime("%Y-%m-%d-%H").to_string()),
            Self::Day => (days(date), date.to_string()),
            Self::Week => (monday(date).div_euclid(7), week_name(date)),
            Self::Month => {
                (i64::from(date.year()) * 12 + i64::from(date.month()), date.strftime("%Y-%m").to_string())
            }
            Self::Year => (date.year().into(), date.year().to_string()),
            Self::Weekday(day) if date.weekday() == day => {
                (days(date).div_euclid(7), format!("{}-{}", week_name(date), self.name()))
            }
            Self::Weekday(_) => return None,
        })
    }

    /// The number of the current one.
    fn now(self, now: &Zoned) -> i64 {
        match self {
            // The last such day.
            Self::Weekday(day) => {
                let since = now.date().weekday().since(day);
                (days(now.date()) - i64::from(since)).div_euclid(7)
            }
            unit => unit.of(now).map_or(0, |(number, _)| number),
        }
    }
}

/// Which of its kind an hour or minute is, by when it began.
fn start_of(time: &Zoned, seconds: i64) -> i64 {
    let local = time.timestamp().as_second() + i64::from(time.offset().seconds());
    let into = local.rem_euclid(seconds);
    (time.timestamp().as_second() - into).div_euclid(seconds)
}

/// Days since 1970.
fn days(date: Date) -> i64 {
    let epoch = Date::constant(1970, 1, 1);
    (date - epoch).get_days().into()
}

/// The week's Monday, in days since the first one.
fn monday(date: Date) -> i64 {
    days(date) - i64::from(date.weekday().to_monday_zero_offset()) + 3
}

fn week_name(date: Date) -> String {
    let week = date.iso_week_date();
    format!("{:04}-W{:02}", week.year(), week.week())
}

/// What to keep of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The unit.
    pub unit: Unit,
    /// So many of them, the current one included; all without.
    pub last: Option<u32>,
    /// So many snapshots in each; all without.
    pub cap: Option<u32>,
}

/// Why a snapshot is kept, or not: one unit that it lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The unit.
    pub unit: Unit,
    /// How the one that it lies in is called.
    pub name: String,
    /// Which one it is in there, the newest being 1.
    pub rank: u32,
    /// How many are kept there; all without.
    pub cap: Option<u32>,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { unit, name, rank, cap } = self;
        write!(f, "{} {name}: number {rank}", unit.name())?;
        match cap {
            Some(cap) => write!(f, " of at most {cap}"),
            None => Ok(()),
        }
    }
}

/// What becomes of one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// It stays.
    pub keep: bool,
    /// Of one that stays, the rules that keep it; of the others, those whose window it lies in and whose cap it is beyond.
    pub reasons: Vec<Reason>,
}

/// Applies rules to snapshots, given by their times in ns since 1970, newest first.
pub fn plan(times_ns: &[i64], rules: &[Rule], now: &Zoned) -> Vec<Verdict> {
    let zone = now.time_zone();
    let mut verdicts = vec![Verdict::default(); times_ns.len()];
    for rule in rules {
        let current = rule.unit.now(now);
        let mut ranks: HashMap<i64, u32> = HashMap::new();
        for (verdict, time) in verdicts.iter_mut().zip(times_ns) {
            let Some((number, name)) = rule.unit.of(&zoned(*time, zone)) else { continue };
            // What lies in the future is in the current one: a clock was wrong, and that is no reason to delete.
            let back = current.saturating_sub(number).max(0);
            if rule.last.is_some_and(|last| back >= i64::from(last)) {
                continue;
            }
            let rank = ranks.entry(number).or_default();
            *rank += 1;
            let keeps = rule.cap.is_none_or(|cap| *rank <= cap);
            let reason = Reason { unit: rule.unit, name, rank: *rank, cap: rule.cap };
            verdict.note(keeps, reason);
        }
    }
    verdicts
}

impl Verdict {
    fn note(&mut self, keeps: bool, reason: Reason) {
        if keeps && !self.keep {
            self.keep = true;
            self.reasons.clear();
        }
        if keeps == self.keep {
            self.reasons.push(reason);
        }
    }

    /// Joins what other rules, or the same ones among other snapshots, say of it.
    pub fn join(&mut self, other: Self) {
        for reason in other.reasons {
            self.note(other.keep, reason);
        }
        self.keep |= other.keep;
    }
}

fn zoned(ns: i64, zone: &TimeZone) -> Zoned {
    Timestamp::from_nanosecond(ns.into()).unwrap_or_default().to_zoned(zone.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_nanosecond() as i64
    }

    fn kept(times: &[&str], rules: &[Rule], now: &str) -> Vec<bool> {
        let times: Vec<i64> = times.iter().map(|t| ns(t)).collect();
        plan(&times, rules, &now.parse().unwrap()).into_iter().map(|v| v.keep).collect()
    }

    fn rule(unit: Unit, last: Option<u32>, cap: Option<u32>) -> Rule {
        Rule { unit, last, cap }
    }

    #[test]
    fn days_of_23_and_25_hours_are_days() {
        // In Paris clocks went back on 25 October and forward on 29 March.
        let times =
            ["2026-10-26T22:30:00Z", "2026-10-25T22:30:00Z", "2026-10-24T22:30:00Z", "2026-10-24T21:30:00Z"];
        let now = "2026-10-26T23:45:00+01:00[Europe/Paris]";
        // 23:30 on the 26th and on the 25th, 0:30 on the 25th, 23:30 on the 24th.
        let days = |last, cap| kept(&times, &[rule(Unit::Day, last, cap)], now);
        assert_eq!(days(None, Some(1)), [true, true, false, true]);
        assert_eq!(days(Some(2), None), [true, true, true, false]);
        assert_eq!(days(Some(1), None), [true, false, false, false]);
        let spring = ["2026-03-29T21:30:00Z", "2026-03-28T23:30:00Z", "2026-03-28T22:30:00Z"];
        let now = "2026-03-29T23:45:00+02:00[Europe/Paris]";
        assert_eq!(kept(&spring, &[rule(Unit::Day, Some(1), None)], now), [true, true, false]);
    }

    #[test]
    fn hours_that_have_one_name_are_two() {
        // 2:30 in summer time, and 2:30 an hour later.
        let times = ["2026-10-25T01:30:00Z", "2026-10-25T00:30:00Z"];
        let now = "2026-10-25T02:45:00+01:00[Europe/Paris]";
        assert_eq!(kept(&times, &[rule(Unit::Hour, None, Some(1))], now), [true, true]);
        assert_eq!(kept(&times, &[rule(Unit::Hour, Some(1), None)], now), [true, false]);
    }

    #[test]
    fn weeks_are_those_of_the_calendar_over_the_turn_of_the_year() {
        // 2026-W53 has three days of 2027 in it.
        let times = ["2027-01-03T12:00:00Z", "2026-12-28T12:00:00Z", "2026-12-27T12:00:00Z"];
        let now = "2027-01-03T13:00:00+00:00[UTC]";
        assert_eq!(kept(&times, &[rule(Unit::Week, Some(1), None)], now), [true, true, false]);
        assert_eq!(kept(&times, &[rule(Unit::Week, None, Some(1))], now), [true, false, true]);
        let verdicts = plan(&[ns(times[0])], &[rule(Unit::Week, None, Some(1))], &now.parse().unwrap());
        assert_eq!(verdicts[0].reasons[0].to_string(), "week 2026-W53: number 1 of at most 1");
    }

    #[test]
    fn what_lies_in_the_future_stays() {
        let now = "2026-11-20T13:00:00+00:00[UTC]";
        assert_eq!(kept(&["2031-01-01T00:00:00Z"], &[rule(Unit::Day, Some(1), None)], now), [true]);
    }

    #[test]
    fn units_before_1970_count_on() {
        let now = "1970-01-01T13:00:00+00:00[UTC]";
        let times =
            ["1970-01-01T12:00:00Z", "1969-12-31T23:59:59Z", "1969-12-29T00:00:00Z", "1969-12-28T23:00:00Z"];
        assert_eq!(kept(&times, &[rule(Unit::Week, Some(1), None)], now), [true, true, true, false]);
        assert_eq!(kept(&times, &[rule(Unit::Day, Some(2), None)], now), [true, true, false, false]);
    }
}
