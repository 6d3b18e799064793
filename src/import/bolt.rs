//! A database file of bbolt, as a Raft node keeps its log in: read, and never written.
//!
//! A file is a row of pages of one size; integers are little-endian:
//!
//! | offset | size | field of a page                                   |
//! |--------|------|---------------------------------------------------|
//! | 0      | 8    | its number                                        |
//! | 8      | 2    | kind: branch 1, leaf 2, meta 4, free list 16      |
//! | 10     | 2    | how many elements                                 |
//! | 12     | 4    | how many more pages belong to it                  |
//! | 16     | …    | the elements, and behind them what they point to  |
//!
//! Of the two meta pages the one with the higher transaction counts whose checksum fits: whoever
//! was killed while it wrote one leaves the other. Keys ascend through all leaves of a bucket,
//! which is checked, and bounds every walk. No number is used before it was compared with the file.

use std::io;

/// Where the bytes of a file come from. They lie still while they are read.
pub trait ReadAt {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// As the system says; also where the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        u64::try_from(self.len()).unwrap_or(u64::MAX)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        let part = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// Why a file cannot be read as such a database.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Neither of the first two pages is one of such a file.
    #[error("it is no bbolt database, or both of its first pages are damaged")]
    NoDatabase,
    /// A page is not what the one above it says.
    #[error("page {page} is damaged: {what}")]
    Damaged {
        /// Its number.
        page: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

const PAGE_HEADER_LEN: usize = 16;
const META_LEN: usize = 64;
const ELEMENT_LEN: usize = 16;
const BUCKET_HEADER_LEN: usize = 16;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const META: u16 = 4;
/// Page sizes of the machines that there are.
const PAGE_SIZE_MIN: u64 = 1024;
const PAGE_SIZE_MAX: u64 = 64 * 1024;
/// With two keys on each page, a tree of 2^64 keys is so high.
const DEPTH_MAX: usize = 64;

/// An open database.
#[derive(Debug)]
pub struct Bolt<S> {
    source: S,
    page_size: u64,
    /// No page has this number, or a higher one.
    page_end: u64,
    root: u64,
    has_damaged_meta: bool,
}

/// Where the keys of a bucket are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// In a tree of pages with this root.
    Tree(u64),
    /// In one page that lies in the value of the bucket's name.
    Inline(Vec<u8>),
}

/// A key with its value.
pub type Pair = (Vec<u8>, Vec<u8>);

struct Meta {
    page_size: u64,
    root: u64,
    page_end: u64,
    transaction: u64,
}

impl Meta {
    /// From the bytes of a meta page, if they are one.
    fn decode(page: &[u8]) -> Option<Self> {
        let (head, meta) = page.split_at_checked(PAGE_HEADER_LEN)?;
        let meta = meta.get(..META_LEN)?;
        let is_meta = u16_at(head, 8)? & META != 0;
        let is_ours = u32_at(meta, 0)? == MAGIC && u32_at(meta, 4)? == VERSION;
        let checked = meta.get(..META_LEN - 8)?;
        if !is_meta || !is_ours || u64_at(meta, META_LEN - 8)? != fnv(checked) {
            return None;
        }
        let page_size = u64::from(u32_at(meta, 8)?);
        let is_size =
            page_size.is_power_of_two() && (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&page_size);
        is_size.then_some(Self {
            page_size,
            root: u64_at(meta, 16)?,
            page_end: u64_at(meta, 40)?,
            transaction: u64_at(meta, 48)?,
        })
    }
}

/// FNV-1a of 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// One page with what belongs to it, or the page in a value.
struct Page {
    number: u64,
    bytes: Vec<u8>,
    kind: u16,
    count: usize,
}

/// What an element of a page is.
enum Element<'a> {
    Branch { key: &'a [u8], page: u64 },
    Leaf { is_bucket: bool, key: &'a [u8], value: &'a [u8] },
}

impl Page {
    fn new(number: u64, bytes: Vec<u8>) -> Result<Self, BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        let (Some(kind), Some(count)) = (u16_at(&bytes, 8), u16_at(&bytes, 10)) else {
            return Err(damaged("it ends within its header"));
        };
        if kind != BRANCH && kind != LEAF {
            return Err(damaged("it is neither a branch nor a leaf"));
        }
        let count = usize::from(count);
        if bytes.len() < PAGE_HEADER_LEN + count * ELEMENT_LEN {
            return Err(damaged("it has more elements than room"));
        }
        if kind == BRANCH && count == 0 {
            return Err(damaged("a branch leads nowhere"));
        }
        Ok(Self { number, bytes, kind, count })
    }

    fn element(&self, index: usize) -> Result<Element<'_>, BoltError> {
        let found = self.decode(index);
        let what = "an element points out of it";
        found.ok_or(BoltError::Damaged { page: self.number, what })
    }

    fn decode(&self, index: usize) -> Option<Element<'_>> {
        let element = self.bytes.get(PAGE_HEADER_LEN + index * ELEMENT_LEN..)?;
        let size = |at| u32_at(element, at).map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        if self.kind == BRANCH {
            let key = element.get(size(0)?..)?.get(..size(4)?)?;
            return Some(Element::Branch { key, page: u64_at(element, 8)? });
        }
        let (key, rest) = element.get(size(4)?..)?.split_at_checked(size(8)?)?;
        let is_bucket = u32_at(element, 0)? & 1 != 0;
        Some(Element::Leaf { is_bucket, key, value: rest.get(..size(12)?)? })
    }

    fn key(&self, index: usize) -> Result<&[u8], BoltError> {
        Ok(match self.element(index)? {
            Element::Branch { key, .. } | Element::Leaf { key, .. } => key,
        })
    }

    /// Of a branch the last element whose key is not behind `key`, or the first; of a leaf the
    /// first whose key is not before it.
    fn place_of(&self, key: &[u8]) -> Result<usize, BoltError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let found = self.key(middle)?;
            let goes_on = if self.kind == BRANCH { found <= key } else { found < key };
            if goes_on {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(if self.kind == BRANCH { low.saturating_sub(1) } else { low })
    }
}

impl<S: ReadAt> Bolt<S> {
    /// Opens a database.
    ///
    /// # Errors
    /// [`BoltError`].
    pub fn open(source: S) -> Result<Self, BoltError> {
        let meta_at = |offset: u64| {
            let mut bytes = vec![0; PAGE_HEADER_LEN + META_LEN];
            source.read_at(&mut bytes, offset).ok()?;
            Meta::decode(&bytes)
        };
        let first = meta_at(0);
        // The second lies behind the first, whose size is unknown where it is damaged.
        let sizes = std::iter::successors(Some(PAGE_SIZE_MIN), |size| Some(size * 2));
        let mut sizes = sizes.take_while(|size| *size <= PAGE_SIZE_MAX);
        let second = match &first {
            Some(meta) => meta_at(meta.page_size),
            None => sizes.find_map(|size| meta_at(size).filter(|meta| meta.page_size == size)),
        };
        let has_damaged_meta = first.is_none() || second.is_none();
        let metas = [first, second].into_iter().flatten();
        let meta = metas.max_by_key(|meta| meta.transaction).ok_or(BoltError::NoDatabase)?;
        let page_end = meta.page_end.min(source.size() / meta.page_size);
        let (page_size, root) = (meta.page_size, meta.root);
        Ok(Self { source, page_size, page_end, root, has_damaged_meta })
    }

    /// Whether only one of the two meta pages is whole: the other may have been the newer one.
    #[must_use]
    pub fn has_damaged_meta(&self) -> bool {
        self.has_damaged_meta
    }

    /// The bucket of that name; `None` if there is none.
    ///
    /// # Errors
    /// [`BoltError`].
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, BoltError> {
        let mut entries = Entries::new(self, &Bucket::Tree(self.root), name)?;
        let Some((is_bucket, (key, mut value))) = entries.next_element()? else { return Ok(None) };
        if !is_bucket || key != name {
            return Ok(None);
        }
        let what = "the record of a bucket is cut short";
        let damaged = BoltError::Damaged { page: self.root, what };
        let root = u64_at(&value, 0).filter(|_| BUCKET_HEADER_LEN <= value.len()).ok_or(damaged)?;
        Ok(Some(match root {
            0 => Bucket::Inline(value.split_off(BUCKET_HEADER_LEN)),
            root => Bucket::Tree(root),
        }))
    }

    /// The keys of a bucket from `key` on, ascending, with their values.
    ///
    /// # Errors
    /// [`BoltError`].
    pub fn entries_from(&self, bucket: &Bucket, key: &[u8]) -> Result<Entries<'_, S>, BoltError> {
        Entries::new(self, bucket, key)
    }

    /// The last key of a bucket with its value; `None` of an empty one.
    ///
    /// # Errors
    /// [`BoltError`].
    pub fn last(&self, bucket: &Bucket) -> Result<Option<Pair>, BoltError> {
        let mut page = self.top(bucket)?;
        for _ in 0..DEPTH_MAX {
            let Some(last) = page.count.checked_sub(1) else { return Ok(None) };
            page = match page.element(last)? {
                Element::Branch { page, .. } => self.page(page)?,
                Element::Leaf { key, value, .. } => {
                    return Ok(Some((key.to_vec(), value.to_vec())));
                }
            };
        }
        Err(BoltError::Damaged { page: page.number, what: TOO_DEEP })
    }

    fn top(&self, bucket: &Bucket) -> Result<Page, BoltError> {
        match bucket {
            Bucket::Tree(root) => self.page(*root),
            Bucket::Inline(bytes) => Page::new(0, bytes.clone()),
        }
    }

    fn page(&self, number: u64) -> Result<Page, BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        if self.page_end <= number {
            return Err(damaged("the file ends before it"));
        }
        let offset = number * self.page_size;
        let mut header = [0; PAGE_HEADER_LEN];
        self.source.read_at(&mut header, offset)?;
        if u64_at(&header, 0) != Some(number) {
            return Err(damaged("another one lies in its place"));
        }
        let more = u32_at(&header, 12).map_or(0, u64::from);
        if self.page_end - number <= more {
            return Err(damaged("the file ends within it"));
        }
        let what = "it is larger than memory";
        let len = usize::try_from((more + 1) * self.page_size).map_err(|_| damaged(what))?;
        let mut bytes = vec![0; len];
        self.source.read_at(&mut bytes, offset)?;
        Page::new(number, bytes)
    }
}

const TOO_DEEP: &str = "the tree above it is deeper than any can be";
const OUT_OF_ORDER: &str = "its keys do not ascend";

/// The keys of one bucket, one after the other.
pub struct Entries<'a, S> {
    bolt: &'a Bolt<S>,
    /// From the root to the leaf, with the next element of each.
    stack: Vec<(Page, usize)>,
    last_key: Option<Vec<u8>>,
    /// How many pages may still be read: a tree has each once.
    pages_left: u64,
}

impl<'a, S: ReadAt> Entries<'a, S> {
    fn new(bolt: &'a Bolt<S>, bucket: &Bucket, key: &[u8]) -> Result<Self, BoltError> {
        let mut page = bolt.top(bucket)?;
        let mut stack = Vec::new();
        while stack.len() < DEPTH_MAX {
            let place = page.place_of(key)?;
            if page.kind == LEAF {
                stack.push((page, place));
                let pages_left = bolt.page_end;
                return Ok(Self { bolt, stack, last_key: None, pages_left });
            }
            let Element::Branch { page: below, .. } = page.element(place)? else {
                unreachable!("a page that is no leaf is a branch");
            };
            let child = bolt.page(below)?;
            stack.push((page, place + 1));
            page = child;
        }
        Err(BoltError::Damaged { page: page.number, what: TOO_DEEP })
    }

    /// The next key and value, and whether it is the name of a bucket.
    fn next_element(&mut self) -> Result<Option<(bool, Pair)>, BoltError> {
        loop {
            let depth = self.stack.len();
            let Some((page, next)) = self.stack.last_mut() else { return Ok(None) };
            if *next == page.count {
                self.stack.pop();
                continue;
            }
            let number = page.number;
            let element = page.element(*next)?;
            *next += 1;
            let below = match element {
                Element::Leaf { is_bucket, key, value } => {
                    if self.last_key.as_deref().is_some_and(|last| key <= last) {
                        return Err(BoltError::Damaged { page: number, what: OUT_OF_ORDER });
                    }
                    let pair = (key.to_vec(), value.to_vec());
                    self.last_key = Some(pair.0.clone());
                    return Ok(Some((is_bucket, pair)));
                }
                Element::Branch { page, .. } => page,
            };
            if DEPTH_MAX <= depth || self.pages_left == 0 {
                return Err(BoltError::Damaged { page: below, what: TOO_DEEP });
            }
            self.pages_left -= 1;
            let page = self.bolt.page(below)?;
            self.stack.push((page, 0));
        }
    }
}

impl<S: ReadAt> Iterator for Entries<'_, S> {
    type Item = Result<Pair, BoltError>;

    /// Buckets in buckets are passed over: a Raft log has none. Nothing comes behind an error.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_element() {
                Ok(Some((true, _))) => (),
                Ok(Some((false, pair))) => return Some(Ok(pair)),
                Ok(None) => return None,
                Err(error) => {
                    self.stack.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
