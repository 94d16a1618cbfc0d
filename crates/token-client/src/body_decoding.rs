//! Decodes bytes to text: unrequested compression (gzip, zlib, deflate) and encodings (UTF-16, UTF-32). Memory is
//! bounded for any body.

use std::borrow::Cow;
use std::io::Read;

use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

use super::lenient::DAMAGE;

/// Maximum size of a body, compressed or not, in bytes.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// Result of a decompression.
pub struct Unpacked {
    /// Decompressed bytes, as far as possible.
    pub bytes: Vec<u8>,
    /// True if the end marker was reached. After an error, or beyond [`MAX_BODY_BYTES`], there may have been more.
    pub ended: bool,
}

/// Decompresses data with a known header; `None` if there is none, or the result is empty.
pub fn unpack(bytes: &[u8]) -> Option<Unpacked> {
    let bytes = bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .filter(|rest| rest.starts_with(&[0x1f, 0x8b]))
        .unwrap_or(bytes);
    let inside = match bytes {
        [0x1f, 0x8b, 8, ..] => gunzipped(bytes),
        // RFC 1950 section 2.2: deflate, with a check of the first two bytes.
        [method, flags, ..]
            if method & 0xf == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0 =>
        {
            inflated(bytes, Decompress::new(true))
        }
        _ => return None,
    };
    (!inside.bytes.is_empty()).then_some(inside)
}

/// Decompresses deflate without a header (RFC 1951), as far as possible.
pub fn raw_deflate(bytes: &[u8]) -> Unpacked {
    inflated(bytes, Decompress::new(false))
}

/// Decompresses the members of a gzip file (RFC 1952 section 2.2), up to [`MAX_BODY_BYTES`] bytes. Bytes after the last member
/// are ignored.
fn gunzipped(mut bytes: &[u8]) -> Unpacked {
    let (mut out, mut piece) = (Vec::new(), [0; 4096]);
    while bytes.starts_with(&[0x1f, 0x8b, 8]) {
        let mut member = GzDecoder::new(bytes);
        loop {
            match member.read(&mut piece) {
                Ok(0) => break,
                Ok(length) if out.len() + length <= MAX_BODY_BYTES => {
                    out.extend_from_slice(&piece[..length]);
                }
                Ok(length) => {
                    out.extend_from_slice(&piece[..length]);
                    out.truncate(MAX_BODY_BYTES);
                    return Unpacked {
                        bytes: out,
                        ended: false,
                    };
                }
                Err(_) => {
                    return Unpacked {
                        bytes: out,
                        ended: false,
                    };
                }
            }
        }
        bytes = member.into_inner();
    }
    Unpacked {
        bytes: out,
        ended: true,
    }
}

/// Decompresses until the end or an error, up to [`MAX_BODY_BYTES`] bytes.
fn inflated(packed: &[u8], mut inflater: Decompress) -> Unpacked {
    let (mut out, mut piece) = (Vec::new(), [0; 4096]);
    let count = |total: u64| usize::try_from(total).unwrap_or(usize::MAX);
    loop {
        let (read, written) = (count(inflater.total_in()), count(inflater.total_out()));
        let rest = packed.get(read..).unwrap_or_default();
        let status = inflater.decompress(rest, &mut piece, FlushDecompress::None);
        let length = count(inflater.total_out()) - written;
        out.extend_from_slice(&piece[..length]);
        let ended = matches!(status, Ok(Status::StreamEnd)) && out.len() <= MAX_BODY_BYTES;
        let stuck = length == 0 && count(inflater.total_in()) == read;
        if status.is_err()
            || matches!(status, Ok(Status::StreamEnd))
            || stuck
            || out.len() > MAX_BODY_BYTES
        {
            out.truncate(MAX_BODY_BYTES);
            return Unpacked { bytes: out, ended };
        }
    }
}

/// Text of a file that a person saved: UTF-8, or UTF-16 with a byte order mark, as from Windows' Notepad and
/// PowerShell.
///
/// # Errors
/// A sentence, if it is neither.
pub fn text_of_file(bytes: Vec<u8>) -> Result<String, &'static str> {
    const NOT_UTF8: &str = "is not UTF-8";
    let is_marked = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    if !is_marked || bytes.len() == 2 {
        return String::from_utf8(bytes).map_err(|_| NOT_UTF8);
    }
    let is_little = bytes[0] == 0xff;
    let (pairs, rest) = bytes[2..].as_chunks::<2>();
    let units = pairs.iter().map(|pair| {
        if is_little {
            u16::from_le_bytes(*pair)
        } else {
            u16::from_be_bytes(*pair)
        }
    });
    let text: Result<String, _> = char::decode_utf16(units).collect();
    text.ok()
        .filter(|_| rest.is_empty())
        .ok_or("is neither UTF-8 nor whole UTF-16")
}

/// The text as UTF-8. UTF-16 is recognised by its byte order mark or by a zero in every other byte of ASCII, UTF-32 by
/// three zeros of four bytes.
#[must_use]
pub fn decode(bytes: &[u8]) -> Cow<'_, [u8]> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.as_chunks().0.iter().map(|pair: &[u8; 2]| unit(*pair));
        Cow::Owned(
            char::decode_utf16(units)
                .map(|c| c.unwrap_or(DAMAGE))
                .collect::<String>()
                .into_bytes(),
        )
    };
    let ascii = |zeros: usize| {
        let start = &bytes[..bytes.len().min(32)];
        start.len() >= 4
            && start
                .iter()
                .enumerate()
                .all(|(index, byte)| (index % 2 == zeros) == (*byte == 0))
    };
    // The first character is the byte order mark, which is not ASCII.
    let quads = |used: &[usize]| {
        let start = &bytes[..bytes.len().min(64)];
        let after_mark = start.iter().enumerate().skip(4);
        start.len() >= 12
            && after_mark
                .clone()
                .all(|(index, byte)| used.contains(&(index % 4)) == (*byte != 0))
    };
    let long = |unit: fn([u8; 4]) -> u32| {
        let units = bytes.as_chunks().0.iter().map(|quad: &[u8; 4]| unit(*quad));
        let text: String = units
            .map(|unit| char::from_u32(unit).unwrap_or(DAMAGE))
            .collect();
        Cow::Owned(text.into_bytes())
    };
    // A document begins with a character of JSON syntax, whatever script follows.
    let begins = |before: usize, after: usize| {
        bytes.len() > before + after
            && b"{[\"".contains(&bytes[before])
            && (0..=before + after).all(|at| (at == before) == (bytes[at] != 0))
    };
    match bytes {
        _ if begins(0, 3) => long(u32::from_le_bytes),
        _ if begins(3, 0) => long(u32::from_be_bytes),
        _ if begins(0, 1) => wide(bytes, u16::from_le_bytes),
        _ if begins(1, 0) => wide(bytes, u16::from_be_bytes),
        _ if quads(&[0]) => long(u32::from_le_bytes),
        _ if quads(&[3]) => long(u32::from_be_bytes),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ if ascii(1) => wide(bytes, u16::from_le_bytes),
        _ if ascii(0) => wide(bytes, u16::from_be_bytes),
        _ => Cow::Borrowed(bytes),
    }
}
