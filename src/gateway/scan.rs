//! Cuts a stream of bytes into JSON values, as Go's `encoding/json` does, with its words for what is wrong.
//!
//! Invariant: what comes out is well-formed but for what strings hold (UTF-8, surrogates), and no deeper
//! than [`DEPTH_MAX`].

use bytes::{Bytes, BytesMut};

/// Go's `maxNestingDepth`.
const DEPTH_MAX: usize = 10_000;

/// What the next byte may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    BeginValue,
    BeginValueOrEmpty,
    BeginString,
    BeginStringOrEmpty,
    EndValue,
    InString,
    Escape,
    /// So many hexadecimal digits follow.
    EscapeHex(u8),
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// The place in a word, of which it is told what is left.
    Word(&'static str, &'static str),
}

/// What encloses the place where the scanner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    ObjectKey,
    ObjectValue,
    Array,
}

enum Step {
    Goes,
    /// The value has ended with this byte.
    Ends,
    /// The value, a number, had ended before this byte.
    Ended,
}

/// A stream of values, and how far the next one was looked at.
#[derive(Debug)]
pub struct Values {
    input: BytesMut,
    scanned: usize,
    state: State,
    within: Vec<Within>,
    ended: bool,
}

impl Default for Values {
    fn default() -> Values {
        Values {
            input: BytesMut::new(),
            scanned: 0,
            state: State::BeginValue,
            within: Vec::new(),
            ended: false,
        }
    }
}

impl Values {
    pub fn push(&mut self, data: &[u8]) {
        self.input.extend_from_slice(data);
    }

    /// No more will come.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Bytes that wait for the end of their value.
    pub fn len(&self) -> usize {
        self.input.len()
    }

    /// The next value that is there, with the white space before it. An error is for good.
    pub fn next_value(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(&byte) = self.input.get(self.scanned) {
            match self.step(byte)? {
                Step::Goes => self.scanned += 1,
                Step::Ends => {
                    self.scanned += 1;
                    return Ok(Some(self.take()));
                }
                Step::Ended => return Ok(Some(self.take())),
            }
        }
        if !self.ended {
            return Ok(None);
        }
        if self.input.iter().all(|byte| is_space(*byte)) {
            self.input.clear();
            self.scanned = 0;
            return Ok(None);
        }
        // The end ends a number as a space would.
        match self.step(b' ') {
            Ok(Step::Ended | Step::Ends) => Ok(Some(self.take())),
            _ => Err("unexpected EOF".to_owned()),
        }
    }

    fn take(&mut self) -> Bytes {
        self.state = State::BeginValue;
        let value = self.input.split_to(self.scanned).freeze();
        self.scanned = 0;
        value
    }

    fn step(&mut self, c: u8) -> Result<Step, String> {
        let expected = |next: bool, then: State, context: &str| match next {
            true => Ok(then),
            false => Err(invalid(c, context)),
        };
        self.state = match self.state {
            State::BeginValueOrEmpty if c == b']' => return self.end_value(c),
            state @ (State::BeginValue | State::BeginValueOrEmpty) => {
                if is_space(c) {
                    state
                } else {
                    self.begin_value(c)?
                }
            }
            State::BeginStringOrEmpty if c == b'}' => {
                self.innermost(Within::ObjectValue);
                return self.end_value(c);
            }
            state @ (State::BeginString | State::BeginStringOrEmpty) if is_space(c) => state,
            State::BeginString | State::BeginStringOrEmpty => {
                expected(c == b'"', State::InString, "looking for beginning of object key string")?
            }
            State::EndValue => return self.end_value(c),
            State::InString => match c {
                b'"' if self.within.is_empty() => {
                    self.state = State::EndValue;
                    return Ok(Step::Ends);
                }
                b'"' => State::EndValue,
                b'\\' => State::Escape,
                _ => expected(c >= 0x20, State::InString, "in string literal")?,
            },
            State::Escape => match c {
                b'u' => State::EscapeHex(4),
                _ => {
                    expected(br#"bfnrt\/""#.contains(&c), State::InString, "in string escape code")?
                }
            },
            State::EscapeHex(left) => {
                let next = if left == 1 { State::InString } else { State::EscapeHex(left - 1) };
                expected(c.is_ascii_hexdigit(), next, r"in \u hexadecimal character escape")?
            }
            State::Minus => match c {
                b'0' => State::Zero,
                _ => expected(c.is_ascii_digit(), State::Integer, "in numeric literal")?,
            },
            State::Integer if c.is_ascii_digit() => State::Integer,
            State::Zero | State::Integer => match c {
                b'.' => State::Point,
                b'e' | b'E' => State::Exponent,
                _ => return self.end_value(c),
            },
            State::Point => expected(
                c.is_ascii_digit(),
                State::Fraction,
                "after decimal point in numeric literal",
            )?,
            State::Fraction => match c {
                b'0'..=b'9' => State::Fraction,
                b'e' | b'E' => State::Exponent,
                _ => return self.end_value(c),
            },
            State::Exponent if matches!(c, b'+' | b'-') => State::ExponentSign,
            State::Exponent | State::ExponentSign => expected(
                c.is_ascii_digit(),
                State::ExponentDigits,
                "in exponent of numeric literal",
            )?,
            State::ExponentDigits if c.is_ascii_digit() => State::ExponentDigits,
            State::ExponentDigits => return self.end_value(c),
            State::Word(word, rest) => {
                let next = rest.chars().next().unwrap_or(' ');
                if char::from(c) != next {
                    return Err(invalid(c, &format!("in literal {word} (expecting '{next}')")));
                }
                match &rest[1..] {
                    "" if self.within.is_empty() => {
                        self.state = State::EndValue;
                        return Ok(Step::Ends);
                    }
                    "" => State::EndValue,
                    rest => State::Word(word, rest),
                }
            }
        };
        Ok(Step::Goes)
    }

    fn innermost(&mut self, within: Within) {
        if let Some(last) = self.within.last_mut() {
            *last = within;
        }
    }

    fn begin_value(&mut self, c: u8) -> Result<State, String> {
        let (within, state) = match c {
            b'{' => (Within::ObjectKey, State::BeginStringOrEmpty),
            b'[' => (Within::Array, State::BeginValueOrEmpty),
            b'"' => return Ok(State::InString),
            b'-' => return Ok(State::Minus),
            b'0' => return Ok(State::Zero),
            b'1'..=b'9' => return Ok(State::Integer),
            b't' => return Ok(State::Word("true", "rue")),
            b'f' => return Ok(State::Word("false", "alse")),
            b'n' => return Ok(State::Word("null", "ull")),
            _ => return Err(invalid(c, "looking for beginning of value")),
        };
        if self.within.len() >= DEPTH_MAX {
            return Err(invalid(c, "exceeded max depth"));
        }
        self.within.push(within);
        Ok(state)
    }

    /// A byte behind a value.
    fn end_value(&mut self, c: u8) -> Result<Step, String> {
        let Some(within) = self.within.last_mut() else { return Ok(Step::Ended) };
        if is_space(c) {
            self.state = State::EndValue;
            return Ok(Step::Goes);
        }
        let context = match (*within, c) {
            (Within::ObjectKey, b':') => {
                *within = Within::ObjectValue;
                self.state = State::BeginValue;
                return Ok(Step::Goes);
            }
            (Within::ObjectValue, b',') => {
                *within = Within::ObjectKey;
                self.state = State::BeginString;
                return Ok(Step::Goes);
            }
            (Within::Array, b',') => {
                self.state = State::BeginValue;
                return Ok(Step::Goes);
            }
            (Within::ObjectValue, b'}') | (Within::Array, b']') => {
                self.within.pop();
                self.state = State::EndValue;
                return Ok(if self.within.is_empty() { Step::Ends } else { Step::Goes });
            }
            (Within::ObjectKey, _) => "after object key",
            (Within::ObjectValue, _) => "after object key:value pair",
            (Within::Array, _) => "after array element",
        };
        Err(invalid(c, context))
    }
}

pub fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\r' | b'\n')
}

/// The byte as Go quotes the character of that number.
fn invalid(c: u8, context: &str) -> String {
    let shown = match c {
        b'\'' => r"\'".to_owned(),
        b'\\' => r"\\".to_owned(),
        0x07 => r"\a".to_owned(),
        0x08 => r"\b".to_owned(),
        0x0b => r"\v".to_owned(),
        0x0c => r"\f".to_owned(),
        b'\n' => r"\n".to_owned(),
        b'\r' => r"\r".to_owned(),
        b'\t' => r"\t".to_owned(),
        0..0x20 | 0x7f => format!("\\x{c:02x}"),
        0x80..=0xa0 | 0xad => format!("\\u{c:04x}"),
        _ => char::from(c).to_string(),
    };
    format!("invalid character '{shown}' {context}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of a text, and what it ends with; the same whether it comes at once or in bytes.
    fn values(text: &str) -> (Vec<String>, Option<String>) {
        let cut = |pieces: &[&[u8]]| {
            let mut values = Values::default();
            let mut found = Vec::new();
            for (at, piece) in pieces.iter().enumerate() {
                values.push(piece);
                if at + 1 == pieces.len() {
                    values.end();
                }
                loop {
                    match values.next_value() {
                        Ok(Some(value)) => {
                            found.push(String::from_utf8_lossy(&value).trim().to_owned());
                        }
                        Ok(None) => break,
                        Err(error) => return (found, Some(error)),
                    }
                }
            }
            (found, None)
        };
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        let whole = cut(&[text.as_bytes()]);
        if !bytes.is_empty() {
            assert_eq!(cut(&bytes), whole, "{text}");
        }
        whole
    }

    #[test]
    fn a_stream_is_cut_into_its_values() {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" \n\t\r", &[]),
            ("{}", &["{}"]),
            (
                r#"{"a":[1,{"b":null}]} [] "x" 12 -0.5e+7"#,
                &[r#"{"a":[1,{"b":null}]}"#, "[]", r#""x""#, "12", "-0.5e+7"],
            ),
            ("{}{}", &["{}", "{}"]),
            ("1[true]", &["1", "[true]"]),
            ("[ ]", &["[ ]"]),
            ("{ }", &["{ }"]),
            (r#""\"}\u00e9\\""#, &[r#""\"}\u00e9\\""#]),
            ("truefalse null", &["true", "false", "null"]),
        ];
        for (text, expected) in cases {
            assert_eq!(values(text), (strings(expected), None), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_gos_words() {
        let cases = [
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{\"a\":", "unexpected EOF"),
            ("{", "unexpected EOF"),
            ("\"", "unexpected EOF"),
            ("tru", "unexpected EOF"),
            ("-", "unexpected EOF"),
            ("{x", "invalid character 'x' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1}", "invalid character '}' after array element"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u00g\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("[01]", "invalid character '1' after array element"),
            ("nil", "invalid character 'i' in literal null (expecting 'u')"),
            ("trap", "invalid character 'a' in literal true (expecting 'u')"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
            ("\u{7f}", "invalid character '\\x7f' looking for beginning of value"),
            ("\u{e9}", "invalid character '\u{c3}' looking for beginning of value"),
        ];
        for (text, error) in cases {
            assert_eq!(values(text), (Vec::new(), Some(error.to_owned())), "{text}");
        }
        let deep = "[".repeat(DEPTH_MAX + 1);
        let (_, error) = values(&deep);
        assert_eq!(error.unwrap(), "invalid character '[' exceeded max depth");
    }
}
