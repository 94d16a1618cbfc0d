//! Hints for operators: sentences of a provider's error table, with placeholders.
//!
//! Must not classify a failure: the table does. A sentence is stored with its placeholders, since a portal's address can change.

use super::name::PortalName;
use super::portal::Grant;
use super::settings::{OWN_APP, Settings};
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::{Class, host_of};

/// The placeholders of a sentence, in braces.
pub const PLACEHOLDERS: [&str; 3] = ["portal", "domain", "app"];

/// The commands that a sentence may mention.
pub const COMMANDS: [&str; 8] = [
    "check",
    "status",
    "token",
    "renew",
    "authorize",
    "import",
    "recover",
    "forget",
];

/// Replaces the domain of a portal without a configured one.
const NO_DOMAIN: &str = "the portal";

/// Values for the placeholders.
#[derive(Clone, Copy, Debug)]
pub struct HintContext<'a> {
    /// The portal.
    pub portal: &'a PortalName,
    /// Its host: that of its grant's newest response, or else of the configuration.
    pub domain: Option<&'a str>,
    /// Its app; a portal with a client of its own is its own app.
    pub app: &'a str,
}

impl<'a> HintContext<'a> {
    /// Of a portal, from its settings.
    #[must_use]
    pub fn of(portal: &'a PortalName, settings: Option<&'a Settings>) -> Self {
        let app = settings.map_or(portal.as_str(), |settings| {
            settings.app.strip_prefix(OWN_APP).unwrap_or(&settings.app)
        });
        Self {
            portal,
            domain: settings.and_then(|settings| settings.domain.as_deref()),
            app,
        }
    }

    /// With the portal's present address, if its grant has one: the portal may have been renamed since the configuration was
    /// written. Only for a portal with a configured host.
    #[must_use]
    pub fn at(self, grant: &'a Grant) -> Self {
        let now_at = grant.tokens.details.endpoint.as_deref().and_then(host_of);
        Self {
            domain: self.domain.map(|domain| now_at.unwrap_or(domain)),
            ..self
        }
    }
}

/// The hint for a problem: by the provider's table, or else by its class.
#[must_use]
pub fn hint(problem: &Problem, about: HintContext<'_>) -> String {
    let sentence = match problem {
        // The sentences of a profile refer to a code, and there is none.
        Problem {
            class: Class::Unknown,
            code: None,
            remedy: None,
            ..
        } => NO_CODE,
        Problem {
            remedy: Some(remedy),
            ..
        } => remedy,
        Problem { class, .. } => default_hint(*class),
    };
    match problem.works_for {
        Some(others) if problem.class == Class::ClientRejected => {
            format!(
                "{}{}",
                fill(&only_here(others), about),
                fill(sentence, about)
            )
        }
        _ => fill(sentence, about),
    }
}

/// Hint if the server sends no error code.
const NO_CODE: &str = "see whether token_url of the app {app} is the provider's token endpoint; it is retried by itself";

/// The client works for other portals, so the cause is this portal's. The provider's own sentence follows.
fn only_here(others: u64) -> String {
    let others = if others == 1 {
        "1 other".to_owned()
    } else {
        format!("{others} others")
    };
    format!(
        "refused for this portal only; the client works for {others}: see whether the app {{app}} is still installed on \
         {{domain}} and allowed there, then: refreshd renew {{portal}}, or authorize it again: refreshd authorize \
         {{portal}}. If all is well there: "
    )
}

/// Default hint of a class.
const fn default_hint(class: Class) -> &'static str {
    match class {
        Class::ClientRejected => {
            "correct client_id and client_secret of the app {app} in the configuration, then: systemctl reload refreshd"
        }
        Class::Blocked => "lift what the reason names, then: refreshd renew {portal}",
        Class::NotSent => "check this machine's network, DNS and TLS; it is retried by itself",
        Class::Unknown => "look the code up with the provider; it is retried by itself",
        Class::Transient | Class::InDoubt | Class::TooEarly => {
            "nothing yet, it is retried by itself; look at the authorization server if it lasts"
        }
        Class::NeedsAuthorization => {
            "authorize the app {app} on {domain} again: refreshd authorize {portal}"
        }
        Class::Gone => {
            "install the app {app} on {domain} again and: refreshd authorize {portal}, or: refreshd forget {portal}"
        }
    }
}

/// Replaces the placeholders of a sentence.
fn fill(sentence: &str, about: HintContext<'_>) -> String {
    let sentence = match about.domain {
        Some(domain) => sentence.replace("{domain}", domain),
        // Without a host there is no link, but the page can still be named: "the portal's /settings/license_all.php".
        None => sentence
            .replace("https://{domain}/", &format!("{NO_DOMAIN}'s /"))
            .replace("{domain}", NO_DOMAIN),
    };
    sentence
        .replace("{portal}", about.portal.as_str())
        .replace("{app}", about.app)
}

/// Error in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateError<'s> {
    /// Unknown placeholder.
    Gap(&'s str),
    /// Unpaired brace.
    Brace,
    /// Unknown command.
    Command(&'s str),
    /// A line feed or another control character.
    Control,
}

/// The first error in a sentence.
#[must_use]
pub fn template_error(sentence: &str) -> Option<TemplateError<'_>> {
    if sentence.contains(char::is_control) {
        return Some(TemplateError::Control);
    }
    let mut rest = sentence;
    while let Some(at) = rest.find(['{', '}']) {
        let Some(inside) = rest[at..].strip_prefix('{') else {
            return Some(TemplateError::Brace);
        };
        let Some(end) = inside
            .find(['{', '}'])
            .filter(|end| inside[*end..].starts_with('}'))
        else {
            return Some(TemplateError::Brace);
        };
        if !PLACEHOLDERS.contains(&&inside[..end]) {
            return Some(TemplateError::Gap(&inside[..end]));
        }
        rest = &inside[end + 1..];
    }
    commands(sentence)
        .find(|command| !COMMANDS.contains(command))
        .map(TemplateError::Command)
}

/// The words after the program's name in a command; not after the name of a unit.
fn commands(sentence: &str) -> impl Iterator<Item = &str> {
    const PROGRAM: &str = "refreshd ";
    sentence.match_indices(PROGRAM).filter_map(|(at, _)| {
        let is_unit = sentence[..at]
            .split_whitespace()
            .rev()
            .take(2)
            .any(|word| word == "systemctl" || word == "-u");
        let word = sentence[at + PROGRAM.len()..]
            .split(|c: char| !c.is_ascii_lowercase())
            .next();
        word.filter(|_| !is_unit)
    })
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    fn about<'a>(portal: &'a PortalName, domain: Option<&'a str>) -> HintContext<'a> {
        HintContext {
            portal,
            domain,
            app: "crm",
        }
    }

    #[test]
    fn a_sentence_names_the_portal_its_domain_and_its_app() {
        let acme = PortalName::parse("acme").unwrap();
        let sentence = "renew {domain} at https://{domain}/license.php for {app}, then: refreshd renew {portal}";
        assert_eq!(
            fill(sentence, about(&acme, Some("acme.bitrix24.com"))),
            "renew acme.bitrix24.com at https://acme.bitrix24.com/license.php for crm, then: refreshd renew acme"
        );
        assert_eq!(
            fill(sentence, about(&acme, None)),
            "renew the portal at the portal's /license.php for crm, then: refreshd renew acme",
            "no address is made up"
        );
    }

    #[test]
    fn a_portal_with_a_client_of_its_own_is_its_own_app() {
        let acme = PortalName::parse("acme").unwrap();
        let settings = |app: &str| Settings {
            app: app.to_owned(),
            domain: None,
            renew_every: None,
            formats: Vec::new(),
            identity: None,
            redirect_uri: None,
            scope: Vec::new(),
            refresh_token_file: None,
        };
        assert_eq!(HintContext::of(&acme, Some(&settings("crm"))).app, "crm");
        assert_eq!(
            HintContext::of(&acme, Some(&settings("portal acme"))).app,
            "acme"
        );
        assert_eq!(HintContext::of(&acme, None).app, "acme");
    }

    #[test]
    fn a_problem_that_was_stored_before_there_were_remedies_is_read() {
        let stored = r#"{"class":"blocked","code":"PAYMENT_REQUIRED","detail":"pay"}"#;
        let problem: Problem = serde_json::from_str(stored).unwrap();
        assert_eq!(serde_json::to_string(&problem).unwrap(), stored);
        let acme = PortalName::parse("acme").unwrap();
        let text = hint(&problem, about(&acme, None));
        assert_eq!(
            text,
            "lift what the reason names, then: refreshd renew acme"
        );
    }

    #[test]
    fn the_sentences_of_the_classes_are_in_order() {
        for &class in Class::VARIANTS {
            assert_eq!(template_error(default_hint(class)), None, "{class:?}");
        }
        assert_eq!(
            (template_error(NO_CODE), template_error(&only_here(2))),
            (None, None)
        );
    }

    #[test]
    fn nobody_is_sent_to_look_for_a_code_that_was_not_there() {
        let acme = PortalName::parse("acme").unwrap();
        let without = Problem::new(Class::Unknown, "status 403".to_owned());
        assert!(
            !hint(&without, about(&acme, None)).contains("code"),
            "{without:?}"
        );
        let with = Problem {
            code: Some("odd".into()),
            ..without
        };
        assert!(hint(&with, about(&acme, None)).contains("look the code up"));
    }

    #[test]
    fn a_client_that_works_for_others_sends_people_to_the_portal_first() {
        let acme = PortalName::parse("acme").unwrap();
        let problem = Problem {
            works_for: Some(2),
            ..Problem::new(Class::ClientRejected, String::new())
        };
        let text = hint(&problem, about(&acme, Some("acme.example")));
        assert!(
            text.starts_with(
                "refused for this portal only; the client works for 2 others: see whether the app crm"
            ),
            "{text}"
        );
        assert!(
            text.contains("on acme.example") && text.contains("client_secret"),
            "{text}"
        );
    }

    #[test]
    fn what_cannot_be_filled_in_or_typed_is_found() {
        for (sentence, expected) in [
            (
                "pay at https://{domain}/, then: refreshd renew {portal}",
                None,
            ),
            (
                "correct {app}, then: systemctl reload refreshd and wait",
                None,
            ),
            ("look at: journalctl -u refreshd -p err", None),
            ("ask whoever runs refreshd", None),
            ("ask {user}", Some(TemplateError::Gap("user"))),
            ("ask {}", Some(TemplateError::Gap(""))),
            ("ask {Portal}", Some(TemplateError::Gap("Portal"))),
            ("ask {portal", Some(TemplateError::Brace)),
            ("ask portal}", Some(TemplateError::Brace)),
            ("ask {{portal}}", Some(TemplateError::Brace)),
            (
                "type: refreshd authorise {portal}",
                Some(TemplateError::Command("authorise")),
            ),
            (
                "systemctl reload refreshd, then: refreshd go",
                Some(TemplateError::Command("go")),
            ),
            ("refreshd --help", Some(TemplateError::Command(""))),
            ("one\ntwo", Some(TemplateError::Control)),
        ] {
            assert_eq!(template_error(sentence), expected, "{sentence}");
        }
    }
}
