//! The functions: what a policy needs of a line and of a vault, before there is either.

use std::time::Duration;

use lifeboat_api::validate::parse_duration;
use tf_provider_sdk::{
    Function, FunctionDefinition, FunctionError, FunctionParameter, IntoValue as _, Object, Type, Value, argument,
    arguments_from, validate,
};

use crate::feasibility::{self, Infeasible, Tier};

/// What an interval is unless the policy says otherwise.
const INTERVAL_DEFAULT: &str = "5s";

fn churn() -> FunctionParameter {
    FunctionParameter::new(
        "churn",
        Type::Number,
        "Bytes written per second, averaged over a busy hour; `churn_bytes_per_second` of \
         `lifeboat_protection_status` is what is measured.",
    )
    .validate(validate::at_least(0))
}

fn ratio() -> FunctionParameter {
    FunctionParameter::new(
        "ratio",
        Type::Number,
        "Compression ratio: bytes before over bytes after, 1 for what can't be compressed, about 2 for databases.",
    )
    .validate(validate::at_least(1))
}

fn duration(name: &str, description: &str) -> FunctionParameter {
    let form = validate::matches("a duration such as 5s, 15m, 24h or 15d", |text| parse_duration(text).is_ok());
    FunctionParameter::new(name, Type::String, description).validate(form)
}

/// A duration that its parameter's validator has let through.
fn seconds(text: &str, index: usize) -> Result<f64, FunctionError> {
    let time: Duration = parse_duration(text).map_err(|error| FunctionError::argument(index, error.to_string()))?;
    Ok(time.as_secs_f64())
}

/// `names` are the parameters, in order.
fn blamed(error: &Infeasible, names: &[&str]) -> FunctionError {
    match names.iter().position(|name| *name == error.argument) {
        Some(index) => FunctionError::argument(index, &error.message),
        None => FunctionError::new(&error.message),
    }
}

/// `required_bandwidth_mbps(churn, ratio, rpo, interval...)`
#[derive(Debug)]
pub(crate) struct RequiredBandwidth;

impl Function for RequiredBandwidth {
    fn name(&self) -> &str {
        "required_bandwidth_mbps"
    }

    fn definition(&self) -> FunctionDefinition {
        FunctionDefinition::new("The bandwidth that keeps an RPO", Type::Number)
            .description(
                "Megabits per second to the vault that keep the RPO on average, rounded up to a thousandth. An RPO that is not \
                 longer than the interval between recovery points is an error: no bandwidth can keep it.",
            )
            .parameter(churn())
            .parameter(ratio())
            .parameter(duration("rpo", "How old the newest recovery point in the vault may be at most."))
            .variadic(duration("interval", "The policy's `recovery_point_interval`, at most once. Default: `5s`."))
    }

    fn call(&self, arguments: &[Value]) -> Result<Value, FunctionError> {
        let (churn, ratio): (f64, f64) = (argument(arguments, 0)?, argument(arguments, 1)?);
        let rpo = seconds(&argument::<String>(arguments, 2)?, 2)?;
        let interval = match arguments_from::<String>(arguments, 3)?.as_slice() {
            [] => seconds(INTERVAL_DEFAULT, 3)?,
            [interval] => seconds(interval, 3)?,
            _ => return Err(FunctionError::argument(4, "There is one interval at most.")),
        };
        feasibility::required_mbps(churn, ratio, rpo, interval)
            .map(tf_provider_sdk::IntoValue::into_value)
            .map_err(|error| blamed(&error, &["churn", "ratio", "rpo"]))
    }
}

/// `expected_rpo(churn, ratio, mbps, interval)`
#[derive(Debug)]
pub(crate) struct ExpectedRpo;

impl Function for ExpectedRpo {
    fn name(&self) -> &str {
        "expected_rpo"
    }

    fn definition(&self) -> FunctionDefinition {
        FunctionDefinition::new("The RPO that a bandwidth gives", Type::Number)
            .description(
                "Seconds of writes that a disaster loses at worst, on average load: the interval, and the time that its writes \
                 take to the vault. A bandwidth that can't carry what is written is an error.",
            )
            .parameter(churn())
            .parameter(ratio())
            .parameter(
                FunctionParameter::new("mbps", Type::Number, "Megabits per second to the vault.")
                    .validate(validate::custom("must be above 0", |mbps: f64| {
                        if mbps > 0.0 { Ok(()) } else { Err("A bandwidth must be above 0.".to_owned()) }
                    })),
            )
            .parameter(duration("interval", "The policy's `recovery_point_interval`."))
    }

    fn call(&self, arguments: &[Value]) -> Result<Value, FunctionError> {
        let (churn, ratio, mbps) = (argument(arguments, 0)?, argument(arguments, 1)?, argument(arguments, 2)?);
        let interval = seconds(&argument::<String>(arguments, 3)?, 3)?;
        feasibility::expected_rpo(churn, ratio, mbps, interval)
            .map(tf_provider_sdk::IntoValue::into_value)
            .map_err(|error| blamed(&error, &["churn", "ratio", "mbps", "interval"]))
    }
}

/// `vault_gib(size, churn, ratio, retention)`
#[derive(Debug)]
pub(crate) struct VaultGib;

const RETENTION: usize = 3;

impl Function for VaultGib {
    fn name(&self) -> &str {
        "vault_gib"
    }

    fn definition(&self) -> FunctionDefinition {
        let rule = Type::object([("every", Type::String), ("for", Type::String)]);
        FunctionDefinition::new("The space that a policy takes in the vault", Type::Number)
            .description(
                "GiB that the vault holds at most once the oldest rule has filled up: the volumes themselves, and what the kept \
                 recovery points hold of their own. Blocks that are written again and again make it less.",
            )
            .parameter(
                FunctionParameter::new("size", Type::Number, "Size of the volumes, GiB.").validate(validate::at_least(0)),
            )
            .parameter(churn())
            .parameter(ratio())
            .parameter(FunctionParameter::new(
                "retention",
                Type::list(rule),
                "The rules of a policy, in order: `lifeboat_replication_policy.NAME.retention`, or a list of objects with \
                 `every` and `for`.",
            ))
    }

    fn call(&self, arguments: &[Value]) -> Result<Value, FunctionError> {
        let (size, churn, ratio) = (argument(arguments, 0)?, argument(arguments, 1)?, argument(arguments, 2)?);
        let rules: Vec<Object> = argument(arguments, RETENTION)?;
        let tiers: Vec<Tier> = rules.iter().map(tier).collect::<Result<_, _>>()?;
        Ok(feasibility::vault_gib(size, churn, ratio, &tiers).into_value())
    }
}

fn tier(rule: &Object) -> Result<Tier, FunctionError> {
    let text =
        |name: &str| rule.get::<String>(name).map_err(|error| FunctionError::argument(RETENTION, error.to_string()));
    let every = text("every")?;
    let every = if every == "all" { 0.0 } else { seconds(&every, RETENTION)? };
    Ok(Tier { every, keep_for: seconds(&text("for")?, RETENTION)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn they_answer_and_blame_the_right_argument() {
        let (churn, ratio) = (10_000_000_u64.into_value(), 2_u64.into_value());
        let call = |more: &[Value]| RequiredBandwidth.call(&[&[churn.clone(), ratio.clone()], more].concat());
        assert_eq!(call(&[text("5m")]), Ok(40_u64.into_value()));
        assert_eq!(call(&[text("6s"), text("5s")]), Ok(200_u64.into_value()));
        assert_eq!(call(&[text("5s")]).unwrap_err().argument, Some(2));
        assert_eq!(call(&[text("6s"), text("5s"), text("5s")]).unwrap_err().argument, Some(4));
        let rpo = |mbps: u64| ExpectedRpo.call(&[churn.clone(), ratio.clone(), mbps.into_value(), text("5s")]);
        assert_eq!(rpo(40), Ok(10_u64.into_value()));
        assert_eq!(rpo(30).unwrap_err().argument, Some(2));
        let rule = |every: &str, keep: &str| Object::new().with("every", every).with("for", keep).into_value();
        let gib = |rules: Vec<Value>| {
            VaultGib.call(&[100_u64.into_value(), 1_048_576_u64.into_value(), 1_u64.into_value(), rules.into_value()])
        };
        assert_eq!(gib(vec![rule("all", "1h"), rule("5m", "24h")]), Ok(184.375.into_value()));
        assert_eq!(gib(vec![rule("often", "1h")]).unwrap_err().argument, Some(3));
    }
}
