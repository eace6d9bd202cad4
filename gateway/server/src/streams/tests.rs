//! Strangers at the port for agents.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::door::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, LINES_MAX};
use crate::testing::config;
use crate::{Gateway, ServeConfig};

#[tokio::test(flavor = "multi_thread")]
async fn strangers_take_no_agents_place_and_the_one_that_has_waited_longest_makes_way() {
    let dir = tempfile::tempdir().expect("tempdir");
    let settings =
        ServeConfig { listen_data: Some("127.0.0.1:0".to_owned()), ..config(&dir.path().join("a"), "a", "east") };
    let gateway = Gateway::start(settings).await.expect("starts");
    let address = gateway.data_address().expect("it listens");
    let mut silent = Vec::new();
    for _ in 0..LINES_MAX + HANDSHAKES_MAX {
        silent.push(TcpStream::connect(address).await.expect("it takes them all"));
    }
    // Long before its time is up, the first one has made way.
    let mut first = silent.swap_remove(0);
    let shown_out = timeout(HANDSHAKE_TIMEOUT / 2, first.read(&mut [0; 16])).await.expect("at once");
    assert!(shown_out.map_or(true, |read| read == 0), "nothing was said to it");
    // And whoever speaks is listened to, although so many say nothing.
    let mut last = TcpStream::connect(address).await.expect("it takes one more");
    last.write_all(b"this is no handshake\r\n").await.expect("written");
    let answer = timeout(Duration::from_secs(5), last.read(&mut [0; 16])).await.expect("at once").expect("answered");
    assert!(answer > 0, "an alert");
    drop(silent);
    gateway.stop().await;
}
