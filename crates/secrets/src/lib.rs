//! Secrets as types, and words from outside made fit to be shown, with secrets taken out.

pub mod mask;
mod secret;
mod secret_matcher;

pub use secret::{
    AccessToken, ApplicationToken, AuthorizationCode, ChannelSecret, ClientSecret, CodeVerifier,
    DeviceCode, Fingerprint, RefreshToken, ReplyBody,
};
