//! The tokens of one well-formed JSON value, with their places.

use std::borrow::Cow;

use super::scan::is_space;

/// A token, as it stands in the text.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    pub at: usize,
    pub raw: &'a [u8],
    pub kind: Kind<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    Null,
    Bool(bool),
    Number,
    String(Cow<'a, str>),
    ObjectOpen,
    ObjectClose,
    ArrayOpen,
    ArrayClose,
    End,
}

impl Token<'_> {
    /// For messages.
    pub fn raw(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.raw)
    }
}

/// Reads the tokens of a value that [`Values`](super::scan::Values) has cut out. Commas and colons need no
/// look: they are where they have to be.
pub struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub fn new(text: &'a [u8]) -> Tokens<'a> {
        Tokens { text, at: 0 }
    }

    /// An error of the value, at a place, in the form of Go's `protojson`. Other implementations are free to
    /// put a no-break space behind the colon, and etcd's builds draw which.
    pub fn error(&self, at: usize, what: &str) -> String {
        format!("proto: {}: {what}", self.place(at))
    }

    pub fn syntax_error(&self, at: usize, what: &str) -> String {
        format!("proto: syntax error {}: {what}", self.place(at))
    }

    pub fn unexpected(&self, token: &Token<'_>) -> String {
        self.syntax_error(token.at, &format!("unexpected token {}", token.raw()))
    }

    fn place(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
        format!("(line {line}:{column})")
    }

    pub fn peek(&self) -> Result<Token<'a>, String> {
        Tokens { text: self.text, at: self.at }.next()
    }

    pub fn next(&mut self) -> Result<Token<'a>, String> {
        while self.text.get(self.at).is_some_and(|c| is_space(*c) || matches!(c, b',' | b':')) {
            self.at += 1;
        }
        let at = self.at;
        let rest = &self.text[at..];
        let (len, kind) = match rest.first() {
            None => (0, Kind::End),
            Some(b'{') => (1, Kind::ObjectOpen),
            Some(b'}') => (1, Kind::ObjectClose),
            Some(b'[') => (1, Kind::ArrayOpen),
            Some(b']') => (1, Kind::ArrayClose),
            Some(b'n') => (4, Kind::Null),
            Some(b't') => (4, Kind::Bool(true)),
            Some(b'f') => (5, Kind::Bool(false)),
            Some(b'"') => self.string(rest)?,
            Some(_) => (number_len(rest), Kind::Number),
        };
        let raw = rest.get(..len).unwrap_or(rest);
        self.at += raw.len();
        Ok(Token { at, raw, kind })
    }

    /// Goes over a value, whatever it holds.
    pub fn skip(&mut self) -> Result<(), String> {
        let mut depth = 0_usize;
        loop {
            match self.next()?.kind {
                Kind::ObjectOpen | Kind::ArrayOpen => depth += 1,
                Kind::ObjectClose | Kind::ArrayClose => depth = depth.saturating_sub(1),
                Kind::End => return Ok(()),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Length and content of the string at the start of `rest`.
    fn string(&self, rest: &'a [u8]) -> Result<(usize, Kind<'a>), String> {
        let mut end = 1;
        let mut has_escapes = false;
        while let Some(&c) = rest.get(end) {
            match c {
                b'"' => break,
                b'\\' => {
                    has_escapes = true;
                    end += 2;
                }
                _ => end += 1,
            }
        }
        let inner = rest.get(1..end).unwrap_or_default();
        let Ok(inner) = std::str::from_utf8(inner) else {
            return Err(self.syntax_error(self.at, "invalid UTF-8 in string"));
        };
        let content = if has_escapes {
            let bad = |escape: &str| {
                self.syntax_error(self.at, &format!("invalid escape code {escape:?} in string"))
            };
            Cow::Owned(unescape(inner).map_err(bad)?)
        } else {
            Cow::Borrowed(inner)
        };
        Ok((end + 1, Kind::String(content)))
    }
}

/// The content of a string whose escapes are well-formed; the error is the one that is half a surrogate pair.
fn unescape(mut text: &str) -> Result<String, &str> {
    let mut out = String::with_capacity(text.len());
    while let Some(at) = text.find('\\') {
        out.push_str(&text[..at]);
        let escape = &text[at..];
        let simple = match escape.as_bytes().get(1) {
            Some(b'b') => Some('\u{8}'),
            Some(b'f') => Some('\u{c}'),
            Some(b'n') => Some('\n'),
            Some(b'r') => Some('\r'),
            Some(b't') => Some('\t'),
            Some(b'u') | None => None,
            Some(c) => Some(char::from(*c)),
        };
        if let Some(simple) = simple {
            out.push(simple);
            text = &escape[2..];
            continue;
        }
        let hex = |of: &str| {
            let digits = of.strip_prefix("\\u")?.get(..4)?;
            u16::from_str_radix(digits, 16).ok()
        };
        let Some(first) = hex(escape) else { return Err(escape) };
        text = &escape[6..];
        let c = match char::from_u32(first.into()) {
            Some(c) => c,
            None => {
                let second = hex(text);
                let pair = second.map(|second| char::decode_utf16([first, second]).next());
                let Some(Some(Ok(c))) = pair else { return Err(text.get(..6).unwrap_or(escape)) };
                text = &text[6..];
                c
            }
        };
        out.push(c);
    }
    out.push_str(text);
    Ok(out)
}

/// Length of the number at the start of a text; 0 if there is none, or if something sticks to it.
pub fn number_len(text: &[u8]) -> usize {
    let digits = |from: usize| text[from..].iter().take_while(|c| c.is_ascii_digit()).count();
    let mut len = usize::from(text.first() == Some(&b'-'));
    match text.get(len) {
        Some(b'0') => len += 1,
        Some(b'1'..=b'9') => len += digits(len),
        _ => return 0,
    }
    if text.get(len) == Some(&b'.') && text.get(len + 1).is_some_and(u8::is_ascii_digit) {
        len += 1 + digits(len + 1);
    }
    if matches!(text.get(len), Some(b'e' | b'E')) && text.len() > len + 1 {
        len += 1 + usize::from(matches!(text.get(len + 1), Some(b'+' | b'-')));
        len += digits(len);
    }
    let sticks = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'+' | b'.' | b'_');
    if text.get(len).is_some_and(sticks) { 0 } else { len }
}

/// The whole number that a text stands for: `12`, `1.5e1`, `120e-1`.
pub fn integer(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i64 = exponent.parse().ok()?;
    let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
    let digits = digits.trim_start_matches('0');
    // What the digits are to be multiplied by, as a power of ten.
    let scale = exponent - fraction.trim_end_matches('0').len() as i64;
    if digits.is_empty() {
        return Some(0);
    }
    let digits = if scale >= 0 {
        // Nothing longer fits into 64 bits.
        let zeros = usize::try_from(scale).ok().filter(|zeros| digits.len() + zeros <= 20)?;
        format!("{digits}{}", "0".repeat(zeros))
    } else {
        let cut = digits.len().checked_sub(usize::try_from(-scale).ok()?)?;
        let (kept, dropped) = digits.split_at(cut);
        if dropped.bytes().any(|c| c != b'0') {
            return None;
        }
        format!("0{kept}")
    };
    let value: i128 = digits.parse().ok()?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_may_be_written_with_a_point_or_an_exponent() {
        let cases: &[(&str, Option<i128>)] = &[
            ("0", Some(0)),
            ("-0", Some(0)),
            ("12", Some(12)),
            ("-12", Some(-12)),
            ("1.0", Some(1)),
            ("1.5", None),
            ("1.5e1", Some(15)),
            ("1e3", Some(1000)),
            ("1E+3", Some(1000)),
            ("120e-1", Some(12)),
            ("121e-1", None),
            ("0.0e9", Some(0)),
            ("1e-1", None),
            ("18446744073709551615", Some(u64::MAX.into())),
            ("1e30", None),
            ("1e9999999999999999999", None),
        ];
        for (text, value) in cases {
            assert_eq!(integer(text.as_bytes()), *value, "{text}");
            assert_eq!(number_len(text.as_bytes()), text.len(), "{text}");
        }
        for text in ["", "-", "x", "1x", "1.", "1.x", "--1"] {
            assert_eq!(number_len(text.as_bytes()), 0, "{text}");
        }
    }

    #[test]
    fn strings_lose_their_escapes() {
        let content = |text: &str| match Tokens::new(text.as_bytes()).next() {
            Ok(Token { kind: Kind::String(content), .. }) => Ok(content.into_owned()),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(content(r#""a\n\u00e9\ud83d\ude00\/\"""#).unwrap(), "a\né😀/\"");
        let half = content(r#""\ud83dxxxxxx""#).unwrap_err();
        assert!(half.contains("syntax error (line 1:1): invalid escape code"), "{half}");
        let mut tokens = Tokens::new(b"{\n \"\xff\"}");
        tokens.next().unwrap();
        let error = tokens.next().unwrap_err();
        assert_eq!(error, "proto: syntax error (line 2:2): invalid UTF-8 in string");
    }
}
