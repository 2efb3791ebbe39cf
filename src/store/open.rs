//! Creating and opening a store.

use super::checkpoint::Checkpoints;
use super::free::{Space, initial_space_page};
use super::limits::PAGE_SIZE;
use super::map::Map;
use super::meta::{Meta, Roots, Unusable, seed_of};
use super::page::{Corruption, PageId, TxnId};
use super::pages::Pages;
use super::snapshot::Committed;
use super::{Store, page::Page};
use std::rc::Rc;

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A number of its own for each store that is created, at random. It seeds the checksums, so
    /// that a page that another store has left on the same blocks is not taken for one of this. Not
    /// used for opening.
    pub store_id: u64,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("store: the file is {0} bytes long, which no store is")]
    Length(u64),
    #[error("store: neither meta page can be used: at offset 0 {0}; at offset {PAGE_SIZE} {1}")]
    NoMeta(&'static str, &'static str),
    #[error("store: format version {version} at offset {offset}: this program reads version 1")]
    Version { offset: u64, version: u32 },
    #[error("store: page size {page_size} at offset {offset}: this program uses {PAGE_SIZE}")]
    PageSize { offset: u64, page_size: u32 },
    #[error(
        "store: the meta page at offset {offset} names {wanted} bytes, and the file has {file_len}"
    )]
    Truncated { offset: u64, wanted: u64, file_len: u64 },
    #[error("store: the map reserves {0} bytes, less than the file has")]
    Reservation(u64),
    #[error(transparent)]
    Corruption(#[from] Corruption),
}

/// Content of the file of a new store: a meta for an empty checkpoint 0, an unused meta slot, and a
/// space page. Write it under another name, sync, rename, sync the directory; so that a file of
/// this name is always whole.
pub fn initial_image(options: &Options) -> Vec<u8> {
    let (space, space_checksum) = initial_space_page(seed_of(options.store_id));
    let meta = Meta {
        checkpoint_no: 0,
        txn: TxnId(0),
        store_id: options.store_id,
        mark: 0,
        page_count: 3,
        space_checksum,
        roots: Roots::default(),
        space_pages: vec![PageId(2)],
    };
    [meta.encode(), Page::ZERO, space].map(|page| page.0).concat()
}

impl Store {
    /// Opens the store in the file behind `map`, `file_len` bytes long. The file has been synced.
    pub fn open(map: Map, file_len: u64, _options: Options) -> Result<Store, OpenError> {
        // What is beyond the last whole page belongs to a growth that a crash has interrupted.
        let file_pages =
            u32::try_from(file_len / PAGE_SIZE as u64).map_err(|_| OpenError::Length(file_len))?;
        if file_pages < 3 {
            return Err(OpenError::Length(file_len));
        }
        if map.reserved_bytes() < file_pages as usize * PAGE_SIZE {
            return Err(OpenError::Reservation(map.reserved_bytes() as u64));
        }
        let meta = newest_meta(&map, file_len)?;
        let pages = Pages::new(map, file_pages, meta.seed());
        let Meta { txn, mark, roots, .. } = meta;
        let space =
            Space::load(&pages, meta.page_count, txn, &meta.space_pages, meta.space_checksum)?;
        Ok(Store {
            pages,
            space,
            roots,
            txn: txn.next(),
            uncommitted: false,
            committed: Committed { txn, mark, roots },
            checkpoints: Checkpoints::new(meta.checkpoint_no, mark),
            rewritten_pages: 0,
            store_id: meta.store_id,
            #[cfg(test)]
            relabelled: 0,
            identity: Rc::new(()),
        })
    }
}

/// What a meta slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetaSlot {
    pub offset: u64,
    /// Number of its checkpoint, or why it cannot be used. A checkpoint that was interrupted leaves
    /// one that cannot, and so does rot: which it was, nobody can say.
    pub checkpoint: Result<u64, &'static str>,
}

impl Store {
    /// Both meta slots, as they are in the file; the usable one with the higher number counts.
    pub fn meta_slots(&self) -> [MetaSlot; 2] {
        [0, 1].map(|slot| {
            let page = PageId(slot);
            let meta = self.pages.raw(page).map(|page| Meta::decode(page, slot));
            let checkpoint = match meta {
                Ok(Ok(meta)) => Ok(meta.checkpoint_no),
                Ok(Err(unusable)) => Err(reason(&unusable)),
                Err(corruption) => Err(corruption.what),
            };
            MetaSlot { offset: page.offset(), checkpoint }
        })
    }

    /// Verifies the meta of the last durable checkpoint, again.
    pub(super) fn verify_newest_meta(&self) -> Result<(), Corruption> {
        let slot = (self.checkpoints.durable_no() % 2) as u32;
        match Meta::decode(self.pages.raw(PageId(slot))?, slot) {
            Ok(meta) if meta.checkpoint_no == self.checkpoints.durable_no() => Ok(()),
            Ok(_) | Err(_) => {
                Err(Corruption::new(PageId(slot), "the meta is not what was written"))
            }
        }
    }
}

fn reason(unusable: &Unusable) -> &'static str {
    match unusable {
        Unusable::Empty => "nothing has been written",
        Unusable::Magic => "there is no magic number",
        Unusable::Checksum => "the checksum is wrong",
        Unusable::PageSize(_) => "it is of another page size",
        Unusable::Version(_) => "it is of another version",
        Unusable::Invalid(what) => what,
    }
}

/// The newest usable meta. A slot that is torn or damaged leaves the other one; a slot that is
/// whole and says something that this program cannot accept ends the attempt, for the other one may
/// be older than what has been acknowledged.
fn newest_meta(map: &Map, file_len: u64) -> Result<Meta, OpenError> {
    let slots = [0, 1].map(|slot| Meta::decode(&map.pages(slot, 1)[0], slot));
    let mut newest: Option<&Meta> = None;
    let mut why = ["it is not the newest"; 2];
    for (slot, decoded) in slots.iter().enumerate() {
        let page = PageId(slot as u32);
        let offset = page.offset();
        match decoded {
            Ok(meta) => {
                if newest.is_none_or(|other| other.checkpoint_no < meta.checkpoint_no) {
                    newest = Some(meta);
                }
            }
            Err(Unusable::Version(version)) => {
                return Err(OpenError::Version { offset, version: *version });
            }
            Err(Unusable::PageSize(page_size)) => {
                return Err(OpenError::PageSize { offset, page_size: *page_size });
            }
            Err(Unusable::Invalid(what)) => return Err(Corruption::new(page, what).into()),
            Err(unusable) => why[slot] = reason(unusable),
        }
    }
    let newest = newest.ok_or(OpenError::NoMeta(why[0], why[1]))?;
    let wanted = u64::from(newest.page_count) * PAGE_SIZE as u64;
    if wanted > file_len {
        let offset = PageId(newest.slot()).offset();
        return Err(OpenError::Truncated { offset, wanted, file_len });
    }
    Ok(newest.clone())
}
