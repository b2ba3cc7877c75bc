//! Sets of transfer numbers, as ranges: what comes in order takes two numbers, whatever its length.
//!
//! Used by the state and by the decisions. Invariant: sorted; ranges neither overlap nor touch.

use bank_events::Numbers;

/// Whether `number` is in the set.
pub(crate) fn contains(set: &[Numbers], number: u64) -> bool {
    let behind = set.partition_point(|range| range.last < number);
    set.get(behind).is_some_and(|range| range.first <= number)
}

/// How many there are.
pub(crate) fn count(set: &[Numbers]) -> u64 {
    set.iter().map(|range| range.last - range.first + 1).sum()
}

/// Adds `number`; one that is there already changes nothing.
pub(crate) fn insert(set: &mut Vec<Numbers>, number: u64) {
    // The first range that ends at or behind the place before the number.
    let at = set.partition_point(|range| range.last.saturating_add(1) < number);
    let Some(range) = set
        .get_mut(at)
        .filter(|range| range.first <= number.saturating_add(1))
    else {
        let (first, last) = (number, number);
        set.insert(at, Numbers { first, last });
        return;
    };
    range.first = range.first.min(number);
    range.last = range.last.max(number);
    let last = range.last;
    if let Some(next) = set
        .get(at + 1)
        .filter(|next| next.first == last.saturating_add(1))
    {
        set[at].last = next.last;
        set.remove(at + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ranges(set: &[Numbers]) -> Vec<(u64, u64)> {
        set.iter().map(|range| (range.first, range.last)).collect()
    }

    #[test]
    fn ranges_grow_together() {
        let mut set = Vec::new();
        for (number, expected) in [
            (5, vec![(5, 5)]),
            (7, vec![(5, 5), (7, 7)]),
            (5, vec![(5, 5), (7, 7)]),
            (1, vec![(1, 1), (5, 5), (7, 7)]),
            (6, vec![(1, 1), (5, 7)]),
            (4, vec![(1, 1), (4, 7)]),
            (8, vec![(1, 1), (4, 8)]),
            (6, vec![(1, 1), (4, 8)]),
            (u64::MAX, vec![(1, 1), (4, 8), (u64::MAX, u64::MAX)]),
            (0, vec![(0, 1), (4, 8), (u64::MAX, u64::MAX)]),
        ] {
            insert(&mut set, number);
            assert_eq!(ranges(&set), expected);
            assert!(contains(&set, number));
        }
        assert!(!contains(&set, 2) && !contains(&set, 9) && !contains(&set, u64::MAX - 1));
        assert_eq!(count(&set), 8);
    }

    #[test]
    fn any_order_gives_the_set() {
        for stride in 1..48_u64 {
            let (mut set, mut model) = (Vec::new(), BTreeSet::new());
            for step in 0..40 {
                let number = step * stride % 47 + 1;
                insert(&mut set, number);
                model.insert(number);
                for number in 0..50 {
                    assert_eq!(contains(&set, number), model.contains(&number));
                }
                assert_eq!(count(&set), model.len() as u64);
                assert!(set.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
            }
        }
    }
}
