//! `refreshd init`: a first configuration, from a few questions or from options, with the owner and the modes that the service needs.
//!
//! Must not overwrite anything, nor write anything if one answer is not usable: what is written has passed the checks before.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};

use super::common::Common;
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::adapters::new_file::{make_directory, share, write_new};
use crate::adapters::service_manager;
use crate::config::{self, DEFAULT_PATH, Environment};
use crate::domain::name::PortalName;
use crate::domain::similar::hint;
use refreshd_token_client::provider::{ClientAuthentication, DOMAIN, Profile};

/// Name of the configuration in its directory.
const FILE: &str = "refreshd.toml";
/// Of the configuration and of secrets: root writes, the service reads.
const FILE_MODE: u32 = 0o640;
/// Of their directory: what is written into it gets the service's group.
const DIRECTORY_MODE: u32 = 0o2750;
/// The longest secret.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

#[derive(Debug, Args)]
#[command(
    after_help = "Asks for what no option says, if there is a terminal. Nothing that exists is overwritten, and nothing is written if an answer is not usable. As root, the files belong to root and the service's group (0640), and a new directory is 2750; a secret from elsewhere is copied into it.\n\nExamples:\n  sudo refreshd init\n  sudo refreshd init --client-id local.55d32b338a90f0.23817 --client-secret-file crm.secret \\\n    --portal acme=acme.bitrix24.com --portal globex=globex.bitrix24.com\n  refreshd init --dir ./trial --provider google --client-id ID --client-secret-file - \\\n    --portal mail < google.secret\n\nExit codes: 0 written, 64 usage: an answer is missing or not usable, or a file is there already, 66 no such secret file, 74 output not written, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// The directory of the configuration; by default that of --config.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Do not ask: what no option says has its default, or is an error.
    #[arg(long)]
    yes: bool,
    /// The provider: see refreshd provider list.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// The client identifier of the app.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// The file with the client secret alone; - is standard input.
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// A portal and its host, or its name alone where the provider has one host; may be repeated.
    #[arg(long = "portal", value_name = "NAME=DOMAIN")]
    portals: Vec<String>,
    /// The directory of the token files.
    #[arg(long, value_name = "DIR")]
    token_dir: Option<PathBuf>,
}

/// The client secret, and where it is to be.
enum Secret {
    /// A public client has none.
    None,
    /// In this file of the directory already.
    There(PathBuf),
    /// To be written.
    New(SecretString),
}

/// The usable answers.
struct Answers {
    provider: String,
    client_id: String,
    secret: Secret,
    portals: Vec<(PortalName, Option<String>)>,
    token_dir: PathBuf,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let file = match &arguments.dir {
        Some(dir) => dir.join(FILE),
        None => common.config.clone(),
    };
    let file = std::path::absolute(&file).unwrap_or(file);
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    if file.symlink_metadata().is_ok() {
        let message = format!(
            "{} is there already, and nothing is overwritten: edit it, or choose another --dir",
            file.display()
        );
        return Err(CommandError::new(Exit::Usage, message));
    }
    let answers = answers(arguments, &directory)?;
    let secret_file = match &answers.secret {
        Secret::None => None,
        Secret::There(path) => Some(path.clone()),
        Secret::New(_) => Some(directory.join(format!("{}.secret", answers.provider))),
    };
    if let (Secret::New(_), Some(path)) = (&answers.secret, &secret_file)
        && path.symlink_metadata().is_ok()
    {
        let message = format!(
            "{} is there already, and nothing is overwritten: use it (--client-secret-file {0}), or move it away",
            path.display()
        );
        return Err(CommandError::new(Exit::Usage, message));
    }
    let text = text(&answers, secret_file.as_deref());
    let environment = Environment::of_process();
    config::load_text(&file, &text, &environment.clone().without_secrets()).map_err(
        |problems| {
            let messages: Vec<_> = problems
                .0
                .iter()
                .map(|problem| problem.message.as_str())
                .collect();
            unusable(&messages.join("\n"))
        },
    )?;
    if asks(arguments) {
        terminal::eprintln(&format!("\n{text}"));
        if !terminal::confirm(&format!("Write this to {}?", file.display())) {
            return Err(unusable("you did not say yes"));
        }
    }
    let group = service_group().await;
    write(&file, &text, &answers.secret, secret_file.as_deref(), group)?;
    // What was written is what the daemon reads; nothing of it stays if it is not taken.
    if let Err(problems) = config::load(&file, &environment) {
        let _ = std::fs::remove_file(&file);
        if let (Secret::New(_), Some(path)) = (&answers.secret, &secret_file) {
            let _ = std::fs::remove_file(path);
        }
        return Err(CommandError::new(Exit::Configuration, problems.to_string()));
    }
    next(&file, &answers, group);
    Ok(Exit::Done)
}

fn unusable(why: &str) -> CommandError {
    CommandError::new(Exit::Usage, format!("nothing was written: {why}"))
}

/// Returns whether there is a terminal for questions.
fn asks(arguments: &Arguments) -> bool {
    let is_input_taken = arguments
        .client_secret_file
        .as_deref()
        .is_some_and(|path| path == Path::new("-"));
    !arguments.yes && !is_input_taken && std::io::stdin().is_terminal()
}

/// What was given, or what is answered.
fn answers(arguments: &Arguments, directory: &Path) -> Result<Answers, CommandError> {
    let asks = asks(arguments);
    let ask = |question: &str, default: Option<&str>, option: &str| {
        let answer = if asks {
            terminal::ask(question, default)
        } else {
            default.map(str::to_owned)
        };
        answer
            .filter(|answer| !answer.is_empty())
            .ok_or_else(|| unusable(&format!("{option} is missing")))
    };
    let provider = match &arguments.provider {
        Some(provider) => provider.clone(),
        None => ask("Provider", Some("bitrix24"), "--provider")?,
    };
    let known: Vec<_> = config::built_in_providers().collect();
    let profile = known
        .contains(&provider.as_str())
        .then(|| config::built_in_profile(&provider))
        .flatten()
        .ok_or_else(|| {
            let hint = hint(&provider, known.iter().copied());
            unusable(&format!(
                "unknown provider {provider}{hint}; refreshd provider list names them, and a profile of your own is written by hand"
            ))
        })?;
    let client_id = match &arguments.client_id {
        Some(id) => id.trim().to_owned(),
        None => ask(
            "Client identifier of the app (client_id)",
            None,
            "--client-id",
        )?,
    };
    if let Some(why) = config::client_id_damage(&client_id) {
        return Err(unusable(&format!("--client-id {why}")));
    }
    let secret = secret(arguments, &profile, directory, asks)?;
    let portals = portals(arguments, &profile, asks)?;
    let default = config::Paths::default().token_dir;
    let token_dir = match &arguments.token_dir {
        Some(dir) => std::path::absolute(dir).unwrap_or_else(|_| dir.clone()),
        None => ask(
            "Directory of the token files",
            default.to_str(),
            "--token-dir",
        )?
        .into(),
    };
    if !token_dir.is_absolute() {
        return Err(unusable("--token-dir must be a whole path, from / on"));
    }
    Ok(Answers {
        provider,
        client_id,
        secret,
        portals,
        token_dir,
    })
}

fn secret(
    arguments: &Arguments,
    profile: &Profile,
    directory: &Path,
    asks: bool,
) -> Result<Secret, CommandError> {
    let (text, from) = match &arguments.client_secret_file {
        None if profile.client_authentication == ClientAuthentication::None => {
            return Ok(Secret::None);
        }
        None if asks => (
            terminal::ask_secret("Client secret (it is not shown)"),
            "the client secret".to_owned(),
        ),
        None => return Err(unusable("--client-secret-file is missing")),
        Some(path) if path == Path::new("-") => {
            let mut bytes = Vec::new();
            let read = std::io::stdin()
                .take(MAX_SECRET_BYTES + 1)
                .read_to_end(&mut bytes);
            read.map_err(|error| unusable(&format!("standard input cannot be read: {error}")))?;
            (secret_text(bytes)?, "standard input".to_owned())
        }
        Some(path) => {
            let read = std::fs::File::open(path).and_then(|file| {
                let mut bytes = Vec::new();
                file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes)?;
                Ok(bytes)
            });
            let bytes = read.map_err(|error| {
                let exit = match error.kind() {
                    std::io::ErrorKind::PermissionDenied => Exit::NoPermission,
                    _ => Exit::NoInput,
                };
                let message = format!(
                    "nothing was written: {} cannot be read: {error}",
                    path.display()
                );
                CommandError::new(exit, message)
            })?;
            (secret_text(bytes)?, path.display().to_string())
        }
    };
    let what = match text.expose_secret().trim() {
        "" => Some("is empty".to_owned()),
        secret => config::client_secret_damage(secret),
    };
    if let Some(what) = what {
        return Err(unusable(&format!("{from}: the secret {what}")));
    }
    let inside = arguments.client_secret_file.as_deref().and_then(|path| {
        let path = std::fs::canonicalize(path).ok()?;
        let directory = std::fs::canonicalize(directory).ok()?;
        path.starts_with(directory).then_some(path)
    });
    Ok(inside.map_or(Secret::New(text), Secret::There))
}

fn secret_text(bytes: Vec<u8>) -> Result<SecretString, CommandError> {
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(unusable("the client secret is longer than any secret"));
    }
    let text = refreshd_token_client::body_decoding::text_of_file(bytes);
    text.map(SecretString::from)
        .map_err(|why| unusable(&format!("the client secret {why}")))
}

fn portals(
    arguments: &Arguments,
    profile: &Profile,
    asks: bool,
) -> Result<Vec<(PortalName, Option<String>)>, CommandError> {
    let needs_domain = profile.default_domain.is_none()
        && (profile.is_at_domain()
            || profile
                .authorize_url
                .as_deref()
                .is_some_and(|url| url.contains(DOMAIN)));
    let mut written = arguments.portals.clone();
    while asks && arguments.portals.is_empty() {
        let question = if written.is_empty() {
            "Name of the first portal"
        } else {
            "Name of another portal (Enter: no more)"
        };
        let Some(name) = terminal::ask(question, None).filter(|name| !name.is_empty()) else {
            break;
        };
        let domain = if needs_domain && !name.contains('=') {
            let asked = terminal::ask(&format!("Host of {name}, such as {name}.example.com"), None);
            asked.filter(|domain| !domain.is_empty())
        } else {
            None
        };
        written.push(domain.map_or(name.clone(), |domain| format!("{name}={domain}")));
    }
    if written.is_empty() {
        return Err(unusable("--portal is missing"));
    }
    let mut portals: Vec<(PortalName, Option<String>)> = Vec::new();
    for portal in &written {
        let (name, domain) = match portal.split_once('=') {
            Some((name, domain)) => (name.trim(), Some(domain.trim()).filter(|d| !d.is_empty())),
            None => (portal.trim(), None),
        };
        let name = PortalName::parse(name)
            .map_err(|error| unusable(&format!("--portal {portal}: {error}")))?;
        if portals
            .iter()
            .any(|(known, _)| known.as_str().eq_ignore_ascii_case(name.as_str()))
        {
            return Err(unusable(&format!("--portal {name} is given twice")));
        }
        if needs_domain && domain.is_none() {
            return Err(unusable(&format!(
                "--portal {name}: its host is missing, as in --portal {name}={name}.bitrix24.com"
            )));
        }
        portals.push((name, domain.map(str::to_owned)));
    }
    Ok(portals)
}

/// The configuration.
fn text(answers: &Answers, secret_file: Option<&Path>) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let Answers {
        provider,
        client_id,
        portals,
        token_dir,
        ..
    } = answers;
    let mut text = format!(
        "# Written by refreshd init. After a change: refreshd check --service && refreshd reload\n\
         # Every key there is: /usr/share/doc/refreshd/examples/example.toml\n\n\
         # Consumers read TOKEN_DIR/PORTAL/token, or token.json beside it.\n\
         token_dir = {}\n\n\
         # Metrics, health and a status page, for this machine alone.\n\
         #[http]\n\
         #listen = \"127.0.0.1:9470\"\n\n\
         # The OAuth client. The file holds the secret alone; others must not be able to read it.\n\
         [apps.{provider}]\n\
         provider = {}\n\
         client_id = {}\n",
        quoted(&token_dir.to_string_lossy()),
        quoted(provider),
        quoted(client_id),
    );
    if let Some(path) = secret_file {
        let path = quoted(&path.to_string_lossy());
        text.push_str(&format!("client_secret_file = {path}\n"));
    }
    text.push_str("\n# What is kept fresh: one table for each. Its first grant: refreshd authorize NAME, or refreshd import NAME\n");
    for (name, domain) in portals {
        text.push_str(&format!(
            "[portals.{}]\napp = {}\n",
            quoted(name.as_str()),
            quoted(provider)
        ));
        if let Some(domain) = domain {
            text.push_str(&format!("domain = {}\n", quoted(domain)));
        }
        text.push('\n');
    }
    text.push_str(
        "# Receivers of notifications when a renewal fails. Without a channel it is in the log, the metrics and refreshd status alone.\n\
         #[channels.ops]\n\
         #kind = \"webhook\"\n\
         #url_file = \"/etc/refreshd/ops.url\"\n",
    );
    text
}

/// The group of the service, where this user may give files to it.
async fn service_group() -> Option<u32> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let unit = service_manager::unit().await;
    match service_manager::account(&unit.settings).await {
        Ok(account) => Some(account.gid),
        Err(why) => {
            terminal::eprintln(&format!(
                "{why}; until then the files are root's alone, and refreshd check --service says how to share them (warning)"
            ));
            None
        }
    }
}

fn write(
    file: &Path,
    text: &str,
    secret: &Secret,
    secret_file: Option<&Path>,
    group: Option<u32>,
) -> Result<(), CommandError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| {
            let exit = match error.kind() {
                std::io::ErrorKind::PermissionDenied => Exit::NoPermission,
                std::io::ErrorKind::AlreadyExists => Exit::Usage,
                _ => Exit::Output,
            };
            let advice = if exit == Exit::NoPermission {
                "; try it with sudo, or choose another --dir"
            } else {
                ""
            };
            let message = format!("{} cannot be written: {error}{advice}", path.display());
            CommandError::new(exit, message)
        }
    };
    let directory = file.parent().unwrap_or(Path::new("/"));
    if make_directory(directory, DIRECTORY_MODE, group).map_err(at(directory))? {
        terminal::eprintln(&format!("{}: made", directory.display()));
    }
    let is_shared = match (secret, secret_file) {
        (Secret::New(secret), Some(path)) => {
            let line = format!("{}\n", secret.expose_secret().trim());
            write_new(path, line.as_bytes(), FILE_MODE, group).map_err(at(path))?;
            terminal::eprintln(&format!("{}: the client secret", path.display()));
            false
        }
        (Secret::There(path), _) => share(path, FILE_MODE, group).map_err(at(path))?,
        _ => false,
    };
    if let (true, Some(path)) = (is_shared, secret_file) {
        terminal::eprintln(&format!(
            "{}: its mode is {FILE_MODE:04o} now",
            path.display()
        ));
    }
    if let Err(error) = write_new(file, text.as_bytes(), FILE_MODE, group) {
        if let (Secret::New(_), Some(path)) = (secret, secret_file) {
            let _ = std::fs::remove_file(path);
        }
        return Err(at(file)(error));
    }
    terminal::eprintln(&format!("{}: the configuration", file.display()));
    Ok(())
}

fn next(file: &Path, answers: &Answers, group: Option<u32>) {
    let is_default = file == Path::new(DEFAULT_PATH);
    let option = if is_default {
        String::new()
    } else {
        format!(" --config {}", file.display())
    };
    let portal = answers
        .portals
        .first()
        .map_or("PORTAL", |(name, _)| name.as_str());
    let (check, start) = if group.is_some() && is_default {
        (
            "refreshd check --service".to_owned(),
            "systemctl enable --now refreshd".to_owned(),
        )
    } else {
        (
            format!("refreshd check{option}"),
            format!("refreshd run{option}"),
        )
    };
    terminal::eprintln(&format!(
        "\nWhat to do next:\n  1. {check}\n  2. {start}\n  3. refreshd authorize {portal}{option}\n     in a browser; or bring a grant that another \
         program has: refreshd import {portal}{option} reply.json"
    ));
}
