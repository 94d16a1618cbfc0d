//! Detects damaged secrets: by an editor, by a shell, or copied with surrounding text.
//!
//! Must not show any part of a secret, nor repair one: only its owner knows the right value.

use refreshd_token_client::import_token::is_nothing;

/// Characters allowed besides printable ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// None (RFC 6749 appendix A.2, without the space, which no server uses); an address is not a secret either.
    Client,
    /// None.
    Graphic,
    /// Spaces and other scripts, for passwords.
    Any,
    /// The same for a header's value, whose control characters are checked elsewhere.
    Header,
}

/// Damage of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SecretDamage {
    /// Description and remedy, after the words "the secret".
    pub(super) what: &'static str,
    /// No server can have issued it, so it must not be sent.
    pub(super) hopeless: bool,
}

/// Invisible characters.
const INVISIBLE: [char; 13] = [
    '\u{feff}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{2060}', '\u{ad}',
    '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
];
/// Quotes, opening and closing.
const QUOTES: [(char, char); 6] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('\u{201c}', '\u{201d}'),
    ('\u{2018}', '\u{2019}'),
    ('\u{ab}', '\u{bb}'),
];
/// Parts of the names of secrets.
const NAMES: [&str; 10] = [
    "secret",
    "token",
    "key",
    "pass",
    "pwd",
    "client",
    "url",
    "auth",
    "bearer",
    "credential",
];

/// The first damage. Surrounding white space, such as a final line feed, is not part of a secret.
pub(super) fn damage(text: &str, alphabet: Alphabet) -> Option<SecretDamage> {
    let secret = text.trim();
    let found = |what| {
        Some(SecretDamage {
            what,
            hopeless: false,
        })
    };
    let inner = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if alphabet != Alphabet::Header && secret.contains(inner) {
        let what = "holds a NUL or another control character, which no secret does: write it anew as plain text (UTF-8)";
        return Some(SecretDamage {
            what,
            hopeless: true,
        });
    }
    if secret.starts_with('\u{feff}') {
        return found(
            "begins with a byte order mark (BOM), which an editor has put there: save it without one",
        );
    }
    if secret.contains(INVISIBLE) {
        return found(
            "holds a character that is not seen (zero-width, or of a writing direction): write it anew by hand",
        );
    }
    if secret.contains(['\n', '\r']) {
        return found("has more than one line: write the secret alone");
    }
    if is_json(secret) {
        return found("is JSON: write the secret alone, not the file that it came in");
    }
    let is_graphic = matches!(alphabet, Alphabet::Client | Alphabet::Graphic);
    if is_placeholder(secret)
        || is_graphic && (is_nothing(secret) || is_template_placeholder(secret))
    {
        return found(
            "is a placeholder (such as ${NAME} or changeme), in whose place nothing was put: nothing is filled in here",
        );
    }
    if QUOTES.iter().any(|(open, close)| {
        secret.len() > 1 && secret.starts_with(*open) && secret.ends_with(*close)
    }) {
        return found("stands in quotes, which would be sent with it: take them away");
    }
    if is_graphic && is_vault_reference(secret) {
        return found(
            "is what stands for a secret in a vault or is encrypted (sops, vault:, op://): nothing is looked up or decrypted here",
        );
    }
    if alphabet == Alphabet::Client && is_address(secret) {
        return found(
            "is the name of a file or an address: write what is in it, or name the file with `client_secret_file`",
        );
    }
    if is_graphic {
        if QUOTES
            .iter()
            .any(|(open, close)| secret.starts_with(*open) || secret.ends_with(*close))
        {
            return found("has a quote at one end, which would be sent with it: take it away");
        }
        if secret.len() > 1 && secret.ends_with([',', ';']) {
            return found(
                "ends with a comma or a semicolon, as copied out of a list: take it away",
            );
        }
        if ["\\n", "\\r", "\\t"]
            .iter()
            .any(|escape| secret.contains(escape))
        {
            return found(
                "has a backslash with a letter in it (\\n), which is two characters here, not the end of a line: take it away",
            );
        }
    }
    if is_assignment(secret) {
        return found("begins with a name and an equals sign (NAME=value): write the value alone");
    }
    if is_graphic {
        if secret.contains(char::is_whitespace) {
            return found("has white space in it: was it copied with what stood beside it?");
        }
        if !secret.is_ascii() {
            return found(
                "holds a character that is not ASCII, perhaps one that only looks like a Latin letter or a hyphen",
            );
        }
    }
    None
}

fn is_json(secret: &str) -> bool {
    secret.starts_with(['{', '[']) && serde_json::from_str::<serde_json::Value>(secret).is_ok()
}

fn is_placeholder(secret: &str) -> bool {
    let pair = |open: &str, close: &str| {
        secret
            .find(open)
            .is_some_and(|at| secret[at..].contains(close))
    };
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let within = |open: char, close: char| {
        secret
            .strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close))
    };
    pair("${", "}")
        || pair("{{", "}}")
        || pair("$(", ")")
        || secret.strip_prefix('$').is_some_and(is_name)
        || within('%', '%').is_some_and(is_name)
        || within('<', '>').is_some()
}

/// A placeholder of another template syntax: `__CLIENT_SECRET__`, `@secret@`.
fn is_template_placeholder(secret: &str) -> bool {
    let within = |sign: &str| {
        secret
            .strip_prefix(sign)
            .and_then(|rest| rest.strip_suffix(sign))
            .is_some_and(|name| {
                !name.is_empty()
                    && name
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
            })
    };
    within("__") || within("@") || within("@@")
}

/// A reference that another program must resolve or decrypt.
fn is_vault_reference(secret: &str) -> bool {
    let lower = secret.to_ascii_lowercase();
    [
        "enc[",
        "vault:",
        "op://",
        "arn:aws:",
        "bw://",
        "awssm://",
        "$ansible_vault",
    ]
    .iter()
    .any(|start| lower.starts_with(start))
}

/// An address, or the path of a file; base64 may begin with a slash and contain more.
fn is_address(secret: &str) -> bool {
    const ROOTS: [&str; 17] = [
        "/app/",
        "/etc/",
        "/home/",
        "/mnt/",
        "/opt/",
        "/private/",
        "/root/",
        "/run/",
        "/secrets/",
        "/srv/",
        "/tmp/",
        "/usr/",
        "/users/",
        "/var/",
        "./",
        "../",
        "~/",
    ];
    let lower = secret.to_ascii_lowercase();
    lower.contains("://")
        || ROOTS.iter().any(|root| lower.starts_with(root))
        || [".txt", ".secret", ".json", ".toml", ".env"]
            .iter()
            .any(|end| lower.ends_with(end))
        || lower.starts_with("c:\\")
}

fn is_assignment(secret: &str) -> bool {
    let secret = secret
        .strip_prefix("export ")
        .map_or(secret, str::trim_start);
    let Some((name, value)) = secret.split_once('=') else {
        return false;
    };
    let name = name.trim_end();
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    let shouts =
        name.len() > 2 && name.contains('_') && name.chars().all(|c| !c.is_ascii_lowercase());
    let lower = name.to_ascii_lowercase();
    // Base64 ends with equals signs.
    is_name
        && !value.trim_matches('=').is_empty()
        && (shouts || NAMES.iter().any(|known| lower.contains(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_visibly_damaged_is_named() {
        for (text, what) in [
            ("\u{feff}s3cret", "byte order mark"),
            ("s3\u{200b}cret", "not seen"),
            ("s3\u{ad}cret", "not seen"),
            ("\"s3cret\"\n", "quotes"),
            ("'s3cret'", "quotes"),
            ("\u{201c}s3cret\u{201d}", "quotes"),
            ("CLIENT_SECRET=s3cret", "NAME=value"),
            ("export B24_SECRET=s3cret", "NAME=value"),
            ("client_secret = s3cret", "NAME=value"),
            ("s3cret\nanother", "more than one line"),
            ("s3cret\r\nanother\r\n", "more than one line"),
            ("{\"client_secret\": \"s3cret\"}", "JSON"),
            ("[\"s3cret\"]", "JSON"),
            ("${CLIENT_SECRET}", "placeholder"),
            ("$CLIENT_SECRET", "placeholder"),
            ("{{ client_secret }}", "placeholder"),
            ("$(cat secret)", "placeholder"),
            ("%CLIENT_SECRET%", "placeholder"),
            ("<your secret>", "placeholder"),
            ("null", "placeholder"),
            ("changeme", "placeholder"),
            ("REDACTED", "placeholder"),
            ("********", "placeholder"),
            ("s3 cret", "white space"),
            ("s3\tcret", "white space"),
            ("\"s3cret", "quote at one end"),
            ("s3cret\"", "quote at one end"),
            ("s3cret'", "quote at one end"),
            ("s3cret,", "comma"),
            ("s3cret;", "comma"),
            ("s3cret\\n", "backslash"),
            ("s3cr\\net", "backslash"),
            ("ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]", "vault"),
            ("vault:secret/data/crm#secret", "vault"),
            ("op://vault/crm/secret", "vault"),
            ("/etc/refreshd/crm.secret", "file or an address"),
            ("./crm.secret", "file or an address"),
            ("crm-secret.txt", "file or an address"),
            ("https://vault.example/v1/secret", "file or an address"),
            ("__CLIENT_SECRET__", "placeholder"),
            ("@client.secret@", "placeholder"),
            ("s3cr\u{435}t", "not ASCII"),
            ("s3\u{2010}cret", "not ASCII"),
        ] {
            let damage =
                damage(text, Alphabet::Client).unwrap_or_else(|| panic!("{text:?} passes"));
            assert!(
                damage.what.contains(what) && !damage.hopeless,
                "{text:?}: {}",
                damage.what
            );
        }
        for hopeless in ["s3\0cret", "s\0e\0c\0", "s3\u{1b}[0mcret"] {
            assert!(
                damage(hopeless, Alphabet::Any).is_some_and(|damage| damage.hopeless),
                "{hopeless:?}"
            );
        }
    }

    #[test]
    fn what_may_be_a_secret_passes() {
        for text in [
            "s3cret",
            "s3cret\n",
            "secret-of-my-bot-token",
            "s3cret\r\n",
            "  s3cret  ",
            "c2VjcmV0LXNlY3JldA==",
            "abc=def",
            "123456:ABC-DEF_ghi",
            "https://hooks.example/T0/B0?token=x&y={z}",
            "GOCSPX-a$b%c",
            "/9j4AAQ/SkZJRg+AB==",
            "a@b__c",
            "Abc8Q~d_E.f-G",
            "p@ss=w0rd!~x",
            "encodedSecret",
            "a{b}c",
            "\"quoted at one end",
        ] {
            let alphabet = if text.contains("one end") {
                Alphabet::Any
            } else {
                Alphabet::Graphic
            };
            assert_eq!(damage(text, alphabet), None, "{text}");
            if alphabet == Alphabet::Graphic && !text.contains("://") {
                assert_eq!(damage(text, Alphabet::Client), None, "{text}");
            }
        }
        for text in [
            "abcd efgh ijkl mnop",
            "Bearer s3cret",
            "\u{43f}\u{430}\u{440}\u{43e}\u{43b}\u{44c}",
        ] {
            assert_eq!(damage(text, Alphabet::Any), None, "{text}");
        }
    }
}
