//! `lifeboat_recovery_points`: to which moments a group can be recovered.

use lifeboat_api::{Client, Page, Point};
use tf_provider_sdk::{Attribute, Context, DataSource, Object, Result, Schema, Value, async_trait, validate};

use super::{POINT_FIELDS, point, point_type};
use crate::link::Link;
use crate::wording::failed;

#[derive(Debug)]
pub(crate) struct RecoveryPoints;

const LIMIT_DEFAULT: u64 = 100;
const LIMIT_MAX: u64 = 10_000;
/// What one request asks for at most.
const PAGE_MAX: u64 = 1000;

fn is_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}

#[async_trait]
impl DataSource<Link> for RecoveryPoints {
    fn type_name(&self) -> &str {
        "lifeboat_recovery_points"
    }

    fn schema(&self) -> Schema {
        let time = || validate::matches("a time such as 2026-11-20T10:05:00Z", is_time);
        Schema::new()
            .description(
                "The recovery points of a consistency group on the branch that is written now, newest first. For the group of a \
                 volume that has none of its own choosing, use the volume's `group_id`.",
            )
            .attribute(Attribute::string("group_id").required().description("The group."))
            .attribute(
                Attribute::string("from").optional().validate(time()).description("Only points at this time or later (RFC 3339)."),
            )
            .attribute(
                Attribute::string("to").optional().validate(time()).description("Only points at this time or earlier (RFC 3339)."),
            )
            .attribute(
                Attribute::string("kind")
                    .optional()
                    .validate(validate::one_of(["crash-consistent", "app-consistent", "manual", "final"]))
                    .description("Only points of this kind: `crash-consistent`, `app-consistent`, `manual` or `final`."),
            )
            .attribute(
                Attribute::number("limit")
                    .default(LIMIT_DEFAULT)
                    .validate(validate::whole_number())
                    .validate(validate::range(1_u64, LIMIT_MAX))
                    .description("How many at most: 1 to 10000. Default: `100`."),
            )
            .attribute(
                Attribute::list("points", point_type())
                    .computed()
                    .description(format!("The points, newest first. Each has {POINT_FIELDS}.")),
            )
    }

    async fn read(&self, link: &Link, cx: &Context, mut config: Object) -> Result<Object> {
        let api = link.api()?;
        let group: String = config.get("group_id")?;
        let limit: u64 = config.get("limit")?;
        let mut query = vec![("group", group)];
        for name in ["from", "to", "kind"] {
            if let Some(text) = config.get::<Option<String>>(name)? {
                query.push((name, text));
            }
        }
        let points = cx
            .run("reading recovery points", newest(api, &query, limit))
            .await?
            .map_err(|error| failed("read the recovery points", &error, |_| "group_id".to_owned()))?;
        config.set("points", Value::List(points.iter().map(point).collect()));
        Ok(config)
    }
}

/// Page by page until there are enough.
async fn newest(
    api: &Client,
    query: &[(&'static str, String)],
    limit: u64,
) -> std::result::Result<Vec<Point>, lifeboat_api::ClientError> {
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut points: Vec<Point> = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let mut page_query = query.to_vec();
        page_query.push(("limit", limit.min(PAGE_MAX).to_string()));
        page_query.extend(token.map(|token| ("page_token", token)));
        let page: Page<Point> = api.get("/v1/points", &page_query).await?;
        points.extend(page.items);
        token = page.next_page_token;
        if token.is_none() || points.len() >= wanted {
            points.truncate(wanted);
            return Ok(points);
        }
    }
}
