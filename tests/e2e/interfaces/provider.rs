//! `refreshd provider`: the profiles, with and without a configuration.

use std::process::Command;

use crate::common::{CommandOutput, Rig};
use crate::interfaces::contains;

#[test]
fn profile_is_printed_as_in_force() {
    let rig = Rig::new(["acme"]);
    rig.write_config();
    let ran = rig.run(["provider", "show", "bitrix24"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    contains(
        &ran.stdout,
        &[
            "[providers.bitrix24]\n",
            "renew_every = \"25m\"",
            "\n[[providers.bitrix24.errors]]\n",
        ],
    );
    assert!(
        ran.stdout
            .contains("token_url = \"https://oauth.bitrix.info/oauth/token/\""),
        "{}",
        ran.stdout
    );
    // The app's own address, which is this test's server.
    let ran = rig.run(["provider", "show", "crm"]);
    assert_eq!(ran.code, Some(0));
    contains(
        &ran.stdout,
        &[&format!("token_url = \"{}\"", rig.config.apps[0].token_url)],
    );
    let ran = rig.run(["provider", "show", "bitrix"]);
    assert_eq!(ran.code, Some(66));
    contains(
        &ran.stderr,
        &["no provider or app is named bitrix; did you mean bitrix24?"],
    );
    let ran = rig.run(["provider", "list"]);
    assert_eq!(ran.stdout.lines().count(), 20, "{}", ran.stdout);
}

#[test]
fn built_in_profiles_need_no_configuration() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_refreshd"));
    let ran = CommandOutput::run(command.env_clear().args(["provider", "show", "x"]));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    contains(
        &ran.stdout,
        &[
            "pkce = \"S256\"",
            "client_authentication = \"basic-with-body\"",
        ],
    );
}
