//! Any event of an installed app, with any response of the authorization server about its owner: the query
//! on the first line, the form on the second, the answer after them.

use refreshd::domain::import::{ImportedGrant, from_install_event};
use refreshd::domain::install::{NameRule, Users};
use refreshd::domain::install_event::{ClaimedOwner, InstallEvent, PresentedGrant, is_id, read};
use refreshd::domain::token_owner::{TokenOwner, Verification, verification_urls, verify};
use refreshd_time::Timestamp;
use refreshd_token_client::host::plain_host;
use refreshd_token_client::provider::{Profile, origin_of};

use super::{SHORTEST_TOKEN, can_be_read_again, is_a_line, is_silent_about, profiles, words};

const NOW: Timestamp = Timestamp::from_secs(1_795_192_000);
const CLIENT_ID: &str = "local.1";

/// Checks the properties.
pub fn holds(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let query = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let (form, answer) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let presented = match read(&query, form) {
        Ok(
            InstallEvent::Opened(it) | InstallEvent::Installed(it) | InstallEvent::SystemUser(it),
        ) => it,
        Ok(InstallEvent::Removed(removal)) => {
            assert!(is_id(&removal.member_id));
            return removal.host.as_deref().into_iter().for_each(is_a_host);
        }
        Ok(InstallEvent::Incomplete(it)) => {
            return it.host.as_deref().into_iter().for_each(is_a_host);
        }
        Ok(InstallEvent::Other) => return,
        Err(error) => return is_a_line(&error.to_string()),
    };
    let ClaimedOwner {
        member_id,
        host,
        user_id,
        server: _,
    } = &presented.claims;
    assert!(is_id(member_id) && user_id.as_deref().is_none_or(is_id));
    host.as_deref().into_iter().for_each(is_a_host);
    for profile in profiles() {
        goes_to_the_profiles_servers(profile, &presented.claims);
        for status in [200, 400, 503] {
            match verify((status, answer), profile, CLIENT_ID, &presented.claims, &[]) {
                Verification::Owner(owner, _) => is_the_servers_word(&presented, &owner, profile),
                Verification::Forged(forgery) => is_a_line(&forgery.to_string()),
                Verification::Later(why) => is_a_line(&why),
            }
        }
    }
}

/// It stands in a header of the answer: nothing that could end it, or begin something else.
fn is_a_host(host: &str) {
    assert!(
        host.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)),
        "{host:?}"
    );
    assert_eq!(
        plain_host(host).map(|again| plain_host(&again)),
        plain_host(host).map(|_| plain_host(host))
    );
}

/// Whatever the notice names, tokens go nowhere else.
fn goes_to_the_profiles_servers(profile: &Profile, claims: &ClaimedOwner) {
    for url in verification_urls(profile, claims) {
        let known = profile
            .renewal_urls()
            .any(|token_url| origin_of(token_url) == origin_of(&url));
        assert!(known, "{url} is no server of {}", profile.name);
    }
}

fn is_the_servers_word(presented: &PresentedGrant, owner: &TokenOwner, profile: &Profile) {
    let ClaimedOwner {
        member_id,
        host: _,
        user_id,
        server: _,
    } = &presented.claims;
    assert_eq!(owner.member_id, *member_id);
    assert!(
        user_id
            .as_ref()
            .is_none_or(|user_id| *user_id == owner.user_id)
    );
    is_a_host(&owner.host);
    for (rule, users) in [
        ("{domain}", Users::Installer),
        ("{user_id}.{domain}", Users::Each),
    ] {
        let rule = NameRule::parse(rule).expect("it is in order");
        assert!(
            !rule.names("crm", owner, users).is_empty(),
            "no name for {owner:?}"
        );
    }
    let Ok(ImportedGrant { tokens, .. }) = from_install_event(presented, owner, profile, NOW)
    else {
        return;
    };
    let refresh = presented.refresh.expose();
    assert_eq!(
        tokens.credential.refresh().map(|token| token.expose()),
        Some(refresh)
    );
    can_be_read_again(&tokens.details);
    if refresh.len() >= SHORTEST_TOKEN {
        is_silent_about(&[refresh], &words(&tokens.details));
    }
}
