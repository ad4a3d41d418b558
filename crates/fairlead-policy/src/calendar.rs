//! Days and months of the calendar, in UTC: when a quota begins anew.

use fairlead_config::Period;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// The number of the period a time lies in, and when it ends (Unix milliseconds).
pub(crate) fn period(per: Period, unix_ms: u64) -> (u64, u64) {
    let day = unix_ms / DAY_MS;
    match per {
        Period::Day => (day, (day + 1) * DAY_MS),
        Period::Month => {
            let (year, month) = civil(day);
            let number = year * 12 + month - 1;
            let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            (number, days_before(next_year, next_month) * DAY_MS)
        }
    }
}

/// Year and month (from 1) of a day since 1970. (Howard Hinnant, "chrono-compatible low-level date algorithms".)
fn civil(day: u64) -> (u64, u64) {
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month)
}

/// Days from 1970 to the first of a month.
fn days_before(year: u64, month: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let era = year / 400;
    let of_era = year % 400;
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5;
    let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + days - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_end_where_the_calendar_says() {
        // 2024-02-29T12:00:00Z, a leap day.
        let leap = 1_709_208_000_000;
        assert_eq!(period(Period::Day, leap).1, 1_709_251_200_000);
        assert_eq!(period(Period::Month, leap), (2024 * 12 + 1, 1_709_251_200_000));
        // 2023-12-31T23:59:59.999Z
        let eve = 1_704_067_199_999;
        assert_eq!(period(Period::Month, eve), (2023 * 12 + 11, 1_704_067_200_000));
        assert_eq!(period(Period::Month, eve + 1).0, 2024 * 12);
        assert_eq!(period(Period::Day, 0), (0, DAY_MS));
    }
}
