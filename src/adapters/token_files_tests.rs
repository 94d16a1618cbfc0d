//! Token files as consumers see them.

use std::fs::Permissions;

use super::*;
use crate::domain::token_format::TokenFormat;
use refreshd_secrets::AccessToken;
use refreshd_time::Timestamp;

fn access(token: &str) -> Access {
    Access {
        token: AccessToken::new(token).unwrap(),
        token_type: "Bearer".into(),
        issued_at: Timestamp::from_secs(1_795_190_400),
        expires_at: Timestamp::from_secs(1_795_194_000),
    }
}

fn publish(files: &TokenFiles, token: &str, formats: &[TokenFormat]) -> Result<(), FileError> {
    let details = Details {
        scope: vec!["crm".into(), "task".into()],
        endpoint: Some("https://acme.bitrix24.com/rest/".into()),
        fields: [
            ("member_id".to_owned(), "a223".into()),
            ("user_id".to_owned(), 1.into()),
        ]
        .into(),
    };
    let (portal, access) = (PortalName::parse("acme").unwrap(), access(token));
    let published = Published {
        portal: &portal,
        provider: "bitrix24",
        access: &access,
        generation: Generation(42),
        details: &details,
    };
    files.publish(&published, formats)
}

#[test]
fn the_files_are_the_contracts() {
    let directory = tempfile::tempdir().unwrap();
    let files = TokenFiles::new(&directory.path().join("tokens"), Trust::default());
    publish(&files, "s3cret'token", TokenFormat::VARIANTS).unwrap();
    let acme = directory.path().join("tokens/acme");
    let read = |name: &str| std::fs::read_to_string(acme.join(name)).unwrap();
    assert_eq!(
        read("token.json"),
        concat!(
            r#"{"version":1,"portal":"acme","provider":"bitrix24","token_type":"Bearer","access_token":"s3cret'token","#,
            r#""issued_at":"2026-11-20T16:00:00Z","expires_at":"2026-11-20T17:00:00Z","expires_at_unix":1795194000,"#,
            r#""generation":42,"scope":["crm","task"],"endpoint":"https://acme.bitrix24.com/rest/","#,
            r#""fields":{"member_id":"a223","user_id":1}}"#,
            "\n"
        )
    );
    assert_eq!(read("token"), "s3cret'token");
    assert_eq!(read("header"), "Authorization: Bearer s3cret'token\n");
    assert!(
        read("env").contains("REFRESHD_ACCESS_TOKEN='s3cret'\"'\"'token'\n"),
        "{}",
        read("env")
    );
    for (path, mode) in [
        (acme.join("token"), 0o640),
        (acme.clone(), 0o750),
        (directory.path().join("tokens"), 0o751),
    ] {
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o7777,
            mode,
            "{}",
            path.display()
        );
    }
    let names = std::fs::read_dir(&acme).unwrap().count();
    assert_eq!(names, 4, "nothing is left beside the files");
}

#[test]
fn a_header_is_one_line_whatever_the_server_said() {
    let access = Access {
        token_type: "Bearer\r\nX-Evil: 1".into(),
        ..access("s3cret\ntoken")
    };
    let published = Published {
        portal: &PortalName::parse("acme").unwrap(),
        provider: "bitrix24",
        access: &access,
        generation: Generation(42),
        details: &Details::default(),
    };
    assert_eq!(
        published.render(TokenFormat::Header),
        "Authorization: BearerX-Evil: 1 s3crettoken\n"
    );
    assert_eq!(published.render(TokenFormat::Raw), "s3cret\ntoken");
}

#[test]
fn a_form_no_longer_wanted_goes_and_so_does_a_portal() {
    let directory = tempfile::tempdir().unwrap();
    let files = TokenFiles::new(directory.path(), Trust::default());
    publish(&files, "one", TokenFormat::VARIANTS).unwrap();
    publish(&files, "two", &[TokenFormat::Raw]).unwrap();
    let acme = directory.path().join("acme");
    assert_eq!(std::fs::read_dir(&acme).unwrap().count(), 1);
    files.remove(&PortalName::parse("acme").unwrap()).unwrap();
    assert!(!acme.exists());
    files.remove(&PortalName::parse("acme").unwrap()).unwrap();
}

#[test]
fn a_consumers_directory_stays_when_its_token_goes() {
    let directory = tempfile::tempdir().unwrap();
    let acme = directory.path().join("acme");
    std::fs::create_dir(&acme).unwrap();
    std::fs::set_permissions(&acme, Permissions::from_mode(0o2750)).unwrap();
    let files = TokenFiles::new(directory.path(), Trust::default());
    publish(&files, "one", &[TokenFormat::Raw]).unwrap();
    files.remove(&PortalName::parse("acme").unwrap()).unwrap();
    assert!(acme.is_dir() && std::fs::read_dir(&acme).unwrap().next().is_none());
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("tokens");
    write_whole(directory.path(), &blocked, b"a file is in the way", 0o600).unwrap();
    let error = publish(
        &TokenFiles::new(&blocked, Trust::default()),
        "one",
        &[TokenFormat::Raw],
    )
    .unwrap_err();
    assert!(error.to_string().contains("tokens"), "{error}");
}

#[test]
fn a_renewal_replaces_the_files_and_leaves_other_forms_alone() {
    let directory = tempfile::tempdir().unwrap();
    let files = TokenFiles::new(directory.path(), Trust::default());
    publish(&files, "one", &[TokenFormat::Raw, TokenFormat::Header]).unwrap();
    let (portal, access, details) = (
        PortalName::parse("acme").unwrap(),
        access("two"),
        Details::default(),
    );
    let renewed = Published {
        portal: &portal,
        provider: "bitrix24",
        access: &access,
        generation: Generation(43),
        details: &details,
    };
    files.replace(&renewed, &[TokenFormat::Raw]).unwrap();
    let read =
        |name: &str| std::fs::read_to_string(directory.path().join("acme").join(name)).unwrap();
    assert_eq!(read("token"), "two");
    assert!(
        read("header").contains("one"),
        "which forms there are is the sweep's business"
    );
    let names = std::fs::read_dir(directory.path().join("acme"))
        .unwrap()
        .count();
    assert_eq!(names, 2, "nothing is left beside the files");
}

#[test]
fn a_form_that_cannot_be_written_keeps_no_other_from_its_readers() {
    let directory = tempfile::tempdir().unwrap();
    let files = TokenFiles::new(&directory.path().join("tokens"), Trust::default());
    let acme = directory.path().join("tokens/acme");
    std::fs::create_dir_all(acme.join("token.json/in-the-way")).unwrap();
    let error = publish(&files, "new", &[TokenFormat::Json, TokenFormat::Raw]).unwrap_err();
    assert!(error.to_string().contains("token.json"), "{error}");
    assert_eq!(std::fs::read_to_string(acme.join("token")).unwrap(), "new");
}
