//! Tokens.

use std::time::Duration;

use super::{DAY, Errors, Validate, duration, fault, title};
use crate::types::{RenewTokenRequest, RotateTokenRequest, TokenCreate};

/// Shortest life of a token.
pub const TTL_MIN: Duration = Duration::from_secs(60);
/// Longest life of a token that ends by itself.
pub const TTL_MAX: Duration = DAY.saturating_mul(3650);
/// Longest time that an old secret stays valid beside a newer one.
pub const GRACE_MAX: Duration = DAY.saturating_mul(30);

impl Validate for TokenCreate {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        title(&format!("{prefix}name"), &self.name, errors);
        if self.roles.is_empty() {
            fault(
                errors,
                format!("{prefix}roles"),
                "needs at least one role: reader, operator, recovery or security_administrator",
            );
        }
        for (index, role) in self.roles.iter().enumerate() {
            if self.roles.iter().take(index).any(|earlier| earlier == role) {
                fault(errors, format!("{prefix}roles[{index}]"), format!("names the role {role} twice"));
            }
        }
        if let Some(ttl) = &self.ttl {
            duration(&format!("{prefix}ttl"), ttl, TTL_MIN, TTL_MAX, errors);
        }
    }
}

impl Validate for RotateTokenRequest {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        duration(&format!("{prefix}grace"), &self.grace, Duration::ZERO, GRACE_MAX, errors);
    }
}

impl Validate for RenewTokenRequest {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        duration(&format!("{prefix}ttl"), &self.ttl, TTL_MIN, TTL_MAX, errors);
    }
}
