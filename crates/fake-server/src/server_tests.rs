//! The fake server over loopback, with reqwest as the client: every transport fault from the client's view.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{At, FakeServer, Fault, Rules};
use refreshd_time::clock::Clock;

const ACME: &str = "acme.bitrix24.com";
const APP: &str = "local.1.2";

/// A running fake server with one installed portal, and a client.
struct Rig {
    sandbox: FakeServer,
    origin: String,
    client: reqwest::Client,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Rig {
    async fn new() -> Self {
        let sandbox = FakeServer::new(Clock::system(), Rules::default());
        sandbox.add_client(APP, "s3cret");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(sandbox.clone().serve(listener, stop.clone()));
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        let _ = sandbox.install(ACME, APP);
        Self {
            sandbox,
            origin,
            client,
            stop,
            tasks,
        }
    }

    async fn failing(fault: Fault) -> Self {
        let rig = Self::new().await;
        rig.sandbox.fail(At::Portal(ACME.into()), fault, 1);
        rig
    }

    fn request(&self, token: &str) -> reqwest::RequestBuilder {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", APP),
            ("client_secret", "s3cret"),
            ("refresh_token", token),
        ];
        self.client
            .post(format!("{}/oauth/token/", self.origin))
            .form(&form)
    }

    fn token(&self) -> String {
        self.sandbox.current_refresh(ACME).unwrap()
    }

    async fn renew(&self) -> reqwest::Result<reqwest::Response> {
        self.request(&self.token()).send().await
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = self
            .client
            .get(format!("{}{path}", self.origin))
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

fn object(bytes: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(bytes).unwrap()
}

/// Chain of causes, as shown to an operator.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(|error| format!("{error}; "))
        .collect()
}

#[tokio::test]
async fn a_renewal_with_all_that_the_handle_tells_of_it() {
    let mut rig = Rig::new().await;
    let first = rig.token();
    let response = rig.renew().await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body = object(&response.bytes().await.unwrap());
    assert_eq!(body["refresh_token"], rig.token().as_str());
    assert_eq!(body["server_endpoint"], format!("{}/rest/", rig.origin));
    let access = rig
        .sandbox
        .knows_access(body["access_token"].as_str().unwrap())
        .unwrap();
    assert!(access.current && !access.revoked && access.domain == ACME);
    assert_eq!(
        (rig.sandbox.renewals(ACME), rig.sandbox.requests(ACME)),
        (1, 1)
    );
    // The complete reply was read, so the server knows that it was sent.
    assert_eq!(rig.request(&first).send().await.unwrap().status(), 400);
    assert_eq!(
        rig.sandbox.violations().len(),
        1,
        "{:?}",
        rig.sandbox.violations()
    );
    assert_eq!(
        (rig.sandbox.requests(ACME), rig.sandbox.total_requests()),
        (2, 2)
    );
    assert_eq!(rig.get("/healthz").await.0, 200);
    assert_eq!(rig.get("/oauth/token").await.0, 404);
    rig.stop.cancel();
    rig.tasks.join_next().await.unwrap().unwrap();
    assert!(rig.renew().await.unwrap_err().is_connect(), "stopped");
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let rig = Rig::new().await;
    let mut stream = TcpStream::connect(rig.origin.trim_start_matches("http://"))
        .await
        .unwrap();
    let close = "Connection: close\r\n";
    for last in ["", close] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: sandbox\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    let mut replies = String::new();
    stream.read_to_string(&mut replies).await.unwrap();
    assert_eq!(replies.matches("HTTP/1.1 200 OK").count(), 2, "{replies}");
}

#[tokio::test]
async fn a_client_that_left_before_the_reply_did_not_get_it() {
    let rig = Rig::new().await;
    let token = rig.token();
    // Far longer than the client waits, which is long enough for a busy machine to receive the request.
    rig.sandbox.set_rules(Rules {
        delay: Duration::from_secs(30),
        ..Rules::default()
    });
    assert!(
        rig.request(&token)
            .timeout(Duration::from_secs(1))
            .send()
            .await
            .unwrap_err()
            .is_timeout()
    );
    assert_eq!(rig.sandbox.renewals(ACME), 1);
    rig.sandbox.set_rules(Rules::default());
    assert_eq!(rig.request(&token).send().await.unwrap().status(), 400);
    assert_eq!(rig.sandbox.violations(), [""; 0]);
}

#[tokio::test]
async fn lost_replies_are_closed_connections() {
    for (fault, spends) in [(Fault::Lost, true), (Fault::LostBefore, false)] {
        let rig = Rig::failing(fault.clone()).await;
        let token = rig.token();
        let error = rig.renew().await.unwrap_err();
        assert!(
            error.is_request()
                && causes(&error).contains("connection closed before message completed"),
            "{error:?}"
        );
        assert_eq!(rig.token() != token, spends, "{fault:?}");
        assert_eq!(
            rig.request(&token).send().await.unwrap().status(),
            if spends { 400 } else { 200 }
        );
        assert_eq!(rig.sandbox.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn a_reset_is_a_reset_and_not_a_close() {
    let rig = Rig::failing(Fault::Reset).await;
    let token = rig.token();
    let error = rig.renew().await.unwrap_err();
    assert!(
        causes(&error).to_lowercase().contains("connection reset"),
        "{}",
        causes(&error)
    );
    assert_ne!(rig.token(), token);
}

#[tokio::test]
async fn a_truncated_reply_begins_well_and_ends_in_an_error() {
    let rig = Rig::failing(Fault::Truncated { after: 30 }).await;
    let token = rig.token();
    let mut response = rig.renew().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(
        response.content_length().unwrap() > 300,
        "the whole length is announced"
    );
    let part = response.chunk().await.unwrap().unwrap();
    assert_eq!(part.len(), 30);
    assert!(response.chunk().await.is_err());
    assert_eq!(rig.request(&token).send().await.unwrap().status(), 400);
    assert_eq!(rig.sandbox.violations(), [""; 0]);
}

#[tokio::test]
async fn cut_json_is_a_whole_reply() {
    let rig = Rig::failing(Fault::CutJson { after: 30 }).await;
    let response = rig.renew().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.content_length()),
        (200, Some(30))
    );
    let body = response.bytes().await.unwrap();
    assert!(body.len() == 30 && serde_json::from_slice::<Value>(&body).is_err());
}

#[tokio::test]
async fn a_slow_reply_comes_and_a_stalled_one_does_not() {
    let rig = Rig::failing(Fault::Slow {
        by: Duration::from_millis(120),
    })
    .await;
    let began = Clock::system().tick();
    assert_eq!(rig.renew().await.unwrap().status(), 200);
    assert!(Clock::system().elapsed(began) >= Duration::from_millis(120));
    rig.sandbox.fail(At::All, Fault::Stall, 1);
    let token = rig.token();
    let stalled = rig
        .request(&token)
        .timeout(Duration::from_millis(100))
        .send()
        .await
        .unwrap_err();
    assert!(stalled.is_timeout());
    assert_ne!(rig.token(), token, "processed all the same");
    // The client disconnected, so this is not a concurrent request, nor an unpermitted replay.
    assert_eq!(rig.request(&token).send().await.unwrap().status(), 400);
    assert_eq!(rig.sandbox.violations(), [""; 0]);
}

#[tokio::test]
async fn stopping_cuts_a_stalled_connection() {
    let mut rig = Rig::failing(Fault::Stall).await;
    let (client, request) = rig.request(&rig.token()).build_split();
    let mut requests = JoinSet::new();
    requests.spawn(async move { client.execute(request.unwrap()).await });
    while rig.sandbox.renewals(ACME) == 0 {
        tokio::task::yield_now().await;
    }
    rig.stop.cancel();
    rig.tasks.join_next().await.unwrap().unwrap();
    let error = requests.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(!error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn a_dripped_reply_comes_byte_by_byte() {
    let rig = Rig::failing(Fault::Drip {
        every: Duration::from_millis(1),
    })
    .await;
    let mut response = rig.renew().await.unwrap();
    let (mut body, mut pieces) = (Vec::new(), 0);
    while let Some(piece) = response.chunk().await.unwrap() {
        body.extend_from_slice(&piece);
        pieces += 1;
    }
    assert_eq!(object(&body)["refresh_token"], rig.token().as_str());
    assert!(pieces > 20, "{pieces} pieces of {} bytes", body.len());
}

#[tokio::test]
async fn a_huge_reply_is_long_and_its_length_unknown() {
    let rig = Rig::failing(Fault::Huge { bytes: 3_000_000 }).await;
    let response = rig.renew().await.unwrap();
    assert_eq!(response.content_length(), None);
    let body = response.bytes().await.unwrap();
    assert!(body.len() > 3_000_000);
    assert_eq!(
        object(&body)["refresh_token"],
        rig.token().as_str(),
        "valid for a parser that reads all of it"
    );
}

#[tokio::test]
async fn a_followed_redirect_is_noticed() {
    let rig = Rig::new().await;
    rig.sandbox.fail(
        At::All,
        Fault::Redirect {
            to: format!("{}/redirected", rig.origin),
        },
        2,
    );
    let token = rig.token();
    let careful = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let request = rig.request(&token).build().unwrap();
    let response = careful.execute(request).await.unwrap();
    assert_eq!(response.status(), 307);
    assert_eq!((rig.token(), rig.sandbox.violations().len()), (token, 0));
    assert_eq!(
        rig.renew().await.unwrap().status(),
        404,
        "reqwest follows by default"
    );
    assert_eq!(rig.sandbox.violations().len(), 1);
}

#[tokio::test]
async fn a_gateways_page_and_any_other_body_arrive_as_they_are() {
    let rig = Rig::failing(Fault::Gateway { status: 502 }).await;
    let token = rig.token();
    let response = rig.renew().await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["content-type"]
        ),
        (502, &"text/html; charset=utf-8".parse().unwrap())
    );
    assert_ne!(rig.token(), token);
    let (content_type, body) = ("text/plain".to_owned(), "slow down".to_owned());
    rig.sandbox.fail(
        At::Client(APP.into()),
        Fault::Body {
            status: 429,
            content_type,
            body,
            retry_after: Some(7),
        },
        u32::MAX,
    );
    for _ in 0..2 {
        let response = rig.renew().await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["retry-after"]
            ),
            (429, &"7".parse().unwrap())
        );
        assert_eq!(response.text().await.unwrap(), "slow down");
    }
    rig.sandbox.heal(At::Client(APP.into()));
    assert_eq!(rig.renew().await.unwrap().status(), 200);
}

#[tokio::test]
async fn two_requests_at_once_are_noticed_and_two_after_another_are_not() {
    let rig = Rig::new().await;
    rig.sandbox.set_rules(Rules {
        delay: Duration::from_millis(100),
        ..Rules::default()
    });
    let token = rig.token();
    let (one, two) = tokio::join!(rig.request(&token).send(), rig.request(&token).send());
    assert_eq!(
        one.unwrap().status().as_u16() + two.unwrap().status().as_u16(),
        600
    );
    let noticed = rig.sandbox.violations();
    assert!(
        noticed.len() == 1 && noticed[0].contains("in flight at once"),
        "{noticed:?}"
    );
}

#[tokio::test]
async fn a_code_is_had_from_the_page_and_by_redirect() {
    let rig = Rig::new().await;
    let page = rig
        .get("/oauth/authorize/?client_id=local.1.2&domain=acme.bitrix24.com")
        .await;
    assert!(page.0 == 200 && page.1.contains("<code>"), "{page:?}");
    rig.sandbox
        .set_redirect(APP, &format!("{}/healthz", rig.origin));
    assert_eq!(
        rig.get("/oauth/authorize/?client_id=local.1.2&state=x")
            .await,
        (200, "ok\n".to_owned())
    );
}

#[tokio::test]
async fn a_body_without_end_is_not_read() {
    let rig = Rig::new().await;
    let request = rig
        .client
        .post(format!("{}/oauth/token/", rig.origin))
        .body("x".repeat(64 * 1024 + 1));
    assert_eq!(request.send().await.unwrap().status(), 413);
    assert_eq!(rig.sandbox.total_requests(), 0);
}
