//! Dead man's switch, such as healthchecks.io: a ping while healthy, a POST to `/fail` below it otherwise.

use reqwest::Method;

use super::http_sender::{ChannelRequest, HttpSender, address, below};
use super::text_limits::{fit, utf16};
use crate::channel::{Delivery, HeartbeatState};
use refreshd_secrets::ChannelSecret;
use refreshd_time::Timestamp;

/// Maximum length of a reason.
const MAX_REASON: usize = 2000;

pub(super) async fn send(
    wire: &HttpSender,
    url: &ChannelSecret,
    state: &HeartbeatState,
    now: Timestamp,
) -> Delivery {
    let url = match address(url) {
        Ok(url) => url,
        Err(failed) => return failed,
    };
    let (method, url, body) = match state {
        HeartbeatState::Healthy => (Method::GET, url, String::new()),
        HeartbeatState::Failing(reason) => (
            Method::POST,
            below(url, "/fail"),
            fit(reason, MAX_REASON, utf16),
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
        // healthchecks.io answers an unknown check with status 200 and this text.
        Ok(answer) if answer.body.contains("(not found)") => answer.failed(),
        Ok(answer) if answer.is_success() => answer.delivered(),
        // A rejected beat is not final: the next one is sent anew.
        Ok(answer) => answer.failed(),
        Err(failed) => failed,
    }
}
