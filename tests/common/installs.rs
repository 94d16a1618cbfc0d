//! Portals that install the rig's app: their requests are those of Bitrix24 portals.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{CLIENT_ID, Rig, SOON, domain, eventually, now_millis};

/// A token response of the fake server: a portal, a user and tokens.
pub type Grant = Map<String, Value>;

/// Status, headers and body.
pub type Answer = (u16, reqwest::header::HeaderMap, String);

/// Pairs of a form.
pub type Form = Vec<(String, String)>;

/// The application token, which verifies the events of an installation.
pub const PROOF: &str = "51856fefc120afa4b628cc82d3935cce";

pub fn text(grant: &Grant, field: &str) -> String {
    match &grant[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn owned<const N: usize>(pairs: [(&str, String); N]) -> Form {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The form that a browser posts.
pub fn form_of(grant: &Grant) -> Form {
    owned([
        ("AUTH_ID", text(grant, "access_token")),
        ("AUTH_EXPIRES", "3600".to_owned()),
        ("REFRESH_ID", text(grant, "refresh_token")),
        ("SERVER_ENDPOINT", text(grant, "server_endpoint")),
        ("APPLICATION_TOKEN", "planted".to_owned()),
        ("member_id", text(grant, "member_id")),
        ("status", "L".to_owned()),
        ("PLACEMENT", "DEFAULT".to_owned()),
    ])
}

/// An event with a grant in this part of it.
pub fn event_of(event: &str, part: &str, grant: &Grant) -> Form {
    let mut form = owned([
        ("event", event.to_owned()),
        ("event_handler_id", "17".to_owned()),
        ("data[LANGUAGE_ID]", "de".to_owned()),
        ("ts", (now_millis() / 1000).to_string()),
        ("auth[application_token]", PROOF.to_owned()),
    ]);
    for field in [
        "access_token",
        "refresh_token",
        "expires",
        "member_id",
        "user_id",
        "client_endpoint",
        "server_endpoint",
    ] {
        form.push((format!("{part}[{field}]"), text(grant, field)));
    }
    form
}

/// The event of an uninstallation, sent so many seconds from now.
pub fn removal_of(grant: &Grant, proof: &str, seconds: i64) -> Form {
    owned([
        ("event", "ONAPPUNINSTALL".to_owned()),
        ("data[CLEAN]", "1".to_owned()),
        ("ts", (now_millis() / 1000 + seconds).to_string()),
        ("auth[member_id]", text(grant, "member_id")),
        ("auth[client_endpoint]", text(grant, "client_endpoint")),
        ("auth[application_token]", proof.to_owned()),
    ])
}

/// A form with one value changed, or added.
pub fn with(mut form: Form, name: &str, value: &str) -> Form {
    form.retain(|(known, _)| known != name);
    form.push((name.to_owned(), value.to_owned()));
    form
}

pub fn encoded(form: &Form) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish()
}

impl Rig {
    /// Enables install events of the first app, with these lines in `[apps.crm.install]` and in `[install]`.
    pub fn take_installs(&mut self, rule: &str, listener: &str) {
        self.config.app().more = format!("[apps.crm.install]\n{rule}");
        self.config.more = format!(
            "[install]\nlisten = \"{}\"\n{listener}",
            self.install_address()
        );
    }

    pub fn install_address(&self) -> String {
        self.config.http.replace(":9470", ":9472")
    }

    /// A new grant of a user of the portal.
    pub fn grant_of(&self, portal: &str, user: u64) -> Grant {
        self.server.install_as(&domain(portal), CLIENT_ID, user)
    }

    /// Posts a body to a path of the install listener.
    pub fn post_raw(&self, path: &str, content_type: &str, body: String) -> Answer {
        let url = format!("http://{}{path}", self.install_address());
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client");
        self.runtime.block_on(async {
            let request = client
                .post(&url)
                .header("content-type", content_type)
                .body(body);
            let response = request
                .send()
                .await
                .unwrap_or_else(|error| panic!("{url}: {error:?}"));
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            (
                status,
                headers,
                response.text().await.expect("a whole body"),
            )
        })
    }

    /// Posts a form to the first app's path.
    pub fn post(&self, query: &str, form: &Form) -> Answer {
        let kind = "application/x-www-form-urlencoded";
        self.post_raw(&format!("/install/crm{query}"), kind, encoded(form))
    }

    /// A user opens the app.
    pub fn open(&self, portal: &str, grant: &Grant) -> Answer {
        let query = format!(
            "?DOMAIN={}&PROTOCOL=1&LANG=en&APP_SID=dd8cec11e347088f",
            domain(portal)
        );
        self.post(&query, &form_of(grant))
    }

    /// Number of events with this result.
    pub fn installs(&self, result: &str) -> f64 {
        self.metric(&format!(
            "refreshd_installs_total{{app=\"crm\",result=\"{result}\"}}"
        ))
    }

    /// Waits until so many events have this result.
    #[track_caller]
    pub fn wait_for_installs(&self, result: &str, count: f64) {
        let what = format!("{count} installs are {result}");
        eventually(&what, SOON + Duration::from_secs(15), || {
            self.installs(result) >= count
        });
        assert!(
            (self.installs(result) - count).abs() < 0.1,
            "more than {what}"
        );
    }
}
