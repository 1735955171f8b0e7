//! Dates, as `strftime_now` prints them.

use std::fmt::Write as _;

use crate::error::{Error, Result};

/// A date, for templates that print today's date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTH_DAYS: [u16; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Date {
    /// Parses `YYYY-MM-DD`; the year is at least 1900.
    ///
    /// ```
    /// assert!(jinja::Date::parse("2024-07-26").is_some());
    /// assert!(jinja::Date::parse("2023-02-29").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let date = Self {
            year: parts.next().filter(|year| year.len() == 4)?.parse().ok()?,
            month: parts.next().filter(|month| month.len() == 2)?.parse().ok()?,
            day: parts.next().filter(|day| day.len() == 2)?.parse().ok()?,
        };
        let days = MONTH_DAYS.get(usize::from(date.month).checked_sub(1)?)?
            + u16::from(date.month == 2 && date.leap());
        (parts.next().is_none() && date.year >= 1900 && (1..=days).contains(&u16::from(date.day)))
            .then_some(date)
    }

    fn leap(self) -> bool {
        self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    fn day_of_year(self) -> u16 {
        let month = usize::from(self.month) - 1;
        MONTH_DAYS[..month].iter().sum::<u16>() + u16::from(month > 1 && self.leap()) + u16::from(self.day)
    }

    fn weekday(self) -> &'static str {
        let years = u32::from(self.year) - 1;
        let days = years * 365 + years / 4 - years / 100 + years / 400 + u32::from(self.day_of_year());
        WEEKDAYS[(days % 7) as usize]
    }

    /// Formats midnight of this date as C's `strftime` does.
    pub(crate) fn strftime(self, format: &str) -> Result<String> {
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                out.push(letter);
                continue;
            }
            let mut code = letters.next().unwrap_or('%');
            let bare = code == '-';
            if bare {
                code = letters.next().unwrap_or('%');
            }
            let month = MONTHS[usize::from(self.month) - 1];
            match code {
                'd' if bare => write!(out, "{}", self.day),
                'm' if bare => write!(out, "{}", self.month),
                'd' => write!(out, "{:02}", self.day),
                'e' => write!(out, "{:2}", self.day),
                'm' => write!(out, "{:02}", self.month),
                'j' => write!(out, "{:03}", self.day_of_year()),
                'y' => write!(out, "{:02}", self.year % 100),
                'Y' => write!(out, "{}", self.year),
                'B' => write!(out, "{month}"),
                'b' | 'h' => write!(out, "{}", &month[..3]),
                'A' => write!(out, "{}", self.weekday()),
                'a' => write!(out, "{}", &self.weekday()[..3]),
                'F' => write!(out, "{}-{:02}-{:02}", self.year, self.month, self.day),
                'H' | 'M' | 'S' => write!(out, "{}", if bare { "0" } else { "00" }),
                'I' => write!(out, "12"),
                'p' => write!(out, "AM"),
                'T' => write!(out, "00:00:00"),
                '%' => write!(out, "%"),
                _ => {
                    let reason = format!("strftime_now does not know `%{code}`");
                    return Err(Error::of_type(reason));
                }
            }
            .expect("a string grows");
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_print_as_in_c() {
        let date = Date::parse("2024-07-06").unwrap();
        assert_eq!(
            date.strftime("%d %b %Y, %A %-d %B %y (%j) 100%%").unwrap(),
            "06 Jul 2024, Saturday 6 July 24 (188) 100%"
        );
        assert_eq!(
            Date::parse("2000-02-29").unwrap().strftime("%a %F %H:%M").unwrap(),
            "Tue 2000-02-29 00:00"
        );
        assert!(date.strftime("%Q").is_err());
        for bad in ["2024-13-01", "2024-00-01", "2024-1-1", "24-01-01", "2024-04-31", "x"] {
            assert_eq!(Date::parse(bad), None, "{bad}");
        }
    }
}
