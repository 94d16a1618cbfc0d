//! The same operations where no daemon runs: this process takes the state's lock and does them itself.
//!
//! Must not run the loop: a command touches the portal it names and no other.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::adapters::state::Tenure;
use crate::adapters::token_files::Format;
use crate::config::Config;
use crate::daemon::alerts::alert_views;
use crate::daemon::api::{authorized, imported_json, outcome_json, recovered};
use crate::daemon::context::Context;
use crate::daemon::error::RunError;
use crate::daemon::grants::authorize::{self, Begun, Polled};
use crate::daemon::grants::disputes::{self, DisputeView};
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::import;
use crate::daemon::grants::kept_replies::{self, KeptReplyView};
use crate::daemon::grants::operations::{self, Driver, ManualDriver};
use crate::daemon::grants::portal_view::PortalView;
use crate::daemon::grants::store;
use crate::daemon::renewal::execute::{ClaimedGrant, exchange};
use crate::daemon::startup::core::{Backends, Core};
use crate::domain::name::PortalName;
use crate::domain::quirks::GrantType;

/// The state without a daemon.
pub struct Offline {
    core: Core,
    exchanges: Arc<Mutex<JoinSet<()>>>,
}

impl Offline {
    /// Opens the state. A daemon that runs is an error that names it.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn open(config: Config) -> Result<Self, RunError> {
        let core = Core::start_as(Tenure::Brief, config, Backends::machine()?).await?;
        crate::daemon::startup::bootstrap::read_files(&core.shared).await;
        Ok(Self {
            core,
            exchanges: Arc::default(),
        })
    }

    /// Whether a configuration brings grants of its own, without a state.
    #[must_use]
    pub fn has_first_grants(config: &Config) -> bool {
        config
            .portals
            .iter()
            .any(|portal| portal.settings.refresh_token_file.is_some())
            || config
                .apps
                .values()
                .any(|app| app.profile.start == GrantType::ClientCredentials)
    }

    /// Every portal, or one.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn list(&self, portal: Option<&str>) -> Result<Vec<PortalView>, OperationError> {
        operations::views(&self.core.shared, portal).await
    }

    /// The portals after this one, some at a time; and the last of them, if there are more.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn page(
        &self,
        after: Option<&str>,
    ) -> Result<(Vec<PortalView>, Option<String>), OperationError> {
        operations::page(&self.core.shared, after).await
    }

    /// As [`operations::renew`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn renew(&self, portal: &str) -> Result<Value, OperationError> {
        let hand = |name| self.renew_by_hand(name);
        let renewal = operations::renew(&self.core.shared, portal, Driver::Inline(&hand)).await?;
        let (view, reply) = operations::outcome(&self.core.shared, portal).await?;
        Ok(outcome_json(&renewal, &view, reply.as_ref()))
    }

    /// As `authorize::begin`.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn begin(
        &self,
        portal: &str,
        loopback: Option<String>,
    ) -> Result<Begun, OperationError> {
        authorize::begin(&self.core.shared, portal, loopback).await
    }

    /// As `authorize::answer`, and what it comes to.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn answer(&self, portal: &str, answer: &str) -> Result<Value, OperationError> {
        let generation = authorize::answer(&self.core.shared, portal, answer).await?;
        authorized(&self.core.shared, portal, generation).await
    }

    /// As `authorize::poll`, and what it comes to; `Err` within is how long to wait.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn poll(
        &self,
        portal: &str,
        state: &str,
    ) -> Result<Result<Value, std::time::Duration>, OperationError> {
        Ok(
            match authorize::poll(&self.core.shared, portal, state).await? {
                Polled::Pending(again_in) => Err(again_in),
                Polled::Authorized(generation) => {
                    Ok(authorized(&self.core.shared, portal, generation).await?)
                }
            },
        )
    }

    /// As [`operations::token`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn token(
        &self,
        portal: &str,
        min_valid: std::time::Duration,
        format: Format,
    ) -> Result<String, OperationError> {
        let hand = |name| self.renew_by_hand(name);
        operations::token(
            &self.core.shared,
            portal,
            min_valid,
            format,
            Driver::Inline(&hand),
        )
        .await
    }

    /// As [`import::import`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn import(
        &self,
        portal: &str,
        text: &str,
        replace: bool,
    ) -> Result<Value, OperationError> {
        let hand = |name| self.prove_by_hand(name);
        let shared = &self.core.shared;
        let imported = import::import(shared, portal, text, replace, Driver::Inline(&hand)).await?;
        let (view, _) = operations::outcome(shared, portal).await?;
        Ok(imported_json(&imported, &view))
    }

    /// As [`import::import_superseded`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn import_aside(
        &self,
        portal: &str,
        at: &str,
        replace: bool,
    ) -> Result<Value, OperationError> {
        let hand = |name| self.prove_by_hand(name);
        let shared = &self.core.shared;
        let imported =
            import::import_superseded(shared, portal, at, replace, Driver::Inline(&hand)).await?;
        let (view, _) = operations::outcome(shared, portal).await?;
        Ok(imported_json(&imported, &view))
    }

    /// As [`disputes::list`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn installs(&self) -> Result<Vec<DisputeView>, OperationError> {
        disputes::list(&self.core.shared).await
    }

    /// As [`disputes::accept`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn accept_install(
        &self,
        portal: &str,
        user: Option<&str>,
    ) -> Result<Value, OperationError> {
        let hand = |name| self.prove_by_hand(name);
        let shared = &self.core.shared;
        let accepted = disputes::accept(shared, portal, user, Driver::Inline(&hand)).await?;
        let (view, _) = operations::outcome(shared, portal).await?;
        Ok(imported_json(&accepted, &view))
    }

    /// As [`disputes::refuse`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn refuse_install(
        &self,
        portal: &str,
        user: Option<&str>,
    ) -> Result<DisputeView, OperationError> {
        disputes::refuse(&self.core.shared, portal, user).await
    }

    /// As `kept::recover`.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn recover(&self, portal: &str) -> Result<Value, OperationError> {
        let generation = kept_replies::recover(&self.core.shared, portal).await?;
        recovered(&self.core.shared, portal, generation).await
    }

    /// As `kept::list`.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn kept(&self, portal: &str) -> Result<Vec<KeptReplyView>, OperationError> {
        kept_replies::list(&self.core.shared, portal).await
    }

    /// As `kept::body`.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn kept_body(&self, portal: &str, number: usize) -> Result<Vec<u8>, OperationError> {
        kept_replies::body(&self.core.shared, portal, number)
            .await
            .map(|body| body.expose().to_vec())
    }

    /// As `kept::discard`.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn discard(&self, portal: &str) -> Result<usize, OperationError> {
        kept_replies::discard(&self.core.shared, portal).await
    }

    /// As [`store::forget`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn forget(&self, portal: &str, revoke: bool) -> Result<bool, OperationError> {
        store::forget(&self.core.shared, portal, revoke).await
    }

    /// As [`alert_views::silence`].
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn silence(
        &self,
        portal: &str,
        span: Option<std::time::Duration>,
    ) -> Result<Option<String>, OperationError> {
        alert_views::silence(&self.core.shared, portal, span).await
    }

    /// Finishes what was sent and closes the state.
    pub async fn close(self) {
        let Self { core, exchanges } = self;
        let mut exchanges = std::mem::take(&mut *exchanges.lock().await);
        while exchanges.join_next().await.is_some() {}
        core.close().await;
    }

    /// As [`Self::renew_by_hand`], of the portal's candidate if there is one.
    fn prove_by_hand(&self, portal: PortalName) -> ManualDriver<'_> {
        Box::pin(async move {
            let is_candidate = import::prove_manually(
                &self.core.shared,
                &portal,
                &mut *self.exchanges.lock().await,
            )
            .await?;
            if is_candidate {
                Ok(())
            } else {
                self.renew_by_hand(portal).await
            }
        })
    }

    /// Claims and sends in a task of its own, so that an interrupted wait does not cancel what was sent.
    fn renew_by_hand(&self, portal: PortalName) -> ManualDriver<'_> {
        let shared: &Arc<Context> = &self.core.shared;
        Box::pin(async move {
            let claimed = shared.state.claim_one(portal, shared.clock.now()).await?;
            if let Some(claimed) = claimed.and_then(ClaimedGrant::from) {
                let shared = Arc::clone(shared);
                self.exchanges.lock().await.spawn(async move {
                    exchange(shared, claimed).await;
                });
            }
            Ok(())
        })
    }
}
