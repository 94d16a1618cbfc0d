//! Secret types, and masking of secrets in external text.

mod hidden;
pub mod mask;
mod secret;
mod secret_matcher;

pub use secret::{
    AccessToken, ApplicationToken, AuthorizationCode, ChannelSecret, ClientSecret, CodeVerifier,
    DeviceCode, Fingerprint, ProxyAddress, RefreshToken, ReplyBody,
};
