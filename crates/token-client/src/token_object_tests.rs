//! Every wrapping yields the same object, and nothing else yields one.

use std::io::Write as _;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;
use serde_json::json;

use super::super::provider::Class;
use super::super::quirks::means_no_error;
use super::super::reply::{TokenReply, Verdict, is_unread, read, read_doubtful};
use super::*;
use crate::samples::profile;
use refreshd_time::Timestamp;

const R: &str = r#"{"access_token":"a2","refresh_token":"r2","expires_in":3600,"scope":"crm"}"#;

fn verdict(body: &[u8]) -> Verdict {
    read(
        &TokenReply {
            whole: true,
            status: 200,
            retry_after: None,
            now: Timestamp::default(),
            body,
        },
        &profile(),
        &[],
    )
}

/// Tokens of a pair; `None` for anything else.
fn pair(body: &[u8]) -> Option<(String, Option<String>)> {
    match verdict(body) {
        Verdict::Granted(granted) => {
            let refresh = granted.refresh.map(|refresh| refresh.expose().to_owned());
            Some((granted.access.expose().to_owned(), refresh))
        }
        Verdict::Refused(_) => None,
    }
}

/// As [`pair`], for a truncated body.
fn pair_of_cut(body: &[u8]) -> Option<(String, Option<String>)> {
    let reply = TokenReply {
        whole: false,
        status: 200,
        retry_after: None,
        now: Timestamp::default(),
        body,
    };
    match read(&reply, &profile(), &[]) {
        Verdict::Granted(granted) => {
            let refresh = granted.refresh.map(|refresh| refresh.expose().to_owned());
            Some((granted.access.expose().to_owned(), refresh))
        }
        Verdict::Refused(_) => None,
    }
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(300).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn utf16(text: &str, mark: bool, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let mark = mark.then_some(0xfeff);
    mark.into_iter()
        .chain(text.encode_utf16())
        .flat_map(unit)
        .collect()
}

/// ASCII text, optionally with a byte order mark.
fn utf32(text: &str, unit: fn(u32) -> [u8; 4]) -> Vec<u8> {
    text.chars().flat_map(|c| unit(u32::from(c))).collect()
}

/// A text that denies a pair leaves it in doubt; an error code, a name and a sentence invalidate it.
#[test]
fn a_doubtful_pair_is_found_and_a_refusal_holds_none() {
    let doubtful = |text: &str| {
        let reply = TokenReply {
            whole: true,
            status: 200,
            retry_after: None,
            now: Timestamp::default(),
            body: text.as_bytes(),
        };
        let granted = read_doubtful(&reply, &profile(), &[])?;
        Some((
            granted.access.expose().to_owned(),
            granted.refresh?.expose().to_owned(),
        ))
    };
    let beside = |members: &str| R.replacen('{', &format!("{{{members},"), 1);
    for text in [
        beside(r#""error":"a_word_that_nobody_knows""#),
        beside(r#""meta":{"status":"failed"}"#),
        beside(r#""message":"The refresh token is invalid""#),
        format!(r#"{{"success":false,"data":{R}}}"#),
        format!(r#"{{"code":1001,"msg":"refresh failed","data":{R}}}"#),
        format!("Refresh failed.\n{R}"),
        format!("Access denied\n{R}"),
        format!("{R}\nUnauthorized"),
        format!("<p>Not logged in.</p>{R}"),
        format!("{R} revoked"),
        format!(r#"{{"state":"denied","token":{R}}}"#),
        format!(r#"{{"result":"KO","token":{R}}}"#),
        format!(r#"{{"result_code":"1001","result_msg":"expired token","data":{R}}}"#),
        format!("HTTP/1.1 400 Bad Request\r\n\r\n{R}"),
        format!("/* refresh token invalid */ {R}"),
        format!("event: error\ndata: {R}\n\n"),
    ] {
        assert_eq!(pair(text.as_bytes()), None, "{text}");
        assert_eq!(
            doubtful(&text),
            Some(("a2".to_owned(), "r2".to_owned())),
            "{text}"
        );
    }
    for text in [
        beside(r#""error":"invalid_grant""#),
        beside(r#""meta":{"error":"invalid_grant"}"#),
        format!(r#"{{"status":"invalid_grant","data":{R}}}"#),
        format!("invalid_grant\n{R}"),
        format!("{R}{}", R.replace("a2", "a3").replace("r2", "r3")),
        format!("<p>Your new tokens are x1 and {R}</p>"),
        format!("old = {R};"),
        format!(r#"{{"method":"POST","url":"/token","form":{R}}}"#),
        format!("<request>{R}</request>"),
        format!("POST /token HTTP/1.1\r\n\r\n{R}"),
        format!(r#"{{"original_request":{R}}}"#),
        R[..R.len() - 1].to_owned(),
        r#"{"error":"x","access_token":"a2"}"#.to_owned(),
        r#"{"error":"x","access_token":"a2","refresh_token":"invalid refresh token"}"#.to_owned(),
        "the access_token is a2, the refresh_token is r2".to_owned(),
    ] {
        assert_eq!(doubtful(&text), None, "{text}");
    }
}

/// As configuration files and templates have them. An address is no comment.
#[test]
fn comments_and_commas_too_many_take_nothing_away() {
    let wanted = pair(R.as_bytes());
    for text in [
        "// by the gateway\n{\"access_token\":\"a2\",\"refresh_token\":\"r2\",\"expires_in\":3600}",
        "/* v2 */ // 3\n{\"access_token\":\"a2\",\"refresh_token\":\"r2\",\"expires_in\":3600} /* end */",
        "{ // of the user\n\"access_token\": \"a2\", // for an hour\n\"refresh_token\": \"r2\", \"expires_in\": 3600\n}",
        "{/* a */\"access_token\"/* b */:/* c */\"a2\"/* d */,/* e */\"refresh_token\":\"r2\"/* \"{ */}// end",
        "{\"access_token\":\"a2\",\n// \"refresh_token\":\"r1\",\r\n\"refresh_token\":\"r2\",}",
        "{\"url\":\"https://a.example/*x\",\"access_token\":\"a2\",\"refresh_token\":\"r2\",\"is\":\"//*\"}",
        "[{\"access_token\":\"a2\",\"refresh_token\":\"r2\"}, /* the only one */]",
        "/* {\"x\":\"*/{\",\"access_token\":\"a2\",\"refresh_token\":\"r2\"} */",
        "{\"data\":{\"access_token\":\"a2\",\"refresh_token\":\"r2\",},},",
        "cb({\"access_token\":\"a2\",\"refresh_token\":\"r2\", /* x */});",
        "<br /><b>Notice</b>: x {\"access_token\":\"a2\", // x\n\"refresh_token\":\"r2\"}",
    ] {
        assert_eq!(pair(text.as_bytes()), wanted, "{text}");
    }
    for text in [
        "{\"access_token\":\"a2\",\"refresh_token\":\"r2\"} / 2",
        "{\"access_token\":\"a2\", /* \"refresh_token\":\"r2\"}",
        "{\"access_token\":\"a2\",\"refresh_token\":\"r2\" // }",
        "{\"access_token\":\"a2\",\"refresh_token\":\"r2\" / \"x\":1}",
        "// {\"access_token\":\"a2\",\"refresh_token\":\"r2\"}",
        "{/* the refresh token is invalid */\"access_token\":\"a2\",\"refresh_token\":\"r2\"}",
        "{\"access_token\":\"a2\",\"refresh_token\":\"r2\"} // refresh failed: invalid token",
    ] {
        assert_eq!(pair(text.as_bytes()), None, "{text}");
    }
}

/// A reply in each wrapping.
fn wrapped(reply: &str) -> Vec<Vec<u8>> {
    let text = |text: String| text.into_bytes();
    let string = |inside: &str| Value::from(inside).to_string();
    let bom = format!("\u{feff}{reply}");
    vec![
        text(reply.to_owned()),
        text(bom.clone()),
        text(format!(" \r\n\t{reply}\r\n\r\n")),
        text(format!("{reply}\0")),
        text(format!("\0\0{reply}\0\0\n")),
        text(format!("{reply};")),
        gzip(reply.as_bytes()),
        gzip(&gzip(bom.as_bytes())),
        [gzip(reply.as_bytes()), b"\0\0trailing".to_vec()].concat(),
        zlib(reply.as_bytes()),
        deflate(reply.as_bytes()),
        deflate(bom.as_bytes()),
        utf16(reply, true, u16::to_le_bytes),
        utf16(reply, true, u16::to_be_bytes),
        utf16(reply, false, u16::to_le_bytes),
        utf16(reply, false, u16::to_be_bytes),
        gzip(&utf16(reply, true, u16::to_le_bytes)),
        [utf16(reply, true, u16::to_le_bytes), vec![0]].concat(),
        text(format!(")]}}',\n{reply}")),
        text(format!(")]}}'\n{reply}")),
        text(format!("while(1);{reply}")),
        text(format!("while (true);\n{reply}")),
        text(format!("for (;;);{reply}")),
        text(format!("for(;;) ; {reply}")),
        text(format!("{{}}&&{reply}")),
        text(format!("{{}} && {reply}")),
        text(format!("throw 1; <dont be evil>\n{reply}")),
        text(format!("/*-secure-\n{reply}\n*/")),
        text(format!("/* {reply} */")),
        text(format!("cb({reply});")),
        text(format!("cb({reply})")),
        text(format!("/**/ typeof cb === 'function' && cb({reply});")),
        text(format!("window.callbacks[7] ( {reply} ) ;\n")),
        text(format!("[{reply}]")),
        text(format!("[[ {reply} ]]\n")),
        text(string(reply)),
        text(string(&string(reply))),
        text(string(&format!("[{reply}]"))),
        text(format!(r#"{{"data":{reply}}}"#)),
        text(format!(
            r#"{{"code":0,"msg":"ok","error":null,"result":{reply}}}"#
        )),
        text(format!(
            r#"{{"success":true,"data":{{"token":[{reply}]}}}}"#
        )),
        text(format!(
            r#"{{"statusCode":200,"headers":{{}},"body":{}}}"#,
            string(reply)
        )),
        text(format!(r#"[{{"ok":true}},{reply}]"#)),
        text(format!(
            "<br />\n<b>Notice</b>:  Undefined index: x in <b>/srv/a.php</b> on line <b>3</b><br />\n{reply}"
        )),
        text(format!("<br /><b>Notice</b>: x {reply}")),
        text(format!(
            "PHP Warning:  Module 'x' is already loaded in Unknown on line 0\n{reply}"
        )),
        text(format!(
            "Deprecated: f() is old (see [1], refresh_token) in /srv/a.php on line 3\n\n{reply}\n"
        )),
        text(format!("Connected.\n{reply}\nDone in 0.02 s")),
        text(format!("{reply}<!-- 0.02 s -->")),
        text(format!("<!-- {{\"access_token\":\"cached\"}} -->\n{reply}")),
        text(format!(
            "{reply}\n<br />\n<b>Warning</b>:  Unknown: write failed in <b>Unknown</b> on line <b>0</b><br />"
        )),
        text(format!(
            "{reply}<script>var s = {{\"access_token\":\"no\"}};</script>"
        )),
        text(format!(
            "<html><head><title>200 OK</title></head><body><pre>{reply}</pre></body></html>"
        )),
        text(format!(
            "<?xml version=\"1.0\"?>\n<string xmlns=\"http://tempuri.org/\">{reply}</string>"
        )),
        text(format!("<div class=\"bar\">Speed: 3</div>{reply}")),
        text(format!("1a3\r\n{reply}\r\n0\r\n\r\n")),
        text(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{reply}"
        )),
        text(format!(
            "{{\"level\":\"info\",\"msg\":\"sent\"}}\n{reply}\n"
        )),
        text(format!("{reply}\n{reply}")),
        text(format!("{reply}{reply}")),
        text(format!("data: {reply}\n\n")),
        text(format!(": hello\nevent: token\nid: 7\ndata: {reply}\n\n")),
        text(format!("OK {reply}")),
        text(format!("var token = {reply};\n")),
        text(format!("window.token={reply}")),
        text(format!("throw 1; < don't be evil' >{reply}")),
        text(format!("\u{2028}\u{c}{reply}")),
        text(format!(
            "PHP Deprecated:  x in /a.php on line 3\n\u{feff}{reply}"
        )),
        text(format!(
            "\u{feff}PHP Notice:  x in /a.php on line 3 \u{feff}{reply}"
        )),
        text(format!(
            "\nWarning: a(): b in /srv/a.php on line 3\n\nNotice: c in /srv/a.php on line 4\n{reply}"
        )),
        text(format!(
            "/usr/lib/x.py:3: DeprecationWarning: use y\n  warnings.warn(\n{reply}"
        )),
        text(format!("<?xml version=\"1.0\"?><r><![CDATA[{reply}]]></r>")),
        utf32(reply, u32::to_le_bytes),
        utf32(&bom, u32::to_be_bytes),
        text(format!(
            r#"{{"errorCode":0,"errorMessage":"Success.","data":{reply}}}"#
        )),
    ]
}

#[test]
fn names_in_another_spelling_and_quotes_of_html_are_read() {
    for body in [
        r#"{"accessToken":"a2","refreshToken":"r2","expiresIn":3600}"#.to_owned(),
        r#"{"Access_Token":"a2","Refresh_Token":"r2","Expires_In":3600}"#.to_owned(),
        r#"{"data":{"accessToken":"a2","refreshToken":"r2","expiresIn":3600}}"#.to_owned(),
        R.replace('"', "&quot;"),
        R.replace('"', "&#34;"),
    ] {
        assert_eq!(
            pair(body.as_bytes()),
            Some(("a2".to_owned(), Some("r2".to_owned()))),
            "{body}"
        );
        let Verdict::Granted(granted) = verdict(body.as_bytes()) else {
            panic!()
        };
        assert_eq!(granted.lives.span().as_secs(), 3600, "{body}");
    }
    for body in [
        r#"{"accessToken":"a2","AccessToken":"a3"}"#,
        r#"{"accessToken":"a2","Error":"invalid_grant"}"#,
        r#"{"accessToken":{"value":"a2"},"refreshToken":"r2"}"#,
        r#"{"access_tok}}en":"a2","refresh_token":"r2"}"#,
        r#"{"message":"send {&quot;access_token&quot;:&quot;a2&quot;}"}"#,
    ] {
        assert_eq!(pair(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn what_other_languages_and_forms_make_of_a_reply_is_read() {
    let both = Some(("a2".to_owned(), Some("r2".to_owned())));
    let html = R.replace('"', "&quot;");
    for body in [
        "{'access_token': 'a2', 'refresh_token': 'r2', 'ok': True, 'error': None}".to_owned(),
        R.replace('"', "'"),
        R.replace('}', ",}"),
        format!(
            "<html><head></head><body><pre style=\"word-wrap: break-word;\">{html}</pre></body></html>"
        ),
        format!("<?xml version=\"1.0\"?><string xmlns=\"http://tempuri.org/\">{html}</string>"),
        r#"{"access_token":["a2"],"refresh_token":["r2"]}"#.to_owned(),
        "token[access_token]=a2&token[refresh_token]=r2&token[expires_in]=3600".to_owned(),
        "token%5Baccess_token%5D=a2&token%5Brefresh_token%5D=r2".to_owned(),
        "access_token%3Da2%26refresh_token%3Dr2%26expires_in%3D3600".to_owned(),
        "?access_token=a2&refresh_token=r2".to_owned(),
        "#access_token=a2&refresh_token=r2".to_owned(),
        "access_token=a2\r\nrefresh_token=r2\r\n".to_owned(),
    ] {
        assert_eq!(pair(body.as_bytes()), both, "{body}");
    }
    for refusal in [
        "{'error': 'invalid_grant', 'access_token': 'a2'}",
        "error%3Dinvalid_grant%26access_token%3Da2",
        "token[error]=invalid_grant&token[access_token]=a2",
        "error=invalid_grant\naccess_token=a2",
        "OK {\"error\":\"invalid_grant\"}",
    ] {
        assert_eq!(pair(refusal.as_bytes()), None, "{refusal}");
    }
}

#[test]
fn every_wrapping_of_a_reply_is_the_reply() {
    for body in wrapped(R) {
        assert_eq!(
            pair(&body),
            Some(("a2".to_owned(), Some("r2".to_owned()))),
            "{}",
            shown(&body)
        );
        let Verdict::Granted(granted) = verdict(&body) else {
            panic!()
        };
        assert_eq!(
            (granted.lives.span().as_secs(), &*granted.details.scope[0]),
            (3600, "crm"),
            "{}",
            shown(&body)
        );
    }
}

#[test]
fn every_wrapping_of_a_refusal_is_a_refusal() {
    let refusal = r#"{"error":"invalid_grant","access_token":"a2","refresh_token":"r2"}"#;
    for body in wrapped(refusal) {
        assert_eq!(pair(&body), None, "{}", shown(&body));
    }
    // An error with a readable code is trusted.
    for body in wrapped(r#"{"error":"invalid_grant"}"#).into_iter().take(37) {
        let Verdict::Refused(refusal) = verdict(&body) else {
            panic!("{}", shown(&body))
        };
        assert_eq!(
            refusal.problem.code.as_deref(),
            Some("invalid_grant"),
            "{}",
            shown(&body)
        );
    }
}

#[test]
fn damage_beside_the_tokens_does_not_matter() {
    let deep = format!(
        r#"{{"x":{}{},"access_token":"a2","refresh_token":"r2"}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let long = "x".repeat(300_000);
    let large = format!(
        r#"{{"x":"{}","access_token":"a2","refresh_token":"r2"}}"#,
        "y".repeat(MAX_BODY_BYTES - 100)
    );
    for (body, access, refresh) in [
        (&b"access_token=a2&refresh_token=r2&expires_in=20"[..], "a2", Some("r2")),
        (b"access_token=a%2B2&token_type=bearer&scope=&error=\n", "a+2", None),
        (b"\xef\xbb\xbfaccess_token=a2&refresh_token=r2", "a2", Some("r2")),
        (b"{\"access_token\":\"a2\",\"name\":\"M\xfcller\x01\n\",\"refresh_token\":\"r2\"}", "a2", Some("r2")),
        (br#"{"access_token":"a2","refresh_token":4711,"x":1e999,"expires_in":20}"#, "a2", Some("4711")),
        (br#"{"access_token":12345678901234567890123,"refresh_token":0.10}"#, "12345678901234567890123", Some("0.10")),
        (br#"{"access_token":"a2","refresh_token":null,"access_token":"a2","refresh_token":"r2","refresh_token":null}"#, "a2", Some("r2")),
        (br#"{"refresh_token":"r2","data":{"access_token":"a2"}}"#, "a2", Some("r2")),
        (deep.as_bytes(), "a2", Some("r2")),
        (large.as_bytes(), "a2", Some("r2")),
        (format!(r#"{{"access_token":"{long}"}}"#).as_bytes(), &long, None),
    ] {
        assert_eq!(pair(body), Some((access.to_owned(), refresh.map(str::to_owned))), "{}", shown(body));
    }
    for nothing in [
        "0",
        "\"0\"",
        "false",
        "null",
        "\"\"",
        "\"ok\"",
        "\"Success\"",
        "\"none\"",
        "[]",
        "{}",
        r#"{"code":0,"message":""}"#,
    ] {
        let body = format!(r#"{{"error":{nothing},"access_token":"a2","refresh_token":"r2"}}"#);
        assert!(pair(body.as_bytes()).is_some(), "{body}");
    }
}

#[test]
fn what_is_no_reply_gives_no_pair() {
    let string = |text: &str| Value::from(text).to_string();
    for body in [
        // Prose.
        format!("For example {R} is a reply."),
        format!("A reply looks like\n{R}"),
        format!("Example response:\n\n{R}\n"),
        format!("The token is {R}"),
        "The access_token=a2&refresh_token=r2 of today".to_owned(),
        r#"{"message":"send {\"access_token\":\"a2\",\"refresh_token\":\"r2\"} now"}"#.to_owned(),
        // Pages.
        format!("<html><body><p>The server answers:</p><pre>{R}</pre></body></html>"),
        format!("<html><body><p>Wait</p>{R}</body></html>"),
        format!("<p>For example</p>{R}"),
        format!("<a href='/x' data-reply='{R}'>x</a>"),
        format!("<script type=\"application/json\">{R}</script>"),
        format!("<!-- {R} -->"),
        format!("<textarea>{R}</textarea>"),
        format!("<title>{R}</title>"),
        format!("<script type=\"text/x\" src=\"/\"/>\n{R}\n</script>"),
        format!("<svg:script>{R}</svg:script>"),
        format!("```json\n{R}\n```"),
        format!("~~~\n{R}\n~~~\n"),
        format!("Warning: the answer should be\n{R}"),
        format!("Notice: send this instead of a form:\n\n{R}\n"),
        // Scripts.
        format!("var reply = {R}; send(reply);"),
        format!("var a = 1; var reply = {R};"),
        format!("The token = {R}"),
        format!("const f = () => {{ return\n{R}\n}}"),
        format!("login({R}, 7);"),
        format!("send it to f({R})"),
        // Incomplete.
        R[..R.len() - 1].to_owned(),
        format!("{{\"before\":{R}"),
        format!("[\n{R},\n"),
        format!("{{\"error\":\"invalid_grant\",\n\"x\":[\n{R}\n"),
        format!("{{ error: 'invalid_grant', data:\n {R}\n}}"),
        // Two replies.
        format!("{R}{}", R.replace("a2", "a3")),
        format!("[{R},{}]", R.replace("r2", "r3")),
        format!(r#"{{"first":{},"second":{R}}}"#, R.replace("a2", "a1")),
        // A refusal around it.
        format!(r#"{{"error":"invalid_grant","data":{R}}}"#),
        format!(
            r#"{{"data":{},"x":1}}"#,
            R.replace("\"scope\"", "\"error\"")
        ),
        format!(r#"{{"success":false,"data":{R}}}"#),
        format!(r#"{{"ok":"false","data":{R}}}"#),
        format!(r#"{{"status":"error","data":{R}}}"#),
        format!(r#"{{"code":401,"data":{R}}}"#),
        format!(r#"{{"errors":["denied"],"data":{R}}}"#),
        format!(r#"{{"error_code":"E7","data":{R}}}"#),
        format!(r#"[{{"error":"invalid_grant"}},{R}]"#),
        format!("{{\"error\":\"invalid_grant\"}}\n{R}"),
        format!("{R}\n{{\"error\":\"invalid_grant\"}}"),
        format!(r#"{{"status":"failed","body":{}}}"#, string(R)),
        r#"{"error":{"code":"denied"},"access_token":"a2"}"#.to_owned(),
        r#"{"error":"0","error":"invalid_grant","error":null,"access_token":"a2"}"#.to_owned(),
        "error=invalid_grant&access_token=a2".to_owned(),
        // Values that are not tokens.
        r#"{"access_token":{"value":"a2"},"refresh_token":"r2"}"#.to_owned(),
        r#"{"access_token":true,"refresh_token":"r2"}"#.to_owned(),
        r#"{"access_token":"a2","refresh_token":["r2","r3"]}"#.to_owned(),
        r#"{"access_token":"a2","refresh_token":[["r2"]]}"#.to_owned(),
        // Escaped outside of the page's text.
        format!("<p data-x=\"{}\">x</p>", R.replace('"', "&quot;")),
        format!("<script>{}</script>", R.replace('"', "&quot;")),
        format!("<p>For example</p><pre>{}</pre>", R.replace('"', "&quot;")),
        format!("<html><body><![CDATA[{R}]]></body></html>"),
        format!("data: {R}\n\ndata: {}\n", R.replace("a2", "a3")),
        "The token\naccess_token=a2\nrefresh_token=r2".to_owned(),
        r#"{"access_token":"a2","refresh_token":"r\u0000"}"#.to_owned(),
        r#"{"access_token":"a2","refresh_token":"r\ud800"}"#.to_owned(),
        r#"{"access_token":"  "}"#.to_owned(),
    ] {
        assert_eq!(pair(body.as_bytes()), None, "{body}");
    }
    assert_eq!(
        pair(b"{\"access_token\":\"a2\",\"refresh_token\":\"r\xff2\"}"),
        None
    );
}

#[test]
fn what_arrived_of_a_packed_reply_counts() {
    let packed = gzip(R.as_bytes());
    // Without its checksum.
    assert!(pair(&packed[..packed.len() - 8]).is_some());
    assert_eq!(pair(&packed[..packed.len() / 2]), None);
}

#[test]
fn a_form_that_may_be_cut_is_no_pair_and_a_whole_object_is_one() {
    const FORM: &str = "expires_in=60&access_token=a2&refresh_token=r2";
    let both = Some(("a2".to_owned(), Some("r2".to_owned())));
    let flushed = |text: &str, rest: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(text.as_bytes()).unwrap();
        packed.flush().unwrap();
        [packed.get_ref().as_slice(), rest].concat()
    };
    let wide = utf16(FORM, true, u16::to_le_bytes);
    let padded = format!("pad={}&{FORM}", "x".repeat(MAX_BODY_BYTES - FORM.len() - 3));
    // The transport does not show the truncation, the compression does; and one byte beyond the size limit.
    for cut in [
        flushed(FORM, b""),
        flushed(FORM, b"\xff\xff\xff\xff\xff"),
        gzip(FORM.as_bytes())[..gzip(FORM.as_bytes()).len() - 8].to_vec(),
        zlib(FORM.as_bytes())[..zlib(FORM.as_bytes()).len() - 7].to_vec(),
        deflate(FORM.as_bytes())[..deflate(FORM.as_bytes()).len() - 3].to_vec(),
        gzip(padded.as_bytes()),
        padded.into_bytes(),
    ] {
        assert_eq!(pair(&cut), None, "{}", shown(&cut));
    }
    for cut in [
        FORM.as_bytes(),
        b"access_token=a2&refresh_token=r2&sco",
        &wide,
        &wide[..wide.len() - 4],
        FORM.replace('&', ";").as_bytes(),
        format!("\"{FORM}").as_bytes(),
        format!("{{\"body\":\"{FORM}").as_bytes(),
    ] {
        assert_eq!(pair_of_cut(cut), None, "{}", shown(cut));
    }
    // Self-delimiting content does not need the end of its wrapping.
    let string = Value::from(R).to_string();
    for whole in [
        format!("cb({R}"),
        format!("[{R}"),
        format!("[[ {R} ]"),
        format!("({R})"),
        format!("/**/ cb([{R}]"),
        string[..string.len() - 1].to_owned(),
        format!("\"{FORM}\""),
        format!("{R}<!-- 0."),
    ] {
        assert_eq!(pair_of_cut(whole.as_bytes()), both, "{whole}");
        assert_eq!(pair(whole.as_bytes()), both, "{whole}");
    }
    for packed in [
        gzip(R.as_bytes()),
        zlib(R.as_bytes()),
        deflate(R.as_bytes()),
    ] {
        assert_eq!(pair_of_cut(&packed), both);
    }
    for packed in [
        gzip(FORM.as_bytes()),
        [gzip(FORM.as_bytes()), b"\0\0trailing".to_vec()].concat(),
        [gzip(&FORM.as_bytes()[..9]), gzip(&FORM.as_bytes()[9..])].concat(),
        zlib(FORM.as_bytes()),
        deflate(FORM.as_bytes()),
    ] {
        assert_eq!(pair(&packed), both);
    }
    for doubtful in [
        format!("[{R},"),
        format!("cb({R}, 7"),
        format!("{{\"before\":{R}"),
        format!("cb({}", &R[..R.len() - 1]),
    ] {
        assert_eq!(pair_of_cut(doubtful.as_bytes()), None, "{doubtful}");
    }
}

#[test]
fn profile_defines_success() {
    let mut profile = profile();
    profile.reply.success = vec![(
        JsonPath::new("code"),
        vec!["0".to_owned(), "200".to_owned()],
    )];
    let verdict = |body: &str| {
        read(
            &TokenReply {
                whole: true,
                status: 200,
                retry_after: None,
                now: Timestamp::default(),
                body: body.as_bytes(),
            },
            &profile,
            &[],
        )
    };
    for body in [
        r#"{"code":200,"error":"all is well","access_token":"a2"}"#,
        r#"{"code":"0","access_token":"a2"}"#,
        r#"{"access_token":"a2"}"#,
        r#"{"code":0,"data":{"access_token":"a2"}}"#,
    ] {
        assert!(matches!(verdict(body), Verdict::Granted(_)), "{body}");
    }
    let Verdict::Refused(refusal) =
        verdict(r#"{"code":40001,"access_token":"a2","error_description":"no"}"#)
    else {
        panic!()
    };
    assert_eq!(
        (refusal.problem.code.as_deref(), &*refusal.problem.detail),
        (Some("40001"), "no")
    );
    assert!(matches!(
        verdict(r#"{"error":"invalid_grant","access_token":"a2"}"#),
        Verdict::Refused(_)
    ));
}

/// Bodies that are expensive for a careless parser. The time limit is the test harness's.
#[test]
fn no_body_costs_much() {
    let many = |text: &str| text.repeat(MAX_BODY_BYTES / text.len());
    for body in [
        many("["),
        many("{\"a\":"),
        many("{}"),
        many("{\"access_token\":\"a\"} "),
        many("{\"a\":0}\n"),
        many("<a>") + &many("</b>"),
        many("<!--"),
        many("<script>"),
        many("x{\""),
        many("\n{\"a"),
        format!("[{}0]", many("{\"a\":0},")),
        format!("{{{}\"z\":0}}", many("\"a\":{\"b\":0},")),
        many("a=b&"),
        many("\\"),
        Value::from(many("{\"\\\"")).to_string(),
    ] {
        assert_eq!(pair(body.as_bytes()), None, "{}", shown(body.as_bytes()));
    }
    // A hundred megabytes, compressed.
    assert_eq!(pair(&gzip(&vec![b'['; 100 << 20])), None);
}

static PROFILE: LazyLock<Profile> = LazyLock::new(profile);

fn a_token() -> impl Strategy<Value = String> {
    "[!-~]{1,40}".prop_filter("a word without a meaning may be left out", |text| {
        token(&Value::from(text.as_str()), &PROFILE).is_some()
            && !means_no_error(&Value::from(text.as_str()))
    })
}

/// Names of members without a meaning to a profile or a wrapping.
fn fields() -> impl Strategy<Value = Vec<(String, Value)>> {
    let value = prop_oneof![
        any::<String>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!([1, {"a": [null]}])),
        Just(json!({"b": {"c": "d"}}))
    ];
    prop::collection::vec(("x[a-z]{1,8}", value), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_reply_in_any_wrapping_is_the_same_pair(access in a_token(), refresh in a_token(), more in fields()) {
        let mut reply = json!({"access_token": access, "refresh_token": refresh, "expires_in": 60});
        reply.as_object_mut().unwrap().extend(more);
        for body in wrapped(&reply.to_string()) {
            prop_assert_eq!(pair(&body), Some((access.clone(), Some(refresh.clone()))), "{}", shown(&body));
        }
    }

    #[test]
    fn no_refusal_in_any_wrapping_is_a_pair(access in a_token(), error in "[a-z]{4,12}_[a-z]{2,12}", more in fields()) {
        prop_assume!(!means_no_error(&Value::from(error.as_str())));
        let mut reply = json!({"access_token": access, "error": error});
        reply.as_object_mut().unwrap().extend(more);
        for body in wrapped(&reply.to_string()) {
            prop_assert_eq!(pair(&body), None, "{}", shown(&body));
        }
    }

    /// A truncated body is not a pair, unless only white space or text after the reply is missing.
    #[test]
    fn no_cut_reply_is_another_pair(access in a_token(), refresh in a_token(), share in 0.0..1.0_f64) {
        let reply = json!({"access_token": access, "refresh_token": refresh}).to_string();
        for body in wrapped(&reply) {
            let length = (body.len() as f64 * share) as usize;
            if let Some(pair) = pair(&body[..length]) {
                prop_assert_eq!(pair, (access.clone(), Some(refresh.clone())), "{}", shown(&body));
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_break_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        verdict(&bytes);
        for mut body in wrapped(R) {
            for (index, byte) in &changes {
                let at = index.index(body.len());
                body[at] = *byte;
            }
            verdict(&body);
        }
    }
}

/// Returns whether a success has an unknown outcome and its body is kept.
fn is_kept_in_doubt(body: &str) -> bool {
    let reply = TokenReply {
        whole: true,
        status: 200,
        retry_after: None,
        now: Timestamp::default(),
        body: body.as_bytes(),
    };
    let verdict = verdict(body.as_bytes());
    let in_doubt =
        matches!(&verdict, Verdict::Refused(refusal) if refusal.problem.class == Class::InDoubt);
    in_doubt && is_unread(&reply, &verdict, &profile())
}

#[test]
fn a_token_beside_a_word_of_failure_is_neither_taken_nor_thrown_away() {
    let with = |more: &str| format!("{{{more},{}", R.trim_start_matches('{'));
    for more in [
        r#""success":false"#,
        r#""status":"error","message":"token spent""#,
        r#""errors":[{"code":"x"}]"#,
        r#""errcode":40001,"errmsg":"invalid credential""#,
        r#""ERROR":"WRONG_TOKEN""#,
        r#""isSuccess":false"#,
        r#""hasError":true"#,
        r#""status":"revoked""#,
        r#""active":false"#,
        r#""error":true"#,
        r#""error":"deprecated_endpoint","error_description":"use v2""#,
        r#""error":201"#,
        r#""errno":111,"errmsg":"Access token invalid""#,
        r#""errmsg":"Access token invalid""#,
        r#""error_description":"bad""#,
        r#""revoked":true"#,
        r#""expired":"true""#,
    ] {
        assert!(is_kept_in_doubt(&with(more)), "{more}");
    }
    for around in [
        format!(r#"{{"code":-1,"msg":"fail","data":{R}}}"#),
        format!(r#"{{"code":40001,"msg":"invalid refresh_token","data":{R}}}"#),
        format!(r#"{{"result":false,"data":{R}}}"#),
        format!(r#"{{"message":"invalid","example":{R}}}"#),
        format!(r#"{{"expected":{R},"got":{{}}}}"#),
        format!(r#"{{"title":"Bad Request","detail":"spent","echo":{R}}}"#),
        format!(r#"{{"message":"unknown grant","received":{R}}}"#),
        format!(r#"{{"message":"no such token","old_token":{R}}}"#),
        format!(r#"{{"history":[{R}]}}"#),
        format!(r#"{{"old":{R}}}"#),
        format!(r#"{{"previous_token":{R}}}"#),
        format!(r#"{{"expiredToken":{R}}}"#),
        format!("invalid refresh token\n{R}"),
        format!("401 Unauthorized\n{R}"),
        format!("<p>The grant was revoked.</p>\n{R}"),
        format!("The server answers with\n\n{R}\n\nand so on"),
        "error_description=bad&access_token=a2&refresh_token=r2".to_owned(),
    ] {
        assert!(is_kept_in_doubt(&around), "{around}");
    }
    for nothing in [
        "\"S_OK\"",
        "\"00\"",
        "\"0x0\"",
        "\"n/a\"",
        "\"succeeded\"",
        "\"-\"",
        "200",
        "\"200\"",
    ] {
        assert_eq!(
            pair(with(&format!("\"error\":{nothing}")).as_bytes()),
            pair(R.as_bytes()),
            "{nothing}"
        );
    }
    // A member that reports success, or is about something else.
    for more in [
        r#""errno":0,"errmsg":"token refreshed""#,
        r#""errno":0,"errmsg":"""#,
        r#""errcode":"0","errmsg":"ok""#,
        r#""errmsg":"success""#,
        r#""revoked":false,"expired":0"#,
        r#""old_token":{"access_token":"a1","refresh_token":"r1"}"#,
        r#""error":"success","error_description":"all is well""#,
    ] {
        let body = with(more);
        assert_eq!(pair(body.as_bytes()), pair(R.as_bytes()), "{more}");
    }
    let newer = format!(r#"{{"old":{},"new":{R}}}"#, R.replace("a2", "a1"));
    assert_eq!(pair(newer.as_bytes()), pair(R.as_bytes()));
    // A code of the error table is a refusal, whatever stands beside it.
    let refused = with(r#""error":"invalid_grant""#);
    assert!(!is_kept_in_doubt(&refused) && pair(refused.as_bytes()).is_none());
}

#[test]
fn a_refresh_token_is_found_wherever_it_stands_beside_the_access_token() {
    let both = Some(("a2".to_owned(), Some("r2".to_owned())));
    for body in [
        r#"{"access_token":"a2","refreshToken":"r2","expires_in":20}"#,
        r#"{"access_token":"a2","refresh_token":null,"refreshToken":"r2"}"#,
        r#"{"access_token":"a2","refresh_token":"","REFRESH-TOKEN":"r2"}"#,
        "{\"access_token\":\"a2\",\"\u{feff}refresh_token\":\"r2\"}",
        "access_token=a2&refreshToken=r2&expires_in=30",
        "access_token=a2&amp;refresh_token=r2&amp;expires_in=30",
        "access_token=a2;refresh_token=r2;expires_in=30",
        "access_token=a2,refresh_token=r2,expires_in=30",
        r#"{"access_token":"a2","data":{"refresh_token":"r2"}}"#,
        r#"{"access":{"access_token":"a2"},"refresh":{"refresh_token":"r2"}}"#,
        r#"[{"access_token":"a2"},{"refresh_token":"r2"}]"#,
        r#"{"access_token":"access_token=a2&refresh_token=r2"}"#,
        r#"{"access_token":"{\"access_token\":\"a2\",\"refresh_token\":\"r2\"}"}"#,
        "{\"access_token\":\"a2\",\"refresh_token\":\"\u{feff}r2\u{200b}\"}",
    ] {
        assert_eq!(pair(body.as_bytes()), both, "{body}");
    }
    // A member of that name that is not a token: the server does not rotate, and the old one stays valid.
    for other in [
        r#""_links":{"refresh_token":"https://x.example/refresh"}"#,
        r#""refresh":{"refresh_token":"https://x.example/refresh1"}"#,
        r#""ttl":{"refresh_token":86400}"#,
        r#""kinds":{"refresh_token":86400}"#,
        r#""meta":{"refresh_token":"2026-12-30"}"#,
        r#""until":{"refresh_token":"2026-12-30"}"#,
        r#""validation":{"refresh_token":"ok"}"#,
        r#""scopes":{"refresh_token":true}"#,
        r#""user":{"identities":[{"provider":"google","refresh_token":"GR1"}]}"#,
    ] {
        let body = format!(r#"{{"access_token":"a2","expires_in":60,{other}}}"#);
        assert_eq!(
            pair(body.as_bytes()),
            Some(("a2".to_owned(), None)),
            "{body}"
        );
    }
    let echoed = r#"{"access_token":"a2","refresh_token":"r2","state":"45123"}"#;
    assert_eq!(pair(echoed.as_bytes()), both);
    // The token of another account, or two tokens.
    let other = r#"{"access_token":"a2","user":{"access_token":"a3","refresh_token":"r3"}}"#;
    assert_eq!(pair(other.as_bytes()), Some(("a2".to_owned(), None)));
    for doubtful in [
        r#"{"access_token":"a2","one":{"refresh_token":"r1"},"two":{"refresh_token":"r2"}}"#,
        "access_token=a2%26refresh_token=r2",
    ] {
        assert!(is_kept_in_doubt(doubtful), "{doubtful}");
    }
}

#[test]
fn what_stands_for_a_token_in_a_template_or_a_refusal_is_none() {
    for word in [
        r#"{\"error\":\"invalid_grant\"}"#,
        "{}",
        "[]",
        "{{access_token}}",
        "${token}",
        "%s",
        "ACCESS_TOKEN",
        "YOUR_ACCESS_TOKEN",
        "https://login.example/",
        "error=invalid_grant",
        "error:invalid_grant",
        "session_expired",
        "refresh_token_expired",
        "ERR_TOKEN_EXPIRED",
        "login_required",
        "Unauthorized.",
    ] {
        let body = format!(r#"{{"access_token":"{word}","refresh_token":"r2","expires_in":60}}"#);
        assert!(
            pair(body.as_bytes()).is_none() && is_kept_in_doubt(&body),
            "{body}"
        );
    }
    for word in [
        "test",
        "token",
        "x",
        "session",
        "not-1",
        "a_b_c",
        "v^1.1#i^1",
        "12|hKq",
    ] {
        let body = format!(r#"{{"access_token":"{word}","refresh_token":"r2"}}"#);
        assert!(pair(body.as_bytes()).is_some(), "{body}");
    }
}

#[test]
fn a_word_for_nothing_is_no_token() {
    for nothing in [
        r#""null""#,
        r#""None""#,
        r#""undefined""#,
        r#""false""#,
        r#""N/A""#,
        r#""-""#,
        r#""0""#,
        "0",
        "-1",
        r#""********""#,
        r#""[REDACTED]""#,
        r#""[object Object]""#,
        r#""Array""#,
        r#""\"\"""#,
        r#""XXXX""#,
        r#"" ""#,
    ] {
        let kept = format!(r#"{{"access_token":"a2","refresh_token":{nothing}}}"#);
        assert_eq!(
            pair(kept.as_bytes()),
            Some(("a2".to_owned(), None)),
            "{kept}"
        );
        let unread = format!(r#"{{"access_token":{nothing},"refresh_token":"r2"}}"#);
        assert!(
            pair(unread.as_bytes()).is_none() && is_kept_in_doubt(&unread),
            "{unread}"
        );
    }
}

#[test]
fn what_cannot_be_a_token_is_not_published_as_one() {
    for word in [
        "error",
        "expired",
        "invalid_grant",
        "INVALID_TOKEN",
        "The refresh token is invalid.",
        "<html>",
        "<redacted>",
        "[FILTERED]",
        "***",
        "eyJhbGciOi...",
        "eyJhbGciOi…",
        "abcd***wxyz",
        "unauthorized_client",
    ] {
        let word = Value::from(word);
        let body = format!(r#"{{"access_token":{word},"expires_in":3600}}"#);
        assert!(
            pair(body.as_bytes()).is_none() && is_kept_in_doubt(&body),
            "{body}"
        );
    }
    let below = r#"{"access_token":"expired","data":{"accessToken":"a2"}}"#;
    assert!(pair(below.as_bytes()).is_none() && is_kept_in_doubt(below));
    // The old refresh token is spent, whatever the new value is.
    for word in ["two words", "expired", "invalid_grant", "r2...", "<b>"] {
        let body = format!(r#"{{"access_token":"a2","refresh_token":"{word}"}}"#);
        assert!(
            pair(body.as_bytes()).is_none() && is_kept_in_doubt(&body),
            "{body}"
        );
    }
    for token in [
        "1//0gabcDEF-ghi_jkl",
        "a/b+c==",
        "0.AXoA~5bad.AgABAAEAAAD",
        "M.C507_BAY.0.U.-Cq!x***yZ0123456789abcdefghijklmnop$$",
        "12|SanctumToken",
        "eyJhbGciOiJkaXIifQ..aXY.Y3Q.dGFn",
        "invalid_grant_9f86d081",
        "errorless",
    ] {
        let body = json!({"access_token": token, "refresh_token": token}).to_string();
        assert_eq!(
            pair(body.as_bytes()),
            Some((token.to_owned(), Some(token.to_owned()))),
            "{token}"
        );
    }
}

#[test]
fn wide_letters_without_a_mark_are_read_whatever_stands_in_front() {
    let text = r#"{"user":"Иван","access_token":"a2","refresh_token":"r2"}"#;
    let both = Some(("a2".to_owned(), Some("r2".to_owned())));
    let wide = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let long = |bytes: fn(u32) -> [u8; 4]| {
        text.chars()
            .flat_map(|c| bytes(c as u32))
            .collect::<Vec<u8>>()
    };
    for body in [
        wide(u16::to_le_bytes),
        wide(u16::to_be_bytes),
        long(u32::to_le_bytes),
        long(u32::to_be_bytes),
        format!("\u{200b}\u{a0}{text}").into_bytes(),
        format!("ï»¿{text}").into_bytes(),
        format!("/* served by node 7 */ {text}").into_bytes(),
    ] {
        assert_eq!(pair(&body), both, "{}", shown(&body));
    }
}

#[test]
fn what_states_a_failure_around_a_pair_keeps_it_in_doubt() {
    let with = |more: &str| format!("{{{more},{}", R.trim_start_matches('{'));
    for text in [
        format!("error({R})"),
        format!("onError({R});"),
        format!("Token.requestFailed({R});"),
        format!("event: error\ndata: {R}\n\n"),
        format!("/* refresh token invalid */ {R}"),
        format!("<!-- invalid grant --> {R}"),
        format!("<error>{R}</error>"),
        format!("<old>{R}</old>"),
        format!("<?xml version=\"1.0\"?><fault>{R}</fault>"),
        format!("var example = {R};"),
        format!("old = {R};"),
        format!("last_error = {R};"),
        format!("HTTP/1.1 400 Bad Request\n\n{R}"),
        format!("HTTP/2 403\r\ncontent-type: application/json\r\n\r\n{R}"),
        format!("POST /token HTTP/1.1\n\n{R}"),
        format!("* Connected to x\n> POST /token HTTP/1.1\n>\n{R}"),
        format!("Refresh failed.\n{R}"),
        format!("Connected.\nCould not refresh: the token was already used\n{R}"),
        format!("{R}\nThe grant is no longer valid."),
        format!("error({R}"),
        format!("{}", Value::from(format!("error({R})"))),
        format!("Warning: refresh token rejected\n{R}"),
        format!("<b>Warning</b>: x in <b>/a.php</b> on line <b>1</b><br />\nRefresh failed.\n{R}"),
        format!("<b>Refresh failed</b><br/>{}", R.replace('"', "&quot;")),
        "result[error]=invalid_grant&access_token=a2&refresh_token=r2".to_owned(),
        "result[error]=invalid_grant&result[x]=1&token[access_token]=a2&token[refresh_token]=r2"
            .to_owned(),
        format!("{{\"level\":\"error\",\"msg\":\"spent\"}}\n{R}"),
    ] {
        assert!(is_kept_in_doubt(&text), "{text}");
        assert!(pair(&gzip(text.as_bytes())).is_none(), "packed: {text}");
    }
    for members in [
        r#""status":"invalid_grant""#,
        r#""code":"invalid_grant""#,
        r#""error_type":"invalid_grant""#,
        r#""error_reason":"spent""#,
        r#""error_codes":[70008]"#,
        r#""http_status":401"#,
        r#""httpStatusCode":"401""#,
        r#""response_code":401"#,
        r#""ret":-1"#,
        r#""is_valid":false"#,
        r#""failed":true"#,
        r#""code":1001,"msg":"invalid refresh token""#,
        r#""message":"Refresh token has expired""#,
        r#""message":"The token could not be refreshed""#,
        r#""meta":{"error":"invalid_grant"}"#,
        r#""meta":{"result":{"errors":["x"]}}"#,
        r#""meta":[{"error":{"code":7}}]"#,
        r#""info":"{\"error\":\"invalid_grant\"}""#,
        r#""type":"error""#,
        r#""x":"invalid_grant""#,
        r#""code":401,"msg":"success""#,
        r#""reason":"grant not found""#,
        r#""exception":"java.lang.IllegalStateException""#,
    ] {
        let around = format!(r#"{{{members},"data":{R}}}"#);
        for body in [with(members), around] {
            assert!(is_kept_in_doubt(&body), "{body}");
        }
    }
    for name in [
        "last",
        "cached",
        "params",
        "original_request",
        "originalRequest",
        "lastToken",
        "failed",
        "invalid_token",
        "requestBody",
        "template",
    ] {
        let body = format!(r#"{{"{name}":{R}}}"#);
        assert!(pair(body.as_bytes()).is_none(), "{body}");
    }
    // With an error status it is neither a pair nor kept.
    for body in [
        with(r#""error":"invalid_grant""#),
        with(r#""status":"invalid_grant""#),
        with(r#""message":"The refresh token is invalid""#),
        format!("HTTP/1.1 400 Bad Request\n\n{R}"),
    ] {
        let reply = TokenReply {
            whole: true,
            status: 400,
            retry_after: None,
            now: Timestamp::default(),
            body: body.as_bytes(),
        };
        let verdict = read(&reply, &profile(), &[]);
        assert!(!is_unread(&reply, &verdict, &profile()), "{body}");
        assert!(matches!(verdict, Verdict::Refused(_)), "{body}");
    }
}

#[test]
fn what_speaks_of_success_or_of_something_else_does_not_matter() {
    let with = |more: &str| format!("{{{more},{}", R.trim_start_matches('{'));
    let notice = "<br />\n<b>Warning</b>:  Cannot modify header information - headers already sent by (output started at \
        /var/www/html/wp-includes/functions.php:6121) in <b>/var/www/html/wp-includes/rest-api/class-wp-rest-server.php</b> \
        on line <b>1902</b><br />\n";
    for body in [
        with(r#""error_description":"The request was successful""#),
        with(r#""errmsg":"No errors""#),
        with(r#""errors":[],"error_count":0,"has_error":false"#),
        with(r#""code":"440","msg":"success""#),
        with(r#""code":20000,"message":"Token refreshed; the previous token was revoked.""#),
        with(r#""message":"OK","failed":false,"is_expired":0,"revoked_at":null"#),
        with(r#""expired_at":"2026-12-30T00:00:00Z","failed_attempts":2"#),
        with(r#""user":{"name":"Error Inc","status":"blocked","active":false}"#),
        with(r#""country_code":"440","zip_code":44000,"description":"the CRM of Acme""#),
        with(r#""meta":{"description":"failed logins are shown","error":null}"#),
        with(&format!(r#""scopes":[{}"s"]"#, r#""s","#.repeat(9000))),
        with(r#""request_id":"err-7","params":{"error":"x"},"no_error":true"#),
        format!(r#"{{"received":{R}}}"#),
        format!(r#"{{"preview":{R}}}"#),
        format!(r#"{{"oauth":{{"tokens":{R}}}}}"#),
        format!("{notice}{R}"),
        format!("{notice}{notice}{R}"),
        format!("{R}\n{notice}"),
        format!(
            "Warning: fopen(/x): failed to open stream: Permission denied in /srv/a.php on line 3\n{R}"
        ),
        format!("PHP Deprecated:  Invalid use of x in /srv/a.php on line 3\n{R}"),
        format!("Strict Standards: cannot pass x in /srv/a.php on line 3\n{R}"),
        format!("{R}<!-- errors: 0 -->"),
        format!("{R}<script>try {{ x() }} catch (error) {{ }}</script>"),
        format!("No errors.\n{R}"),
        format!("> POST /token HTTP/1.1\n>\n< HTTP/1.1 200 OK\n<\n{R}"),
        "access_token=a2&refresh_token=r2&expires_in=3600&errors=0".to_owned(),
    ] {
        assert_eq!(pair(body.as_bytes()), pair(R.as_bytes()), "{body}");
    }
}

#[test]
fn what_is_not_about_the_token_or_the_request_does_not_matter() {
    const FATAL: &str =
        "<b>Fatal error</b>:  Uncaught Error: Call to undefined function refresh_token()";
    let beside = [
        r#""warning":"missing_charset""#,
        r#""ok":true,"warnings":["missing_charset"],"response_metadata":{"warnings":["missing_charset"]}"#,
        r#""warning":"Some requested scopes were not granted""#,
        r#""warning":"invalid_scope","warnings":["scope 'crm' was denied; the grant is invalid"]"#,
        r#""mfa_required":true,"password_change_required":true,"terms_acceptance_required":true"#,
        r#""password_expired":true,"trial_expired":true"#,
        r#""status":"trial_expired""#,
        r#""old_tokens_revoked":true,"previous_token_revoked":true"#,
        r#""is_active":false,"notifications_disabled":true"#,
        r#""last_error":"timeout","lastError":"failed""#,
        r#""message":"Token rotated, previous token revoked""#,
        r#""ok":true,"message":"Old refresh token invalidated""#,
        r#""success":true,"message":"Token refreshed; the old one is invalid now""#,
        r#""message":"New tokens issued, old refresh token is no longer valid""#,
        r#""hint":"The one you sent has been revoked.""#,
        r#""message":"Your trial has expired""#,
        r#""license":{"status":"expired","valid":false}"#,
        r#""org":{"suspended":true,"error":"x"},"subscription":{"status":"unpaid","active":false}"#,
    ];
    let around = [
        "%R0",
        "%R1",
        "%R-1",
        "%R 0",
        "%Rnull",
        "%Rtrue",
        "%ROK",
        "%RArray",
        "%Rsuccess",
        "%Rdebug",
        "%R 0.0312",
        "%R\"",
        "%R}",
        "0%R",
        "1%R",
        "Response: %R",
        "%R<!-- cache expired -->",
        "%R<!-- cache expired, regenerated -->",
        "%R<!-- widget footer not found -->",
        "%R<!-- error 17 -->",
        "<h4>A PHP Error was encountered</h4>\n<p>Severity: Notice</p>\n<p>Message:  Undefined index: state</p>%R",
        "<h4>A PHP Error was encountered</h4><p>Severity: Notice</p><p>Message: Undefined index: token</p><p>Filename: models/Token.php</p>%R",
        "<p>WordPress database error: [Duplicate entry]</p>%R",
        "<div id=\"error\"><p class=\"wpdberror\"><strong>WordPress database error:</strong> [Duplicate entry 'x' for key \
         'access_token']<br /><code>INSERT INTO `wp_tokens`</code></p></div>%R",
        "%R<br />\n<b>Parse error</b>:  syntax error, unexpected token in <b>/a.php</b> on line <b>3</b><br />",
        "%R\nPHP Fatal error:  Allowed memory size of 1 bytes exhausted in /srv/token.php on line 3",
        "<b>Recoverable fatal error</b>: Object of class Token could not be converted in <b>/a/b.php</b> on line <b>2</b><br />%R",
        "[2026-11-30 06:00:00] production.ERROR: cache write failed\n%R",
        "[2026-11-30 06:00:00] production.ERROR: cache write failed {\"exception\":\"RedisException\"}\n%R",
        "[Error] Table b_cache is marked as crashed\n%R",
        "<p>Unauthorized use is prohibited.</p>%R",
        "<html><head><title>403 Forbidden</title></head>%R",
        "%R<html><head><title>Login failed</title></head><body><h1>404 Page not found</h1></body></html>",
        "%R<input type=\"hidden\" name=\"__VIEWSTATE\" value=\"dDwtMTA5Nzk4O3Q8O2w8aTwxPjs+O2w8\">",
        "<link rel=\"x\" href=\"/invalid-token\"><error></error>%R",
    ];
    let fatal = ["/token.php:88", "/token.php on line 88"];
    let bodies = (beside.iter())
        .flat_map(|members| {
            let with = format!("{{{members},{}", &R[1..]);
            [with, format!(r#"{{{members},"data":{R}}}"#)]
        })
        .chain(around.iter().map(|body| body.replace("%R", R)))
        .chain(fatal.map(|place| format!("{R}<br />\n{FATAL} in {place}")))
        .chain(fatal.map(|place| format!("{FATAL} in {place}<br />\n{R}")));
    let lost: Vec<_> = bodies
        .filter(|body| pair(body.as_bytes()) != pair(R.as_bytes()))
        .collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

/// The same places, with a word about the token or the request.
#[test]
fn what_is_about_the_token_or_the_request_matters() {
    let around = [
        r#"{"is_revoked":true,"data":%R}"#,
        r#"{"has_failed":true,"data":%R}"#,
        r#"{"status":"token_expired","data":%R}"#,
        r#"{"status":{"code":401},"data":%R}"#,
        r#"{"status":"internal_error","data":%R}"#,
        r#"{"response":{"errors":["x"]},"data":%R}"#,
        r#"{"header":{"success":false},"data":%R}"#,
        r#"{"data":{"error_code":7,"token":%R}}"#,
        r#"{"data":[{"error":"x"},%R]}"#,
        r#"{"token_error":"x","data":%R}"#,
        r#"{"message":"Old token revoked, login failed","data":%R}"#,
        "%R<!-- token cache: refresh token expired -->",
        "<title>x</title><p>Client authentication failed</p>%R",
        "<p>The <b>grant</b> was <b>revoked</b>.</p>%R",
        "%R<br />\n<b>Fatal error</b>: x in /a.php:3<br />The session has expired",
        "%R<br />\n<b>Fatal error</b>: x in /a.php:3 The session has expired",
        "Status: 403 Forbidden\n\n%R",
        "Request: %R",
        "old: %R",
        "<settings><p>x</p>\n%R</settings>",
        "The token is %R0",
        "%R is what a server returns",
        "[2026-11-30 06:00:00] production.ERROR: x {\"error\":\"invalid_grant\"}\n%R",
        "{\"exception\":\"RedisException\"}\n%R",
        "%R 0 1",
    ];
    let taken: Vec<_> = (around.iter())
        .map(|body| body.replace("%R", R))
        .filter(|body| pair(body.as_bytes()).is_some())
        .collect();
    assert!(taken.is_empty(), "{taken:#?}");
}

#[test]
fn what_describes_tokens_is_none() {
    for body in [
        r#"{"links":{"access_token":"https://a.example/token","refresh_token":"https://a.example/refresh"}}"#,
        r#"{"links":{"access_token":"/oauth/token"}}"#,
        r#"{"ttl":{"access_token":3600,"refresh_token":86400}}"#,
        r#"{"data":{"lifetimes":{"access_token":3600,"refresh_token":86400}}}"#,
        r#"{"access_token":"required","refresh_token":"optional"}"#,
        r#"{"access_token":"string","refresh_token":"string","expires_in":0}"#,
        r#"{"schema":{"access_token":"x","refresh_token":"y"}}"#,
        r#"{"access_token":"String"}"#,
        r#"{"access_token":3600,"refresh_token":86400}"#,
    ] {
        assert!(is_kept_in_doubt(body), "{body}");
    }
}

#[test]
fn two_different_tokens_under_one_name_are_none() {
    for body in [
        r#"{"access_token":"a1","access_token":"a2","refresh_token":"r2"}"#,
        r#"{"access_token":"a2","refresh_token":"r1","refresh_token":"r2"}"#,
        r#"{"data":{"access_token":"a1","access_token":"a2","x":{"access_token":"a3"}}}"#,
        r#"{"accessToken":"a1","accessToken":"a2","refreshToken":"r2"}"#,
        "access_token=a2&refresh_token=r1&refresh_token=r2",
        "access_token=a1&access_token=a2&refresh_token=r2",
    ] {
        assert!(is_kept_in_doubt(body), "{body}");
    }
    let same =
        r#"{"access_token":"a2","access_token":"a2","refresh_token":"r2","refresh_token":"r2"}"#;
    assert_eq!(pair(same.as_bytes()), pair(R.as_bytes()));
}

#[test]
fn a_word_in_the_place_of_a_refresh_token_keeps_the_one_before_and_is_told() {
    for word in [
        r#""unchanged""#,
        r#""no""#,
        r#""2026-12-30""#,
        r#""2026-12-30T10:00:00Z""#,
        "86400",
        r#""86400""#,
        "true",
        r#""optional""#,
    ] {
        let body = format!(r#"{{"access_token":"a2","refresh_token":{word},"expires_in":60}}"#);
        let Verdict::Granted(granted) = verdict(body.as_bytes()) else {
            panic!("{body}")
        };
        assert!(granted.refresh.is_none(), "{body}");
        let notice = granted.notice().unwrap_or_default();
        assert!(
            notice.contains(word.trim_matches('"')) && notice.contains("the one before stays"),
            "{body}: {notice}"
        );
    }
    let Verdict::Granted(granted) = verdict(R.as_bytes()) else {
        panic!()
    };
    assert_eq!(granted.notice(), None);
    // The real token is elsewhere, or is a number.
    for body in [
        r#"{"access_token":"a2","refresh_token":true,"refreshToken":"r2"}"#,
        r#"{"access_token":"a2","refresh_token":"unchanged","data":{"refresh_token":"r2"}}"#,
    ] {
        assert_eq!(pair(body.as_bytes()), pair(R.as_bytes()), "{body}");
    }
    let number = r#"{"access_token":"a2","refresh_token":4711}"#;
    assert_eq!(
        pair(number.as_bytes()),
        Some(("a2".to_owned(), Some("4711".to_owned())))
    );
}

/// Tokens of [`R`].
fn good() -> Option<(String, Option<String>)> {
    Some(("a2".to_owned(), Some("r2".to_owned())))
}

#[test]
fn odd_values_beside_the_tokens_do_not_matter() {
    for value in [
        "nan", "-nan", "inf", "-inf", "1.#INF", "-1.#IND", "0,02", "1,234", "1 000", "TRUE",
        "NULL", "on", "0x1F", "1L", "1_0", "-", "",
    ] {
        for body in [
            R.replacen('{', &format!(r#"{{"x":{value},"#), 1),
            R.replace('}', &format!(r#","x":{value}}}"#)),
            format!(r#"{{"result":{R},"time":{{"x":{value}}}}}"#),
        ] {
            assert_eq!(pair(body.as_bytes()), good(), "{body}");
        }
    }
    // A failure remains one.
    for body in [
        R.replacen('{', r#"{"success":FALSE,"#, 1),
        R.replacen('{', r#"{"error":TRUE,"#, 1),
    ] {
        assert_eq!(pair(body.as_bytes()), None, "{body}");
    }
    assert_eq!(pair(br#"{"access_token":a2,"refresh_token":"r2"}"#), None);
}

#[test]
fn whole_object_in_a_truncated_envelope_is_a_reply() {
    for body in [
        format!(r#"{{"result":{R}"#),
        format!(r#"{{"result":{R},"time":{{"start":17"#),
        format!(r#"{{"id":1,"data":{{"token":{R},"#),
        format!(r#"{{"list":[1,{{"a":2}}],"result":{R},"time":"2026-11-30T"#),
    ] {
        assert_eq!(pair(body.as_bytes()), good(), "{body}");
        assert_eq!(pair_of_cut(body.as_bytes()), good(), "{body}");
    }
    for body in [
        // Cut within the pair, or without its refresh token.
        format!(r#"{{"result":{}"#, &R[..R.len() - 1]),
        r#"{"result":{"access_token":"a2","refresh_token":"r2","expires_in":36"#.to_owned(),
        r#"{"result":{"access_token":"a2"},"refresh_token":"r"#.to_owned(),
        r#"{"access_token":"a2","refresh_token":"r2","expires_in":3600,"sc"#.to_owned(),
        // Something else may follow.
        format!(r#"{{"before":{R},"access"#),
        format!(r#"{{"old":{R},"result":{{"#),
        format!(r#"{{"data":{R},"result":{{"a":1}}"#),
        format!(r#"{{"error":"invalid_grant","result":{R}"#),
        format!(r#"{{"status":"failed","result":{R},"x"#),
    ] {
        assert_eq!(pair(body.as_bytes()), None, "{body}");
        assert_eq!(pair_of_cut(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn stray_brackets_beside_a_whole_object_do_not_matter() {
    for body in [
        format!("PHP Parse error:  syntax error, unexpected '{{' in a.php on line 3\n{R}"),
        format!("\u{201c}{{\u{201d}\n{R}"),
        format!("{R}]"),
        format!("{R}{{"),
        format!(r#"{R}{{"access_tok"#),
        format!("{R}{}", &R[..R.len() - 20]),
    ] {
        assert_eq!(pair(body.as_bytes()), good(), "{body}");
    }
    for body in [
        format!(r#"{R}{{"error":"inval"#),
        format!("return {{\n{R}"),
        format!(r#"{R}{{"access_token":"a3""#),
    ] {
        assert_eq!(pair(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn form_that_is_all_the_text_of_a_page_is_a_reply() {
    let form = "access_token=a2&refresh_token=r2&expires_in=3600";
    for body in [
        format!("{form}<!-- 0.02 -->"),
        format!(
            "<br />\n<b>Notice</b>:  Undefined index: x in <b>/a.php</b> on line <b>3</b><br />\n{form}"
        ),
        format!("<br /><b>Notice</b>: x<br />\n{form}"),
        format!("<pre>{form}</pre>"),
        format!("<html><body>\n{form}\n</body></html>"),
    ] {
        assert_eq!(pair(body.as_bytes()), good(), "{body}");
        assert_eq!(pair_of_cut(body.as_bytes()), None, "{body}");
    }
    for body in [
        format!("<p>For example:</p><pre>{form}</pre>"),
        format!("<p>POST it as</p>\n{form}"),
        format!("<a href=\"?{form}\"></a>"),
        format!("<script>{form}</script>"),
        format!("<pre>{form}</pre><pre>{form}</pre>"),
        format!("<!-- {form} -->"),
        "<pre>access_token=a2</pre>".to_owned(),
        format!("<pre>error=invalid_grant&{form}</pre>"),
    ] {
        assert_eq!(pair(body.as_bytes()), None, "{body}");
    }
}
