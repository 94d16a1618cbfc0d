//! The store through its handle, on a real file: what is claimed, recorded, taken in and refused.

mod alerting;
mod candidates;
mod claiming;
mod clients;
mod configuration;
mod counting;
mod files;
mod held;
mod installs;
mod newcomers;
mod recording;
mod reserving;
mod taking;
mod unreadable;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinHandle;

use std::path::Path;

use super::*;
use crate::domain::name::PortalName;
use crate::domain::portal::{Grant, Kind, Phase, binding};
use crate::domain::portal::{GrantStatus, Portal};
use crate::domain::renewal::Renewed;
use crate::domain::settings::Configured;
use crate::domain::settings::{RenewSetting, Settings};
use crate::domain::token_format::TokenFormat;
use refreshd_secrets::Fingerprint;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::Class;
use refreshd_token_client::token::Generation;
use refreshd_token_client::token::{Access, Credential, Details, Tokens, Validity};

const URL: &str = "https://oauth.example/token";
const OTHER: &str = "https://other.example/token";
const HOUR: i64 = 3600;

/// A state in a folder of its own, with its workers.
struct Rig {
    folder: tempfile::TempDir,
    state: State,
    workers: [JoinHandle<()>; 2],
}

impl Rig {
    fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
    }

    /// With these portals of the app `crm`, each with a grant of that name that is due at `at(0)`.
    async fn with(names: &[&str]) -> Self {
        let rig = Self::new();
        rig.configure(names).await;
        for name in names {
            rig.take(name, name, HOUR).await;
        }
        rig
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a test has no daemon to spawn the workers"
    )]
    fn open(folder: tempfile::TempDir) -> Self {
        let path = path_in(&folder);
        let (state, writer, reader) = State::open(&path, lock(&path).unwrap()).unwrap();
        let workers = [
            tokio::task::spawn_blocking(move || writer.run()),
            tokio::task::spawn_blocking(move || reader.run()),
        ];
        Self {
            folder,
            state,
            workers,
        }
    }

    /// Ends the workers, as a stop does.
    async fn close(self) -> tempfile::TempDir {
        let Self {
            folder,
            state,
            workers,
        } = self;
        drop(state);
        for worker in workers {
            worker.await.unwrap();
        }
        folder
    }

    async fn reopen(self) -> Self {
        Self::open(self.close().await)
    }

    async fn configure(&self, names: &[&str]) -> Reconciled {
        self.follow(names.iter().map(|name| configured(name)).collect())
            .await
    }

    async fn follow(&self, portals: Vec<Configured>) -> Reconciled {
        self.state
            .reconcile(portals, vec![app("crm", "1")], at(0))
            .await
            .unwrap()
    }

    /// Takes in a grant that is due at `at(0)` and expires at `at(expires)`.
    async fn take(&self, name: &str, refresh: &str, expires: i64) -> StoreOutcome {
        self.state
            .store_grant(grant(name, refresh, expires))
            .await
            .unwrap()
    }

    async fn claim(&self, secs: i64, limit: usize) -> Claims {
        self.state
            .claim_due(at(secs), vec![(URL.to_owned(), limit)])
            .await
            .unwrap()
    }

    /// Claims what is due, and says which.
    async fn claimed(&self, secs: i64) -> Vec<String> {
        names(&self.claim(secs, 100).await.portals)
    }

    async fn claim_only(&self, secs: i64) -> Portal {
        let mut claims = self.claim(secs, 100).await;
        assert_eq!(claims.portals.len(), 1, "{:?}", claims.portals);
        claims.portals.remove(0)
    }

    async fn claim_by_name(&self, portal: &str) -> Portal {
        self.state
            .claim_one(name(portal), at(0))
            .await
            .unwrap()
            .unwrap()
    }

    async fn record(&self, portal: &Portal, secs: i64, outcome: RecordOutcome) -> Recorded {
        self.record_client(portal, secs, outcome, ClientVerdict::Unknown)
            .await
    }

    async fn record_client(
        &self,
        portal: &Portal,
        secs: i64,
        outcome: RecordOutcome,
        client: ClientVerdict,
    ) -> Recorded {
        let record = RenewalRecord {
            portal: portal.name.clone(),
            app: portal.settings.as_ref().unwrap().app.clone(),
            claim: portal.grant.as_ref().unwrap().claim.unwrap(),
            outcome,
            told: Vec::new(),
            told_meanwhile: KeepNotified::RefreshEnd,
            climb_at: None,
            now: at(secs),
            client,
            bought_by: None,
        };
        self.state.record(Arc::new(record)).await.unwrap()
    }

    async fn portal(&self, portal: &str) -> Portal {
        self.state.portal(name(portal)).await.unwrap().unwrap()
    }

    async fn grant(&self, portal: &str) -> Grant {
        self.portal(portal).await.grant.unwrap()
    }

    /// What was kept aside: portal, why, refresh token.
    fn aside(&self) -> Vec<(String, String, String)> {
        let connection = schema::open_reader(&self.path()).unwrap();
        let mut statement = connection
            .prepare("SELECT portal, why, refresh_token FROM aside ORDER BY id")
            .unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    fn path(&self) -> PathBuf {
        path_in(&self.folder)
    }
}

fn path_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("state.db")
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + secs)
}

fn name(text: &str) -> PortalName {
    PortalName::parse(text).unwrap()
}

fn names(portals: &[Portal]) -> Vec<String> {
    portals
        .iter()
        .map(|portal| portal.name.to_string())
        .collect()
}

fn configured(portal: &str) -> Configured {
    Configured {
        name: name(portal),
        settings: Settings {
            app: "crm".to_owned(),
            domain: None,
            renew_every: None,
            formats: vec![TokenFormat::Json],
            identity: None,
            redirect_uri: None,
            scope: Vec::new(),
            refresh_token_file: None,
        },
        every: RenewSetting::AgeMillis(1_500_000),
        token_url: URL.to_owned(),
        allowed_urls: Arc::new([URL.to_owned(), OTHER.to_owned()]),
        binding: binding("example", "client"),
    }
}

fn app(name: &str, what: &str) -> AppFingerprint {
    AppFingerprint {
        name: name.to_owned(),
        fingerprint: Fingerprint::of(what.as_bytes()),
        install: None,
    }
}

fn tokens(refresh: &str, issued: i64, expires: i64) -> Tokens {
    Tokens {
        access: Some(Access {
            token: AccessToken::new(&format!("access of {refresh}")).unwrap(),
            token_type: "Bearer".to_owned(),
            issued_at: at(issued),
            expires_at: at(expires),
        }),
        credential: Credential::Refresh(RefreshToken::new(refresh).unwrap()),
        details: Details {
            scope: vec!["crm".to_owned()],
            ..Details::default()
        },
        validity: Validity::default(),
    }
}

fn grant(portal: &str, refresh: &str, expires: i64) -> NewGrant {
    NewGrant {
        proven: None,
        portal: name(portal),
        tokens: tokens(refresh, 0, expires),
        identity: Some(format!("member of {portal}")),
        bound_to: binding("example", "client"),
        token_url: URL.to_owned(),
        standing: GrantStatus {
            phase: Phase::Fresh,
            renew_at: Some(at(0)),
            next_attempt_at: Some(at(0)),
        },
        now: at(0),
    }
}

/// A new pair that came at `secs` and is renewed 1500 s later.
fn renewed(refresh: &str, secs: i64) -> RecordOutcome {
    let due = Some(at(secs + 1500));
    RecordOutcome::Renewed(Box::new(Renewed {
        tokens: tokens(refresh, secs, secs + HOUR),
        standing: GrantStatus {
            phase: Phase::Fresh,
            renew_at: due,
            next_attempt_at: due,
        },
        identity: None,
        token_url: None,
        renamed_from: None,
    }))
}

fn problem(class: Class) -> Problem {
    Problem {
        code: Some("code".to_owned()),
        ..Problem::new(class, "words".to_owned())
    }
}

/// A failure since `at(0)` that is tried again at `act`.
fn retrying(act: i64) -> RecordOutcome {
    let phase = Phase::Retrying {
        attempt: 1,
        since: at(0),
        problem: problem(Class::Transient),
    };
    RecordOutcome::Kept(GrantStatus {
        phase,
        renew_at: Some(at(0)),
        next_attempt_at: Some(at(act)),
    })
}

/// The names of a listing, page by page.
async fn pages_of(mut listing: PortalPages) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    while let Some(page) = listing.next().await.unwrap() {
        pages.push(names(&page.portals));
    }
    pages
}

fn refresh_of(grant: &Grant) -> &str {
    grant.tokens.credential.refresh().unwrap().expose()
}

fn generation(count: u64) -> Recorded {
    Recorded::Done {
        generation: Generation(count),
        client_changed: false,
        ruling: None,
        told_before: Vec::new(),
    }
}
