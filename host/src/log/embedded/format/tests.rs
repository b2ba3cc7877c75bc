//! Written formats read back, and the frozen bytes of the first one.

use super::*;

/// Offset, key, value, and how many headers.
type Read = (u64, Option<Vec<u8>>, Option<Vec<u8>>, usize);

fn records(base: u64, value: &[u8]) -> Vec<Read> {
    let mut cursor = ChunkCursor::new(base, ChunkHeader::decode(base, value).unwrap());
    let mut found = Vec::new();
    while let Some((record, behind)) = cursor.next(value).unwrap() {
        found.push((
            record.offset,
            record.key.map(<[u8]>::to_vec),
            record.value.map(<[u8]>::to_vec),
            record.headers.len(),
        ));
        cursor = behind;
    }
    found
}

#[test]
fn joined_chunks_read_back_with_their_offsets() {
    let mut first = Chunk::with_capacity(0);
    first.push(
        7,
        Some(b"k"),
        None,
        [("h", Some(&b"v"[..])), ("n", None)].into_iter(),
    );
    first.push(9, None, Some(b""), std::iter::empty());
    let mut second = Chunk::with_capacity(0);
    second.push(8, Some(b""), Some(&[5; 300]), std::iter::empty());
    first.join(second);
    let value = first.into_value();
    let header = ChunkHeader::decode(100, &value).unwrap();
    assert_eq!(
        header,
        ChunkHeader {
            count: 3,
            last: 102,
            timestamp_max_ms: 9
        }
    );
    assert_eq!(
        records(100, &value),
        [
            (100, Some(b"k".to_vec()), None, 2),
            (101, None, Some(vec![]), 0),
            (102, Some(vec![]), Some(vec![5; 300]), 0),
        ]
    );
}

#[test]
fn gaps_survive() {
    let mut dense = Chunk::with_capacity(0);
    for timestamp in 0..4 {
        dense.push(timestamp, Some(b"k"), Some(b"v"), std::iter::empty());
    }
    let dense = dense.into_value();
    let mut sparse = Chunk::with_capacity(0);
    let mut cursor = ChunkCursor::new(10, ChunkHeader::decode(10, &dense).unwrap());
    let mut previous = None;
    while let Some((record, behind)) = cursor.next(&dense).unwrap() {
        cursor = behind;
        if record.offset % 2 == 1 {
            let gap = record.offset - previous.map_or(10, |offset: u64| offset + 1);
            sparse.push_stored(u32::try_from(gap).unwrap(), &record);
            previous = Some(record.offset);
        }
    }
    let value = sparse.into_value();
    assert_eq!(ChunkHeader::decode(10, &value).unwrap().last, 13);
    let offsets: Vec<u64> = records(10, &value).iter().map(|record| record.0).collect();
    assert_eq!(offsets, [11, 13]);
}

#[test]
fn the_written_format_does_not_change() {
    let mut chunk = Chunk::with_capacity(0);
    chunk.push(
        0x0102,
        Some(b"key"),
        Some(b"value"),
        [("h", Some(&b"x"[..]))].into_iter(),
    );
    chunk.push(-1, None, None, std::iter::empty());
    let expected: &[&[u8]] = &[
        &[1, 2, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0],
        &[0, 2, 1, 0, 0, 0, 0, 0, 0, 4, 6, 1],
        b"key",
        b"value",
        &[1, b'h', 2, b'x'],
        &[0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0],
    ];
    assert_eq!(chunk.into_value(), expected.concat());
    assert_eq!(
        chunk_key(1, 2, 3),
        [1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]
    );
    let entry = TopicEntry {
        number: 3,
        id: [7; 16],
        partitions: 4,
        compact: true,
        created_ms: 5,
    };
    let expected: &[&[u8]] = &[
        &[1, 3, 0, 0, 0],
        &[7; 16],
        &[4, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(entry.encode(), expected.concat());
    assert_eq!(TopicEntry::decode(&entry.encode()), Ok(entry));
    assert_eq!(encode_number(258), [1, 2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(decode_number(&encode_number(258)), Ok(258));
}

#[test]
fn damaged_and_newer_values_are_refused() {
    let mut chunk = Chunk::with_capacity(0);
    chunk.push(0, Some(b"key"), Some(b"value"), [("h", None)].into_iter());
    let value = chunk.into_value();
    let header = ChunkHeader::decode(0, &value).unwrap();
    for length in CHUNK_HEADER_BYTES..value.len() {
        assert!(
            ChunkCursor::new(0, header).next(&value[..length]).is_err(),
            "{length}"
        );
    }
    for length in 0..CHUNK_HEADER_BYTES {
        assert!(
            ChunkHeader::decode(0, &value[..length]).is_err(),
            "{length}"
        );
    }
    let mut newer = value;
    newer[0] = 2;
    assert_eq!(ChunkHeader::decode(0, &newer), Err(Damaged::Version(2)));
}

#[test]
fn varints_read_back_and_overlong_ones_are_refused() {
    for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, number);
        let mut rest = &bytes[..];
        assert_eq!((take_varint(&mut rest), rest), (Some(number), &[][..]));
    }
    assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
    assert_eq!(take_varint(&mut &[0x80][..]), None);
}
