//! Heads are mostly the same from one request of a client to the next; two caches make use of it.
//!
//! *Whole blocks*: the same octets, while the dynamic table is the same, are the same head. That is
//! every request of a client that sends nothing new.
//!
//! *Patterns*: many clients send a deadline with each request, which is a new literal, enters the
//! table, and moves all indices. But the entries the block refers to are the same entries. So a
//! pattern is the sequence of entries by their identity, with gaps for literals; a block that fits
//! shares the [`CommonHead`] and has only the literals of its own.
//!
//! Both keep what has come twice, so that what never repeats costs little and drives nothing out.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash};
use std::rc::Rc;

use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::field::{Class, Field};
use super::head::{CommonHead, HeadBuilder, Malformed, OwnFields, RequestHead};
use super::hpack::{Decoded, FieldId};
use super::limits::{HEAD_BLOCK_BYTES_CACHED_MAX, HEAD_PATTERNS_CACHED, HEADS_CACHED};

#[derive(Debug, Default)]
pub(super) struct HeadCache {
    blocks: Vec<CachedBlock>,
    next_block: usize,
    patterns: Vec<Pattern>,
    next_pattern: usize,
    met_once: MetOnce,
}

#[derive(Debug)]
struct CachedBlock {
    generation: u64,
    block: Box<[u8]>,
    head: Rc<RequestHead>,
}

/// A field of a block by its identity; none for a literal.
type Place = (Option<FieldId>, Field);

#[derive(Debug)]
struct Pattern {
    /// What is in a gap is from the block the pattern was made of, and means nothing.
    places: Box<[Place]>,
    common: Rc<CommonHead>,
}

impl HeadCache {
    /// The head of this block, if it is known and the table is as it was then.
    #[inline]
    pub fn find(&self, generation: u64, block: &[u8]) -> Option<Rc<RequestHead>> {
        self.blocks
            .iter()
            .find(|cached| cached.generation == generation && *cached.block == *block)
            .map(|cached| Rc::clone(&cached.head))
    }

    /// Offers a head whose block has been decoded without change of the table.
    pub fn offer(&mut self, generation: u64, block: &[u8], head: &Rc<RequestHead>) {
        if block.len() > HEAD_BLOCK_BYTES_CACHED_MAX || !self.met_once.has_met((generation, block))
        {
            return;
        }
        let cached = CachedBlock { generation, block: block.into(), head: Rc::clone(head) };
        match self.blocks.iter_mut().find(|old| old.generation != generation) {
            Some(stale) => *stale = cached,
            None => keep(&mut self.blocks, &mut self.next_block, HEADS_CACHED, cached),
        }
    }

    /// Takes the fields of a block that is not known as a whole.
    pub fn fields(&mut self) -> BlockFields<'_> {
        BlockFields {
            cache: self,
            progress: Progress::Fits { pattern: 0, len: 0 },
            own: OwnFields::new(),
        }
    }

    /// A pattern that begins with the first `len` places of another, and goes on as asked.
    fn find_pattern(
        &self,
        begins_like: usize,
        len: usize,
        goes_on: impl Fn(&[Place]) -> bool,
    ) -> Option<usize> {
        let begin = self.patterns.get(begins_like).and_then(|pattern| pattern.places.get(..len))?;
        let id = |place: &Place| place.0;
        self.patterns.iter().position(|pattern| {
            pattern.places.split_at_checked(len).is_some_and(|(other_begin, rest)| {
                goes_on(rest) && other_begin.iter().map(id).eq(begin.iter().map(id))
            })
        })
    }
}

/// The fields of one block on their way to a head.
#[derive(Debug)]
pub(super) struct BlockFields<'c> {
    cache: &'c mut HeadCache,
    progress: Progress,
    /// Literals that stand in gaps of the pattern, in their order.
    own: OwnFields,
}

#[derive(Debug)]
enum Progress {
    /// The fields are the first `len` places of this pattern.
    Fits { pattern: usize, len: usize },
    /// No pattern has them.
    New(Vec<Place>),
}

impl BlockFields<'_> {
    #[inline]
    pub fn push(&mut self, decoded: Decoded<'_>) {
        if let Progress::Fits { pattern, len } = self.progress {
            let id = match &decoded {
                Decoded::Indexed(id, _) => Some(*id),
                Decoded::Literal(_) => None,
            };
            let may_fit = id.is_some() || decoded.field().class == Class::Regular;
            let fits = |rest: &[Place]| may_fit && rest.first().is_some_and(|place| place.0 == id);
            let rest = self.cache.patterns.get(pattern).and_then(|p| p.places.get(len..));
            let pattern = match rest {
                Some(rest) if fits(rest) => Some(pattern),
                _ => self.cache.find_pattern(pattern, len, fits),
            };
            match pattern {
                Some(pattern) => {
                    self.progress = Progress::Fits { pattern, len: len + 1 };
                    if let Decoded::Literal(Field { name, value, .. }) = decoded {
                        self.own.push((name, value));
                    }
                    return;
                }
                None => self.leave_pattern(),
            }
        }
        if let Progress::New(places) = &mut self.progress {
            places.push(match decoded {
                Decoded::Indexed(id, field) => (Some(id), field.clone()),
                Decoded::Literal(field) => (None, field),
            });
        }
    }

    pub fn into_request(mut self) -> Result<RequestHead, Malformed> {
        if let Progress::Fits { pattern, len } = self.progress {
            let is_whole = |pattern: &&Pattern| pattern.places.len() == len;
            let cache = &*self.cache;
            let found = cache.patterns.get(pattern).filter(is_whole).or_else(|| {
                cache.patterns.get(cache.find_pattern(pattern, len, <[Place]>::is_empty)?)
            });
            if let Some(pattern) = found {
                return Ok(RequestHead::new(Rc::clone(&pattern.common), self.own));
            }
            self.leave_pattern();
        }
        let Progress::New(places) = self.progress else { return Err(Malformed) };
        let is_own = |(id, field): &Place| id.is_none() && field.class == Class::Regular;
        let ids: SmallVec<[_; 16]> = places.iter().map(|(id, _)| *id).collect();
        let makes_pattern = places.iter().all(|place| place.0.is_some() || is_own(place))
            && self.cache.met_once.has_met(&ids);
        let kept = makes_pattern.then(|| places.clone().into_boxed_slice());
        let mut builder = HeadBuilder::default();
        for place in places {
            let is_own = is_own(&place);
            builder.push(place.1, is_own);
        }
        let head = builder.into_request()?;
        if let Some(places) = kept {
            let pattern = Pattern { places, common: Rc::clone(head.common()) };
            let HeadCache { patterns, next_pattern, .. } = self.cache;
            keep(patterns, next_pattern, HEAD_PATTERNS_CACHED, pattern);
        }
        Ok(head)
    }

    /// The fields so far as what they are, since no pattern has what comes next.
    #[cold]
    fn leave_pattern(&mut self) {
        let Progress::Fits { pattern, len } = self.progress else { return };
        let begin = self.cache.patterns.get(pattern).and_then(|pattern| pattern.places.get(..len));
        let mut own = std::mem::take(&mut self.own).into_iter();
        let mut places: Vec<Place> = Vec::with_capacity(len + 8);
        for (id, field) in begin.unwrap_or_default() {
            let literal = if id.is_none() { own.next() } else { None };
            places.push(match literal {
                Some((name, value)) => (None, Field { name, value, class: Class::Regular }),
                None => (*id, field.clone()),
            });
        }
        self.progress = Progress::New(places);
    }
}

/// Hashes of what has been met once, newest first.
#[derive(Debug, Default)]
struct MetOnce(VecDeque<u64>);

impl MetOnce {
    /// False the first time.
    fn has_met(&mut self, what: impl Hash) -> bool {
        let hash = FxBuildHasher.hash_one(what);
        if self.0.contains(&hash) {
            return true;
        }
        self.0.truncate(2 * HEADS_CACHED - 1);
        self.0.push_front(hash);
        false
    }
}

/// Adds to a list that has a bound; beyond it the oldest makes room.
fn keep<T>(list: &mut Vec<T>, next: &mut usize, len_max: usize, item: T) {
    if list.len() < len_max {
        return list.push(item);
    }
    if let Some(oldest) = list.get_mut(*next) {
        *oldest = item;
    }
    *next = (*next + 1) % len_max;
}
