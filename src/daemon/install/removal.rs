//! Uninstall events: claims, by the portal or anyone else, that an app was removed.
//!
//! Must not end a grant that may be valid because of an event: a renewal decides, once an hour at most.

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

/// Minimum interval of renewals because of removals, counted separately for removals with the installation's application
/// token.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(3600);

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
        let detail = "the portal reported that the app was removed from it".to_owned();
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
                self.log_skew(&app.name, sent_at);
                for portal in &gone {
                    self.publish(portal).await;
                }
                let ended = gone
                    .iter()
                    .map(|portal| format!("; {portal} did not work and is gone"));
                let ended: String = ended.collect();
                let asked = self.request_renewal(app, member_id, true).await;
                return (
                    Outcome::Uninstalled,
                    format!(
                        "a portal reported that {} was removed from it{ended}{asked}",
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
            format!(
                "{unproven}{}",
                self.request_renewal(app, member_id, false).await
            ),
        )
    }

    /// Requests a renewal, which shows whether the app was removed: once an hour at most, since anyone can send removals,
    /// and whoever was first at an installation knows its application token. Returns a description for the log.
    async fn request_renewal(&self, app: &App, member_id: String, is_proven: bool) -> String {
        let clock = self.shared.clock;
        let key = (app.name.clone(), member_id.clone(), is_proven);
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.retain(|_, at| clock.elapsed(*at) < RENEW_AGAIN_AFTER);
            if asked.contains_key(&key) {
                return "; a renewal was asked for in the last hour already".to_owned();
            }
        }
        match self.renew_of(app, &member_id, false).await {
            Ok(portals) if portals.is_empty() => String::new(),
            Ok(mut portals) => {
                self.asked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(key, clock.tick());
                let waits = portals.iter().any(|(_, at)| *at > clock.now());
                // If the server rejects the portal's access token as well, the renewal is made due at once.
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
                    format!("; {portal} is renewed {when}, which shows whether it is true")
                });
                words.collect()
            }
            Err(error) => format!(
                "; it could not be checked whether it is true: {}",
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

    /// Whether the authorization server rejects an access token of one of these portals: then the renewal, which decides
    /// about the grant, need not wait.
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

    /// Called for a new grant: the next removal is checked at once.
    pub(crate) fn forget_removals(&self, app: &App, member_id: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|(of, member, _), _| of != &app.name || member != member_id);
    }
}
