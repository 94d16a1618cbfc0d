//! Slack's incoming webhooks: blocks for Slack, and the full text for receivers without blocks (Mattermost).

use serde_json::{Value, json};

use super::http_sender::{ChannelResponse, HttpSender, address};
use super::sender::Sender;
use super::text_limits::{escape, escaped, fit};
use crate::channel::Delivery;
use crate::message::Message;
use refreshd_secrets::ChannelSecret;

/// Maximum lengths of a header block and of a section.
const HEADER: usize = 150;
const SECTION: usize = 3000;
/// Responses with status 400 that are about the webhook, not the message: an operator must correct it.
const MISCONFIGURED: [&str; 4] = [
    "user_not_found",
    "channel_not_found",
    "no_team",
    "invalid_token",
];

pub(super) async fn send(
    wire: &HttpSender,
    url: &ChannelSecret,
    message: &Message,
    sender: Sender<'_>,
) -> Delivery {
    let url = match address(url) {
        Ok(url) => url,
        Err(failed) => return failed,
    };
    match wire
        .post_json(url, None, &body(message, sender), sender.now)
        .await
    {
        Ok(answer) => judge(answer),
        Err(failed) => failed,
    }
}

fn judge(answer: ChannelResponse) -> Delivery {
    match answer.status {
        400 if MISCONFIGURED.iter().any(|code| answer.body.contains(code)) => answer.failed(),
        _ => answer.usual(),
    }
}

fn body(message: &Message, sender: Sender<'_>) -> Value {
    let fitted = |text: &str, limit| escape(&fit(text, limit, escaped));
    let title = message.title();
    let lines = message.lines(sender.now).join("\n");
    let from = from(sender);
    let mut blocks = vec![
        json!({ "type": "header", "text": { "type": "plain_text", "text": fitted(&title, HEADER) } }),
    ];
    // A truncated header is repeated in full in the text.
    let whole = fit(&title, HEADER, escaped) == title;
    let section = if whole {
        lines.clone()
    } else {
        format!("{title}\n{lines}")
    };
    if !section.is_empty() {
        let text = fitted(&section, SECTION);
        blocks
            .push(json!({ "type": "section", "text": { "type": "mrkdwn", "text": text, "verbatim": true } }));
    }
    blocks.push(
        json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": from, "verbatim": true }] }),
    );
    let text = if lines.is_empty() {
        title
    } else {
        format!("{title}\n{lines}")
    };
    json!({ "text": format!("{}\n{from}", fitted(&text, SECTION)), "blocks": blocks })
}

fn from(sender: Sender<'_>) -> String {
    let instance = escape(sender.instance);
    match sender.url {
        None => format!("refreshd on {instance}"),
        // The bar would end the address.
        Some(url) => format!(
            "refreshd on {instance}, <{}|status page>",
            escape(url).replace('|', "%7C")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{SENDER, huge, message};
    use super::*;

    #[test]
    fn a_message_has_blocks_and_a_text_for_those_who_know_none() {
        let lines = escape(&message().lines(SENDER.now).join("\n"));
        let title = "[critical] acme: the grant is dead: &lt;invalid_grant&gt; &amp; more";
        let from = "refreshd on host-1, <https://refreshd.example.org/?a=1&amp;b=2|status page>";
        let expected = json!({
            "text": format!("{title}\n{lines}\n{from}"),
            "blocks": [
                { "type": "header", "text": { "type": "plain_text", "text": title } },
                { "type": "section", "text": { "type": "mrkdwn", "text": lines, "verbatim": true } },
                { "type": "context", "elements": [{ "type": "mrkdwn", "text": from, "verbatim": true }] },
            ],
        });
        assert_eq!(body(&message(), SENDER), expected);
        let test = body(
            &Message::test(SENDER.now, "ops"),
            Sender {
                url: None,
                ..SENDER
            },
        );
        assert_eq!(
            test["blocks"].as_array().unwrap().len(),
            2,
            "an empty section would be refused: {test}"
        );
        assert_eq!(
            test["blocks"][1]["elements"][0]["text"],
            "refreshd on host-1"
        );
    }

    #[test]
    fn nothing_is_too_long_and_what_the_header_cuts_is_in_the_section() {
        let body = body(&huge(), SENDER);
        let length = |value: &Value| value.as_str().unwrap().encode_utf16().count();
        assert!(length(&body["blocks"][0]["text"]["text"]) <= 150);
        assert!((2900..=3000).contains(&length(&body["blocks"][1]["text"]["text"])));
        assert!(length(&body["text"]) <= 4000);
        assert!(
            body["blocks"][1]["text"]["text"]
                .as_str()
                .unwrap()
                .starts_with("[critical] 200000 portals")
        );
    }

    #[test]
    fn what_must_be_mended_is_not_the_messages_fault() {
        let judge = |status, body: &str| {
            judge(ChannelResponse {
                status,
                body: body.to_owned(),
                shown: String::new(),
                retry_after: None,
            })
        };
        assert!(matches!(judge(200, "ok"), Delivery::Delivered(_)));
        assert!(matches!(
            judge(400, "invalid_payload"),
            Delivery::Rejected(_)
        ));
        for (status, body) in [
            (400, "user_not_found"),
            (403, "action_prohibited"),
            (404, "no_service"),
            (410, "channel_is_archived"),
            (429, ""),
        ] {
            assert!(
                matches!(judge(status, body), Delivery::Failed { .. }),
                "{status} {body}"
            );
        }
    }
}
