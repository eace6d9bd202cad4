//! `lifeboat_clean_point`: the newest recovery point before anything that looks like an encryption.

use lifeboat_api::{CleanPoint as Found, SuspicionView};
use tf_provider_sdk::{Attribute, Context, DataSource, Object, Result, Schema, Type, Value, async_trait};

use super::{POINT_FIELDS, point, point_type};
use crate::link::Link;
use crate::wording::failed;

#[derive(Debug)]
pub(crate) struct CleanPoint;

#[async_trait]
impl DataSource<Link> for CleanPoint {
    fn type_name(&self) -> &str {
        "lifeboat_clean_point"
    }

    fn schema(&self) -> Schema {
        let computed = |attribute: Attribute, text: &str| attribute.computed().description(text.to_owned());
        Schema::new()
            .description(
                "The newest recovery point of a consistency group before anything that looks like an encryption by somebody who \
                 shouldn't: volumes whose content was replaced by random bytes. Where nothing does, it is the newest point. It is \
                 advice; look into the point before you rely on it.",
            )
            .attribute(Attribute::string("group_id").required().description("The group."))
            .attribute(computed(
                Attribute::new("point", point_type()),
                &format!("The point; null when no point is old enough. It has {POINT_FIELDS}."),
            ))
            .attribute(computed(
                Attribute::string("confidence"),
                "How sure it is that this point is clean and newer ones are not: `low`, `medium` or `high`.",
            ))
            .attribute(computed(Attribute::string("reason"), "Why this one, in a sentence."))
            .attribute(computed(
                Attribute::string("measured_since"),
                "Since when what is written has been measured (RFC 3339). Null when it never was.",
            ))
            .attribute(computed(
                Attribute::list("suspicions", suspicion_type()),
                "What looks as if it was being encrypted, in order of its beginning; empty when nothing does. Each has \
                 `volume_id`, `volume` (its name), `since` and `until` (times of points, RFC 3339), `bytes` (how much turned \
                 random, about) and `confidence`.",
            ))
    }

    async fn read(&self, link: &Link, cx: &Context, mut config: Object) -> Result<Object> {
        let api = link.api()?;
        let group: String = config.get("group_id")?;
        let found: Found = cx
            .run("reading the clean point", api.get("/v1/clean-point", &[("group", group)]))
            .await?
            .map_err(|error| failed("read the clean point", &error, |_| "group_id".to_owned()))?;
        config.set("point", found.point.as_ref().map_or(Value::Null, point));
        config.set("confidence", &found.confidence);
        config.set("reason", &found.reason);
        config.set("measured_since", found.measured_since.map(|time| time.to_string()));
        config.set("suspicions", Value::List(found.suspicions.iter().map(suspicion).collect()));
        Ok(config)
    }
}

fn suspicion_type() -> Type {
    Type::object([
        ("volume_id", Type::String),
        ("volume", Type::String),
        ("since", Type::String),
        ("until", Type::String),
        ("bytes", Type::Number),
        ("confidence", Type::String),
    ])
}

fn suspicion(found: &SuspicionView) -> Value {
    Value::Object(
        Object::new()
            .with("volume_id", found.volume_id.to_string())
            .with("volume", found.volume.clone())
            .with("since", found.since.to_string())
            .with("until", found.until.to_string())
            .with("bytes", found.bytes)
            .with("confidence", &found.confidence),
    )
}
