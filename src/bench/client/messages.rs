//! Cuts the data of a response into messages, without copying those that lie in one frame.

use crate::bench::limits::MESSAGE_BYTES_MAX;
use crate::grpc::PREFIX_LEN;

/// What the caller needs of the messages of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Message,
    /// Only that they came: nothing is gathered, however long they are.
    Nothing,
}

/// A message that is compressed, or too long to be gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

#[derive(Debug, Default)]
pub struct Messages {
    /// A prefix or a message of which only a part has come.
    gathered: Vec<u8>,
    /// Octets of the message in progress that have not come; none between messages.
    missing: Option<usize>,
}

impl Messages {
    /// Hands out what is complete, in order.
    #[inline]
    pub fn push(
        &mut self,
        mut data: &[u8],
        want: Want,
        emit: &mut impl FnMut(&[u8]),
    ) -> Result<(), Unreadable> {
        loop {
            let missing = match self.missing {
                Some(missing) => missing,
                None => {
                    let Some(length) = self.prefix(&mut data)? else { return Ok(()) };
                    if want == Want::Message && length > MESSAGE_BYTES_MAX {
                        return Err(Unreadable);
                    }
                    length
                }
            };
            let (part, rest) = data.split_at(missing.min(data.len()));
            data = rest;
            if part.len() < missing {
                if want == Want::Message {
                    self.gathered.extend_from_slice(part);
                }
                self.missing = Some(missing - part.len());
                return Ok(());
            }
            self.missing = None;
            if want == Want::Nothing {
                emit(&[]);
            } else if self.gathered.is_empty() {
                emit(part);
            } else {
                self.gathered.extend_from_slice(part);
                emit(&self.gathered);
                self.gathered.clear();
            }
        }
    }

    /// Whether the data ended where a message ended.
    pub fn is_between(&self) -> bool {
        self.missing.is_none() && self.gathered.is_empty()
    }

    #[inline]
    fn prefix(&mut self, data: &mut &[u8]) -> Result<Option<usize>, Unreadable> {
        let prefix = match data.split_first_chunk::<PREFIX_LEN>() {
            Some((prefix, rest)) if self.gathered.is_empty() => {
                *data = rest;
                *prefix
            }
            _ => {
                let part = (PREFIX_LEN - self.gathered.len()).min(data.len());
                self.gathered.extend_from_slice(&data[..part]);
                *data = &data[part..];
                let Some(prefix) = self.gathered.first_chunk::<PREFIX_LEN>().copied() else {
                    return Ok(None);
                };
                self.gathered.clear();
                prefix
            }
        };
        let [compressed, length @ ..] = prefix;
        if compressed != 0 {
            return Err(Unreadable);
        }
        Ok(Some(u32::from_be_bytes(length) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::encode_prefix;

    #[test]
    fn messages_come_whole_however_the_data_is_cut() {
        let messages: [&[u8]; 5] = [b"", b"a", b"hello world", b"", &[7; 300]];
        let wire: Vec<u8> =
            messages.iter().flat_map(|m| [&encode_prefix(m.len())[..], m].concat()).collect();
        for step in 1..=wire.len() {
            for want in [Want::Message, Want::Nothing] {
                let mut cutter = Messages::default();
                let mut found: Vec<Vec<u8>> = Vec::new();
                for part in wire.chunks(step) {
                    cutter.push(part, want, &mut |message| found.push(message.to_vec())).unwrap();
                }
                assert!(cutter.is_between());
                assert_eq!(found.len(), messages.len());
                assert!(want == Want::Nothing || found == messages, "cut every {step}");
            }
        }
    }

    #[test]
    fn what_is_compressed_or_promises_too_much_is_refused() {
        let push = |wire: &[u8], want| Messages::default().push(wire, want, &mut |_| {});
        assert_eq!(push(&[1, 0, 0, 0, 0], Want::Message), Err(Unreadable));
        assert_eq!(push(&[0, 0xff, 0, 0, 0], Want::Message), Err(Unreadable));
        assert_eq!(push(&[0, 0xff, 0, 0, 0], Want::Nothing), Ok(()));
    }
}
