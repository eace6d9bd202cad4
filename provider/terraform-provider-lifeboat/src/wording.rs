//! From the API's errors to diagnostics: what happened, to what, what to do, and under which attribute.
//!
//! This is the only place where that translation is made.

use lifeboat_api::validate::Validate;
use lifeboat_api::{ClientError, ClientErrorKind, FieldError, Problem, ProblemCode};
use tf_provider_sdk::{Diagnostic, Diagnostics, Path};

/// How a field of an API body is called in the configuration.
pub(crate) type Rename = fn(&str) -> String;

/// Fields that are called the same on both sides.
pub(crate) fn same(field: &str) -> String {
    field.to_owned()
}

/// Why `doing` (such as `create the site onprem`) failed.
pub(crate) fn failed(doing: &str, error: &ClientError, rename: Rename) -> Diagnostics {
    let summary = format!("Cannot {doing}");
    if let Some(problem) = error.as_problem().filter(|problem| !problem.errors.is_empty()) {
        return refused_fields(&summary, problem, rename);
    }
    let mut detail = sentence(&error.to_string());
    match error.kind() {
        ClientErrorKind::Unauthorized if error.as_problem().is_some() => detail.push_str(
            " Check `token` in the provider block, or LIFEBOAT_TOKEN or LIFEBOAT_TOKEN_FILE: tokens of a vault are valid at all \
             of its gateways, an admin.token at the gateway of its state directory.",
        ),
        ClientErrorKind::Forbidden => detail.push_str(
            " It is the token in the provider block, or in LIFEBOAT_TOKEN or LIFEBOAT_TOKEN_FILE, that lacks the role.",
        ),
        ClientErrorKind::Conflict if is_stale(error) => {
            detail.push_str(" Someone else is changing it: apply again to see what it is now.");
        }
        _ => {}
    }
    Diagnostics::error(summary, detail)
}

/// Whether the object changed since it was read, so that reading it again and trying again makes sense.
pub(crate) fn is_stale(error: &ClientError) -> bool {
    error.as_problem().is_some_and(|problem| problem.code == ProblemCode::PreconditionFailed)
}

/// Whether what was asked for clashes with what is there, in more than its name: what is there may be about to change.
pub(crate) fn clashes(error: &ClientError) -> bool {
    let problem = error.as_problem().filter(|problem| problem.code == ProblemCode::Conflict);
    problem
        .is_some_and(|problem| !problem.errors.is_empty() && problem.errors.iter().all(|error| error.field != "name"))
}

/// One diagnostic for each field that the gateway refused.
fn refused_fields(summary: &str, problem: &Problem, rename: Rename) -> Diagnostics {
    problem.errors.iter().map(|error| field_fault(summary, error, rename)).collect()
}

/// One diagnostic for each field that makes no sense, before the gateway is asked.
pub(crate) fn judged(doing: &str, wanted: &impl Validate, rename: Rename) -> Result<(), Diagnostics> {
    let faults = |errors: Vec<FieldError>| {
        errors.iter().map(|error| field_fault(&format!("Cannot {doing}"), error, rename)).collect()
    };
    wanted.validate().map_err(faults)
}

/// How a message begins that goes on from the name of its field.
const GO_ON: [&str; 10] = ["must", "is", "are", "can't", "needs", "names", "asks", "goes", "belongs", "has"];

/// A field that makes no sense, under its attribute.
pub(crate) fn field_fault(summary: &str, error: &FieldError, rename: Rename) -> Diagnostic {
    let path = rename(&error.field);
    let name = path.rsplit('.').next().unwrap_or(&path);
    // Some messages go on from the field's name, the others are sentences.
    let first_word = error.message.split(' ').next().unwrap_or_default();
    let text = if GO_ON.contains(&first_word) { format!("{name} {}", error.message) } else { sentence(&error.message) };
    Diagnostic::error(summary, full_stop(text)).at(Path::from(path))
}

/// Why something can't be deleted, naming what is in the way. `None` when that isn't the reason.
pub(crate) fn in_the_way(what: &str, error: &ClientError) -> Option<Diagnostics> {
    let problem = error.as_problem().filter(|problem| !problem.blockers.is_empty())?;
    Some(blocked(what, &problem.blockers))
}

fn blocked(what: &str, blockers: &[String]) -> Diagnostics {
    let list: Vec<String> = blockers.iter().map(|blocker| format!("  - {blocker}")).collect();
    Diagnostics::error(
        format!("Cannot destroy the {what}"),
        format!(
            "In the way:\n{}\n\nThese are not managed by this configuration, or could not be destroyed before. Destroy them \
             (with the `lifeboat` command where Terraform doesn't manage them), then run terraform again.",
            list.join("\n")
        ),
    )
}

/// The API's text as a sentence: a capital, a full stop.
pub(crate) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    // Names and addresses stay as they are.
    let first_word_is_plain =
        text.split(' ').next().is_some_and(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'\''));
    match letters.next() {
        Some(first) if first_word_is_plain => full_stop(format!("{}{}", first.to_ascii_uppercase(), letters.as_str())),
        _ => full_stop(text.to_owned()),
    }
}

fn full_stop(mut text: String) -> String {
    if !text.ends_with(['.', '!', '?']) {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_fields_stand_under_their_attributes() {
        let problem = Problem::invalid(vec![
            FieldError { field: "size_bytes".into(), message: "must be a multiple of 4096 bytes, not 5".into() },
            FieldError { field: "retention[1].every".into(), message: "\"5x\" is no duration".into() },
        ]);
        let rename: Rename = |field| field.replace("size_bytes", "size_gib");
        let found = refused_fields("Cannot create the volume db", &problem, rename);
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "error: Cannot create the volume db (size_gib): size_gib must be a multiple of 4096 bytes, not 5.",
                "error: Cannot create the volume db (retention[1].every): \"5x\" is no duration.",
            ]
        );
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let shown = blocked("vault main", &["site onprem (site-1)".to_owned()]).to_string();
        assert!(shown.contains("Cannot destroy the vault main"), "{shown}");
        assert!(shown.contains("- site onprem (site-1)"), "{shown}");
    }

    #[test]
    fn sentences_begin_and_end_as_such() {
        assert_eq!(sentence("there is a vault"), "There is a vault.");
        assert_eq!(sentence("can't reach it"), "Can't reach it.");
        assert_eq!(sentence("https://a:1: refused."), "https://a:1: refused.");
        assert_eq!(sentence("db-1 is gone"), "db-1 is gone.");
    }
}
