use super::*;

fn facts() -> Facts {
    Facts {
        name: "gw-1".into(),
        site: Some("onprem".into()),
        version: "0.1.0".into(),
        slot: "a".into(),
        is_declared: true,
        vaults: vec![("main".into(), "healthy".into())],
        url: Some("https://192.0.2.10/".into()),
        addresses: vec!["eth0 192.0.2.10/24".into()],
        network: "192.0.2.10/24, router 192.0.2.1 (set here)".into(),
        disk: Some((60 << 30, 64 << 30)),
        memory: Some((310 << 20, 3900 << 20)),
        fingerprint: Some(vec!["AB"; 32].join(":")),
        ..Facts::default()
    }
}

/// Answers one after the other; the last reply.
fn walk(dialog: &mut Dialog, current: &Network, lines: &[&str]) -> Reply {
    lines.iter().fold(Reply::default(), |_, line| dialog.answer(line, current))
}

#[test]
fn the_screen_fits_a_small_terminal_whatever_stands_in_it() {
    let text = screen(&facts());
    for part in ["ready", "main healthy", "https://192.0.2.10/", "60 GiB free of 64 GiB", "310 MiB used", "slot a"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains(&vec!["AB"; 16].join(":")), "{text}");
    let long = "x\u{1b}[2J".repeat(100);
    let worst = Facts {
        name: long.clone(),
        not_ready: Some(long.clone()),
        reasons: vec![long.clone(); 10],
        addresses: vec![long.clone(); 10],
        network: long,
        ..facts()
    };
    let text = screen(&worst);
    assert!(text.lines().count() <= 22, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    assert!(!text.contains('\u{1b}'), "a name moves the cursor");
    assert!(screen(&Facts::default()).contains("none yet"));
}

#[test]
fn a_fixed_address_is_asked_for_step_by_step() {
    let (mut dialog, now) = (Dialog::default(), Network::default());
    let asked = walk(&mut dialog, &now, &["1", "2", "192.0.2.10"]);
    assert!(asked.text.contains("length of its network"), "{asked:?}");
    assert!(walk(&mut dialog, &now, &["192.0.2.10/24", "192.0.3.1"]).text.contains("isn't in the network"));
    let asked = walk(&mut dialog, &now, &["192.0.2.1", "192.0.2.53, 192.0.2.54"]);
    assert!(asked.text.contains("192.0.2.10/24, router 192.0.2.1, DNS 192.0.2.53, 192.0.2.54"), "{asked:?}");
    assert_eq!(walk(&mut dialog, &now, &["maybe"]).act, None);
    let Some(Act::SetNetwork(set)) = walk(&mut dialog, &now, &["y"]).act else { panic!("{dialog:?}") };
    assert_eq!((set.address.unwrap().to_string().as_str(), set.dns.len()), ("192.0.2.10/24", 2));
    assert!(!dialog.is_home(), "its outcome stands there");
    assert_eq!(walk(&mut dialog, &now, &[""]).act, Some(Act::Look));
    // What is there is kept by empty lines.
    assert_eq!(walk(&mut dialog, &set, &["1", "2", "", "", "", "y"]).act, Some(Act::SetNetwork(set.clone())));
    let bare = Network { gateway: None, dns: Vec::new(), ..set.clone() };
    assert_eq!(walk(&mut dialog, &set, &["", "1", "2", "", "-", "-", "y"]).act, Some(Act::SetNetwork(bare)));
    // Another address doesn't keep the router of the one before.
    let Some(Act::SetNetwork(moved)) = walk(&mut dialog, &set, &["", "1", "2", "198.51.100.7/24", "", "", "y"]).act
    else {
        panic!("{dialog:?}")
    };
    assert_eq!(moved.gateway, None);
    assert_eq!(walk(&mut dialog, &set, &["", "1", "1", "", "y"]).act, Some(Act::SetNetwork(Network::default())));
    assert_eq!(walk(&mut dialog, &set, &["", "1", "3", "y"]).act, Some(Act::ForgetNetwork));
}

#[test]
fn secrets_are_asked_for_without_an_echo_and_are_shown_nowhere() {
    let (mut dialog, now) = (Dialog::default(), Network::default());
    walk(&mut dialog, &now, &["7"]);
    assert!(dialog.ask().is_secret);
    let reply = dialog.answer("canary", &now);
    assert_eq!(reply.act, Some(Act::Shell(Hidden::new("canary"))));
    assert!(!format!("{reply:?}{dialog:?}").contains("canary"));
    walk(&mut dialog, &now, &["", "2"]);
    assert!(!dialog.ask().is_secret);
    assert!(walk(&mut dialog, &now, &["http://a"]).text.contains("https://"));
    walk(&mut dialog, &now, &["https://a:8443"]);
    assert!(dialog.ask().is_secret);
    let reply = dialog.answer("canary", &now);
    assert!(matches!(&reply.act, Some(Act::Register { endpoint, .. }) if endpoint == "https://a:8443"));
    assert!(!format!("{reply:?}{dialog:?}").contains("canary"));
    walk(&mut dialog, &now, &[""]);
    walk(&mut dialog, &now, &["4"]);
    assert!(dialog.ask().is_secret);
    assert_eq!(dialog.answer("", &now).act, Some(Act::Look));
}

#[test]
fn what_ends_the_machine_is_confirmed() {
    let (mut dialog, now) = (Dialog::default(), Network::default());
    assert_eq!(walk(&mut dialog, &now, &["5", "n"]).act, Some(Act::Look));
    assert!(dialog.is_home());
    assert_eq!(walk(&mut dialog, &now, &["5", "y"]).act, Some(Act::Restart));
    assert_eq!(walk(&mut dialog, &now, &["", "6", "y"]).act, Some(Act::PowerOff));
    assert_eq!(walk(&mut dialog, &now, &["", "3"]).act, Some(Act::Bundle));
    assert!(walk(&mut dialog, &now, &["", "9"]).text.contains("numbers"));
    assert!(walk(&mut dialog, &now, &["1\u{1b}[A"]).text.contains("again"));
    assert!(dialog.is_home());
}
