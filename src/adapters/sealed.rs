//! Sealed memfds (memfd_create(2)): bytes in memory with a file descriptor, which can never change again.
//!
//! Must not read one that can still be written to.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// Maximum size, in bytes.
pub const MAX_LENGTH: usize = 1 << 20;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum SealedFileError {
    /// The file is not sealed, or the kernel does not support seals.
    #[error("it is no memory that was sealed")]
    NotSealed,
    /// Its size in bytes is over the limit.
    #[error("it has {0} bytes, {MAX_LENGTH} are the most")]
    TooLong(u64),
    /// An error of the operating system.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}

/// The operations that are forbidden.
fn seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL
}

/// Writes the bytes into a new file and seals it. The name is for `/proc` only.
///
/// # Errors
/// The operating system's; or there are more than [`MAX_LENGTH`] bytes.
pub fn seal(name: &str, bytes: &[u8]) -> io::Result<File> {
    if bytes.len() > MAX_LENGTH {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know this flag; others may require it (vm.memfd_noexec).
    let made = memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create(name, flags))?;
    let mut file = File::from(made);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, seals())?;
    Ok(file)
}

/// Reads a sealed file.
///
/// # Errors
/// [`SealedFileError`].
pub fn read(file: File) -> Result<Vec<u8>, SealedFileError> {
    let sealed = fcntl_get_seals(&file).map_err(|_| SealedFileError::NotSealed)?;
    if !sealed.contains(seals()) {
        return Err(SealedFileError::NotSealed);
    }
    let length = file.metadata().map_err(SealedFileError::Read)?.len();
    if length > MAX_LENGTH as u64 {
        return Err(SealedFileError::TooLong(length));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(MAX_LENGTH as u64)
        .read_to_end(&mut bytes)
        .map_err(SealedFileError::Read)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek as _;

    #[test]
    fn what_is_sealed_is_read_as_it_was_and_cannot_be_changed() {
        let mut file = seal("test", b"a pair").unwrap();
        assert!(file.write_all(b"x").is_err() && file.set_len(1).is_err());
        file.rewind().unwrap();
        assert_eq!(read(file).unwrap(), b"a pair");
        assert!(seal("test", &vec![0; MAX_LENGTH + 1]).is_err());
    }

    #[test]
    fn what_could_still_change_is_not_read() {
        let open = File::from(
            memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap(),
        );
        assert!(matches!(read(open), Err(SealedFileError::NotSealed)));
        assert!(matches!(
            read(tempfile::tempfile().unwrap()),
            Err(SealedFileError::NotSealed)
        ));
        let long = File::from(
            memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap(),
        );
        long.set_len(MAX_LENGTH as u64 + 1).unwrap();
        fcntl_add_seals(&long, seals()).unwrap();
        assert!(
            matches!(read(long), Err(SealedFileError::TooLong(length)) if length == MAX_LENGTH as u64 + 1)
        );
    }
}
