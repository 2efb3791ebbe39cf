//! The head of a request, made from the fields of one block (RFC 9113, 8.3).

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::field::{Class, Field};

/// Method, path and fields of a request.
///
/// What a client repeats with each request is in [`CommonHead`], to which this dereferences; the
/// fields that differ from one to the next are beside it.
#[derive(Debug)]
pub struct RequestHead {
    common: Rc<CommonHead>,
    own: OwnFields,
}

pub(super) type OwnFields = SmallVec<[(Bytes, Bytes); 1]>;

/// The part of a head that many requests share.
#[derive(Debug)]
pub struct CommonHead {
    pub method: Bytes,
    /// Empty for CONNECT only.
    pub path: Bytes,
    pub scheme: Bytes,
    /// `:authority`, or else `host`; may be empty.
    pub authority: Bytes,
    pub content_length: Option<u64>,
    /// For the layer above: what it found out about method and path, to find it again with the
    /// next request that has them from here. Not about other fields, which may differ. 0 at first.
    pub memo: Cell<u64>,
    fields: Vec<(Bytes, Bytes)>,
}

impl RequestHead {
    pub(super) fn new(common: Rc<CommonHead>, own: OwnFields) -> RequestHead {
        RequestHead { common, own }
    }

    pub(super) fn common(&self) -> &Rc<CommonHead> {
        &self.common
    }

    /// The first value of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Bytes> {
        self.fields().find(|field| field.0 == name).map(|field| &field.1)
    }

    /// All values of this name.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a Bytes> {
        self.fields().filter(move |field| field.0 == name).map(|field| &field.1)
    }

    /// All fields that are not pseudo-header fields, names in lower case. Fields of one name need not
    /// be in the order of the block.
    pub fn fields(&self) -> impl Iterator<Item = &(Bytes, Bytes)> {
        self.common.fields.iter().chain(&self.own)
    }
}

impl Deref for RequestHead {
    type Target = CommonHead;

    fn deref(&self) -> &CommonHead {
        &self.common
    }
}

/// RFC 9113, 8.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Takes the fields of a block in their order.
#[derive(Debug, Default)]
pub(super) struct HeadBuilder {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    host: Option<Bytes>,
    content_length: Option<u64>,
    fields: Vec<(Bytes, Bytes)>,
    own: OwnFields,
    is_malformed: bool,
    has_pseudo: bool,
    has_others: bool,
}

impl HeadBuilder {
    pub fn push(&mut self, field: Field, is_own: bool) {
        let Field { name, value, class } = field;
        match class {
            Class::Method => return self.pseudo(value, |head| &mut head.method),
            Class::Scheme => return self.pseudo(value, |head| &mut head.scheme),
            Class::Authority => return self.pseudo(value, |head| &mut head.authority),
            Class::Path => return self.pseudo(value, |head| &mut head.path),
            Class::Malformed => self.is_malformed = true,
            Class::ContentLength => {
                let length = parse_content_length(&value);
                let contradicts = self.content_length.is_some() && self.content_length != length;
                self.is_malformed |= length.is_none() || contradicts;
                self.content_length = length;
            }
            Class::Host => {
                self.host.get_or_insert_with(|| value.clone());
            }
            Class::Regular => {}
        }
        self.has_others = true;
        if is_own {
            self.own.push((name, value));
        } else {
            self.fields.push((name, value));
        }
    }

    fn pseudo(&mut self, value: Bytes, slot: fn(&mut HeadBuilder) -> &mut Option<Bytes>) {
        let is_second = slot(self).replace(value).is_some();
        self.is_malformed |= is_second || self.has_others;
        self.has_pseudo = true;
    }

    pub fn into_request(self) -> Result<RequestHead, Malformed> {
        let method = self.method.ok_or(Malformed)?;
        let (scheme, path) = match (&method[..], self.scheme, self.path) {
            (b"CONNECT", None, None) if self.authority.is_some() => (Bytes::new(), Bytes::new()),
            (b"CONNECT", ..) => return Err(Malformed),
            (_, Some(scheme), Some(path)) if !path.is_empty() => (scheme, path),
            _ => return Err(Malformed),
        };
        if self.is_malformed {
            return Err(Malformed);
        }
        let common = CommonHead {
            method,
            path,
            scheme,
            authority: self.authority.or(self.host).unwrap_or_default(),
            content_length: self.content_length,
            memo: Cell::new(0),
            fields: self.fields,
        };
        Ok(RequestHead { common: Rc::new(common), own: self.own })
    }

    /// Trailers must be well formed; nothing in them is used.
    pub fn check_trailers(self) -> Result<(), Malformed> {
        if self.is_malformed || self.has_pseudo { Err(Malformed) } else { Ok(()) }
    }
}

fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0u64, |length, &digit| {
        digit.is_ascii_digit().then(|| length * 10 + u64::from(digit - b'0'))
    })
}
