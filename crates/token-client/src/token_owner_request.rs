//! Request for the owner of an access token.
//!
//! Must not be given an address from outside: the caller chooses one of the profile. Must not interpret the response.

use std::time::Duration;

use reqwest::header::ACCEPT;

use super::authorization_server::{AuthorizationServer, read_body};
use refreshd_http::cause;
use refreshd_secrets::AccessToken;

impl AuthorizationServer {
    /// Status and body of the response.
    ///
    /// # Errors
    /// The reason why there is none.
    pub async fn token_owner(
        &self,
        url: &str,
        token: &AccessToken,
        timeout: Duration,
    ) -> Result<(u16, Vec<u8>), String> {
        let form = [("auth", token.expose())];
        let request = self
            .client()?
            .post(url)
            .form(&form)
            .timeout(timeout)
            .header(ACCEPT, "application/json");
        let response = request.send().await.map_err(|error| {
            // The server of the address is named by the caller.
            let way = self.network.way_to(url);
            match way.trim_start() {
                "" => cause(&error),
                way => format!("{way}: {}", cause(&error)),
            }
        })?;
        let status = response.status().as_u16();
        Ok((status, read_body(response).await?))
    }
}
