//! Registration keys and enrolments.

use std::time::Duration;

use super::{Errors, HOUR, Validate, duration, fault, title};
use crate::types::{EnrolRequest, RegistrationKeyCreate};

/// Shortest time that a registration key can be used.
pub const REGISTRATION_TTL_MIN: Duration = Duration::from_secs(60);
/// Longest time that a registration key can be used.
pub const REGISTRATION_TTL_MAX: Duration = HOUR;

impl Validate for RegistrationKeyCreate {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        title(&format!("{prefix}name"), &self.name, errors);
        if self.roles.is_empty() {
            fault(errors, format!("{prefix}roles"), "needs a role: agent");
        }
        for (index, role) in self.roles.iter().enumerate() {
            if self.roles.iter().take(index).any(|earlier| earlier == role) {
                fault(errors, format!("{prefix}roles[{index}]"), format!("names the role {role} twice"));
            }
        }
        duration(&format!("{prefix}ttl"), &self.ttl, REGISTRATION_TTL_MIN, REGISTRATION_TTL_MAX, errors);
    }
}

impl Validate for EnrolRequest {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        title(&format!("{prefix}name"), &self.name, errors);
    }
}
