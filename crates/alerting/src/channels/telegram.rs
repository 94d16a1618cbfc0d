//! Telegram bot. Its token is part of the address, and must not appear in any result.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::http_sender::{ChannelResponse, HttpSender, address, below};
use super::sender::Sender;
use super::text_limits::{escape, escaped, fit};
use crate::channel::Delivery;
use crate::message::Message;
use refreshd_secrets::ChannelSecret;

/// The limit of a message is 4096 characters; the escaped text stays below it with a margin.
const MAX_TITLE: usize = 1000;
const MAX_LINES: usize = 2600;
/// Descriptions with status 400 that are about the channel, not the message: an operator must correct it.
const MISCONFIGURED: [&str; 5] = [
    "chat not found",
    "chat_id is empty",
    "upgraded to a supergroup",
    "not enough rights",
    "PEER_ID_INVALID",
];

/// Response of the API.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TelegramReply {
    ok: bool,
    description: String,
    parameters: ReplyParameters,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReplyParameters {
    retry_after: Option<u64>,
}

pub(super) async fn send(
    wire: &HttpSender,
    url: &ChannelSecret,
    bot_token: &ChannelSecret,
    chat_id: &str,
    message: &Message,
    sender: Sender<'_>,
) -> Delivery {
    let url = match address(url) {
        Ok(url) => below(url, &format!("/bot{}/sendMessage", bot_token.expose())),
        Err(failed) => return failed,
    };
    match wire
        .post_json(
            url,
            Some(bot_token),
            &body(chat_id, message, sender),
            sender.now,
        )
        .await
    {
        Ok(answer) => judge(answer),
        Err(failed) => failed,
    }
}

fn judge(mut answer: ChannelResponse) -> Delivery {
    let reply: TelegramReply = serde_json::from_str(&answer.body).unwrap_or_default();
    answer.retry_after = reply
        .parameters
        .retry_after
        .map(Duration::from_secs)
        .or(answer.retry_after);
    match answer.status {
        // A page of a proxy, not the API's response.
        200..300 if !reply.ok => answer.failed(),
        // The response repeats the message.
        200..300 => Delivery::Delivered(format!("status {}", answer.status)),
        400 if MISCONFIGURED
            .iter()
            .any(|text| reply.description.contains(text)) =>
        {
            answer.failed()
        }
        400 | 413 => answer.rejected(),
        _ => answer.failed(),
    }
}

fn body(chat_id: &str, message: &Message, sender: Sender<'_>) -> Value {
    let fitted = |text: &str, limit| escape(&fit(text, limit, escaped));
    let mut text = format!("<b>{}</b>", fitted(&message.title(), MAX_TITLE));
    let lines = message.lines(sender.now).join("\n");
    if !lines.is_empty() {
        text.push('\n');
        text.push_str(&fitted(&lines, MAX_LINES));
    }
    text.push_str(&format!("\nrefreshd on {}", escape(sender.instance)));
    // A long address is left out: a truncated one would be useless.
    if let Some(url) = sender.url.map(escape).filter(|url| url.len() < 300) {
        text.push_str(&format!(
            ", <a href=\"{}\">status page</a>",
            url.replace('"', "%22")
        ));
    }
    json!({
        "chat_id": chat_id,
        "text": text,
        "parse_mode": "HTML",
        "link_preview_options": { "is_disabled": true },
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::{SENDER, huge, message};
    use super::*;

    #[test]
    fn a_message_is_html_with_three_characters_escaped() {
        let lines = escape(&message().lines(SENDER.now).join("\n"));
        let expected = json!({
            "chat_id": "-1001",
            "text": format!(
                "<b>[critical] acme: the grant is dead: &lt;invalid_grant&gt; &amp; more</b>\n{lines}\nrefreshd on host-1, \
                 <a href=\"https://refreshd.example.org/?a=1&amp;b=2\">status page</a>"
            ),
            "parse_mode": "HTML",
            "link_preview_options": { "is_disabled": true },
        });
        assert_eq!(body("-1001", &message(), SENDER), expected);
    }

    #[test]
    fn nothing_is_too_long_and_no_tag_is_cut() {
        let body = body("1", &huge(), SENDER);
        let text = body["text"].as_str().unwrap();
        assert!((3500..=4096).contains(&text.encode_utf16().count()));
        for tag in ["<b>", "</b>", "<a href", "</a>"] {
            assert_eq!(text.matches(tag).count(), 1, "{tag}");
        }
    }

    #[test]
    fn answers_mean_what_the_api_says() {
        let judge = |status, body: &str| {
            judge(ChannelResponse {
                status,
                body: body.to_owned(),
                shown: body.to_owned(),
                retry_after: None,
            })
        };
        let ok = judge(200, r#"{"ok":true,"result":{"message_id":1}}"#);
        assert_eq!(ok, Delivery::Delivered("status 200".to_owned()));
        assert!(matches!(
            judge(200, "<html>log in</html>"),
            Delivery::Failed { .. }
        ));
        let failed = |code, text: &str| {
            judge(
                code,
                &json!({"ok": false, "error_code": code, "description": text}).to_string(),
            )
        };
        assert!(matches!(
            failed(400, "Bad Request: can't parse entities"),
            Delivery::Rejected(_)
        ));
        for (code, text) in [
            (400, "Bad Request: chat not found"),
            (401, "Unauthorized"),
            (403, "Forbidden: bot was blocked"),
            (404, "Not Found"),
            (500, ""),
        ] {
            assert!(
                matches!(failed(code, text), Delivery::Failed { .. }),
                "{code} {text}"
            );
        }
        let busy = r#"{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":35}}"#;
        let Delivery::Failed { retry_after, .. } = judge(429, busy) else {
            panic!()
        };
        assert_eq!(retry_after, Some(Duration::from_secs(35)));
    }
}
