//! Is what concurrent readers and writers saw the behaviour of one disk, where each operation took place at one moment?
//!
//! Each sector is a register. Registers are judged one by one, which is enough: a history of many registers is linearizable when
//! each register's is (Herlihy and Wing, 1990). Every written value is unique, so that a reader says whose value it saw, and the
//! verdict needs no search (Gibbons and Korach, 1997): the operations of one value must all happen while the register has it.
//!
//! ```text
//! earliest end < latest begin:  the register had the value from the one to the other: a forward zone
//! otherwise:                    all could happen at one moment between latest begin and earliest end: a backward zone
//! ```
//! It is linearizable when no value is read before its write began, no two forward zones overlap, and no backward zone lies within
//! a forward one.

use std::collections::HashMap;

/// When an operation that was never answered ended.
pub(crate) const NEVER: u64 = u64::MAX;

/// One operation on one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// Both in the same unit, of one clock that never goes back.
    pub begun: u64,
    pub ended: u64,
    pub value: u64,
    pub write: bool,
}

/// The operations of one value.
struct Zone {
    value: u64,
    first_end: u64,
    last_begin: u64,
    first_read_end: u64,
    read: bool,
    /// When the write began and ended.
    write: Option<(u64, u64)>,
}

/// Whether a register that holds `initial` before anything else can have behaved like that.
///
/// # Errors
/// What it can't have done, in words.
pub(crate) fn linearizable(initial: u64, operations: &[Operation]) -> Result<(), String> {
    let mut zones: HashMap<u64, Zone> = HashMap::new();
    let first = Operation { begun: 0, ended: 0, value: initial, write: true };
    for operation in std::iter::once(&first).chain(operations) {
        let zone = zones.entry(operation.value).or_insert(Zone {
            value: operation.value,
            first_end: NEVER,
            last_begin: 0,
            first_read_end: NEVER,
            read: false,
            write: None,
        });
        zone.first_end = zone.first_end.min(operation.ended);
        zone.last_begin = zone.last_begin.max(operation.begun);
        if operation.write {
            assert!(zone.write.is_none(), "value {} is written twice: the history can't be judged", operation.value);
            zone.write = Some((operation.begun, operation.ended));
        } else {
            zone.read = true;
            zone.first_read_end = zone.first_read_end.min(operation.ended);
        }
    }
    // A write without an answer that nobody saw may never have happened.
    zones.retain(|_, zone| zone.read || zone.write.is_none_or(|(_, ended)| ended != NEVER));
    let mut forward = Vec::new();
    let mut backward = Vec::new();
    for zone in zones.values() {
        match zone.write {
            None => return Err(format!("value {} was read, and nobody wrote it", zone.value)),
            Some((begun, _)) if zone.first_read_end < begun => {
                return Err(format!(
                    "value {} was read by {}, before its write began at {begun}",
                    zone.value, zone.first_read_end
                ));
            }
            Some(_) if zone.first_end < zone.last_begin => forward.push((zone.first_end, zone.last_begin, zone.value)),
            Some(_) => backward.push((zone.last_begin, zone.first_end, zone.value)),
        }
    }
    forward.sort_unstable();
    for pair in forward.windows(2) {
        let ((from, until, one), (start, _, other)) = (pair[0], pair[1]);
        if start < until {
            return Err(format!("value {one} was there from {from} to {until}, and value {other} at {start} already"));
        }
    }
    for (from, until, value) in backward {
        let before = forward.partition_point(|(start, _, _)| *start < from);
        if let Some((start, end, other)) = before.checked_sub(1).map(|at| forward[at])
            && until < end
        {
            return Err(format!(
                "value {value} was there between {from} and {until}, but value {other} from {start} to {end}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(begun: u64, ended: u64, value: u64) -> Operation {
        Operation { begun, ended, value, write: true }
    }

    fn read(begun: u64, ended: u64, value: u64) -> Operation {
        Operation { begun, ended, value, write: false }
    }

    /// Every order that respects time, tried.
    fn by_search(now: u64, left: &[Operation]) -> bool {
        let ends = left.iter().map(|one| one.ended).min().unwrap_or(NEVER);
        left.iter().all(|one| one.write && one.ended == NEVER)
            || (0..left.len()).any(|at| {
                let one = left[at];
                let mut rest = left.to_vec();
                rest.remove(at);
                one.begun <= ends
                    && (one.write || one.value == now)
                    && by_search(if one.write { one.value } else { now }, &rest)
            })
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [write(1, 2, 7), write(3, 4, 8), read(5, 6, 7)];
        assert!(linearizable(0, &history).is_err());
        assert!(linearizable(0, &[write(1, 2, 7), write(3, 6, 8), read(5, 7, 7)]).is_ok());
    }

    #[test]
    fn time_that_goes_back_between_two_readers_is_found() {
        assert!(linearizable(0, &[write(1, 9, 7), read(2, 3, 7), read(4, 5, 0)]).is_err());
        assert!(linearizable(0, &[write(1, 9, 7), read(2, 3, 0), read(4, 5, 7)]).is_ok());
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened_or_not() {
        assert!(linearizable(0, &[write(1, NEVER, 7), read(2, 3, 0)]).is_ok());
        assert!(linearizable(0, &[write(1, NEVER, 7), read(2, 3, 7)]).is_ok());
        assert!(linearizable(0, &[write(1, NEVER, 7), read(2, 3, 7), read(4, 5, 0)]).is_err());
    }

    #[test]
    fn values_from_nowhere_and_from_the_future_are_found() {
        assert!(linearizable(0, &[read(1, 2, 9)]).is_err());
        assert!(linearizable(0, &[read(1, 2, 9), write(3, 4, 9)]).is_err());
    }

    /// 100,000 histories of up to seven operations, beside the search through all orders.
    #[test]
    fn it_says_what_a_search_through_all_orders_says() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % most
        };
        let (mut good, mut bad) = (0, 0);
        for _ in 0..100_000 {
            let mut written = 0;
            // Moments are unique, as the clock's are: what happens at one moment is for neither to say.
            let mut moments: Vec<u64> = (1..=14).collect();
            for at in (1..moments.len()).rev() {
                moments.swap(at, usize::try_from(below(at as u64 + 1)).unwrap());
            }
            let history: Vec<Operation> = (0..1 + below(7))
                .map(|_| {
                    let (one, other) = (moments.pop().unwrap(), moments.pop().unwrap());
                    let (begun, ended) = (one.min(other), one.max(other));
                    if below(2) == 0 {
                        written += 1;
                        write(begun, if below(8) == 0 { NEVER } else { ended }, written)
                    } else {
                        read(begun, ended, below(4))
                    }
                })
                .collect();
            let expected = by_search(0, &history);
            assert_eq!(linearizable(0, &history).is_ok(), expected, "{history:?}");
            *(if expected { &mut good } else { &mut bad }) += 1;
        }
        assert!(good > 10_000 && bad > 10_000, "{good} histories were good and {bad} bad");
    }
}
