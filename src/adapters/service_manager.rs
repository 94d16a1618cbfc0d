//! What the machine knows of the service: its unit, by systemd, and the account that it runs as, by the machine's databases.
//!
//! Must not change anything, nor wait for ever: systemctl, id and getent only look, and are ended after a time.

#![expect(
    clippy::disallowed_methods,
    reason = "starts the programs that know units and accounts"
)]

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::domain::service_unit::ServiceUnit;
use refreshd_time::clock::Clock;

/// The unit that the packages install.
const SHIPPED: &str = include_str!("../../deploy/refreshd.service");
/// The unit's name.
pub const UNIT: &str = "refreshd.service";
/// Time limit of each program.
const LIMIT: Duration = Duration::from_secs(10);
/// What is asked of `systemctl show`: it knows drop-ins and resolves specifiers. Of credentials it shows nothing.
const SHOWN: &str = "LoadState,User,Group,SupplementaryGroups,DynamicUser,Environment,EnvironmentFiles,ExecStart,StateDirectory,\
    RuntimeDirectory,CacheDirectory,LogsDirectory,ReadWritePaths,ReadOnlyPaths,InaccessiblePaths,ProtectSystem,ProtectHome,\
    PrivateTmp,RootDirectory,RootImage,BindPaths,BindReadOnlyPaths,TemporaryFileSystem,ExtensionDirectories";

/// The unit, and where it is known from.
#[derive(Debug)]
pub struct FoundUnit {
    /// Its settings.
    pub settings: ServiceUnit,
    /// The same, with the credentials.
    pub written: ServiceUnit,
    /// Whether systemd has it; else it is the one that the packages install.
    pub is_installed: bool,
}

/// The unit as systemd has it; where none runs, or it has no such unit, the one that the packages install.
pub async fn unit() -> FoundUnit {
    let property = format!("--property={SHOWN}");
    let shown = output("systemctl", &["show", &property, UNIT]).await;
    let written = output("systemctl", &["cat", UNIT]).await;
    match (shown.map(|text| ServiceUnit::parse(&text)), written) {
        (Some(settings), Some(written)) if settings.value("LoadState") == Some("loaded") => {
            FoundUnit {
                settings,
                written: ServiceUnit::parse(&written),
                is_installed: true,
            }
        }
        _ => FoundUnit {
            settings: ServiceUnit::parse(SHIPPED),
            written: ServiceUnit::parse(SHIPPED),
            is_installed: false,
        },
    }
}

/// The account of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user's name.
    pub user: String,
    /// The name of the main group.
    pub group: String,
    /// The user.
    pub uid: u32,
    /// The main group.
    pub gid: u32,
    /// The other groups.
    pub groups: Vec<u32>,
}

/// The account that a unit names.
///
/// # Errors
/// What is not there, and how to make it.
pub async fn account(unit: &ServiceUnit) -> Result<Account, String> {
    let user = unit.value("User").unwrap_or("root").to_owned();
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u32>().ok());
    let Some(uid) = number(output("id", &["-u", "--", &user]).await) else {
        return Err(format!(
            "there is no user {user}, as which the unit runs: systemd-sysusers refreshd.conf"
        ));
    };
    let gid = match unit.value("Group") {
        Some(group) => group_id(group).await?,
        None => number(output("id", &["-g", "--", &user]).await)
            .ok_or_else(|| format!("the user {user} has no group"))?,
    };
    let own = output("id", &["-G", "--", &user]).await.unwrap_or_default();
    let mut groups: Vec<u32> = own
        .split_whitespace()
        .filter_map(|group| group.parse().ok())
        .collect();
    for group in unit.words("SupplementaryGroups") {
        groups.push(group_id(&group).await?);
    }
    let group = output("getent", &["group", &gid.to_string()]).await;
    let group = group.and_then(|line| line.split(':').next().map(str::to_owned));
    Ok(Account {
        user,
        group: group.unwrap_or_else(|| gid.to_string()),
        uid,
        gid,
        groups,
    })
}

async fn group_id(group: &str) -> Result<u32, String> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let line = output("getent", &["group", group]).await;
    let gid = line.and_then(|line| line.split(':').nth(2)?.trim().parse().ok());
    gid.ok_or_else(|| {
        format!("there is no group {group}, which the unit names: systemd-sysusers refreshd.conf")
    })
}

/// What a program prints; `None` if it is not there, fails or takes too long.
async fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let ran = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .env("SYSTEMD_PAGER", "")
        .env("SYSTEMD_COLORS", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ran = Clock::system().within(LIMIT, ran).await?.ok()?;
    let text = ran.status.success().then_some(ran.stdout)?;
    String::from_utf8(text).ok()
}
