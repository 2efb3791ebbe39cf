//! Flag values: their kinds and their syntax, which is that of Go's `flag` and `time` packages.

use std::time::Duration;

use super::url::Url;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Present or absent, or `=true`, `=false`; never takes the next argument.
    Bool,
    Uint,
    Int,
    /// At most 32 bits.
    Uint32,
    Duration,
    Text,
    /// URLs with commas between them, or nothing.
    Urls,
    OneOf(&'static [&'static str]),
}

/// A value that was read. Two values are the same if the flag means the same with both.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Uint(u64),
    Int(i64),
    /// Nanoseconds; Go's durations are signed.
    Duration(i64),
    Text(String),
    Urls(Vec<Url>),
}

impl Kind {
    /// Reads `text`; the error is the rule that it breaks.
    pub fn read(self, text: &str) -> Result<Value, String> {
        match self {
            Kind::Bool => read_bool(text).map(Value::Bool),
            Kind::Uint => read_uint(text, u64::MAX).map(Value::Uint),
            Kind::Uint32 => read_uint(text, u32::MAX.into()).map(Value::Uint),
            Kind::Int => read_int(text).map(Value::Int),
            Kind::Duration => read_duration(text).map(Value::Duration),
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Urls => read_urls(text).map(Value::Urls),
            Kind::OneOf(names) if names.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::OneOf(names) => Err(format!("must be one of {}", names.join(", "))),
        }
    }
}

fn read_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn read_uint(text: &str, max: u64) -> Result<u64, String> {
    digits(text)
        .filter(|&n| n <= u128::from(max))
        .and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| format!("must be a whole number from 0 to {max}"))
}

fn read_int(text: &str) -> Result<i64, String> {
    let (negative, rest) = sign(text);
    digits(rest)
        .and_then(|n| i128::try_from(n).ok())
        .map(|n| if negative { -n } else { n })
        .and_then(|n| i64::try_from(n).ok())
        .ok_or_else(|| format!("must be a whole number from {} to {}", i64::MIN, i64::MAX))
}

fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// A number in any base that Go reads by itself: `0x`, `0o`, `0b`, or a leading 0 for octal, with
/// single underscores between digits of a number that has such a prefix.
fn digits(text: &str) -> Option<u128> {
    let lower = text.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some(two) if two.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let prefixed = radix != 10;
    if body.starts_with(['+', '-']) || (!prefixed && body.contains('_')) {
        return None;
    }
    if body.ends_with('_') || body.contains("__") {
        return None;
    }
    u128::from_str_radix(&body.replace('_', ""), radix).ok()
}

/// Nanoseconds of a Go duration such as `1h30m`, `1.5s`, `-10ms`, `0`.
pub fn read_duration(text: &str) -> Result<i64, String> {
    const RULE: &str = "must be a duration such as 100ms, 10s or 1h30m";
    let (negative, mut rest) = sign(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(RULE.to_owned());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let Some(unit_ns) = unit_ns(unit) else {
            let what = if unit.is_empty() {
                "missing unit".into()
            } else {
                format!("unknown unit {unit:?}")
            };
            return Err(format!("{RULE} ({what})"));
        };
        total = nanoseconds(number, unit_ns).and_then(|n| total.checked_add(n)).ok_or(RULE)?;
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| format!("{RULE} (too long)"))
}

fn unit_ns(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` with at most one point, times `unit_ns`, without what lies below a nanosecond.
fn nanoseconds(number: &str, unit_ns: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    // 18 digits are more than a nanosecond of an hour can show.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let part = |s: &str| if s.is_empty() { Some(0) } else { s.parse::<i128>().ok() };
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let whole = part(whole)?.checked_mul(unit_ns)?;
    whole.checked_add(part(fraction)?.checked_mul(unit_ns)? / scale)
}

fn read_urls(text: &str) -> Result<Vec<Url>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// Milliseconds of a duration in nanoseconds, rounded up, so that a duration above zero stays so.
pub fn ns_to_ms(ns: i64) -> u64 {
    u64::try_from(ns).unwrap_or(0).div_ceil(1_000_000)
}

/// For messages: the duration as Go would write a whole number of milliseconds.
pub fn show_ms(ms: u64) -> String {
    format!("{:?}", Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_the_ones_of_go() {
        for yes in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(Kind::Bool.read(yes), Ok(Value::Bool(true)), "{yes}");
        }
        for no in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(Kind::Bool.read(no), Ok(Value::Bool(false)), "{no}");
        }
        for bad in ["", "yes", "tRUE", "2"] {
            assert_eq!(Kind::Bool.read(bad), Err("must be true or false".to_owned()), "{bad}");
        }
    }

    #[test]
    fn numbers_may_be_written_in_every_base_that_go_reads() {
        let good = [
            ("0", 0),
            ("42", 42),
            ("0x10", 16),
            ("0X1F", 31),
            ("0b101", 5),
            ("0o17", 15),
            ("017", 15),
            ("0x1_000", 4096),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, n) in good {
            assert_eq!(Kind::Uint.read(text), Ok(Value::Uint(n)), "{text}");
        }
        for bad in ["", "-1", "+1", "1k", "1.5", " 1", "1_000", "18446744073709551616", "0x", "09"]
        {
            assert!(Kind::Uint.read(bad).is_err(), "{bad}");
        }
        assert!(Kind::Uint32.read("4294967295").is_ok());
        assert!(Kind::Uint32.read("4294967296").is_err());
    }

    #[test]
    fn signed_numbers_reach_both_ends() {
        for (text, n) in [("-1", -1), ("+7", 7), ("-9223372036854775808", i64::MIN)] {
            assert_eq!(Kind::Int.read(text), Ok(Value::Int(n)), "{text}");
        }
        for bad in ["--1", "-", "9223372036854775808", "x"] {
            assert!(Kind::Int.read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_the_ones_of_go() {
        let good = [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("-10ms", -10_000_000),
            ("+3us", 3_000),
            ("3\u{b5}s", 3_000),
            ("3\u{3bc}s", 3_000),
            ("1m0.000000001s", 60_000_000_001),
            ("9223372036854775807ns", i64::MAX),
        ];
        for (text, ns) in good {
            assert_eq!(read_duration(text), Ok(ns), "{text}");
        }
        let bad = [
            "",
            "-",
            "5",
            "s",
            ".s",
            "1..5s",
            "5 s",
            "1d",
            "10000000h",
            "9223372036854775808ns",
            "1h-1m",
        ];
        for text in bad {
            assert!(read_duration(text).is_err(), "{text}");
        }
        assert!(read_duration("5").unwrap_err().contains("missing unit"));
        assert!(read_duration("1d").unwrap_err().contains("unknown unit \"d\""));
    }

    #[test]
    fn a_duration_above_zero_never_becomes_zero_milliseconds() {
        for (ns, ms) in [(-1, 0), (0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2)] {
            assert_eq!(ns_to_ms(ns), ms);
        }
    }

    #[test]
    fn lists_of_urls_are_sorted_and_without_duplicates() {
        let urls = Kind::Urls.read("http://b:2, http://a:1,http://b:2").unwrap();
        let Value::Urls(urls) = urls else { panic!("not URLs: {urls:?}") };
        let texts: Vec<_> = urls.iter().map(Url::as_str).collect();
        assert_eq!(texts, ["http://a:1", "http://b:2"]);
        assert_eq!(Kind::Urls.read(""), Ok(Value::Urls(Vec::new())));
        assert!(Kind::Urls.read("http://a:1,").is_err());
    }
}
