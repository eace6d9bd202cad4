//! What a policy needs of a line and of a vault: the arithmetic, without a gateway.
//!
//! With churn c (bytes written a second), compression ratio r (bytes before over bytes after), bandwidth b and interval T
//! between recovery points, an interval's writes take u·T to be shipped, where u = c / (r·b) is the line's utilisation. The
//! newest landed point is oldest just before the next one lands: T for the interval and u·T for the way, so the RPO is
//! T·(1 + u). With u above 1 the backlog grows without end and no RPO can be kept.
//!
//! These are averages: bursts of more than the average need more.

/// Bits in a byte, and bits in a megabit.
const MEGABIT_BYTES: f64 = 1e6 / 8.0;
const GIB: f64 = 1_073_741_824.0;

/// Why there is no answer, and which argument is to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Infeasible {
    /// A sentence.
    pub(crate) message: String,
    /// The argument, by its name in the functions.
    pub(crate) argument: &'static str,
}

/// One rule of a retention schedule, in seconds; `every` 0 keeps all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tier {
    /// One point is kept in so many seconds.
    pub(crate) every: f64,
    /// Up to this age.
    pub(crate) keep_for: f64,
}

/// Megabits a second that keep the RPO, rounded up to a thousandth.
///
/// # Errors
/// The RPO is not longer than the interval: no bandwidth can keep it.
pub(crate) fn required_mbps(churn: f64, ratio: f64, rpo: f64, interval: f64) -> Result<f64, Infeasible> {
    if rpo <= interval {
        return Err(Infeasible {
            message: format!(
                "An RPO of {rpo} s can't be kept with a recovery point every {interval} s: the newest point is always older than \
                 that when the next one lands."
            ),
            argument: "rpo",
        });
    }
    let shipped = churn / ratio;
    // u must be at most (rpo - T) / T, and never above 1.
    let slack = (interval / (rpo - interval)).max(1.0);
    Ok(round_up(shipped * slack / MEGABIT_BYTES))
}

/// Seconds of writes that a disaster loses at worst.
///
/// # Errors
/// More is written than the line can carry.
pub(crate) fn expected_rpo(churn: f64, ratio: f64, mbps: f64, interval: f64) -> Result<f64, Infeasible> {
    let utilisation = churn / ratio / (mbps * MEGABIT_BYTES);
    if utilisation > 1.0 {
        let needed = round_up(churn / ratio / MEGABIT_BYTES);
        return Err(Infeasible {
            message: format!(
                "{mbps} Mbit/s can't carry what is written: {needed} Mbit/s are needed on average, else the backlog grows without \
                 end."
            ),
            argument: "mbps",
        });
    }
    Ok(round_up(interval * (1.0 + utilisation)))
}

/// GiB that the vault holds at most, in steady state: the volumes themselves, and for each rule what its points hold of
/// their own. A point kept for every e seconds holds what was written in them, but never more than the volumes.
pub(crate) fn vault_gib(size_gib: f64, churn: f64, ratio: f64, tiers: &[Tier]) -> f64 {
    let size = size_gib * GIB;
    let mut held = size;
    let mut reached = 0.0;
    for tier in tiers {
        let span = (tier.keep_for - reached).max(0.0);
        held += if tier.every > 0.0 { span / tier.every * (churn * tier.every).min(size) } else { churn * span };
        reached = tier.keep_for.max(reached);
    }
    round_up(held / ratio / GIB)
}

fn round_up(value: f64) -> f64 {
    // A product such as 2.4000000000000004 is 2.4, not 2.401.
    (value * 1000.0 - 1e-6).ceil().max(0.0) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_and_rpo_are_each_other_s_inverse() {
        // 10 MB/s, halved, are 40 Mbit/s.
        assert_eq!(required_mbps(10e6, 2.0, 300.0, 5.0), Ok(40.0));
        // Hardly longer than the interval: what an interval wrote must land in a fifth of it.
        assert_eq!(required_mbps(10e6, 2.0, 6.0, 5.0), Ok(200.0));
        assert_eq!(expected_rpo(10e6, 2.0, 200.0, 5.0), Ok(6.0));
        assert_eq!(expected_rpo(10e6, 2.0, 40.0, 5.0), Ok(10.0));
        assert_eq!(expected_rpo(0.0, 1.0, 1.0, 5.0), Ok(5.0));
        for rpo in [5.5, 7.0, 9.0] {
            let mbps = required_mbps(3e6, 1.3, rpo, 5.0).unwrap();
            assert!(expected_rpo(3e6, 1.3, mbps, 5.0).unwrap() <= rpo + 0.001, "{rpo}");
        }
    }

    #[test]
    fn what_can_not_be_is_said() {
        assert_eq!(required_mbps(1.0, 1.0, 5.0, 5.0).unwrap_err().argument, "rpo");
        let refused = expected_rpo(10e6, 2.0, 39.0, 5.0).unwrap_err();
        assert!(refused.message.contains("40 Mbit/s are needed"), "{}", refused.message);
    }

    #[test]
    fn a_vault_holds_the_volumes_and_what_points_hold() {
        let hour = Tier { every: 0.0, keep_for: 3600.0 };
        let day = Tier { every: 300.0, keep_for: 86_400.0 };
        assert_eq!(vault_gib(100.0, 0.0, 2.0, &[hour, day]), 50.0);
        // 1 MiB/s for an hour is 3.516 GiB; for the other 23 hours 80.859 GiB.
        assert_eq!(vault_gib(100.0, 1_048_576.0, 1.0, &[hour]), 103.516);
        assert_eq!(vault_gib(100.0, 1_048_576.0, 1.0, &[hour, day]), 184.375);
        // A point never holds more than the volumes.
        let coarse = Tier { every: 86_400.0, keep_for: 864_000.0 };
        assert_eq!(vault_gib(1.0, 1_048_576.0, 1.0, &[coarse]), 11.0);
    }
}
