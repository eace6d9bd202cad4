//! What is counted of this process: requests of the API, events. Labels come from tables, never from what somebody sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use http::{Method, StatusCode};
use lifeboat_model::state::Health;

type Requests = BTreeMap<(&'static str, String, u16), u64>;

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: Mutex<Requests>,
    events: Mutex<BTreeMap<(&'static str, Health), u64>>,
}

impl Counters {
    /// A request was answered; `route` is the router's pattern, none where there is no such route.
    pub(crate) fn request(&self, method: &Method, route: Option<&str>, status: StatusCode) {
        let method = match *method {
            Method::GET => "get",
            Method::POST => "post",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        let key = (method, route.unwrap_or("none").to_owned(), status.as_u16());
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    }

    /// An event was written down here.
    pub(crate) fn event(&self, kind: &'static str, severity: Health) {
        *self.events.lock().unwrap_or_else(PoisonError::into_inner).entry((kind, severity)).or_default() += 1;
    }

    pub(super) fn requests(&self) -> Requests {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn events(&self) -> BTreeMap<(&'static str, Health), u64> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
