//! Removals: what a portal, or somebody else, tells of an app that was taken out.
//!
//! Must not end a grant that may live because of what was sent: a renewal decides, once an hour at most.

use std::sync::PoisonError;
use std::time::Duration;

use crate::adapters::state::{StateError, Uninstall, Uninstalled};
use crate::config::App;
use crate::daemon::install::worker::{EventResult, Worker};
use crate::domain::error_chain::error_chain;
use crate::domain::install::Outcome;
use crate::domain::install_event::{ClaimedOwner, Removal};
use crate::domain::name::PortalName;
use crate::domain::token_owner::{Verification, verification_urls};
use refreshd_time::{Timestamp, human};
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::Class;

/// A removal has a portal renewed this often at most, counted apart for those that have the proof of the installation.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

impl Worker {
    pub(crate) async fn remove(&self, app: &App, removal: Removal) -> EventResult {
        let Removal {
            member_id,
            host: _,
            application_token,
            sent_at,
        } = removal;
        let remedy = app
            .profile
            .errors
            .iter()
            .find(|rule| rule.class == Class::Gone)
            .and_then(|rule| rule.remedy.clone());
        let detail = "the portal told that the app was removed from it".to_owned();
        let problem = Problem {
            remedy,
            ..Problem::new(Class::Gone, detail)
        };
        let now = self.shared.clock.now();
        let store = || {
            self.shared.state.uninstall(Uninstall {
                app: app.name.clone(),
                binding: app.binding(None),
                member_id: member_id.clone(),
                application_token: application_token.clone(),
                sent_at,
                now,
                problem: problem.clone(),
            })
        };
        let unproven = match self.until_durable(store).await {
            Err(error) => {
                return (
                    Outcome::NotStored,
                    format!("the state does not take it: {}", error_chain(&error)),
                );
            }
            Ok(Uninstalled::Replayed) => {
                let text =
                    "the removal came before, is older than the last install, or of another day";
                return (Outcome::Replayed, text.to_owned());
            }
            Ok(Uninstalled::Proven { gone }) => {
                self.say_skew(&app.name, sent_at);
                for portal in &gone {
                    self.publish(portal).await;
                }
                let ended = gone
                    .iter()
                    .map(|portal| format!("; {portal} did not work and is gone"));
                let ended: String = ended.collect();
                let asked = self.ask_for(app, member_id, true).await;
                return (
                    Outcome::Uninstalled,
                    format!(
                        "a portal told that {} was removed from it{ended}{asked}",
                        app.name
                    ),
                );
            }
            Ok(Uninstalled::Unknown) => "no application token of such an installation is known",
            Ok(Uninstalled::OtherToken) => "its application token is not that of the installation",
            Ok(Uninstalled::Disputed) => {
                "two users say that the installation is theirs, so its application token proves nothing"
            }
            Ok(Uninstalled::Bare) => {
                "a removal without an application token and a time proves nothing"
            }
        };
        (
            Outcome::Forged,
            format!("{unproven}{}", self.ask_for(app, member_id, false).await),
        )
    }

    /// Whether the app was removed is decided by a renewal, once an hour at most, since anybody can tell of removals, and
    /// whoever was first at an installation knows its proof. What is done, in words.
    async fn ask_for(&self, app: &App, member_id: String, is_proven: bool) -> String {
        let clock = self.shared.clock;
        let of = (app.name.clone(), member_id.clone(), is_proven);
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.retain(|_, at| clock.elapsed(*at) < ASK_AGAIN);
            if asked.contains_key(&of) {
                return "; a renewal was asked for in the last hour already".to_owned();
            }
        }
        match self.renew_of(app, &member_id, false).await {
            Ok(portals) if portals.is_empty() => String::new(),
            Ok(mut portals) => {
                self.asked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(of, clock.tick());
                let waits = portals.iter().any(|(_, at)| *at > clock.now());
                // Where the server denies the portal's token as well, the renewal is not left for later.
                if is_proven && waits && self.is_denied(app, &member_id, &portals).await {
                    portals = self
                        .renew_of(app, &member_id, true)
                        .await
                        .unwrap_or(portals);
                }
                self.shared.due.notify_one();
                let words = portals.iter().map(|(portal, at)| {
                    let wait = at.until(clock.now());
                    let when = if wait.is_zero() {
                        "now".to_owned()
                    } else {
                        format!("in {}", human(wait))
                    };
                    format!("; {portal} is renewed {when}, which tells whether it is true")
                });
                words.collect()
            }
            Err(error) => format!(
                "; it could not be seen whether it is true: {}",
                error_chain(&error)
            ),
        }
    }

    async fn renew_of(
        &self,
        app: &App,
        member_id: &str,
        at_once: bool,
    ) -> Result<Vec<(PortalName, Timestamp)>, StateError> {
        let (name, now) = (app.name.clone(), self.shared.clock.now());
        self.shared
            .state
            .request_renewal_of_member(name, app.binding(None), member_id.to_owned(), at_once, now)
            .await
    }

    /// Whether the authorization server does not take an access token of one of these portals any more: then a renewal,
    /// which says the same of the grant, need not wait.
    async fn is_denied(
        &self,
        app: &App,
        member_id: &str,
        portals: &[(PortalName, Timestamp)],
    ) -> bool {
        for (portal, _) in portals {
            let Ok(Some(found)) = self.shared.state.portal(portal.clone()).await else {
                continue;
            };
            let Some(grant) = found.grant else { continue };
            let Some(access) = grant.tokens.access else {
                continue;
            };
            let server = Some(grant.token_url);
            let claims = ClaimedOwner {
                member_id: member_id.to_owned(),
                host: None,
                user_id: None,
                server,
            };
            let Some(place) = verification_urls(&app.profile, &claims).into_iter().next() else {
                continue;
            };
            if matches!(
                self.verify_owner_of(&place, app, &access.token, &claims)
                    .await,
                Some(Verification::Forged(_))
            ) {
                return true;
            }
        }
        false
    }

    /// A new grant: the next removal is looked into at once.
    pub(crate) fn forget_removals(&self, app: &App, member_id: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|(of, member, _), _| of != &app.name || member != member_id);
    }
}
