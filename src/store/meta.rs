//! The meta page: the root of a checkpoint. Checkpoint n is in slot n % 2.
//!
//! ```text
//!   0  header of all pages: kind 1, page = slot, txn that of the checkpoint; checksum not seeded
//!  20  zeros
//!  32  magic          "RINGDSTO"
//!  40  version        u32  1
//!  44  page_size      u32
//!  48  store_id       u64  seeds the checksums of all other pages
//!  56  checkpoint_no  u64
//!  64  mark           u64  the caller's number of the last commit in it
//!  72  page_count     u32  pages of the store; the file is at least this long
//!  76  groups         u32  space pages
//!  80  space_checksum u32  crc32c over the checksums of the space pages, in order
//!  84  zero           u32
//!  88  roots          8 x 40: page u32 (0: empty), txn u32 (low half), entries u64, weight u64,
//!                     bytes u64, level u8, zeros
//! 408  zero           u64
//! 416  space pages    u32 x groups, zeros
//! ```

use super::limits::{GROUP_PAGES, GROUPS_MAX, HEIGHT_MAX, PAGE_SIZE, TREES};
use super::page::{
    AT_BY_KIND, HEADER_BYTES, Header, KIND_META, Page, PageId, Tree, TxnId, is_sealed, read_u32,
    read_u64, seal, write_u32, write_u64,
};

/// Where a tree begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Root {
    pub page: PageId,
    pub stamp: u32,
    pub level: u8,
    pub entries: u64,
    pub weight: u64,
    /// Sum of the lengths of all keys and values.
    pub bytes: u64,
}

impl Root {
    pub fn is_empty(&self) -> bool {
        self.page == PageId::NONE
    }
}

pub type Roots = [Root; TREES];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    pub checkpoint_no: u64,
    pub txn: TxnId,
    pub store_id: u64,
    pub mark: u64,
    pub page_count: u32,
    pub space_checksum: u32,
    pub roots: Roots,
    pub space_pages: Vec<PageId>,
}

const MAGIC: [u8; 8] = *b"RINGDSTO";
const VERSION: u32 = 1;

const AT_MAGIC: usize = HEADER_BYTES;
const AT_VERSION: usize = AT_MAGIC + 8;
const AT_PAGE_SIZE: usize = AT_VERSION + 4;
const AT_STORE_ID: usize = AT_PAGE_SIZE + 4;
const AT_CHECKPOINT_NO: usize = AT_STORE_ID + 8;
const AT_MARK: usize = AT_CHECKPOINT_NO + 8;
const AT_PAGE_COUNT: usize = AT_MARK + 8;
const AT_GROUPS: usize = AT_PAGE_COUNT + 4;
const AT_SPACE_CHECKSUM: usize = AT_GROUPS + 4;
const AT_META_ZERO: usize = AT_SPACE_CHECKSUM + 4;
const AT_ROOTS: usize = AT_META_ZERO + 4;
const ROOT_BYTES: usize = 40;
const AT_META_ZERO_2: usize = AT_ROOTS + TREES * ROOT_BYTES;
const AT_SPACE_PAGES: usize = AT_META_ZERO_2 + 8;
const _: () = assert!(AT_ROOTS == 88 && AT_SPACE_PAGES == 416);
const _: () = assert!(AT_SPACE_PAGES + GROUPS_MAX * 4 == PAGE_SIZE);

/// Why a meta slot cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// Never written: all zeros.
    Empty,
    /// Another kind of file, or a slot torn when it was first written.
    Magic,
    /// Torn by a crash while it was written, or damaged.
    Checksum,
    /// Whole, and of another page size.
    PageSize(u32),
    /// Whole, and of a version that this program does not read.
    Version(u32),
    /// Whole, and impossible.
    Invalid(&'static str),
}

impl Meta {
    pub fn slot(&self) -> u32 {
        (self.checkpoint_no % 2) as u32
    }

    pub fn seed(&self) -> u32 {
        seed_of(self.store_id)
    }

    pub fn encode(&self) -> Page {
        let mut page = Page::ZERO;
        page.set_header(&Header {
            page: PageId(self.slot()),
            txn: self.txn,
            kind: KIND_META,
            level: 0,
            tree: Tree(0),
        });
        let bytes = &mut page.0;
        bytes[AT_MAGIC..AT_VERSION].copy_from_slice(&MAGIC);
        write_u32(bytes, AT_VERSION, VERSION);
        write_u32(bytes, AT_PAGE_SIZE, PAGE_SIZE as u32);
        write_u64(bytes, AT_STORE_ID, self.store_id);
        write_u64(bytes, AT_CHECKPOINT_NO, self.checkpoint_no);
        write_u64(bytes, AT_MARK, self.mark);
        write_u32(bytes, AT_PAGE_COUNT, self.page_count);
        write_u32(bytes, AT_GROUPS, self.space_pages.len() as u32);
        write_u32(bytes, AT_SPACE_CHECKSUM, self.space_checksum);
        for (root, at) in self.roots.iter().zip((AT_ROOTS..).step_by(ROOT_BYTES)) {
            write_u32(bytes, at, root.page.0);
            write_u32(bytes, at + 4, root.stamp);
            write_u64(bytes, at + 8, root.entries);
            write_u64(bytes, at + 16, root.weight);
            write_u64(bytes, at + 24, root.bytes);
            bytes[at + 32] = root.level;
        }
        for (page, at) in self.space_pages.iter().zip((AT_SPACE_PAGES..).step_by(4)) {
            write_u32(bytes, at, page.0);
        }
        seal(0, bytes);
        page
    }

    pub fn decode(page: &Page, slot: u32) -> Result<Meta, Unusable> {
        let bytes = &page.0;
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(Unusable::Empty);
        }
        if bytes[AT_MAGIC..AT_VERSION] != MAGIC {
            return Err(Unusable::Magic);
        }
        if !is_sealed(0, bytes) {
            return Err(Unusable::Checksum);
        }
        if read_u32(bytes, AT_VERSION) != VERSION {
            return Err(Unusable::Version(read_u32(bytes, AT_VERSION)));
        }
        if read_u32(bytes, AT_PAGE_SIZE) != PAGE_SIZE as u32 {
            return Err(Unusable::PageSize(read_u32(bytes, AT_PAGE_SIZE)));
        }
        let header = page.header();
        let page_count = read_u32(bytes, AT_PAGE_COUNT);
        let groups = read_u32(bytes, AT_GROUPS) as usize;
        let checkpoint_no = read_u64(bytes, AT_CHECKPOINT_NO);
        if header.kind != KIND_META
            || header.page != PageId(slot)
            || checkpoint_no % 2 != u64::from(slot)
        {
            return Err(Unusable::Invalid("a meta in the other's slot"));
        }
        if bytes[AT_BY_KIND..AT_MAGIC].iter().any(|byte| *byte != 0)
            || read_u32(bytes, AT_META_ZERO) != 0
            || read_u64(bytes, AT_META_ZERO_2) != 0
        {
            return Err(Unusable::Invalid("a reserved field is not zero"));
        }
        if page_count < 3
            || groups > GROUPS_MAX
            || groups != page_count.div_ceil(GROUP_PAGES) as usize
        {
            return Err(Unusable::Invalid("the number of pages and of space pages disagree"));
        }
        let inside = |page: PageId| (2..page_count).contains(&page.0);
        let mut roots = Roots::default();
        for (root, at) in roots.iter_mut().zip((AT_ROOTS..).step_by(ROOT_BYTES)) {
            *root = Root {
                page: PageId(read_u32(bytes, at)),
                stamp: read_u32(bytes, at + 4),
                entries: read_u64(bytes, at + 8),
                weight: read_u64(bytes, at + 16),
                bytes: read_u64(bytes, at + 24),
                level: bytes[at + 32],
            };
            if bytes[at + 33..at + ROOT_BYTES].iter().any(|byte| *byte != 0) {
                return Err(Unusable::Invalid("a reserved field is not zero"));
            }
            let fits = inside(root.page)
                && usize::from(root.level) < HEIGHT_MAX
                && root.weight <= root.entries;
            if !fits && *root != Root::default() {
                return Err(Unusable::Invalid("an impossible root"));
            }
        }
        let space_pages: Vec<PageId> = (AT_SPACE_PAGES..)
            .step_by(4)
            .take(groups)
            .map(|at| PageId(read_u32(bytes, at)))
            .collect();
        if !space_pages.iter().all(|page| inside(*page)) {
            return Err(Unusable::Invalid("a space page lies outside of the store"));
        }
        Ok(Meta {
            checkpoint_no,
            txn: header.txn,
            store_id: read_u64(bytes, AT_STORE_ID),
            mark: read_u64(bytes, AT_MARK),
            page_count,
            space_checksum: read_u32(bytes, AT_SPACE_CHECKSUM),
            roots,
            space_pages,
        })
    }
}

/// Seed of the checksums of all pages but the metas.
pub fn seed_of(store_id: u64) -> u32 {
    crc32c::crc32c(&store_id.to_le_bytes())
}
