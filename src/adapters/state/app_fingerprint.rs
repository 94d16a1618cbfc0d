//! Identity of an app's client in the state.

use crate::domain::install::InstallContext;
use refreshd_secrets::Fingerprint;

/// Fingerprint of a client, without its secret: if it changes, a refusal ends.
#[derive(Debug, Clone)]
pub struct AppFingerprint {
    /// The app's name.
    pub name: String,
    /// Of its id, secret and token endpoint.
    pub fingerprint: Fingerprint,
    /// Rules for its installs, if the app accepts them.
    pub install: Option<InstallContext>,
}
