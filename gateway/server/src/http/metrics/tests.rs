use super::families::ALL;
use super::text::Kind;

/// `LIFEBOAT_BLESS=1` writes the table anew.
#[test]
fn every_metric_is_in_its_document() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let (begin, end) = ("<!-- from the code: begin -->\n", "<!-- from the code: end -->\n");
    let mut table = String::from("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    for family in ALL {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let row =
            [format!("`{}`", family.name), family.kind.as_str().to_owned(), labels.join(", "), family.help.to_owned()];
        table.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    let found = std::fs::read_to_string(path).unwrap();
    let (head, rest) = found.split_once(begin).expect("a mark where the table begins");
    let (_, tail) = rest.split_once(end).expect("a mark where it ends");
    let wanted = format!("{head}{begin}{table}{end}{tail}");
    if std::env::var_os("LIFEBOAT_BLESS").is_some() {
        std::fs::write(path, &wanted).unwrap();
        return;
    }
    assert!(found == wanted, "docs/metrics.md is out of date: run the tests with LIFEBOAT_BLESS=1");
}

#[test]
fn names_say_the_unit_and_counters_that_they_are() {
    let units = ["_seconds", "_bytes", "_bytes_per_second", "_share", "_total"];
    let bare =
        ["_info", "_health", "_active", "_state", "_epoch", "_key", "_passed", "_reachable", "_failing", "_waiting"];
    let counts = [
        "lifeboat_jobs",
        "lifeboat_process_server_agents",
        "lifeboat_replication_group_points",
        "lifeboat_replication_group_missed",
    ];
    for family in ALL {
        assert!(family.name.starts_with("lifeboat_"), "{}", family.name);
        assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
        let known = units.iter().chain(&bare).any(|end| family.name.ends_with(end)) || counts.contains(&family.name);
        assert!(known, "{} names no unit", family.name);
        assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{}", family.name);
        assert_eq!(ALL.iter().filter(|other| other.name == family.name).count(), 1, "{}", family.name);
    }
}
