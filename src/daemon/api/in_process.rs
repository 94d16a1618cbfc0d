//! The API without a daemon: the command's own process locks the state, or opens a copy of it, and handles the requests
//! itself.
//!
//! Must not run the loops: a command affects only the portal that it names.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use tower_service::Service as _;

use crate::adapters::state::Tenure;
use crate::config::Config;
use crate::daemon::api::control::Control;
use crate::daemon::api::peer::Peer;
use crate::daemon::api::routes::routes;
use crate::daemon::error::RunError;
use crate::daemon::grants::driver::{Driver, InlineDriver};
use crate::daemon::startup::bootstrap;
use crate::daemon::startup::core::{Backends, Core};
use crate::daemon::startup::read_only::ReadOnlyState;
use crate::domain::error_chain::error_chain;

/// The API over the state that this process has opened.
pub struct InProcess {
    control: Control,
    routes: Router,
    opened: Opened,
}

enum Opened {
    /// The state, locked.
    State(Core, Arc<InlineDriver>),
    /// A copy of the state, for which nothing was locked, created or changed.
    Copy(ReadOnlyState),
}

impl InProcess {
    /// Opens and locks the state. A running daemon is an error that names it.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn open(config: Config) -> Result<Self, RunError> {
        let backends = Backends::machine(&config)?;
        let core = Core::start_as(Tenure::Brief, config, backends).await?;
        bootstrap::read_files(&core.shared).await;
        let driver = Arc::new(InlineDriver::new(Arc::clone(&core.shared)));
        let control = Control::without_daemon(
            Arc::clone(&core.shared),
            Driver::Inline(Arc::clone(&driver)),
        );
        Ok(Self {
            routes: routes(control.clone()),
            control,
            opened: Opened::State(core, driver),
        })
    }

    /// Opens a copy of the state, read-only. A daemon that has locked the state is an error that names it.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn open_read_only(config: Config) -> Result<Self, RunError> {
        let copy = ReadOnlyState::at(config).await?;
        let control = Control::without_daemon(Arc::clone(copy.shared()), Driver::ReadOnly);
        Ok(Self {
            routes: routes(control.clone()),
            control,
            opened: Opened::Copy(copy),
        })
    }

    /// Handles a request like a daemon.
    ///
    /// # Errors
    /// As text, where the response breaks off.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = path
            .parse()
            .map_err(|_| "its name cannot be asked for".to_owned())?;
        request.extensions_mut().insert(Peer::own());
        let Ok(response) = self.routes.clone().call(request).await;
        let status = response.status();
        match response.into_body().collect().await {
            Ok(body) => Ok((status, body.to_bytes().to_vec())),
            Err(error) => Err(error_chain(&error)),
        }
    }

    /// Finishes pending requests and closes the state.
    pub async fn close(self) {
        let Self {
            control,
            routes,
            opened,
        } = self;
        control.finish_changes().await;
        drop((control, routes));
        match opened {
            Opened::State(core, driver) => {
                driver.finish().await;
                drop(driver);
                core.close().await;
            }
            Opened::Copy(copy) => copy.close().await,
        }
    }
}
