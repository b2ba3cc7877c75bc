//! What the embedded log writes: keys, chunks of records, and the entries about topics and writers.
//! Called by everything in `embedded`.
//!
//! One ordered keyspace holds all of it, so that one atomic batch can cover all of it:
//!
//! | key | value |
//! |---|---|
//! | `0` `n` | number of the next topic |
//! | `0` `t` name | a topic ([`TopicEntry`]) |
//! | `0` `w` transactional id | epoch of its newest writer |
//! | `0` `x` number | a deleted topic whose chunks are still being removed |
//! | `1` topic number (u32) partition (u32) base offset (u64) | a [`Chunk`] |
//!
//! Numbers in keys are big-endian, so that chunks of a partition lie in order. Every value starts
//! with a version byte. Records lie in chunks and not one to an entry, because every entry has a
//! price: 600,000 records of 110 bytes took 3.1 µs each to write and 0.5 µs to read as entries of
//! their own, 0.9 µs and 0.1 µs in chunks (two shared cores). And they lie in one keyspace and not one
//! a partition, because each would have a memtable of its own and could keep old journals alive.
//!
//! Invariant: a chunk's base offset is part of its key and never changes, also when compaction
//! takes records out of the chunk.

use crate::log::HeaderRef;

/// Version of every value written today.
const VERSION: u8 = 1;
const SPACE_META: u8 = 0;
const SPACE_RECORDS: u8 = 1;

/// Bytes in front of a chunk's records: version, count (u32), offset of the last record less the
/// base (u32), largest timestamp (i64); little-endian.
const CHUNK_HEADER_BYTES: usize = 1 + 4 + 4 + 8;

/// Bytes that were not written by this code, or were changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damaged {
    /// A version byte from the future.
    #[error(
        "it has format {0}, and this foldhost reads format {VERSION}: start the newer foldhost that wrote it"
    )]
    Version(u8),
    /// Ends too early, or holds what cannot be.
    #[error("its {0} cannot be read: restore the log's folder from a backup")]
    Content(&'static str),
}

/// Key of the counter of topics.
pub(super) const TOPIC_COUNTER_KEY: &[u8] = &[SPACE_META, b'n'];

/// Key of a topic's entry.
pub(super) fn topic_key(name: &str) -> Vec<u8> {
    [&[SPACE_META, b't'], name.as_bytes()].concat()
}

/// Key of a writer's epoch.
pub(super) fn writer_key(transactional_id: &str) -> Vec<u8> {
    [&[SPACE_META, b'w'], transactional_id.as_bytes()].concat()
}

/// Key of the note that a deleted topic's chunks are being removed.
pub(super) fn doomed_key(topic: u32) -> Vec<u8> {
    [&[SPACE_META, b'x'][..], &topic.to_be_bytes()].concat()
}

/// What all keys of topics, of writers and of doomed topics start with; the rest of a key follows.
pub(super) const TOPIC_PREFIX: &[u8] = &[SPACE_META, b't'];
pub(super) const WRITER_PREFIX: &[u8] = &[SPACE_META, b'w'];
pub(super) const DOOMED_PREFIX: &[u8] = &[SPACE_META, b'x'];

/// What all chunk keys of a topic start with.
pub(super) fn topic_chunks_prefix(topic: u32) -> [u8; 5] {
    let mut key = [SPACE_RECORDS; 5];
    key[1..].copy_from_slice(&topic.to_be_bytes());
    key
}

/// Key of a chunk.
pub(super) fn chunk_key(topic: u32, partition: u32, base: u64) -> [u8; 17] {
    let mut key = [SPACE_RECORDS; 17];
    key[1..5].copy_from_slice(&topic.to_be_bytes());
    key[5..9].copy_from_slice(&partition.to_be_bytes());
    key[9..].copy_from_slice(&base.to_be_bytes());
    key
}

/// Base offset in a chunk's key.
pub(super) fn base_of(key: &[u8]) -> Result<u64, Damaged> {
    key.get(9..17)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or(Damaged::Content("key"))
}

/// Topic number in the key of a doomed topic, without its prefix.
pub(super) fn doomed_topic_of(rest: &[u8]) -> Result<u32, Damaged> {
    rest.try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| Damaged::Content("key"))
}

/// A number as a value: a writer's epoch, the counter of topics.
pub(super) fn encode_number(number: u64) -> Vec<u8> {
    [&[VERSION][..], &number.to_le_bytes()].concat()
}

/// Reads [`encode_number`].
pub(super) fn decode_number(mut value: &[u8]) -> Result<u64, Damaged> {
    take_version(&mut value)?;
    take_u64(&mut value).ok_or(Damaged::Content("number"))
}

/// What is kept about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicEntry {
    /// Part of its chunks' keys; never used again after a delete.
    pub(super) number: u32,
    /// Identity, random.
    pub(super) id: [u8; 16],
    pub(super) partitions: u32,
    /// Whether only the newest record of a key has to stay.
    pub(super) compact: bool,
    /// When it was created, in milliseconds since the Unix epoch.
    pub(super) created_ms: i64,
}

impl TopicEntry {
    /// The entry as a value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        value.extend_from_slice(&self.number.to_le_bytes());
        value.extend_from_slice(&self.id);
        value.extend_from_slice(&self.partitions.to_le_bytes());
        value.push(u8::from(self.compact));
        value.extend_from_slice(&self.created_ms.to_le_bytes());
        value
    }

    /// Reads [`encode`](Self::encode).
    pub(super) fn decode(mut value: &[u8]) -> Result<Self, Damaged> {
        take_version(&mut value)?;
        let mut read = || {
            let value = &mut value;
            let number = u32::from_le_bytes(take(value, 4)?.try_into().ok()?);
            let id = take(value, 16)?.try_into().ok()?;
            let partitions = u32::from_le_bytes(take(value, 4)?.try_into().ok()?);
            let compact = take(value, 1)?[0] == 1;
            let created_ms = take_u64(value)?.cast_signed();
            (partitions > 0).then_some(Self {
                number,
                id,
                partitions,
                compact,
                created_ms,
            })
        };
        read().ok_or(Damaged::Content("topic entry"))
    }
}

/// Records of one partition under way to the log. A record holds the *gap* to the offset before it
/// instead of its offset: chunks without gaps can be joined, whatever offsets they end up with.
///
/// A record: gap (varint), timestamp (i64, little-endian), length of the key plus one or 0 for none
/// (varint), length of the value likewise, number of headers (varint), key, value, and for each
/// header length of the name, name, length of the value plus one or 0 for none, value.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    count: u32,
    /// Offset of the last record less the base; meaningful when there is a record.
    last: u32,
    timestamp_max_ms: i64,
}

impl Chunk {
    /// An empty chunk with room for `bytes` of records.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(CHUNK_HEADER_BYTES + bytes);
        buffer.resize(CHUNK_HEADER_BYTES, 0);
        Self {
            bytes: buffer,
            count: 0,
            last: 0,
            timestamp_max_ms: i64::MIN,
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the encoded records.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() - CHUNK_HEADER_BYTES
    }

    /// Adds a record right behind the last one.
    pub(super) fn push<'h>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = HeaderRef<'h>>,
    ) {
        self.bytes.push(0);
        self.bytes.extend_from_slice(&timestamp_ms.to_le_bytes());
        put_length(&mut self.bytes, key);
        put_length(&mut self.bytes, value);
        put_varint(&mut self.bytes, headers.len() as u64);
        self.bytes.extend_from_slice(key.unwrap_or_default());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        for (name, value) in headers {
            put_varint(&mut self.bytes, name.len() as u64);
            self.bytes.extend_from_slice(name.as_bytes());
            put_length(&mut self.bytes, value);
            self.bytes.extend_from_slice(value.unwrap_or_default());
        }
        self.count_gap(0, timestamp_ms);
    }

    /// Adds a stored record, `gap` offsets behind the last one.
    pub(super) fn push_stored(&mut self, gap: u32, record: &Stored<'_>) {
        put_varint(&mut self.bytes, u64::from(gap));
        self.bytes.extend_from_slice(record.body);
        self.count_gap(gap, record.timestamp_ms);
    }

    /// Adds the records of `other`, which has no gaps, behind the last one.
    pub(super) fn join(&mut self, other: Self) {
        debug_assert!(
            other.count == 0 || other.last == other.count - 1,
            "only dense chunks join"
        );
        if self.count == 0 {
            *self = other;
            return;
        }
        self.bytes
            .extend_from_slice(&other.bytes[CHUNK_HEADER_BYTES..]);
        self.count += other.count;
        self.last += other.count;
        self.timestamp_max_ms = self.timestamp_max_ms.max(other.timestamp_max_ms);
    }

    /// The chunk as a value.
    pub(super) fn into_value(mut self) -> Vec<u8> {
        self.bytes[0] = VERSION;
        self.bytes[1..5].copy_from_slice(&self.count.to_le_bytes());
        self.bytes[5..9].copy_from_slice(&self.last.to_le_bytes());
        self.bytes[9..17].copy_from_slice(&self.timestamp_max_ms.to_le_bytes());
        self.bytes
    }

    fn count_gap(&mut self, gap: u32, timestamp_ms: i64) {
        self.last = if self.count == 0 {
            gap
        } else {
            self.last + 1 + gap
        };
        self.count += 1;
        self.timestamp_max_ms = self.timestamp_max_ms.max(timestamp_ms);
    }
}

/// What a chunk's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    pub(super) count: u32,
    /// Offset of the last record.
    pub(super) last: u64,
    pub(super) timestamp_max_ms: i64,
}

impl ChunkHeader {
    /// Header of the chunk with this base offset.
    pub(super) fn decode(base: u64, mut value: &[u8]) -> Result<Self, Damaged> {
        take_version(&mut value)?;
        let mut read = || {
            let value = &mut value;
            let count = u32::from_le_bytes(take(value, 4)?.try_into().ok()?);
            let last = u32::from_le_bytes(take(value, 4)?.try_into().ok()?);
            let timestamp_max_ms = take_u64(value)?.cast_signed();
            let last = base.checked_add(u64::from(last))?;
            (count > 0).then_some(Self {
                count,
                last,
                timestamp_max_ms,
            })
        };
        read().ok_or(Damaged::Content("chunk header"))
    }
}

/// A record in a chunk.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    pub(super) offset: u64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Vec<HeaderRef<'a>>,
    /// Everything behind the gap, to be copied as it is.
    body: &'a [u8],
}

impl Stored<'_> {
    /// Bytes of key, value and headers.
    pub(super) fn size(&self) -> usize {
        record_bytes(self.key, self.value, self.headers.iter().copied())
    }

    /// Bytes that it takes in a chunk, about.
    pub(super) fn encoded_bytes(&self) -> usize {
        self.body.len() + 1
    }
}

/// Bytes of a record as limits count them: key, value, and headers with their names.
pub(super) fn record_bytes<'h>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = HeaderRef<'h>>,
) -> usize {
    key.map_or(0, <[u8]>::len)
        + value.map_or(0, <[u8]>::len)
        + headers
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len))
            .sum::<usize>()
}

/// Where reading of a chunk is.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkCursor {
    /// Index of the next record's first byte in the value.
    at: usize,
    remaining: u32,
    /// Offset of the next record if it has no gap.
    next: u64,
}

impl ChunkCursor {
    /// The start of the chunk with this base offset.
    pub(super) fn new(base: u64, header: ChunkHeader) -> Self {
        Self {
            at: CHUNK_HEADER_BYTES,
            remaining: header.count,
            next: base,
        }
    }

    /// The next record and the cursor behind it, or `None` at the end.
    pub(super) fn next<'a>(&self, value: &'a [u8]) -> Result<Option<(Stored<'a>, Self)>, Damaged> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let mut rest = value.get(self.at..).ok_or(Damaged::Content("chunk"))?;
        let offset = take_varint(&mut rest)
            .and_then(|gap| self.next.checked_add(gap))
            .ok_or(Damaged::Content("offset"))?;
        let stored = take_record(&mut rest, offset).ok_or(Damaged::Content("record"))?;
        let behind = Self {
            at: value.len() - rest.len(),
            remaining: self.remaining - 1,
            next: offset + 1,
        };
        Ok(Some((stored, behind)))
    }
}

fn take_record<'a>(rest: &mut &'a [u8], offset: u64) -> Option<Stored<'a>> {
    let start = *rest;
    let timestamp_ms = take_u64(rest)?.cast_signed();
    let key_length = take_varint(rest)?;
    let value_length = take_varint(rest)?;
    let header_count = take_varint(rest)?;
    let key = take_optional(rest, key_length)?;
    let value = take_optional(rest, value_length)?;
    let mut headers = Vec::new();
    for _ in 0..header_count {
        let name_length = usize::try_from(take_varint(rest)?).ok()?;
        let name = std::str::from_utf8(take(rest, name_length)?).ok()?;
        let value_length = take_varint(rest)?;
        headers.push((name, take_optional(rest, value_length)?));
    }
    let body = &start[..start.len() - rest.len()];
    Some(Stored {
        offset,
        timestamp_ms,
        key,
        value,
        headers,
        body,
    })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

/// Takes bytes whose length plus one is `length`; 0 stands for none. The outer `None` = damaged.
#[allow(
    clippy::option_option,
    reason = "the outer one is the error, the inner one the content"
)]
fn take_optional<'a>(rest: &mut &'a [u8], length: u64) -> Option<Option<&'a [u8]>> {
    match length.checked_sub(1) {
        None => Some(None),
        Some(length) => take(rest, usize::try_from(length).ok()?).map(Some),
    }
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest, 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn take_version(rest: &mut &[u8]) -> Result<(), Damaged> {
    match take(rest, 1) {
        Some([VERSION]) => Ok(()),
        Some([newer]) if *newer > VERSION => Err(Damaged::Version(*newer)),
        _ => Err(Damaged::Content("version")),
    }
}

/// LEB128: seven bits a byte, the lowest first.
fn put_varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for (index, byte) in rest.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * u32::try_from(index).ok()?;
        // The tenth byte has room for one bit.
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            return Some(number);
        }
    }
    None
}

fn put_length(into: &mut Vec<u8>, bytes: Option<&[u8]>) {
    put_varint(into, bytes.map_or(0, |bytes| bytes.len() as u64 + 1));
}

#[cfg(test)]
mod tests;
