//! Requests as bodies for the JSON gateway, in the many ways in which JSON may have them: names of either kind, numbers
//! as such or as strings, enums by name or by number, fields in any order; and now and then damaged.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use ringd::proto::etcdserverpb as pb;
use ringd::proto::schema::{ENUMS, Field, Kind, MESSAGES, METHODS, Message};

use super::request::Request;
use crate::rng::Rng;

/// The body, and whether it is damaged. Answers of the gateway are compared byte by byte: requests whose answers come in an order that is open, or tell a
/// time, are not made.
pub fn body(request: &Request, rng: &mut Rng) -> Option<(String, bool)> {
    let request = match request.clone() {
        Request::Range(mut range) => {
            without_ties(&mut range);
            Request::Range(range)
        }
        Request::Txn(mut txn) => {
            without_ties_in(&mut txn);
            Request::Txn(txn)
        }
        Request::Compact(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases(_)
        | Request::Status(_)
        | Request::Hash(_)
        | Request::HashKv(_)
        | Request::Snapshot(_)
        | Request::Authenticate(_)
        | Request::AuthEnable(_)
        | Request::AuthDisable(_) => return None,
        request => request,
    };
    path(&request)?;
    let method = METHODS.iter().find(|method| method.path == request.path())?;
    let mut text = object(&MESSAGES[method.request], &request.encode(), rng);
    // What is damaged may still be a request, but another one: not where that would end the real etcd, or go on by itself.
    let is_harmless = !matches!(
        request,
        Request::Alarm(_)
            | Request::LeaseGrant(_)
            | Request::Downgrade(_)
            | Request::UserGrantRole(_)
    );
    let is_damaged = is_harmless && rng.chance(15);
    if is_damaged {
        damage(&mut text, rng);
    }
    Some((text, is_damaged))
}

/// Where the gateway has it; `None` for a method that is not to be had there.
pub fn path(request: &Request) -> Option<&'static str> {
    Some(match request {
        Request::Range(_) => "/v3/kv/range",
        Request::Put(_) => "/v3/kv/put",
        Request::DeleteRange(_) => "/v3/kv/deleterange",
        Request::Txn(_) => "/v3/kv/txn",
        Request::LeaseGrant(_) => "/v3/lease/grant",
        Request::LeaseRevoke(_) => "/v3/lease/revoke",
        Request::KeepAlive(_) => "/v3/lease/keepalive",
        Request::Alarm(_) => "/v3/maintenance/alarm",
        Request::Defragment(_) => "/v3/maintenance/defragment",
        Request::MoveLeader(_) => "/v3/maintenance/transfer-leadership",
        Request::Downgrade(_) => "/v3/maintenance/downgrade",
        Request::MemberList(_) => "/v3/cluster/member/list",
        Request::AuthStatus(_) => "/v3/auth/status",
        Request::UserAdd(_) => "/v3/auth/user/add",
        Request::UserDelete(_) => "/v3/auth/user/delete",
        Request::UserGet(_) => "/v3/auth/user/get",
        Request::UserList(_) => "/v3/auth/user/list",
        Request::UserChangePassword(_) => "/v3/auth/user/changepw",
        Request::UserGrantRole(_) => "/v3/auth/user/grant",
        Request::UserRevokeRole(_) => "/v3/auth/user/revoke",
        Request::RoleAdd(_) => "/v3/auth/role/add",
        Request::RoleDelete(_) => "/v3/auth/role/delete",
        Request::RoleGet(_) => "/v3/auth/role/get",
        Request::RoleList(_) => "/v3/auth/role/list",
        Request::RoleGrantPermission(_) => "/v3/auth/role/grant",
        Request::RoleRevokePermission(_) => "/v3/auth/role/revoke",
        _ => return None,
    })
}

fn without_ties(range: &mut pb::RangeRequest) {
    range.sort_target = 0;
}

fn without_ties_in(txn: &mut pb::TxnRequest) {
    use pb::request_op::Request::{RequestRange, RequestTxn};
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(RequestRange(range)) => without_ties(range),
            Some(RequestTxn(txn)) => without_ties_in(txn),
            _ => {}
        }
    }
}

/// A message of the wire as JSON.
fn object(message: &Message, mut wire: &[u8], rng: &mut Rng) -> String {
    let mut members: Vec<(&Field, Vec<String>)> = Vec::new();
    while !wire.is_empty() {
        let tag = varint(&mut wire);
        let field = message.fields.iter().find(|field| u64::from(field.number) == tag >> 3);
        let field = field.expect("a field of the schema");
        let text = if tag & 7 == 2 {
            let length = varint(&mut wire) as usize;
            let (bytes, rest) = wire.split_at(length);
            wire = rest;
            match field.kind {
                Kind::Message(of) => object(&MESSAGES[of], bytes, rng),
                Kind::String => quoted(&String::from_utf8_lossy(bytes)),
                Kind::Bytes => {
                    let form = rng.pick(&[&STANDARD, &STANDARD, &STANDARD_NO_PAD, &URL_SAFE]);
                    quoted(&form.encode(bytes))
                }
                _ => {
                    let mut packed = bytes;
                    let mut numbers = Vec::new();
                    while !packed.is_empty() {
                        numbers.push(number(field.kind, varint(&mut packed), rng));
                    }
                    members.push((field, numbers));
                    continue;
                }
            }
        } else {
            number(field.kind, varint(&mut wire), rng)
        };
        match members.iter_mut().find(|(known, _)| known.number == field.number) {
            Some((_, values)) => values.push(text),
            None => members.push((field, vec![text])),
        }
    }
    if rng.chance(20) && members.len() > 1 {
        let at = rng.below(members.len() - 1);
        members.swap(at, at + 1);
    }
    let mut text = String::from("{");
    for (index, (field, values)) in members.iter().enumerate() {
        let name = if rng.chance(50) { field.name } else { field.json_name };
        let comma = if index > 0 { "," } else { "" };
        let value = match field.repeated {
            true => format!("[{}]", values.join(",")),
            false => values.last().cloned().unwrap_or_default(),
        };
        let _ = write!(text, "{comma}\"{name}\":{value}");
    }
    if rng.chance(5) {
        text.push_str(if members.is_empty() { "\"other\":[{}]" } else { ",\"other\":null" });
    }
    text.push('}');
    text
}

fn number(kind: Kind, value: u64, rng: &mut Rng) -> String {
    match kind {
        Kind::Bool => (value != 0).to_string(),
        Kind::Enum(of) => {
            let number = value as i32;
            let name = ENUMS[of].values.iter().find(|(known, _)| *known == number);
            match name.filter(|_| rng.chance(70)) {
                Some((_, name)) => quoted(name),
                None => number.to_string(),
            }
        }
        kind => {
            let number = match kind {
                Kind::Int32 | Kind::Int64 => (value as i64).to_string(),
                _ => value.to_string(),
            };
            if rng.chance(50) { quoted(&number) } else { number }
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn varint(wire: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&octet, rest) = wire.split_first().expect("a whole message");
        *wire = rest;
        value |= u64::from(octet & 0x7f) << shift;
        if octet < 0x80 {
            break;
        }
    }
    value
}

/// One change, to what is still text.
fn damage(text: &mut String, rng: &mut Rng) {
    const PIECES: &[&str] = &[
        "{", "}", "[", "]", "\"", ":", ",", "0", "-", "1.5", "1e3", "null", "true", " ", "\\",
        "\\u00", "x", "é",
    ];
    let boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let at = boundaries[rng.below(boundaries.len())];
    let next = at + text[at..].chars().next().map_or(0, char::len_utf8);
    match rng.below(4) {
        0 => text.truncate(at),
        1 => text.replace_range(at..next, ""),
        2 => text.insert_str(at, rng.pick(PIECES)),
        _ => text.replace_range(at..next, rng.pick(PIECES)),
    }
}
