//! A dead man's switch, as healthchecks.io: a ping while all is well, a post below it while it is not.

use reqwest::Method;

use super::http_sender::{ChannelRequest, HttpSender, address, below};
use super::text_limits::{fit, utf16};
use crate::channel::{Delivery, HeartbeatState};
use refreshd_secrets::ChannelSecret;
use refreshd_time::Timestamp;

/// A reason is a line.
const REASON: usize = 2000;

pub(super) async fn send(
    wire: &HttpSender,
    url: &ChannelSecret,
    pulse: &HeartbeatState,
    now: Timestamp,
) -> Delivery {
    let url = match address(url) {
        Ok(url) => url,
        Err(failed) => return failed,
    };
    let (method, url, body) = match pulse {
        HeartbeatState::Well => (Method::GET, url, String::new()),
        HeartbeatState::Ill(reason) => (
            Method::POST,
            below(url, "/fail"),
            fit(reason, REASON, utf16),
        ),
    };
    let content_type = "text/plain; charset=utf-8";
    let request = ChannelRequest {
        method,
        url,
        authorization: None,
        content_type,
        body: body.into_bytes(),
        secret: None,
    };
    match wire.send(request, now).await {
        // healthchecks.io says so with status 200 where nobody waits for this beat.
        Ok(answer) if answer.body.contains("(not found)") => answer.failed(),
        Ok(answer) if answer.is_success() => answer.delivered(),
        // A beat is of now: the next one says it anew.
        Ok(answer) => answer.failed(),
        Err(failed) => failed,
    }
}
