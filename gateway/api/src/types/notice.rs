//! Notices: how the ways do through which a gateway tells people what happens.

use lifeboat_model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A channel of notices at the answering gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoticeChannel {
    /// Its name in the gateway's settings.
    pub name: String,
    /// `webhook` or `email`.
    pub means: String,
    /// Notices that wait to be sent.
    pub waiting: u64,
    /// Notices that were given up since the channel was configured: its queue was full.
    pub dropped: u64,
    /// When one was sent last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_sent: Option<Timestamp>,
    /// Since when none can be sent; null while all is well.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Timestamp>,
    /// Why not.
    pub error: Option<String>,
}

/// What came of a test through one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoticeTest {
    /// The channel.
    pub channel: String,
    /// The id of the notice.
    pub id: String,
    /// Whether the other side took it.
    pub sent: bool,
    /// Why not.
    pub error: Option<String>,
}

/// `POST /v1/notice-tests`: a test through each channel of the answering gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoticeTests {
    /// One for each channel, in the order of the settings; none where nobody is to be told.
    pub results: Vec<NoticeTest>,
}
