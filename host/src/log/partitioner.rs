//! Which partition a key belongs to: Kafka's default, the 32-bit murmur2 of its Java client
//! (`org.apache.kafka.common.utils.Utils.murmur2`), the same on both logs.

use crate::types::Partition;

/// How an input's keys were spread over its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    /// The default of Kafka's Java client, and of foldhost.
    #[default]
    Murmur2,
    /// The default of librdkafka and what is built on it.
    Crc32,
}

impl Partitioner {
    /// Partition of a key among `partitions`.
    ///
    /// # Panics
    /// If `partitions` is 0: a topic has at least one.
    #[must_use]
    pub fn partition(self, key: &[u8], partitions: u32) -> Partition {
        assert!(partitions > 0, "a topic has at least one partition");
        let hash = match self {
            Self::Murmur2 => murmur2(key) & 0x7fff_ffff,
            Self::Crc32 => crc32(key),
        };
        Partition(hash % partitions)
    }
}

/// Murmur2 with Kafka's seed. Hash values are compared with Kafka's own test vectors below.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut h = SEED ^ u32::try_from(data.len()).expect("keys are shorter than 4 GiB");
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("four bytes")).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = chunks.remainder();
    for (index, byte) in tail.iter().enumerate() {
        h ^= u32::from(*byte) << (8 * index);
    }
    if !tail.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// CRC-32 (IEEE), as librdkafka's `consistent` partitioner computes it.
fn crc32(data: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_equals_kafkas_own_test_vectors() {
        // From kafka/clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java.
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn crc32_equals_the_standard_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
