//! `refreshd provider`: lists the provider profiles, prints an effective one, and the keys that a profile may have.
//!
//! Must not contact a server: an issuer's metadata is loaded when it is used.

use std::path::Path;

use clap::Args;

use super::common::Common;
use super::connect;
use super::exit::{CommandError, Exit};
use super::terminal;
use super::terminal::TableStyle;
use crate::config::{self, Config};
use crate::domain::similar::hint;
use refreshd_token_client::provider::Profile;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd provider show bitrix24\n  refreshd provider show crm                 with the overrides of the app of that name\n  refreshd provider show google > intranet.toml\n\nExit codes: 0 done, 64 usage, 66 unknown provider, 74 output not written, 78 configuration."
)]
pub(super) struct ShowArguments {
    /// A provider, or an app of the configuration.
    name: String,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd provider list\n\nExit codes: 0 done, 64 usage, 74 output not written, 78 configuration."
)]
pub(super) struct ListArguments {}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd provider keys                     a table to begin a profile of your own with\n  refreshd provider keys --markdown          the reference page\n\nExit codes: 0 done, 64 usage."
)]
pub(super) struct KeysArguments {
    /// Print a table in Markdown instead of TOML.
    #[arg(long)]
    markdown: bool,
}

pub(super) fn keys(arguments: &KeysArguments) -> Exit {
    let KeysArguments { markdown } = arguments;
    let text = if *markdown {
        config::provider_keys_markdown()
    } else {
        config::annotated_provider("NAME")
    };
    terminal::print(&text);
    Exit::Done
}

pub(super) fn show(common: &Common, arguments: &ShowArguments) -> Result<Exit, CommandError> {
    let ShowArguments { name } = arguments;
    let config = configuration(common)?;
    let configured = config.as_ref().and_then(|config| {
        let app = config.apps.get(name).map(|app| &app.profile);
        app.or_else(|| config.profiles.get(name)).cloned()
    });
    let Some(profile) = configured.or_else(|| config::built_in_profile(name)) else {
        let mut known: Vec<&str> = config::built_in_providers().collect();
        if let Some(config) = &config {
            known.extend(
                config
                    .apps
                    .keys()
                    .chain(config.profiles.keys())
                    .map(String::as_str),
            );
        }
        let hint = hint(name, known);
        return Err(CommandError::new(
            Exit::NoInput,
            format!("no provider or app is named {name}{hint}"),
        ));
    };
    terminal::print(&config::profile_as_toml(&profile));
    Ok(Exit::Done)
}

pub(super) fn list(common: &Common, _: &ListArguments) -> Result<Exit, CommandError> {
    let config = configuration(common)?;
    let mut rows = Vec::new();
    let row = |name: &str, profile: &Profile, from: &str| {
        let at = profile.issuer.as_ref().unwrap_or(&profile.token_url);
        [name, from, at]
            .map(|text| (text.to_owned(), TableStyle::Plain))
            .to_vec()
    };
    for name in config::built_in_providers() {
        rows.extend(config::built_in_profile(name).map(|profile| row(name, &profile, "built in")));
    }
    for (name, profile) in config.iter().flat_map(|config| &config.profiles) {
        if !config::built_in_providers().any(|built_in| built_in == name) {
            rows.push(row(name, profile, "configuration"));
        }
    }
    terminal::print(&terminal::table(
        &["PROVIDER", "FROM", "AUTHORIZATION SERVER"],
        rows,
    ));
    Ok(Exit::Done)
}

/// The configuration, if there is one: the built-in providers need none.
fn configuration(common: &Common) -> Result<Option<Config>, CommandError> {
    let usual = common.config == Path::new(config::DEFAULT_PATH);
    if usual && !common.config.exists() {
        Ok(None)
    } else {
        connect::load(common).map(Some)
    }
}
