//! Ranges of keys, and what they are made into for quick questions.
//!
//! A permission is on one key (no end), on `[key, end)`, or on all keys from `key` on (the end is one zero byte).
//! The permissions of all roles of a user are united: what two of them cover together is covered.

use bytes::Bytes;

use crate::proto::authpb::Permission;
use crate::proto::authpb::permission::Type;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    Read,
    Write,
}

#[derive(Default)]
pub struct Permissions {
    read: Intervals,
    write: Intervals,
}

impl Permissions {
    pub fn of<'p>(permissions: impl Iterator<Item = &'p Permission>) -> Permissions {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions {
            let interval = interval(permission);
            match Type::try_from(permission.perm_type) {
                Ok(Type::Readwrite) => {
                    read.push(interval.clone());
                    write.push(interval);
                }
                Ok(Type::Read) => read.push(interval),
                Ok(Type::Write) => write.push(interval),
                // A kind that is not known permits nothing.
                Err(_) => {}
            }
        }
        Permissions { read: Intervals::of(read), write: Intervals::of(write) }
    }

    pub fn permit(&self, right: Right, key: &[u8], range_end: &[u8]) -> bool {
        let intervals = match right {
            Right::Read => &self.read,
            Right::Write => &self.write,
        };
        match range_end {
            b"" => intervals.contain(key, Some(key)),
            b"\0" => intervals.contain(key, None),
            end => intervals.contain(key, Some(end)),
        }
    }
}

/// Whether a range can be given permission on.
pub fn is_valid(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || key < range_end || range_end == b"\0")
}

/// From here on, and up to there or to the end of all keys.
type Interval = (Bytes, Option<Bytes>);

fn interval(permission: &Permission) -> Interval {
    let end = match permission.range_end.as_ref() {
        b"" => Some([&permission.key, &b"\0"[..]].concat().into()),
        b"\0" => None,
        _ => Some(permission.range_end.clone()),
    };
    (permission.key.clone(), end)
}

/// Rising, with gaps between them.
#[derive(Default)]
struct Intervals(Vec<Interval>);

impl Intervals {
    fn of(mut intervals: Vec<Interval>) -> Intervals {
        intervals.sort_unstable();
        let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
        for (start, end) in intervals {
            match merged.last_mut() {
                Some((_, None)) => break,
                Some((_, Some(last_end))) if start <= *last_end => match end {
                    Some(end) => {
                        if end > *last_end {
                            *last_end = end;
                        }
                    }
                    None => {
                        if let Some((_, last_end)) = merged.last_mut() {
                            *last_end = None;
                        }
                    }
                },
                _ => merged.push((start, end)),
            }
        }
        Intervals(merged)
    }

    /// Whether `start` and everything up to `end` is in one of them. Of a range that holds no key, only `start`
    /// counts.
    fn contain(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        let behind = self.0.partition_point(|(from, _)| from.as_ref() <= start);
        let Some((_, until)) = behind.checked_sub(1).and_then(|at| self.0.get(at)) else {
            return false;
        };
        match (until, end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(until), Some(end)) => start < until.as_ref() && end <= until.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(kind: Type, key: &'static str, end: &'static str) -> Permission {
        let perm_type = kind as i32;
        Permission { perm_type, key: key.into(), range_end: end.into() }
    }

    #[test]
    fn permissions_that_touch_are_one_range() {
        let granted = [
            permission(Type::Read, "c", "e"),
            permission(Type::Readwrite, "a", "c"),
            permission(Type::Read, "x", ""),
            permission(Type::Write, "y", "\0"),
        ];
        let permissions = Permissions::of(granted.iter());
        let may =
            |right, key: &str, end: &str| permissions.permit(right, key.as_bytes(), end.as_bytes());
        assert!(may(Right::Read, "a", "e") && may(Right::Read, "b", "d"));
        assert!(!may(Right::Read, "a", "e\0") && !may(Right::Write, "a", "e"));
        assert!(may(Right::Read, "x", "") && may(Right::Read, "x", "x\0"));
        assert!(!may(Right::Read, "x", "y") && !may(Right::Read, "x\0", ""));
        assert!(may(Right::Write, "y", "\0") && may(Right::Write, "zzz", "\0"));
        assert!(!may(Right::Write, "x", "\0") && !may(Right::Read, "y", ""));
        assert!(!may(Right::Read, "e", "") && may(Right::Read, "d\u{7f}", ""));
    }

    #[test]
    fn only_ranges_that_hold_keys_can_be_granted() {
        assert!(is_valid(b"a", b"") && is_valid(b"a", b"b") && is_valid(b"b", b"\0"));
        assert!(is_valid(b"\0", b"\0"));
        assert!(!is_valid(b"", b"") && !is_valid(b"", b"\0"));
        assert!(!is_valid(b"b", b"a") && !is_valid(b"b", b"b"));
    }
}
