//! Writes a configuration and stores grants through the library, like an import but faster.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use refreshd::adapters::state::{NewGrant, State, StoreOutcome, lock};
use refreshd::config::{self, App, Config, Environment, PortalConfig};
use refreshd::domain::import::{self, ImportedGrant};
use refreshd::domain::name::PortalName;
use refreshd::domain::portal::{GrantStatus, Phase};
use refreshd::domain::settings::Configured;
use refreshd_time::Timestamp;
use refreshd_time::clock::Clock;
use refreshd_token_client::renew_every::RenewEvery;
use serde_json::json;
use tokio::task::JoinSet;

use super::place::Place;
use super::roles::{CLIENT_ID, CLIENT_SECRET, domain, grants, name};

/// Portals in one file of the configuration.
const PORTALS_PER_FILE: usize = 1_000;
/// Number of grants to store concurrently.
const MAX_CONCURRENT: usize = 2_000;
/// Time before the first escalation is due.
const ESCALATION_DELAY: Duration = Duration::from_secs(1_800);

/// The grants to store.
pub enum Seed {
    /// The server's grants, due now.
    Granted(usize),
    /// Made-up grants, due in twenty minutes.
    Fresh(usize),
}

/// Creates configuration and state; returns the portals.
#[tokio::main]
pub async fn seed(place: &Place, url: &str, seed: &Seed) -> Result<Vec<PortalName>> {
    let (Seed::Granted(portals) | Seed::Fresh(portals)) = *seed;
    configure(place, url, portals)?;
    let config = match config::load(&place.config(), &Environment::of_process()) {
        Ok(loaded) => loaded.config,
        Err(problems) => anyhow::bail!("{problems}"),
    };
    let texts = match seed {
        Seed::Granted(_) => grants(place.dir())?,
        Seed::Fresh(_) => (0..portals)
            .map(|number| fake_response(&name(number)))
            .collect(),
    };
    ensure!(
        texts.len() == portals && config.portals.len() == portals,
        "portals and grants differ in number"
    );
    let now = Clock::system().now();
    let next_attempt_at = match seed {
        Seed::Granted(_) => now,
        Seed::Fresh(_) => now + Duration::from_secs(1_200),
    };
    store(place, &config, &texts, next_attempt_at, now).await?;
    Ok(config
        .portals
        .into_iter()
        .map(|portal| portal.name)
        .collect())
}

fn configure(place: &Place, url: &str, portals: usize) -> Result<()> {
    place.write("app.secret", CLIENT_SECRET)?;
    let main = format!(
        "state = {:?}\ntoken_dir = {:?}\ncontrol_socket = {:?}\ninclude = [\"portals.d/*.toml\"]\n\
         [renewal]\nrate = 100000\n\
         [apps.storm]\nprovider = \"bitrix24\"\nclient_id = \"{CLIENT_ID}\"\nclient_secret_file = \"app.secret\"\n\
         token_url = \"{url}\"\n",
        place.state(),
        place.tokens(),
        place.socket("control"),
    );
    place.write("refreshd.toml", &main)?;
    for first in (0..portals).step_by(PORTALS_PER_FILE) {
        let mut text = String::new();
        for number in first..(first + PORTALS_PER_FILE).min(portals) {
            let name = name(number);
            writeln!(
                text,
                "[portals.{name}]\napp = \"storm\"\ndomain = \"{}\"\n",
                domain(&name)
            )?;
        }
        place.write(&format!("portals.d/{first:06}.toml"), &text)?;
    }
    Ok(())
}

/// A made-up token response like Bitrix24's.
fn fake_response(name: &str) -> String {
    let token = |kind: char| format!("{kind}{name:0>69}");
    let expires = Clock::system().now().secs() + 3_600;
    json!({
        "access_token": token('a'), "refresh_token": token('r'), "expires": expires, "expires_in": 3_600,
        "scope": "app", "domain": "oauth.bitrix.info", "server_endpoint": "https://oauth.bitrix.info/rest/",
        "client_endpoint": format!("https://{}/rest/", domain(name)), "status": "L",
        "member_id": format!("{name:0>32}"), "user_id": 1,
    })
    .to_string()
}

async fn store(
    place: &Place,
    config: &Config,
    texts: &[String],
    next_attempt_at: Timestamp,
    now: Timestamp,
) -> Result<()> {
    let (state, writer, reader) = State::open(&place.state(), lock(&place.state())?)?;
    let mut workers = JoinSet::new();
    workers.spawn_blocking(move || writer.run());
    workers.spawn_blocking(move || reader.run());
    let app = config.apps.values().next().context("an app")?;
    let portals: Vec<_> = config
        .portals
        .iter()
        .map(|portal| configured(portal, app))
        .collect();
    state.reconcile(portals.clone(), Vec::new(), now).await?;
    let grants: Vec<_> = portals.iter().zip(texts).collect();
    for grants in grants.chunks(MAX_CONCURRENT) {
        let mut together = JoinSet::new();
        for (portal, text) in grants {
            let intake = import::parse(text.as_bytes(), &app.profile, now)?;
            together.spawn(import(
                state.clone(),
                (*portal).clone(),
                intake,
                next_attempt_at,
                now,
            ));
        }
        while let Some(done) = together.join_next().await {
            done??;
        }
    }
    drop(state);
    while workers.join_next().await.is_some() {}
    Ok(())
}

fn configured(portal: &PortalConfig, app: &App) -> Configured {
    let every = portal
        .settings
        .renew_every
        .map_or(app.profile.renew_every, RenewEvery::from);
    Configured {
        name: portal.name.clone(),
        settings: portal.settings.clone(),
        every: every.into(),
        token_url: portal.renewal_url(app),
        allowed_urls: [portal.renewal_url(app)].into(),
        binding: app.binding(portal.settings.domain.as_deref()),
    }
}

async fn import(
    state: State,
    portal: Configured,
    intake: ImportedGrant,
    next_attempt_at: Timestamp,
    now: Timestamp,
) -> Result<()> {
    let ImportedGrant {
        tokens, identity, ..
    } = intake;
    ensure!(tokens.access.is_some(), "a grant without an access token");
    let Configured {
        name,
        token_url,
        binding,
        ..
    } = portal;
    let status = GrantStatus {
        phase: Phase::Fresh,
        renew_at: Some(next_attempt_at),
        next_attempt_at: Some(next_attempt_at),
    };
    let seen = status.clone();
    let grant = NewGrant {
        portal: name.clone(),
        tokens,
        identity,
        bound_to: binding,
        token_url,
        status,
        proven: None,
        now,
    };
    let StoreOutcome::Stored(generation) = state.store_grant(grant).await? else {
        anyhow::bail!("{name}: the grant was not stored");
    };
    // As the escalator leaves it: nothing is notified, and the next step is far away.
    ensure!(
        state
            .set_notified(
                name,
                generation,
                (seen, Vec::new()),
                Vec::new(),
                Some(now + ESCALATION_DELAY)
            )
            .await?,
        "it changed meanwhile"
    );
    Ok(())
}
