//! Attacks of other users on a directory, and entries that are not accepted.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use rustix::fs::mknodat;

use super::*;

const STRANGER: u32 = 61_001;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn open(path: &Path) -> Result<Directory, UntrustedDirectory> {
    Directory::open_trusted(path, &Trust::default(), None)
}

#[test]
fn what_everybody_can_write_is_refused_unless_it_is_sticky() {
    let folder = folder();
    let (above, below) = (
        folder.path().join("above"),
        folder.path().join("above/below"),
    );
    std::fs::create_dir_all(&below).unwrap();
    for (mode, is_used) in [
        (0o755, true),
        (0o751, true),
        (0o2770, true),
        (0o777, false),
        (0o1777, true),
        (0o2772, false),
    ] {
        chmod(&above, mode);
        for path in [&above, &below] {
            let opened = open(path);
            assert_eq!(opened.is_ok(), is_used, "{} below {mode:o}", path.display());
            if let Err(refused) = opened {
                let text = refused.to_string();
                assert!(
                    text.contains("chmod o-w") && text.contains(&above.display().to_string()),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn what_is_somebody_elses_is_refused_with_the_name_of_its_owner() {
    if !geteuid().is_root() {
        return;
    }
    let folder = folder();
    let (above, below) = (
        folder.path().join("above"),
        folder.path().join("above/below"),
    );
    std::fs::create_dir_all(&below).unwrap();
    chown(&above, Some(STRANGER), None).unwrap();
    for path in [&above, &below] {
        let text = open(path).unwrap_err().to_string();
        assert!(
            text.contains(&format!("belongs to user {STRANGER}")),
            "{text}"
        );
    }
    // Another user's link to our directory.
    chown(&above, Some(0), None).unwrap();
    let link = folder.path().join("link");
    symlink(&below, &link).unwrap();
    assert!(open(&link).is_ok(), "a link of root's is followed");
    std::os::unix::fs::lchown(&link, Some(STRANGER), None).unwrap();
    assert!(
        matches!(open(&link), Err(UntrustedDirectory::Owner { .. })),
        "who could point it elsewhere tomorrow"
    );
    let trust = Trust {
        others: vec![STRANGER],
    };
    assert!(Directory::open_trusted(&link, &trust, None).is_ok());
    chown(&below, Some(65534), None).unwrap();
    let text = open(&below).unwrap_err().to_string();
    assert!(
        text.contains("nobody (user 65534)") || text.contains("user 65534"),
        "{text}"
    );
}

#[test]
fn links_on_the_way_are_resolved_and_the_real_directories_checked() {
    let folder = folder();
    let real = folder.path().join("real/tokens");
    std::fs::create_dir_all(&real).unwrap();
    symlink("real", folder.path().join("relative")).unwrap();
    symlink(&real, folder.path().join("absolute")).unwrap();
    symlink("../relative/tokens/..", real.join("up")).unwrap();
    let identity = open(&real).unwrap().identity();
    for way in [
        "relative/tokens",
        "absolute",
        "absolute/../tokens",
        "real/tokens/./",
    ] {
        assert_eq!(
            open(&folder.path().join(way)).unwrap().identity(),
            identity,
            "{way}"
        );
    }
    symlink("loop", folder.path().join("loop")).unwrap();
    assert!(matches!(
        open(&folder.path().join("loop")),
        Err(UntrustedDirectory::Io { .. })
    ));
    chmod(&folder.path().join("real"), 0o777);
    assert!(matches!(
        open(&folder.path().join("absolute")),
        Err(UntrustedDirectory::Writable { .. })
    ));
}

#[test]
fn no_link_is_followed_below_an_open_directory() {
    let folder = folder();
    let (top, victim) = (folder.path().join("top"), folder.path().join("victim"));
    std::fs::create_dir_all(&victim).unwrap();
    std::fs::create_dir_all(&top).unwrap();
    symlink(&victim, top.join("acme")).unwrap();
    let top = open(&top).unwrap();
    let error = top.below("acme").unwrap_err().to_string();
    assert!(error.contains("symbolic link"), "{error}");
    // A file that is a link is replaced, not written through.
    symlink(victim.join("file"), folder.path().join("top/token")).unwrap();
    top.write_whole(OsStr::new("token"), b"secret", 0o640)
        .unwrap();
    assert_eq!(top.read("token", 64).unwrap(), b"secret");
    assert!(std::fs::read_dir(&victim).unwrap().next().is_none());
    symlink(
        folder.path().join("top/token"),
        folder.path().join("top/link"),
    )
    .unwrap();
    assert!(top.read("link", 64).is_err());
    assert!(top.open_or_make(OsStr::new("link"), 0o600).is_err());
}

#[test]
fn a_directory_that_was_moved_is_still_the_same() {
    let folder = folder();
    let (acme, moved, victim) = (
        folder.path().join("acme"),
        folder.path().join("x"),
        folder.path().join("victim"),
    );
    std::fs::create_dir_all(&acme).unwrap();
    std::fs::create_dir_all(&victim).unwrap();
    let opened = open(folder.path()).unwrap().below("acme").unwrap();
    std::process::Command::new("mv")
        .arg(&acme)
        .arg(&moved)
        .output()
        .unwrap();
    symlink(&victim, &acme).unwrap();
    opened
        .write_whole(OsStr::new("token"), b"secret", 0o640)
        .unwrap();
    assert!(moved.join("token").exists() && !victim.join("token").exists());
}

#[test]
fn only_small_regular_files_are_read_and_nothing_is_waited_for() {
    let folder = folder();
    let directory = open(folder.path()).unwrap();
    mknodat(
        CWD,
        folder.path().join("pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o660),
        0,
    )
    .unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let sparse = File::create_new(folder.path().join("sparse")).unwrap();
    sparse.set_len(3 << 30).unwrap();
    File::create_new(folder.path().join("small"))
        .unwrap()
        .write_all(b"small")
        .unwrap();
    for name in ["pipe", "folder", "sparse", "absent"] {
        assert!(directory.read(name, 64 * 1024).is_err(), "{name}");
    }
    assert_eq!(directory.read("small", 5).unwrap(), b"small");
    assert!(directory.read("small", 4).is_err());
    if geteuid().is_root() {
        chown(folder.path().join("small"), Some(STRANGER), None).unwrap();
        assert!(
            directory.read("small", 5).is_err(),
            "it is not refreshd's own"
        );
        assert_eq!(
            directory.check_file(OsStr::new("small")).unwrap(),
            Err(NotOwnFile::Owner(format!("user {STRANGER}")))
        );
    }
}

#[test]
fn where_others_may_write_their_directories_are_not_used() {
    if !geteuid().is_root() {
        return;
    }
    let folder = folder();
    std::fs::create_dir(folder.path().join("acme")).unwrap();
    chown(folder.path().join("acme"), Some(STRANGER), None).unwrap();
    assert!(
        open(folder.path()).unwrap().below("acme").is_ok(),
        "an administrator gave it to a consumer"
    );
    chmod(folder.path(), 0o1777);
    let error = open(folder.path())
        .unwrap()
        .below("acme")
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("user {STRANGER}")), "{error}");
}

#[test]
fn what_is_missing_is_made_with_its_mode() {
    let folder = folder();
    let make = Make {
        mode: 0o751,
        above: 0o700,
    };
    let path = folder.path().join("a/b/tokens");
    Directory::open_trusted(&path, &Trust::default(), Some(make)).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode(&path), mode(&folder.path().join("a/b"))),
        (0o751, 0o700)
    );
    assert!(
        matches!(open(&folder.path().join("none")), Err(UntrustedDirectory::Io { source, .. }) if source.kind() == ErrorKind::NotFound)
    );
}
