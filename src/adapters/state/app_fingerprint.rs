//! What the state knows of a client.

use crate::domain::install::InstallContext;
use refreshd_secrets::Fingerprint;

/// What a client is, without its secret: a change of it ends a refusal.
#[derive(Debug, Clone)]
pub struct AppFingerprint {
    /// The app's name.
    pub name: String,
    /// Of its id, secret and token endpoint.
    pub fingerprint: Fingerprint,
    /// What becomes of its installs, if they are taken in.
    pub install: Option<InstallContext>,
}
