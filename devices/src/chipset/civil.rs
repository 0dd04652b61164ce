//! Calendar arithmetic for the real-time clock: the proleptic Gregorian calendar.

const DAYS_PER_4_YEARS: i64 = 4 * 365 + 1;
/// Without the leap day that only each fourth century has.
const DAYS_PER_100_YEARS: i64 = 25 * DAYS_PER_4_YEARS - 1;
const DAYS_PER_400_YEARS: i64 = 4 * DAYS_PER_100_YEARS + 1;
const SECONDS_PER_DAY: i64 = 86_400;

/// A date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u32,
    /// 1 to 31.
    pub(super) day: u32,
    /// 0 is Sunday.
    pub(super) weekday: u32,
    pub(super) hour: u32,
    pub(super) minute: u32,
    pub(super) second: u32,
}

/// Days before a month in a year that begins in March, so that the leap day comes last: months alternate between 31 and
/// 30 days in runs of five, 153 days each.
fn days_before_month(months_since_march: i64) -> i64 {
    (153 * months_since_march + 2) / 5
}

/// Days from 1970-01-01 to the first of March of a year.
fn days_to_march(year: i64) -> i64 {
    const MARCH_1970: i64 = 59;
    let leap_days = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * (year - 1970) + leap_days(year) - leap_days(1970) + MARCH_1970
}

impl Civil {
    /// The date and time at this many seconds since 1970-01-01 00:00.
    pub(super) fn from_unix(seconds: i64) -> Civil {
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        let of_day = seconds.rem_euclid(SECONDS_PER_DAY) as u32;

        // Years begin in March, so each cycle of 400, 100 and 4 of them has its odd day at its very end.
        let since_march_0 = days - days_to_march(0);
        let cycles = since_march_0.div_euclid(DAYS_PER_400_YEARS);
        let of_cycle = since_march_0.rem_euclid(DAYS_PER_400_YEARS);
        let centuries = (of_cycle / DAYS_PER_100_YEARS).min(3);
        let of_century = of_cycle - centuries * DAYS_PER_100_YEARS;
        let (leaps, of_leap) = (of_century / DAYS_PER_4_YEARS, of_century % DAYS_PER_4_YEARS);
        let years = (of_leap / 365).min(3);
        let of_year = of_leap - years * 365;
        let march_year = 400 * cycles + 100 * centuries + 4 * leaps + years;

        let month = (5 * of_year + 2) / 153;
        let day = of_year - days_before_month(month) + 1;
        let next_year = month >= 10;
        Civil {
            year: march_year + i64::from(next_year),
            month: (if next_year { month - 9 } else { month + 3 }) as u32,
            day: day as u32,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4).rem_euclid(7) as u32,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    /// Seconds since 1970-01-01 00:00; the weekday does not count. Fields out of their range run over into the next
    /// larger one; a month 0 is January.
    pub(super) fn to_unix(self) -> i64 {
        let months = i64::from(self.month).max(1) - 1;
        let (year, month) = (self.year + months / 12, months % 12);
        let (march_year, march_month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
        let days =
            days_to_march(march_year) + days_before_month(march_month) + i64::from(self.day).max(1) - 1;
        let minutes = i64::from(self.hour) * 60 + i64::from(self.minute);
        days * SECONDS_PER_DAY + minutes * 60 + i64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(civil: Civil) -> (i64, u32, u32, u32) {
        (civil.year, civil.month, civil.day, civil.weekday)
    }

    #[test]
    fn known_dates() {
        for (seconds, expected) in [
            (0, (1970, 1, 1, 4)),
            (-1, (1969, 12, 31, 3)),
            (68_169_600, (1972, 2, 29, 2)),
            (951_782_400, (2000, 2, 29, 2)),
            (951_868_800, (2000, 3, 1, 3)),
            (1_709_164_800, (2024, 2, 29, 4)),
            (1_735_603_200, (2024, 12, 31, 2)),
            (4_107_542_400, (2100, 3, 1, 1)),
            (253_402_300_799, (9999, 12, 31, 5)),
        ] {
            assert_eq!(date(Civil::from_unix(seconds)), expected, "{seconds}");
        }
        let civil = Civil::from_unix(1_000_000_000);
        assert_eq!((civil.hour, civil.minute, civil.second), (1, 46, 40));
    }

    #[test]
    fn every_day_of_a_thousand_years_follows_the_one_before() {
        let mut last = Civil::from_unix(-400 * 366 * SECONDS_PER_DAY);
        for day in -400 * 366 + 1..600 * 366 {
            let civil = Civil::from_unix(day * SECONDS_PER_DAY);
            let next_day = (civil.year, civil.month, civil.day) == (last.year, last.month, last.day + 1);
            let leap = last.year % 4 == 0 && (last.year % 100 != 0 || last.year % 400 == 0);
            let length = [31, 28 + u32::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let month_ended = last.day == length[last.month as usize - 1] && civil.day == 1;
            let next_month = month_ended
                && (last.month % 12 + 1, last.year + i64::from(last.month / 12)) == (civil.month, civil.year);
            assert!(next_day && last.day < 31 || next_month, "{last:?} {civil:?}");
            assert_eq!(civil.weekday, (last.weekday + 1) % 7);
            assert_eq!(civil.to_unix(), day * SECONDS_PER_DAY);
            last = civil;
        }
    }

    #[test]
    fn extremes_and_nonsense_have_answers() {
        assert!(Civil::from_unix(i64::MIN).year < -290_000_000_000);
        assert!(Civil::from_unix(i64::MAX).year > 290_000_000_000);
        for seconds in [-1 << 60, -1 << 40, 1 << 50, 1 << 60] {
            let civil = Civil::from_unix(seconds);
            assert_eq!(civil.to_unix(), seconds, "{civil:?}");
        }
        let nonsense = Civil { year: 2023, month: 2, day: 31, weekday: 9, hour: 25, minute: 61, second: 99 };
        let civil = Civil::from_unix(nonsense.to_unix());
        assert_eq!((civil.year, civil.month, civil.day, civil.hour), (2023, 3, 4, 2));
        let zero = Civil { year: 0, month: 0, day: 0, weekday: 0, hour: 0, minute: 0, second: 0 };
        assert_eq!(date(Civil::from_unix(zero.to_unix())), (0, 1, 1, 6));
    }
}
