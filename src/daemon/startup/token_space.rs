//! Whether the file system of the token files has room for all portals.
//!
//! Must not keep the daemon from starting: files that cannot be written are an incident of their own.

use crate::adapters::free_space;
use crate::config::Config;
use crate::domain::token_space::needed;

/// Warning if it has not. To be called before the portals are moved into the state.
#[must_use]
pub fn token_space_shortage(config: &Config) -> Option<String> {
    let directory = &config.paths.token_dir;
    let (free, is_in_memory) = free_space::of(directory)?;
    let files = config
        .portals
        .iter()
        .map(|portal| portal.settings.formats.len())
        .sum();
    let there = free_space::count_directories(directory);
    let short = free.short_of(needed(config.portals.len(), files, there, free.block))?;
    let remedy = if is_in_memory {
        "raise its limits (mount -o remount,size=…,nr_inodes=… of its mount point, and in /etc/fstab), or choose another token_dir"
    } else {
        "make room there, or choose another token_dir"
    };
    let count = config.portals.len();
    let plural = if count == 1 { "" } else { "s" };
    Some(format!(
        "token_dir: the token files of {count} portal{plural} need more than the file system of {} has: {short}; {remedy}",
        directory.display()
    ))
}
