//! The verbs, one file for each group of them.
//!
//! Each takes its arguments, asks a gateway (or, for `inspect`, `token show`, `point verify`, `vault check` and `vault gc`, reads what is
//! there), and shows what
//! came of it. Rules of the business are the gateway's: nothing here decides whether something may be done.

pub(crate) mod agent;
pub(crate) mod appliance;
pub(crate) mod approval;
pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod declared;
pub(crate) mod deleted;
pub(crate) mod drill;
pub(crate) mod encrypt;
pub(crate) mod event;
pub(crate) mod failover;
pub(crate) mod gateway;
pub(crate) mod gc;
pub(crate) mod group;
mod guide;
pub(crate) mod inspect;
pub(crate) mod iscsi;
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod network_mapping;
pub(crate) mod notice;
pub(crate) mod plan;
pub(crate) mod point;
pub(crate) mod policy;
pub(crate) mod registration_key;
pub(crate) mod resync;
pub(crate) mod shell;
pub(crate) mod site;
pub(crate) mod status;
pub(crate) mod storage;
pub(crate) mod support;
pub(crate) mod terraform;
pub(crate) mod token;
pub(crate) mod vault;
pub(crate) mod vault_key;
pub(crate) mod verify;
pub(crate) mod volume;
pub(crate) mod whoami;
