//! Registration keys and enrolments.

use std::time::Duration;

use super::{Errors, HOUR, Validate, duration, encryption, fault, file_name, title};
use crate::types::{EnrolRequest, GatewayEnrolRequest, MachineRole, RegisterRequest, RegistrationKeyCreate};

/// Most gateways that a registration tries.
const ENDPOINTS_MAX: usize = 16;

/// Shortest time that a registration key can be used.
pub const REGISTRATION_TTL_MIN: Duration = Duration::from_secs(60);
/// Longest time that a registration key can be used.
pub const REGISTRATION_TTL_MAX: Duration = HOUR;

impl Validate for RegistrationKeyCreate {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        title(&format!("{prefix}name"), &self.name, errors);
        if self.roles.is_empty() {
            fault(errors, format!("{prefix}roles"), format!("needs a role: {}", MachineRole::words()));
        }
        if self.roles.len() > 1 && self.roles.contains(&MachineRole::Agent) {
            let message = "mixes an agent with a gateway: a key is for one machine, which is either; make two keys";
            fault(errors, format!("{prefix}roles"), message);
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

impl Validate for GatewayEnrolRequest {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        file_name(&format!("{prefix}name"), &self.name, errors);
        for (field, text) in [("process_id", &self.process_id), ("version", &self.version)] {
            title(&format!("{prefix}{field}"), text, errors);
        }
        if let Some(address) = &self.address {
            title(&format!("{prefix}address"), address, errors);
        }
        if let Some(site) = &self.site {
            title(&format!("{prefix}site"), site, errors);
        }
    }
}

impl Validate for RegisterRequest {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX {
            let message = format!("names 1 to {ENDPOINTS_MAX} gateways, each as https://host:port");
            fault(errors, format!("{prefix}endpoints"), message);
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if !endpoint.starts_with("https://") {
                fault(errors, format!("{prefix}endpoints[{index}]"), "must begin with https://");
            }
        }
        if let Some(key) = &self.vault_key {
            encryption(&format!("{prefix}vault_key."), key, errors);
        }
    }
}
