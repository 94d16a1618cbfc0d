//! Room for token files: what a number of portals needs of a file system, and whether it has that.
//!
//! Must not count what is there already: a file that is written anew needs room for one more, no matter how many there are.

/// What a file system has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories; `None` if it has no limit of its own.
    pub inodes: Option<u64>,
    /// Bytes that the smallest file takes.
    pub block: u64,
}

/// What the token files need that are not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeededSpace {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Blocks and inodes that are needed besides: a file is written beside the one that it replaces.
const SPARE: u64 = 4;

/// The need of `portals` with so many `files` altogether, if so many of them have their directories already.
#[must_use]
pub fn needed(portals: usize, files: usize, there: usize, block: u64) -> NeededSpace {
    let missing = portals.saturating_sub(there);
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    // Files as of the average portal, rounded up.
    let files = match portals {
        0 => 0,
        portals => count(missing)
            .saturating_mul(count(files))
            .div_ceil(count(portals)),
    };
    NeededSpace {
        bytes: files.saturating_add(SPARE).saturating_mul(block),
        inodes: files.saturating_add(count(missing)).saturating_add(SPARE),
    }
}

impl FreeSpace {
    /// What is short: `inodes`, `bytes` or both; in words.
    #[must_use]
    pub fn short_of(&self, needed: NeededSpace) -> Option<String> {
        let inodes = self
            .inodes
            .filter(|free| *free < needed.inodes)
            .map(|free| {
                format!(
                    "{} files and directories, and {free} are free",
                    needed.inodes
                )
            });
        let bytes = (self.bytes < needed.bytes).then(|| {
            format!(
                "{} KiB, and {} KiB are free",
                needed.bytes / 1024,
                self.bytes / 1024
            )
        });
        match (inodes, bytes) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => Some(one),
            (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_needs_no_more_room() {
        let all = needed(100, 200, 0, 4096);
        assert_eq!(
            all,
            NeededSpace {
                bytes: 204 * 4096,
                inodes: 304
            }
        );
        let half = needed(100, 200, 50, 4096);
        assert_eq!(half.inodes, 154);
        assert_eq!(needed(100, 200, 1000, 4096).inodes, SPARE);
        assert_eq!(needed(0, 0, 0, 4096).inodes, SPARE);
    }

    #[test]
    fn a_file_system_without_a_limit_of_files_has_enough() {
        let free = |inodes, bytes| FreeSpace {
            bytes,
            inodes,
            block: 4096,
        };
        let needed = needed(100, 200, 0, 4096);
        assert_eq!(free(None, 1 << 30).short_of(needed), None);
        assert_eq!(free(Some(304), 1 << 30).short_of(needed), None);
        let short = free(Some(303), 1 << 30).short_of(needed);
        assert_eq!(
            short.as_deref(),
            Some("304 files and directories, and 303 are free")
        );
        let short = free(Some(3), 4096).short_of(needed).unwrap_or_default();
        assert!(short.contains("; 816 KiB, and 4 KiB are free"), "{short}");
    }
}
