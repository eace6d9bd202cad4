//! What becomes of a registration by key, said while it becomes so.

use std::path::Path;
use std::time::Duration;

use lifeboat_api::{Client, Registration, RegistrationState};

use crate::connect;
use crate::failure::Result;

/// Time between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// Questions until nobody is told any more: what comes later stands in the gateway's status.
const QUESTIONS_MAX: u32 = 600;

/// Tells of each change until it is registered, refused, or takes too long; of nothing where none was asked for.
pub(super) async fn told(state: &Path, tell: impl Fn(&str)) {
    let mut said = String::new();
    for _ in 0..QUESTIONS_MAX {
        // A gateway that doesn't answer just now is asked again.
        if let Ok(now) = ask(state).await {
            if now.state == RegistrationState::NotAsked {
                return;
            }
            if now.message != said {
                tell(&now.message);
            }
            if matches!(now.state, RegistrationState::Registered | RegistrationState::Refused) {
                return;
            }
            said = now.message;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(state: &Path) -> Result<Registration> {
    Ok(Client::new(&connect::local(state)?)?.registration().await?)
}
