//! Record of generations: the newest generation of each portal, in a file beside the state. An older state was rolled back.
//!
//! A line is appended after the state has the pair, so the file is never ahead of a state that was not rolled back. It is not
//! flushed: it must bridge the days between a backup and its restoration, not the seconds before a crash. Must not contain a
//! secret, nor prevent a renewal: everything works without the file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::directory::{Directory, is_shortage, parent};
use super::token_files::{FileError, write_whole};
use crate::domain::name::PortalName;
use refreshd_token_client::token::Generation;

/// Explanation for readers of the file.
const HEADING: &str = "# The newest generation of each portal. refreshd sees by it that a state was restored from an old backup:\n\
    # keep this file where it is when you restore one.\n";
/// The file is rewritten when it has more lines than this, and twice as many as there are portals.
const COMPACT_ABOVE_LINES: usize = 2_000;
/// Maximum size of the file, in bytes: a million portals need a third of it.
const MAX_FILE_BYTES: u64 = 64 << 20;
const MODE: u32 = 0o600;

/// Generations by portal.
pub type RecordedGenerations = BTreeMap<PortalName, Generation>;

/// The file.
#[derive(Debug)]
pub struct Generations {
    path: PathBuf,
    /// Kept open, so that a removed file can still be read.
    file: Option<File>,
    /// Minimum length of the file.
    length: u64,
    /// The file was shorter than that once, and was appended to.
    was_cut_off: bool,
    lines: usize,
    portals: usize,
}

impl Generations {
    /// The file beside a state.
    #[must_use]
    pub fn beside(state: &Path) -> Self {
        let mut path = state.as_os_str().to_owned();
        path.push(".generations");
        Self {
            path: path.into(),
            file: None,
            length: 0,
            was_cut_off: false,
            lines: 0,
            portals: 0,
        }
    }

    /// The recorded generations. A missing file and damaged lines are ignored.
    #[must_use]
    pub fn read(&self) -> RecordedGenerations {
        self.text().map(|text| parse(&text).0).unwrap_or_default()
    }

    /// The recorded generations, and the damage of the file; `None` for an intact or missing file.
    ///
    /// # Errors
    /// No file descriptor is left, so what the file holds is not known.
    pub fn evidence(&self) -> std::io::Result<(RecordedGenerations, Option<String>)> {
        let text = self.text();
        let damage = match &text {
            Err(error) if is_shortage(error) => return text.map(|_| Default::default()),
            // An empty file is damaged: refreshd never leaves one.
            Ok(text) if text.is_empty() => Some("it is empty".to_owned()),
            // The first write is a whole line, so a file without one was not truncated by a crash.
            Ok(text) if !text.contains(&b'\n') => Some("no line of it can be read".to_owned()),
            Ok(text) if !text.ends_with(b"\n") && parse(text).0.is_empty() => {
                Some("its only line is cut off".to_owned())
            }
            Ok(text) => match parse(text).1 {
                0 => None,
                1 => Some("a line of it cannot be read".to_owned()),
                lines => Some(format!("{lines} lines of it cannot be read")),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(_) if self.path.is_symlink() => {
                Some("it is a symbolic link, and none is followed here".to_owned())
            }
            Err(error) => Some(format!("it cannot be read: {error}")),
        };
        let noted = text.map(|text| parse(&text).0).unwrap_or_default();
        Ok((noted, damage))
    }

    /// Returns whether its last line is incomplete, as after a power cut. An append would turn it into a damaged line.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.text()
            .is_ok_and(|text| text.last().is_some_and(|byte| *byte != b'\n'))
    }

    /// Rewrites the file with exactly these generations.
    ///
    /// # Errors
    /// [`FileError`]; the file is unchanged.
    pub fn replace(&mut self, noted: &RecordedGenerations) -> Result<(), FileError> {
        let mut text = HEADING.to_owned();
        for (name, generation) in noted {
            text.push_str(&line(name, Some(*generation)));
        }
        write_whole(parent(&self.path), &self.path, text.as_bytes(), MODE)?;
        (self.file, self.lines, self.portals) = (None, noted.len(), noted.len());
        (self.length, self.was_cut_off) = (0, false);
        self.open_existing();
        Ok(())
    }

    /// Opens the existing file, so that a replacement can be detected.
    pub fn open_existing(&mut self) {
        if self.path.is_file()
            && let Ok(file) = self.append()
        {
            self.length = file.metadata().map_or(0, |found| found.len());
            self.file = Some(file);
        }
    }

    /// Description of a removed or replaced file since it was opened; `None` if it is in its place.
    #[must_use]
    pub fn displaced(&self) -> Option<&'static str> {
        let open = self.file.as_ref()?.metadata().ok()?;
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) != (open.dev(), open.ino()) => Some("replaced"),
            Ok(_) => (self.was_cut_off || open.len() < self.length).then_some("cut off"),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Some("removed")
            }
            // An I/O error has nothing to do with the file's place.
            Err(_) => None,
        }
    }

    /// Content of the open file, whether it is still in its place or not.
    #[must_use]
    pub fn read_open(&mut self) -> RecordedGenerations {
        let mut text = Vec::new();
        let read = self.file.as_mut().map(|file| {
            file.rewind()?;
            file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
            file.seek(SeekFrom::End(0))
        });
        match read {
            Some(Ok(_)) => parse(&text).0,
            Some(Err(_)) | None => RecordedGenerations::new(),
        }
    }

    /// Records the generation of a portal's newest durable pair, or that its grant was deleted.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn record(
        &mut self,
        portal: &PortalName,
        generation: Option<Generation>,
    ) -> Result<(), FileError> {
        if self.lines > COMPACT_ABOVE_LINES.max(self.portals * 2) {
            let noted = self.read();
            self.replace(&noted)?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut opened = self.append().map_err(FileError::at("open", &self.path))?;
                // The last line may be incomplete; this one must not continue it.
                opened
                    .write_all(b"\n")
                    .map_err(FileError::at("write", &self.path))?;
                self.file.insert(opened)
            }
        };
        self.lines += 1;
        self.was_cut_off |= file.metadata().is_ok_and(|found| found.len() < self.length);
        file.write_all(line(portal, generation).as_bytes())
            .map_err(FileError::at("write", &self.path))?;
        self.length = file.stream_position().unwrap_or_default();
        Ok(())
    }

    fn append(&self) -> std::io::Result<File> {
        let mut file = Directory::open(parent(&self.path))?.open_or_make(self.name()?, MODE)?;
        file.seek(SeekFrom::End(0))?;
        Ok(file)
    }

    fn text(&self) -> std::io::Result<Vec<u8>> {
        Directory::open(parent(&self.path))?.read(self.name()?, MAX_FILE_BYTES)
    }

    fn name(&self) -> std::io::Result<&OsStr> {
        self.path
            .file_name()
            .ok_or_else(|| ErrorKind::InvalidFilename.into())
    }
}

/// The generations, and the number of damaged lines. An incomplete last line, as after a power cut, is not damage: the
/// state has that pair.
fn parse(text: &[u8]) -> (RecordedGenerations, usize) {
    let (mut noted, mut damaged) = (RecordedGenerations::new(), 0);
    let whole = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    for line in String::from_utf8_lossy(&text[..whole]).lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parts = line
            .split_once(' ')
            .and_then(|(name, number)| Some((PortalName::parse(name).ok()?, number)));
        match parts {
            Some((name, "-")) => drop(noted.remove(&name)),
            Some((name, number)) if number.parse::<u64>().is_ok() => {
                noted.insert(name, Generation(number.parse().unwrap_or_default()));
            }
            _ => damaged += 1,
        }
    }
    (noted, damaged)
}

fn line(portal: &PortalName, generation: Option<Generation>) -> String {
    match generation {
        Some(generation) => format!("{portal} {generation}\n"),
        None => format!("{portal} -\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PortalName {
        PortalName::parse(text).unwrap()
    }

    #[test]
    fn the_last_word_on_a_portal_counts_and_what_is_no_line_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut generations = Generations::beside(&folder.path().join("state.db"));
        assert!(generations.read().is_empty());
        for (portal, generation) in [
            ("acme", Some(42)),
            ("globex", Some(7)),
            ("acme", Some(3)),
            ("globex", None),
        ] {
            generations
                .record(&name(portal), generation.map(Generation))
                .unwrap();
        }
        assert_eq!(
            generations.read(),
            RecordedGenerations::from([(name("acme"), Generation(3))])
        );
        let mut text = std::fs::read(&generations.path).unwrap();
        text.extend_from_slice(b"\0\0\0\n\xff\xfe 9\nacme nine\nacme\n\nhooli 5\nacme 9");
        write_whole(folder.path(), &generations.path, &text, MODE).unwrap();
        let found = RecordedGenerations::from([
            (name("acme"), Generation(3)),
            (name("hooli"), Generation(5)),
        ]);
        assert_eq!(generations.read(), found);
        assert_eq!(
            generations.evidence().unwrap().1.as_deref(),
            Some("4 lines of it cannot be read")
        );
        assert!(generations.is_cut_off());
        generations.replace(&found).unwrap();
        assert_eq!(generations.evidence().unwrap().1, None);
        assert!(!generations.is_cut_off());
        generations
            .record(&name("hooli"), Some(Generation(6)))
            .unwrap();
        assert_eq!(generations.read()[&name("hooli")], Generation(6));
    }

    #[test]
    fn what_holds_no_line_is_damaged_and_was_not_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.db");
        let path = folder.path().join("state.db.generations");
        for (text, is_damaged) in [
            (b"\xff\xfe garbage".as_slice(), true),
            (&[0; 300], true),
            (b"acme 1", true),
            (b"\nacme 1\nbeta", false),
            (b"# generations\nacme 1", true),
        ] {
            write_whole(folder.path(), &path, text, MODE).unwrap();
            let damage = Generations::beside(&state).evidence().unwrap().1;
            assert_eq!(damage.is_some(), is_damaged, "{text:?}: {damage:?}");
        }
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut generations = Generations::beside(&folder.path().join("state.db"));
        for number in 0..10 * COMPACT_ABOVE_LINES as u64 {
            generations
                .record(&name("acme"), Some(Generation(number)))
                .unwrap();
        }
        let size = std::fs::metadata(&generations.path).unwrap().len();
        assert!(size < 12 * COMPACT_ABOVE_LINES as u64, "{size} bytes");
        assert_eq!(
            generations.read()[&name("acme")],
            Generation(10 * COMPACT_ABOVE_LINES as u64 - 1)
        );
    }
}
