//! Sizes and durations as people write them: `64MiB`, `2s`. Used by the manifest's parser.
//!
//! Invariant: nothing is rounded. A text either is an exact number of bytes or milliseconds, or it
//! is refused.

use std::time::Duration;

/// Bytes of a size such as `64MiB`, `1 GiB`, `500KB` or `4096B`; `None` if it is none or too large.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A duration such as `500ms`, `2s`, `1m`, `1h` or `7d`; `None` if it is none or too large.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let factor_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor_ms).map(Duration::from_millis)
}

/// Bytes in the largest unit that divides them.
pub(super) fn display_bytes(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// A duration in the largest unit that divides it.
pub(super) fn display_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    // A minute is said in seconds, a day in hours.
    match ms {
        _ if ms > 86_400_000 && ms.is_multiple_of(86_400_000) => format!("{}d", ms / 86_400_000),
        _ if ms >= 3_600_000 && ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let number = text[..digits].replace('_', "").parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_or_refused() {
        for (text, expected) in [
            ("64MiB", Some(64 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("1_000KB", Some(1_000_000)),
            ("7B", Some(7)),
            ("64", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("-1MiB", None),
            ("64mib", None),
            ("99999999999999999999GiB", None),
            ("18446744073709551615KiB", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_exact_or_refused() {
        for (text, expected_ms) in [
            ("2s", Some(2_000)),
            ("500 ms", Some(500)),
            ("1m", Some(60_000)),
            ("1h", Some(3_600_000)),
            ("7d", Some(604_800_000)),
            ("2", None),
            ("2sec", None),
            ("0.5s", None),
        ] {
            assert_eq!(
                duration(text),
                expected_ms.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn bounds_are_written_as_people_write_them() {
        assert_eq!(display_bytes(64 << 20), "64MiB");
        assert_eq!(display_bytes(1_000), "1000B");
        assert_eq!(display_duration(Duration::from_millis(10)), "10ms");
        assert_eq!(display_duration(Duration::from_secs(60)), "60s");
        assert_eq!(display_duration(Duration::from_secs(172_800)), "2d");
        assert_eq!(display_duration(Duration::from_secs(36 * 3600)), "36h");
    }
}
