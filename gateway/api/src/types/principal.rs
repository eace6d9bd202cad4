//! Who asks, and what it may do.

use lifeboat_model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What somebody may do. Every role may read what the gateway shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Reader,
    /// Declares and changes: sites, gateways, policies, groups, volumes, networks, machines, plans, drills; takes and marks
    /// recovery points; copies what the vault lacks.
    Operator,
    /// Carries recovery out: failover, test, commit, reprotect, failback, runs of drills, starts and stops of machines,
    /// and whatever becomes of their jobs.
    Recovery,
    /// Says who may do what, and what is trusted: vaults and their keys, tokens, erasure.
    SecurityAdministrator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Operator, Self::Recovery, Self::SecurityAdministrator];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Recovery => "recovery",
            Self::SecurityAdministrator => "security_administrator",
        }
    }

    /// Whether who has this role may do what needs `wanted`. Reading is part of every role, and nothing else is part of another.
    #[must_use]
    pub fn covers(self, wanted: Self) -> bool {
        self == wanted || wanted == Self::Reader
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            format!("{text:?} is no role: there are reader, operator, recovery and security_administrator")
        })
    }
}

/// What kind of somebody asks. More kinds follow; take one that isn't known for a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// Who holds the `admin.token` of a gateway's state directory.
    Administrator,
    /// Who holds a token of a vault.
    Token,
    /// A mobility agent, by its certificate.
    Agent,
}

/// Somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Principal {
    /// What kind of somebody.
    pub kind: PrincipalKind,
    /// The token's or the agent's id; nothing for an administrator.
    #[serde(default)]
    pub id: Option<String>,
    /// The token's or the agent's name; the name of the gateway whose administrator it is.
    pub name: String,
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            PrincipalKind::Administrator => write!(f, "the administrator of gateway {}", self.name),
            PrincipalKind::Token => write!(f, "the token {} ({})", self.name, self.id.as_deref().unwrap_or("no id")),
            PrincipalKind::Agent => write!(f, "the agent {} ({})", self.name, self.id.as_deref().unwrap_or("no id")),
        }
    }
}

/// Whom a gateway takes the caller for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Whoami {
    /// Who it is.
    pub principal: Principal,
    /// Its roles.
    pub roles: Vec<Role>,
    /// When it ends; never when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// The gateway that says so, by name.
    pub gateway: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_of_a_role_is_its_text() {
        for role in Role::ALL {
            assert_eq!(serde_json::to_value(role).expect("a string"), role.as_str());
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("admin".parse::<Role>().expect_err("no role").contains("security_administrator"));
    }

    #[test]
    fn only_reading_is_part_of_another_role() {
        for role in Role::ALL {
            for wanted in Role::ALL {
                assert_eq!(role.covers(wanted), role == wanted || wanted == Role::Reader, "{role} {wanted}");
            }
        }
    }
}
