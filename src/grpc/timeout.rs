//! The `grpc-timeout` header: up to eight digits and a unit.

use std::time::Duration;

use super::status::{Code, Status, quote};

/// Why a timeout is not one, in the words of grpc-go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTimeout(String);

impl From<InvalidTimeout> for Status {
    fn from(InvalidTimeout(reason): InvalidTimeout) -> Status {
        Status::new(Code::Internal, format!("malformed grpc-timeout: {reason}"))
    }
}

/// Parses the value of `grpc-timeout`.
pub fn parse_timeout(value: &[u8]) -> Result<Duration, InvalidTimeout> {
    let Some((&unit, digits)) = value.split_last().filter(|(_, digits)| !digits.is_empty()) else {
        return Err(invalid("transport: timeout string is too short: ", value, ""));
    };
    if digits.len() > 8 {
        return Err(invalid("transport: timeout string is too long: ", value, ""));
    }
    let unit_ns: u64 = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return Err(invalid("transport: timeout unit is not recognized: ", value, "")),
    };
    let mut amount = 0u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(invalid("strconv.ParseUint: parsing ", digits, ": invalid syntax"));
        }
        amount = amount * 10 + u64::from(digit - b'0');
    }
    // grpc-go keeps a duration in an i64.
    let timeout_ns = amount.saturating_mul(unit_ns).min(i64::MAX as u64);
    Ok(Duration::from_nanos(timeout_ns))
}

#[cold]
fn invalid(before: &str, text: &[u8], after: &str) -> InvalidTimeout {
    InvalidTimeout(format!("{before}{}{after}", quote(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_digits_and_a_unit() {
        let cases: [(&str, Duration); 9] = [
            ("1n", Duration::from_nanos(1)),
            ("0S", Duration::ZERO),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("4999871u", Duration::from_micros(4_999_871)),
            ("250m", Duration::from_millis(250)),
            ("5S", Duration::from_secs(5)),
            ("3M", Duration::from_secs(180)),
            ("2H", Duration::from_secs(7_200)),
            ("99999999H", Duration::from_nanos(i64::MAX as u64)),
        ];
        for (text, timeout) in cases {
            assert_eq!(parse_timeout(text.as_bytes()), Ok(timeout), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_in_the_words_of_grpc_go() {
        let cases = [
            ("", "transport: timeout string is too short: \"\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("12x", "transport: timeout unit is not recognized: \"12x\""),
            ("1 S", "strconv.ParseUint: parsing \"1 \": invalid syntax"),
            ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
        ];
        for (text, reason) in cases {
            let status: Status = parse_timeout(text.as_bytes()).unwrap_err().into();
            let expected = format!("malformed grpc-timeout: {reason}");
            assert_eq!(status, Status::new(Code::Internal, expected));
        }
    }
}
