//! The page of metrics, as a gateway answers it.

use super::Api;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_every_metric_that_is_promised() {
    let api = Api::start().await;
    api.vault().await;
    let page = api.get("/metrics").await;
    let text = page.body.as_str().unwrap_or_default().to_owned();
    let promised = crate::http::metrics::promised();
    for (name, kind) in &promised {
        let head = format!("# TYPE {name} {kind}");
        assert_eq!(text.lines().filter(|line| *line == head).count(), 1, "{head} in {text}");
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(types, promised.len(), "one that is in no table");
    for line in [
        "lifeboat_gateway_health{gateway=",
        "lifeboat_vault_reachable{vault=",
        "operation=\"create\",outcome=\"ok\"} ",
        "lifeboat_api_requests_total{method=\"post\",route=\"/v1/vaults\",status=\"201\"} 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("route=\"/v1/nonsense"), "{text}");
    api.gateway.stop().await;
}
